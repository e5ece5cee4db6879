"""``ls``, ``show`` and ``log``: what is there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import click

from artifactfs.cli import printing
from artifactfs.cli.context import ADDRESS, NAME, Context, pass_context
from artifactfs.errors import NotFound
from artifactfs.model.digest import format_digest
from artifactfs.model.names import Address, check_name

if TYPE_CHECKING:
    from artifactfs.model.records import VersionRecord
    from artifactfs.model.tree import Entry
    from artifactfs.repository import Repository

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
exact_bytes = click.option("--bytes", "exact", is_flag=True, help="Sizes in bytes.")


@click.command("ls")
@click.argument("address", type=ADDRESS, required=False)
@click.option("-R", "--recursive", is_flag=True, help="Everything below, by path.")
@as_json
@exact_bytes
@pass_context
def ls_command(context: Context, address: Address | None, recursive: bool, as_json: bool, exact: bool) -> None:
    """List artifacts, an artifact's versions, or a version's entries.

    \b
    Example:
      artifactfs ls                                  artifacts
      artifactfs ls bike-dataset                     versions
      artifactfs ls bike-dataset:latest/images       entries
    """
    if address is None:
        _artifacts(context, as_json=as_json)
        return
    with context.open_for(address) as repository:
        version = repository.resolve(address)
        whole = address.selector is None and address.digest is None and not address.path
        if whole and not recursive:
            versions = repository.registry.versions(version.artifact)
            _versions(versions, as_json=as_json, exact=exact)
            return
        entries = _entries(repository, version, address.path, recursive=recursive)
        if as_json:
            printing.json_array(entry_fields(path, entry) for path, entry in entries)
        else:
            _print_entries(entries, exact=exact)


def _artifacts(context: Context, *, as_json: bool) -> None:
    try:
        with context.open() as repository:
            artifacts = repository.registry.artifacts()
    except NotFound:
        if not context.settings.repository_is_default:
            raise
        artifacts = []  # nothing was put yet on this machine
    if as_json:
        printing.as_json(
            [
                {
                    "name": item.name,
                    "type": item.type,
                    "latest": None if item.latest is None else f"v{item.latest}",
                    "versions": item.versions,
                    "created": printing.iso(item.created),
                }
                for item in artifacts
            ]
        )
    elif not artifacts:
        printing.note("no artifacts yet; make one with: artifactfs put NAME PATH")
    else:
        printing.table(
            ("NAME", "TYPE", "LATEST", "VERSIONS", "CREATED"),
            [
                (
                    item.name,
                    item.type,
                    "-" if item.latest is None else f"v{item.latest}",
                    str(item.versions),
                    printing.when(item.created),
                )
                for item in artifacts
            ],
            right=(3,),
        )


def _versions(versions: Iterable[VersionRecord], *, as_json: bool, exact: bool) -> None:
    if as_json:
        printing.as_json([version_fields(version) for version in versions])
        return
    printing.table(
        ("VERSION", "SIZE", "FILES", "CREATED", "ALIASES", "DESCRIPTION"),
        [
            (
                f"v{version.number}",
                printing.size(version.size, exact=exact),
                f"{version.files:,}",
                printing.when(version.created),
                " ".join(version.aliases),
                _brief(version.description),
            )
            for version in versions
        ],
        right=(1, 2),
    )


def _brief(description: str) -> str:
    first = description.strip().partition("\n")[0]
    return first if len(first) <= 60 else f"{first[:59]}…"


def _entries(
    repository: Repository, version: VersionRecord, path: str, *, recursive: bool
) -> Iterator[tuple[str, Entry]]:
    """Entries of a directory with their paths relative to it; a file is its own listing."""
    from artifactfs.model.tree import DirEntry

    digest = version.digest
    if path:
        entry = repository.entry(version, path)
        if not isinstance(entry, DirEntry):
            yield entry.name, entry
            return
        digest = entry.digest
    if recursive:
        yield from repository.trees.walk(digest)
    else:
        for _, _, below in repository.trees.scan(digest):
            yield below.name, below


def _print_entries(entries: Iterator[tuple[str, Entry]], *, exact: bool) -> None:
    """A line each, as they come: kind, size, name as ``ls -F`` marks it."""
    from artifactfs.model.tree import DirEntry, FileEntry, LinkEntry, RefEntry

    for path, entry in entries:
        name = printing.shown(path)
        size = "-"
        match entry:
            case FileEntry():
                size = printing.size(entry.size, exact=exact)
                name += "*" if entry.executable else ""
            case DirEntry():
                size = printing.size(entry.size, exact=exact)
                name += "/"
            case LinkEntry():
                name += f" -> {printing.shown(entry.target)}"
            case RefEntry():
                size = "-" if entry.size is None else printing.size(entry.size, exact=exact)
                name += f" -> {printing.shown(entry.uri)}"
        printing.line(f"{size:>12}  {name}")


def entry_fields(path: str, entry: Entry) -> dict[str, Any]:
    """An entry for JSON."""
    from artifactfs.model.tree import DirEntry, FileEntry, LinkEntry

    match entry:
        case FileEntry():
            return {
                "path": path,
                "kind": "file",
                "size": entry.size,
                "executable": entry.executable,
                "digest": format_digest(entry.digest),
            }
        case DirEntry():
            return {
                "path": path,
                "kind": "directory",
                "size": entry.size,
                "files": entry.files,
                "entries": entry.entries,
                "digest": format_digest(entry.digest),
            }
        case LinkEntry():
            return {"path": path, "kind": "symlink", "target": entry.target}
    return {"path": path, "kind": "reference", "uri": entry.uri, "size": entry.size, "checksum": entry.checksum}


def version_fields(version: VersionRecord) -> dict[str, Any]:
    """A version for JSON."""
    return {
        "name": version.name,
        "artifact": version.artifact,
        "version": f"v{version.number}",
        "type": version.type,
        "digest": format_digest(version.digest),
        "size": version.size,
        "files": version.files,
        "entries": version.entries,
        "created": printing.iso(version.created),
        "aliases": list(version.aliases),
        "description": version.description,
        "metadata": version.metadata,
    }


@click.command("show")
@click.argument("address", type=ADDRESS)
@as_json
@exact_bytes
@pass_context
def show_command(context: Context, address: Address, as_json: bool, exact: bool) -> None:
    """Show all that is known of a version, or of a path in it.

    \b
    Example:
      artifactfs show bike-dataset:best-ap50
      artifactfs show bike-dataset:v0/images/cat.png --json
    """
    with context.open_for(address) as repository:
        version = repository.resolve(address)
        if address.path:
            fields = {"version": version.name, **entry_fields(address.path, repository.entry(version, address.path))}
        else:
            fields = {
                **version_fields(version),
                "project": repository.project,
                "repository": repository.location,
            }
    if as_json:
        printing.as_json(fields)
        return
    width = max(len(key) for key in fields) + 2
    for key, value in fields.items():
        if key == "size" and value is not None:
            text = printing.size(value) if not exact else str(value)
            text += f" ({value:,} bytes)" if not exact and value >= 1024 else ""
        elif key == "metadata":
            text = ""
        elif isinstance(value, list):
            text = " ".join(value)
        elif isinstance(value, int) and not isinstance(value, bool):
            text = f"{value:,}"
        elif isinstance(value, str):
            text = f"\n{' ' * width}".join(printing.shown(part) for part in value.split("\n"))
        else:
            text = {True: "yes", False: "no", None: "unknown"}.get(value, str(value))
        printing.line(f"{key:<{width}}{text}".rstrip())
        if key == "metadata":
            _print_metadata(value)


def _print_metadata(metadata: dict[str, Any]) -> None:
    import json

    for key in sorted(metadata):
        value = metadata[key]
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        printing.line(f"  {printing.shown(key)} = {printing.shown(text)}")


@click.command("log")
@click.argument("name", type=NAME)
@as_json
@exact_bytes
@pass_context
def log_command(context: Context, name: str, as_json: bool, exact: bool) -> None:
    """Show an artifact's history, newest version first, with descriptions and metadata.

    \b
    Example:
      artifactfs log bike-dataset
    """
    check_name(name)
    with context.open() as repository:
        versions = repository.registry.versions(name)
        if not versions:
            repository.resolve(Address(None, name))  # raises NotFound with near misses
            raise NotFound(f"{name} has no versions")
    versions.reverse()
    if as_json:
        printing.as_json([version_fields(version) for version in versions])
        return
    for number, version in enumerate(versions):
        if number:
            printing.line()
        aliases = f"  ({', '.join(version.aliases)})" if version.aliases else ""
        printing.line(printing.shown(f"{version.name}{aliases}"))
        files = printing.many(version.files, "file")
        printing.line(f"  {printing.when(version.created)}  {files}, {printing.size(version.size, exact=exact)}")
        for text in version.description.splitlines():
            printing.line(f"  {printing.shown(text)}")
        _print_metadata(version.metadata)

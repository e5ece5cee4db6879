"""``ls``, ``show`` and ``log``: what is there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final

import click

from artifactfs.cli import printing
from artifactfs.cli.context import ADDRESS, NAME, Context, pass_context
from artifactfs.errors import NotFound, Unavailable
from artifactfs.model.digest import format_digest
from artifactfs.model.names import Address, check_name

if TYPE_CHECKING:
    from artifactfs.model.lineage import RunRecord
    from artifactfs.model.records import VersionRecord
    from artifactfs.model.retention import Tombstone
    from artifactfs.model.tree import Entry, RefEntry
    from artifactfs.repository import Repository

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
COUNTED: Final = 100_000
"""Entries of a version that `show` looks through for references: their directories are some 10 MB."""
SHORT_DIGEST: Final = 16
"""Hexadecimal digits of a digest in a list: enough to tell any two apart by eye."""

exact_bytes = click.option("--bytes", "exact", is_flag=True, help="Sizes in bytes.")


@click.command("ls")
@click.argument("address", type=ADDRESS, required=False)
@click.option("-R", "--recursive", is_flag=True, help="Everything below, by path.")
@click.option("-l", "long", is_flag=True, help="Of entries also the kind, and what their content is checked by.")
@as_json
@exact_bytes
@pass_context
def ls_command(
    context: Context, address: Address | None, recursive: bool, long: bool, as_json: bool, exact: bool
) -> None:
    """List artifacts, an artifact's versions, or a version's entries.

    With -l each entry has its kind (file, directory, symlink, reference) and, shortened, its digest; a reference what is known of its
    source: checksum, version id or etag.

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
            _print_entries(entries, exact=exact, long=long)


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


def _print_entries(entries: Iterator[tuple[str, Entry]], *, exact: bool, long: bool) -> None:
    """A line each, as they come: size, name as ``ls -F`` marks it; ``long``: before it kind and what content is checked by."""
    from artifactfs.model.tree import DirEntry, FileEntry, LinkEntry, RefEntry

    for path, entry in entries:
        name = printing.shown(path)
        size, known = "-", "-"
        match entry:
            case FileEntry():
                kind = "file"
                size = printing.size(entry.size, exact=exact)
                name += "*" if entry.executable else ""
                known = _short(format_digest(entry.digest))
            case DirEntry():
                kind = "directory"
                size = printing.size(entry.size, exact=exact)
                name += "/"
                known = _short(format_digest(entry.digest))
            case LinkEntry():
                kind = "symlink"
                name += f" -> {printing.shown(entry.target)}"
            case RefEntry():
                kind = "reference"
                size = "-" if entry.size is None else printing.size(entry.size, exact=exact)
                name += f" -> {printing.shown(entry.uri)}"
                known = _known(entry)
        before = f"{kind:<9} {size:>12}  {known:<{SHORT_DIGEST + 7}}" if long else f"{size:>12}"
        printing.line(f"{before}  {name}")


def _short(text: str) -> str:
    """A digest or another checksum, as long as a list has room for."""
    scheme, mark, value = text.partition(":")
    return printing.shown(f"{scheme}{mark}{value[:SHORT_DIGEST]}" if mark else text[: SHORT_DIGEST + 7])


def _known(entry: RefEntry) -> str:
    """What a reference's content is checked by: the first of checksum, version id and etag; "-" for nothing."""
    if entry.checksum is not None:
        return _short(entry.checksum)
    if entry.version is not None:
        return _short(f"version:{entry.version}")
    return _short(f"etag:{entry.etag}") if entry.etag is not None else "-"


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
    return {
        "path": path,
        "kind": "reference",
        "uri": entry.uri,
        "size": entry.size,
        "checksum": entry.checksum,
        "etag": entry.etag,
        "version_id": entry.version,
    }


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
        "tags": list(version.tags),
        "description": version.description,
        "metadata": version.metadata,
        "updated": printing.iso(version.updated) if version.updated else None,
        "run": version.run or None,
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
        try:
            version = repository.resolve(address)
        except NotFound:
            gone = None if address.path else repository.tombstone(address)
            if gone is None:
                raise
            _show_tombstone(repository, gone, as_json=as_json, exact=exact)
            return
        if address.path:
            fields = {"version": version.name, **entry_fields(address.path, repository.entry(version, address.path))}
        else:
            fields = {
                **version_fields(version),
                "references": _references(repository, version),
                **_lineage(repository, version.id),
                "project": repository.project,
                "repository": repository.location,
                **_encryption(repository),
            }
    if as_json:
        printing.as_json(fields)
    else:
        _print_fields(fields, exact=exact)


def _encryption(repository: Repository) -> dict[str, Any]:
    """Which key the project is encrypted with; nothing when it is not, and while the registry does not answer."""
    try:
        identity = repository.registry.key_id()
    except Unavailable:
        return {}
    return {"encryption": f"key {identity}"} if identity else {}


def _show_tombstone(repository: Repository, gone: Tombstone, *, as_json: bool, exact: bool) -> None:
    living = repository.registry.find_digest(gone.artifact, gone.digest)
    fields = {
        **tombstone_fields(gone),
        "same_contents": living.name if living is not None else None,
        **_lineage(repository, gone.id),
        "project": repository.project,
        "repository": repository.location,
    }
    if as_json:
        printing.as_json(fields)
    else:
        _print_fields(fields, exact=exact)


def tombstone_fields(gone: Tombstone) -> dict[str, Any]:
    """A version that was deleted, for JSON."""
    return {
        "name": gone.name,
        "artifact": gone.artifact,
        "version": f"v{gone.number}",
        "type": gone.type,
        "digest": format_digest(gone.digest),
        "size": gone.size,
        "files": gone.files,
        "created": printing.iso(gone.created),
        "deleted": printing.iso(gone.deleted),
        "deleted_by": gone.deleted_by or None,
        "description": gone.description,
        "metadata": gone.metadata,
        "run": gone.run or None,
    }


def _references(repository: Repository, version: VersionRecord) -> int | None:
    """How many references a version has; None when counting them would mean reading too many directories."""
    from artifactfs.model.tree import RefEntry

    if version.entries > COUNTED:
        return None
    return sum(isinstance(entry, RefEntry) for _, entry in repository.trees.walk(version.digest))


def _lineage(repository: Repository, version: int) -> dict[str, Any]:
    """The runs that made and used a version; nothing while the registry does not answer."""
    try:
        found = repository.registry.links(versions=[version])
    except Unavailable as error:
        printing.note(f"who made and used it is not known now: {error}")
        return {}
    runs = {run.id: run for run in found.runs}
    made = [_run_fields(runs[link.run]) for link in found.links if link.output]
    used = [_run_fields(runs[link.run]) for link in found.links if not link.output]
    return {"logged_by": made[0] if made else None, "used_by": used}


def _run_fields(run: RunRecord) -> dict[str, Any]:
    return {"id": run.id, "name": run.name, "job_type": run.job_type, "state": run.state}


def _print_fields(fields: dict[str, Any], *, exact: bool) -> None:
    """A line for each that has something to say."""
    width = max(len(key) for key in fields) + 2
    for key, value in fields.items():
        label = key.replace("_", " ")
        if key == "size" and value is not None:
            text = printing.size(value) if not exact else str(value)
            text += f" ({value:,} bytes)" if not exact and value >= 1024 else ""
        elif key == "metadata":
            text = ""
        elif key in {"updated", "run"} or (value is None and key == "same_contents"):
            continue  # `logged by` says who; of edits the present texts say what
        elif key == "references" and value is None:
            text = f"not counted in more than {COUNTED:,} entries; ls -lR tells them"
        elif key == "logged_by":
            text = _run_text(value) if value is not None else "no run"
        elif key == "used_by":
            text = f"\n{' ' * width}".join(map(_run_text, value)) or "no run"
        elif isinstance(value, list):
            text = " ".join(value)
        elif isinstance(value, int) and not isinstance(value, bool):
            text = f"{value:,}"
        elif isinstance(value, str):
            text = f"\n{' ' * width}".join(printing.shown(part) for part in value.split("\n"))
        else:
            text = {True: "yes", False: "no", None: "unknown"}.get(value, str(value))
        printing.line(f"{label:<{width}}{text}".rstrip())
        if key == "metadata":
            printing.values(value or {})


def _run_text(run: dict[str, Any]) -> str:
    kind = f", {run['job_type']}" if run["job_type"] else ""
    return printing.shown(f"{run['name']} ({run['id']}{kind}, {run['state']})")


@click.command("log")
@click.argument("name", type=NAME)
@click.option("--deleted", is_flag=True, help="Versions that were deleted instead: when, and by whom.")
@as_json
@exact_bytes
@pass_context
def log_command(context: Context, name: str, *, deleted: bool, as_json: bool, exact: bool) -> None:
    """Show an artifact's history, newest version first, with descriptions and metadata.

    \b
    Example:
      artifactfs log bike-dataset
      artifactfs log bike-dataset --deleted
    """
    check_name(name)
    if deleted:
        _log_deleted(context, name, as_json=as_json, exact=exact)
        return
    with context.open() as repository:
        versions = repository.registry.versions(name)
        if not versions:
            name = repository.resolve(Address(None, name)).artifact  # by its present name; NotFound with near misses
            versions = repository.registry.versions(name)
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
        printing.values(version.metadata)


def _log_deleted(context: Context, name: str, *, as_json: bool, exact: bool) -> None:
    with context.open() as repository:
        found = repository.registry.retention.tombstones(name)
        if not found:
            name = repository.resolve(Address(None, name)).artifact  # by its present name; NotFound with near misses
            found = repository.registry.retention.tombstones(name)
    found.reverse()
    if as_json:
        printing.as_json([tombstone_fields(gone) for gone in found])
    elif found:
        rows = [
            (
                f"v{gone.number}",
                printing.size(gone.size, exact=exact),
                printing.when(gone.created),
                printing.when(gone.deleted),
                printing.shown(gone.deleted_by or "-"),
                _short(format_digest(gone.digest)),
            )
            for gone in found
        ]
        printing.table(("VERSION", "SIZE", "CREATED", "DELETED", "BY", "DIGEST"), rows, right=(1,))
    else:
        printing.note(f"no version of {name} was deleted")

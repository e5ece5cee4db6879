"""``put`` and ``get``: files into versions and back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from artifactfs.cli import printing
from artifactfs.cli.context import (
    ADDRESS,
    NAME,
    Context,
    pass_context,
    read_aliases,
    read_metadata,
    version_options,
)
from artifactfs.cli.running import around, record_input
from artifactfs.errors import (
    Access,
    ArtifactFSError,
    Integrity,
    InvalidInput,
    NotFound,
    Unavailable,
    translate_os,
)
from artifactfs.model.names import Address, check_entry_path, check_name, check_type

if TYPE_CHECKING:
    from artifactfs.draft import Draft
    from artifactfs.export import ExportResult
    from artifactfs.repository import Progress

_NAMED = 20  # bad files that an error names


@click.command("put")
@click.argument("name", type=NAME)
@click.argument("sources", nargs=-1, metavar="[PATH or PATH=NAME]...")
@version_options
@click.option(
    "--reference",
    "references",
    metavar="URI[=NAME]",
    multiple=True,
    help="Record an outside URI, or all below it; the bytes stay there.",
)
@click.option(
    "--max-objects",
    type=click.IntRange(min=1),
    metavar="N",
    help="How many objects one URI may stand for (default: 10,000,000).",
)
@click.option("--no-checksum", is_flag=True, help="Record the URIs of references alone, and ask nobody about them.")
@click.option("--follow-links", is_flag=True, help="Store what symlinks point to instead of the symlinks.")
@pass_context
def put_command(
    context: Context,
    name: str,
    sources: tuple[str, ...],
    aliases: tuple[str, ...],
    description: str | None,
    metadata: tuple[str, ...],
    type_: str | None,
    references: tuple[str, ...],
    max_objects: int | None,
    no_checksum: bool,
    follow_links: bool,
) -> None:
    """Log files, directories and references as a version; prints name:vN.

    A file is stored under its base name, a directory's contents at the root; PATH=NAME stores either below NAME. The same contents
    again make no new version.

    Of a reference size, etag, version or digest are recorded, so that a change of its source is seen; a prefix or a directory
    becomes a reference for each object below it, below NAME.

    \b
    Example:
      artifactfs put bike-dataset images/ labels.csv=meta/labels.csv --alias best --metadata rows=17379
      artifactfs put bike-raw --reference s3://bikes/raw=raw
    """
    _check_put_name(name)
    moved = read_aliases(aliases)
    values = read_metadata(metadata)
    if type_ is not None:
        check_type(type_)
    if not sources and not references:
        raise click.UsageError("nothing to put: give at least one file, directory or --reference")
    members = [_split(source) for source in sources]
    _refuse_missing(members)
    with context.open(create=True) as repository:
        from artifactfs.draft import Draft

        draft = Draft(repository, follow_links=follow_links)
        _collect(draft, members)
        _collect_references(draft, references, limit=max_objects, checksum=not no_checksum)
        known = repository.registry.artifact(name)
        _, total = draft.measure()
        with printing.Meter(f"put {name}", total) as meter:

            def show(progress: Progress) -> None:
                meter.update(progress.bytes_read, files=progress.files)

            try:
                result = draft.commit(
                    name,
                    type=type_,
                    aliases=moved,
                    description=description,
                    metadata=values,
                    progress=show,
                    run=around(repository),
                )
            except InvalidInput as error:
                # The words of the command line were right; files were not.
                raise ArtifactFSError(str(error)) from error
    printing.line(result.version.name)
    stats = draft.stats
    printing.note(
        f"{printing.many(stats.files, 'file')}, {printing.size(stats.bytes_read)} read, "
        f"{printing.size(stats.bytes_stored)} stored"
    )
    if not result.created:
        labelled = description is not None or values is not None
        note_reused(result.version.name, result.version.number, known.latest if known else None, labelled=labelled)


def note_reused(name: str, number: int, latest_before: int | None, *, labelled: bool) -> None:
    """Say on stderr that a version's contents existed: as `latest`, or as an older one that `latest` now names again."""
    edit = f"its description and metadata stay as they are; change them with: artifactfs edit {name}"
    if number == latest_before:
        printing.note(f"unchanged: same contents as {name}" + (f"; {edit}" if labelled else ""))
    else:
        printing.note(f"same contents as the older {name}, which is latest again; {edit}")


def _check_put_name(name: str) -> None:
    head, mark, alias = name.partition(":")
    if mark and alias:
        check_name(head)
        raise InvalidInput(
            f"{name!r}: a version gets its number by itself; for an alias use: put {head} … --alias {alias}"
        )
    check_name(name)


def _split(source: str) -> tuple[Path, str | None]:
    """``PATH=NAME`` or ``PATH``: a path that exists as it stands is one, though it has an ``=`` in it."""
    path, mark, name = source.rpartition("=")
    if not mark or Path(source).exists():
        return Path(source), None
    if not path:
        raise InvalidInput(f"not a source: {source!r}; give PATH or PATH=NAME")
    return Path(path), check_entry_path(name.rstrip("/") or name)


def _collect(draft: Draft, members: list[tuple[Path, str | None]]) -> None:
    problems: list[str] = []
    for path, name in members:
        try:
            draft.add(path, name)
        except ArtifactFSError as error:
            problems.append(str(error))
    _refuse(problems)


def _collect_references(draft: Draft, references: tuple[str, ...], *, limit: int | None, checksum: bool) -> None:
    problems: list[str] = []
    for reference in references:
        uri, mark, name = reference.rpartition("=")
        # A query may hold "=" as well: a name has no "/", "?" or "&" unless the URI ends before it.
        named = mark and "://" in uri and not any(c in name for c in "?&") and "?" not in uri
        if not named:
            uri, name = reference, ""
        with printing.Meter(f"reference {printing.shown(uri)}") as meter:

            def show(found: int, meter: printing.Meter = meter) -> None:
                meter.update(0, references=found)

            try:
                draft.add_reference(uri, name.strip("/") or None, checksum=checksum, limit=limit, progress=show)
            except (NotFound, Access, Unavailable, Integrity) as error:
                problems.append(str(error))
    _refuse(problems)


def _refuse_missing(members: list[tuple[Path, str | None]]) -> None:
    """Name every path that is not there before a repository is made for nothing."""
    problems = []
    for path, _ in members:
        try:
            path.stat()
        except OSError as error:
            problems.append(str(translate_os(error, f"cannot read {path}")))
    _refuse(problems)


def _refuse(problems: list[str]) -> None:
    if len(problems) == 1:
        raise ArtifactFSError(f"{problems[0]}; nothing was committed")
    if problems:
        more = [f"and {len(problems) - _NAMED} more"] if len(problems) > _NAMED else []
        heading = f"{len(problems)} paths cannot be stored; nothing was committed:"
        raise ArtifactFSError("\n  ".join([heading, *problems[:_NAMED], *more]))


@click.command("get")
@click.argument("address", type=ADDRESS)
@click.argument("dest", required=False, type=click.Path(path_type=Path))
@pass_context
def get_command(context: Context, address: Address, dest: Path | None) -> None:
    """Download what is not there yet; prints the directory.

    DEST is ./NAME-vN unless given. Files that are there with the right contents are kept; others that are there are left alone.
    With a path in ADDRESS only that file or directory is written, at its place below DEST.

    References come last, each checked against what was recorded of it; of a scheme that is not known they are left out and listed.

    \b
    Example:
      artifactfs get bike-dataset:latest ~/bikes
      artifactfs get bike-dataset:v0/images
    """
    from artifactfs.export import export

    with context.open_for(address) as repository:
        version = repository.resolve(address)
        destination = dest if dest is not None else Path(f"{version.artifact}-v{version.number}")
        with printing.Meter(f"get {version.name}", None if address.path else version.size) as meter:

            def show(result: ExportResult) -> None:
                meter.update(result.bytes_written, files=result.written + result.kept)

            result = export(repository, version, address.path, destination, progress=show)
        record_input(repository, version)
    for reference in result.references:
        printing.note(f"left out, as nothing here reads its scheme: {printing.shown(reference)}")
    for link in result.outward[:_NAMED]:
        printing.note(f"this symlink leads out of the version, so do not write through it: {printing.shown(link)}")
    if len(result.outward) > _NAMED:
        printing.note(f"so do {len(result.outward) - _NAMED} more")
    printing.note(
        f"{printing.many(result.written, 'file')} written ({printing.size(result.bytes_written)}), {result.kept:,} kept"
    )
    _refuse_incomplete(result)
    printing.line(str(result.path))


def _refuse_incomplete(result: ExportResult) -> None:
    """Name what could not be had: damaged files and, every one of them, references."""
    what = []
    if result.failures:
        what.append(f"{printing.many(len(result.failures), 'file')} could not be read")
    if result.missing:
        what.append(f"{printing.many(len(result.missing), 'reference')} could not be had")
    if what:
        more = [f"and {len(result.failures) - _NAMED} more files"] if len(result.failures) > _NAMED else []
        heading = f"{' and '.join(what)}; the rest is in {result.path}:"
        raise ArtifactFSError("\n  ".join([heading, *result.failures[:_NAMED], *more, *result.missing]))

"""``copy``: versions to another repository."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from artifactfs.cli import printing
from artifactfs.cli.content import note_reused
from artifactfs.cli.context import ADDRESS, Context, pass_context
from artifactfs.errors import InvalidInput
from artifactfs.model.names import Address

if TYPE_CHECKING:
    from artifactfs.model.records import VersionRecord
    from artifactfs.repository import Repository
    from artifactfs.transfer import CopyStats


@click.command("copy")
@click.argument("address", type=ADDRESS)
@click.option(
    "--to",
    "location",
    metavar="REPOSITORY",
    required=True,
    help="Directory or URL of the other repository; a directory is made on first use.",
)
@click.option("--to-project", "project", metavar="NAME", help="Project there; the one of the same name unless given.")
@click.option("--all-versions", "everything", is_flag=True, help="All versions of the artifact, the oldest first.")
@pass_context
def copy_command(context: Context, address: Address, location: str, project: str | None, everything: bool) -> None:
    """Copy a version to another repository, with aliases, tags, description and metadata; prints name:vN there.

    Only what is missing there is sent; a copy that was interrupted goes on where it was when it is run again. The version
    takes the next number there. Contents that are there already keep theirs and get the aliases and tags. Runs and lineage
    do not travel.

    \b
    Example:
      artifactfs copy bike-dataset:v3 --to http://data.example.org:7420
      artifactfs copy bike-dataset --all-versions --to /backup/artifacts
    """
    _check(address, location, everything=everything)
    with context.open_for(address) as source:
        version = source.resolve(address)
        with context.open_other(location, project=project or source.project) as destination:
            if everything:
                _copy_all(source, version.artifact, destination)
            else:
                _copy(source, version, destination)


def _check(address: Address, location: str, *, everything: bool) -> None:
    if address.path:
        raise InvalidInput(
            f"{address} names a path; whole versions are copied: give {address.name}:latest, for example"
        )
    if everything and (address.selector is not None or address.digest is not None):
        raise InvalidInput(f"{address} names one version; with --all-versions give the artifact alone: {address.name}")
    if not location:
        raise InvalidInput("--to is empty; give the directory or the URL of the other repository")


def _copy(source: Repository, version: VersionRecord, destination: Repository) -> None:
    from artifactfs import transfer

    stats = transfer.CopyStats()
    with printing.Meter(f"copy {version.name}", version.size) as meter:

        def show(stats: CopyStats) -> None:
            meter.update(stats.bytes_done, files=stats.files)

        copied = transfer.copy(source, version, destination, stats=stats, progress=show)
    printing.line(copied.version.name)
    _note_sent(stats)
    if not copied.created:
        there = copied.version
        labelled = (there.description, there.metadata) != (version.description, version.metadata)
        note_reused(there.name, there.number, copied.latest_before, labelled=labelled)


def _copy_all(source: Repository, artifact: str, destination: Repository) -> None:
    from artifactfs import transfer

    stats = transfer.CopyStats()
    total = sum(version.size for version in source.registry.versions(artifact))
    count = new = 0
    with printing.Meter(f"copy {artifact}", total) as meter:

        def show(stats: CopyStats) -> None:
            meter.update(stats.bytes_done, files=stats.files)

        for copied in transfer.copy_all(source, artifact, destination, stats=stats, progress=show):
            printing.line(copied.version.name)
            count += 1
            new += copied.created
    _note_sent(stats)
    printing.note(f"{printing.many(count, 'version')}: {new:,} new, {count - new:,} there already")


def _note_sent(stats: CopyStats) -> None:
    printing.note(
        f"{printing.many(stats.files, 'file')}, {printing.size(stats.bytes_done)}: "
        f"{printing.size(stats.bytes_sent)} sent, {printing.size(stats.bytes_stored)} stored"
    )

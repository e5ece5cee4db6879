"""The command `gc`. Runs on the main thread."""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from artifactfs.cli import printing
from artifactfs.cli.context import Context, pass_context, registry_option
from artifactfs.errors import InvalidInput
from artifactfs.model.collecting import Collected

if TYPE_CHECKING:
    from artifactfs.registry.contract import Registry
    from artifactfs.repository import Repository

_LINE_SECONDS = 10.0  # between lines that say what is being done


@click.command("gc", short_help="Delete what no version needs any more.")
@click.option("--dry-run", is_flag=True, help="Say what would be deleted, and delete nothing.")
@click.option(
    "--wait",
    type=click.FloatRange(min=0),
    default=0.0,
    metavar="SECONDS",
    help="Wait so long for writers that began before something was condemned. Default: 0.",
)
@click.option(
    "--temporary",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    metavar="DIRECTORY",
    help="Where lists go that are too long for memory, 64 bytes a chunk. Default: TMPDIR.",
)
@click.option("--json", "json_", is_flag=True, help="Print the result as JSON.")
@click.option(
    "--hold",
    is_flag=True,
    help="Collect nothing: run COMMAND, a backup, and have nobody else delete meanwhile what it copies.",
)
@registry_option
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@pass_context
def gc_command(
    context: Context,
    *,
    dry_run: bool,
    wait: float,
    temporary: Path | None,
    json_: bool,
    hold: bool,
    registry: str | None,
    command: tuple[str, ...],
) -> None:
    """Delete the contents of deleted versions that no other version has, while others go on working.

    What nothing needs is condemned first: it can still be read, but whoever stores it again stores it anew. It is deleted when all
    who began before that have ended and it is found dead once more. Where nobody writes, that is at once. Packs that are mostly
    dead are repacked.

    \b
    Examples:
      artifactfs gc --dry-run
      artifactfs gc --wait 600
      artifactfs gc --registry postgresql://artifactfs@db.example.com/artifactfs
      artifactfs gc --hold -- artifactfs-backup
    """
    if hold:
        sys.exit(_hold(context, command, registry))
    if command:
        raise InvalidInput("a COMMAND goes with --hold; without it, gc takes options alone")
    from artifactfs.collect import collect

    said = time.monotonic()

    def show(what: str) -> None:
        nonlocal said
        if time.monotonic() - said >= _LINE_SECONDS:
            said = time.monotonic()
            printing.note(f"gc: {what}")

    with ExitStack() as stack:
        opened = context.open if registry is None else stack.enter_context(context.in_database(registry))
        repository = stack.enter_context(opened())
        report = collect(repository, dry_run=dry_run, wait=wait, directory=temporary, progress=show)
    if json_:
        printing.as_json({**msgspec.to_builtins(report), "freed": report.freed})
    else:
        _tell(report)


def _hold(context: Context, command: tuple[str, ...], url: str | None) -> int:
    """Run a command while nothing is deleted; its exit status, 128 and more for a signal."""
    from artifactfs.collect import holding
    from artifactfs.registry.opening import open_registry

    if not command:
        raise InvalidInput("--hold needs a COMMAND to run: artifactfs gc --hold -- artifactfs-backup")
    with nullcontext() if url is not None else context.open() as repository:
        own = open_registry(url) if url is not None else _registry_of(repository)
        try:
            with holding(own, "backup"):
                try:
                    status = subprocess.run(command, check=False).returncode  # noqa: S603 - the user's own
                except OSError as error:
                    raise InvalidInput(f"cannot run {command[0]}: {(error.strerror or str(error)).lower()}") from error
        finally:
            if url is not None:
                own.close()
    return status if status >= 0 else 128 - status


def _registry_of(repository: Repository | None) -> Registry:
    assert repository is not None  # noqa: S101 - it was opened
    return repository.registry


def _tell(report: Collected) -> None:
    many, size = printing.many, printing.size
    printing.line(
        f"alive: {many(report.versions, 'version')}, {many(report.chunks, 'chunk')} "
        f"in {many(report.packs, 'pack')} ({size(report.size)})"
    )
    would = report.dry_run
    verb = "would be deleted" if would else "deleted"
    printing.line(f"{verb}: {many(report.deleted_packs, 'pack')} ({size(report.deleted)})")
    if report.repacked_packs:
        verb = "would be repacked" if would else "repacked"
        printing.line(f"{verb}: {many(report.repacked_packs, 'pack')}, of which {size(report.written)} are alive")
    printing.line(f"{'would become free' if would else 'freed'}: {size(report.freed)}")
    if report.condemned_packs:
        verb = "would be condemned" if would else "condemned"
        printing.line(f"{verb}: {many(report.condemned_packs, 'pack')} ({size(report.condemned)})")
        _tell_waiting(report)
    for note in report.notes:
        printing.note(printing.shown(note))


def _tell_waiting(report: Collected) -> None:
    waiting = report.waiting_for
    if not waiting:
        printing.line("these are deleted at the next `artifactfs gc`")
        return
    kinds = ", ".join(sorted({each.kind for each in waiting}))
    last = printing.when(int(max(each.until for each in waiting) * 1e9))
    have = "has" if len(waiting) == 1 else "have"
    printing.line(
        f"these are deleted once {printing.many(len(waiting), 'session')} ({printing.shown(kinds)}) that began before {have} ended: "
        f"run `artifactfs gc` again then (a session that died ends at {last}), or give --wait SECONDS"
    )

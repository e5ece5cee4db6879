"""Staging areas without their mount: what `status --all` lists, `export`, and what ``--workspace`` means to other commands.

Workspaces are those of this user. They are read without disturbing a mount that has one, and opened only when none has. Runs on the
main thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from artifactfs.cli import mounts, printing
from artifactfs.cli.context import NAME, Context, pass_context
from artifactfs.errors import ArtifactFSError, InvalidInput, NotFound
from artifactfs.model.names import check_name

if TYPE_CHECKING:
    from artifactfs.config import Settings
    from artifactfs.mount.export import Exported
    from artifactfs.mount.survey import AreaFound, WorkspaceFound
    from artifactfs.mount.unmounted import Unmounted

_UNITS: Final = ((86_400, "day"), (3_600, "hour"), (60, "minute"), (1, "second"))
_NAMED: Final = 20
_SECOND: Final = 1_000_000_000

WORKSPACE = click.option(
    "--workspace",
    metavar="ID",
    help="Of a workspace that is not mounted, as `artifactfs status --all` names it.",
)


@dataclass(frozen=True)
class Asked:
    """A staging area that a command asks something: of a mount, or of a workspace that this process has opened.

    ``request`` is called as :func:`artifactfs.mount.control.request` without the workspace; ``mountpoint`` is None without a mount.
    """

    artifact: str
    path: str
    request: Callable[..., Mapping[str, Any]]
    mountpoint: str | None


@contextmanager
def asked(context: Context, target: str | None, workspace: str | None, *, discarded: bool = False) -> Iterator[Asked]:
    """The staging area that a command's argument and its ``--workspace`` mean. ``discarded``: one of which something was discarded."""
    from functools import partial

    from artifactfs.mount import control

    if workspace is None:
        area = mounts.area(context.settings, target)
        ask = partial(control.request, area.mount.workspace)
        yield Asked(area.artifact, area.path, ask, area.mount.mountpoint)
        return
    with _opened(context.settings, workspace) as (found, unmounted):
        name = check_name(target) if target is not None else _only(found, discarded=discarded)
        yield Asked(name, f"staging of {name} in {found.path.name}", unmounted.request, None)


@contextmanager
def _opened(settings: Settings, workspace: str) -> Iterator[tuple[WorkspaceFound, Unmounted]]:
    from artifactfs.mount.unmounted import Unmounted

    found = find(settings, workspace)
    with Unmounted(
        found.path,
        found.place,
        cache=settings.cache,
        seconds=settings.seconds,
        credentials=settings.credentials,
    ) as unmounted:
        yield found, unmounted


def find(settings: Settings, workspace: str) -> WorkspaceFound:
    """A workspace by its name, the beginning of that, or its mount point. InvalidInput when several are meant, NotFound for none."""
    from artifactfs.mount import attach

    there = _survey(settings)
    place = attach.resolve(workspace) if "/" in workspace else None
    matching = [
        found
        for found in there
        if found.path.name == workspace
        or (place is not None and (str(found.path) == place or (found.place and found.place.mountpoint == place)))
    ] or [found for found in there if place is None and workspace and found.path.name.startswith(workspace)]
    if not matching:
        raise NotFound(f"there is no workspace {workspace}; see: artifactfs status --all")
    if len(matching) > 1:
        names = ", ".join(found.path.name for found in matching)
        raise InvalidInput(f"{workspace} means several workspaces; give one of: {names}")
    return matching[0]


def _survey(settings: Settings) -> list[WorkspaceFound]:
    from artifactfs.mount.survey import survey

    return survey(
        settings.workspaces,
        lambda place: settings.workspace_of(Path(place.mountpoint), place.repository, place.project).name,
    )


def _only(found: WorkspaceFound, *, discarded: bool) -> str:
    """The one artifact of a workspace that a command without NAME means."""
    names = sorted({area.artifact for area in found.areas if (area.discarded is not None) == discarded})
    if len(names) == 1:
        return names[0]
    if names:
        raise InvalidInput(f"{found.path.name} has several staging areas; name one of: {', '.join(names)}")
    what = "nothing that was discarded" if discarded else "no changes"
    raise NotFound(f"{found.path.name} has {what}; see: artifactfs status --all")


# -- status --all ------------------------------------------------------------------------------------------------------


def print_all(settings: Settings, *, as_json: bool) -> None:
    """Every staging area of this user that holds something, mounted or not."""
    found = [workspace for workspace in _survey(settings) if workspace.areas or workspace.trouble]
    if as_json:
        printing.json_array(row for workspace in found for row in _rows(workspace))
        return
    if not found:
        printing.line("no staging area has changes")
    for number, workspace in enumerate(found):
        if number:
            printing.line()
        _print(workspace)


def _rows(workspace: WorkspaceFound) -> Iterator[dict[str, Any]]:
    place = workspace.place
    common = {
        "workspace": workspace.path.name,
        "path": str(workspace.path),
        "mountpoint": place.mountpoint if place is not None else None,
        "repository": place.repository if place is not None else None,
        "project": place.project if place is not None else None,
        "pid": workspace.pid,
    }
    if workspace.trouble is not None:
        yield {**common, "artifact": None, "trouble": workspace.trouble}
    for area in workspace.areas:
        yield {
            **common,
            "artifact": area.artifact,
            "base": None if area.base is None else f"v{area.base}",
            "changes": area.changes,
            "bytes": area.bytes,
            "changed": printing.iso(area.changed),
            "discarded": None if area.discarded is None else printing.iso(area.discarded),
            "undo_until": None if area.until is None else printing.iso(area.until),
        }


def _print(workspace: WorkspaceFound) -> None:
    place = workspace.place
    state = "not mounted" if workspace.pid is None else f"mounted, process {workspace.pid}"
    printing.line(f"{printing.shown(place.mountpoint) if place is not None else 'unknown mount point'}  ({state})")
    if place is not None:
        printing.line(f"  repository  {printing.shown(place.repository)} (project {place.project})")
    printing.line(f"  workspace   {workspace.path.name}")
    if workspace.trouble is not None:
        printing.line(f"  trouble     {printing.shown(workspace.trouble)}")
    for area in workspace.areas:
        printing.line(_worded(area))


def _worded(area: AreaFound) -> str:
    now = time.time_ns()
    base = "nothing" if area.base is None else f"v{area.base}"
    size = f"{printing.many(area.changes, 'change')} from {base}, {printing.size(area.bytes)} of disk"
    if area.discarded is None or area.until is None:
        return f"  staging     {area.artifact}: {size}, last changed {_span(now - area.changed)} ago"
    left = _span(area.until - now)
    return f"  discarded   {area.artifact}: {size}, {_span(now - area.discarded)} ago; can be undone for {left}"


def _span(nanoseconds: int) -> str:
    """A time for people, by its largest unit."""
    seconds = max(0, nanoseconds // _SECOND)
    for length, unit in _UNITS:
        if seconds >= length:
            return printing.many(seconds // length, unit)
    return "0 seconds"


# -- export ------------------------------------------------------------------------------------------------------------


@click.command("export")
@click.argument("name", type=NAME)
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--workspace", metavar="ID", required=True, help="The workspace, as `artifactfs status --all` names it.")
@pass_context
def export_command(context: Context, name: str, directory: Path, workspace: str) -> None:
    """Write what was changed in a staging area that is not mounted into a new directory.

    Files that were added or changed are written whole, of references what they refer to. What is gone is named, and so is what cannot
    be written, because the repository or a reference's source cannot be had; then the exit status is 1, and everything else is there.
    Staging stays as it is.

    \b
    Example:
      artifactfs export bike-dataset ~/rescued --workspace artifacts-1c0ffee
    """
    check_name(name)
    with _opened(context.settings, workspace) as (_, unmounted), printing.Meter(f"export {name}", None) as meter:

        def show(done: Exported) -> None:
            meter.update(done.bytes, files=done.entries)

        done = unmounted.export(name, directory, progress=show)
    printing.line(str(directory))
    entries = "1 entry" if done.entries == 1 else f"{done.entries:,} entries"
    printing.note(f"{entries}, {printing.size(done.bytes)} written")
    _note_some("gone from its base", done.removed)
    if done.missing:
        reasons = [f"{path}: {reason}" for path, reason in done.missing]
        _note_some("not written", reasons)
        raise ArtifactFSError(
            f"{printing.many(len(done.missing), 'path')} of {name} could not be written; staging still has "
            + ("it" if len(done.missing) == 1 else "them")
        )


def _note_some(what: str, lines: list[str]) -> None:
    for line in lines[:_NAMED]:
        printing.note(f"{what}: {printing.shown(line)}")
    if len(lines) > _NAMED:
        printing.note(f"and {len(lines) - _NAMED:,} more")

"""``stage``, ``commit``, ``diff``, ``discard`` and ``rebase``: the staging areas of a mount.

Each finds the mount (see mounts.py) and asks its process, or opens a workspace that is not mounted (see workspaces.py); only ``diff``
of two versions reads the repository itself.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import click

from artifactfs.cli import printing
from artifactfs.cli.content import note_reused
from artifactfs.cli.context import (
    ADDRESS,
    Context,
    pass_context,
    read_aliases,
    read_metadata,
    version_options,
)
from artifactfs.cli.running import note_unknown
from artifactfs.cli.workspaces import WORKSPACE, asked
from artifactfs.errors import ArtifactFSError, InvalidInput, Unavailable
from artifactfs.model.names import Address, check_type, parse_address

_MARKS: Final = {"added": "A", "removed": "D", "changed": "M"}
_SYNC_SECONDS: Final = 120.0  # to write back what programs stored by mmap
_NAMED: Final = 20


@click.command("stage")
@click.argument("address", type=ADDRESS)
@click.option("--empty", is_flag=True, help="Start from nothing.")
@click.option("--force", is_flag=True, help="Throw away changes that are in staging.")
@pass_context
def stage_command(context: Context, address: Address, empty: bool, force: bool) -> None:
    """Choose what an artifact's staging starts from; prints its directory.

    Staging starts from `latest` by itself and follows it while nothing is changed. A new NAME with --empty begins an artifact.

    \b
    Example:
      artifactfs stage bike-dataset:v3
      artifactfs stage new-dataset --empty
    """
    from artifactfs.cli import mounts
    from artifactfs.mount import control

    if address.path or address.digest is not None:
        raise InvalidInput(f"cannot stage {address}; give NAME or NAME:vN")
    if empty and address.selector is not None:
        raise InvalidInput(f"--empty starts from nothing, so {address} must not name a version")
    area = mounts.area(context.settings, address.name)
    fields = {"artifact": address.name, "selector": address.selector, "empty": empty, "force": force}
    result = control.request(area.mount.workspace, "stage", fields)
    printing.line(area.path)
    printing.note(f"staging starts from {result['base'] or 'nothing'}")


@click.command("commit")
@click.argument("target", required=False, metavar="[PATH or NAME]")
@version_options
@click.option("--force", is_flag=True, help="Commit although `latest` has moved since staging began.")
@click.option("--allow-open", is_flag=True, help="Commit files that are open for writing as they are now.")
@WORKSPACE
@pass_context
def commit_command(
    context: Context,
    target: str | None,
    aliases: tuple[str, ...],
    description: str | None,
    metadata: tuple[str, ...],
    type_: str | None,
    force: bool,
    allow_open: bool,
    workspace: str | None,
) -> None:
    """Make staging the next version; prints name:vN. Without PATH or NAME, the staging directory one stands in.

    \b
    Example:
      cd ~/artifacts/bike-dataset/staging && artifactfs commit --description "labels mended"
      artifactfs commit bike-dataset --alias best-ap50 --metadata ap50=0.71
    """
    from artifactfs.ancestry import run_of

    moved = read_aliases(aliases)
    values = read_metadata(metadata)
    if type_ is not None:
        check_type(type_)
    with asked(context, target, workspace) as area:
        fields = {
            "artifact": area.artifact,
            "aliases": list(moved),
            "description": description,
            "metadata": values,
            "type": type_,
            "force": force,
            "allow_open": allow_open,
            "run": run_of(os.getpid()),
        }
        if area.mountpoint is not None:
            _write_back(area.mountpoint)
        with printing.Meter(f"commit {area.artifact}", None) as meter:

            def show(note: Mapping[str, Any]) -> None:
                meter.update(note["bytes_read"], files=note["files"])

            try:
                result = area.request("commit", fields, note=show)
            except InvalidInput as error:
                # The words of the command line were right; what is in staging was not.
                raise ArtifactFSError(str(error)) from error
    _tell_committed(area.artifact, result, labelled=description is not None or values is not None)


def _tell_committed(artifact: str, result: Mapping[str, Any], *, labelled: bool) -> None:
    version = f"{artifact}:v{result['number']}"
    printing.line(version)
    stats = result["stats"]
    printing.note(
        f"{printing.many(stats['files'], 'changed file')}, {printing.size(stats['bytes_read'])} read, "
        f"{printing.size(stats['bytes_stored'])} stored"
    )
    if not result["created"]:
        note_reused(version, result["number"], result["latest_before"], labelled=labelled)
    if result["unknown_run"]:
        note_unknown(result["unknown_run"])
    for line in result["dropped"]:
        printing.note(f"not stored: {printing.shown(line)}")


def _write_back(mountpoint: str) -> None:
    """Have the kernel hand over what programs stored by mmap. Here and not in the daemon, which must not wait for itself."""
    from artifactfs.mount import attach

    if not attach.bounded(_SYNC_SECONDS, lambda: attach.sync(mountpoint)):
        raise Unavailable(f"{mountpoint} did not take all written data within {_SYNC_SECONDS:.0f} s; try again")


@click.command("discard")
@click.argument("target", required=False, metavar="[PATH or NAME]")
@click.option("--undo", is_flag=True, help="Bring back what was discarded last, within a day.")
@WORKSPACE
@pass_context
def discard_command(context: Context, target: str | None, undo: bool, workspace: str | None) -> None:
    """Put staging back to what it started from. For a day `discard --undo` brings back what was changed in it.

    \b
    Example:
      artifactfs discard bike-dataset
      artifactfs discard bike-dataset --undo
    """
    with asked(context, target, workspace, discarded=undo) as area:
        result = area.request("undo" if undo else "discard", {"artifact": area.artifact})
    if undo:
        printing.note(f"{area.path} has its changes again, from {result['base'] or 'nothing'}")
        return
    printing.note(f"{area.path} is again {result['base'] or 'empty'}")
    if result["kept"]:
        again = f" --workspace {workspace}" if workspace is not None else ""
        printing.note(f"for a day this brings the changes back: artifactfs discard {area.artifact} --undo{again}")


@click.command("rebase")
@click.argument("target", required=False, metavar="[PATH or NAME]")
@WORKSPACE
@pass_context
def rebase_command(context: Context, target: str | None, workspace: str | None) -> None:
    """Move staging's changes onto the present `latest`. Refused, naming them, where both changed the same paths.

    \b
    Example:
      artifactfs rebase bike-dataset && artifactfs commit bike-dataset
    """
    with asked(context, target, workspace) as area:
        result = area.request("rebase", {"artifact": area.artifact})
    printing.note(f"{area.path} is now based on {result['base'] or 'nothing'}")


@click.command("diff")
@click.argument("a", required=False, metavar="[A]")
@click.argument("b", required=False, metavar="[B]")
@click.option("--stat", is_flag=True, help="Only how many, and their bytes.")
@click.option("--exit-code", is_flag=True, help="Exit status 1 when there are differences.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@WORKSPACE
@click.pass_context
def diff_command(
    ctx: click.Context,
    a: str | None,
    b: str | None,
    stat: bool,
    exit_code: bool,
    as_json: bool,
    workspace: str | None,
) -> None:
    """Show what was added (A), removed (D) and changed (M), a path a line; of a changed reference also what is recorded otherwise.

    Without arguments, between the staging directory one stands in and its base; with a name or a staging path, of that one; with a
    version alone, between it and `latest`; with two versions (or paths in them), between these.

    \b
    Example:
      artifactfs diff bike-dataset
      artifactfs diff bike-dataset:v0 bike-dataset:v1
      artifactfs diff bike-dataset:v0/images bike-dataset:latest/images
    """
    context = ctx.ensure_object(Context)
    if workspace is not None and b is not None:
        raise click.UsageError("--workspace compares a staging area with its base: give one NAME")
    if workspace is None and a is not None and (b is not None or _is_version(a)):
        old = parse_address(a)
        changes = _between(
            context, old, parse_address(b) if b is not None else Address(old.project, old.name, path=old.path)
        )
    else:
        changes = _of_staging(context, a, workspace)
    counted = _Counted(changes)
    if stat:
        for _ in counted:
            pass
        _print_stat(counted, as_json=as_json)
    elif as_json:
        printing.json_array(counted)
    else:
        for change in counted:
            what = f"\t{printing.shown(change['what'])}" if "what" in change else ""
            printing.line(f"{_MARKS[change['kind']]}\t{printing.shown(change['path'])}{what}")
    ctx.exit(1 if exit_code and counted.total else 0)


def _is_version(text: str) -> bool:
    """Whether the text names a version, and no path or artifact."""
    if text in {".", ".."} or os.path.lexists(text) or (":" not in text and "@" not in text):
        return False
    address = parse_address(text)
    return address.selector is not None or address.digest is not None


class _Counted:
    """Changes as they come, counted."""

    def __init__(self, changes: Iterable[dict[str, Any]]) -> None:
        self._changes = changes
        self.counts = dict.fromkeys(_MARKS, 0)
        self.bytes = dict.fromkeys(_MARKS, 0)

    @property
    def total(self) -> int:
        """Changes seen."""
        return sum(self.counts.values())

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for change in self._changes:
            self.counts[change["kind"]] += 1
            self.bytes[change["kind"]] += change.get("size") or 0
            yield change


def _print_stat(counted: _Counted, *, as_json: bool) -> None:
    if as_json:
        printing.as_json({kind: {"paths": counted.counts[kind], "bytes": counted.bytes[kind]} for kind in _MARKS})
        return
    for kind in _MARKS:
        paths, size = printing.many(counted.counts[kind], "path"), printing.size(counted.bytes[kind])
        printing.line(f"{kind:<8} {paths:>14}  {size:>12}")


def _between(context: Context, old: Address, new: Address) -> Iterator[dict[str, Any]]:
    from artifactfs.model.tree import DirEntry, diff_trees, difference, size_of

    project = old.project or new.project
    with context.open(project=project) as repository:
        roots: list[bytes] = []
        for address in (old, new):
            version = repository.resolve(address)
            if not address.path:
                roots.append(version.digest)
                continue
            entry = repository.entry(version, address.path)
            if not isinstance(entry, DirEntry):
                raise InvalidInput(f"{address} is not a directory; diff compares versions and directories in them")
            roots.append(entry.digest)
        for change in diff_trees(repository.trees, roots[0], roots[1]):
            changed = change.new if change.new is not None else change.old
            assert changed is not None  # noqa: S101 - a change has at least one side
            size = 0 if isinstance(changed, DirEntry) else size_of(changed)
            path = f"{change.path}/" if isinstance(changed, DirEntry) else change.path
            what = difference(change)
            yield {"kind": change.kind, "path": path, "size": size, **({"what": what} if what is not None else {})}


def _of_staging(context: Context, target: str | None, workspace: str | None) -> Iterator[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    with asked(context, target, workspace) as area:
        area.request("diff", {"artifact": area.artifact}, note=lambda note: found.extend(note["changes"]))
    yield from found

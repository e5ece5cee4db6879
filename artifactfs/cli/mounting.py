"""``mount``, ``unmount`` and ``status``."""

from __future__ import annotations

import contextlib
import os
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from artifactfs.cli import printing
from artifactfs.cli.context import MOUNTPOINT, Context, pass_context
from artifactfs.errors import Conflict, InvalidInput, Unavailable
from artifactfs.model.names import parse_address, parse_version

if TYPE_CHECKING:
    from artifactfs.config import Settings
    from artifactfs.mount.service import Plan, Started

_STATED: Final = ("repository", "project", "read_only", "allow_other", "share_references", "pins", "binding")
_DEAD_SECONDS: Final = 5.0


@click.command("mount")
@click.argument("mountpoint", required=False, type=MOUNTPOINT)
@click.option("--foreground", is_flag=True, help="Stay, and serve until interrupted.")
@click.option("--read-only", is_flag=True, help="Versions alone, without staging: reads are fastest.")
@click.option("--pin", "pins", metavar="NAME=vN", multiple=True, help="Let NAME's `latest` stay vN in this mount.")
@click.option("--allow-other", is_flag=True, help="Let other users see the mount, by its permissions.")
@click.option(
    "--share-references",
    is_flag=True,
    help="With --allow-other: let others read references to the web and to buckets, with this user's credentials.",
)
@click.option("--binding", type=click.Choice(["kernel", "fusepy"]), default="kernel", help="How FUSE is spoken.")
@pass_context
def mount_command(
    context: Context,
    mountpoint: Path | None,
    foreground: bool,
    read_only: bool,
    pins: tuple[str, ...],
    allow_other: bool,
    share_references: bool,
    binding: str,
) -> None:
    """Mount the repository; returns when the tree is ready, and prints the mount point.

    MOUNTPOINT is /mnt/artifacts for root, ~/artifacts for others, unless given; it is made when its parent is there. A mount whose
    process has died is cleared first.

    \b
    Example:
      artifactfs mount
      artifactfs mount /mnt/bikes --read-only --pin bike-dataset=v3
    """
    from artifactfs.mount import attach, daemon
    from artifactfs.mount.service import Plan

    if share_references and not allow_other:
        raise click.UsageError("--share-references is for a mount that others see: give --allow-other too")
    settings = context.settings
    path = attach.resolve(str(mountpoint or settings.mountpoint))
    plan = Plan(
        repository=settings.repository,
        project=settings.project,
        mountpoint=path,
        workspace=str(settings.workspace(Path(path))),
        read_only=read_only,
        allow_other=allow_other,
        share_references=share_references,
        pins=_pins(pins),
        binding=binding,
        cache=settings.cache,
        seconds=settings.seconds,
        credentials=settings.credentials,
    )
    if _mounted_already(settings, plan):
        printing.line(path)
        printing.note("mounted already")
        return
    made = daemon.make_mountpoint(path)
    ready = False

    def tell(started: Started) -> None:
        nonlocal ready
        ready = True
        _tell(plan, started, made=made and mountpoint is not None)

    try:
        if foreground:
            daemon.run(plan, tell)
        else:
            tell(daemon.launch(plan))
    finally:
        if made and not ready:
            with contextlib.suppress(OSError):
                Path(path).rmdir()


def _tell(plan: Plan, started: Started, *, made: bool) -> None:
    if made:
        printing.note(f"made the directory {plan.mountpoint}")
    if started.created:
        printing.note(f"made a new repository in {plan.repository}")
    print(plan.mountpoint, flush=True)


def _pins(pins: tuple[str, ...]) -> dict[str, int]:
    result: dict[str, int] = {}
    for pin in pins:
        name, mark, version = pin.partition("=")
        number = parse_version(version)
        if not mark or number is None:
            raise InvalidInput(f"not a pin: {pin!r}; give NAME=vN, for example --pin bike-dataset=v3")
        result[parse_address(name).name] = number
    return result


def _mounted_already(settings: Settings, plan: Plan) -> bool:
    """Whether this very mount is there and alive. Another one there is a Conflict; a dead one is cleared."""
    from artifactfs.cli import mounts
    from artifactfs.mount import attach, ending

    entry = attach.find_mount(plan.mountpoint)
    if entry is None:
        return False
    if entry.kind == ending.KIND:
        for live in mounts.live_mounts(settings):
            if live.mountpoint != plan.mountpoint:
                continue
            different = [key for key in _STATED if live.status.get(key) != getattr(plan, key)]
            if not different:
                return True
            stated = ", ".join(f"{key.replace('_', '-')} is {_worded(live.status.get(key))}" for key in different)
            raise Conflict(f"{plan.mountpoint} is mounted already: {stated}; unmount it first, or mount elsewhere")
        if not attach.bounded(_DEAD_SECONDS, lambda: attach.clear_dead(plan.mountpoint)):
            raise Unavailable(f"a mount at {plan.mountpoint} does not answer; end it with: artifactfs unmount --force")
        if attach.find_mount(plan.mountpoint) is None:
            printing.note(f"cleared a dead mount at {plan.mountpoint}")
            return False
    raise Conflict(f"{plan.mountpoint} is mounted already (type {entry.kind}); unmount it first, or mount elsewhere")


def _worded(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name}=v{number}" for name, number in sorted(value.items())) or "none"
    return {True: "on", False: "off"}.get(value, str(value)) if isinstance(value, bool) else str(value)


@click.command("unmount")
@click.argument("mountpoint", required=False, type=MOUNTPOINT)
@click.option("--lazy", is_flag=True, help="Take it away at once; programs that use it may go on.")
@click.option("--force", is_flag=True, help="End it, also for programs that use it.")
@pass_context
def unmount_command(context: Context, mountpoint: Path | None, lazy: bool, force: bool) -> None:
    """End a mount: the one given, else the one at the default mount point, else the only one. Staging is kept for the next mount.

    \b
    Example:
      artifactfs unmount
      artifactfs unmount /mnt/bikes --force
    """
    from artifactfs.cli import mounts
    from artifactfs.mount import attach, ending

    settings = context.settings
    path = attach.resolve(str(mountpoint or settings.mountpoint))
    if mountpoint is None and attach.find_mount(path) is None:
        path = mounts.chosen(settings).mountpoint
    os.chdir("/")  # this very command must not be what holds the mount
    gone = ending.unmount(path, _workspace_of(settings, path), lazy=lazy, force=force)
    if not gone:
        printing.note("programs still use it; it ends with the last of them")


def _workspace_of(settings: Settings, path: str) -> Path | None:
    """The workspace of a mount: its own word if it answers, else the one that these settings give."""
    from artifactfs.cli import mounts

    for live in mounts.live_mounts(settings):
        if live.mountpoint == path:
            return live.workspace
    workspace = settings.workspace(Path(path))
    return workspace if workspace.is_dir() else None


@click.command("status")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@pass_context
def status_command(context: Context, as_json: bool) -> None:
    """List this user's mounts and the staging areas with changes in them.

    \b
    Example:
      artifactfs status
    """
    from artifactfs.cli import mounts
    from artifactfs.mount import attach, ending

    found = mounts.live_mounts(context.settings)
    alive = {live.mountpoint for live in found}
    ours = [entry.mountpoint for entry in attach.mounts() if entry.kind == ending.KIND]
    dead = [path for path in ours if path not in alive and _is_dead(path)]
    if as_json:
        printing.as_json([{**live.status, "alive": True} for live in found] + [_dead(path) for path in dead])
        return
    if not found and not dead:
        printing.line("no mounts")
        return
    for number, live in enumerate(found):
        if number:
            printing.line()
        _print_status(live.status)
    for path in dead:
        printing.line(f"{path}  dead: its process has ended; `artifactfs mount {path}` starts it anew")


def _is_dead(path: str) -> bool:
    from artifactfs.mount import attach

    answer: list[bool] = []
    attach.bounded(_DEAD_SECONDS, lambda: answer.append(attach.is_dead(path)))
    return answer == [True]


def _dead(path: str) -> dict[str, Any]:
    return {"mountpoint": path, "alive": False}


def _local(time: str) -> str:
    return datetime.fromisoformat(time).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _print_status(status: dict[str, Any]) -> None:
    words = [
        *(["read-only"] if status["read_only"] else []),
        *(f"{name} pinned to v{number}" for name, number in sorted(status["pins"].items())),
        *(["binding fusepy"] if status["binding"] == "fusepy" else []),
    ]
    printing.line(f"{status['mountpoint']}" + (f"  ({', '.join(words)})" if words else ""))
    printing.line(f"  repository  {status['repository']} (project {status['project']})")
    if "encryption" in status:
        printing.line(f"  encryption  {status['encryption']}")
    printing.line(f"  process     {status['pid']} since {_local(status['since'])}")
    if not status["online"]:
        printing.line(
            f"  offline     since {_local(status['offline_since'])}: {printing.shown(status['offline_reason'])}; "
            "what is cached stays readable, and staging writable; it is tried again all the time"
        )
    changed = [area for area in status["staging"] if area["changes"] != 0]
    for area in changed:
        known = area["changes"] is not None
        changes = printing.many(area["changes"], "change") if known else "changes that cannot be counted now"
        base = "nothing" if area["base"] is None else area["base"]
        printing.line(f"  staging     {area['name']}: {changes}, from {base}")
    if not changed and not status["read_only"]:
        printing.line("  staging     no changes")

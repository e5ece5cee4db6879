"""The end of a mount, asked for from outside its process: who holds it, how it goes, when it is gone.

Used by the command line. The kernel's part is done here and not in the daemon, which must never wait for its own file
system. Every wait is bounded. Functions may be called from any thread; each call starts at most one thread.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from artifactfs.errors import ArtifactFSError, Conflict, NotFound, Unavailable
from artifactfs.mount import attach, control

KIND: Final = "fuse.artifactfs"
GONE_SECONDS: Final = 30.0
_KILL_SECONDS: Final = 5.0
_LOOKING_SECONDS: Final = 2.0  # for who asks a mount something in passing, as df does: for that moment it is in use
_AGAIN_SECONDS: Final = 0.02
_NAMED: Final = 10  # processes that an error names


class Holder(msgspec.Struct, frozen=True):
    """A process that uses a mount: its id, its name, and one path it has there."""

    pid: int
    name: str
    path: str


def unmount(
    mountpoint: str, workspace: Path | None, *, lazy: bool = False, force: bool = False, seconds: float = GONE_SECONDS
) -> bool:
    """Remove a mount of ours; True when its process is gone as well.

    ``lazy`` takes the mount out of the name space at once; its process serves who still uses it. ``force`` ends it for them too.
    Raises NotFound (nothing mounted), Conflict (in use, naming by whom; another kind of mount; a commit runs), Unavailable.
    """
    entry = attach.find_mount(mountpoint)
    pid = control.daemon_of(workspace) if workspace is not None else None
    if entry is None:
        raise NotFound(f"nothing is mounted at {mountpoint}; `artifactfs status` lists mounts")
    if entry.kind != KIND:
        raise Conflict(f"{mountpoint} is a mount of type {entry.kind}, none of ArtifactFS; use: umount {mountpoint}")
    with _watching(pid) as watch:
        if pid is not None and workspace is not None and not force and not lazy:
            control.request(workspace, "unmount")  # refuses while a commit runs
        if force:
            _force(mountpoint, watch)
        else:
            _detach(mountpoint, lazy=lazy, seconds=seconds)
        if pid is None or watch is None:
            return True
        if lazy and not force:
            return _ended(watch, 1.0)
        if force and not _ended(watch, _KILL_SECONDS):
            _signal(watch, signal.SIGKILL)
        if not _ended(watch, seconds):
            raise Unavailable(f"{mountpoint} is unmounted, but its process {pid} has not ended after {seconds:.0f} s")
    return True


def holders(mountpoint: str) -> list[Holder]:
    """Processes with a directory, an open file or a mapping below a mount, as far as this user may see them.

    Reads links of /proc alone, so it never waits for the mount.
    """
    found = []
    for process in sorted(int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()):
        for path in _places(process):
            if path == mountpoint or path.startswith(f"{mountpoint}/"):
                found.append(Holder(process, _name(process), path))
                break
    return found


def _detach(mountpoint: str, *, lazy: bool, seconds: float) -> None:
    looking = time.monotonic() + _LOOKING_SECONDS
    while not _detached(mountpoint, lazy=lazy, seconds=seconds, patient=time.monotonic() < looking):
        time.sleep(_AGAIN_SECONDS)


def _detached(mountpoint: str, *, lazy: bool, seconds: float, patient: bool) -> bool:
    """One attempt. False, while ``patient``, when the mount is in use and nobody is seen who holds it."""
    failure: list[ArtifactFSError] = []

    def detach() -> None:
        try:
            attach.detach(mountpoint, lazy=lazy)
        except ArtifactFSError as error:
            failure.append(error)

    if not attach.bounded(seconds, detach):
        raise Unavailable(f"{mountpoint} does not answer; end it with: artifactfs unmount --force {mountpoint}")
    if failure and isinstance(failure[0], Conflict):
        users = holders(mountpoint)
        if patient and not users:
            return False
        raise Conflict(_busy(mountpoint, users)) from failure[0]
    if failure:
        raise failure[0]
    return True


def _busy(mountpoint: str, users: list[Holder]) -> str:
    advice = "leave it, or use --lazy (they may go on) or --force (they get errors)"
    if not users:
        return f"{mountpoint} is in use by processes of other users; {advice}"
    rows = [f"{user.pid} {user.name}: {user.path}" for user in users[:_NAMED]]
    if len(users) > _NAMED:
        rows.append(f"and {len(users) - _NAMED} more")
    return "\n  ".join([f"{mountpoint} is in use; {advice}:", *rows])


def _force(mountpoint: str, watch: int | None) -> None:
    if watch is not None:
        # A stopped process cannot write anything back; give it the chance.
        _signal(watch, signal.SIGCONT)
    attach.force_detach(attach.resolve(mountpoint))
    if watch is not None:
        _signal(watch, signal.SIGTERM)


def _signal(watch: int, number: signal.Signals) -> None:
    """By its descriptor: it ends once its mount has gone, and its number may be another process's by now."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        signal.pidfd_send_signal(watch, number)


@contextlib.contextmanager
def _watching(pid: int | None) -> Iterator[int | None]:
    """A descriptor that tells the end of a process; None when there is none or it has ended."""
    if pid is None:
        yield None
        return
    try:
        watch = os.pidfd_open(pid)
    except ProcessLookupError:
        yield None
        return
    try:
        yield watch
    finally:
        os.close(watch)


def _ended(watch: int, seconds: float) -> bool:
    poll = select.poll()
    poll.register(watch, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


def _places(process: int) -> Iterator[str]:
    base = f"/proc/{process}"
    try:
        names = ["cwd", "root", "exe", *(f"fd/{entry.name}" for entry in Path(f"{base}/fd").iterdir())]
    except OSError as error:
        if error.errno not in {errno.EACCES, errno.ENOENT, errno.ESRCH, errno.EPERM}:
            raise
        return
    for name in names:
        with contextlib.suppress(OSError):
            yield str(Path(f"{base}/{name}").readlink())
    with contextlib.suppress(OSError), Path(f"{base}/maps").open(encoding="utf-8", errors="surrogateescape") as maps:
        for line in maps:
            _, slash, path = line.rstrip("\n").partition("/")
            if slash:
                yield f"/{path}"


def _name(process: int) -> str:
    try:
        return Path(f"/proc/{process}/comm").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return "?"

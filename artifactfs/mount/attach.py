"""Owns how a mount is made, found, flushed, removed and, when its process has died, cleared away.

Used by both FUSE bindings and by whoever asks what is mounted where. As root a mount is made by mount(2); any other
user goes through the set-uid program fusermount3, which hands the connection's descriptor over a socket. Nothing here
keeps state, so every function may be called from any thread. All calls that may wait for the file system itself
say so, and are meant for threads that do not serve it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import shutil
import socket
import stat
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from artifactfs.errors import Access, ArtifactFSError, Conflict, InvalidInput, NotFound, Unavailable

DEVICE: Final = "/dev/fuse"
FUSE_CONF: Final = "/etc/fuse.conf"
READ_AHEAD_KIB: Final = 1024  # as large as the largest request; the kernel's own default is 128
ABORT_SECONDS: Final = 5.0  # how long the last steps of an unmount may wait for a busy file system

# Flags of mount(2) and umount2(2), from sys/mount.h.
_MS_RDONLY, _MS_NOSUID, _MS_NODEV = 1, 2, 4
_MNT_FORCE, _MNT_DETACH, _UMOUNT_NOFOLLOW = 1, 2, 8

_libc = ctypes.CDLL(None, use_errno=True)


class MountOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How a tree is mounted. ``fsname`` is the source that ``mount`` and ``df`` show, ``subtype`` the rest of the type.

    ``threads`` read requests; ``max_waiting`` bounds the requests that may wait for something slow. ``no_open`` (kernel
    binding, read-only trees whose files all have their true sizes): opens are never seen, reads cost less.
    ``non_empty`` allows a mount point that has entries, which the mount then hides.
    """

    read_only: bool = False
    allow_other: bool = False
    threads: int = 2
    max_waiting: int = 512
    fsname: str = "artifactfs"
    subtype: str = "artifactfs"
    no_open: bool = False
    non_empty: bool = False


class Mounted(msgspec.Struct, frozen=True):
    """A line of /proc/self/mountinfo: where, what kind (``fuse.artifactfs``), of which source, on which device."""

    mountpoint: str
    kind: str
    source: str
    device: str


def _unescape(text: str) -> str:
    """Undo mountinfo's octal escapes of blank, tab, newline and backslash."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)


def mounts() -> list[Mounted]:
    """Everything mounted in this mount namespace, in the order of mounting."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape").split("\n")[:-1]:
        left, _, right = line.partition(" - ")
        fields, tail = left.split(" "), right.split(" ")
        found.append(Mounted(_unescape(fields[4]), tail[0], _unescape(tail[1]), fields[2]))
    return found


def find_mount(mountpoint: str) -> Mounted | None:
    """What is mounted at exactly this directory (the topmost), or None. Never waits for the mount itself."""
    path = resolve(mountpoint)
    return next((entry for entry in reversed(mounts()) if entry.mountpoint == path), None)


def resolve(mountpoint: str) -> str:
    """The absolute path as mountinfo has it. The last part is only followed when it is a symlink of a living tree."""
    parent, name = os.path.split(os.path.abspath(mountpoint))  # noqa: PTH100 - Path.resolve() would ask a dead mount
    path = f"{os.path.realpath(parent).rstrip('/')}/{name}"
    if any(entry.mountpoint == path for entry in mounts()):
        return path
    return os.path.realpath(path)


def is_dead(mountpoint: str) -> bool:
    """True when a mount is there whose process has died (every access fails with ENOTCONN). Waits for a living one."""
    try:
        os.statvfs(mountpoint)  # stat(2) may be answered from attributes that the kernel has kept
    except OSError as error:
        return error.errno in {errno.ENOTCONN, errno.ECONNABORTED}
    return False


def clear_dead(mountpoint: str, *, subtype: str = "artifactfs") -> bool:
    """Remove a mount of ours whose process has died; True when there was one. One of another program is a Conflict."""
    if not is_dead(mountpoint):
        return False
    entry = find_mount(mountpoint)
    if entry is not None and entry.kind != f"fuse.{subtype}":
        raise Conflict(
            f"{mountpoint} is a dead mount of type {entry.kind}: remove it with `fusermount3 -u {mountpoint}`"
        )
    detach(mountpoint, lazy=True)
    return True


def prepare(mountpoint: str, options: MountOptions) -> str:
    """Check that a mount can be made, clearing a dead one of ours first; returns the path to mount on."""
    clear_dead(mountpoint, subtype=options.subtype)
    path = resolve(mountpoint)
    entry = find_mount(path)
    if entry is not None:
        raise Conflict(
            f"{mountpoint} is already mounted (type {entry.kind}): unmount it first, or choose another directory"
        )
    try:
        if not stat.S_ISDIR(Path(path).stat().st_mode):
            raise InvalidInput(f"{mountpoint} is not a directory: name an empty directory to mount on")
        with os.scandir(path) as entries:
            if not options.non_empty and any(entries):
                raise Conflict(f"{mountpoint} is not empty: name an empty directory to mount on")
    except FileNotFoundError as error:
        raise NotFound(f"{mountpoint} does not exist: create the directory first") from error
    except PermissionError as error:
        raise Access(f"{mountpoint} cannot be read: choose a directory of your own to mount on") from error
    except OSError as error:
        raise Unavailable(f"{mountpoint} cannot be examined: {error.strerror}") from error
    if options.allow_other and os.geteuid() != 0 and not _user_allow_other():
        raise _allow_other_refused()
    return path


def _user_allow_other() -> bool:
    try:
        text = Path(FUSE_CONF).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return any(line.split("#")[0].strip() == "user_allow_other" for line in text.splitlines())


def _allow_other_refused() -> Access:
    return Access(
        f"allow-other is not permitted to users here: add the line `user_allow_other` to {FUSE_CONF}, or mount as root"
    )


def attach(path: str, options: MountOptions) -> int:
    """Mount on ``path`` (from :func:`prepare`) and return the descriptor of the connection, closed on exec.

    The kernel's INIT request waits on it. Raises Access, Unavailable or Conflict with what to do about it.
    """
    try:
        descriptor = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except PermissionError as error:
        raise Access(f"{DEVICE} may not be opened: give this user access to it (mode 0666 is usual)") from error
    except OSError as error:
        raise Unavailable(
            f"{DEVICE} cannot be opened ({error.strerror}): load the fuse module (`modprobe fuse`); "
            "in a container, pass --device /dev/fuse"
        ) from error
    if os.geteuid() == 0:
        try:
            _mount_as_root(path, descriptor, options)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor
    os.close(descriptor)
    return _mount_as_user(path, options)


def _mount_as_root(path: str, descriptor: int, options: MountOptions) -> None:
    mode = stat.S_IFMT(Path(path).stat().st_mode)
    data = f"fd={descriptor},rootmode={mode:o},user_id={os.geteuid()},group_id={os.getegid()}"
    if options.allow_other:
        data += ",allow_other,default_permissions"
    flags = _MS_NOSUID | _MS_NODEV | (_MS_RDONLY if options.read_only else 0)
    status = _libc.mount(
        os.fsencode(options.fsname),
        os.fsencode(path),
        f"fuse.{options.subtype}".encode(),
        ctypes.c_ulong(flags),
        data.encode(),
    )
    if status == 0:
        return
    number = ctypes.get_errno()
    if number == errno.EPERM:
        raise Access(
            f"the kernel refuses to mount on {path}: CAP_SYS_ADMIN is missing (in a container, pass --cap-add SYS_ADMIN)"
        )
    if number == errno.ENODEV:
        raise Unavailable("the kernel has no FUSE: load its module (`modprobe fuse`)")
    raise Unavailable(f"{path} cannot be mounted: {os.strerror(number)}")


def _fusermount() -> str:
    program = shutil.which("fusermount3") or shutil.which("fusermount")
    if program is None:
        raise Unavailable("fusermount3 is not installed: install the package fuse3, or mount as root")
    return program


def escaped(value: str) -> str:
    """The value of an option in a list that commas separate, as libfuse reads it."""
    return value.replace("\\", "\\\\").replace(",", "\\,")


def _mount_as_user(path: str, options: MountOptions) -> int:
    words = ["nosuid", "nodev", f"fsname={escaped(options.fsname)}", f"subtype={options.subtype}"]
    if options.read_only:
        words.append("ro")
    if options.allow_other:
        words += ["allow_other", "default_permissions"]
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            done = subprocess.run(  # noqa: S603 - a fixed program, found by name; no shell
                [_fusermount(), "-o", ",".join(words), "--", path],
                env={"_FUSE_COMMFD": str(theirs.fileno()), "LC_ALL": "C"},
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                check=False,
            )
        if done.returncode:
            raise _translated(done.stderr, path)
        _, descriptors, _, _ = socket.recv_fds(ours, 1, 1)
    if not descriptors:
        raise Unavailable(f"fusermount3 mounted {path} but gave no descriptor: unmount it and try again")
    os.set_inheritable(descriptors[0], False)
    return descriptors[0]


def _translated(stderr: bytes, path: str) -> ArtifactFSError:
    """The error that a refusal of fusermount3 stands for."""
    text = " ".join(stderr.decode(errors="replace").split())
    text = text.removeprefix("fusermount3: ").removeprefix("fusermount: ")
    if "user_allow_other" in text:
        return _allow_other_refused()
    if "no write access to mountpoint" in text:
        return Access(f"{path} belongs to somebody else: mount on a directory that this user may write to")
    if "mount_max" in text:
        return Unavailable(f"this user has too many FUSE mounts: unmount one, or raise mount_max in {FUSE_CONF}")
    if "device not found" in text:
        return Unavailable(f"{DEVICE} does not exist: load the fuse module (`modprobe fuse`)")
    if "ermission denied" in text or "not permitted" in text:
        return Access(f"fusermount3 may not mount on {path}: {text}")
    return Unavailable(f"fusermount3 cannot mount on {path}: {text}")


def detach(mountpoint: str, *, lazy: bool = False) -> None:
    """Remove the topmost mount at ``mountpoint``. Dirty pages are written first, so a living tree must be served.

    ``lazy`` takes it out of the name space at once, whoever still uses it. A mount in use is a Conflict otherwise;
    none there is NotFound.
    """
    path = resolve(mountpoint)
    if os.geteuid() == 0:
        _detach_as_root(path, _MNT_DETACH if lazy else 0)
    else:
        _detach_as_user(path, lazy=lazy)


def _detach_as_root(path: str, flags: int) -> None:
    if _libc.umount2(os.fsencode(path), _UMOUNT_NOFOLLOW | flags) != 0:
        number = ctypes.get_errno()
        raise _not_detached(path, number, os.strerror(number))


def _detach_as_user(path: str, *, lazy: bool) -> None:
    done = subprocess.run(  # noqa: S603 - a fixed program, found by name; no shell
        [_fusermount(), "-u", *(["-z"] if lazy else []), "--", path],
        env={"LC_ALL": "C"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    if done.returncode:
        text = " ".join(done.stderr.decode(errors="replace").split())
        number = errno.EBUSY if "busy" in text else errno.EINVAL if "not found" in text else errno.EPERM
        raise _not_detached(path, number, text)


def _not_detached(path: str, number: int, text: str) -> ArtifactFSError:
    if number == errno.EBUSY:
        return Conflict(f"{path} is in use: close the programs that have files or their directory there")
    if number in {errno.EINVAL, errno.ENOENT}:
        return NotFound(f"nothing is mounted at {path}")
    return Access(f"{path} cannot be unmounted: {text}")


def bounded(seconds: float, action: Callable[[], object]) -> bool:
    """Run ``action`` in a thread of its own and wait at most so long; True when it ended. Its OSErrors do not matter."""

    def run() -> None:
        try:
            action()
        except (OSError, ArtifactFSError):
            return  # the file system went away meanwhile, which is what the caller wants

    thread = threading.Thread(target=run, name="fuse-bounded", daemon=True)
    thread.start()
    thread.join(seconds)
    return not thread.is_alive()


def force_detach(path: str, leave: Callable[[], bool] | None = None) -> None:
    """Take a mount that is in use away: write its dirty pages back (bounded), detach it lazily, cut its connection.

    Root cuts it by MNT_FORCE, and any user by /sys/fs/fuse/connections where that is mounted. Elsewhere threads that
    wait in a read of the descriptor would wait for ever, so each is given a request (statfs on the detached tree) that
    lets it see that the end has come. ``leave`` announces the end, and says whether all have gone; it is for the serving
    process itself, another one leaves it out and ends that process. The tree must still be served during the call.
    """
    entry = find_mount(path)
    if entry is None:
        return
    root = os.open(path, os.O_PATH | os.O_DIRECTORY)
    try:
        bounded(ABORT_SECONDS, lambda: _write_back(path, root))
        if os.geteuid() == 0:
            _detach_as_root(path, _MNT_DETACH | _MNT_FORCE)
        else:
            _detach_as_user(path, lazy=True)
            _abort(entry)

        if leave is not None:
            bounded(ABORT_SECONDS, lambda: _wake(root, leave))
    finally:
        os.close(root)


def _write_back(path: str, root: int) -> None:
    """Have dirty pages written. For FUSE syncfs(2) waits for no answer, and cutting the connection would lose what it began.

    But requests are taken in order: when the next one is answered, these writes are being carried out, and what is, is finished.
    """
    sync(path)
    os.fstatvfs(root)


def _wake(root: int, leave: Callable[[], bool]) -> None:
    deadline = time.monotonic() + ABORT_SECONDS
    while not leave() and time.monotonic() < deadline:
        try:
            os.fstatvfs(root)
        except OSError:
            # The thread that took it answers with its end; the next one is still to be woken.
            time.sleep(0.001)


def _abort(entry: Mounted) -> None:
    minor = entry.device.partition(":")[2]
    try:
        Path(f"/sys/fs/fuse/connections/{minor}/abort").write_text("1", encoding="ascii")
    except OSError:
        return  # fusectl is not mounted here


def sync(path: str) -> None:
    """Write a mount's dirty pages back, what programs stored by mmap among them. Waits for the tree to take them."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _libc.syncfs(descriptor)
    finally:
        os.close(descriptor)


def raise_read_ahead(path: str) -> None:
    """Let the kernel read further ahead than its default, in larger requests. Only root can; failing is no error."""
    entry = find_mount(path)
    if entry is None or os.geteuid() != 0:
        return
    setting = Path(f"/sys/class/bdi/{entry.device}/read_ahead_kb")
    try:
        if int(setting.read_text(encoding="ascii")) < READ_AHEAD_KIB:
            setting.write_text(str(READ_AHEAD_KIB), encoding="ascii")
    except (OSError, ValueError):
        return  # /sys is read-only or absent, as in many containers

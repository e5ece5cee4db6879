"""Owns a mount through libfuse and mfusepy: the portable second of the two bindings (``--binding fusepy``).

Used by the mount process where the first binding cannot be. libfuse's high-level interface speaks of paths and knows
one validity for all nodes, so this binding is right before it is fast: paths are walked anew for every request, names
and attributes are never kept by the kernel, pages only where the tree said so when the file was opened.

Threading: libfuse makes the threads and calls :class:`_Operations` from any of them; public methods may be called from
any other thread.

Open files are known by their handle throughout, and an unlinked one goes on working: libfuse renames such a file to
``.fuse_hidden…`` and unlinks that name at the last close; here the rename is the unlink, and the hidden name is kept
in memory alone, so no listing shows it. Two things follow: replacing an open file by rename is an unlink and
a rename, and the replaced file has no other names any more as far as its reader sees.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import itertools
import logging
import os
import re
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, Final

from artifactfs.errors import ArtifactFSError, NotFound, Unavailable
from artifactfs.mount import attach
from artifactfs.mount.attach import MountOptions
from artifactfs.mount.contract import (
    ROOT,
    SET_ATIME,
    SET_ATIME_NOW,
    SET_GID,
    SET_MODE,
    SET_MTIME,
    SET_MTIME_NOW,
    SET_SIZE,
    SET_UID,
    Attr,
    Caller,
    Data,
    SetAttr,
    Tree,
)
from artifactfs.mount.errnos import errno_of
from artifactfs.mount.handles import Listings
from artifactfs.mount.protocol import BLOCK_SIZE, NAME_MAX
from artifactfs.mount.waiting import WaitingRoom


@contextlib.contextmanager
def _libfuse_3() -> Iterator[None]:
    """Mfusepy chooses its library when it is imported, and takes libfuse 2 where both are, unless told."""
    before = os.environ.get("FUSE_LIBRARY_NAME")
    os.environ.setdefault("FUSE_LIBRARY_NAME", "fuse3")
    try:
        yield
    finally:
        if before is None:
            del os.environ["FUSE_LIBRARY_NAME"]


try:
    with _libfuse_3():
        import mfusepy
except (OSError, AttributeError) as error:
    raise Unavailable("libfuse is not installed: install the package libfuse3, or use the other binding") from error

_logger = logging.getLogger(__name__)

MAX_BACKGROUND: Final = 4096  # see kernel.py
READY_SECONDS: Final = 30.0
DRAIN_SECONDS: Final = 5.0

_UTIME_NOW, _UTIME_OMIT = (1 << 30) - 1, (1 << 30) - 2
_UNCHANGED_ID: Final = -1
_CAP_HANDLE_KILLPRIV: Final = 1 << 19  # left to the kernel
_CAP_READDIRPLUS: Final = 3 << 13  # with AUTO: attributes that are not kept are of no use in a listing
_SYSLOG_INFO: Final = 6
_HIDDEN: Final = re.compile(rb"\.fuse_hidden[0-9a-f]{16}")

_libfuse = mfusepy._libfuse  # noqa: SLF001 - mfusepy has no public name for the library that it loaded
_libc = ctypes.CDLL(None)
_pinned = threading.local()
_NOW: Final = SetAttr(SET_ATIME | SET_ATIME_NOW | SET_MTIME | SET_MTIME_NOW)


def _pin_thread_state() -> None:
    """Keep Python's state of this thread of libfuse for good, at the first call on it.

    Otherwise ctypes makes and destroys one for each call: every ``threading.local`` is then empty each time, and whatever
    keeps a connection per thread opens one per request (5,000 opens: 5,000 initialisations instead of 3, 5.5 times slower).
    """
    if not hasattr(_pinned, "done"):
        ctypes.pythonapi.PyGILState_Ensure()
        _pinned.done = True


@ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)  # type: ignore[untyped-decorator]
def _log_libfuse(level: int, pattern: bytes, arguments: int | None) -> None:
    """What libfuse has to say goes into our log, not to the standard error of whoever started us; levels are syslog's."""
    _pin_thread_state()
    text = ctypes.create_string_buffer(1024)
    _libc.vsnprintf(text, ctypes.c_size_t(len(text)), pattern, ctypes.c_void_p(arguments))
    # A request that libfuse was taking from the kernel when the mount went: an end like any other.
    ended = os.strerror(errno.ECONNABORTED).encode() in text.value
    severity = logging.DEBUG if ended or level >= _SYSLOG_INFO else logging.WARNING
    _logger.log(severity, "%s", os.fsdecode(text.value).strip())


if hasattr(_libfuse, "fuse_set_log_func"):  # libfuse 3.7 and newer
    _libfuse.fuse_set_log_func(_log_libfuse)


class _OpenFiles:
    """What is open: node by handle, and the path by which each node was last opened, kept right through renames."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._nodes: dict[int, int] = {}
        self._paths: dict[int, str] = {}
        self.hidden: dict[bytes, int] = {}  # name that libfuse gave to an open, unlinked file -> node

    def add(self, fh: int, node: int, path: str) -> None:
        with self._lock:
            self._nodes[fh] = node
            self._paths[node] = path

    def remove(self, fh: int) -> None:
        with self._lock:
            node = self._nodes.pop(fh, None)
            if node is not None and node not in self._nodes.values():
                del self._paths[node]

    def node(self, fh: int) -> int:
        with self._lock:
            try:
                return self._nodes[fh]
            except KeyError:
                raise OSError(errno.EBADF, os.strerror(errno.EBADF)) from None

    def has(self, node: int) -> bool:
        with self._lock:
            return node in self._paths

    def path(self, node: int) -> str | None:
        with self._lock:
            return self._paths.get(node)

    def renamed(self, old: str, new: str) -> None:
        with self._lock:
            for node, path in self._paths.items():
                if path == old or path.startswith(old + "/"):
                    self._paths[node] = new + path[len(old) :]


class _Operations:
    """The callbacks as mfusepy wants them. Paths are ``str`` with surrogate escapes, or None where a handle says all."""

    use_ns = True
    flag_nopath = True  # with the next: libfuse need not know the path of an open file
    flag_nullpath_ok = True

    def __init__(self, tree: Tree, options: MountOptions, ready: Callable[[int | None], None]) -> None:
        self._tree = tree
        self._ready = ready
        self._room = WaitingRoom(options.max_waiting)
        self._listings = Listings(tree)
        self._files = _OpenFiles()
        # Handle of ours -> node, and handle of the tree, which many open directories may share.
        self._directories: dict[int, tuple[int, int]] = {}
        self._numbers = itertools.count(1)

    # From paths to nodes.

    def _walk(self, path: str) -> Attr | None:
        """The last part's attributes; None for the root."""
        attr, node = None, ROOT
        for part in os.fsencode(path).split(b"/"):
            if part:
                attr = self._lookup(node, part)
                node = attr.node
        return attr

    def _lookup(self, parent: int, name: bytes) -> Attr:
        if len(name) > NAME_MAX:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
        hidden = self._files.hidden.get(name)
        attr = self._tree.lookup(parent, name) if hidden is None else self._tree.getattr(hidden)
        if not attr.node:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        return attr

    def _node(self, path: str) -> int:
        attr = self._walk(path)
        return attr.node if attr else ROOT

    def _parent(self, path: str) -> tuple[int, bytes]:
        directory, _, name = path.rpartition("/")
        return self._node(directory), os.fsencode(name)

    def _at(self, path: str | None, fi: Any) -> int:
        return self._node(path) if path is not None else self._files.node(fi.fh)

    @staticmethod
    def _caller() -> Caller:
        context = _libfuse.fuse_get_context().contents
        return Caller(context.uid, context.gid, context.pid, context.umask)

    def path_of_open(self, node: int) -> str | None:
        """A path of a node that is open, for telling the kernel about it."""
        return self._files.path(node)

    # Life of the mount.

    def init_with_config(self, conn: Any, config: Any) -> None:
        conn.max_background = conn.congestion_threshold = MAX_BACKGROUND
        if config is not None:
            conn.want &= ~(_CAP_HANDLE_KILLPRIV | _CAP_READDIRPLUS)
            config.entry_timeout = config.attr_timeout = config.negative_timeout = 0.0
            config.use_ino = 1
            config.nullpath_ok = 1
        self._ready(_libfuse.fuse_get_context().contents.fuse)

    # Names and attributes.

    def getattr(self, path: str | None, fi: Any = None) -> dict[str, int]:
        attr = (
            self._tree.getattr(self._files.node(fi.fh), fi.fh)
            if path is None
            else self._walk(path) or self._tree.getattr(ROOT)
        )
        return {
            "st_ino": attr.node,
            "st_mode": attr.mode,
            "st_nlink": attr.nlink,
            "st_uid": attr.uid,
            "st_gid": attr.gid,
            "st_size": attr.size,
            "st_blocks": attr.blocks,
            "st_blksize": BLOCK_SIZE,
            "st_atime": attr.atime,
            "st_mtime": attr.mtime,
            "st_ctime": attr.ctime,
        }

    def readlink(self, path: str) -> str:
        return os.fsdecode(self._tree.readlink(self._node(path)))

    def set_attributes(self, path: str | None, fi: Any, change: SetAttr) -> int:
        fh = None if path is not None else fi.fh
        self._tree.setattr(self._at(path, fi), change, fh, self._caller())
        return 0

    def chmod(self, path: str | None, mode: int, fi: Any = None) -> int:
        return self.set_attributes(path, fi, SetAttr(SET_MODE, mode=mode))

    def chown(self, path: str | None, uid: int, gid: int, fi: Any = None) -> int:
        valid = (SET_UID if uid != _UNCHANGED_ID else 0) | (SET_GID if gid != _UNCHANGED_ID else 0)
        return self.set_attributes(path, fi, SetAttr(valid, uid=max(uid, 0), gid=max(gid, 0)))

    def truncate(self, path: str | None, length: int, fi: Any = None) -> int:
        return self.set_attributes(path, fi, SetAttr(SET_SIZE, size=length))

    def utimens(self, path: str, times: tuple[int, int] | None = None) -> int:
        """As libfuse 2 has it; with libfuse 3 :class:`_Libfuse` calls set_attributes itself."""
        change = SetAttr(SET_ATIME | SET_MTIME, atime=times[0], mtime=times[1]) if times else _NOW
        return self.set_attributes(path, None, change)

    def statfs(self, path: str) -> dict[str, int]:
        numbers = self._tree.statfs(self._node(path))
        return {
            "f_bsize": numbers.bsize,
            "f_frsize": numbers.bsize,
            "f_blocks": numbers.blocks,
            "f_bfree": numbers.bfree,
            "f_bavail": numbers.bavail,
            "f_files": numbers.files,
            "f_ffree": numbers.ffree,
            "f_favail": numbers.ffree,
            "f_namemax": NAME_MAX,
        }

    # Changes of the tree.

    def mknod(self, path: str, mode: int, _device: int) -> int:
        parent, name = self._parent(path)
        self._tree.mknod(parent, name, mode, self._caller())
        return 0

    def mkdir(self, path: str, mode: int) -> int:
        parent, name = self._parent(path)
        self._tree.mkdir(parent, name, stat.S_IFDIR | mode, self._caller())
        return 0

    def unlink(self, path: str) -> int:
        parent, name = self._parent(path)
        if self._files.hidden.pop(name, None) is None:
            self._tree.unlink(parent, name)
        return 0

    def rmdir(self, path: str) -> int:
        self._tree.rmdir(*self._parent(path))
        return 0

    def symlink(self, target: str, source: str) -> int:
        parent, name = self._parent(target)
        self._tree.symlink(parent, name, os.fsencode(source), self._caller())
        return 0

    def link(self, target: str, source: str) -> int:
        parent, name = self._parent(target)
        self._tree.link(self._node(source), parent, name)
        return 0

    def rename(self, old: str, new: str, flags: int = 0) -> int:
        parent, name = self._parent(old)
        new_parent, new_name = self._parent(new)
        if _HIDDEN.fullmatch(new_name) and parent == new_parent:
            node = self._lookup(parent, name).node
            if self._files.has(node):
                self._tree.unlink(parent, name)
                self._files.hidden[new_name] = node
                return 0
        self._tree.rename(parent, name, new_parent, new_name, flags)
        self._files.renamed(old, new)
        return 0

    # Files.

    def _opened(self, fi: Any, opened: Any, node: int, path: str) -> int:
        self._files.add(opened.fh, node, path)
        fi.fh = opened.fh
        fi.keep_cache = int(opened.keep_cache)
        fi.direct_io = int(opened.direct)
        return 0

    def open(self, path: str, fi: Any) -> int:
        node = self._node(path)
        return self._opened(fi, self._tree.open(node, fi.flags, self._caller()), node, path)

    def create(self, path: str, mode: int, fi: Any) -> int:
        parent, name = self._parent(path)
        attr, opened = self._tree.create(parent, name, mode, fi.flags, self._caller())
        return self._opened(fi, opened, attr.node, path)

    def read(self, _path: str | None, size: int, offset: int, fi: Any) -> bytes:
        tree, fh = self._tree, fi.fh
        if tree.ready(fh, offset, size):
            return _joined(tree.read(fh, offset, size))
        # libfuse has a thread for each request; half of them may wait to read, so that the others are never delayed.
        node = self._files.node(fh)
        if not self._room.enter(node):
            raise OSError(errno.EBUSY, "too many reads are waiting")
        try:
            return _joined(tree.read(fh, offset, size))
        finally:
            self._room.leave(node)

    def write(self, _path: str | None, data: bytes, offset: int, fi: Any) -> int:
        return self._tree.write(fi.fh, offset, memoryview(data))

    def flush(self, _path: str | None, fi: Any) -> int:
        self._tree.flush(fi.fh)
        return 0

    def fsync(self, _path: str | None, datasync: int, fi: Any) -> int:
        self._tree.fsync(fi.fh, bool(datasync))
        return 0

    def release(self, _path: str | None, fi: Any) -> int:
        self._files.remove(fi.fh)
        self._tree.release(fi.fh)
        return 0

    def fallocate(self, _path: str | None, mode: int, offset: int, length: int, fi: Any) -> int:
        self._tree.fallocate(fi.fh, mode, offset, length)
        return 0

    def lseek(self, _path: str | None, offset: int, whence: int, fi: Any) -> int:
        return self._tree.lseek(fi.fh, offset, whence)

    # Directories.

    def opendir(self, path: str) -> int:
        node = self._node(path)
        number = next(self._numbers)
        self._directories[number] = node, self._tree.opendir(node, self._caller()).fh
        return number

    def readdir_with_offset(
        self, _path: str | None, offset: int, number: int
    ) -> Iterator[tuple[str, dict[str, int], int]]:
        """Entries after an offset, of which 1 and 2 are ``.`` and ``..``. An entry at which this is closed found no room."""
        node, fh = self._directories[number]
        for position, dots in ((1, "."), (2, "..")):
            if position > offset:
                yield dots, {"st_mode": stat.S_IFDIR, "st_ino": node}, position
        offset = max(offset, 2)
        cursor = self._listings.take(node, fh, offset - 2)
        try:
            while (entry := cursor.peek()) is not None:
                name, attr = entry
                yield os.fsdecode(name), {"st_mode": attr.mode, "st_ino": attr.node}, cursor.offset + 3
                cursor.advance()
        finally:
            self._listings.give_back(fh, cursor)

    def releasedir(self, _path: str | None, number: int) -> int:
        _, fh = self._directories.pop(number)
        self._listings.release(fh)
        return 0

    def fsyncdir(self, _path: str | None, _datasync: int, number: int) -> int:
        self._tree.fsyncdir(self._directories[number][0])
        return 0

    # Extended attributes.

    def getxattr(self, path: str, name: str, _position: int = 0) -> bytes:
        return self._tree.getxattr(self._node(path), os.fsencode(name))

    def setxattr(self, path: str, name: str, value: bytes, flags: int, _position: int = 0) -> int:
        self._tree.setxattr(self._node(path), os.fsencode(name), value, flags)
        return 0

    def listxattr(self, path: str) -> list[str]:
        return [os.fsdecode(name) for name in self._tree.listxattr(self._node(path))]

    def removexattr(self, path: str, name: str) -> int:
        self._tree.removexattr(self._node(path), os.fsencode(name))
        return 0


def _times(atime: Any, mtime: Any) -> SetAttr:
    """The change that utimensat(2) asks for by two timespecs."""
    valid, seconds = 0, [0, 0]
    for index, (time, bit, now) in enumerate(((atime, SET_ATIME, SET_ATIME_NOW), (mtime, SET_MTIME, SET_MTIME_NOW))):
        if time.tv_nsec == _UTIME_NOW:
            valid |= bit | now
        elif time.tv_nsec != _UTIME_OMIT:
            valid |= bit
            seconds[index] = time.tv_sec * 1_000_000_000 + time.tv_nsec
    return SetAttr(valid, atime=seconds[0], mtime=seconds[1])


class _Libfuse(mfusepy.FUSE):  # type: ignore[misc] # mfusepy has no types
    """mfusepy's adapter, with what it drops: rename flags, handles of truncate and its like, UTIME_NOW and UTIME_OMIT.

    It also turns every exception into an errno by our one table, and counts. Only libfuse 3 calls the ``_fuse_3`` methods.
    Making one serves the mount, and returns when it has ended.
    """

    def __init__(self, operations: _Operations, target: str, counts: dict[str, int], **options: Any) -> None:
        self._counts = counts
        self._counting = threading.Lock()
        super().__init__(operations, target, raw_fi=True, foreground=True, **options)

    def _wrapper(self, method: Callable[..., int | None], *arguments: Any) -> int:
        _pin_thread_state()
        name = method.__name__.removesuffix("_fuse_3").removesuffix("_fuse_2")
        with self._counting:
            self._counts[name] = self._counts.get(name, 0) + 1
        try:
            return method(*arguments) or 0
        except BaseException as error:  # no exception may reach libfuse's C code
            return -errno_of(error)

    def rename_fuse_3(self, old: bytes, new: bytes, flags: int) -> int:
        return int(self.operations.rename(os.fsdecode(old), os.fsdecode(new), flags))

    def chmod_fuse_3(self, path: bytes | None, mode: int, fip: Any) -> int:
        return int(self.operations.chmod(_text(path), mode, _info(fip)))

    def chown_fuse_3(self, path: bytes | None, uid: int, gid: int, fip: Any) -> int:
        ids = [_UNCHANGED_ID if each == 0xFFFFFFFF else each for each in (uid, gid)]
        return int(self.operations.chown(_text(path), *ids, _info(fip)))

    def truncate_fuse_3(self, path: bytes | None, length: int, fip: Any) -> int:
        return int(self.operations.truncate(_text(path), length, _info(fip)))

    def utimens_fuse_3(self, path: bytes | None, times: Any, fip: Any) -> int:
        change = _times(times.contents.actime, times.contents.modtime) if times else _NOW
        return int(self.operations.set_attributes(_text(path), _info(fip), change))

    def lseek(self, path: bytes | None, offset: int, whence: int, fip: Any) -> int:
        return int(self.operations.lseek(_text(path), offset, whence, fip.contents))


def _text(path: bytes | None) -> str | None:
    return None if path is None else os.fsdecode(path)


def _info(fip: Any) -> Any:
    return fip.contents if fip else None


class FusepyMount:
    """A tree mounted at a directory. Call :meth:`mount`, then :meth:`serve`; :meth:`unmount` from anywhere ends it.

    ``options.no_open`` has no effect here, and libfuse decides on the number of threads.
    """

    def __init__(self, tree: Tree, mountpoint: str, options: MountOptions) -> None:
        self._path = mountpoint
        self._options = options
        self._operations = _Operations(tree, options, self._on_init)
        self._counts: dict[str, int] = {}
        self._ready = threading.Event()
        self._gone = threading.Event()
        self._fuse: int | None = None  # libfuse's struct fuse
        self._thread: threading.Thread | None = None

    @property
    def counts(self) -> dict[str, int]:
        """Requests so far by the name of libfuse's operation (a lookup is a ``getattr``)."""
        return dict(self._counts)

    def mount(self) -> None:
        """Mount and start serving, in threads of libfuse; returns when the kernel has answered.

        Raises Access, Conflict, InvalidInput, NotFound or Unavailable with what to do about it.
        """
        self._path = attach.prepare(self._path, self._options)
        options = self._library_options()
        if sys.platform == "linux":
            # libfuse 3 takes over a connection that was made elsewhere: one way to mount, one set of messages.
            target = f"/dev/fd/{attach.attach(self._path, self._options)}"
        else:
            target = self._path
            options |= self._mount_options()
        directory = os.open(".", os.O_RDONLY | os.O_DIRECTORY)
        try:
            self._thread = threading.Thread(target=self._run, args=(target, options), name="fuse", daemon=True)
            self._thread.start()
            self._ready.wait(READY_SECONDS)
            os.fchdir(directory)  # libfuse has made / the working directory
        finally:
            os.close(directory)
        if self._fuse is None:
            with contextlib.suppress(ArtifactFSError):
                attach.detach(self._path, lazy=True)
            raise Unavailable(f"libfuse could not serve {self._path}: its messages above say why")
        attach.raise_read_ahead(self._path)

    def serve(self) -> None:
        """Wait until the mount has been removed, by whomever, and its requests have ended or DRAIN_SECONDS are over."""
        if self._thread is None:
            raise Unavailable("nothing is mounted yet: call mount() first")
        self._gone.wait()
        self._thread.join(DRAIN_SECONDS)
        if not self._thread.is_alive() and attach.is_dead(self._path):
            with contextlib.suppress(ArtifactFSError):
                attach.detach(self._path, lazy=True)

    def unmount(self) -> None:
        """Remove the mount, cleanly if nothing uses it; else write back what is dirty, detach it and end the connection.

        Where only the end of the process can end the connection (no root, no fusectl), :meth:`serve` returns before it.
        """
        if self._thread is None or self._gone.is_set():
            return
        try:
            attach.detach(self._path)
        except NotFound:
            self._gone.set()
        except ArtifactFSError:
            attach.force_detach(self._path)
            self._gone.set()

    def inval_entry(self, parent: int, name: bytes) -> None:
        """Nothing to do: names are valid for no time, so the kernel asks for each at every use."""

    def inval_inode(self, node: int) -> None:
        """Make the kernel forget the pages of a node that is open; those of others are dropped at the next open."""
        path = self._operations.path_of_open(node)
        # libfuse frees its tables as soon as it has seen the unmount, so the mount itself is asked for first.
        if path is not None and self._fuse is not None and attach.find_mount(self._path) is not None:
            _libfuse.fuse_invalidate_path(ctypes.c_void_p(self._fuse), os.fsencode(path))

    def _library_options(self) -> dict[str, Any]:
        # Threads are never ended: each keeps its Python state (see above). Twice as many as may wait, so that the waiting
        # never delay others. Not naming a maximum makes libfuse 3.14 print a warning.
        threads = 2 * self._options.max_waiting
        options: dict[str, Any] = {"fsname": attach.escaped(self._options.fsname)}
        if mfusepy.fuse_version_major == 3:
            options["max_idle_threads"] = threads
            if mfusepy.fuse_version_minor >= 12:
                options["max_threads"] = threads
        return options

    def _mount_options(self) -> dict[str, Any]:
        other = self._options.allow_other
        return {"ro": self._options.read_only, "allow_other": other, "default_permissions": other}

    def _run(self, target: str, options: dict[str, Any]) -> None:
        try:
            _Libfuse(self._operations, target, self._counts, **options)
        except RuntimeError as error:  # mfusepy's way to report libfuse's exit status
            # Not zero also when the mount went while a request was being taken.
            severity = logging.WARNING if attach.find_mount(self._path) is not None else logging.DEBUG
            _logger.log(severity, "libfuse ended with status %s", error)
        finally:
            self._gone.set()
            self._ready.set()

    def _on_init(self, fuse: int | None) -> None:
        self._fuse = fuse
        self._ready.set()


def _joined(data: Data) -> bytes:
    return b"".join(data) if isinstance(data, list) else bytes(data)

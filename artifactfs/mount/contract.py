"""What a FUSE binding asks of the tree, and what the tree asks of a binding.

:class:`Tree` is implemented by :class:`artifactfs.mount.view.View` (whole mount) and, for its own nodes, by
:class:`artifactfs.mount.staging.Staging`. A binding (``kernel.py``, ``fusepy.py``) only translates. Nodes are 63-bit integers that
are also the inode numbers; they stay valid without bookkeeping by the binding. Methods may be called from any thread.
They raise ``OSError`` with an errno, or an :class:`~artifactfs.errors.ArtifactFSError` that
``mount/errnos.py`` maps to one. Names and symlink targets are bytes, as the kernel has them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Protocol

import msgspec

ROOT: Final = 1  # node of the mount's root, fixed by the FUSE protocol
FOREVER: Final = 1e9  # seconds of validity: until invalidated (the kernel clamps it)

# Bits of SetAttr.valid, as FATTR_* of linux/fuse.h.
SET_MODE: Final = 1 << 0
SET_UID: Final = 1 << 1
SET_GID: Final = 1 << 2
SET_SIZE: Final = 1 << 3
SET_ATIME: Final = 1 << 4
SET_MTIME: Final = 1 << 5
SET_ATIME_NOW: Final = 1 << 7
SET_MTIME_NOW: Final = 1 << 8
SET_CTIME: Final = 1 << 10


Data = bytes | memoryview | list[bytes | memoryview]
"""Bytes that were read: in one piece, or in several as they lie in memory, to be written without joining them."""


class Attr(msgspec.Struct, gc=False):
    """Attributes of a node as ``stat`` shows them, and how long (seconds) the kernel may keep name and attributes.

    ``node`` 0 is a negative entry: the name is known not to exist for ``entry_valid`` seconds.
    Times are nanoseconds since the epoch; ``blocks`` counts 512 bytes; ``mode`` includes the file type.
    """

    node: int
    mode: int
    size: int = 0
    mtime: int = 0
    nlink: int = 1
    uid: int = 0
    gid: int = 0
    entry_valid: float = 0.0
    attr_valid: float = 0.0
    atime: int = 0
    ctime: int = 0
    blocks: int = 0


class SetAttr(msgspec.Struct, frozen=True):
    """A chmod, chown, truncate or utimens: ``valid`` says which fields count (SET_* bits). Times in nanoseconds."""

    valid: int
    mode: int = 0
    uid: int = 0
    gid: int = 0
    size: int = 0
    atime: int = 0
    mtime: int = 0
    ctime: int = 0


class Caller(msgspec.Struct, frozen=True, gc=False):
    """Who asks: ids of the calling thread as the kernel saw them, and its umask (0 when not applicable)."""

    uid: int
    gid: int
    pid: int
    umask: int = 0


class Opened(msgspec.Struct, frozen=True, gc=False):
    """An open file or directory: handle number (0: a directory that never changes) and how the kernel may treat it.

    ``keep_cache``: pages (or the listing) cached earlier are still right; ``direct``: size unknown, bypass the page
    cache; ``cache_dir``: the listing may be cached; ``noflush``: close(2) need not be told. ``backing``: of a file that lies
    whole on a local disk, the path there, which the kernel may read instead; "" if that may become so at a later open.
    """

    fh: int
    keep_cache: bool = False
    direct: bool = False
    cache_dir: bool = False
    noflush: bool = False
    backing: str | None = None


class StatFS(msgspec.Struct, frozen=True):
    """Numbers of statfs(2): blocks of ``bsize`` bytes, and files."""

    bsize: int
    blocks: int
    bfree: int
    bavail: int
    files: int
    ffree: int


class Notifier(Protocol):
    """How the tree tells the kernel that it changed something itself. Never called with a lock held, nor from a request."""

    def inval_entry(self, parent: int, name: bytes) -> None:
        """Forget a name, known or known absent, of a directory."""

    def inval_inode(self, node: int) -> None:
        """Forget attributes, pages and listing of a node."""


class Tree(Protocol):
    """The operations. Flags are those of open(2), renameat2(2), fallocate(2), setxattr(2)."""

    def lookup(self, parent: int, name: bytes) -> Attr: ...
    def getattr(self, node: int, fh: int | None = None) -> Attr: ...
    def setattr(self, node: int, change: SetAttr, fh: int | None, caller: Caller) -> Attr: ...
    def readlink(self, node: int) -> bytes: ...
    def opendir(self, node: int, caller: Caller) -> Opened: ...
    def readdir(self, node: int, fh: int, offset: int) -> Iterator[tuple[bytes, Attr]]:
        """Entries after position ``offset`` (0: from the start; entry k has offset k), without ``.`` and ``..``."""
        ...

    def releasedir(self, fh: int) -> None: ...
    def open(self, node: int, flags: int, caller: Caller) -> Opened: ...
    def verified_backing(self, fh: int) -> str:
        """For an open whose ``backing`` is "": what it is after verifying the file as far as that is quick."""
        ...

    def ready(self, fh: int, offset: int, size: int) -> bool:
        """True when :meth:`read` of this range will not wait for anything but the local disk."""
        ...

    def read(self, fh: int, offset: int, size: int) -> Data:
        """At most ``size`` bytes; fewer only at the end of the file."""
        ...

    def write(self, fh: int, offset: int, data: memoryview) -> int:
        """Store all of ``data`` (valid during the call only); returns its length. O_APPEND is resolved by the kernel."""
        ...

    def flush(self, fh: int) -> None: ...
    def fsync(self, fh: int, datasync: bool) -> None: ...
    def fsyncdir(self, node: int) -> None: ...
    def release(self, fh: int) -> None: ...
    def create(self, parent: int, name: bytes, mode: int, flags: int, caller: Caller) -> tuple[Attr, Opened]: ...
    def mknod(self, parent: int, name: bytes, mode: int, caller: Caller) -> Attr: ...
    def mkdir(self, parent: int, name: bytes, mode: int, caller: Caller) -> Attr: ...
    def symlink(self, parent: int, name: bytes, target: bytes, caller: Caller) -> Attr: ...
    def link(self, node: int, parent: int, name: bytes) -> Attr: ...
    def unlink(self, parent: int, name: bytes) -> None: ...
    def rmdir(self, parent: int, name: bytes) -> None: ...
    def rename(self, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int) -> None: ...
    def fallocate(self, fh: int, mode: int, offset: int, length: int) -> None: ...
    def lseek(self, fh: int, offset: int, whence: int) -> int: ...
    def getxattr(self, node: int, name: bytes) -> bytes: ...
    def setxattr(self, node: int, name: bytes, value: bytes, flags: int) -> None: ...
    def listxattr(self, node: int) -> list[bytes]: ...
    def removexattr(self, node: int, name: bytes) -> None: ...
    def statfs(self, node: int) -> StatFS: ...
    def forget(self, node: int, count: int) -> None:
        """The kernel dropped a node (all lookups of it). Trees that keep nothing per lookup ignore it."""
        ...

"""A file system in memory behind the Tree contract, for tests of the bindings alone.

Everything is a dictionary under one lock. Files may be made to stall: `ready` is then false and `read` waits.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
import time
from collections.abc import Iterator

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
    Opened,
    SetAttr,
    StatFS,
)

RENAME_NOREPLACE, RENAME_EXCHANGE = 1, 2
XATTR_CREATE, XATTR_REPLACE = 1, 2
FALLOC_KEEP_SIZE, FALLOC_PUNCH_HOLE = 1, 2


class Inode:
    def __init__(self, number: int, mode: int, caller: Caller) -> None:
        self.number = number
        self.mode = mode
        self.uid, self.gid = caller.uid, caller.gid
        self.nlink = 2 if stat.S_ISDIR(mode) else 1
        self.atime = self.mtime = self.ctime = time.time_ns()
        self.data = bytearray()
        self.target = b""
        self.children: dict[bytes, int] = {}
        self.xattrs: dict[bytes, bytes] = {}
        self.stalled: threading.Event | None = None


def refuse(number: int) -> OSError:
    return OSError(number, os.strerror(number))


class MemoryTree:
    """`valid` is the validity in seconds of every entry and attribute; `negative` that of absent names."""

    def __init__(self, *, valid: float = 0.0, negative: float = 0.0, keep_cache: bool = False, uid: int = 0) -> None:
        self.valid, self.negative, self.keep_cache = valid, negative, keep_cache
        self.lock = threading.RLock()
        self.inodes: dict[int, Inode] = {ROOT: Inode(ROOT, stat.S_IFDIR | 0o755, Caller(uid, uid, 0))}
        self.last = ROOT
        self.handles: dict[int, int] = {}
        self.listings: dict[int, list[tuple[bytes, int]]] = {}  # as each open directory was read first
        self.last_handle = 0
        self.thread_values = threading.local()
        self.thread_starts = 0
        self.slow_names: dict[bytes, threading.Event] = {}
        self.waiting = 0  # lookups of these

    # What tests use directly.

    def add(self, path: str, data: bytes = b"", mode: int = stat.S_IFREG | 0o644) -> int:
        """Make a file (and its directories) as the tree itself would, without the kernel knowing."""
        *parents, name = path.encode().split(b"/")
        node = ROOT
        for part in parents:
            if part not in self.inodes[node].children:
                self.make(node, part, stat.S_IFDIR | 0o755, Caller(0, 0, 0))
            node = self.inodes[node].children[part]
        inode = self.make(node, name, mode, Caller(0, 0, 0))
        inode.data[:] = data
        return inode.number

    def find(self, path: str) -> Inode:
        inode = self.inodes[ROOT]
        for part in filter(None, path.encode().split(b"/")):
            inode = self.inodes[inode.children[part]]
        return inode

    def stall(self, path: str) -> None:
        self.find(path).stalled = threading.Event()

    def unstall(self) -> None:
        with self.lock:
            for inode in self.inodes.values():
                if inode.stalled is not None:
                    inode.stalled.set()
            for event in self.slow_names.values():
                event.set()

    def make(self, parent: int, name: bytes, mode: int, caller: Caller) -> Inode:
        with self.lock:
            directory = self.directory(parent)
            if name in directory.children:
                raise refuse(errno.EEXIST)
            self.last += 1
            inode = self.inodes[self.last] = Inode(self.last, mode, caller)
            directory.children[name] = inode.number
            directory.mtime = directory.ctime = time.time_ns()
            if stat.S_ISDIR(mode):
                directory.nlink += 1
            return inode

    def inode(self, node: int) -> Inode:
        try:
            return self.inodes[node]
        except KeyError:
            raise refuse(errno.ESTALE) from None

    def directory(self, node: int) -> Inode:
        inode = self.inode(node)
        if not stat.S_ISDIR(inode.mode):
            raise refuse(errno.ENOTDIR)
        return inode

    def child(self, parent: int, name: bytes) -> Inode:
        try:
            return self.inode(self.directory(parent).children[name])
        except KeyError:
            raise refuse(errno.ENOENT) from None

    def attr(self, inode: Inode) -> Attr:
        size = len(inode.target) if stat.S_ISLNK(inode.mode) else len(inode.data)
        return Attr(
            node=inode.number,
            mode=inode.mode,
            size=size,
            mtime=inode.mtime,
            nlink=inode.nlink,
            uid=inode.uid,
            gid=inode.gid,
            entry_valid=self.valid,
            attr_valid=self.valid,
            atime=inode.atime,
            ctime=inode.ctime,
            blocks=(size + 511) // 512,
        )

    def handle(self, inode: Inode) -> Opened:
        with self.lock:
            self.last_handle += 1
            self.handles[self.last_handle] = inode.number
            return Opened(self.last_handle, keep_cache=self.keep_cache)

    def opened(self, fh: int) -> Inode:
        with self.lock:
            try:
                return self.inodes[self.handles[fh]]
            except KeyError:
                raise refuse(errno.EBADF) from None

    def drop(self, inode: Inode) -> None:
        if inode.nlink <= 0 and inode.number not in self.handles.values():
            self.inodes.pop(inode.number, None)

    # The contract.

    def lookup(self, parent: int, name: bytes) -> Attr:
        if not getattr(self.thread_values, "started", False):
            self.thread_values.started = True
            self.thread_starts += 1
        slow = self.slow_names.get(name)
        if slow is not None:
            with self.lock:
                self.waiting += 1
            slow.wait()
        with self.lock:
            if self.negative and name not in self.directory(parent).children:
                return Attr(node=0, mode=0, entry_valid=self.negative)
            return self.attr(self.child(parent, name))

    def getattr(self, node: int, fh: int | None = None) -> Attr:
        return self.attr(self.inode(node) if fh is None else self.opened(fh))

    def setattr(self, node: int, change: SetAttr, fh: int | None, caller: Caller) -> Attr:
        with self.lock:
            inode, valid, now = self.inode(node), change.valid, time.time_ns()
            if valid & SET_MODE:
                inode.mode = stat.S_IFMT(inode.mode) | stat.S_IMODE(change.mode)
            if valid & SET_UID:
                inode.uid = change.uid
            if valid & SET_GID:
                inode.gid = change.gid
            if valid & SET_SIZE:
                self.resize(inode, change.size)
            if valid & (SET_ATIME | SET_ATIME_NOW):
                inode.atime = now if valid & SET_ATIME_NOW else change.atime
            if valid & (SET_MTIME | SET_MTIME_NOW):
                inode.mtime = now if valid & SET_MTIME_NOW else change.mtime
            inode.ctime = now
            return self.attr(inode)

    def resize(self, inode: Inode, size: int) -> None:
        del inode.data[size:]
        inode.data.extend(bytes(size - len(inode.data)))
        inode.mtime = time.time_ns()

    def readlink(self, node: int) -> bytes:
        return self.inode(node).target

    def opendir(self, node: int, caller: Caller) -> Opened:
        return Opened(self.handle(self.directory(node)).fh)

    def readdir(self, node: int, fh: int, offset: int) -> Iterator[tuple[bytes, Attr]]:
        with self.lock:  # a place in a listing stays that place, whatever is removed meanwhile
            if offset == 0 or fh not in self.listings:
                self.listings[fh] = list(self.inode(node).children.items())
            names = self.listings[fh]
        for name, number in names[offset:]:
            yield name, self.attr(self.inodes.get(number) or Inode(number, stat.S_IFREG, Caller(0, 0, 0)))

    def releasedir(self, fh: int) -> None:
        self.listings.pop(fh, None)
        self.release(fh)

    def open(self, node: int, flags: int, caller: Caller) -> Opened:
        with self.lock:
            inode = self.inode(node)
            if not inode.mode & 0o222 and flags & os.O_ACCMODE != os.O_RDONLY:
                raise refuse(errno.EROFS)
            if flags & os.O_TRUNC:
                self.resize(inode, 0)
            return self.handle(inode)

    def ready(self, fh: int, offset: int, size: int) -> bool:
        return self.opened(fh).stalled is None

    def read(self, fh: int, offset: int, size: int) -> bytes | memoryview:
        inode = self.opened(fh)
        if inode.stalled is not None:
            inode.stalled.wait()
        with self.lock:
            if fh not in self.handles:
                raise AssertionError("a handle was released while it was being read")
            return bytes(inode.data[offset : offset + size])

    def write(self, fh: int, offset: int, data: memoryview) -> int:
        with self.lock:
            inode = self.opened(fh)
            if offset > len(inode.data):
                inode.data.extend(bytes(offset - len(inode.data)))
            inode.data[offset : offset + len(data)] = data
            inode.mtime = inode.ctime = time.time_ns()
            return len(data)

    def flush(self, fh: int) -> None:
        self.opened(fh)

    def fsync(self, fh: int, datasync: bool) -> None:
        self.opened(fh)

    def fsyncdir(self, node: int) -> None:
        self.directory(node)

    def release(self, fh: int) -> None:
        with self.lock:
            inode = self.opened(fh)
            del self.handles[fh]
            self.drop(inode)

    def create(self, parent: int, name: bytes, mode: int, flags: int, caller: Caller) -> tuple[Attr, Opened]:
        with self.lock:
            if name in self.directory(parent).children:
                if flags & os.O_EXCL:
                    raise refuse(errno.EEXIST)
                inode = self.child(parent, name)
                if flags & os.O_TRUNC:
                    self.resize(inode, 0)
            else:
                inode = self.make(parent, name, stat.S_IFREG | stat.S_IMODE(mode), caller)
            return self.attr(inode), self.handle(inode)

    def mknod(self, parent: int, name: bytes, mode: int, caller: Caller) -> Attr:
        if not stat.S_ISREG(mode):
            raise refuse(errno.EPERM)
        return self.attr(self.make(parent, name, mode, caller))

    def mkdir(self, parent: int, name: bytes, mode: int, caller: Caller) -> Attr:
        return self.attr(self.make(parent, name, stat.S_IFDIR | stat.S_IMODE(mode), caller))

    def symlink(self, parent: int, name: bytes, target: bytes, caller: Caller) -> Attr:
        inode = self.make(parent, name, stat.S_IFLNK | 0o777, caller)
        inode.target = target
        return self.attr(inode)

    def link(self, node: int, parent: int, name: bytes) -> Attr:
        with self.lock:
            inode, directory = self.inode(node), self.directory(parent)
            if name in directory.children:
                raise refuse(errno.EEXIST)
            directory.children[name] = node
            inode.nlink += 1
            return self.attr(inode)

    def unlink(self, parent: int, name: bytes) -> None:
        with self.lock:
            inode = self.child(parent, name)
            if stat.S_ISDIR(inode.mode):
                raise refuse(errno.EISDIR)
            del self.directory(parent).children[name]
            inode.nlink -= 1
            self.drop(inode)

    def rmdir(self, parent: int, name: bytes) -> None:
        with self.lock:
            inode = self.child(parent, name)
            if not stat.S_ISDIR(inode.mode):
                raise refuse(errno.ENOTDIR)
            if inode.children:
                raise refuse(errno.ENOTEMPTY)
            del self.directory(parent).children[name]
            self.directory(parent).nlink -= 1
            inode.nlink = 0
            self.drop(inode)

    def rename(self, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int) -> None:
        with self.lock:
            moved = self.child(parent, name)
            replaced = self.directory(new_parent).children.get(new_name)
            if flags == RENAME_EXCHANGE:
                other = self.child(new_parent, new_name)
                self.directory(parent).children[name] = other.number
                self.directory(new_parent).children[new_name] = moved.number
                return
            if flags & ~RENAME_NOREPLACE:
                raise refuse(errno.EINVAL)
            if replaced is not None:
                if flags & RENAME_NOREPLACE:
                    raise refuse(errno.EEXIST)
                if stat.S_ISDIR(self.inode(replaced).mode):
                    self.rmdir(new_parent, new_name)
                else:
                    self.unlink(new_parent, new_name)
            del self.directory(parent).children[name]
            self.directory(new_parent).children[new_name] = moved.number
            if stat.S_ISDIR(moved.mode):
                self.directory(parent).nlink -= 1
                self.directory(new_parent).nlink += 1

    def fallocate(self, fh: int, mode: int, offset: int, length: int) -> None:
        with self.lock:
            inode = self.opened(fh)
            if mode & FALLOC_PUNCH_HOLE:
                end = min(offset + length, len(inode.data))
                inode.data[offset:end] = bytes(max(0, end - offset))
            elif mode == 0 and offset + length > len(inode.data):
                self.resize(inode, offset + length)
            elif mode & ~FALLOC_KEEP_SIZE:
                raise refuse(errno.EOPNOTSUPP)

    def lseek(self, fh: int, offset: int, whence: int) -> int:
        size = len(self.opened(fh).data)
        if offset >= size:
            raise refuse(errno.ENXIO)
        return size if whence == os.SEEK_HOLE else offset

    def getxattr(self, node: int, name: bytes) -> bytes:
        try:
            return self.inode(node).xattrs[name]
        except KeyError:
            raise refuse(errno.ENODATA) from None

    def setxattr(self, node: int, name: bytes, value: bytes, flags: int) -> None:
        xattrs = self.inode(node).xattrs
        if flags & XATTR_CREATE and name in xattrs:
            raise refuse(errno.EEXIST)
        if flags & XATTR_REPLACE and name not in xattrs:
            raise refuse(errno.ENODATA)
        xattrs[name] = value

    def listxattr(self, node: int) -> list[bytes]:
        return list(self.inode(node).xattrs)

    def removexattr(self, node: int, name: bytes) -> None:
        self.getxattr(node, name)
        del self.inode(node).xattrs[name]

    def statfs(self, node: int) -> StatFS:
        return StatFS(bsize=4096, blocks=1000, bfree=600, bavail=500, files=100, ffree=50)

    def forget(self, node: int, count: int) -> None:
        pass

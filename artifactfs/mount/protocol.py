"""Owns the byte layouts of the kernel's FUSE protocol (version 7.31 and later): opcodes, flags, structures, replies.

Used by ``kernel.py`` and ``dispatch.py`` alone. Pure functions and constants, so callable from any thread. Names and
numbers are those of ``include/uapi/linux/fuse.h``; all integers have the machine's byte order and natural alignment,
which the padding fields of the header make explicit.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from struct import Struct
from typing import Final

from artifactfs.mount.contract import FOREVER, Attr, Opened, StatFS

MAJOR: Final = 7
MIN_MINOR: Final = 31  # Linux 5.4: the first with NO_OPENDIR and the present form of INIT
OUR_MINOR: Final = 38  # Linux 6.2: the layouts below; a newer kernel speaks this one to us


class Op(enum.IntEnum):
    """Requests of the kernel, by number."""

    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    SETATTR = 4
    READLINK = 5
    SYMLINK = 6
    MKNOD = 8
    MKDIR = 9
    UNLINK = 10
    RMDIR = 11
    RENAME = 12
    LINK = 13
    OPEN = 14
    READ = 15
    WRITE = 16
    STATFS = 17
    RELEASE = 18
    FSYNC = 20
    SETXATTR = 21
    GETXATTR = 22
    LISTXATTR = 23
    REMOVEXATTR = 24
    FLUSH = 25
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    FSYNCDIR = 30
    GETLK = 31
    SETLK = 32
    SETLKW = 33
    ACCESS = 34
    CREATE = 35
    INTERRUPT = 36
    BMAP = 37
    DESTROY = 38
    IOCTL = 39
    POLL = 40
    NOTIFY_REPLY = 41
    BATCH_FORGET = 42
    FALLOCATE = 43
    READDIRPLUS = 44
    RENAME2 = 45
    LSEEK = 46
    COPY_FILE_RANGE = 47
    SETUPMAPPING = 48
    REMOVEMAPPING = 49
    SYNCFS = 50
    TMPFILE = 51
    STATX = 52
    COPY_FILE_RANGE_64 = 53


OP_SLOTS: Final = 64  # size of tables by opcode: all that are known, and room; others share the last slot
NO_REPLY: Final = frozenset({Op.FORGET, Op.BATCH_FORGET, Op.INTERRUPT, Op.NOTIFY_REPLY})

# INIT flags.
ASYNC_READ: Final = 1 << 0
ATOMIC_O_TRUNC: Final = 1 << 3
BIG_WRITES: Final = 1 << 5
AUTO_INVAL_DATA: Final = 1 << 12
DO_READDIRPLUS: Final = 1 << 13
NO_OPEN_SUPPORT: Final = 1 << 17
PARALLEL_DIROPS: Final = 1 << 18
MAX_PAGES: Final = 1 << 22
HANDLE_KILLPRIV_V2: Final = 1 << 28
INIT_EXT: Final = 1 << 30  # flags2 counts
PASSTHROUGH: Final = 1 << 5  # of flags2

# Reply flags of OPEN, OPENDIR and CREATE.
FOPEN_DIRECT_IO: Final = 1 << 0
FOPEN_KEEP_CACHE: Final = 1 << 1
FOPEN_CACHE_DIR: Final = 1 << 3
FOPEN_NOFLUSH: Final = 1 << 5
FOPEN_PASSTHROUGH: Final = 1 << 7

# Flags inside requests.
GETATTR_FH: Final = 1 << 0
FATTR_FH: Final = 1 << 6
FATTR_LOCKOWNER: Final = 1 << 9
FATTR_KILL_SUIDGID: Final = 1 << 11
OPEN_KILL_SUIDGID: Final = 1 << 0
WRITE_KILL_SUIDGID: Final = 1 << 2
FSYNC_FDATASYNC: Final = 1 << 0

# Notifications: messages to the kernel with unique 0.
NOTIFY_INVAL_INODE: Final = 2
NOTIFY_INVAL_ENTRY: Final = 3

PAGES: Final = 256  # of 4 KiB in one request: the kernel's own limit (fs.fuse.max_pages_limit)
MAX_WRITE: Final = PAGES * 4096  # 1 MiB
BUFFER: Final = MAX_WRITE + 4096  # the largest request: a write of 1 MiB and its headers
UNKNOWN_INO: Final = 0xFFFFFFFF  # inode number of "..", as in libfuse: nobody looks at it
BLOCK_SIZE: Final = 4096
NAME_MAX: Final = 255  # bytes; the kernel itself would pass on 1,024

IN_HEADER: Final = Struct("=IIQQIIIHH")  # len opcode unique nodeid uid gid pid total_extlen padding
OUT_HEADER: Final = Struct("=IiQ")  # len -errno unique
BODY: Final = IN_HEADER.size  # where a request's own fields start
HEADER: Final = OUT_HEADER.size

INIT_IN: Final = Struct("=IIIII")  # major minor max_readahead flags flags2
# major minor max_readahead flags max_background congestion_threshold max_write time_gran max_pages map_alignment flags2
# max_stack_depth
INIT_OUT: Final = Struct("=IIIIHHIIHHII24x")
U32: Final = Struct("=I")
U64: Final = Struct("=Q")
TWO_U32: Final = Struct("=II")
TWO_U64: Final = Struct("=QQ")
SETATTR_IN: Final = Struct("=IIQQQqqqIIIIIIII")
READ_IN: Final = Struct("=QQI")  # fh offset size: also READDIR and READDIRPLUS
WRITE_IN: Final = Struct("=QQII")  # fh offset size write_flags
WRITE_DATA: Final = BODY + 40
FOUR_U32: Final = Struct("=IIII")
GETATTR_IN: Final = Struct("=IIQ")  # flags dummy fh
FSYNC_IN: Final = Struct("=QI")  # fh flags
RENAME2_IN: Final = Struct("=QII")
FALLOCATE_IN: Final = Struct("=QQQI")  # fh offset length mode
LSEEK_IN: Final = Struct("=QQI")  # fh offset whence

OPEN_OUT: Final = Struct("=QII")
WRITE_OUT: Final = Struct("=II")
STATFS_OUT: Final = Struct("=QQQQQIIII24x")
INVAL_INODE: Final = Struct("=Qqq")
INVAL_ENTRY: Final = Struct("=QII")

_ATTR = "QQQqqqIIIIIIIIII"  # ino size blocks a/m/ctime, their nanoseconds, mode nlink uid gid rdev blksize flags
_ENTRY = "QQQQII"  # nodeid generation entry_valid attr_valid, their nanoseconds
ENTRY_OUT: Final = Struct("=" + _ENTRY + _ATTR)
ATTR_OUT: Final = Struct("=QII" + _ATTR)
DIRENT: Final = Struct("=QQII")  # ino offset namelen type
DIRENTPLUS: Final = Struct("=" + _ENTRY + _ATTR + "QQII")

_SECOND: Final = 1_000_000_000  # nanoseconds


def _validity(seconds: float) -> tuple[int, int]:
    if seconds <= 0:
        return 0, 0
    if seconds >= FOREVER:
        return int(FOREVER), 0
    whole = int(seconds)
    return whole, int((seconds - whole) * _SECOND)


def pack_entry(attr: Attr) -> bytes:
    """The reply of LOOKUP and of everything that makes a name (``fuse_entry_out``)."""
    entry_s, entry_ns = _validity(attr.entry_valid)
    attr_s, attr_ns = _validity(attr.attr_valid)
    atime_s, atime_ns = divmod(attr.atime, _SECOND)
    mtime_s, mtime_ns = divmod(attr.mtime, _SECOND)
    ctime_s, ctime_ns = divmod(attr.ctime, _SECOND)
    return ENTRY_OUT.pack(
        attr.node, 0, entry_s, attr_s, entry_ns, attr_ns,
        attr.node, attr.size, attr.blocks, atime_s, mtime_s, ctime_s, atime_ns, mtime_ns, ctime_ns,
        attr.mode, attr.nlink, attr.uid, attr.gid, 0, BLOCK_SIZE, 0,
    )  # fmt: skip


def pack_attr(attr: Attr) -> bytes:
    """The reply of GETATTR and SETATTR (``fuse_attr_out``)."""
    attr_s, attr_ns = _validity(attr.attr_valid)
    atime_s, atime_ns = divmod(attr.atime, _SECOND)
    mtime_s, mtime_ns = divmod(attr.mtime, _SECOND)
    ctime_s, ctime_ns = divmod(attr.ctime, _SECOND)
    return ATTR_OUT.pack(
        attr_s, attr_ns, 0,
        attr.node, attr.size, attr.blocks, atime_s, mtime_s, ctime_s, atime_ns, mtime_ns, ctime_ns,
        attr.mode, attr.nlink, attr.uid, attr.gid, 0, BLOCK_SIZE, 0,
    )  # fmt: skip


def pack_open(opened: Opened, backing: int = 0) -> bytes:
    """The reply of OPEN and OPENDIR, and the second half of CREATE's (``fuse_open_out``); ``backing`` as Passthrough gives it."""
    if backing:
        return OPEN_OUT.pack(opened.fh, FOPEN_PASSTHROUGH | FOPEN_NOFLUSH * opened.noflush, backing)
    flags = (
        FOPEN_DIRECT_IO * opened.direct
        | FOPEN_KEEP_CACHE * opened.keep_cache
        | FOPEN_CACHE_DIR * opened.cache_dir
        | FOPEN_NOFLUSH * opened.noflush
    )
    return OPEN_OUT.pack(opened.fh, flags, 0)


def pack_statfs(numbers: StatFS) -> bytes:
    """The reply of STATFS."""
    return STATFS_OUT.pack(
        numbers.blocks,
        numbers.bfree,
        numbers.bavail,
        numbers.files,
        numbers.ffree,
        numbers.bsize,
        NAME_MAX,
        numbers.bsize,
        0,
    )


def pack_dots(buffer: bytearray, limit: int, node: int, offset: int, *, plus: bool) -> int:
    """Write ``.`` and ``..``, of which ``offset`` were already read, at the start of ``buffer``; returns bytes used.

    In a READDIRPLUS reply they carry node 0: the kernel must not count lookups of them.
    """
    used = 0
    prefix = bytes(ENTRY_OUT.size) if plus else b""
    for position, (name, ino) in enumerate(((b".", node), (b"..", UNKNOWN_INO)), start=1):
        if position > offset:
            record = prefix + DIRENT.pack(ino, position, len(name), 0o040000 >> 12) + name.ljust(8, b"\0")
            if used + len(record) > limit:
                break
            buffer[used : used + len(record)] = record
            used += len(record)
    return used


def pack_listing(
    buffer: bytearray, used: int, limit: int, offset: int, entries: Iterable[tuple[bytes, Attr]]
) -> tuple[int, int, tuple[bytes, Attr] | None]:
    """Write a READDIR reply from ``used`` on; as :func:`pack_listing_plus`."""
    pack_into, head = DIRENT.pack_into, DIRENT.size
    for entry in entries:
        name, attr = entry
        end = used + head + len(name)
        padded = (end + 7) & ~7
        if padded > limit:
            return used, offset, entry
        offset += 1
        pack_into(buffer, used, attr.node, offset, len(name), attr.mode >> 12)
        buffer[used + head : end] = name
        used = padded
    return used, offset, None


def pack_listing_plus(
    buffer: bytearray, used: int, limit: int, offset: int, entries: Iterable[tuple[bytes, Attr]]
) -> tuple[int, int, tuple[bytes, Attr] | None]:
    """Write a READDIRPLUS reply into ``buffer`` from ``used`` on, up to ``limit`` bytes.

    ``offset`` is the kernel's offset of the entry before the first. Returns the bytes used, the offset of the last
    entry written, and the entry that found no room, if any. This is the hottest loop of a cold ``find``: entries of a
    listing mostly share times and validity, so these are split only when they differ from the entry before, and
    each entry is one ``pack_into`` of the preallocated buffer (padding keeps whatever bytes were there).
    """
    pack_into, head = DIRENTPLUS.pack_into, DIRENTPLUS.size
    entry_valid = attr_valid = 0.0
    entry_s = entry_ns = attr_s = attr_ns = 0
    atime = mtime = ctime = atime_s = atime_ns = mtime_s = mtime_ns = ctime_s = ctime_ns = 0
    for entry in entries:
        name, attr = entry
        length = len(name)
        end = used + head + length
        padded = (end + 7) & ~7
        if padded > limit:
            return used, offset, entry
        offset += 1
        if attr.entry_valid != entry_valid:
            entry_valid = attr.entry_valid
            entry_s, entry_ns = _validity(entry_valid)
        if attr.attr_valid != attr_valid:
            attr_valid = attr.attr_valid
            attr_s, attr_ns = _validity(attr_valid)
        if attr.mtime != mtime:
            mtime = attr.mtime
            mtime_s, mtime_ns = divmod(mtime, _SECOND)
        if attr.atime != atime:
            atime = attr.atime
            atime_s, atime_ns = divmod(atime, _SECOND)
        if attr.ctime != ctime:
            ctime = attr.ctime
            ctime_s, ctime_ns = divmod(ctime, _SECOND)
        node, mode = attr.node, attr.mode
        pack_into(
            buffer, used,
            node, 0, entry_s, attr_s, entry_ns, attr_ns,
            node, attr.size, attr.blocks, atime_s, mtime_s, ctime_s, atime_ns, mtime_ns, ctime_ns,
            mode, attr.nlink, attr.uid, attr.gid, 0, BLOCK_SIZE, 0,
            node, offset, length, mode >> 12,
        )  # fmt: skip
        buffer[used + head : end] = name
        used = padded
    return used, offset, None

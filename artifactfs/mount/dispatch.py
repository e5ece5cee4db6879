"""Owns the translation of kernel requests into calls of the tree, and the rule which thread makes them.

Used by ``kernel.py`` alone. The rule: a :class:`Dispatcher` thread reads a request, carries it out and replies itself,
because handing a hot read to another thread costs 1.3-2 times as much. Only requests known beforehand to wait go to
the pool: reads that the tree does not call ready, fsync and fsyncdir. Whatever else turns out to wait (a lookup that
fetches a node) keeps its dispatcher, and ``kernel.py`` starts others in its place.

Threading: a dispatcher's buffers belong to its thread; everything shared is in :class:`Shared`, whose parts are safe.
"""

from __future__ import annotations

import errno
import mmap
import os
import stat
import threading
from collections.abc import Callable
from struct import Struct
from typing import Final

from artifactfs.mount.connection import WAITING, Connection, Payload
from artifactfs.mount.contract import SET_GID, SET_MODE, SET_SIZE, SET_UID, Caller, SetAttr, Tree
from artifactfs.mount.errnos import errno_of
from artifactfs.mount.handles import ImplicitHandles, InUse, Listings
from artifactfs.mount.passthrough import Passthrough
from artifactfs.mount.protocol import (
    BODY,
    BUFFER,
    FALLOCATE_IN,
    FATTR_FH,
    FATTR_KILL_SUIDGID,
    FATTR_LOCKOWNER,
    FOUR_U32,
    FSYNC_FDATASYNC,
    FSYNC_IN,
    GETATTR_FH,
    GETATTR_IN,
    IN_HEADER,
    LSEEK_IN,
    NAME_MAX,
    NO_REPLY,
    OP_SLOTS,
    OPEN_KILL_SUIDGID,
    READ_IN,
    RENAME2_IN,
    SETATTR_IN,
    TWO_U32,
    TWO_U64,
    U32,
    U64,
    WRITE_DATA,
    WRITE_IN,
    WRITE_KILL_SUIDGID,
    WRITE_OUT,
    Op,
    pack_attr,
    pack_dots,
    pack_entry,
    pack_listing,
    pack_listing_plus,
    pack_open,
    pack_statfs,
)
from artifactfs.mount.waiting import WaitingPool

# Requests that change nothing can be given up: the killed process gets EINTR, the result is dropped when it comes. A
# read or fsync only while it waits in the pool, which keeps its handle open until the thread has left.
INTERRUPTIBLE: Final = frozenset(
    {
        Op.LOOKUP,
        Op.GETATTR,
        Op.READLINK,
        Op.OPEN,
        Op.OPENDIR,
        Op.READDIR,
        Op.READDIRPLUS,
        Op.STATFS,
        Op.GETXATTR,
        Op.LISTXATTR,
        Op.READ + WAITING,
        Op.FSYNC + WAITING,
        Op.FSYNCDIR + WAITING,
    }
)
POOLED: Final = frozenset({Op.READ, Op.FSYNC, Op.FSYNCDIR})

# Operations that the kernel carries out itself, or tells its callers of, once it has seen ENOSYS: access checks, poll,
# copies by read and write, statx by getattr, O_TMPFILE (then EOPNOTSUPP), syncfs (its own part is all there is), bmap.
# ioctl must say "no such ioctl for this file" instead. Locks are never sent, since INIT did not ask for them.
_REFUSED: Final = {Op.IOCTL: errno.ENOTTY}

_IDS: Final = 24  # where uid, gid and pid stand in the header
_THREE_U32: Final = Struct("=III")


class Shared:
    """What all dispatchers of a mount work on."""

    def __init__(
        self, tree: Tree, connection: Connection, *, max_waiting: int, no_open: bool, passthrough: Passthrough
    ) -> None:
        self.tree = tree
        self.passthrough = passthrough
        self.connection = connection
        self.pool = WaitingPool(max_waiting, connection.retire_thread)
        self.listings = Listings(tree)
        self.in_use = InUse()
        self.implicit = ImplicitHandles(tree) if no_open else None


class Dispatcher:
    """A thread that reads requests from the connection and answers them.

    ``serial`` is odd while a request is being carried out, and grows with each. A dispatcher that was ``replaced``,
    because it was in one request for too long, ends after it. ``ended`` is called once, before its last reply.
    """

    def __init__(self, shared: Shared, ended: Callable[[Dispatcher], None]) -> None:
        self.serial = 0
        self.replaced = False
        self._ended = ended
        self._shared = shared
        self._tree = shared.tree
        self._connection = shared.connection
        # Mapped, so that of the many that stuck dispatchers hold only what requests were written to takes memory.
        self._buffer = self._view = memoryview(mmap.mmap(-1, BUFFER))
        self._listing = bytearray(4096)
        self._handlers: list[Callable[[int, int, int], object] | None] = [None] * OP_SLOTS
        for op in Op:
            self._handlers[op] = getattr(self, f"_{op.name.lower()}", None)
        if shared.implicit is not None:
            for op in (Op.OPEN, Op.FLUSH):
                self._handlers[op] = None  # ENOSYS, once: the kernel does without from then on
            self._handlers[Op.READ] = self._read_unopened
            self._handlers[Op.LSEEK] = self._lseek_unopened

    def start(self) -> None:
        """Serve in a thread of its own until the kernel ends the connection, or the dispatcher was replaced."""
        threading.Thread(target=self._run, name="fuse-dispatcher", daemon=True).start()

    def _run(self) -> None:
        connection = self._connection
        try:
            self._serve(connection)
        finally:
            self._ended(self)
            connection.retire_thread()

    def _serve(self, connection: Connection) -> None:
        fd, buffer, readv, unpack_from = connection.fd, self._buffer, os.readv, IN_HEADER.unpack_from
        buffers, handlers, inflight = [self._view], self._handlers, connection.inflight
        requests, last = connection.requests.mine(), OP_SLOTS - 1
        expects_reply = [op not in NO_REPLY for op in range(OP_SLOTS)]
        while True:
            try:
                size = readv(fd, buffers)
            except OSError as error:
                if error.errno in {errno.ENOENT, errno.EINTR, errno.EAGAIN}:
                    continue  # ENOENT: the request was interrupted before it could be read
                connection.gone.set()  # ENODEV: unmounted
                return
            if size < BODY:
                connection.gone.set()  # /dev/null, after Connection.shut
                return
            self.serial += 1
            _, op, unique, node, _, _, _, _, _ = unpack_from(buffer)
            if op > last:  # noqa: PLR1730 - min() costs a call per request
                op = last
            requests[op] += 1
            if expects_reply[op]:
                inflight[unique] = op
            if connection.closing:
                self._ended(self)
                connection.error(unique, errno.ENOTCONN)
                return
            handler = handlers[op]
            try:
                if handler is None:
                    connection.error(unique, _REFUSED.get(op, errno.ENOSYS))
                else:
                    handler(unique, node, size)
            except BaseException as error:  # whatever happens, the caller in the kernel must get its reply
                connection.error(unique, errno_of(error))
            self.serial += 1
            if self.replaced:
                return

    # What requests are made of.

    def _caller(self, umask: int = 0) -> Caller:
        uid, gid, pid = _THREE_U32.unpack_from(self._buffer, _IDS)
        return Caller(uid, gid, pid, umask)

    def _name(self, start: int, size: int) -> bytes:
        return bytes(self._view[start : size - 1])

    def _names(self, start: int, size: int) -> list[bytes]:
        return bytes(self._view[start : size - 1]).split(b"\0")

    # Names and attributes.

    def _lookup(self, unique: int, node: int, size: int) -> None:
        if size - 1 - BODY > NAME_MAX:  # every new name is looked up first, so this is the one place to refuse it
            self._connection.error(unique, errno.ENAMETOOLONG)
            return
        attr = self._tree.lookup(node, bytes(self._view[BODY : size - 1]))
        if attr.node or attr.entry_valid:
            self._connection.reply(unique, pack_entry(attr))
        else:
            self._connection.error(unique, errno.ENOENT)

    def _forget(self, unique: int, node: int, size: int) -> None:
        del unique, size
        self._tree.forget(node, U64.unpack_from(self._buffer, BODY)[0])

    def _batch_forget(self, unique: int, node: int, size: int) -> None:
        del unique, node, size
        (count,) = U32.unpack_from(self._buffer, BODY)
        forget, start = self._tree.forget, BODY + 8
        for node_id, lookups in TWO_U64.iter_unpack(self._view[start : start + count * TWO_U64.size]):
            forget(node_id, lookups)

    def _getattr(self, unique: int, node: int, size: int) -> None:
        del size
        flags, _, fh = GETATTR_IN.unpack_from(self._buffer, BODY)
        known = flags & GETATTR_FH and self._shared.implicit is None
        self._connection.reply(unique, pack_attr(self._tree.getattr(node, fh if known else None)))

    def _setattr(self, unique: int, node: int, size: int) -> None:
        del size
        valid, _, fh, length, _, atime, mtime, ctime, atime_ns, mtime_ns, ctime_ns, mode, _, uid, gid, _ = (
            SETATTR_IN.unpack_from(self._buffer, BODY)
        )
        if valid & (SET_UID | SET_GID) or (valid & SET_SIZE and valid & FATTR_KILL_SUIDGID):
            self._strip_privileges(node)
        change = SetAttr(
            valid & ~(FATTR_FH | FATTR_LOCKOWNER | FATTR_KILL_SUIDGID),
            mode=mode,
            uid=uid,
            gid=gid,
            size=length,
            atime=atime * 1_000_000_000 + atime_ns,
            mtime=mtime * 1_000_000_000 + mtime_ns,
            ctime=ctime * 1_000_000_000 + ctime_ns,
        )
        attr = self._tree.setattr(node, change, fh if valid & FATTR_FH else None, self._caller())
        self._connection.reply(unique, pack_attr(attr))

    def _strip_privileges(self, node: int) -> None:
        """Take set-uid and set-gid off a file that is written, truncated or given away, as HANDLE_KILLPRIV_V2 asks.

        In return the kernel does not look for ``security.capability`` before each write, which would cost a request.
        """
        mode = self._tree.getattr(node).mode
        drop = stat.S_ISUID | (stat.S_ISGID if mode & stat.S_IXGRP else 0)
        if stat.S_ISREG(mode) and mode & drop:
            change = SetAttr(SET_MODE, mode=mode & ~drop)
            self._tree.setattr(node, change, None, self._caller())

    def _readlink(self, unique: int, node: int, size: int) -> None:
        del size
        self._connection.reply(unique, self._tree.readlink(node))

    def _statfs(self, unique: int, node: int, size: int) -> None:
        del size
        self._connection.reply(unique, pack_statfs(self._tree.statfs(node)))

    # Changes of the tree.

    def _symlink(self, unique: int, node: int, size: int) -> None:
        name, target = self._names(BODY, size)
        self._connection.reply(unique, pack_entry(self._tree.symlink(node, name, target, self._caller())))

    def _mknod(self, unique: int, node: int, size: int) -> None:
        mode, _, umask, _ = FOUR_U32.unpack_from(self._buffer, BODY)
        attr = self._tree.mknod(node, self._name(BODY + 16, size), mode, self._caller(umask))
        self._connection.reply(unique, pack_entry(attr))

    def _mkdir(self, unique: int, node: int, size: int) -> None:
        mode, umask = TWO_U32.unpack_from(self._buffer, BODY)
        attr = self._tree.mkdir(node, self._name(BODY + 8, size), stat.S_IFDIR | mode, self._caller(umask))
        self._connection.reply(unique, pack_entry(attr))

    def _unlink(self, unique: int, node: int, size: int) -> None:
        self._tree.unlink(node, self._name(BODY, size))
        self._connection.reply(unique)

    def _rmdir(self, unique: int, node: int, size: int) -> None:
        self._tree.rmdir(node, self._name(BODY, size))
        self._connection.reply(unique)

    def _rename(self, unique: int, node: int, size: int) -> None:
        (new_parent,) = U64.unpack_from(self._buffer, BODY)
        name, new_name = self._names(BODY + 8, size)
        self._tree.rename(node, name, new_parent, new_name, 0)
        self._connection.reply(unique)

    def _rename2(self, unique: int, node: int, size: int) -> None:
        new_parent, flags, _ = RENAME2_IN.unpack_from(self._buffer, BODY)
        name, new_name = self._names(BODY + 16, size)
        self._tree.rename(node, name, new_parent, new_name, flags)
        self._connection.reply(unique)

    def _link(self, unique: int, node: int, size: int) -> None:
        (existing,) = U64.unpack_from(self._buffer, BODY)
        attr = self._tree.link(existing, node, self._name(BODY + 8, size))
        self._connection.reply(unique, pack_entry(attr))

    # Files.

    def _open(self, unique: int, node: int, size: int) -> None:
        del size
        flags, open_flags = TWO_U32.unpack_from(self._buffer, BODY)
        opened = self._tree.open(node, flags, self._caller())
        if open_flags & OPEN_KILL_SUIDGID:
            self._strip_privileges(node)
        passthrough, backing = self._shared.passthrough, 0
        if opened.backing is not None:
            path = opened.backing
            if not path and passthrough.undecided(node):
                path = self._tree.verified_backing(opened.fh)
            backing = passthrough.enter(opened.fh, node, path)
        if not self._connection.reply(unique, pack_open(opened, backing)):
            passthrough.leave(opened.fh)
            self._tree.release(opened.fh)

    def _create(self, unique: int, node: int, size: int) -> None:
        flags, mode, umask, _ = FOUR_U32.unpack_from(self._buffer, BODY)
        attr, opened = self._tree.create(node, self._name(BODY + 16, size), mode, flags, self._caller(umask))
        if not self._connection.reply(unique, pack_entry(attr) + pack_open(opened)):
            self._tree.release(opened.fh)

    def _read(self, unique: int, node: int, size: int) -> None:
        del size
        fh, offset, length = READ_IN.unpack_from(self._buffer, BODY)
        tree = self._tree
        if tree.ready(fh, offset, length):
            self._connection.reply(unique, tree.read(fh, offset, length))
        else:
            self._wait(unique, Op.READ, node, lambda: tree.read(fh, offset, length), fh)

    def _read_unopened(self, unique: int, node: int, size: int) -> None:
        """READ of a file whose open was never sent: by a handle of our own."""
        del size
        implicit, tree = self._shared.implicit, self._tree
        assert implicit is not None  # noqa: S101 - installed only then
        _, offset, length = READ_IN.unpack_from(self._buffer, BODY)
        fh = implicit.enter(node, self._caller())

        def read() -> Payload:
            return tree.read(fh, offset, length)

        pooled = False
        try:
            if tree.ready(fh, offset, length):
                self._connection.reply(unique, read())
            else:
                pooled = self._wait(unique, Op.READ, node, read, leave=lambda: implicit.leave(node))
        finally:
            if not pooled:
                implicit.leave(node)

    def _write(self, unique: int, node: int, size: int) -> None:
        del size
        fh, offset, length, flags = WRITE_IN.unpack_from(self._buffer, BODY)
        written = self._tree.write(fh, offset, self._view[WRITE_DATA : WRITE_DATA + length])
        if flags & WRITE_KILL_SUIDGID:
            self._strip_privileges(node)
        self._connection.reply(unique, WRITE_OUT.pack(written, 0))

    def _flush(self, unique: int, node: int, size: int) -> None:
        del node, size
        self._tree.flush(U64.unpack_from(self._buffer, BODY)[0])
        self._connection.reply(unique)

    def _release(self, unique: int, node: int, size: int) -> None:
        del node, size
        (fh,) = U64.unpack_from(self._buffer, BODY)
        self._shared.passthrough.leave(fh)
        if self._shared.in_use.release(fh):
            self._tree.release(fh)
        self._connection.reply(unique)

    def _fsync(self, unique: int, node: int, size: int) -> None:
        del size
        fh, flags = FSYNC_IN.unpack_from(self._buffer, BODY)

        def fsync() -> Payload:
            self._tree.fsync(fh, bool(flags & FSYNC_FDATASYNC))
            return b""

        self._wait(unique, Op.FSYNC, node, fsync, fh)

    def _fallocate(self, unique: int, node: int, size: int) -> None:
        del node, size
        fh, offset, length, mode = FALLOCATE_IN.unpack_from(self._buffer, BODY)
        self._tree.fallocate(fh, mode, offset, length)
        self._connection.reply(unique)

    def _lseek(self, unique: int, node: int, size: int) -> None:
        del node, size
        fh, offset, whence = LSEEK_IN.unpack_from(self._buffer, BODY)
        self._connection.reply(unique, U64.pack(self._tree.lseek(fh, offset, whence)))

    def _lseek_unopened(self, unique: int, node: int, size: int) -> None:
        del size
        implicit = self._shared.implicit
        assert implicit is not None  # noqa: S101 - installed only then
        _, offset, whence = LSEEK_IN.unpack_from(self._buffer, BODY)
        fh = implicit.enter(node, self._caller())
        try:
            self._connection.reply(unique, U64.pack(self._tree.lseek(fh, offset, whence)))
        finally:
            implicit.leave(node)

    # Directories.

    def _opendir(self, unique: int, node: int, size: int) -> None:
        del size
        opened = self._tree.opendir(node, self._caller())
        if not self._connection.reply(unique, pack_open(opened)):
            self._tree.releasedir(opened.fh)

    def _readdir(self, unique: int, node: int, size: int) -> None:
        del size
        self._list(unique, node, plus=False)

    def _readdirplus(self, unique: int, node: int, size: int) -> None:
        del size
        self._list(unique, node, plus=True)

    def _list(self, unique: int, node: int, *, plus: bool) -> None:
        fh, offset, limit = READ_IN.unpack_from(self._buffer, BODY)
        if len(self._listing) < limit:
            self._listing = bytearray(limit)
        out = self._listing
        used = pack_dots(out, limit, node, offset, plus=plus)
        listings, kept = self._shared.listings, None
        cursor = listings.take(node, fh, max(0, offset - 2))  # the first two offsets are . and ..
        try:
            pack = pack_listing_plus if plus else pack_listing
            used, reached, left = pack(out, used, limit, cursor.offset + 2, cursor)
            cursor.offset = reached - 2
            if left is not None:
                cursor.push_back(left)
            kept = cursor
        finally:
            listings.give_back(fh, kept)
        self._connection.reply(unique, memoryview(out)[:used])

    def _releasedir(self, unique: int, node: int, size: int) -> None:
        del node, size
        self._shared.listings.release(U64.unpack_from(self._buffer, BODY)[0])
        self._connection.reply(unique)

    def _fsyncdir(self, unique: int, node: int, size: int) -> None:
        del size

        def fsync() -> Payload:
            self._tree.fsyncdir(node)
            return b""

        self._wait(unique, Op.FSYNCDIR, node, fsync)

    # Extended attributes: a size of 0 asks how long the value is.

    def _getxattr(self, unique: int, node: int, size: int) -> None:
        (room,) = U32.unpack_from(self._buffer, BODY)
        self._sized(unique, room, self._tree.getxattr(node, self._name(BODY + 8, size)))

    def _listxattr(self, unique: int, node: int, size: int) -> None:
        del size
        (room,) = U32.unpack_from(self._buffer, BODY)
        self._sized(unique, room, b"".join(name + b"\0" for name in self._tree.listxattr(node)))

    def _sized(self, unique: int, room: int, value: bytes) -> None:
        if room == 0:
            self._connection.reply(unique, TWO_U32.pack(len(value), 0))
        elif len(value) > room:
            self._connection.error(unique, errno.ERANGE)
        else:
            self._connection.reply(unique, value)

    def _setxattr(self, unique: int, node: int, size: int) -> None:
        length, flags = TWO_U32.unpack_from(self._buffer, BODY)
        name, _, value = bytes(self._view[BODY + 8 : size]).partition(b"\0")
        self._tree.setxattr(node, name, value[:length], flags)
        self._connection.reply(unique)

    def _removexattr(self, unique: int, node: int, size: int) -> None:
        self._tree.removexattr(node, self._name(BODY, size))
        self._connection.reply(unique)

    # Requests that wait, and the ends of things.

    def _wait(
        self,
        unique: int,
        op: Op,
        node: int,
        action: Callable[[], Payload],
        fh: int | None = None,
        leave: Callable[[], None] | None = None,
    ) -> bool:
        """Have the pool carry out ``action`` and reply; False when the reply (EBUSY or EINTR) has been made here.

        A read that finds no place among those that wait is EBUSY: it passes, which EIO would not say, and programs that see
        EAGAIN of a file try again at once and without end. An fsync, which waits for the local disk alone, is then carried out
        here: refused, it would be taken for lost data. ``fh`` stays open until the action has ended, also when the kernel gives
        it up before.
        """
        connection, in_use, tree = self._connection, self._shared.in_use, self._tree
        connection.inflight[unique] = op + WAITING
        if unique in connection.interrupted:
            connection.error(unique, errno.EINTR)
            return False
        if fh is not None:
            in_use.enter(fh)

        def job() -> None:
            try:
                if unique in connection.inflight:
                    connection.reply(unique, action())
            except BaseException as error:  # as in a dispatcher: the caller must get its reply
                connection.error(unique, errno_of(error))
            finally:
                if fh is not None and in_use.leave(fh):
                    tree.release(fh)
                if leave is not None:
                    leave()

        if self._shared.pool.submit(job, node):
            return True
        if op != Op.READ:
            job()
            return True
        connection.error(unique, errno.EBUSY)
        if fh is not None and in_use.leave(fh):
            tree.release(fh)
        return False

    def _interrupt(self, unique: int, node: int, size: int) -> None:
        del node, size
        (target,) = U64.unpack_from(self._buffer, BODY)
        connection = self._connection
        op = connection.inflight.get(target)
        if op is None:  # another thread has read it but not noted it yet, or it has been answered
            connection.ask_again(unique)
            return
        if op in POOLED:  # it may be on its way to the pool, which looks here
            connection.interrupted.add(target)
            op = connection.inflight.get(target)
            if op is None:
                connection.interrupted.discard(target)
                return
        if op in INTERRUPTIBLE:
            connection.error(target, errno.EINTR)

    def _destroy(self, unique: int, node: int, size: int) -> None:
        del node, size
        self._connection.reply(unique)

"""Owns the life of a mount that speaks the kernel's FUSE protocol on /dev/fuse directly: the first of the two bindings.

Used by the mount process. ``connection.py`` writes replies, ``dispatch.py`` reads requests and calls the tree,
``protocol.py`` knows the bytes, ``attach.py`` makes and removes the mount. Public methods may be called from any
thread, except that nothing that answers a request may call :meth:`KernelMount.unmount` or a notification.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from typing import Final

from artifactfs.errors import ArtifactFSError, NotFound, Unavailable
from artifactfs.mount import attach
from artifactfs.mount.attach import MountOptions
from artifactfs.mount.connection import Connection
from artifactfs.mount.contract import Tree
from artifactfs.mount.dispatch import Dispatcher, Shared
from artifactfs.mount.passthrough import Passthrough
from artifactfs.mount.protocol import (
    ASYNC_READ,
    ATOMIC_O_TRUNC,
    AUTO_INVAL_DATA,
    BIG_WRITES,
    BODY,
    BUFFER,
    DO_READDIRPLUS,
    HANDLE_KILLPRIV_V2,
    HEADER,
    IN_HEADER,
    INIT_EXT,
    INIT_IN,
    INIT_OUT,
    INVAL_ENTRY,
    INVAL_INODE,
    MAJOR,
    MAX_PAGES,
    MAX_WRITE,
    MIN_MINOR,
    NO_OPEN_SUPPORT,
    NOTIFY_INVAL_ENTRY,
    NOTIFY_INVAL_INODE,
    OUR_MINOR,
    OUT_HEADER,
    PAGES,
    PARALLEL_DIROPS,
    PASSTHROUGH,
    Op,
)

# Readahead and other requests that no caller waits for count against max_background, by default 12: with that, 40
# stalled reads delayed a stat by 17 s. The kernel lowers it for users when memory is small.
MAX_BACKGROUND: Final = 4096
TICK_SECONDS: Final = 0.1  # a dispatcher that was in one request at two ticks is replaced
STUCK_TICK_SECONDS: Final = 0.02  # as long as any is
DRAIN_SECONDS: Final = 5.0  # what serve() grants requests that still wait when the mount has gone

# ATOMIC_O_TRUNC: O_TRUNC arrives with the open, so that there is no moment of an opened, untruncated file.
# DO_READDIRPLUS without READDIRPLUS_AUTO: every listing carries attributes; changing mode inside one lost entries.
# Not asked for: ASYNC_DIO (the caller of a stalled O_DIRECT read could not even be killed), WRITEBACK_CACHE (the daemon
# must see writes), locks (the kernel keeps them itself), CACHE_SYMLINKS (an alias switches at once), EXPORT_SUPPORT (no
# NFS handles), NO_OPENDIR_SUPPORT (a listing would be cached for ever).
_WANTED: Final = (
    ASYNC_READ | ATOMIC_O_TRUNC | BIG_WRITES | DO_READDIRPLUS | PARALLEL_DIROPS | MAX_PAGES | HANDLE_KILLPRIV_V2
)
# Without opens nothing but a changed time or size tells the kernel that a file's pages (of control files) are old.
# Not wanted otherwise: each write to staging would throw the file's cached pages away.
_WANTED_WITHOUT_OPENS: Final = NO_OPEN_SUPPORT | AUTO_INVAL_DATA


class KernelMount:
    """A tree mounted at a directory. Call :meth:`mount`, then :meth:`serve`; :meth:`unmount` from anywhere ends it."""

    def __init__(self, tree: Tree, mountpoint: str, options: MountOptions) -> None:
        self._tree = tree
        self._path = mountpoint
        self._options = options
        self._lock = threading.Lock()
        self._dispatchers: list[Dispatcher] = []
        self._all_ended = threading.Event()
        self._connection: Connection | None = None
        self._shared: Shared | None = None
        self._device = ""

    @property
    def counts(self) -> dict[str, int]:
        """Requests so far by lower-case opcode name."""
        return self._connection.requests.total() if self._connection else {}

    @property
    def replies(self) -> dict[str, int]:
        """Replies so far by the opcode of their request: equal to ``counts`` when none is being worked on."""
        return self._connection.replies.total() if self._connection else {}

    def mount(self) -> None:
        """Mount and start serving. Returns when the kernel and this binding have agreed on the protocol.

        The threads start here, so a process that detaches from its terminal forks before. Raises Access,
        Conflict, InvalidInput, NotFound or Unavailable with what to do about it.
        """
        self._path = attach.prepare(self._path, self._options)
        fd = attach.attach(self._path, self._options)
        try:
            passthrough = self._negotiate(fd)
        except BaseException:
            os.close(fd)
            with contextlib.suppress(ArtifactFSError):
                attach.detach(self._path, lazy=True)
            raise
        entry = attach.find_mount(self._path)
        self._device = entry.device if entry else ""
        connection = self._connection = Connection(fd)
        no_open = self._options.no_open and self._options.read_only
        self._shared = Shared(
            self._tree,
            connection,
            max_waiting=self._options.max_waiting,
            no_open=no_open,
            passthrough=Passthrough(fd, enabled=passthrough),
        )
        for _ in range(max(1, self._options.threads)):
            self._start_dispatcher()
        threading.Thread(target=self._watch, name="fuse-watch", daemon=True).start()
        attach.raise_read_ahead(self._path)

    def serve(self) -> None:
        """Wait until the mount has been removed, by whomever, and its requests have ended or DRAIN_SECONDS are over."""
        connection, shared = self._connection, self._shared
        if connection is None or shared is None:
            raise Unavailable("nothing is mounted yet: call mount() first")
        connection.gone.wait()
        self._all_ended.wait(DRAIN_SECONDS)
        idle = shared.pool.drain(DRAIN_SECONDS)
        if idle and shared.implicit is not None:
            shared.implicit.close()
        connection.shut()
        entry = attach.find_mount(self._path)
        if entry is not None and entry.device == self._device:  # cut, not unmounted: leave no dead mount behind
            with contextlib.suppress(ArtifactFSError):
                attach.detach(self._path, lazy=True)

    def unmount(self) -> None:
        """Remove the mount, cleanly if nothing uses it; else write back what is dirty, detach it and end the connection.

        A second call, or one after somebody else's unmount, does nothing.
        """
        connection = self._connection
        if connection is None or connection.gone.is_set():
            return
        try:
            attach.detach(self._path)
        except NotFound:
            connection.gone.set()  # unmounted by somebody; if lazily, and it is still used, this ends it
        except ArtifactFSError:
            attach.force_detach(self._path, self._leave)
            connection.gone.set()

    def inval_entry(self, parent: int, name: bytes) -> None:
        """Make the kernel forget a name of a directory, known or known absent."""
        if self._connection is not None:
            head = INVAL_ENTRY.pack(parent, len(name), 0)
            self._connection.notify(NOTIFY_INVAL_ENTRY, head, name + b"\0")

    def inval_inode(self, node: int) -> None:
        """Make the kernel forget attributes, pages and listing of a node. Waits for reads of it that are under way."""
        if self._connection is not None:
            self._connection.notify(NOTIFY_INVAL_INODE, INVAL_INODE.pack(node, 0, 0))

    def _negotiate(self, fd: int) -> bool:
        """Answer INIT, which the kernel sends first; returns whether it can read backing files by itself."""
        buffer = bytearray(BUFFER)
        os.readv(fd, [buffer])
        _, op, unique, _, _, _, _, _, _ = IN_HEADER.unpack_from(buffer)
        major, minor, max_readahead, offered, offered2 = INIT_IN.unpack_from(buffer, BODY)
        if op != Op.INIT or (major, minor) < (MAJOR, MIN_MINOR):
            os.writev(fd, (OUT_HEADER.pack(HEADER, -errno.EPROTO, unique),))
            raise Unavailable(
                f"the kernel speaks FUSE {major}.{minor}: Linux 5.4 or newer is needed, or --binding fusepy"
            )
        wanted = _WANTED | (_WANTED_WITHOUT_OPENS if self._options.no_open and self._options.read_only else 0)
        passthrough = bool(offered & INIT_EXT and offered2 & PASSTHROUGH)
        payload = INIT_OUT.pack(
            MAJOR,
            min(minor, OUR_MINOR),
            max_readahead,
            offered & (wanted | INIT_EXT * passthrough),
            MAX_BACKGROUND,
            MAX_BACKGROUND,
            MAX_WRITE,
            1,  # times are exact to the nanosecond
            PAGES,
            0,
            PASSTHROUGH * passthrough,
            int(passthrough),  # how deep file systems are stacked: this one over the repository's
        )
        os.writev(fd, (OUT_HEADER.pack(HEADER + len(payload), 0, unique), payload))
        return passthrough

    def _start_dispatcher(self) -> None:
        if self._shared is not None:
            dispatcher = Dispatcher(self._shared, self._ended)
            with self._lock:
                self._dispatchers.append(dispatcher)
            dispatcher.start()

    def _ended(self, dispatcher: Dispatcher) -> None:
        with self._lock:
            if dispatcher in self._dispatchers:
                self._dispatchers.remove(dispatcher)
            if not self._dispatchers:
                self._all_ended.set()

    def _leave(self) -> bool:
        """Tell the dispatchers to end at their next request; True when all have."""
        if self._connection is not None:
            self._connection.closing = True
        return self._all_ended.is_set()

    def _watch(self) -> None:
        """Start dispatchers in place of those that are stuck in a request, so that none ever delays the others.

        When all are stuck, as many as there are: lookups that wait come by the hundred (a program for each file), each takes a
        dispatcher, and to replace one by one would take a tick for every two of them. What was not needed ends afterwards.
        """
        connection = self._connection
        if connection is None:
            return
        seen: dict[Dispatcher, int] = {}
        stuck: set[Dispatcher] = set()
        while not connection.gone.wait(STUCK_TICK_SECONDS if stuck else TICK_SECONDS):
            with self._lock:
                dispatchers = list(self._dispatchers)
            stuck = {each for each in dispatchers if each.serial % 2 and seen.get(each) == each.serial}
            fresh = [each for each in stuck if not each.replaced]
            free = [each for each in dispatchers if not each.replaced and each not in stuck]
            room = max(0, self._options.max_waiting - len(dispatchers))
            for _ in range(min(room, len(fresh) if free else len(stuck))):
                self._start_dispatcher()
            for each in fresh[:room] + ([] if stuck else free[max(1, self._options.threads) :]):
                each.replaced = True
            seen = {each: each.serial for each in dispatchers}

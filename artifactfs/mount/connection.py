"""Owns the descriptor of a kernel connection: every reply and notification is written here, and counted.

Used by ``kernel.py`` and ``dispatch.py``. Safe from any thread. Invariant *one reply*: a request that wants a reply is
in ``inflight`` from its arrival until the first reply to it, which takes it out in one atomic step; later ones find
nothing and are dropped. So an interrupt may answer a request that another thread is still working on.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
from typing import Final

from artifactfs.mount.protocol import HEADER, OP_SLOTS, OUT_HEADER, Op

_logger = logging.getLogger(__name__)

Payload = bytes | bytearray | memoryview | list[bytes | memoryview]

WAITING: Final = OP_SLOTS  # added to the opcode of a request that waits in the pool and may be interrupted
_NAMES: Final = {op: op.name.lower() for op in Op} | {OP_SLOTS - 1: "unknown"}


class Tally:
    """Exact counts by opcode without a lock on the way: each thread counts in a list of its own."""

    def __init__(self) -> None:
        self._local = threading.local()
        self._lock = threading.Lock()
        self._lists: list[list[int]] = []
        self._ended = [0] * OP_SLOTS

    def mine(self) -> list[int]:
        """The calling thread's counts by opcode, to be increased by it alone."""
        try:
            counts: list[int] = self._local.counts
        except AttributeError:
            counts = self._local.counts = [0] * OP_SLOTS
            with self._lock:
                self._lists.append(counts)
        return counts

    def retire(self) -> None:
        """Fold in the counts of the calling thread, which is about to end."""
        counts = self._local.__dict__.pop("counts", None)
        if counts is not None:
            with self._lock:
                self._lists[:] = [each for each in self._lists if each is not counts]
                self._ended = [old + new for old, new in zip(self._ended, counts, strict=True)]

    def total(self) -> dict[str, int]:
        """The sums so far, by lower-case opcode name; zeros are left out."""
        with self._lock:
            sums = [sum(column) for column in zip(self._ended, *self._lists, strict=True)]
        return {_NAMES[op]: count for op, count in enumerate(sums) if count}


class Connection:
    """The descriptor, the requests that wait for a reply, and the counts of both directions."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.inflight: dict[int, int] = {}  # unique -> opcode, or opcode + WAITING
        self.interrupted: set[int] = set()  # of requests that may yet go to the pool
        self.requests = Tally()
        self.replies = Tally()
        self.closing = False
        self.gone = threading.Event()  # the kernel has ended the connection

    def reply(self, unique: int, payload: Payload = b"") -> bool:
        """Answer a request. False: nobody waits for it any more, so what it made (a handle) must be undone."""
        op = self.inflight.pop(unique, None)
        if op is None:
            return False
        if self.interrupted:
            self.interrupted.discard(unique)
        self.replies.mine()[op % OP_SLOTS] += 1
        parts = payload if isinstance(payload, list) else (payload,)
        size = HEADER + sum(map(len, parts))
        try:
            os.writev(self.fd, (OUT_HEADER.pack(size, 0, unique), *parts))
        except OSError as error:
            if error.errno not in {errno.ENOENT, errno.ENODEV}:  # ENOENT: interrupted, or the connection was cut
                _logger.exception("the kernel refused a reply of %d bytes", size)
                self._send(OUT_HEADER.pack(HEADER, -errno.EIO, unique))
            return False
        return True

    def error(self, unique: int, number: int) -> bool:
        """Answer a request by an errno, as :meth:`reply`."""
        op = self.inflight.pop(unique, None)
        if op is None:
            return False
        if self.interrupted:
            self.interrupted.discard(unique)
        self.replies.mine()[op % OP_SLOTS] += 1
        return self._send(OUT_HEADER.pack(HEADER, -number, unique))

    def ask_again(self, unique: int) -> None:
        """Have an INTERRUPT delivered once more: its request is not known yet (or was answered: then the kernel drops it)."""
        self._send(OUT_HEADER.pack(HEADER, -errno.EAGAIN, unique))

    def notify(self, code: int, *parts: bytes) -> None:
        """Tell the kernel something unasked. What it does not know needs no telling, so failing is no error."""
        self._send(OUT_HEADER.pack(HEADER + sum(map(len, parts)), code, 0), *parts)

    def _send(self, *parts: bytes) -> bool:
        try:
            os.writev(self.fd, parts)
        except OSError as error:
            if error.errno not in {errno.ENOENT, errno.ENODEV, errno.ENOTCONN, errno.ENOTDIR}:
                _logger.debug("the kernel refused a message: %s", error)
            return False
        return True

    def retire_thread(self) -> None:
        """Called by a thread that has counted here and is about to end."""
        self.requests.retire()
        self.replies.retire()

    def shut(self) -> None:
        """Let go of the connection. The number stays taken, by /dev/null, for threads that still have a late reply."""
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        os.dup2(null, self.fd, inheritable=False)
        os.close(null)

"""Claims: numbers of which at most one process has each at a time, for as long as it lives.

Used by the cache: for the chunk that a process fetches, so that others wait for it instead of fetching it too, and for the extent that
it writes, so that a half-written one can be told from one whose writer died. May be called from any thread.

A claim is a lock on one byte of a file, at the offset of its number: an open-file-description lock (fcntl(2), F_OFD_SETLK), which
belongs to the open file and not to the process. So two caches in one process claim against each other, and the locks vanish with
their owner however it ends. A forked child closes the file, as the locks would last until it ends too. One byte a number: with a
fixed number of lock files two chunks would now and then share one, and a stalled fetch hold up another chunk. The kernel keeps the
locks of a file in a list: a call with 4,000 held ones takes about 20 µs.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import threading
import weakref
from contextlib import suppress
from pathlib import Path
from typing import Final

NUMBER_BITS: Final = 62
"""Numbers are below 2^62, as offsets are signed 64-bit integers."""

# struct flock of 64-bit Linux: l_type, l_whence, l_start, l_len, l_pid (0 for these locks).
_FLOCK: Final = struct.Struct("@hhqqi4x")

_open: Final[weakref.WeakSet[Claims]] = weakref.WeakSet()


class Claims:
    """The claims on one file, which is made when it is not there. Raises OSError."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._held: set[int] = set()  # the kernel takes all threads of this object for one owner
        self._lock = threading.Lock()
        _open.add(self)

    def take(self, number: int) -> bool:
        """Claim a number; False when it is claimed, by whomever. Never waits. OSError where there are no such locks."""
        with self._lock:
            if number in self._held:
                return False
            try:
                self._set(fcntl.F_WRLCK, number)
            except OSError as error:
                if error.errno in {errno.EAGAIN, errno.EACCES}:
                    return False
                raise
            self._held.add(number)
            return True

    def give(self, number: int) -> None:
        """Let a number go. Does nothing when this object has no claim on it."""
        with self._lock:
            if number in self._held:
                self._held.discard(number)
                self._set(fcntl.F_UNLCK, number)

    def close(self) -> None:
        """Let all numbers go. Idempotent."""
        with self._lock:
            self._held.clear()
            if self._descriptor >= 0:
                os.close(self._descriptor)
                self._descriptor = -1

    def abandon(self) -> None:
        """In a forked child, whose parent has the numbers: close the file without a word to them."""
        self._lock = threading.Lock()  # a thread of the parent may have had it
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            with suppress(OSError):
                os.close(descriptor)

    def _set(self, kind: int, number: int) -> None:
        if self._descriptor < 0:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        fcntl.fcntl(self._descriptor, fcntl.F_OFD_SETLK, _FLOCK.pack(kind, os.SEEK_SET, number, 1, 0))


def _in_child() -> None:
    for claims in list(_open):
        claims.abandon()


os.register_at_fork(after_in_child=_in_child)

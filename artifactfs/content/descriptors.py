"""Descriptors: files that are read again and again, kept open, the least recently used closed.

Used by the cache for its extents. May be called from any thread.
"""

from __future__ import annotations

import errno
import os
import threading
from collections import OrderedDict
from typing import Final

_READ: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
_NO_MORE: Final = {errno.EMFILE, errno.ENFILE}


class Descriptors:
    """At most so many open files, by number."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.Lock()  # held for no call of the disk
        self._open: OrderedDict[int, _Open] = OrderedDict()

    def read(self, number: int, path: str, length: int, offset: int) -> bytes:
        """One pread of the file ``number``, which is at ``path`` when it is not open yet; short at its end. Raises OSError."""
        with self._lock:
            opened = self._open.get(number)
            if opened is not None:
                self._open.move_to_end(number)
        if opened is None:
            opened = self._open_file(number, path)
        return os.pread(opened.descriptor, length, offset)

    def close(self, number: int) -> None:
        """Close a file, once nobody is reading it. Does nothing when it is not open."""
        with self._lock:
            self._open.pop(number, None)

    def close_deleted(self) -> None:
        """Close what has been deleted: it takes its space until then. 0.5 µs each."""
        with self._lock:
            opened = list(self._open.items())
        for number, each in opened:
            if os.fstat(each.descriptor).st_nlink == 0:
                self.close(number)

    def close_all(self) -> None:
        """Close everything; a read afterwards opens anew."""
        with self._lock:
            self._open.clear()

    def _open_file(self, number: int, path: str) -> _Open:
        try:
            opened = _Open(os.open(path, _READ))
        except OSError as error:
            if error.errno not in _NO_MORE:
                raise
            # The process has no descriptor left: these can do without.
            with self._lock:
                for _ in range((len(self._open) + 1) // 2):
                    self._open.popitem(last=False)
            opened = _Open(os.open(path, _READ))
        with self._lock:
            opened = self._open.setdefault(number, opened)
            if len(self._open) > self._limit:
                self._open.popitem(last=False)
        return opened


class _Open:
    """An open file, closed when the last reader lets go of it: eviction never waits for a pread."""

    __slots__ = ("descriptor",)

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def __del__(self) -> None:
        os.close(self.descriptor)

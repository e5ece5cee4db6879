"""Room: what the local files of staging take of the disk, and how much they may.

Used by layers.py, which asks before a local file grows, and by workspace.py, which deletes them. Two bounds: a limit in bytes, if the
mount was given one (EDQUOT beyond it), and a reserve of the disk that staging leaves free (ENOSPC), so that the tables of staging can
still be written: without them not even `rm` would work on a full disk. What is refused changes nothing. Only what is new counts:
bytes that overwrite others are let through at any bound.

Threads: any. :attr:`Room.spare` is called without a lock of this module.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from threading import Lock
from typing import Final

MOST_RESERVED: Final = 256 << 20
RESERVED_PART: Final = 100
"""The reserve is this part of the disk, at most the bytes above."""
UNASKED: Final = 64 << 20
"""Bytes written, at most, before the disk is asked again what is free: 1.5 µs, of a write's 20."""

_UNCOUNTED: Final = nullcontext()


class Room:
    """The bounds of one workspace. ``limit``: None without one; then nothing is counted, and opening does not look at the files."""

    def __init__(self, directory: Path, *, limit: int | None = None) -> None:
        self.limit = limit
        self.spare: Callable[[], bool] = lambda: False
        """Gives up something that staging can do without; False when there is nothing."""
        self._directory = directory
        self._lock = Lock()  # guards what follows
        self._used = 0 if limit is None else measure(directory)
        self._promised = 0  # to those who write just now
        self._unasked = 0
        numbers = os.statvfs(directory)
        self._reserve = min(numbers.f_blocks * numbers.f_frsize // RESERVED_PART, MOST_RESERVED)

    @property
    def used(self) -> int | None:
        """Bytes of disk that local files take; None without a limit."""
        with self._lock:
            return None if self.limit is None else self._used

    def left(self) -> int:
        """Bytes that may still be written."""
        numbers = os.statvfs(self._directory)
        free = max(0, numbers.f_bavail * numbers.f_frsize - self._reserve)
        with self._lock:
            return free if self.limit is None else max(0, min(free, self.limit - self._used))

    def growing(self, fd: int, offset: int, length: int) -> AbstractContextManager[None]:
        """Around what writes or reserves a range of a local file. EDQUOT or ENOSPC, at once, when that is too much."""
        promised = self._promise(fd, offset, length)
        return _UNCOUNTED if self.limit is None else self._counted(fd, promised)

    @contextmanager
    def _counted(self, fd: int, promised: int) -> Iterator[None]:
        try:
            with self.changing(fd):
                yield
        finally:
            with self._lock:
                self._promised -= promised

    @contextmanager
    def changing(self, fd: int) -> Iterator[None]:
        """Around what changes how much a local file takes."""
        if self.limit is None:
            yield
            return
        before = os.fstat(fd).st_blocks
        try:
            yield
        finally:
            grown = (os.fstat(fd).st_blocks - before) * 512
            with self._lock:
                self._used += grown

    def unlink(self, path: str) -> None:
        """Delete a local file, if it is there."""
        with suppress(FileNotFoundError):
            taken = 0 if self.limit is None else os.stat(path).st_blocks * 512  # noqa: PTH116 - a Path costs more than the call
            os.unlink(path)  # noqa: PTH108 - as above
            if taken:
                with self._lock:
                    self._used -= taken

    def _promise(self, fd: int, offset: int, length: int) -> int:
        """Bytes now promised against the limit; 0 without one."""
        refused = self._refusal(length)
        if refused:
            length -= _held(fd, offset, length)
            while length > 0 and (refused := self._refusal(length)):
                if not self.spare():
                    raise OSError(refused, os.strerror(refused))
        return length if self.limit is not None else 0

    def _refusal(self, length: int) -> int:
        """The errno that keeps ``length`` new bytes away, or 0: then they are promised."""
        with self._lock:
            if self.limit is not None and self._used + self._promised + length > self.limit:
                return errno.EDQUOT
            if length > self._unasked:
                numbers = os.statvfs(self._directory)
                free = numbers.f_bavail * numbers.f_frsize - self._reserve
                if length > free:
                    return errno.ENOSPC
                self._unasked = max(length, min(free // 4, UNASKED))
            self._unasked -= length
            if self.limit is not None:
                self._promised += length
            return 0


def measure(directory: Path) -> int:
    """Bytes of disk that the files of a workspace take: 3 µs each."""
    total = 0
    with suppress(FileNotFoundError), os.scandir(directory) as groups:
        for group in groups:
            with suppress(FileNotFoundError, NotADirectoryError), os.scandir(group.path) as files:
                total += sum(entry.stat(follow_symlinks=False).st_blocks * 512 for entry in files)
    return total


def _held(fd: int, offset: int, length: int) -> int:
    """Bytes of a range that a file has already."""
    held, end = 0, offset + length
    while offset < end:
        try:
            start = os.lseek(fd, offset, os.SEEK_DATA)
        except OSError:  # ENXIO: holes alone from here on
            break
        if start >= end:
            break
        offset = min(end, os.lseek(fd, start, os.SEEK_HOLE))
        held += offset - start
    return held

"""Spools: what waits on a disk of this machine until it has been sent.

Used by Stores that are not on this machine. A :class:`Spool` is used by one thread while it is written, and read by any; :class:`Kept`
by any. A spool is a file that no name leads to: it is gone with the last that holds it, or with the process, and nobody else opens it.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections import OrderedDict
from pathlib import Path
from typing import IO, Final

from artifactfs.errors import translate_os

KEPT: Final = 1 << 30
"""Bytes of sent objects that may be kept: sixteen packs, which were sent side by side and are checked one after another."""


class Spool:
    """Bytes in a file without a name in ``directory``, which is made when needed; None: the system's. Access, NoSpace."""

    def __init__(self, directory: Path | None) -> None:
        self._descriptor = -1
        self._where = "the system's temporary directory" if directory is None else str(directory)
        self.size = 0
        try:
            if directory is not None:
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=directory, buffering=0) as file:
                self._descriptor = os.dup(file.fileno())
        except OSError as error:
            raise translate_os(error, f"cannot spool an upload in {self._where}") from error

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append bytes. NoSpace, Unavailable."""
        rest = memoryview(data)
        try:
            while rest:
                count = os.pwrite(self._descriptor, rest, self.size)
                rest = rest[count:]
                self.size += count
        except OSError as error:
            raise translate_os(error, f"cannot spool an upload in {self._where}") from error

    def read(self, offset: int, length: int) -> bytes:
        """Bytes from ``offset``: fewer at the end, and in one call of 2 GiB."""
        try:
            return os.pread(self._descriptor, length, offset)
        except OSError as error:
            raise translate_os(error, f"cannot read an upload in {self._where}") from error

    def file(self) -> IO[bytes]:
        """A file that reads all of it from the start; one at a time, the caller closes it."""
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        return os.fdopen(os.dup(self._descriptor), "rb", buffering=0)

    def __del__(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)


class Kept:
    """Spools of objects that were sent a moment ago, by name: whoever checks what came need not fetch it again.

    At most ``limit`` bytes; the oldest go. One that was asked for to its end goes as well: it has been checked.
    """

    def __init__(self, limit: int = KEPT) -> None:
        self._limit = limit
        self._size = 0
        self._spools: OrderedDict[str, Spool] = OrderedDict()
        self._lock = threading.Lock()

    def keep(self, name: str, spool: Spool) -> None:
        """From now on the object of this name is here."""
        with self._lock:
            self._drop(name)
            self._spools[name] = spool
            self._size += spool.size
            while self._size > self._limit:
                self._drop(next(iter(self._spools)))

    def find(self, name: str) -> Spool | None:
        """The spool of this name."""
        with self._lock:
            return self._spools.get(name)

    def drop(self, name: str) -> None:
        """Forget one. Idempotent; who reads it goes on."""
        with self._lock:
            self._drop(name)

    def clear(self) -> None:
        """Forget all."""
        with self._lock:
            self._spools.clear()
            self._size = 0

    def _drop(self, name: str) -> None:
        spool = self._spools.pop(name, None)
        if spool is not None:
            self._size -= spool.size

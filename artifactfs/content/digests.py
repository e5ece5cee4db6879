"""Sets of digests that are too large for memory: collected in runs, then one sorted file.

Used by collections, for what is alive. One thread. The files have no names, so that a killed process leaves nothing behind.

Memory: :data:`HELD` digests while they come, 110 bytes each; the sorted file is mapped, 32 bytes a digest of disk and page cache. Of
10^8 chunks that is 3.2 GB in the temporary directory, and as much again while runs are merged.
"""

from __future__ import annotations

import contextlib
import heapq
import mmap
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Final

from artifactfs.errors import translate_os
from artifactfs.model.digest import DIGEST_SIZE

HELD: Final = 500_000
"""Digests of one run: 55 MB while they are collected."""
_BLOCK: Final = 4096  # digests read of a run at a time


class SortedDigests:
    """A set of digests in order, in a file."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        size = file.seek(0, 2)
        self._count = size // DIGEST_SIZE
        self._map = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) if size else None

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[bytes]:
        if self._map is not None:
            for start in range(0, self._count * DIGEST_SIZE, DIGEST_SIZE):
                yield self._map[start : start + DIGEST_SIZE]

    def __contains__(self, digest: object) -> bool:
        if self._map is None or not isinstance(digest, bytes):
            return False
        low, high = 0, self._count
        while low < high:
            middle = (low + high) // 2
            found = self._map[middle * DIGEST_SIZE : (middle + 1) * DIGEST_SIZE]
            if found == digest:
                return True
            if found < digest:
                low = middle + 1
            else:
                high = middle
        return False

    def close(self) -> None:
        """Let the file go. Idempotent."""
        if self._map is not None:
            self._map.close()
            self._map = None
        self._file.close()


class DigestSorter:
    """Takes digests in any order, repetitions too. ``directory``: for its files; None: the system's for temporary ones."""

    def __init__(self, directory: Path | None = None, *, held: int = HELD) -> None:
        self._directory = directory
        self._limit = held
        self._held: set[bytes] = set()
        self._runs: list[IO[bytes]] = []

    def add(self, digest: bytes) -> None:
        """Take one. NoSpace when its file cannot grow."""
        self._held.add(digest)
        if len(self._held) >= self._limit:
            self._end_run()

    def update(self, digests: Iterable[bytes]) -> None:
        """Take some."""
        self._held.update(digests)
        if len(self._held) >= self._limit:
            self._end_run()

    def sorted(self) -> SortedDigests:
        """All that were given, once each. Ends the sorter."""
        if self._held or not self._runs:
            self._end_run()
        if len(self._runs) == 1:
            return SortedDigests(self._runs.pop())
        merged = self._file()
        try:
            with self._translated():
                self._merge(merged)
        except BaseException:
            merged.close()
            raise
        finally:
            self.close()
        return SortedDigests(merged)

    def close(self) -> None:
        """Let the files go. Idempotent."""
        for run in self._runs:
            run.close()
        self._runs.clear()

    def _merge(self, merged: IO[bytes]) -> None:
        last = b""
        block: list[bytes] = []
        for digest in heapq.merge(*map(_digests_of, self._runs)):
            if digest != last:
                block.append(digest)
                last = digest
                if len(block) == _BLOCK:
                    merged.write(b"".join(block))
                    block.clear()
        merged.write(b"".join(block))
        merged.flush()

    def _end_run(self) -> None:
        run = self._file()
        self._runs.append(run)
        with self._translated():
            run.write(b"".join(sorted(self._held)))
            run.flush()
        self._held.clear()

    def _file(self) -> IO[bytes]:
        with self._translated():
            return tempfile.TemporaryFile(dir=self._directory)

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            where = self._directory or tempfile.gettempdir()
            raise translate_os(error, f"cannot write what is alive to {where} (set TMPDIR to a larger disk)") from error


def _digests_of(run: IO[bytes]) -> Iterator[bytes]:
    run.seek(0)
    while block := run.read(_BLOCK * DIGEST_SIZE):
        for start in range(0, len(block), DIGEST_SIZE):
            yield block[start : start + DIGEST_SIZE]

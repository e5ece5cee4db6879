"""Keeper: puts what was fetched into the cache, behind the readers who wait for it.

Used by the fetched source and by References. Any thread may put; one thread of its own writes.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

from artifactfs.model.digest import DATA, kind_of_flags

if TYPE_CHECKING:
    from artifactfs.content.cache import Cache
    from artifactfs.model.records import ChunkRow

BACKLOG: Final = 64 << 20
"""Bytes that may wait to be written into the cache; past it whoever fetched them writes them."""
ENTRY: Final = 8 << 20
"""Bytes that are written together at most."""
CLOSE_SECONDS: Final = 10.0
"""What is on its way may still be kept when the repository is closed."""


class Keeper:
    """Writes fetched chunks into the cache, behind those who wait for them."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self._lock = threading.Condition()
        self._waiting: list[tuple[list[ChunkRow], list[bytes], list[bytes]]] = []
        self._bytes = 0
        self._busy = False
        self._closed = False
        self._thread: threading.Thread | None = None

    def put(self, rows: list[ChunkRow], parts: list[bytes], claimed: list[bytes]) -> None:
        """Have chunks written soon; at once when too much waits."""
        size = sum(map(len, parts))
        with self._lock:
            if not self._closed and self._bytes + size <= BACKLOG:
                self._waiting.append((rows, parts, claimed))
                self._bytes += size
                if self._thread is None:
                    self._thread = threading.Thread(target=self._run, name="cache-keeper", daemon=True)
                    self._thread.start()
                self._lock.notify_all()
                return
        self.keep(rows, parts, claimed)

    def keep(self, rows: list[ChunkRow], parts: list[bytes], claimed: list[bytes]) -> None:
        """Write chunks, then let go of their claims."""
        try:
            self._cache.keep(rows, parts)
        finally:
            self._cache.release(claimed)

    def flush(self, seconds: float = CLOSE_SECONDS) -> None:
        """Wait until nothing waits."""
        with self._lock:
            self._lock.wait_for(lambda: not self._waiting and not self._busy, seconds)

    def close(self, seconds: float) -> None:
        """Write what waits and end. Idempotent."""
        with self._lock:
            self._closed = True
            self._lock.notify_all()
        self.flush(seconds)

    def _run(self) -> None:
        while True:
            with self._lock:
                self._busy = False
                self._lock.notify_all()
                while not self._waiting:
                    if self._closed:
                        return
                    self._lock.wait()
                # What waits becomes one entry: chunks that were fetched singly are not written singly.
                rows, parts, claimed = self._waiting.pop(0)
                size = sum(map(len, parts))
                kind = kind_of_flags(rows[0].flags) == DATA
                while self._waiting and size < ENTRY:
                    more = self._waiting[0]
                    if (kind_of_flags(more[0][0].flags) == DATA) is not kind:
                        break
                    del self._waiting[0]
                    rows, parts, claimed = rows + more[0], parts + more[1], claimed + more[2]
                    size += sum(map(len, more[1]))
                self._bytes -= size
                self._busy = True
            self.keep(rows, parts, claimed)
            del rows, parts

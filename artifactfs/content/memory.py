"""Verified chunks in memory, and the fetches under way: one fetch of a chunk, however many threads want it.

Used by the reader and the sources. Any thread; ``_lock`` guards everything and is never held while something is fetched.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Final

from artifactfs.errors import Unavailable
from artifactfs.model.digest import format_digest

MEMORY: Final = 64 << 20
"""Bytes of decoded chunks kept: sixteen readers that each go through chunks of the largest size in small steps."""

RAW_MEMORY: Final = 16 << 20
"""Of these, bytes of chunks that lie raw on a local disk: what is evicted costs a read of the page cache, and memory that is
soon used again stays in the processor's cache (1 GiB cold through the mount: 0.46 s with 4 MiB, 0.49 s with 64 MiB)."""

WAIT_SECONDS: Final = 60.0
"""How long a thread waits for a chunk that another one fetches. A Store's own bound is shorter; this one holds if a
Store breaks it."""

WAITERS: Final = 256
"""Threads that may wait for others' fetches; past it a read fails at once, so that a stalled Store cannot take a
mount's last thread (it has 512)."""

Key = tuple[int, bytes]
"""Kind and digest: bytes that were verified as one kind of chunk are nothing of another kind."""


class Flight:
    """A chunk under way."""

    __slots__ = ("data", "done", "error")

    def __init__(self) -> None:
        self.done = threading.Event()
        self.data: bytes | None = None
        self.error: BaseException | None = None


class ChunkMemory:
    """Chunks by kind and digest, up to a number of bytes; those that lie ``raw`` on a local disk have a share of their own."""

    def __init__(self, limit: int = MEMORY, *, raw_limit: int | None = None, seconds: float | None = None) -> None:
        self._seconds = WAIT_SECONDS if seconds is None else seconds
        self._lock = threading.Lock()
        self._chunks = _Kept(limit)
        self._raw = self._chunks if raw_limit is None else _Kept(min(limit, raw_limit))
        self._flights: dict[Key, Flight] = {}
        self._waiting = 0

    @property
    def size(self) -> int:
        """Bytes held."""
        return self._chunks.bytes + (self._raw.bytes if self._raw is not self._chunks else 0)

    @property
    def waiting(self) -> int:
        """Threads that wait for another's fetch."""
        return self._waiting

    def __contains__(self, key: Key) -> bool:
        return key in self._chunks or key in self._raw

    def raw(self, key: Key) -> bool:
        """Whether a chunk is here that lies raw on a local disk as well."""
        return key in self._raw

    def enter(self, key: Key) -> bytes | Flight:
        """A chunk's bytes, after waiting for them if another thread fetches it; or a Flight that the caller must end.

        It ends with :meth:`land` or :meth:`fail`. Raises what the fetch waited for failed with; Unavailable when too many wait
        already, or when it takes too long.
        """
        while True:
            with self._lock:
                data = self._chunks.use(key) or self._raw.use(key)
                if data is not None:
                    return data
                flight = self._flights.get(key)
                if flight is None:
                    flight = self._flights[key] = Flight()
                    return flight
                if self._waiting >= WAITERS:
                    raise Unavailable(f"{self._waiting} reads wait for chunks that do not come; try again later")
                self._waiting += 1
            data = self._wait(flight, key[1])
            if data is not None:
                return data

    def try_enter(self, key: Key) -> Flight | None:
        """A Flight that the caller must end, unless the chunk is here or under way."""
        with self._lock:
            if key in self._flights or key in self._chunks or key in self._raw:
                return None
            flight = self._flights[key] = Flight()
            return flight

    def land(self, key: Key, data: bytes, *, raw: bool = False) -> None:
        """Keep a chunk and give it to all who wait for it."""
        with self._lock:
            flight = self._flights.pop(key, None)
            (self._raw if raw else self._chunks).keep(key, data)
        if flight is not None:
            flight.data = data
            flight.done.set()

    def fail(self, key: Key, error: BaseException) -> None:
        """End a flight without a chunk: all who wait raise the error."""
        with self._lock:
            flight = self._flights.pop(key, None)
        if flight is not None:
            flight.error = error
            flight.done.set()

    def give_up(self, key: Key) -> None:
        """End a flight without a chunk or an error: one of those who wait begins another."""
        with self._lock:
            flight = self._flights.pop(key, None)
        if flight is not None:
            flight.done.set()

    def _wait(self, flight: Flight, name: bytes) -> bytes | None:
        try:
            if not flight.done.wait(self._seconds):
                raise Unavailable(
                    f"chunk {format_digest(name)} did not come within {self._seconds:.0f} s; try again later"
                )
        finally:
            with self._lock:
                self._waiting -= 1
        error = flight.error
        if isinstance(error, Exception):
            raise type(error)(*error.args) from error  # each thread its own, as raising writes a traceback into it
        if error is not None:
            raise Unavailable(f"the fetch of chunk {format_digest(name)} was broken off; try again")
        return flight.data


class _Kept:
    """Chunks up to a number of bytes, the least recently used evicted first. Guarded by the owner's lock."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.bytes = 0
        self._chunks: OrderedDict[Key, bytes] = OrderedDict()

    def __contains__(self, key: Key) -> bool:
        return key in self._chunks

    def use(self, key: Key) -> bytes | None:
        """A chunk, now the most recently used; or None."""
        data = self._chunks.get(key)
        if data is not None:
            self._chunks.move_to_end(key)
        return data

    def keep(self, key: Key, data: bytes) -> None:
        """Add a chunk; one that is larger than the limit, or here already, is not kept."""
        if len(data) <= self._limit and key not in self._chunks:
            self._chunks[key] = data
            self.bytes += len(data)
            while self.bytes > self._limit:
                _, evicted = self._chunks.popitem(last=False)
                self.bytes -= len(evicted)

"""Cache: stored chunks on this machine's disk, shared by all processes of a user, bounded in bytes, lost without harm.

Used by the read path (chunks, nodes, claims) and by the registry over HTTP (answers). Chunks are kept as they are stored, and the
reader verifies them: what :meth:`Cache.read` gives is what was kept, unless somebody else wrote to the file.

Once open it raises for no trouble with the disk, nor with another process: what cannot be read is a miss, what cannot be kept is
not kept, and :meth:`Cache.status` tells why. A wait for another process is bounded by about a second. A directory that is deleted
while it is open is made anew; damaged tables are too.

Threads: any. ``find`` is one statement for 500 chunks; ``read`` one pread, on one of the descriptors last used, and no statement. All
changes are made by one thread of the cache's own (caretaker.py), and the caller waits for it. Not to be carried across a fork: a
child opens its own; the parent's goes on.
"""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final

import msgspec

from artifactfs.content.caretaker import REST_SECONDS, Caretaker
from artifactfs.content.catalog import PartCounts
from artifactfs.content.claims import NUMBER_BITS
from artifactfs.content.descriptors import Descriptors
from artifactfs.content.shelf import CHUNKS, NODES, Shelf, keys_of, part_of
from artifactfs.errors import ArtifactFSError, InvalidInput, Unavailable
from artifactfs.model.digest import CHUNKS as CHUNK_LIST
from artifactfs.model.digest import DATA, TREE, kind_of_flags
from artifactfs.model.records import ChunkRow
from artifactfs.model.sequence import SINGLE_CHUNK

OPEN_EXTENTS: Final = 256
"""Descriptors kept for reading, of the 1,024 that a process usually may have: 2 GiB of extents of 8 MiB at hand."""

_KINDS: Final = (DATA, TREE, CHUNK_LIST)
_FIRST_PAUSE, _LONGEST_PAUSE = 0.001, 0.05  # seconds between two looks at somebody's claim


class CacheSettings(msgspec.Struct, frozen=True):
    """Where the cache is and what it may take. ``limit`` and ``reserve`` in bytes; None: the defaults of the disk.

    ``limit``: what it takes at most, all told; 0 keeps nothing. ``reserve``: what stays free of the disk.
    """

    directory: Path
    limit: int | None = None
    reserve: int | None = None


class CacheStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What a cache holds and how it does. Sizes in bytes, as taken on the disk; counts are over all processes, since it was made."""

    directory: str
    limit: int
    reserve: int
    free: int  # of the disk
    bytes: int  # all told
    chunk_bytes: int
    node_bytes: int
    pinned_bytes: int
    extents: int  # files that hold the chunks and nodes
    chunks: int
    nodes: int
    hits: int
    misses: int
    fetched: int  # bytes that came over the network
    saved: int  # bytes that did not, as they were here
    unkept: int  # extents that were to be kept and could not be
    trouble: str  # why it keeps nothing more, or could not be asked; empty when all is well

    @property
    def hit_rate(self) -> float | None:
        """From 0 to 1; None before the first question."""
        asked = self.hits + self.misses
        return self.hits / asked if asked else None


class Held:
    """A chunk in the cache: where its ``length`` stored bytes are, of ``size`` plain ones. ``verified`` is the reader's to set."""

    __slots__ = ("extent", "flags", "length", "offset", "size", "verified")

    def __init__(self, extent: int, offset: int, length: int, size: int, flags: int) -> None:
        self.extent = extent
        self.offset = offset
        self.length = length
        self.size = size
        self.flags = flags
        self.verified = False


class Cache:
    """The cache in a directory, which is made when it is not there.

    Raises InvalidInput (a network file system, a directory of other things, a negative limit), Access (another user's directory, no
    permission), Format (of a newer release). A full or failing disk is no error: then nothing is kept.
    """

    def __init__(self, settings: CacheSettings) -> None:
        if min(settings.limit or 0, settings.reserve or 0) < 0:
            raise InvalidInput("the cache's size and reserve cannot be negative; a size of 0 keeps nothing")
        self._settings = settings
        self._directory = settings.directory.absolute()
        self._descriptors = Descriptors(OPEN_EXTENTS)
        self._used: dict[
            int, float
        ] = {}  # extents; written by readers without a lock: an entry lost is a use forgotten
        self._counts: dict[str, int] = {}
        self._counting = threading.Lock()
        self._missing_until = 0.0  # nothing is asked until then
        self._caretaker = Caretaker(f"the cache {self._directory}", self._open_shelf, self._look_after)

    # -- chunks ----------------------------------------------------------------------------------------------------

    def find(self, digests: Collection[bytes], kind: int) -> dict[bytes, Held]:
        """Those of these chunks that are here, any number of them; they count as used now."""
        shelf = self._usable()
        if shelf is None or not digests:
            return {}
        try:
            rows = shelf.catalog.find(keys_of(digests, (kind,)))
        except ArtifactFSError as error:
            self._miss(shelf, error)
            return {}
        now = time.time()
        found: dict[bytes, Held] = {}
        for key, extent, offset, length, size, flags in rows:
            found[key[:-1]] = Held(extent, offset, length, size, flags)
            self._used[extent] = now
        return found

    def read(self, held: Held, begin: int = 0, length: int | None = None) -> bytes | None:
        """Stored bytes of a chunk, or ``length`` of them from ``begin`` on; None when they are gone: a miss."""
        wanted = held.length - begin if length is None else length
        if begin < 0 or wanted < 0 or begin + wanted > held.length:
            raise InvalidInput(f"cannot read {wanted} bytes at {begin} of a chunk that has {held.length}")
        caretaker = self._caretaker
        shelf = caretaker.shelf
        if shelf is None or caretaker.closed:
            return None
        path = shelf.path(part_of(kind_of_flags(held.flags)), held.extent)
        try:
            data = self._descriptors.read(held.extent, path, wanted, held.offset + begin)
        except OSError as error:
            if error.errno in {errno.EMFILE, errno.ENFILE}:
                return None  # that of this process
            data = b""
        if len(data) != wanted:
            # What is kept from now on of the chunks in this extent is kept anew.
            self._descriptors.close(held.extent)
            caretaker.later(partial(Shelf.forget, extent=held.extent))
            return None
        self._used[held.extent] = time.time()
        return data

    def keep(
        self, rows: Sequence[ChunkRow], data: Sequence[bytes | bytearray | memoryview], *, pin: bool = False
    ) -> bool:
        """Keep stored chunks, those that came by one request together; whether all of them are here now.

        ``rows`` tell digest, length, size and flags; their offsets mean nothing. ``pin`` keeps them from eviction. Room is made by
        evicting what was used least recently and is not pinned. The data is written from where it lies, and not kept.
        """
        parts: dict[int, tuple[list[ChunkRow], list[bytes | bytearray | memoryview]]] = {}
        for row, each in zip(rows, data, strict=True):
            if row.length != len(each):
                raise InvalidInput(f"cannot keep {len(each)} bytes as a chunk of {row.length}")
            some, bodies = parts.setdefault(part_of(kind_of_flags(row.flags)), ([], []))
            some.append(row)
            bodies.append(each)
        unkept = [
            part
            for part, (some, bodies) in parts.items()
            if not self._caretaker.try_to(partial(Shelf.keep, rows=some, data=bodies, pin=pin), default=False)
        ]
        self._add(unkept=len(unkept))
        return not unkept

    def drop(self, digests: Iterable[bytes]) -> None:
        """Forget chunks that turned out to be damaged, so that they are fetched anew."""
        keys = keys_of(list(digests), _KINDS)
        self._caretaker.try_to(partial(Shelf.drop, keys=keys), default=None)

    def pin(self, digests: Collection[bytes]) -> None:
        """Keep these chunks, and what was kept together with them, from eviction, until :meth:`clear` is told otherwise."""
        keys = keys_of(digests, _KINDS)
        self._caretaker.try_to(partial(Shelf.pin, keys=keys), default=None)

    # -- claims ----------------------------------------------------------------------------------------------------

    def claim(self, digest: bytes) -> bool:
        """Become the one, of all threads and processes, that fetches a chunk. Never waits. False when somebody else is.

        True also when nobody can tell: two fetches are better than none.
        """
        shelf = self._caretaker.shelf
        try:
            return shelf is None or shelf.claims.take(_number(digest))
        except OSError:
            return True

    def claim_within(self, digest: bytes, seconds: float) -> bool:
        """As :meth:`claim`, trying for so many seconds. Who gets it should look first whether the chunk has come."""
        deadline = time.monotonic() + seconds
        pause = _FIRST_PAUSE
        while not self.claim(digest):
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            time.sleep(min(pause, left))
            pause = min(pause * 2, _LONGEST_PAUSE)
        return True

    def release(self, digests: Iterable[bytes]) -> None:
        """Give claims up, once the chunks are kept or cannot be had."""
        shelf = self._caretaker.shelf
        if shelf is not None:
            for digest in digests:
                with suppress(OSError):
                    shelf.claims.give(_number(digest))

    # -- answers ---------------------------------------------------------------------------------------------------

    def remember(self, key: str, value: bytes) -> None:
        """Keep what a registry answered, for when it cannot be reached. Large answers, from some MB on, are not kept."""
        self._caretaker.try_to(partial(Shelf.remember, key=key, value=value), default=None)

    def recall(self, key: str) -> bytes | None:
        """What was remembered last, by any process."""
        shelf = self._usable()
        if shelf is None:
            return None
        try:
            return shelf.catalog.recall(key)
        except ArtifactFSError as error:
            self._miss(shelf, error)
            return None

    # -- numbers ---------------------------------------------------------------------------------------------------

    def count(self, *, hits: int = 0, misses: int = 0, fetched: int = 0, saved: int = 0) -> None:
        """Add to the counts of all processes: chunks that were here or not, bytes fetched, bytes that need not be fetched."""
        self._add(hits=hits, misses=misses, fetched=fetched, saved=saved)

    def status(self) -> CacheStatus:
        """What it holds and how it does, over all processes as of the last few seconds, over this one as of now."""
        self._caretaker.try_to(self._write_down, default=None)
        shelf = self._caretaker.shelf
        try:
            if shelf is None or self._caretaker.closed:
                raise Unavailable(self._caretaker.trouble or f"the cache {self._directory} was closed")
            parts, counters, overhead, free = (
                shelf.catalog.parts(),
                shelf.catalog.counters(),
                shelf.overhead(),
                shelf.free(),
            )
            chunks, nodes = parts.get(CHUNKS, PartCounts()), parts.get(NODES, PartCounts())
            trouble = self._caretaker.trouble or _trouble_of(
                shelf, overhead + nodes.taken + chunks.pinned, chunks.pinned
            )
        except ArtifactFSError as error:
            counters, overhead, free, trouble = {}, 0, 0, str(error)
            chunks = nodes = PartCounts()
        with self._counting:
            for name, count in self._counts.items():  # that could not be written down
                counters[name] = counters.get(name, 0) + count
        return CacheStatus(
            directory=str(self._directory),
            limit=shelf.limit if shelf is not None else self._settings.limit or 0,
            reserve=shelf.reserve if shelf is not None else self._settings.reserve or 0,
            free=free,
            bytes=chunks.taken + nodes.taken + overhead,
            chunk_bytes=chunks.taken,
            node_bytes=nodes.taken,
            pinned_bytes=chunks.pinned + nodes.pinned,
            extents=chunks.extents + nodes.extents,
            chunks=chunks.chunks,
            nodes=nodes.chunks,
            hits=counters.get("hits", 0),
            misses=counters.get("misses", 0),
            fetched=counters.get("fetched", 0),
            saved=counters.get("saved", 0),
            unkept=counters.get("unkept", 0),
            trouble=trouble,
        )

    def clear(self, *, pinned: bool = False) -> int:
        """Delete what it holds, pinned chunks only when asked; how many bytes that freed. Who has an extent open goes on reading.

        What is being written stays. Raises Unavailable or NoSpace when it cannot go on, as somebody asked for it.
        """
        freed = 0
        while some := self._caretaker.do(partial(Shelf.clear_some, pinned=pinned)):
            freed += some
        return freed + self._caretaker.do(Shelf.clear_rest)

    def close(self) -> None:
        """Write down what was used and counted, and let everything go. Idempotent. Nothing is found or kept afterwards."""
        self._caretaker.close()
        self._descriptors.close_all()

    def _usable(self) -> Shelf | None:
        """What can be asked; None when there is nothing to ask, which is seen to."""
        caretaker = self._caretaker
        if caretaker.closed or time.monotonic() < self._missing_until:
            return None
        shelf = caretaker.shelf
        if shelf is None or shelf.gone():
            caretaker.later(lambda _: None)  # opens it anew
            return None
        caretaker.start()  # who only reads uses and opens extents too
        return shelf

    def _miss(self, shelf: Shelf, error: ArtifactFSError) -> None:
        """Nothing could be asked: the next ones are not to wait for the same."""
        if not shelf.gone():
            self._missing_until = time.monotonic() + REST_SECONDS
        self._caretaker.mend(shelf, error)

    def _open_shelf(self) -> Shelf:
        settings = self._settings
        return Shelf(self._directory, limit=settings.limit, reserve=settings.reserve, removed=self._descriptors.close)

    def _look_after(self, shelf: Shelf) -> None:
        self._descriptors.close_deleted()
        self._write_down(shelf)
        shelf.look_after()

    def _add(self, **counts: int) -> None:
        with self._counting:
            for name, count in counts.items():
                if count:
                    self._counts[name] = self._counts.get(name, 0) + count

    def _write_down(self, shelf: Shelf) -> None:
        used, self._used = self._used, {}
        with self._counting:
            counts, self._counts = self._counts, {}
        if used or counts:
            try:
                # A list first: a reader may still be at the dictionary.
                shelf.record_use(list(used.items()), counts.items())
            except ArtifactFSError:
                self._add(**counts)
                raise


def _number(digest: bytes) -> int:
    """What is claimed for a chunk."""
    return int.from_bytes(digest[:8], "big") >> (64 - NUMBER_BITS)


def _trouble_of(shelf: Shelf, taken: int, pinned: int) -> str:
    """Why a cache keeps nothing more; empty when it does."""
    if shelf.limit - taken < SINGLE_CHUNK:
        if pinned:
            return (
                "pinned chunks take all of its size, so nothing more is kept: "
                "raise --cache-size, or run `artifactfs cache clear --pinned`"
            )
        return "its size has no room for a chunk, so nothing is kept: raise --cache-size"
    if shelf.free() < shelf.reserve:
        return "the disk has less free space than the cache leaves it, so the cache shrinks: free some space"
    return ""

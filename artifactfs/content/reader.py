"""The read path: verified bytes of chunks, nodes and files.

Used by everything that reads content: trees, mounts, ``get``. All methods may be called from any thread.

Invariant *verified-before-served*: bytes of a chunk leave this module only after the whole chunk was checked against
its digest by this process, at the place they are read from. Invariant *one-fetch*: a chunk is fetched once, however
many threads wait for it, and no lock is held meanwhile.

Memory: decoded chunks up to the given bytes, plus one chunk (4 MiB at most) for each thread that fetches.
"""

from __future__ import annotations

import os
import threading
import time
from bisect import bisect_right
from collections import OrderedDict, deque
from itertools import accumulate
from typing import TYPE_CHECKING, Final

from artifactfs.content.chunks import MAXIMUM
from artifactfs.content.pack import unseal
from artifactfs.content.places import Place, Places
from artifactfs.errors import Integrity, InvalidInput, NotFound, Unavailable
from artifactfs.model.digest import CHUNKS, DATA, digest, format_digest, kind_of_flags
from artifactfs.model.records import FLAG_ENCRYPTED, FLAG_ZSTD
from artifactfs.model.sequence import CHUNK_LIST, SINGLE_CHUNK, ChunkBranch, Piece

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

    from artifactfs.content.store import Store
    from artifactfs.registry.contract import Registry

    # Fills a buffer from an object at an offset, if that waits for nothing; returns whether it did.
    ReadCached = Callable[[str, int, memoryview], bool]

MEMORY: Final = 64 << 20
"""Bytes of decoded chunks kept: sixteen readers that each go through chunks of the largest size in small steps."""

RAW_MEMORY: Final = 16 << 20
"""Of these, bytes of chunks that lie raw on a local disk: what is evicted costs a read of the page cache, and memory that is
soon used again stays in the processor's cache (1 GiB cold through the mount: 0.46 s with 4 MiB, 0.49 s with 64 MiB)."""

WAIT_SECONDS: Final = 60.0
"""How long a thread waits for a chunk that another one fetches. A Store's own bound is shorter; this one holds if a
Store breaks it."""

WAITERS: Final = 64
"""Threads that may wait for others' fetches; past it a read fails at once, so that a stalled Store cannot take a
mount's last thread."""

LIST_NODES: Final = 64
"""Decoded nodes of chunk lists kept for all open files, about 1,000 chunks (1 GiB of file) and 200 KB each."""

VERIFIERS: Final = 4
"""Threads that verify a file at its open: hashing runs beside hashing, from the second core on limited by memory."""

_CODED: Final = FLAG_ZSTD | FLAG_ENCRYPTED


class ContentReader:
    """Reads chunks by digest. ``memory``: bytes of decoded chunks to keep."""

    def __init__(self, store: Store, registry: Registry, *, memory: int = MEMORY) -> None:
        self._store = store
        self._places = Places(registry)
        self._lock = threading.Lock()  # guards what follows; never held while fetching
        self._chunks = _Kept(memory)
        self._raw = _Kept(min(memory, RAW_MEMORY)) if store.local else self._chunks
        self._fetches: dict[tuple[int, bytes], _Fetch] = {}
        self._waiting = 0
        self._fetched = 0  # bytes, as stored
        self._whole: dict[bytes, str] = {}  # chunk lists that are objects of their own; few, as these are large
        self._lists: OrderedDict[bytes, ListNode] = OrderedDict()

    @property
    def local(self) -> bool:
        """Whether chunks come from a local disk."""
        return self._store.local

    @property
    def bytes_fetched(self) -> int:
        """Bytes of whole chunks that came from the Store so far, as they are stored."""
        return self._fetched

    def chunk(self, name: bytes, kind: int = DATA, size: int | None = None, along: Iterable[bytes] = ()) -> bytes:
        """The verified bytes of a chunk; ``size``, when known, must be its size.

        ``along`` are chunks whose places are asked for in the same question. Raises Integrity when the chunk is
        damaged, missing, or of another kind or size; Unavailable, Access and NoSpace as the Store and the Registry
        do.
        """
        key = (kind, name)
        with self._lock:
            data = self._chunks.use(key) or self._raw.use(key)
            if data is not None:
                return _of_size(data, name, size)
            fetch = self._fetches.get(key)
            if fetch is None:
                own = self._fetches[key] = _Fetch()
            elif self._waiting >= WAITERS:
                raise Unavailable(f"{self._waiting} reads wait for chunks that do not come; try again later")
            else:
                self._waiting += 1
        if fetch is not None:
            return _of_size(self._wait(fetch, name), name, size)
        try:
            place, data = self._fetch(name, kind, along)
            own.data = data
        except BaseException as error:
            own.error = error
            raise
        finally:
            with self._lock:
                del self._fetches[key]
                if own.data is not None:
                    (self._chunks if place.location.flags & _CODED else self._raw).keep(key, own.data)
            own.done.set()
        return _of_size(data, name, size)

    def node(self, name: bytes, kind: int) -> bytes:
        """The verified bytes of a node of a Sequence of this kind (TREE, CHUNKS). Errors as in :meth:`chunk`."""
        return self.chunk(name, kind)

    def open(self, name: bytes, size: int, neighbours: Callable[[], Collection[bytes]] | None = None) -> FileReader:
        """Read a file by digest and size, as its Entry gives them. Fetches nothing yet.

        ``neighbours`` gives digests of files that may be read next: their places are asked for along with this one's.
        """
        return FileReader(self, name, size, neighbours)

    def read_range(self, piece: Piece, begin: int, end: int, along: Iterable[bytes]) -> bytes | memoryview:
        """Bytes ``begin`` to ``end`` of a chunk of data. Errors as in :meth:`chunk`.

        They come from memory; or by one read of just the range, if the chunk lies raw on a local disk and was
        verified there; or from the chunk fetched whole.
        """
        place = self._places.get(piece.digest)
        direct = place is not None and place.verified and not place.location.flags & _CODED and self._store.local
        if direct and place is not None and (DATA, piece.digest) not in self._raw:
            try:
                return self._store.read(place.key, place.location.offset + begin, end - begin)
            except (NotFound, Integrity):
                place.verified = False  # fetched anew below, which finds out what happened
        data = self.chunk(piece.digest, DATA, piece.size, along)
        return data if end - begin == len(data) else memoryview(data)[begin:end]

    def whole(self, name: bytes, pieces: Iterable[Piece]) -> str | None:
        """The key of the object that consists of just these chunks, all raw and verified; None when there is none.

        ``name`` is the digest of their list, under which the answer is remembered.
        """
        known = self._whole.get(name)
        if known is not None:
            return known
        key = ""
        end = 0
        for piece in pieces:
            place = self._places.get(piece.digest)
            if place is None or not place.verified or place.location.flags & _CODED or place.location.offset != end:
                return None
            if place.key != (key or place.key):
                return None
            key = place.key
            end += piece.size
        if not key or self._store.size(key) != end:
            return None
        self._whole[name] = key
        return key

    def place_of(self, piece: Piece, along: Iterable[bytes]) -> Place | None:
        """Where a chunk of data lies raw, if it does."""
        place = self._places.find(piece.digest, along)
        return None if place is None or place.location.flags & _CODED else place

    def in_memory(self, name: bytes) -> bool:
        """Whether a chunk of data is in memory."""
        return (DATA, name) in self._chunks or (DATA, name) in self._raw

    def list_in_memory(self, name: bytes) -> ListNode | None:
        """A decoded node of a chunk list, if it is in memory."""
        with self._lock:
            node = self._lists.get(name)
            if node is not None:
                self._lists.move_to_end(name)
            return node

    def list_node(self, name: bytes, along: Iterable[bytes]) -> ListNode:
        """A decoded node of a chunk list, fetched when need be."""
        node = self.list_in_memory(name)
        if node is not None:
            return node
        node = ListNode(self.chunk(name, CHUNKS, None, along))
        with self._lock:
            self._lists[name] = node
            if len(self._lists) > LIST_NODES:
                self._lists.popitem(last=False)
        return node

    def _wait(self, fetch: _Fetch, name: bytes) -> bytes:
        try:
            if not fetch.done.wait(WAIT_SECONDS):
                raise Unavailable(
                    f"chunk {format_digest(name)} did not come within {WAIT_SECONDS:.0f} s; try again later"
                )
        finally:
            with self._lock:
                self._waiting -= 1
        if fetch.data is None:
            error = fetch.error
            if isinstance(error, Exception):
                raise type(error)(*error.args) from error  # each thread its own, as raising writes a traceback into it
            raise Unavailable(f"the fetch of chunk {format_digest(name)} was broken off; try again")
        return fetch.data

    def _fetch(self, name: bytes, kind: int, along: Iterable[bytes]) -> tuple[Place, bytes]:
        place = self._places.find(name, along)
        if place is None:
            raise Integrity(f"chunk {format_digest(name)} is in no pack; run `artifactfs verify`")
        try:
            return place, self._fetch_at(place, name, kind)
        except NotFound:
            # A collection may have moved the chunk since its place was asked for.
            again = self._places.find_again(name)
            if again is not None and again.location != place.location:
                try:
                    return again, self._fetch_at(again, name, kind)
                except NotFound:
                    place = again
            raise Integrity(
                f"chunk {format_digest(name)}: its pack {place.location.pack} is missing; run `artifactfs verify`"
            ) from None

    def _fetch_at(self, place: Place, name: bytes, kind: int) -> bytes:
        location = place.location
        if kind_of_flags(location.flags) != kind:
            raise Integrity(f"chunk {format_digest(name)} is recorded as one of another kind; run `artifactfs verify`")
        try:
            plain = unseal(self._store.read(place.key, location.offset, location.length), location)
        except Integrity as error:
            raise _damaged(name, place) from error
        if digest(kind, plain) != name:
            raise _damaged(name, place)
        place.verified = True
        with self._lock:
            self._fetched += location.length
        return plain


class _Kept:
    """Chunks by kind and digest, up to a number of bytes, the least recently used evicted first. Guarded by the reader's lock."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.bytes = 0
        # By kind and digest: bytes that were verified as one kind of chunk are nothing of another kind.
        self._chunks: OrderedDict[tuple[int, bytes], bytes] = OrderedDict()

    def __contains__(self, key: tuple[int, bytes]) -> bool:
        return key in self._chunks

    def use(self, key: tuple[int, bytes]) -> bytes | None:
        """A chunk, now the most recently used; or None."""
        data = self._chunks.get(key)
        if data is not None:
            self._chunks.move_to_end(key)
        return data

    def keep(self, key: tuple[int, bytes], data: bytes) -> None:
        """Add a chunk that is not there; one that is larger than the limit is not kept."""
        if len(data) <= self._limit:
            self._chunks[key] = data
            self.bytes += len(data)
            while self.bytes > self._limit:
                _, evicted = self._chunks.popitem(last=False)
                self.bytes -= len(evicted)


class FileReader:
    """A file's bytes by offset. Any number of threads may read at once; there is nothing to close."""

    __slots__ = ("_along", "_leaf", "_name", "_reader", "size")

    def __init__(
        self, reader: ContentReader, name: bytes, size: int, neighbours: Callable[[], Collection[bytes]] | None
    ) -> None:
        self._reader = reader
        self._name = name
        self._along = neighbours
        self.size = size
        # The part of the chunk list that the last read ended in, and the offset where it begins. One attribute, so
        # that threads see a pair that belongs together. The list of a file of up to about 1 GiB is one node, so this
        # is all there is.
        self._leaf: tuple[int, ListNode] | None = None

    def read(self, offset: int, length: int) -> bytes | memoryview:
        """``length`` bytes from ``offset`` on; fewer at the end of the file only. Errors as ContentReader.chunk."""
        parts = self.read_parts(offset, length)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def read_parts(self, offset: int, length: int) -> list[bytes | memoryview]:
        """As :meth:`read`, in pieces as they lie in memory, for a caller that can write several at once."""
        if offset < 0:
            raise InvalidInput(f"cannot read at offset {offset}")
        end = min(offset + length, self.size)
        if offset >= end:
            return []
        if self.size <= SINGLE_CHUNK:
            return [self._reader.read_range(Piece(self._name, self.size), offset, end, self._neighbours())]
        parts: list[bytes | memoryview] = []
        while offset < end:
            first, leaf = self._leaf_at(offset)
            within = offset - first
            index = bisect_right(leaf.starts, within) - 1
            piece = leaf.pieces[index]
            begin = within - leaf.starts[index]
            stop = min(piece.size, begin + end - offset)
            parts.append(self._reader.read_range(piece, begin, stop, (other.digest for other in leaf.pieces)))
            offset += stop - begin
        return parts

    def ready(self, offset: int, length: int) -> bool:
        """Whether :meth:`read` of this range would be answered without a network: from a local disk or from memory."""
        reader = self._reader
        if reader.local:
            return True
        end = min(offset + length, self.size)
        if self.size <= SINGLE_CHUNK:
            return offset >= end or reader.in_memory(self._name)
        while offset < end:
            found = self._leaf_in_memory(offset)
            if found is None:
                return False
            first, leaf = found
            index = bisect_right(leaf.starts, offset - first) - 1
            if not reader.in_memory(leaf.pieces[index].digest):
                return False
            offset = first + leaf.starts[index + 1]
        return True

    def pieces(self) -> list[Piece]:
        """The file's chunks in order: one for a small file, none for an empty one."""
        if self.size <= SINGLE_CHUNK:
            return [Piece(self._name, self.size)] if self.size else []
        found: list[Piece] = []
        offset = 0
        while offset < self.size:
            first, leaf = self._leaf_at(offset)
            found += leaf.pieces
            offset = first + leaf.size
        return found

    def verify_cached(self, read: ReadCached, seconds: float) -> None:
        """Verify the chunks of a file that may be an object of its own, as far as they can be read at once.

        Takes at most so many seconds of processor time, and on several cores less. Damage is told of by the read that meets it.
        """
        waiting: list[tuple[bytes, Place]] = []
        offset = 0
        while offset < self.size:
            first, leaf = self._leaf_at(offset)
            for piece, start in zip(leaf.pieces, leaf.starts, strict=False):
                place = self._reader.place_of(piece, (other.digest for other in leaf.pieces))
                if place is None or place.location.offset != first + start:
                    return
                if not place.verified:
                    waiting.append((piece.digest, place))
            offset = first + leaf.size
        if waiting:
            count = min(VERIFIERS, len(os.sched_getaffinity(0)))
            arguments = (iter(waiting), read, seconds / count)
            threads = [threading.Thread(target=_verify_cached, args=arguments) for _ in range(count - 1)]
            for thread in threads:
                thread.start()
            _verify_cached(*arguments)
            for thread in threads:
                thread.join()

    def whole(self) -> str | None:
        """The key of the object that is this file from its first byte to its last, once all of it was verified; else None.

        Asks and reads nothing; stops at the first chunk that was not verified.
        """
        if self.size <= SINGLE_CHUNK:
            return None
        return self._reader.whole(self._name, self._verified())

    def _verified(self) -> Iterator[Piece]:
        """The chunks in order, as far as the chunk list is in memory."""
        offset = 0
        while offset < self.size:
            found = self._leaf_in_memory(offset)
            if found is None:
                return
            first, leaf = found
            yield from leaf.pieces
            offset = first + leaf.size

    def _neighbours(self) -> Iterator[bytes]:
        # A generator, so that nobody is asked unless a place must be.
        if self._along is not None:
            yield from self._along()

    def _leaf_at(self, offset: int) -> tuple[int, ListNode]:
        found = self._leaf
        if found is None or not found[0] <= offset < found[0] + found[1].size:
            found = self._descend(offset, self._reader.list_node(self._name, self._neighbours()))
            self._leaf = found
        return found

    def _descend(self, offset: int, node: ListNode) -> tuple[int, ListNode]:
        if node.size != self.size:
            raise self._wrong(self._name, node.size, self.size)
        first = 0
        while node.branches:
            index, branch = node.branch_at(offset - first)
            first += node.starts[index]
            names = (other.digest for other in node.branches)
            node = self._reader.list_node(branch.digest, names)
            if node.size != branch.size:
                raise self._wrong(branch.digest, node.size, branch.size)
        return first, node

    def _leaf_in_memory(self, offset: int) -> tuple[int, ListNode] | None:
        node = self._reader.list_in_memory(self._name)
        first = 0
        while node is not None and node.branches:
            index, branch = node.branch_at(offset - first)
            first += node.starts[index]
            node = self._reader.list_in_memory(branch.digest)
        return None if node is None else (first, node)

    @staticmethod
    def _wrong(name: bytes, size: int, expected: int) -> Integrity:
        return Integrity(
            f"chunk list {format_digest(name)} has {size} bytes where {expected} are recorded; run `artifactfs verify`"
        )


class ListNode:
    """A decoded node of a chunk list with the offset where each member begins; the last of ``starts`` is the end."""

    __slots__ = ("branches", "pieces", "size", "starts")

    def __init__(self, data: bytes) -> None:
        node = CHUNK_LIST.decode(data)
        self.pieces: Sequence[Piece] = node.items
        self.branches: Sequence[ChunkBranch] = node.branches
        members: Sequence[Piece | ChunkBranch] = node.items or node.branches
        if any(member.size <= 0 for member in members):
            raise Integrity("a chunk list has a member without bytes; run `artifactfs verify`")
        self.starts = list(accumulate((member.size for member in members), initial=0))
        self.size = self.starts[-1]

    def branch_at(self, offset: int) -> tuple[int, ChunkBranch]:
        """Index and branch that hold an offset of this node."""
        index = bisect_right(self.starts, offset) - 1
        return index, self.branches[index]


def _verify_cached(work: Iterator[tuple[bytes, Place]], read: ReadCached, seconds: float) -> None:
    """Verify raw chunks, each taken by one of the threads that share ``work``, until one cannot be."""
    buffer = memoryview(bytearray(MAXIMUM))
    deadline = time.thread_time() + seconds
    for name, place in work:
        location = place.location
        space = buffer[: location.length]
        if time.thread_time() > deadline or not read(place.key, location.offset, space) or digest(DATA, space) != name:
            deque(work, maxlen=0)  # leaves nothing to the others
            return
        place.verified = True


class _Fetch:
    """A chunk under way."""

    __slots__ = ("data", "done", "error")

    def __init__(self) -> None:
        self.done = threading.Event()
        self.data: bytes | None = None
        self.error: BaseException | None = None


def _damaged(name: bytes, place: Place) -> Integrity:
    return Integrity(
        f"chunk {format_digest(name)} is damaged in pack {place.location.pack} at offset {place.location.offset}; "
        "run `artifactfs verify`"
    )


def _of_size(data: bytes, name: bytes, size: int | None) -> bytes:
    if size is not None and size != len(data):
        raise Integrity(
            f"chunk {format_digest(name)} has {len(data)} bytes where {size} are recorded; run `artifactfs verify`"
        )
    return data

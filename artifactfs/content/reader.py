"""The read path: verified bytes of chunks, nodes and files.

Used by everything that reads content: trees, mounts, ``get``. All methods may be called from any thread.

Invariant *verified-before-served*: bytes of a chunk leave this module only after the whole chunk was checked against
its digest by this process, at the place they are read from. Invariant *one-fetch*: a chunk is fetched once, however
many threads wait for it, and no lock is held meanwhile.

Memory: that of the source (content/memory.py), plus one chunk (4 MiB at most) for each thread that fetches.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections import OrderedDict
from itertools import accumulate
from typing import TYPE_CHECKING, Final

from artifactfs.content.ahead import Window
from artifactfs.content.memory import Flight
from artifactfs.errors import Integrity, InvalidInput
from artifactfs.model.digest import CHUNKS, DATA, format_digest
from artifactfs.model.sequence import CHUNK_LIST, SINGLE_CHUNK, ChunkBranch, Piece

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

    from artifactfs.content.source import Source

LIST_NODES: Final = 64
"""Decoded nodes of chunk lists kept for all open files, about 1,000 chunks (1 GiB of file) and 200 KB each."""

AHEAD_MOST: Final = 64 << 20
"""Bytes fetched ahead at most, in requests of 4 MiB. At 20 ms of round trip 1 GiB took 1.9 s with 32 MiB and eight requests at a
time, 1.5 s with 64 MiB, 1.35 s with twelve requests."""


class ContentReader:
    """Reads chunks by digest."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._memory = source.memory
        self._lock = threading.Lock()  # guards what follows
        self._lists: OrderedDict[bytes, ListNode] = OrderedDict()

    @property
    def local(self) -> bool:
        """Whether chunks come from a local disk."""
        return self._source.local

    @property
    def bytes_fetched(self) -> int:
        """Bytes of whole chunks that came from the Store so far, as they are stored."""
        return self._source.bytes_fetched

    def chunk(self, name: bytes, kind: int = DATA, size: int | None = None, along: Iterable[bytes] = ()) -> bytes:
        """The verified bytes of a chunk; ``size``, when known, must be its size.

        ``along`` are chunks whose places are asked for in the same question. Raises Integrity when the chunk is
        damaged, missing, or of another kind or size; Unavailable, Access and NoSpace as the Store and the Registry
        do.
        """
        data = self._memory.enter((kind, name))
        if isinstance(data, Flight):
            try:
                data = self._source.fetch(name, kind, along)
            except BaseException as error:
                self._memory.fail((kind, name), error)
                raise
        return _of_size(data, name, size)

    def node(self, name: bytes, kind: int) -> bytes:
        """The verified bytes of a node of a Sequence of this kind (TREE, CHUNKS). Errors as in :meth:`chunk`."""
        return self.chunk(name, kind)

    def open(self, name: bytes, size: int, neighbours: Callable[[], Collection[bytes]] | None = None) -> FileReader:
        """Read a file by digest and size, as its Entry gives them. Fetches nothing yet.

        ``neighbours`` gives digests of files that may be read next: their places are asked for along with this one's.
        """
        return FileReader(self, name, size, neighbours)

    def fetch_all(self, pieces: Iterable[Piece], *, pin: bool = False) -> Iterator[int]:
        """Get all these chunks of data into the cache, wherever there is one; yields plain bytes as they are there.

        ``pin`` keeps them from eviction. Raises as :meth:`chunk`.
        """
        return self._source.fetch_all(pieces, pin=pin)

    def pin(self, names: Collection[bytes]) -> None:
        """Keep these chunks and nodes, which were read, from eviction, wherever there is a cache."""
        self._source.pin(names)

    def close(self) -> None:
        """End what runs in the background. Idempotent."""
        self._source.close()

    def read_range(self, piece: Piece, begin: int, end: int, along: Iterable[bytes]) -> bytes | memoryview:
        """Bytes ``begin`` to ``end`` of a chunk of data. Errors as in :meth:`chunk`.

        They come from memory; or by one read of just the range, if the chunk lies raw on a local disk and was
        verified there; or from the chunk fetched whole.
        """
        direct = self._source.read_verified(piece.digest, begin, end)
        if direct is not None:
            return direct
        data = self.chunk(piece.digest, DATA, piece.size, along)
        return data if end - begin == len(data) else memoryview(data)[begin:end]

    def ahead(self, owner: bytes, pieces: Iterable[Piece]) -> None:
        """These chunks of a large file, the ``owner``, will be read soon."""
        self._source.ahead(owner, pieces)

    def touched(self, name: bytes) -> None:
        """A small file, one chunk, was read: others may follow it."""
        self._source.touched(name)

    def path(self, directory: bytes, path: str) -> None:
        """A path below a directory will be looked up: get the nodes along it at once, where that saves requests."""
        self._source.path(directory, path)

    def ready(self, name: bytes) -> bool:
        """Whether a chunk of data comes without a network."""
        return (DATA, name) in self._memory or self._source.ready(name)

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


class FileReader:
    """A file's bytes by offset. Any number of threads may read at once; there is nothing to close."""

    __slots__ = ("_along", "_leaf", "_reader", "_window", "digest", "size")

    def __init__(
        self, reader: ContentReader, name: bytes, size: int, neighbours: Callable[[], Collection[bytes]] | None
    ) -> None:
        self._reader = reader
        self.digest = name
        self._along = neighbours
        self.size = size
        # The part of the chunk list that the last read ended in, and the offset where it begins. One attribute, so
        # that threads see a pair that belongs together. The list of a file of up to about 1 GiB is one node, so this
        # is all there is.
        self._leaf: tuple[int, ListNode] | None = None
        self._window: Window | None = None  # made at the first read of a large file

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
            data = self._reader.read_range(Piece(self.digest, self.size), offset, end, self._neighbours())
            if not self._reader.local:
                self._reader.touched(self.digest)
            return [data]
        if not self._reader.local:
            self._look_ahead(offset, end)
        parts: list[bytes | memoryview] = []
        while offset < end:
            first, leaf = self.leaf_at(offset)
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
            return offset >= end or reader.ready(self.digest)
        while offset < end:
            found = self._leaf_in_memory(offset)
            if found is None:
                return False
            first, leaf = found
            index = bisect_right(leaf.starts, offset - first) - 1
            if not reader.ready(leaf.pieces[index].digest):
                return False
            offset = first + leaf.starts[index + 1]
        return True

    def pieces(self) -> list[Piece]:
        """The file's chunks in order: one for a small file, none for an empty one."""
        if self.size <= SINGLE_CHUNK:
            return [Piece(self.digest, self.size)] if self.size else []
        return [piece for _, leaf in self.leaves() for piece in leaf.pieces]

    def leaves(self) -> Iterator[tuple[int, ListNode]]:
        """The leaves of the chunk list, each with the offset where it begins. Only of a file larger than one chunk."""
        offset = 0
        while offset < self.size:
            first, leaf = self.leaf_at(offset)
            yield first, leaf
            offset = first + leaf.size

    def leaves_in_memory(self) -> Iterator[tuple[int, ListNode]]:
        """As :meth:`leaves`, as far as they are in memory."""
        offset = 0
        while offset < self.size:
            found = self._leaf_in_memory(offset)
            if found is None:
                return
            yield found
            offset = found[0] + found[1].size

    def _look_ahead(self, offset: int, end: int) -> None:
        """Have what a sequential reader will read next fetched, in a window that doubles; nothing for a random one."""
        window = self._window
        if window is None:
            window = self._window = Window(AHEAD_MOST)
        wanted = window.after(offset, end, self.size)
        if wanted is not None:
            self._reader.ahead(self.digest, self._pieces_between(*wanted))

    def _pieces_between(self, begin: int, end: int) -> Iterator[Piece]:
        """The chunks that hold a range of offsets; of a part of the list that is not in memory, none."""
        while begin < end:
            found = self._leaf_in_memory(begin)
            if found is None:
                return
            first, leaf = found
            for index in range(bisect_right(leaf.starts, begin - first) - 1, len(leaf.pieces)):
                if first + leaf.starts[index] >= end:
                    return
                yield leaf.pieces[index]
            begin = first + leaf.size

    def _neighbours(self) -> Iterator[bytes]:
        # A generator, so that nobody is asked unless a place must be.
        if self._along is not None:
            yield from self._along()

    def leaf_at(self, offset: int) -> tuple[int, ListNode]:
        """The leaf of the chunk list that holds an offset, and the offset where it begins. Only of a file larger than one chunk."""
        found = self._leaf
        if found is None or not found[0] <= offset < found[0] + found[1].size:
            found = self._descend(offset, self._reader.list_node(self.digest, self._neighbours()))
            self._leaf = found
        return found

    def _descend(self, offset: int, node: ListNode) -> tuple[int, ListNode]:
        if node.size != self.size:
            raise self._wrong(self.digest, node.size, self.size)
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
        node = self._reader.list_in_memory(self.digest)
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


def _of_size(data: bytes, name: bytes, size: int | None) -> bytes:
    if size is not None and size != len(data):
        raise Integrity(
            f"chunk {format_digest(name)} has {len(data)} bytes where {size} are recorded; run `artifactfs verify`"
        )
    return data

"""The write path: files in, digests out; their chunks end up durable in packs and recorded in the Registry.

Used by everything that stores content (drafts, ``put``, commits from staging, copies between repositories). A
:class:`ContentWriter` is used by one thread at a time. That thread reads, cuts and hashes; ``content/pipeline.py`` does the
rest behind it.

Memory is bounded: what waits is at most six buffers of 12 MiB, or four of 20 MiB when the Store is not local, whatever the
sizes of files; packs are not held at all.
Digests are known at once, but nothing may be counted on before :meth:`ContentWriter.flush` has returned.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final, Self

import msgspec

from artifactfs.content.chunks import MAXIMUM, Cutter
from artifactfs.content.pack import PACK_SIZE
from artifactfs.content.pipeline import Batch, Item, Pipeline
from artifactfs.content.rechunk import recut
from artifactfs.errors import Conflict, InvalidInput
from artifactfs.model import sequence
from artifactfs.model.digest import DATA, digest
from artifactfs.model.sequence import CHUNK_LIST, SINGLE_CHUNK, Piece

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from types import TracebackType

    from artifactfs.content.rechunk import ReadAt
    from artifactfs.content.store import Store
    from artifactfs.registry.contract import Registry


class FileContent(msgspec.Struct, frozen=True):
    """What an Entry says of a file's bytes: their digest and their number."""

    digest: bytes
    size: int


EMPTY: Final = FileContent(digest(DATA, b""), 0)
"""The empty file. It has no chunk."""


class ContentWriter:
    """Stores content. ``admit`` is told how many bytes there will be, before a pack that makes them so many is sent; it may raise.

    An error of the background work is raised by the next call, and by every call after it.

    As a context manager it closes itself, and aborts when the block raised.
    """

    def __init__(
        self,
        store: Store,
        registry: Registry,
        *,
        session: int | None,
        admit: Callable[[int], None] | None = None,
    ) -> None:
        self._pipeline = Pipeline(store, registry, session, admit)
        self._limits = self._pipeline.limits
        self._local = store.local
        self._cutter = Cutter()
        self._items: list[Item] = []
        self._items_bytes = 0
        self._files = 0  # files that may get a pack of their own
        self._open = True
        self.bytes_read = 0
        self.progress: Callable[[], None] | None = None
        """Called after every batch (8 MiB or 512 chunks), from the thread that uses the writer."""

    # -- content ---------------------------------------------------------------------------------------------------

    def add_file(self, descriptor: int) -> FileContent:
        """Store a regular file from offset 0 to its end. An OSError passes as it is: the caller knows the path."""
        self._check()
        size = os.fstat(descriptor).st_size
        if size <= SINGLE_CHUNK:
            data = os.pread(descriptor, size + 1, 0)
            if not os.pread(descriptor, 1, len(data)):
                return self._add_single(data)
            size = 0  # it grows while it is read: what it will be is not known

        offset = 0

        def read_into(space: memoryview) -> int:
            nonlocal offset
            count = os.preadv(descriptor, [space], offset)
            offset += count
            return count

        return self._add_large(read_into, size)

    def add_bytes(self, data: bytes) -> FileContent:
        """Store bytes as a file."""
        if len(data) <= SINGLE_CHUNK:
            self._check()
            return self._add_single(data)
        view = memoryview(data)
        offset = 0

        def read(length: int) -> memoryview:
            nonlocal offset
            part = view[offset : offset + length]
            offset += len(part)
            return part

        return self.add_stream(read)

    def add_stream(self, read: Callable[[int], bytes | memoryview]) -> FileContent:
        """Store what ``read(length)`` gives, at most ``length`` bytes a call, until it gives none."""
        self._check()

        def read_into(space: memoryview) -> int:
            data = read(len(space))
            space[: len(data)] = data
            return len(data)

        return self._add_large(read_into, 0)

    def rechunk(
        self, base: Sequence[Piece], size: int, changed: Iterable[tuple[int, int]], read: ReadAt
    ) -> FileContent:
        """Store a changed file of ``size`` bytes, reading only around its changes.

        ``base`` is the chunk list of what it was (empty: nothing), ``changed`` the half-open ranges of offsets whose
        bytes may differ, ``read(offset, length)`` gives bytes of the changed file. The digest is that of storing the
        whole. The base's chunks must be in the repository and protected from collection. Conflict when ``read`` comes
        short.
        """
        self._check()
        # A base or a result of one chunk was not cut: its only boundaries are its ends.
        if size <= SINGLE_CHUNK or sum(piece.size for piece in base) <= SINGLE_CHUNK:
            return self._add_large(_reader_of(read, size), size)
        return self._add_list(self._recut_pieces(recut(base, size, changed, read, self._cutter)))

    def add_node(self, kind: int, data: bytes) -> bytes:
        """Store a node of a Sequence; returns its digest."""
        self._check()
        name = digest(kind, data)
        self._add(Item(name, data, kind, 0))
        return name

    def add_chunk(self, name: bytes, data: bytes, kind: int, file: int = 0) -> None:
        """Store a chunk or node that another repository holds. Its bytes were checked against ``name`` by who read them.

        Chunks of a large file come in order, with its number from :meth:`number_file`.
        """
        self._check()
        self._add(Item(name, data, kind, file))

    def number_file(self, size: int) -> int:
        """A number for the chunks of a file that may get a pack of its own, or 0.

        Only on a local disk, where it may be read as one object. Over a network each pack is one bounded, repeatable
        request instead.
        """
        if size <= PACK_SIZE or not self._local:
            return 0
        self._files += 1
        return self._files

    # -- life ------------------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Wait until everything so far is durable in the Store and recorded in the Registry."""
        self._check()
        self._hand_over()
        self._pipeline.flush()

    def close(self) -> None:
        """Flush and end. Idempotent; after an error it raises that error once more."""
        if self._open:
            try:
                self.flush()
            finally:
                self.abort()

    def abort(self) -> None:
        """End and forget what is not recorded yet. Idempotent."""
        self._open = False
        self._items.clear()
        self._pipeline.stop(discard=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()

    @property
    def bytes_stored(self) -> int:
        """Bytes of new chunks in packs, after compression. Exact after a flush, as the counters below."""
        return self._pipeline.bytes_stored

    @property
    def chunks_new(self) -> int:
        """Chunks and nodes that were stored."""
        return self._pipeline.chunks_new

    @property
    def chunks_known(self) -> int:
        """Chunks and nodes that were given but there already. What :meth:`rechunk` keeps is not given."""
        return self._pipeline.chunks_known

    # -- within ----------------------------------------------------------------------------------------------------

    def _check(self) -> None:
        if not self._open:
            raise InvalidInput("this writer is closed")
        self._pipeline.check()

    def _add_single(self, data: bytes) -> FileContent:
        if not data:
            return EMPTY
        self.bytes_read += len(data)
        name = digest(DATA, data)
        self._add(Item(name, data, DATA, 0))
        return FileContent(name, len(data))

    def _add_large(self, read_into: Callable[[memoryview], int], size: int) -> FileContent:
        """A file of any size; ``size`` bytes are expected, 0 when that is not known."""
        buffer = self._take_buffer()
        filled = _fill(memoryview(buffer), read_into)
        if filled <= SINGLE_CHUNK:
            data = bytes(memoryview(buffer)[:filled])
            self._pipeline.buffers.append(buffer)
            return self._add_single(data)
        return self._add_list(self._cut_pieces(buffer, filled, read_into, self.number_file(size)))

    def _cut_pieces(
        self, buffer: bytearray, filled: int, read_into: Callable[[memoryview], int], file: int
    ) -> Iterator[Piece]:
        while True:
            # A buffer that could not be filled ends with the file.
            final = filled < len(buffer)
            data = memoryview(buffer)[:filled]
            done = 0
            for begin, done in self._cutter.cut(data, final=final):
                yield self._add_chunk(data[begin:done], file)
            if final:
                self._hand_over(buffer)
                return
            following = self._take_buffer()
            view = memoryview(following)
            rest = filled - done
            view[:rest] = data[done:]
            self._hand_over(buffer)
            buffer = following
            filled = rest + _fill(view[rest:], read_into)

    def _recut_pieces(self, parts: Iterable[Piece | memoryview]) -> Iterator[Piece]:
        for part in parts:
            yield part if isinstance(part, Piece) else self._add_chunk(part, 0)

    def _add_chunk(self, data: memoryview, file: int) -> Piece:
        self.bytes_read += len(data)
        name = digest(DATA, data)
        self._add(Item(name, data, DATA, file))
        return Piece(name, len(data))

    def _add_list(self, pieces: Iterable[Piece]) -> FileContent:
        root = sequence.build(CHUNK_LIST, pieces, self.add_node)
        return FileContent(root.digest, root.size)

    def _add(self, item: Item) -> None:
        self._items.append(item)
        self._items_bytes += len(item.data)
        if self._items_bytes >= self._limits.size or len(self._items) >= self._limits.chunks:
            self._hand_over()

    def _hand_over(self, buffer: bytearray | None = None) -> None:
        if self._items or buffer is not None:
            items, self._items, self._items_bytes = self._items, [], 0
            self._pipeline.put(Batch(items, buffer))
            if self.progress is not None:
                self.progress()

    def _take_buffer(self) -> bytearray:
        # The packer gives buffers back. Fresh memory for each would cost a page fault every 4 KiB.
        try:
            return self._pipeline.buffers.pop()
        except IndexError:
            return bytearray(self._limits.size + MAXIMUM)  # and what of the buffer before could not be cut yet


def _fill(space: memoryview, read_into: Callable[[memoryview], int]) -> int:
    """Read until the space is full or nothing comes any more; returns the bytes read."""
    filled = 0
    while filled < len(space):
        count = read_into(space[filled:])
        if not count:
            break
        filled += count
    return filled


def _reader_of(read: ReadAt, size: int) -> Callable[[memoryview], int]:
    """``read(offset, length)`` of ``size`` bytes as a stream."""
    offset = 0

    def read_into(space: memoryview) -> int:
        nonlocal offset
        length = min(len(space), size - offset)
        data = read(offset, length) if length else b""
        if len(data) != length:
            raise Conflict(
                f"the file changed while it was stored: {len(data)} of {length} bytes at {offset}; try again"
            )
        space[:length] = data
        offset += length
        return length

    return read_into

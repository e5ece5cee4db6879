"""Examining packs: each against its table of contents, the chunk index and, when content is read, every chunk's digest.

Used by verify, repair and the server's scrubbing. :func:`examine` is called for one pack by one thread, for several packs by several;
:class:`PackPass` owns such threads. Hashing and unpacking let other threads of the interpreter run.

A pack is read once, from its beginning to its end, by reads of 8 MiB, whatever the order in which versions name its chunks.
Memory: for each thread one read, one plain chunk (4 MiB of data at most) and the pack's table (some 150 bytes a chunk, 50,000 chunks
at most but in the pack of a single large file).
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from typing import Final

import msgspec

from artifactfs.content.pack import pack_key, read_table
from artifactfs.content.store import Store
from artifactfs.content.stored import opened
from artifactfs.errors import Access, ArtifactFSError, Format, Integrity, InvalidInput, NotFound
from artifactfs.health import faults
from artifactfs.health.faults import Fault
from artifactfs.health.pace import Pace
from artifactfs.model.digest import DATA, format_digest, kind_of_flags
from artifactfs.model.records import ChunkRow, Location, PackRow
from artifactfs.registry.contract import PackIndex

READ: Final = 8 << 20
"""Bytes of one read."""
TABLES: Final = 4
"""Tables of other packs that are remembered, for chunks that two packs have."""
ASKED: Final = 4096
"""Chunks whose places are asked for in one question."""


class Examined(msgspec.Struct):
    """What was found of one pack. ``plain``: bytes of files that were checked; ``stored``: bytes read."""

    pack: str
    faults: list[Fault] = msgspec.field(default_factory=list)
    chunks: int = 0
    plain: int = 0
    stored: int = 0
    rows: tuple[ChunkRow, ...] = ()  # what it holds, as its table says or, without one, the index; only when kept
    bad: set[bytes] = msgspec.field(default_factory=set)  # chunks that cannot be read


def examine(
    store: Store,
    index: PackIndex,
    pack: str,
    size: int,
    *,
    content: bool,
    pace: Pace,
    tables: Tables | None = None,
    keep_rows: bool = False,
) -> Examined:
    """Look at one pack of ``size`` bytes, as the registry has it. Raises Unavailable and Access as the Store and the Registry do."""
    found = Examined(pack)
    tables = tables or Tables(store, index)
    pace.take(0)
    try:
        actual = store.size(pack_key(pack))
    except NotFound:
        found.faults.append(Fault(pack, faults.MISSING, f"pack {pack} is missing"))
        actual = -1
    else:
        if actual != size:
            words = f"pack {pack} has {actual} bytes instead of {size}"
            found.faults.append(Fault(pack, faults.SIZE, words, size=actual))
    key = index.data_key(pack)
    rows = _rows(store, index, pack, size, key, found)
    here = _compare(tables, index, pack, rows, found)
    if keep_rows:
        found.rows = rows
    if actual < 0:
        found.bad.update(row.digest for row in rows)
    elif content:
        _read(store, pack, rows, actual, key, found, pace)
    # Bytes that nothing names hurt nobody: the chunk lies elsewhere, or is held no more.
    found.faults = [fault for fault in found.faults if fault.kind != faults.CHUNK or fault.chunk in here]
    return found


def _rows(store: Store, index: PackIndex, pack: str, size: int, key: bytes, found: Examined) -> tuple[ChunkRow, ...]:
    """The pack's chunks by its table of contents, or by the index when the table is of no use."""
    try:
        table = read_table(store, pack, key)
        if table.size != size:
            raise Integrity(f"it is of a pack of {table.size} bytes")
    except NotFound:
        found.faults.append(Fault(pack, faults.TABLE, f"the table of contents of pack {pack} is missing"))
    except (Integrity, Format) as error:
        found.faults.append(
            Fault(pack, faults.TABLE, f"the table of contents of pack {pack} cannot be used: {_short(error)}")
        )
    else:
        return table.chunks
    return index.pack_rows(pack)


def _compare(tables: Tables, index: PackIndex, pack: str, rows: Sequence[ChunkRow], found: Examined) -> set[bytes]:
    """Compare a pack's chunks with the index. Returns the chunks that the index has in this pack."""
    here: set[bytes] = set()
    for start in range(0, len(rows), ASKED):
        batch = rows[start : start + ASKED]
        places = index.locate([row.digest for row in batch])
        for row in batch:
            place = places.get(row.digest)
            if place is None:
                words = f"chunk {format_digest(row.digest)} is in pack {pack}, but not in the index"
                found.faults.append(Fault(pack, faults.UNRECORDED, words, row.digest))
                continue
            if place.pack == pack:
                here.add(row.digest)
                right = _is(row, place)
            else:
                # Two writers at once may both have stored it, and the first one's place counts.
                right = _elsewhere(tables, place.pack, row.digest, place)
            if not right:
                words = f"the index has chunk {format_digest(row.digest)} at a wrong place"
                found.faults.append(Fault(pack, faults.ROW, words, row.digest))
    return here


def _is(row: ChunkRow, place: Location) -> bool:
    return (row.offset, row.length, row.size, row.flags) == (place.offset, place.length, place.size, place.flags)


def _elsewhere(tables: Tables, pack: str, digest: bytes, place: Location) -> bool:
    try:
        row = tables.of(pack).get(digest)
    except (NotFound, Integrity, Format):
        return True  # the examination of that pack tells
    return row is not None and _is(row, place)


class Tables:
    """Tables of contents by chunk, the last few that were asked for: 10 MB each at most. Any thread."""

    def __init__(self, store: Store, index: PackIndex) -> None:
        self.of = lru_cache(TABLES)(
            lambda pack: {row.digest: row for row in read_table(store, pack, index.data_key(pack)).chunks}
        )


def _read(
    store: Store,
    pack: str,
    rows: Sequence[ChunkRow],
    actual: int,
    key: bytes,
    found: Examined,
    pace: Pace,
) -> None:
    within = []
    for row in rows:
        if row.offset + row.length <= actual:
            within.append(row)
        else:
            found.bad.add(row.digest)
            words = f"chunk {format_digest(row.digest)} lies beyond the end of pack {pack}"
            found.faults.append(Fault(pack, faults.CHUNK, words, row.digest))
    places = [(row.digest, Location(pack, row.offset, row.length, row.size, row.flags, key)) for row in within]
    check_places(store, places, found, pace)


def check_places(store: Store, places: Sequence[tuple[bytes, Location]], found: Examined, pace: Pace) -> None:
    """Read chunks of one pack, given in order of offset, and check each against its digest. Neighbours are read at once."""
    for run in runs(places):
        first, last = run[0][1], run[-1][1]
        pace.take(last.offset + last.length - first.offset)
        key = pack_key(first.pack)
        try:
            data: bytes | None = store.read(key, first.offset, last.offset + last.length - first.offset)
        except ArtifactFSError as error:
            if not store.local and not isinstance(error, Integrity | NotFound):
                raise  # the network fails, not the bytes
            data = None  # a part of the disk, perhaps: each chunk for itself
        for digest, place in run:
            begin = place.offset - first.offset
            try:
                stored = (
                    store.read(key, place.offset, place.length) if data is None else data[begin : begin + place.length]
                )
                plain = opened(stored, place, digest, kind_of_flags(place.flags))
            except ArtifactFSError as error:
                if isinstance(error, Access | InvalidInput):
                    raise
                found.bad.add(digest)
                found.faults.append(Fault(place.pack, faults.CHUNK, _short(error), digest))
            else:
                found.plain += len(plain) if kind_of_flags(place.flags) == DATA else 0
            found.chunks += 1
            found.stored += place.length


def runs(places: Sequence[tuple[bytes, Location]]) -> Iterator[list[tuple[bytes, Location]]]:
    """Chunks of one pack, given in order of offset, in parts that one read takes: neighbours of at most :data:`READ` bytes."""
    run: list[tuple[bytes, Location]] = []
    begin = end = 0
    for item in places:
        place = item[1]
        if run and (place.offset != end or place.offset + place.length - begin > READ):
            yield run
            run = []
        if not run:
            begin = place.offset
        run.append(item)
        end = place.offset + place.length
    if run:
        yield run


def _short(error: ArtifactFSError) -> str:
    return str(error).replace("; run `artifactfs verify`", "")


class PackPass:
    """Examines packs, several at a time, and gives what was found in the order of the packs. Close it."""

    def __init__(self, store: Store, index: PackIndex, *, content: bool, pace: Pace, threads: int = 0) -> None:
        self._store = store
        self._index = index
        self._content = content
        self._pace = pace
        self._threads = threads or len(os.sched_getaffinity(0))
        self._tables = Tables(store, index)
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="verify-pack")

    def _examine(self, pack: str, size: int) -> Examined:
        """As :func:`examine`. Nothing is wrong with a pack that a collection condemned, and perhaps deleted, meanwhile."""
        found = examine(
            self._store, self._index, pack, size, content=self._content, pace=self._pace, tables=self._tables
        )
        if found.faults and not self._index.has_pack(pack):
            return Examined(pack)
        return found

    def run(self, packs: Iterable[tuple[str, int]]) -> Iterator[Examined]:
        """What is found of each pack (digest, size). Errors as :func:`examine`; Stopped once the pace was told to."""
        waiting: deque[Future[Examined]] = deque()
        for pack, size in packs:
            waiting.append(self._pool.submit(self._examine, pack, size))
            if len(waiting) > 2 * self._threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    def check(self, places: Iterable[tuple[bytes, Location]]) -> list[Examined]:
        """Read these chunks alone, pack by pack in order of offset, and check them."""
        by_pack: dict[str, list[tuple[bytes, Location]]] = {}
        for digest, place in places:
            by_pack.setdefault(place.pack, []).append((digest, place))
        return list(self._pool.map(self._check, by_pack.items()))

    def _check(self, of_pack: tuple[str, list[tuple[bytes, Location]]]) -> Examined:
        pack, places = of_pack
        found = Examined(pack)
        places.sort(key=lambda item: item[1].offset)
        try:
            self._store.size(pack_key(pack))
        except NotFound:
            if not self._index.has_pack(pack):
                return found  # its living chunks have moved, and the walk looks where they are
            found.faults.append(Fault(pack, faults.MISSING, f"pack {pack} is missing"))
            return found
        check_places(self._store, places, found, self._pace)
        return found

    def close(self) -> None:
        """Stop what runs, and wait for it."""
        self._pool.shutdown(wait=True, cancel_futures=True)


def whole_row(pack: str, size: int, key: bytes, rows: Sequence[ChunkRow]) -> PackRow | None:
    """A pack's row of these chunks, with its data ``key``, if they cover it back to back, as a table of contents must; else None."""
    end = 0
    ordered = sorted(rows, key=lambda row: row.offset)
    for row in ordered:
        if row.offset != end:
            return None
        end += row.length
    return PackRow(pack, size, tuple(ordered), key) if end == size else None

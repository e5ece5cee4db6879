"""FetchedSource: chunks over a network, by way of the disk cache, and ahead of whoever reads in order.

Used by repositories behind a server. Any thread. A chunk that a reader waits for is fetched on its own thread, exactly that chunk;
what will be read next is fetched by a pool in the background: the next pieces of a large file that is read sequentially, the following
chunks of a pack whose small files are read in order (content/walks.py). Neighbouring chunks come by one request.

Across processes a chunk is claimed in the cache before it is fetched, and looked for once more after that, so that it is fetched once.

Memory: 128 MiB of decoded chunks, a request's chunks, 8 MiB at most, for each of the pool's 24 threads, 4 MiB for each reader that
fetches, 64 MiB of chunks on their way into the cache. A sequential reader has some 64 MiB of all that under way.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING, Final

from artifactfs.content.keeper import Keeper
from artifactfs.content.memory import ChunkMemory, Key
from artifactfs.content.pack import decode_index, index_key
from artifactfs.content.places import Place, Places
from artifactfs.content.pool import FetchPool
from artifactfs.content.recent import Recent
from artifactfs.content.stalls import Stalls
from artifactfs.content.stored import CODED, absent, damaged, gone, opened
from artifactfs.content.walks import Walks
from artifactfs.errors import ArtifactFSError, Integrity, NotFound, Unavailable
from artifactfs.model.digest import DATA, TREE, format_digest, kind_of_flags
from artifactfs.model.records import ChunkRow, Location

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

    from artifactfs.content.cache import Cache, Held
    from artifactfs.content.store import NodeSource, Store
    from artifactfs.model.sequence import Piece
    from artifactfs.registry.contract import Registry

FETCHED_MEMORY: Final = 128 << 20
"""Bytes of decoded chunks kept: twice what is fetched ahead of a sequential reader."""
NEIGHBOURS: Final = 512
"""Chunks looked for in the cache along with the one that is read: one query, about 1 ms."""
SIBLINGS: Final = 64
"""Nodes asked for along with one: directories beside it that a walk comes to next, 100 KB each at most."""
AHEAD: Final = 1 << 20
"""Bytes of nodes below that may come along with a node: the directories of some 15,000 files."""
REQUEST: Final = 4 << 20
"""Bytes of one request of a large file: eight under way fill a line of 20 ms, and one is late by little."""
BULK_REQUEST: Final = 8 << 20
"""The same for small files and whole versions, where nobody waits for a certain one."""
GAP: Final = 64 << 10
"""Bytes between wanted chunks that are read and thrown away rather than asked around."""
TABLE_LIMIT: Final = 4 << 20
"""Bytes of a pack's table of contents that is worth having for a walk: 80,000 chunks of 64 MiB."""
TABLES: Final = 16
"""Tables of packs remembered."""
CLOSE_SECONDS: Final = 10.0
"""What is fetched may still come and be kept when the repository is closed."""
BATCH: Final = 2048
"""Pieces of one round of :meth:`FetchedSource.fetch_all`."""

_logger = logging.getLogger(__name__)

Found = tuple[bytes, Place]


class FetchedSource:
    """A :class:`~artifactfs.content.source.Source` with a network between.

    ``seconds``: the bound of one request, and of the wait for a chunk that another process is fetching; after that it is fetched here
    too. So a chunk comes, or an error, within three times as long.
    """

    def __init__(
        self,
        store: Store,
        registry: Registry,
        nodes: NodeSource,
        cache: Cache,
        *,
        seconds: float = 30.0,
        memory: int = FETCHED_MEMORY,
    ) -> None:
        self._seconds = seconds
        self._store = store
        self._nodes = nodes
        self._cache = cache
        self._places = Places(registry)
        # A fetch waits for another process's, asks where the chunk is, and fetches it.
        self._memory = ChunkMemory(memory, seconds=3 * seconds + 1)
        self._held: Recent[Held] = Recent(200_000)  # chunks of data that the cache is known to have
        self._stalls = Stalls()
        self._walks = Walks()
        self._tables: dict[str, list[ChunkRow]] = {}
        self._pool = FetchPool()
        self._keeper = Keeper(cache)
        self._lock = threading.Lock()
        self._fetched = 0  # guarded by the lock

    @property
    def local(self) -> bool:
        """Never."""
        return False

    @property
    def memory(self) -> ChunkMemory:
        """Where chunks are put once they are verified."""
        return self._memory

    @property
    def bytes_fetched(self) -> int:
        """Bytes of whole chunks and nodes that came from the server so far, as they are stored."""
        return self._fetched

    # -- one chunk -----------------------------------------------------------------------------------------------------

    def fetch(self, name: bytes, kind: int, along: Iterable[bytes]) -> bytes:
        """Get a chunk from the cache or the server, verify it and land it. Errors as the contract says."""
        near = list(islice(along, NEIGHBOURS))
        data = self._from_cache(name, kind, near)
        if data is None:
            self._stalls.check((kind, name))
            began = time.monotonic()
            claimed = self._cache.claim(name)
            if not claimed and not self._cache.claim_within(name, self._seconds):
                _logger.warning("another process has been fetching chunk %s for long", format_digest(name))
            try:
                # Whoever had it may have fetched it meanwhile.
                data = self._from_cache(name, kind, ())
                if data is None:
                    self._cache.count(misses=1)
                    fetched = self._fetch_data if kind == DATA else self._fetch_node
                    return fetched(name, kind, near)
            except BaseException as error:
                self._cache.release([name])
                if isinstance(error, Unavailable):
                    self._stalls.failed((kind, name), error, began)
                raise
            self._cache.release([name])
        self._memory.land((kind, name), data)
        return data

    def read_verified(self, name: bytes, begin: int, end: int) -> bytes | None:
        """A range of a chunk, if it lies raw in the cache and was verified there."""
        held = self._held.get(name)
        if held is None or not held.verified or held.flags & CODED or (DATA, name) in self._memory:
            return None
        data = self._cache.read(held, begin, end - begin)
        if data is None:
            self._held.forget(name)
        return data

    def ready(self, name: bytes) -> bool:
        """Whether the cache is known to have a chunk."""
        return (DATA, name) in self._memory or self._held.get(name) is not None

    def close(self) -> None:
        """End threads; what has come is kept. Idempotent."""
        self._pool.close(CLOSE_SECONDS)
        self._keeper.close(CLOSE_SECONDS)

    def _from_cache(self, name: bytes, kind: int, near: Sequence[bytes]) -> bytes | None:
        held = self._held.get(name) if kind == DATA else None
        if held is None:
            if kind == DATA:
                found = self._cache.find({name, *(other for other in near if self._held.get(other) is None)}, kind)
                self._held.update(found.items())
            else:
                found = self._cache.find((name,), kind)
            held = found.get(name)
            if held is None:
                return None
        stored = self._cache.read(held)
        if stored is not None:
            location = Location("", held.offset, held.length, held.size, held.flags)
            try:
                data = opened(stored, location, name, kind)
            except ArtifactFSError:
                _logger.warning("the cache holds chunk %s damaged; it is fetched anew", format_digest(name))
            else:
                held.verified = True
                self._cache.count(hits=1, saved=held.length)
                return data
        self._held.forget(name)
        self._cache.drop([name])
        return None

    def _fetch_data(self, name: bytes, kind: int, near: Sequence[bytes]) -> bytes:
        place = self._places.find(name, near)
        if place is None:
            raise absent(name)
        try:
            stored, data = self._fetch_at(place, name, kind)
        except (NotFound, Integrity) as error:
            # A collection or a repair may have moved the chunk since its place was asked for.
            again = self._places.find_again(name)
            if again is None or again.location == place.location:
                raise (gone(name, place.location) if isinstance(error, NotFound) else error) from None
            place = again
            try:
                stored, data = self._fetch_at(place, name, kind)
            except NotFound:
                raise gone(name, place.location) from None
        self._memory.land((kind, name), data)
        self._keep([_row(name, place.location)], [stored])
        return data

    def _fetch_at(self, place: Place, name: bytes, kind: int) -> tuple[bytes, bytes]:
        location = place.location
        for last in (False, True):
            try:
                stored = self._store.read(place.key, location.offset, location.length)
                self._count(location.length)
                return stored, opened(stored, location, name, kind)
            except Integrity as error:
                # Damaged on the way, or there: asking once more tells which.
                if last:
                    raise damaged(name, location) from error
        raise AssertionError

    def _fetch_node(self, name: bytes, kind: int, near: Sequence[bytes]) -> bytes:
        wanted = [name]
        if kind == TREE:
            siblings = list(near[:SIBLINGS])
            held = self._cache.find(siblings, kind) if siblings else {}
            wanted += [other for other in siblings if other not in held]
        for _ in range(2):  # damaged on the way, or there: asking once more tells which
            found, places = self._nodes.nodes(wanted, ahead=AHEAD if kind == TREE else 0)
            self._places.remember(places)
            data = self._land_nodes(found, claimed=[name]).get((kind, name))
            if data is not None:
                return data
            if all(row.digest != name for row, _ in found):
                return self._fetch_data(name, kind, ())  # the server cannot read it: finds out why
            wanted = [name]
        raise Integrity(f"node {format_digest(name)} came damaged from the server; run `artifactfs verify` there")

    def path(self, directory: bytes, path: str) -> None:
        """Get all nodes along a path by one request, unless its first one is here: then those that lack come one by one."""
        key = (TREE, directory)
        if key not in self._memory and not self._cache.find((directory,), TREE):
            found, places = self._nodes.path(directory, path)
            self._places.remember(places)
            self._land_nodes(found, claimed=[])

    def _land_nodes(self, found: Sequence[tuple[ChunkRow, bytes]], *, claimed: list[bytes]) -> dict[Key, bytes]:
        """Verify nodes, and keep those that are sound, in memory and in the cache; returns their plain bytes."""
        landed: dict[Key, bytes] = {}
        rows: list[ChunkRow] = []
        parts: list[bytes] = []
        for row, stored in found:
            kind = kind_of_flags(row.flags)
            try:
                plain = opened(stored, _location("", row), row.digest, kind)
            except ArtifactFSError:
                continue  # whoever wants it asks for it, and is told
            self._count(row.length)
            rows.append(row)
            parts.append(stored)
            landed[kind, row.digest] = plain
            self._memory.land((kind, row.digest), plain)
        if rows:
            self._keep(rows, parts, claimed=claimed)
        return landed

    # -- ahead ---------------------------------------------------------------------------------------------------------

    def touched(self, name: bytes) -> None:
        """A small file was read: if files have been read in the order of their pack, fetch what follows."""
        place = self._places.get(name)
        if place is None:
            return
        following = self._walks.step(place.location)
        if following is not None:
            pack, (begin, end) = place.location.pack, following
            self._pool.submit(pack.encode(), lambda: self._fetch_range(pack, begin, end))

    def ahead(self, owner: bytes, pieces: Iterable[Piece]) -> None:
        """Fetch these pieces of a large file in the background."""
        names = [piece.digest for piece in pieces if (DATA, piece.digest) not in self._memory]
        if names:
            self._pool.submit(owner, lambda: self._fetch_ahead(owner, names))

    def _fetch_range(self, pack: str, begin: int, end: int) -> None:
        """Fetch a range of a pack, chunk by chunk as its table of contents says."""
        table = self._table(pack)
        self._places.remember({row.digest: _location(pack, row) for row in table if begin <= row.offset < end})
        rows = [row for row in table if begin <= row.offset < end and kind_of_flags(row.flags) == DATA]
        if table and end >= table[-1].offset:
            self._walks.ended(pack)
        if rows:
            self._fetch_found(
                [(row.digest, place) for row in rows if (place := self._places.get(row.digest)) is not None]
            )

    def _table(self, pack: str) -> list[ChunkRow]:
        table = self._tables.get(pack)
        if table is None:
            key = index_key(pack)
            size = self._store.size(key)
            table = list(decode_index(self._store.read(key, 0, size)).chunks) if size <= TABLE_LIMIT else []
            if len(self._tables) >= TABLES:
                with suppress(StopIteration, KeyError):
                    del self._tables[next(iter(self._tables))]
            self._tables[pack] = table
        return table

    def _fetch_ahead(self, owner: bytes, names: Sequence[bytes]) -> None:
        held = self._cache.find([name for name in names if self._held.get(name) is None], DATA)
        self._held.update(held.items())
        wanted = [name for name in names if self._held.get(name) is None]
        places = self._places.find_all(wanted)
        found = [(name, places[name]) for name in wanted if name in places]
        for span in _spans(found, REQUEST):
            self._pool.submit(owner, _Later(self._fetch_found, span))

    # -- whole versions --------------------------------------------------------------------------------------------------

    def fetch_all(self, pieces: Iterable[Piece], *, pin: bool = False) -> Iterator[int]:
        """Get all these chunks of data into the cache; yields plain bytes as they are there."""
        rest = iter(pieces)
        while batch := list(islice(rest, BATCH)):
            sizes: dict[bytes, int] = {}
            for piece in batch:
                sizes[piece.digest] = sizes.get(piece.digest, 0) + piece.size
            here = self._cache.find(sizes, DATA)
            yield sum(sizes[name] for name in here)
            wanted = [name for name in sizes if name not in here]
            places = self._places.find_all(wanted)
            done: queue.SimpleQueue[Collection[bytes] | ArtifactFSError] = queue.SimpleQueue()
            spans = list(_spans([(name, places[name]) for name in wanted if name in places], BULK_REQUEST))
            submitted = sum(self._pool.submit(b"", _Later(self._fetch_found, span, done), hint=False) for span in spans)
            came: set[bytes] = set()
            for _ in range(submitted):
                outcome = done.get()
                if isinstance(outcome, ArtifactFSError):
                    _logger.debug("fetching a range failed: %s", outcome)
                    continue  # chunk by chunk below, where its error names the chunk
                came.update(outcome)
                yield sum(sizes[name] for name in outcome)
            for name in wanted:
                if name not in came:
                    if not isinstance(self._memory.enter((DATA, name)), bytes):
                        try:
                            self.fetch(name, DATA, ())
                        except BaseException as error:
                            self._memory.fail((DATA, name), error)
                            raise
                    yield sizes[name]
            self._keeper.flush()
            if pin:
                self._cache.pin(sizes)

    def pin(self, names: Collection[bytes]) -> None:
        """Keep these chunks and nodes from eviction; what is on its way into the cache too."""
        self._keeper.flush()
        self._cache.pin(names)

    # -- ranges ----------------------------------------------------------------------------------------------------------

    def _fetch_found(self, found: Sequence[Found]) -> Collection[bytes]:
        """Fetch those of these chunks that nobody has or fetches, by as few requests as possible; returns what came."""
        mine = [(name, place) for name, place in found if self._memory.try_enter((DATA, name)) is not None]
        left = {name for name, _ in mine}  # flights to end
        claimed: list[bytes] = []
        came: list[bytes] = []
        try:
            claimed += [name for name, _ in mine if self._cache.claim(name)]
            held = self._cache.find(claimed, DATA)
            self._held.update(held.items())
            wanted = set(claimed) - held.keys()
            for name in left - wanted:
                self._memory.give_up((DATA, name))
            left &= wanted
            self._cache.release(held)
            for span in _spans([(name, place) for name, place in mine if name in wanted], BULK_REQUEST):
                self._fetch_span(span, left, came)
        except BaseException as error:
            for name in left:
                # What cannot be reached now is not tried at once by each who waits; of anything else each finds out.
                if isinstance(error, Unavailable):
                    self._memory.fail((DATA, name), error)
                else:
                    self._memory.give_up((DATA, name))
            self._cache.release(left)
            raise
        return came

    def _fetch_span(self, span: Sequence[Found], left: set[bytes], came: list[bytes]) -> None:
        """Fetch chunks of one pack, in order of offset, by one request; each is landed as it comes."""
        lengths: list[int] = []
        names: list[bytes | None] = []
        first = at = span[0][1].location.offset
        for name, place in span:
            location = place.location
            if location.offset > at:
                lengths.append(location.offset - at)
                names.append(None)
            lengths.append(location.length)
            names.append(name)
            at = location.offset + location.length
        locations = {name: place.location for name, place in span}
        rows: list[ChunkRow] = []
        parts: list[bytes] = []
        try:
            came_in = zip(names, self._store.read_parts(span[0][1].key, first, lengths), strict=True)
            for wanted, stored in came_in:
                if wanted is None:
                    continue
                name = wanted
                location = locations[name]
                left.discard(name)
                try:
                    data = opened(stored, location, name, DATA)
                except ArtifactFSError:
                    # Whoever reads it asks for it alone, and is told.
                    self._memory.give_up((DATA, name))
                    self._cache.release([name])
                    continue
                self._memory.land((DATA, name), data)
                rows.append(_row(name, location))
                parts.append(stored)
                came.append(name)
        finally:
            self._count(sum(map(len, parts)))
            self._cache.count(misses=len(rows))
            if rows:
                self._keep(rows, parts)

    def _keep(self, rows: list[ChunkRow], parts: list[bytes], *, claimed: list[bytes] | None = None) -> None:
        """Have chunks put into the cache, and then their claims let go."""
        self._keeper.put(rows, parts, [row.digest for row in rows] if claimed is None else claimed)

    def _count(self, length: int) -> None:
        with self._lock:
            self._fetched += length
        self._cache.count(fetched=length)


class _Later:
    """A fetch of certain chunks, bound now, its outcome put into a queue if there is one."""

    __slots__ = ("_done", "_fetch", "_span")

    def __init__(
        self,
        fetch: Callable[[Sequence[Found]], Collection[bytes]],
        span: Sequence[Found],
        done: queue.SimpleQueue[Collection[bytes] | ArtifactFSError] | None = None,
    ) -> None:
        self._fetch = fetch
        self._span = span
        self._done = done

    def __call__(self) -> None:
        outcome: Collection[bytes] | ArtifactFSError = Unavailable("a fetch was broken off; try again")
        try:
            outcome = self._fetch(self._span)
        except ArtifactFSError as error:
            outcome = error
            raise
        finally:
            if self._done is not None:
                self._done.put(outcome)


def _location(pack: str, row: ChunkRow) -> Location:
    return Location(pack, row.offset, row.length, row.size, row.flags)


def _row(name: bytes, location: Location) -> ChunkRow:
    return ChunkRow(name, location.offset, location.length, location.size, location.flags)


def _spans(found: Sequence[Found], most: int) -> Iterator[list[Found]]:
    """Chunks by pack and offset, cut where a request would exceed ``most`` bytes or cross a gap."""
    span: list[Found] = []
    begin = end = 0
    for item in sorted(found, key=lambda item: (item[1].key, item[1].location.offset)):
        location = item[1].location
        near = bool(span) and item[1].key == span[0][1].key and 0 <= location.offset - end <= GAP
        if span and not (near and location.offset + location.length - begin <= most):
            yield span
            span = []
        if not span:
            begin = location.offset
        span.append(item)
        end = location.offset + location.length
    if span:
        yield span

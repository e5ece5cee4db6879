"""Fetcher: gets blocks of References once however many wait, from memory, the Cache, or their source.

Used by the files that References are read through. Any thread. What a reader waits for is fetched on its own thread; what will be read
next by a pool in the background. Neighbouring blocks come by one request.

Invariant *checked-before-served*: a block leaves this module only after its bytes were compared with what is recorded: with its
digest, where that is known; else the etag, version and size of the very answer that they came by were compared by who gives the
answers. A block of the second kind lies in the Cache behind a digest of its bytes, under a name that is derived from what was
recorded, so that neither a damaged entry nor another state of the source is ever served.

Memory: 64 MiB of blocks; a request's, 4 MiB, for each of the pool's eight threads and each reader that fetches; what is on its way
into the Cache, 64 MiB.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Final

from artifactfs.content.keeper import CLOSE_SECONDS, Keeper
from artifactfs.content.memory import ChunkMemory
from artifactfs.content.pool import FetchPool
from artifactfs.content.recent import Recent
from artifactfs.content.stalls import Stalls
from artifactfs.errors import ArtifactFSError, Unavailable
from artifactfs.model.digest import DATA
from artifactfs.references.blocks import Block, BlockSource, Wrong, runs, take, unwrapped, wrapped
from artifactfs.references.contract import Answer
from artifactfs.references.passing import Passing

if TYPE_CHECKING:
    from artifactfs.content.cache import Cache, Held

MEMORY: Final = 64 << 20
"""Bytes of blocks kept: twice what is fetched ahead of a sequential reader."""
REQUEST: Final = 4 << 20
"""Bytes of one request, as for chunks (content/fetch.py)."""
ATTEMPTS: Final = 3
"""How often an answer is asked for that breaks off; twice when its bytes are wrong."""
THREADS: Final = 8
"""Requests ahead at a time, a half of them for one file."""

_logger = logging.getLogger(__name__)


class Fetcher:
    """Gets blocks. ``cache`` opens the Cache, at the first use of one; ``seconds`` bounds a wait for another process or thread."""

    def __init__(self, cache: Callable[[], Cache | None], *, seconds: float) -> None:
        self._open_cache = cache
        self.seconds = seconds
        self._memory = ChunkMemory(MEMORY, seconds=3 * seconds + 1)
        self._held: Recent[Held] = Recent(100_000)
        self._unranged: Recent[bool] = Recent(10_000)  # sources that gave no range
        self._stalls = Stalls()
        self._pool = FetchPool(threads=THREADS, owner_threads=THREADS // 2)
        self._lock = threading.Lock()  # guards what follows
        self._kept: tuple[Cache, Keeper] | None = None
        self._asked_for_cache = False
        self._passing: dict[bytes, Passing] = {}
        self._fetched = 0

    @property
    def bytes_fetched(self) -> int:
        """Bytes of blocks that came from their sources so far."""
        return self._fetched

    def read(self, source: BlockSource, offset: int, end: int) -> list[bytes | memoryview]:
        """Bytes of a range, in pieces. Raises Integrity, NotFound, Access, Unavailable."""
        wanted = list(source.blocks(offset, end))
        got: dict[bytes, bytes] = {}
        parts: list[bytes | memoryview] = []
        for index, block in enumerate(wanted):
            data = got.get(block.key)
            if data is None:
                flight = self._memory.enter((DATA, block.key))
                if isinstance(flight, bytes):
                    data = flight
                else:
                    got = _Fill(self, source, self._with_following(wanted, index)).run()
                    data = got[block.key]
            begin, stop = max(offset - block.begin, 0), min(end - block.begin, block.size)
            parts.append(data if stop - begin == len(data) else memoryview(data)[begin:stop])
        return parts

    def _with_following(self, wanted: Sequence[Block], index: int) -> list[Block]:
        """The block at ``index``, whose flight is ours, and those after it that one request can bring along."""
        run = [wanted[index]]
        for block in wanted[index + 1 :]:
            if block.end - run[0].begin > REQUEST or self._memory.try_enter((DATA, block.key)) is None:
                break
            run.append(block)
        return run

    def ready(self, source: BlockSource, offset: int, end: int) -> bool:
        """Whether a range is in memory, or known to be in the Cache."""
        return all(
            (DATA, block.key) in self._memory or self._held.get(block.key) is not None
            for block in source.blocks(offset, end)
        )

    def ahead(self, source: BlockSource, offset: int, end: int) -> None:
        """Have a range fetched in the background."""
        if not source.keeps or self._unranged.get(source.owner):
            return
        for run in runs(list(source.blocks(offset, end)), REQUEST):
            self._pool.submit(source.owner, partial(self._fetch_ahead, source, run))

    def _fetch_ahead(self, source: BlockSource, run: Sequence[Block]) -> None:
        mine = [block for block in run if self._memory.try_enter((DATA, block.key)) is not None]
        if mine:
            _Fill(self, source, mine).run()

    def flush(self) -> None:
        """Wait until what came is in the Cache."""
        if self._kept is not None:
            self._kept[1].flush()

    def close(self) -> None:
        """End threads; what has come is kept. Idempotent."""
        for passing in list(self._passing.values()):
            passing.stop()
        self._pool.close(CLOSE_SECONDS)
        if self._kept is not None:
            self._kept[1].close(CLOSE_SECONDS)

    # -- for those who fill ------------------------------------------------------------------------------------------

    def cache(self) -> Cache | None:
        """The Cache, opened when it is asked for first."""
        if not self._asked_for_cache:
            with self._lock:
                if not self._asked_for_cache:
                    try:
                        cache = self._open_cache()
                    except ArtifactFSError as error:
                        _logger.warning("references are read without a cache: %s", error)
                        cache = None
                    self._kept = (cache, Keeper(cache)) if cache is not None else None
                    self._asked_for_cache = True
        return self._kept[0] if self._kept is not None else None

    def cached(self, cache: Cache, blocks: Sequence[Block]) -> Iterator[tuple[Block, bytes]]:
        """Those of these blocks that the Cache has, sound."""
        lacking = [block.key for block in blocks if self._held.get(block.key) is None]
        self._held.update(cache.find(lacking, DATA).items())
        for block in blocks:
            held = self._held.get(block.key)
            if held is None:
                continue
            stored = cache.read(held)
            data = None if stored is None else unwrapped(block, stored, flags=held.flags, size=held.size)
            if data is not None:
                cache.count(hits=1, saved=block.size)
                yield block, data
                continue
            if stored is not None:
                _logger.warning("the cache holds a block of a reference damaged; it is fetched anew")
            self._held.forget(block.key)
            cache.drop([block.key])

    @contextmanager
    def claimed(self, cache: Cache | None, key: bytes) -> Iterator[None]:
        """Be the only process that fetches a block, unless another one takes too long over it."""
        if cache is None:
            yield
        elif not cache.claim(key) and not cache.claim_within(key, self.seconds):
            _logger.warning("another process has been fetching a block of a reference for long")
            yield
        else:
            try:
                yield
                self.flush()  # whoever waits for the claim looks into the Cache next
            finally:
                cache.release([key])

    def keep(self, blocks: Sequence[tuple[Block, bytes]]) -> None:
        """What came from a source: count it, and have it put into the Cache."""
        size = sum(block.size for block, _ in blocks)
        with self._lock:
            self._fetched += size
        if self._kept is not None and blocks:
            cache, keeper = self._kept
            cache.count(misses=len(blocks), fetched=size)
            rows = [wrapped(block, data) for block, data in blocks]
            keeper.put([row for row, _ in rows], [stored for _, stored in rows], [])

    def pass_by(self, source: BlockSource, run: Sequence[Block], answer: Answer | None) -> dict[bytes, bytes]:
        """Blocks of a source that gives no ranges, out of an answer that gives everything: this one, or one that is under way."""
        self._unranged.update([(source.owner, True)])
        with self._lock:
            passing = self._passing.get(source.owner)
            began = passing is None or passing.ended
            if passing is None or passing.ended:
                passing = Passing(source, self._passed(source), everything=source.keeps and self._kept is not None)
                self._passing[source.owner] = passing
            joined = passing.want(run)
        if not began and answer is not None:
            answer.close()
        if not joined:
            passing.wait(self.seconds)
            self.flush()
            raise Unavailable(f"{source.uri} gives no ranges, and is being read by others; try again later")
        if began:
            self._begin(source, passing, answer)
        return passing.take(run, 3 * self.seconds)

    def _begin(self, source: BlockSource, passing: Passing, answer: Answer | None) -> None:
        def job() -> None:
            try:
                passing.run(opened)
            finally:
                with self._lock:
                    if self._passing.get(source.owner) is passing:
                        del self._passing[source.owner]

        try:
            opened = answer if answer is not None else source.answer(0, source.size)
        except BaseException as error:
            passing.end(error if isinstance(error, Exception) else None)
            raise
        if not self._pool.submit(source.owner, job, hint=False):
            opened.close()
            passing.end(Unavailable(f"{source.uri} is not read any more: the repository was closed"))

    def _passed(self, source: BlockSource) -> Callable[[Block, bytes], None]:
        def land(block: Block, data: bytes) -> None:
            self._memory.land((DATA, block.key), data)
            if source.keeps:
                self.keep([(block, data)])

        return land

    @property
    def memory(self) -> ChunkMemory:
        """Where blocks are put once they are checked."""
        return self._memory

    @property
    def stalls(self) -> Stalls:
        """Blocks that were waited for in vain a moment ago."""
        return self._stalls

    def unranged(self, source: BlockSource) -> bool:
        """Whether a source gave no range when it was asked for one."""
        return bool(self._unranged.get(source.owner))


class _Fill:
    """Gets neighbouring blocks whose flights are ours. Every flight is ended, whatever happens."""

    def __init__(self, fetcher: Fetcher, source: BlockSource, run: Sequence[Block]) -> None:
        self._fetcher = fetcher
        self._source = source
        self._left = {block.key: block for block in run}
        self._got: dict[bytes, bytes] = {}

    def run(self) -> dict[bytes, bytes]:
        """The blocks by key."""
        try:
            self._fill()
        except BaseException as error:
            memory = self._fetcher.memory
            for key, block in self._left.items():
                # Another object may have the same bytes: who waits for that one finds out by itself what it is told.
                if block.exact and isinstance(error, ArtifactFSError) and not isinstance(error, Unavailable):
                    memory.give_up((DATA, key))
                else:
                    memory.fail((DATA, key), error)
            raise
        return self._got

    def _fill(self) -> None:
        fetcher = self._fetcher
        cache = fetcher.cache() if self._source.keeps else None
        self._look(cache)
        if not self._left:
            return
        first = (DATA, next(iter(self._left)))
        fetcher.stalls.check(first)
        began = time.monotonic()
        try:
            with fetcher.claimed(cache, first[1]):
                self._look(cache)  # whoever had the claim may have fetched them meanwhile
                for run in runs(list(self._left.values()), REQUEST):
                    self._fetch(run, cache)
        except Unavailable as error:
            fetcher.stalls.failed(first, error, began)
            raise

    def _look(self, cache: Cache | None) -> None:
        if cache is not None and self._left:
            for block, data in self._fetcher.cached(cache, list(self._left.values())):
                self._land(block, data)

    def _land(self, block: Block, data: bytes) -> None:
        self._got[block.key] = data
        self._left.pop(block.key, None)
        self._fetcher.memory.land((DATA, block.key), data)

    def _fetch(self, run: list[Block], cache: Cache | None) -> None:
        began = time.monotonic()
        for attempt in range(1, ATTEMPTS + 1):
            try:
                self._ask(run)
            except Wrong as wrong:
                late = time.monotonic() - began > self._fetcher.seconds
                if late or attempt == (ATTEMPTS if isinstance(wrong.error, Unavailable) else 2):
                    raise wrong.error from wrong
            self._look(cache)
            run = [block for block in run if block.key in self._left]
            if not run:
                return

    def _ask(self, run: Sequence[Block]) -> None:
        """One request for neighbouring blocks; each lands as it comes."""
        fetcher, source = self._fetcher, self._source
        answer = None
        if not fetcher.unranged(source):
            answer = source.answer(run[0].begin, run[-1].end - run[0].begin)
        if answer is None or answer.begin != run[0].begin:
            try:
                passed = fetcher.pass_by(source, run, answer)
            except Unavailable as error:
                raise Wrong(error) from error
            for key, data in passed.items():
                self._land(self._left[key], data)
            return
        came: list[tuple[Block, bytes]] = []
        try:
            for block in run:
                data = take(source, answer, block)
                self._land(block, data)
                came.append((block, data))
        finally:
            answer.close()
            if source.keeps:
                fetcher.keep(came)

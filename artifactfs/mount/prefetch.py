"""Prefetch: a program says in which order it will read files of versions, and their content is fetched in that order, ahead of it.

Used by service.py, which passes on what the control socket asks, and by the file system of fsspec. A *plan* is a list of paths, sent
in batches; the next plan of a program ends the one before. Several programs may have one each, as the processes of a training on
several GPUs do: they share what may be ahead. A thread of the plan's own goes through it and has chunks put into the cache, a group of
files at a time; references come by the threads of a small pool. What it has fetched and nobody has opened yet is *ahead*.

Invariant *within the share*: no more bytes are ahead, of all plans together, than a share of the cache's limit, so that no plan
evicts what was fetched before that is read. Every open is told to the plans; who reads in another order than said is followed
(:meth:`_Plan.opened`).

Repositories in a directory have their content at hand: of these only references are fetched.

Threads: any. A plan's lock guards its fields and is not held while anything is fetched.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from artifactfs.errors import ArtifactFSError, InvalidInput, Unavailable
from artifactfs.model.sequence import Piece
from artifactfs.model.tree import FileEntry, RefEntry, size_of

if TYPE_CHECKING:
    from artifactfs.mount.sources import Sources
    from artifactfs.repository import Repository

SHARE: Final = 4
"""A fourth of the cache's limit may be ahead: what was read before, and what others read, has the rest."""
DEFAULT_AHEAD: Final = 1 << 30
"""Bytes that may be ahead where the cache's limit is not known."""
GROUP_BYTES: Final = 32 << 20
"""Bytes fetched at a time: four requests of 8 MiB, which come in any order."""
GROUPS: Final = 8
"""Groups that the share has room for at least, so that it is filled again by parts."""
GROUP_FILES: Final = 256
WAITING_BYTES: Final = 128 << 20
"""Paths of a plan that wait, in bytes: more than a million files."""
PROGRAMS: Final = 16
"""Programs with a plan; one more ends that of the program that has told nothing for the longest time."""
SKEW: Final = 1024
"""Files by which readers of one plan may be apart: 16 workers with two batches of 32 each."""
EARLY: Final = 100_000
"""Files remembered as opened before their turn."""
PATIENCE_SECONDS: Final = 600.0
"""A plan of which nothing is opened for so long is given up."""
PAUSE_SECONDS: Final = 1.0
"""Before going on when something did not answer."""
REFERENCE_THREADS: Final = 8
CLOSE_SECONDS: Final = 5.0
_WINDOW: Final = 4 << 20  # bytes of a reference read at a time

_logger = logging.getLogger(__name__)


class Planned(NamedTuple):
    """A file of a version to fetch: a number that is its own wherever it is opened (its node), and what it is."""

    node: int
    entry: FileEntry | RefEntry


Locate = Callable[[str], Iterator[Planned]]
"""The files at a path, in order: the file itself, or all below a directory. NotFound when nothing is there."""
Listen = Callable[[Callable[[int], None] | None], None]
"""Sets who is told of each file that is opened, by its number; None: nobody."""


class Prefetcher:
    """The present plans of those who share a repository."""

    def __init__(self, repository: Repository, sources: Sources, locate: Locate, listen: Listen) -> None:
        self._repository = repository
        self._sources = sources
        self._locate = locate
        self._listen = listen
        self._lock = threading.Lock()
        self._plans: OrderedDict[str, _Plan] = OrderedDict()  # by program, told latest last

    def add(self, plan: str, paths: list[str], *, program: str = "") -> dict[str, Any]:
        """Add paths to a program's plan; one with another name begins, and ends its one before. Fetches nothing itself.

        Returns how far the plan is, and as ``local`` whether files' content is at hand anyway. Unavailable when more waits
        already than a plan may hold: the rest may be sent later.
        """
        if not plan or any(not isinstance(path, str) or "\0" in path for path in paths):
            raise InvalidInput("a prefetch needs the name of a plan, and paths as text")
        with self._lock:
            current = self._plans.pop(program, None)
            if current is None or current.name != plan or current.ended:
                if current is not None:
                    current.end()
                if len(self._plans) >= PROGRAMS:
                    self._plans.popitem(last=False)[1].end()
                current = _Plan(plan)
            self._plans[program] = current
            self._divide()
            self._listen(self._opened)
            if current.share:  # a cache that keeps nothing gains nothing
                current.append(paths)
                current.start(lambda: self._run(current))
        return {"plan": plan, "local": self._repository.reader.local, **current.status()}

    def stop(self, plan: str | None = None) -> None:
        """End a plan, or all. Idempotent."""
        with self._lock:
            for program, each in list(self._plans.items()):
                if plan in {None, each.name}:
                    each.end()
                    del self._plans[program]
            self._divide()
            if not self._plans:
                self._listen(None)

    def status(self) -> dict[str, Any] | None:
        """How far the plan is that was told last; None without one."""
        with self._lock:
            plan = next(reversed(self._plans.values()), None)
        return {"plan": plan.name, **plan.status()} if plan is not None else None

    def close(self) -> None:
        """End the plans, and wait for what is being fetched. Idempotent."""
        with self._lock:
            plans = list(self._plans.values())
        self.stop()
        for plan in plans:
            plan.join(CLOSE_SECONDS)

    def _opened(self, node: int) -> None:
        for plan in tuple(self._plans.values()):
            plan.opened(node)

    def _divide(self) -> None:
        """Give each plan its part of what may be ahead."""
        plans = [plan for plan in self._plans.values() if not plan.ended]
        if plans:
            cache = self._repository.cache
            whole = cache.status().limit // SHARE if cache is not None else DEFAULT_AHEAD
            for plan in plans:
                plan.resize(whole // len(plans))

    def _run(self, plan: _Plan) -> None:
        """Fetch what waits, group by group."""
        group: list[Planned] = []
        size = 0
        most = min(GROUP_BYTES, plan.share // GROUPS)
        for path in plan.paths():
            try:
                for planned in self._locate(path):
                    if self._skips(planned):
                        continue
                    taken = size_of(planned.entry)
                    if group and (size + taken > most or len(group) >= GROUP_FILES):
                        self._fetch(plan, group)
                        group, size = [], 0
                    group.append(planned)
                    size += taken
            except (ArtifactFSError, OSError) as error:
                plan.failed(1)
                _logger.debug("nothing to prefetch at %r: %s", path, error)
        if group:
            self._fetch(plan, group)

    def _skips(self, planned: Planned) -> bool:
        """Whether there is nothing to fetch: a file that is at hand, or empty, or a reference that cannot be read here."""
        entry = planned.entry
        if isinstance(entry, FileEntry):
            return self._repository.reader.local or not entry.size
        return not self._sources.readable(entry)

    def _fetch(self, plan: _Plan, group: list[Planned]) -> None:
        """Fetch those of a group that nobody opened yet, once there is room for them."""
        group = plan.reserve(group)
        failed = 0
        try:
            for _ in self._repository.reader.fetch_all(self._pieces(plan, group)):
                if plan.ended:
                    return
            references = [planned.entry for planned in group if isinstance(planned.entry, RefEntry)]
            if references:
                with ThreadPoolExecutor(REFERENCE_THREADS, thread_name_prefix="prefetch-reference") as pool:
                    failed = sum(pool.map(lambda entry: not self._read(plan, entry), references))
        except ArtifactFSError as error:
            # Whoever reads these files asks again, and is told.
            plan.failed(len(group))
            _logger.debug("prefetching failed: %s", error)
            if isinstance(error, Unavailable):
                plan.pause(PAUSE_SECONDS)
        else:
            plan.failed(failed)
            plan.fetched(len(group) - failed)

    def _pieces(self, plan: _Plan, group: list[Planned]) -> Iterator[Piece]:
        for planned in group:
            entry = planned.entry
            if isinstance(entry, FileEntry):
                left = plan.share
                for piece in self._repository.open_file(entry).pieces():
                    if left <= 0:
                        break
                    left -= piece.size
                    yield piece

    def _read(self, plan: _Plan, entry: RefEntry) -> bool:
        """Read a reference into the cache; False when it cannot be had."""
        try:
            source = self._sources.open(entry)
            size = min(source.size, plan.share)
            if source.ready(0, size):
                return True
            for offset in range(0, size, _WINDOW):
                if plan.ended:
                    break
                source.read_parts(offset, min(_WINDOW, size - offset))
        except ArtifactFSError as error:
            _logger.debug("prefetching %s failed: %s", entry.uri, error)
            return False
        return True


class _Plan:
    """What a program said it will read, and how far it is. ``share``: bytes that may be ahead."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.share = 0
        self._changed = threading.Condition()
        self._waiting: deque[bytes] = deque()  # batches of paths, as text with NULs between
        self._waiting_bytes = 0
        self._ahead: OrderedDict[int, tuple[int, int]] = OrderedDict()  # node: turn, bytes; in order of turn
        self._ahead_bytes = 0
        self._early: OrderedDict[int, None] = OrderedDict()  # opened before they were fetched
        self._turn = 0
        self._next: dict[int, int] = {}  # turns of the group that waits for room
        self._touched = time.monotonic()
        self._counts = {"fetched": 0, "failed": 0, "opened": 0}
        self._thread: threading.Thread | None = None
        self._ended = False

    @property
    def ended(self) -> bool:
        """Whether it was given up."""
        return self._ended

    def resize(self, share: int) -> None:
        """Let so many bytes be ahead from now on; what is, stays."""
        with self._changed:
            self.share = share
            self._changed.notify_all()

    def append(self, paths: list[str]) -> None:
        """Add paths to the end."""
        text = "\0".join(paths).encode("utf-8", "surrogateescape")
        with self._changed:
            if self._waiting_bytes + len(text) > WAITING_BYTES:
                raise Unavailable("enough paths wait to be prefetched; send the rest when some of them were read")
            if paths:
                self._waiting.append(text)
                self._waiting_bytes += len(text)
            self._touched = time.monotonic()

    def start(self, work: Callable[[], None]) -> None:
        """Have a thread work as long as paths wait."""

        def run() -> None:
            try:
                while not self._done():
                    work()
            except Exception:
                # A fault of ours costs the plan, not the mount: the files are fetched when they are read.
                _logger.exception("prefetching ended")
                self.end()
                self._done()

        with self._changed:
            if self._thread is None and self._waiting and not self._ended:
                self._thread = threading.Thread(target=run, name="prefetch", daemon=True)
                self._thread.start()

    def _done(self) -> bool:
        """Whether the thread may end: decided and told in one step, so that whoever appends then starts another."""
        with self._changed:
            if self._waiting and not self._ended:
                return False
            self._thread = None
            self._changed.notify_all()
            return True

    def paths(self) -> Iterator[str]:
        """What waits, in order; ends when nothing does."""
        while True:
            with self._changed:
                if self._ended or not self._waiting:
                    return
                batch = self._waiting.popleft()
                self._waiting_bytes -= len(batch)
            for path in batch.decode("utf-8", "surrogateescape").split("\0"):
                if self.ended:
                    return
                yield path

    def reserve(self, group: list[Planned]) -> list[Planned]:
        """Wait until there is room for a group, and count it as ahead. Returns those to fetch: none when the plan has ended."""
        with self._changed:
            self._next = {}
            for planned in group:
                self._turn += 1
                if planned.node not in self._ahead:
                    self._next.setdefault(planned.node, self._turn)
            for node, turn in self._next.items():
                if node in self._early:
                    self._pass(turn)  # whoever opened it is as far as that at least
            sizes = {planned.node: min(size_of(planned.entry), self.share) for planned in group}
            while not self._ended and not self._has_room(sizes):
                left = self._touched + PATIENCE_SECONDS - time.monotonic()
                if left <= 0 or not self._changed.wait(left):
                    _logger.info("nothing that was prefetched was opened for %.0f s: the rest is not", PATIENCE_SECONDS)
                    self._ended = True
            turns, self._next = self._next, {}
            chosen: list[Planned] = []
            for planned in group:
                turn = turns.pop(planned.node, 0)  # 0: it is ahead already
                if not turn or planned.node in self._early:
                    self._counts["opened"] += turn > 0
                elif not self._ended:
                    self._ahead[planned.node] = turn, sizes[planned.node]
                    self._ahead_bytes += sizes[planned.node]
                    chosen.append(planned)
            return chosen

    def _has_room(self, sizes: dict[int, int]) -> bool:
        size = sum(sizes[node] for node in self._next if node not in self._early)
        return not self._ahead_bytes or self._ahead_bytes + size <= self.share

    def _pass(self, turn: int) -> None:
        """Let go of those ahead by whose turn the readers are long past: they were left out."""
        past = turn - max(1, min(SKEW, len(self._ahead) // 2))
        while self._ahead and next(iter(self._ahead.values()))[0] < past:
            self._ahead_bytes -= self._ahead.popitem(last=False)[1][1]

    def opened(self, node: int) -> None:
        """A file was opened, by whomever."""
        with self._changed:
            found = self._ahead.pop(node, None)
            if found is not None:
                turn, taken = found
                self._ahead_bytes -= taken
                self._counts["opened"] += 1
                self._pass(turn)
            else:
                self._early[node] = None
                if len(self._early) > EARLY:
                    self._early.popitem(last=False)
                if node not in self._next:
                    return
                self._pass(self._next[node])
            self._touched = time.monotonic()
            self._changed.notify_all()

    def fetched(self, files: int) -> None:
        """Count files that are there."""
        with self._changed:
            self._counts["fetched"] += files
            self._touched = time.monotonic()

    def failed(self, files: int) -> None:
        """Count files that are not."""
        with self._changed:
            self._counts["failed"] += files

    def pause(self, seconds: float) -> None:
        """Wait, unless the plan ends."""
        with self._changed:
            self._changed.wait_for(lambda: self._ended, seconds)

    def status(self) -> dict[str, Any]:
        """Files fetched, failed, and opened; bytes ahead and their bound; whether anything of the plan is left to do."""
        with self._changed:
            return {
                **self._counts,
                "ahead_bytes": self._ahead_bytes,
                "share": self.share,
                "working": self._thread is not None,
            }

    def end(self) -> None:
        """Give the plan up. What is being fetched comes."""
        with self._changed:
            self._ended = True
            self._waiting.clear()
            self._waiting_bytes = 0
            self._changed.notify_all()

    def join(self, seconds: float) -> None:
        """Wait for its thread to end."""
        with self._changed:
            self._changed.wait_for(lambda: self._thread is None, seconds)

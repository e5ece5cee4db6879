"""Scrubbing: the server reads all of its packs on a schedule, slowly, and says which files a damage hits before somebody needs them.

Used by ``serve``. One thread, ``scrub``, and one that reads; :meth:`Scrubbing.start` and :meth:`Scrubbing.stop` are called by the
thread that serves. How far a project's scrub is and who does it is a note in the registry (:meth:`PackIndex.note`), so a restart
goes on where it was, and of several servers over one registry one does it: a lease of :data:`LEASE_SECONDS`, renewed while it lasts.
A server that was killed is followed by another one once its lease has ended.

Nothing is changed: mending is ``artifactfs verify --repair``'s.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from itertools import islice
from typing import Final

import msgspec

from artifactfs.content.reader import ContentReader
from artifactfs.content.store import Store
from artifactfs.content.stored import StoredSource
from artifactfs.content.stores import Stores
from artifactfs.errors import Access, ArtifactFSError, Integrity
from artifactfs.health import faults
from artifactfs.health.examine import PackPass
from artifactfs.health.faults import Faults
from artifactfs.health.hits import Hit, Walk
from artifactfs.health.pace import Pace, Stopped
from artifactfs.model.digest import TREE
from artifactfs.model.records import VersionRecord
from artifactfs.model.tree import Trees
from artifactfs.references.contract import list_of
from artifactfs.registry.sql import SQLRegistry
from artifactfs.server.log import Log
from artifactfs.server.metrics import Metrics

TOPIC: Final = "scrub"
LEASE_SECONDS: Final = 300.0
"""How long a project's scrub is one server's alone after it last said so."""
LOOK_SECONDS: Final = 60.0
"""How often it is looked whether a project's scrub is due."""
SAVE_SECONDS: Final = 10.0
"""How often the position is written down and the lease renewed; so much is read again after a kill."""
NAMED: Final = 1000
"""Lines of the log about files that a damage hits; all of them are listed by ``artifactfs verify``."""
STOP_SECONDS: Final = 10.0
"""How long stopping waits: for one read of 8 MiB, and one note."""


class State(msgspec.Struct):
    """What the note holds. Instants are seconds since the epoch; packs are read in order of digest, all up to ``after`` were."""

    holder: str = ""
    until: float = 0.0
    after: str = ""
    began: float = 0.0  # 0: none is under way
    finished: float = 0.0  # the last whole one
    damaged: int = 0  # faults found by the present or the last one


class Scrubbing:
    """Scrubs every project once in ``days``, reading at most ``rate`` bytes a second."""

    def __init__(
        self,
        registry: SQLRegistry,
        stores: Stores,
        *,
        days: float,
        rate: int,
        log: Log,
        metrics: Metrics,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._registry = registry
        self._stores = stores
        self._seconds = days * 86400
        self._rate = rate
        self._log = log
        self._metrics = metrics
        self._clock = clock
        self._holder = f"{socket.gethostname()}:{os.getpid()}:{os.urandom(4).hex()}"
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="scrub", daemon=True)

    def start(self) -> None:
        """Begin. The first look is a while later, so that a server that begins answers first."""
        self._thread.start()

    def stop(self) -> None:
        """Stop at the next read, with the position written down. Idempotent; does nothing before :meth:`start`."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(STOP_SECONDS)

    def _run(self) -> None:
        wait = min(LOOK_SECONDS, max(0.1, self._seconds / 10))
        while not self._stop.wait(wait):
            try:
                self.look()
            except Stopped:
                return
            except ArtifactFSError as error:
                self._log.note("warning", f"scrub: {error}; it is tried again")
            except Exception as error:  # whatever it is, the server goes on and it is told
                self._log.failure(error, request="scrub")

    def look(self) -> None:
        """Scrub the projects that are due and nobody else's. Raises Stopped, and what cannot be read or asked at all.

        A project whose key is not here keeps no other one from being scrubbed: that is told, and it stays due.
        """
        finished = []
        for project in self._registry.projects():
            index = self._registry.of_project(project)
            state = self._claim(index)
            if state is not None:
                scrub = _Scrub(index, self._stores.of_project(project), state, self._log, self._metrics, self._clock)
                try:
                    scrub.run(Pace(self._rate, self._stop))
                except Access as error:
                    self._log.note("warning", f"scrub of project {project}: {error}; it is tried again")
            finished.append(_read(index.note(TOPIC)).finished)
        if finished:
            self._metrics.scrub_finished(min(finished))

    def _claim(self, index: SQLRegistry) -> State | None:
        """The state of a project whose scrub is now ours, or None."""
        text = index.note(TOPIC)
        state = _read(text)
        now = self._clock()
        due = state.began or now - state.finished >= self._seconds
        if not due or (state.until > now and state.holder != self._holder):
            return None
        if not state.began:
            state = State(began=now, finished=state.finished)
        state.holder, state.until = self._holder, now + LEASE_SECONDS
        return state if index.exchange_note(TOPIC, text, _text(state)) else None


class _Scrub:
    """One project's pass."""

    def __init__(
        self,
        index: SQLRegistry,
        store: Store,
        state: State,
        log: Log,
        metrics: Metrics,
        clock: Callable[[], float],
    ) -> None:
        self._index = index
        self._store = store
        self._state = state
        self._log = log
        self._metrics = metrics
        self._clock = clock
        self._written = _text(state)
        self._saved = time.monotonic()

    def run(self, pace: Pace) -> None:
        """Read what is left of it. Raises Stopped, with the position written down."""
        state = self._state
        found = Faults()
        work = PackPass(self._store, self._index, content=True, pace=pace, threads=1)
        try:
            packs = [(pack, size) for pack, size in self._index.packs() if pack > state.after]
            for examined in work.run(packs):
                wrong = [fault for fault in examined.faults if fault.kind != faults.UNRECORDED]
                self._metrics.scrubbed(examined.chunks, len(wrong))
                found.add(wrong)
                state.damaged += len(wrong)
                for fault in wrong:
                    self._log.note("error", f"scrub of project {self._index.project}: {fault.reason}")
                if not found.all:
                    # Where something was found it stays in front of that, until the files that it hits were told.
                    state.after = examined.pack
                if time.monotonic() - self._saved >= SAVE_SECONDS and not self._save():
                    return  # another server took it over
            if found.all:
                self._name(found, pace)
            state.after, state.began, state.finished = "", 0.0, self._clock()
        finally:
            work.close()
            state.until = 0.0
            with suppress(ArtifactFSError):  # the lease ends by itself, and what was read since is read again
                self._save()

    def _save(self) -> bool:
        """Write the state down; whether the scrub is still ours."""
        state = self._state
        if state.until:
            state.until = self._clock() + LEASE_SECONDS
        text = _text(state)
        if not self._index.exchange_note(TOPIC, self._written, text):
            return False
        self._written = text
        self._saved = time.monotonic()
        return True

    def _name(self, found: Faults, pace: Pace) -> None:
        """Tell which files of which versions cannot be read."""
        source = StoredSource(self._store, self._index)
        reader = ContentReader(source)
        trees = Trees(lambda digest: reader.chunk(digest, TREE))

        def judge(digests: Collection[bytes]) -> Mapping[bytes, str]:
            try:
                places = self._index.locate(digests)
            except Integrity as error:
                return dict.fromkeys(digests, str(error))
            reasons = ((name, found.reason(name, places.get(name))) for name in digests)
            return {name: reason for name, reason in reasons if reason is not None}

        walk = Walk(trees, reader, judge, list_of)
        walk.step = lambda: pace.take(0)
        # One that was deleted, and perhaps collected, since it was listed is not damaged.
        hits = (
            hit
            for version in self._versions()
            for hit in walk.version(version)
            if self._index.version(version.artifact, version.number) is not None
        )
        told: list[Hit] = list(islice(hits, NAMED + 1))
        for hit in told[:NAMED]:
            place = f"{self._index.project}/{hit.version}/{hit.path.lstrip('/')}"
            self._log.note("error", f"scrub: {place} is damaged: {hit.reason}; run `artifactfs verify --repair` here")
        if len(told) > NAMED:
            self._log.note("error", "scrub: more files are damaged; `artifactfs verify` lists all")

    def _versions(self) -> Iterator[VersionRecord]:
        for artifact in self._index.artifacts():
            yield from self._index.versions(artifact.name)


def _read(text: str | None) -> State:
    if text is None:
        return State()
    try:
        return msgspec.json.decode(text, type=State)
    except msgspec.MsgspecError:
        return State()  # of a newer release, or damaged: a scrub more does no harm


def _text(state: State) -> str:
    return msgspec.json.encode(state).decode()

"""What all routes of one application share: the registries and Stores of its projects, threads, followers, counters.

Made by ``app.py``. Used on the event loop's thread; what blocks goes to one of its kinds of threads.

Memory: a download holds 0.5 MiB however slow its client is and an upload 2.5 MiB (``objects.py``), a message at most MESSAGE_LIMIT and
what is decoded from it. Nodes of an object store: 64 MiB (``blocks.py``). A check of uploaded packs holds one chunk a thread.
"""

from __future__ import annotations

import asyncio
import os
import time
from functools import lru_cache
from typing import Final

from artifactfs.content.recent import Recent
from artifactfs.content.store import Store
from artifactfs.content.stores import Stores
from artifactfs.errors import Unavailable
from artifactfs.registry.contract import Registry
from artifactfs.registry.database import READERS
from artifactfs.registry.sql import SQLRegistry
from artifactfs.server.blocks import PackBlocks, Readable
from artifactfs.server.changes import Changes
from artifactfs.server.garbage import Collections
from artifactfs.server.log import Log
from artifactfs.server.metrics import Metrics
from artifactfs.server.signing import Signing
from artifactfs.server.threads import Threads
from artifactfs.server.upkeep import Upkeep

PROJECTS: Final = 1000
"""Projects whose registry is at hand: a few hundred bytes each, as all share the connections of one database."""
SIZES: Final = 20_000
"""Objects of an object store whose size is remembered: a download need not ask for it first."""
READY_SECONDS: Final = 5.0
"""How long /readyz waits for the store."""
READY_FRESH: Final = 5.0
"""How long an answer of an object store counts, so that probes of many balancers are one request there."""
FETCHERS: Final = 32
"""Threads that wait for an object store. One request to it takes 20 to 100 ms, so these give some hundred nodes or blocks a second."""
FETCHES_WAITING: Final = 128
"""Requests that may wait for such a thread. More are told to come later: a store that stalls would otherwise hold any number."""
SENDERS: Final = 4
"""Threads that send packs to an object store, each in several parts at once: 32 MiB of memory each."""
SENDS_WAITING: Final = 32
WRITERS: Final = 4
"""Threads that change something. The database has one writer at a time; the others wait for a disk meanwhile."""


class Service:
    """An open repository, as it is served. ``registry`` is any project's; ``log`` gets a line for each request.

    ``signed``: seconds that signed URLs live; None: none are given. ``upkeep_seconds``: how often retention rules are applied; 0:
    never.
    """

    def __init__(
        self,
        registry: SQLRegistry,
        stores: Stores,
        *,
        log: Log,
        signed: float | None = None,
        upkeep_seconds: float = 0.0,
    ) -> None:
        registry.outlive()
        self._registry_of = lru_cache(PROJECTS)(registry.of_project)
        self.own = registry
        self.stores = stores
        self.log = log
        self.signing = Signing(stores, signed, log)
        self.reading = Threads("reading", READERS)
        self.writing = Threads("writing", WRITERS)
        # Unpacking and hashing: more threads than processors would only take turns.
        self.checking = Threads("checking", len(os.sched_getaffinity(0)))
        # An object store that is slow or stalls takes no thread from who asks the registry.
        far = not stores.local
        self.fetching = Threads("reading packs", FETCHERS, waiting=FETCHES_WAITING) if far else self.reading
        self.sending = Threads("storing packs", SENDERS, waiting=SENDS_WAITING) if far else self.writing
        self._blocks = PackBlocks() if far else None
        self.sizes: Recent[int] = Recent(SIZES)
        self.changes = Changes(self.revision)
        self.metrics = Metrics(registry.pack_totals, lambda: self.changes.following)
        self.upkeep = Upkeep(registry, log, seconds=upkeep_seconds)
        self.collections = Collections(
            lambda project: (registry.of_project(project), stores.of_project(project)), registry.projects
        )
        self.ending = False
        self._reached = float("-inf")  # when an object store answered last

    def registry(self, project: str) -> Registry:
        """The registry of a project, whether or not it was ever written to. InvalidInput for what is no name."""
        return self._registry_of(project)

    def store(self, project: str) -> Store:
        """The Store of a project, which holds nothing of another's. InvalidInput for what is no name."""
        return self.stores.of_project(project)

    def nodes(self, project: str) -> Readable:
        """The packs of a project for who reads nodes: those of an object store by way of memory."""
        store = self.store(project)
        return store if self._blocks is None else self._blocks.of(project, store)

    async def check_stores(self) -> None:
        """Whether the packs can be reached, within READY_SECONDS; asked of an object store once a while. Raises what is wrong."""
        if time.monotonic() < self._reached + READY_FRESH:
            return
        try:
            async with asyncio.timeout(READY_SECONDS):
                await self.fetching.run(self.stores.check)
        except TimeoutError:
            raise Unavailable(f"the object store did not answer within {READY_SECONDS:g} s") from None
        if not self.stores.local:
            self._reached = time.monotonic()

    async def revision(self, project: str) -> int:
        """A project's present revision."""
        return await self.reading.run(self.registry(project).revision)

    def end(self) -> None:
        """Begin to stop: followers go, readiness is denied; requests that are under way go on."""
        self.ending = True
        self.upkeep.end()
        self.changes.end()

    def close(self) -> None:
        """Let go of threads. The registry and the stores are the caller's."""
        self.upkeep.close()
        self.collections.close()
        for threads in {self.reading, self.writing, self.checking, self.fetching, self.sending}:
            threads.close()

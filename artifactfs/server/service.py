"""What all routes of one application share: the registries of its projects, the store, threads, followers, counters.

Made by ``app.py``. Used on the event loop's thread; what blocks goes to one of its three kinds of threads.

Memory: a download holds 0.5 MiB however slow its client is and an upload 2.5 MiB (``objects.py``), a message at most MESSAGE_LIMIT and
what is decoded from it. A check of uploaded packs holds one chunk a thread.
"""

from __future__ import annotations

import os
from functools import lru_cache
from typing import Final

from artifactfs.content.local import LocalStore
from artifactfs.registry.contract import Registry
from artifactfs.registry.sql import SQLRegistry
from artifactfs.registry.sqlite import READERS
from artifactfs.server.changes import Changes
from artifactfs.server.garbage import Collections
from artifactfs.server.log import Log
from artifactfs.server.metrics import Metrics
from artifactfs.server.threads import Threads

PROJECTS: Final = 1000
"""Projects whose registry is at hand: a few hundred bytes each, as all share the connections of one database."""
WRITERS: Final = 4
"""Threads that change something. The database has one writer at a time; the others wait for a disk meanwhile."""


class Service:
    """An open repository, as it is served. ``registry`` is any project's; ``log`` gets a line for each request."""

    def __init__(self, registry: SQLRegistry, store: LocalStore, *, log: Log) -> None:
        self._registry_of = lru_cache(PROJECTS)(registry.of_project)
        self.own = registry
        self.store = store
        self.log = log
        self.reading = Threads("reading", READERS)
        self.writing = Threads("writing", WRITERS)
        # Unpacking and hashing: more threads than processors would only take turns.
        self.checking = Threads("checking", len(os.sched_getaffinity(0)))
        self.changes = Changes(self.revision)
        self.metrics = Metrics(store, lambda: self.changes.following)
        # All projects have one Store.
        self.collections = Collections(
            lambda project: (registry.of_project(project), store), registry.projects, shared=True
        )
        self.ending = False

    def registry(self, project: str) -> Registry:
        """The registry of a project, whether or not it was ever written to. InvalidInput for what is no name."""
        return self._registry_of(project)

    async def revision(self, project: str) -> int:
        """A project's present revision."""
        return await self.reading.run(self.registry(project).revision)

    def end(self) -> None:
        """Begin to stop: followers go, readiness is denied; requests that are under way go on."""
        self.ending = True
        self.changes.end()

    def close(self) -> None:
        """Let go of threads. The registry and the store are the caller's."""
        self.collections.close()
        for threads in (self.reading, self.writing, self.checking):
            threads.close()

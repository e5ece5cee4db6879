"""Upkeep of a served repository, by the clock: retention rules are applied.

Used by the Service, which owns it. One thread of its own, which holds nothing between two steps and pauses after each, so that
requests wait for one transaction at most. Other servers of the same registry may do the same at the same time: a version that is gone
is passed over.
"""

from __future__ import annotations

import time
from threading import Event, Thread
from typing import Final

from artifactfs.errors import ArtifactFSError
from artifactfs.pruning import apply_rules
from artifactfs.registry.sql import SQLRegistry
from artifactfs.server.log import Log

BY: Final = "a retention rule"
"""Who deletes, as tombstones have it."""
PAUSE_SECONDS: Final = 1.0
"""Between two steps of one round."""
FIRST_SECONDS: Final = 10.0
"""How long after its start a server waits for the first round, if rounds are not more frequent."""
CLOSE_SECONDS: Final = 10.0


class Upkeep:
    """Applies the rules of every project each ``seconds``; 0: never."""

    def __init__(self, registry: SQLRegistry, log: Log, *, seconds: float) -> None:
        self._registry = registry
        self._log = log
        self._seconds = seconds
        self._ending = Event()
        self._thread = Thread(target=self._run, name="upkeep", daemon=True)

    def start(self) -> None:
        """Begin, unless it is never."""
        if self._seconds > 0:
            self._thread.start()

    def end(self) -> None:
        """Begin to stop."""
        self._ending.set()

    def close(self) -> None:
        """Wait for the step that is under way, CLOSE_SECONDS at most. Idempotent."""
        self._ending.set()
        if self._thread.is_alive():
            self._thread.join(CLOSE_SECONDS)

    def _run(self) -> None:
        wait = min(FIRST_SECONDS, self._seconds)
        while not self._ending.wait(wait):
            try:
                self._round()
            except ArtifactFSError as error:
                self._log.note("warning", f"retention rules were not applied: {error}")
            except Exception as error:  # a fault of ours must not end the server, nor all rounds to come
                self._log.failure(error, request="upkeep")
            wait = self._seconds

    def _round(self) -> None:
        for project in self._registry.projects():
            registry = self._registry.of_project(project)
            more = True
            while more and not self._ending.is_set():
                done = apply_rules(registry, now=time.time_ns(), by=BY)
                for gone in done.deleted:
                    self._log.note("info", f"deleted {project}/{gone.name}: {BY}")
                more = done.more and bool(done.deleted)
                if more:
                    self._ending.wait(PAUSE_SECONDS)

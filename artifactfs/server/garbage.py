"""Collections of garbage on the server: one at a time for a project, asked for by an admin or on a schedule, each in a thread.

Used by service.py. :class:`Collections` may be used from any thread. A server that stops lets a collection go where it is: the
next one ends what it began.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

from msgspec.structs import replace

from artifactfs.collector import collect_project
from artifactfs.content.store import Store
from artifactfs.errors import ArtifactFSError, Conflict, NotFound, Unavailable
from artifactfs.model.collecting import Collected
from artifactfs.registry.sql import SQLRegistry
from artifactfs.remote import wire
from artifactfs.server.log import Log

WAIT_MOST: Final = 3600.0
"""Seconds that a collection waits for writers at most."""
FIRST_SECONDS: Final = 3600.0
"""How long after its start a server collects first, if not more frequently: one that is restarted each night does too."""
STOP_SECONDS: Final = 10.0
"""How long the end of the server waits for a collection to notice."""

Parts = Callable[[str], tuple[SQLRegistry, Store]]
"""Registry and Store of a project."""


class Collections:
    """What is collected now, and how the last collection of each project ended."""

    def __init__(self, parts: Parts, projects: Callable[[], list[str]]) -> None:
        self._parts = parts
        self._projects = projects
        self._lock = threading.Lock()
        self._states: dict[str, wire.CollectionState] = {}
        self._threads: dict[str, threading.Thread] = {}
        self._stop = threading.Event()

    def start(self, project: str, *, dry_run: bool, wait: float) -> wire.CollectionState:
        """Begin one. Conflict while there is one of this project."""
        with self._lock:
            if self._stop.is_set():
                raise Unavailable("the server is stopping; repeat when it is there again")
            state = self._states.get(project)
            if state is not None and state.running:
                raise Conflict(
                    f"garbage of {project} is being collected already, since {int(time.time() - state.started)} s; "
                    "wait until that has ended"
                )
            state = self._states[project] = wire.CollectionState(running=True, started=time.time(), doing="starting")
            words = (project, dry_run, min(wait, WAIT_MOST))
            thread = threading.Thread(target=self._run, args=words, name="collection", daemon=True)
            self._threads[project] = thread
            thread.start()
        return state

    def state(self, project: str) -> wire.CollectionState:
        """How the last one is, or was. NotFound before there was one."""
        state = self._states.get(project)
        if state is None:
            raise NotFound(f"no garbage of {project} was collected since the server started; `artifactfs gc` does")
        return state

    def schedule(self, seconds: float, log: Log) -> None:
        """Collect all projects, one after another, every so many seconds. ``log`` gets what came of it, where something did."""
        threading.Thread(target=self._keep, args=(seconds, log), name="collection-schedule", daemon=True).start()

    def close(self) -> None:
        """Let what is under way end at its next step."""
        self._stop.set()
        for thread in list(self._threads.values()):
            thread.join(STOP_SECONDS)

    def _run(self, project: str, dry_run: bool, wait: float) -> None:
        failure: wire.Failure | None = None
        report: Collected | None = None
        try:
            registry, store = self._parts(project)
            report = collect_project(
                registry,
                store,
                dry_run=dry_run,
                wait=wait,
                progress=lambda doing: self._show(project, doing),
            )
        except ArtifactFSError as error:
            failure = wire.Failure(error.code, str(error))
        except Exception as error:  # a fault of ours: who asked must not wait for ever
            failure = wire.Failure("error", f"the collection failed: {type(error).__name__}: {error}")
        with self._lock:
            state = self._states[project]
            self._states[project] = replace(
                state, running=False, ended=time.time(), doing="", report=report, failure=failure
            )

    def _show(self, project: str, doing: str) -> None:
        if self._stop.is_set():
            raise Unavailable("the server is stopping; the next collection ends what this one began")
        with self._lock:
            self._states[project] = replace(self._states[project], doing=doing)

    def _keep(self, seconds: float, log: Log) -> None:
        wait = min(FIRST_SECONDS, seconds)
        while not self._stop.wait(wait):
            wait = seconds
            try:
                for project in self._projects():
                    if words := self._collected(project):
                        log.note("info", f"garbage of {project}: {words}")
            except ArtifactFSError as error:  # the registry is busy: next time
                log.note("warning", f"garbage was not collected: {error}")

    def _collected(self, project: str) -> str:
        try:
            self.start(project, dry_run=False, wait=0.0)
        except (Conflict, Unavailable) as error:
            return str(error)
        self._threads[project].join()
        state = self.state(project)
        if state.failure is not None:
            return state.failure.message
        report = state.report or Collected()
        if not report.deleted_packs and not report.condemned_packs:
            return ""
        return f"{report.deleted_packs} packs deleted, {report.freed} bytes freed, {report.condemned_packs} packs condemned"

"""Keeping: the session by which a mount keeps the versions that its staging builds on, and those that it pins.

Used by service.py. One thread. What is kept is not collected, also once it is deleted. A second may pass until a version that staging
was moved to is kept: one that is deleted and collected within it is refused by the next commit.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from contextlib import suppress
from threading import Event, Thread
from typing import Final

from artifactfs.errors import Access, ArtifactFSError, Conflict
from artifactfs.registry.contract import Registry
from artifactfs.registry.sessions import KEEPING

LIFE_SECONDS: Final = 86_400.0
"""How long versions stay kept by a mount that fell silent, or was unmounted with changes in staging."""
RENEW_SECONDS: Final = 60.0
LOOK_SECONDS: Final = 1.0
"""How often is looked whether staging builds on other versions; in memory, a few microseconds."""
STOP_SECONDS: Final = 5.0

_logger = logging.getLogger(__name__)

Versions = Collection[tuple[str, int]]


class Keeper:
    """Keeps what ``versions`` gives (artifact, number)."""

    def __init__(self, registry: Registry, versions: Callable[[], Versions]) -> None:
        self._registry = registry
        self._versions = versions
        self._session: int | None = None
        self._kept: frozenset[tuple[str, int]] = frozenset()
        self._lost: set[tuple[str, int]] = set()
        self._stop = Event()
        self._thread: Thread | None = None

    def start(self) -> None:
        """Keep once, then go on in a thread."""
        with suppress(ArtifactFSError):  # the thread tries again
            self.renew()
        self._thread = Thread(target=self._run, name="view-keep", daemon=True)
        self._thread.start()

    def close(self, *, lasting: bool) -> None:
        """End; ``lasting``: versions stay kept for a day."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(STOP_SECONDS)
        if self._session is not None and not lasting:
            with suppress(ArtifactFSError):
                self._registry.close_session(self._session)

    def renew(self) -> None:
        """Keep what is in use now, and live on. Errors of the registry pass."""
        wanted = frozenset(self._versions())
        if self._session is not None:
            try:
                self._registry.renew_session(self._session, seconds=LIFE_SECONDS)
            except Conflict:
                self._session = None  # the machine slept, or a clock jumped: what still lives is kept anew
        if self._session is None and wanted:
            self._session = self._registry.open_session(KEEPING, seconds=LIFE_SECONDS)
            self._kept = frozenset()
        if self._session is not None and wanted != self._kept:
            lost = set(self._registry.keep_versions(self._session, sorted(wanted)))
            for name, number in sorted(lost - self._lost):
                _logger.warning("%s:v%d, which is in use here, was deleted and may be collected", name, number)
            self._lost = lost
            self._kept = wanted

    def _run(self) -> None:
        waited = 0.0
        while not self._stop.wait(LOOK_SECONDS):
            waited += LOOK_SECONDS
            if waited < RENEW_SECONDS and frozenset(self._versions()) == self._kept:
                continue
            try:
                self.renew()
                waited = 0.0
            except Access as error:
                _logger.warning("versions in use here are not kept from collection: %s", error)
                return
            except ArtifactFSError as error:
                _logger.info("versions in use here could not be kept, which is tried again: %s", error)
                waited = max(0.0, RENEW_SECONDS - 10.0)
                self._stop.wait(9.0)

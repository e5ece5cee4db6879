"""Follower: the thread that keeps a mount up to date with its registry, and knows since when it cannot.

Used by the View. One call of ``Registry.changed`` waits all the time; each change, and each return of a registry that could not be
reached (``returned``), makes one call of ``refresh``. Nothing ends the thread but :meth:`Follower.stop`: what goes wrong is said in
the log and tried again. Public methods may be called from any thread.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from threading import Event, Lock, Thread
from typing import Final

import msgspec

from artifactfs.errors import ArtifactFSError
from artifactfs.registry.contract import Registry

POLL_SECONDS: Final = 25.0
"""How long one question for changes waits. Proxies give up after 30 s at the earliest; and a lost connection that nobody has noticed
is noticed by then."""
FIRST_SECONDS: Final = 0.5
LONGEST_SECONDS: Final = 1.5
"""After a failure it is tried again after the first of these, then after twice as long each time, up to the second: a network that is
back is noticed, and what is new shown, within the two seconds in which it always is."""
STOP_SECONDS: Final = 10.0

_logger = logging.getLogger(__name__)


class Outage(msgspec.Struct, frozen=True):
    """Since when (seconds since the epoch) the registry cannot be reached, and why, in one line."""

    since: float
    reason: str


class Follower:
    """Calls ``refresh(returned)`` at the start and after every change of a registry."""

    def __init__(self, registry: Registry, refresh: Callable[[bool], None]) -> None:
        self._registry = registry
        self._refresh = refresh
        self._outage: Outage | None = None
        self._stopping = Event()
        self._refreshing = Lock()

    def start(self) -> None:
        """Begin to follow."""
        Thread(target=self._run, name="view-follow", daemon=True).start()

    def stop(self) -> None:
        """No refresh begins any more, and none is running on return. The thread itself ends with the registry's ``close``."""
        self._stopping.set()
        if self._refreshing.acquire(timeout=STOP_SECONDS):
            self._refreshing.release()

    def outage(self) -> Outage | None:
        """What keeps the registry from being reached; None while it answers."""
        if self._registry.online:
            self._outage = None
            return None
        outage = self._outage
        if outage is None:  # a read has noticed first
            outage = self._outage = Outage(time.time(), "the last request failed")
        return outage

    def _run(self) -> None:
        revision, wait, known = 0, 0.0, False
        while not self._stopping.is_set():
            try:
                # Not known: the answer shall come at once, so that what can be reached again does not wait for a change.
                present = self._registry.changed(revision, seconds=POLL_SECONDS if known else 0.0)
                if not known or present != revision:
                    self._refresh_unless_stopping(returned=wait > 0)
                if wait:
                    _logger.info("the repository answers again")
                self._outage = None
                revision, wait, known = present, 0.0, True
            except (ArtifactFSError, OSError) as error:
                self._failed(str(error))
                known = False
            except Exception as error:  # a fault of ours: without this thread the mount would never be right again
                if not self._stopping.is_set():
                    _logger.exception("following the repository failed")
                self._failed(f"{type(error).__name__}: {error}")
                known = False
            if not known:
                wait = min(max(2 * wait, FIRST_SECONDS), LONGEST_SECONDS)
                self._stopping.wait(wait)

    def _refresh_unless_stopping(self, *, returned: bool) -> None:
        with self._refreshing:
            if not self._stopping.is_set():
                self._refresh(returned)

    def _failed(self, reason: str) -> None:
        if self._stopping.is_set():
            return  # closed under a question that waited
        before = self._outage
        if before is None or before.reason != reason:
            _logger.warning("cannot follow the repository: %s", reason)
        self._outage = Outage(before.since if before is not None else time.time(), reason)

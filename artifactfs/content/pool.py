"""FetchPool: the threads that fetch ahead, shared fairly by the files that are read.

Used by the fetched source. Any thread. What a reader waits for it fetches itself, on its own thread; the pool only works ahead, so
that however many of its threads are stalled, no file waits for another's.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Final

from artifactfs.errors import ArtifactFSError

if TYPE_CHECKING:
    from collections.abc import Callable

THREADS: Final = 24
"""Fetches ahead at a time. Each holds at most one request's chunks: 8 MiB, so 192 MiB in all."""
OWNER_THREADS: Final = 12
"""Of these, for one file or one walk: a stalled one leaves as many to the others."""
QUEUED: Final = 256
"""Jobs that may wait; past it hints are dropped, and their chunks are fetched when they are read."""

_logger = logging.getLogger(__name__)


class FetchPool:
    """Runs jobs of many owners, round-robin; threads are started as they are needed and stay."""

    def __init__(self, *, threads: int = THREADS, owner_threads: int = OWNER_THREADS, queued: int = QUEUED) -> None:
        self._limit = threads
        self._owner_limit = owner_threads
        self._queue_limit = queued
        self._changed = threading.Condition()
        self._jobs: OrderedDict[bytes, deque[Callable[[], None]]] = OrderedDict()  # by owner, the next one's turn first
        self._running: dict[bytes, int] = {}
        self._queued = 0
        self._threads: list[threading.Thread] = []
        self._idle = 0
        self._closed = False

    def submit(self, owner: bytes, job: Callable[[], None], *, hint: bool = True) -> bool:
        """Have a job run when it is the owner's turn; False when it is dropped: a ``hint`` past the bound, or after closing."""
        with self._changed:
            if self._closed or (hint and self._queued >= self._queue_limit):
                return False
            self._jobs.setdefault(owner, deque()).append(job)
            self._queued += 1
            if not self._idle and len(self._threads) < self._limit:
                thread = threading.Thread(target=self._run, name=f"fetch-{len(self._threads)}", daemon=True)
                self._threads.append(thread)
                thread.start()
            self._changed.notify()
            return True

    def close(self, seconds: float) -> None:
        """Drop what has not begun, and wait for what has, at most so many seconds. Idempotent."""
        with self._changed:
            self._closed = True
            self._jobs.clear()
            self._queued = 0
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._running, seconds)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._idle += 1
                while (owner := self._next()) is None and not self._closed:
                    self._changed.wait()
                self._idle -= 1
                if owner is None:
                    return
                jobs = self._jobs[owner]
                job = jobs.popleft()
                self._queued -= 1
                if jobs:
                    self._jobs.move_to_end(owner)
                else:
                    del self._jobs[owner]
                self._running[owner] = self._running.get(owner, 0) + 1
            try:
                job()
            except ArtifactFSError as error:
                # The read that needs it asks again, and is told.
                _logger.debug("fetching ahead failed: %s", error)
            except Exception:
                _logger.exception("fetching ahead failed unexpectedly")
            finally:
                del job
                with self._changed:
                    self._running[owner] -= 1
                    if not self._running[owner]:
                        del self._running[owner]
                    self._changed.notify_all()

    def _next(self) -> bytes | None:
        for owner in self._jobs:
            if self._running.get(owner, 0) < self._owner_limit:
                return owner
        return None

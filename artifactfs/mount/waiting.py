"""Owns who may wait: the places for requests that wait for a network, shared fairly among files, and the threads that wait in them.

:class:`WaitingRoom` is used by both bindings, :class:`WaitingPool` by ``dispatch.py``; libfuse has threads of its own. Safe from any
thread; nothing here waits for a place.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Final


class WaitingRoom:
    """So many places for requests that wait.

    Invariant *room for others*: a file takes another place only while more places are free than it has taken. So one that is stalled
    leaves half of them free however many read it, a second one a quarter, and so on; a file without any place gets the last one.
    """

    def __init__(self, places: int) -> None:
        self.places = places
        self._lock = threading.Lock()
        self._taken = 0
        self._by_node: dict[int, int] = {}

    def enter(self, node: int) -> bool:
        """Take a place for a request of a file; pair with :meth:`leave`. False when there is none for it."""
        with self._lock:
            own = self._by_node.get(node, 0)
            if self.places - self._taken <= own:
                return False
            self._taken += 1
            self._by_node[node] = own + 1
            return True

    def leave(self, node: int) -> None:
        """Give a place back."""
        with self._lock:
            self._taken -= 1
            own = self._by_node.pop(node) - 1
            if own:
                self._by_node[node] = own


class WaitingPool:
    """Threads for requests that wait: one for each place that is taken, kept for a while when idle.

    A queue in front of fewer threads would let stalled requests delay others; a thread that only waits costs some
    tens of kilobytes. ``retire`` is called by each thread as it ends.
    """

    IDLE_SECONDS: Final = 30.0

    def __init__(self, places: int, retire: Callable[[], None]) -> None:
        self._room = WaitingRoom(places)
        self._retire = retire
        self._changed = threading.Condition()
        self._jobs: deque[tuple[Callable[[], None], int]] = deque()
        self._threads = 0
        self._idle = 0
        self._closed = False

    def submit(self, job: Callable[[], None], node: int) -> bool:
        """Run ``job``, a request of a file, in a thread. False at once when there is no place for it."""
        with self._changed:
            if self._closed or not self._room.enter(node):
                return False
            self._jobs.append((job, node))
            # With as many threads as places one of them is about to look for a job: it has just given its place back.
            if self._idle >= len(self._jobs) or self._threads >= self._room.places:
                self._changed.notify()
                return True
            self._threads += 1
        threading.Thread(target=self._run, name="fuse-waiting", daemon=True).start()
        return True

    def _next(self) -> tuple[Callable[[], None], int] | None:
        with self._changed:
            self._idle += 1
            self._changed.wait_for(lambda: self._jobs or self._closed, self.IDLE_SECONDS)
            self._idle -= 1
            if self._jobs:
                return self._jobs.popleft()
            self._threads -= 1
            self._changed.notify_all()
            return None

    def _run(self) -> None:
        try:
            while (found := self._next()) is not None:
                job, node = found
                try:
                    job()
                finally:
                    self._room.leave(node)
                del job, found  # so that an idle thread keeps nothing of the last request alive
        finally:
            self._retire()

    def drain(self, seconds: float) -> bool:
        """Take no more; wait at most so long for what is running. True when nothing is."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            return self._changed.wait_for(lambda: not self._threads, seconds)

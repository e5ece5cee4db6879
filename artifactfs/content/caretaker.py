"""Caretaker: the one thread of a process that changes a cache, and what is done when something stands in its way.

Used by the cache, from any thread. The thread starts with the first use; it owns the shelf's connections for changes, and opens the
shelf anew when its directory was deleted or replaced. Every few seconds it looks after things that nobody asks for.

What goes wrong is answered so: a full disk costs nothing to meet again. Damaged tables are put away, with all that they spoke of, and
made anew. After a wait for another process in vain, or for a disk that does not answer, changes rest for a while, so that what hangs
is waited for once and not by every caller.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Final, TypeVar

from artifactfs.content.shelf import Shelf
from artifactfs.errors import ArtifactFSError, Integrity, NoSpace, Unavailable
from artifactfs.forks import Gate

TICK_SECONDS: Final = 5.0
"""How often things are looked after: so much of uses and counts is lost when the process is killed, and so long an evicted extent that
is open keeps its space."""
WAIT_SECONDS: Final = 10.0
"""How long a call waits for the thread: it is that long at work only when the disk hangs."""
REST_SECONDS: Final = 5.0
"""How long no changes are tried after one waited in vain."""

_CLOSE_SECONDS: Final = 10.0
_TASKS_WAITING: Final = 1000  # of those that nobody waits for; past it the disk hangs

_log = logging.getLogger(__name__)

T = TypeVar("T")


class Caretaker:
    """Changes a shelf that ``open_shelf`` opens; ``look_after`` is called every few seconds.

    Raises what opening raises, except when that may pass (NoSpace, Unavailable): then it is tried again later.
    """

    def __init__(self, name: str, open_shelf: Callable[[], Shelf], look_after: Callable[[Shelf], None]) -> None:
        self._name = name
        self._gate = Gate(seconds=WAIT_SECONDS)  # a fork is between two tasks
        self._open_shelf = open_shelf
        self._look_after = look_after
        self._tasks: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        self._closed = False
        self._resting_until = 0.0
        self._settled: Shelf | None = None
        self.trouble = ""
        """What stands in the way of changes, a line; empty when nothing does."""
        self._shelf: Shelf | None = None  # replaced, as a whole, by the thread
        try:
            with self._gate:
                self._shelf = open_shelf()
        except (NoSpace, Unavailable, Integrity) as error:
            self._rest(error)

    @property
    def shelf(self) -> Shelf | None:
        """The shelf as it was last known; it may be gone. None while it cannot be opened."""
        return self._shelf

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` was called."""
        return self._closed

    def start(self) -> None:
        """Look after the shelf from now on, as somebody uses it."""
        if self._thread is None:
            with self._starting:
                if self._thread is None and not self._closed:
                    self._thread = self._begin()

    def do(self, work: Callable[[Shelf], T]) -> T:
        """Have something done and wait for it. Raises what ``work`` raises; Unavailable while changes rest."""
        if self._closed:
            raise Unavailable(f"{self._name} was closed")
        if time.monotonic() < self._resting_until:
            raise Unavailable(self.trouble)
        done: Future[T] = Future()

        def task() -> None:
            if done.set_running_or_notify_cancel():
                try:
                    done.set_result(self._perform(work))
                except BaseException as error:
                    # For the one who waits, whatever it is.
                    done.set_exception(error)

        self._tasks.put(task)
        self.start()
        try:
            return done.result(WAIT_SECONDS)
        except TimeoutError:
            done.cancel()
            stuck = Unavailable(f"the disk of {self._name} does not answer")
            self._rest(stuck)
            raise stuck from None

    def try_to(self, work: Callable[[Shelf], T], *, default: T) -> T:
        """As :meth:`do`; ``default`` where that raises."""
        try:
            return self.do(work)
        except ArtifactFSError:
            return default

    def later(self, work: Callable[[Shelf], None]) -> None:
        """Have something done that need not be, and wait for nothing."""

        def task() -> None:
            with suppress(ArtifactFSError):
                self._perform(work)

        if not self._closed and time.monotonic() >= self._resting_until and self._tasks.qsize() < _TASKS_WAITING:
            self._tasks.put(task)
            self.start()

    def mend(self, shelf: Shelf, error: ArtifactFSError) -> None:
        """Do what an error asks for that was met in asking a shelf, by and by, unless that has been replaced meanwhile."""
        self.later(lambda current: self._mend(error) if current is shelf else None)

    def close(self) -> None:
        """End the thread, after a last look, and close the shelf. Idempotent."""
        with self._starting:
            if self._closed:
                return
            self._closed = True
            if self._thread is None:
                self._thread = self._begin()  # what was counted is to be written down
        self._tasks.put(None)
        self._thread.join(_CLOSE_SECONDS)

    def _begin(self) -> threading.Thread:
        thread = threading.Thread(target=self._run, name="artifactfs-cache", daemon=True)
        thread.start()
        return thread

    # -- in the thread ---------------------------------------------------------------------------------------------

    def _run(self) -> None:
        due = time.monotonic() + TICK_SECONDS
        while True:
            left = due - time.monotonic()
            if left <= 0:
                self._look()
                due = time.monotonic() + TICK_SECONDS
                continue
            with suppress(Empty):
                task = self._tasks.get(timeout=left)
                if task is None:
                    break
                task()
        with suppress(Empty):
            while task := self._tasks.get_nowait():  # of threads that did not see the end coming
                task()
        self._look()
        with self._gate:
            if self._shelf is not None:
                self._shelf.close()

    def _look(self) -> None:
        if time.monotonic() >= self._resting_until:
            with suppress(ArtifactFSError):
                self._perform(self._look_after)

    def _perform(self, work: Callable[[Shelf], T]) -> T:
        with self._gate:
            try:
                result = work(self._current())
            except ArtifactFSError as error:
                self._mend(error)
                raise
            self.trouble = ""
            return result

    def _current(self) -> Shelf:
        """The shelf, opened anew when it is gone, and with what dead processes left removed."""
        shelf = self._shelf
        if shelf is not None and shelf.gone():
            self._abandon()
            shelf = None
        if shelf is None:
            shelf = self._shelf = self._open_shelf()
        if self._settled is not shelf:
            self._settled = shelf
            shelf.reclaim()
            if shelf.small():
                shelf.sweep()
        return shelf

    def _mend(self, error: ArtifactFSError) -> None:
        shelf = self._shelf
        if shelf is not None and shelf.gone():
            self._note(error)
            self._abandon()
        elif isinstance(error, NoSpace):
            self._note(error)
        elif isinstance(error, Integrity) and shelf is not None:
            self._note(error)
            try:
                shelf.discard()
            except ArtifactFSError as stuck:
                self._rest(stuck)
            else:
                self._abandon()
        else:
            self._rest(error)

    def _abandon(self) -> None:
        shelf, self._shelf, self._settled = self._shelf, None, None
        if shelf is not None:
            shelf.close()

    def _rest(self, error: ArtifactFSError) -> None:
        self._note(error)
        self._resting_until = time.monotonic() + REST_SECONDS

    def _note(self, error: ArtifactFSError) -> None:
        if str(error) != self.trouble:
            self.trouble = str(error)
            _log.warning("%s: %s", self._name, error)

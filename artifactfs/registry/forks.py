"""Forks: what a process holds of SQLite is let go before it forks, so that parent and child may both go on.

Used by :mod:`artifactfs.registry.sqlite`. Any thread.

SQLite keeps in memory what its process has locked of a file. A forked child has a copy of that, while the locks stay the parent's: a
connection that the child opens to the same file takes locks for granted that it does not have, and lacks others for ever that a thread
of the parent held at that moment. A parent that closed its connections then found nobody else, and deleted the log that the child went
on writing to: a commit that was acknowledged, and lost (https://sqlite.org/howtocorrupt.html, section 2.6).

Invariant *nothing open at a fork*: who uses connections is inside a :class:`Gate`. A fork waits until nobody is, and has the idle
connections closed; both processes open their own when they need them next. ``subprocess`` does not come here: it executes another
program, which keeps nothing.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from types import TracebackType
from typing import Final, Self

from artifactfs.errors import Unavailable

FORK_SECONDS: Final = 60.0
"""How long a fork waits for other threads' transactions. Each ends within its own bound; when all of them wait, before this one."""

_gates: Final[weakref.WeakSet[Gate]] = weakref.WeakSet()
_forking = threading.Lock()  # one fork at a time


class _Process:
    """``torn``: this one began with a transaction of its parent's half done, so that SQLite's memory is wrong in it."""

    torn = False


class Gate:
    """Counts who uses one file's connections. ``seconds`` bounds the wait of who comes while the process forks."""

    def __init__(self, *, seconds: float) -> None:
        self._seconds = FORK_SECONDS + seconds
        self._changed = threading.Condition()
        self._inside: dict[int, int] = {}  # by thread, as one that is inside may come in again
        self._shut = False
        self._close: weakref.WeakMethod[Callable[[], None]] | None = None
        self._torn = False
        _gates.add(self)

    def closes(self, close: Callable[[], None]) -> None:
        """Say how idle connections are closed: a method, whose object is not kept by it. It is called when nobody is inside."""
        self._close = weakref.WeakMethod(close)

    def __enter__(self) -> Self:
        me = threading.get_ident()
        with self._changed:
            if _Process.torn:
                raise Unavailable(
                    "this process was forked in the middle of a transaction of its parent's; fork while none is under way"
                )
            if self._shut and me not in self._inside and not self._changed.wait_for(self._is_open, self._seconds):
                raise Unavailable("this process has been forking for long; repeat later")
            self._inside[me] = self._inside.get(me, 0) + 1
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        me = threading.get_ident()
        with self._changed:
            left = self._inside.get(me, 0) - 1
            if left > 0:
                self._inside[me] = left
            else:
                self._inside.pop(me, None)
                if self._shut:
                    self._changed.notify_all()

    def _is_open(self) -> bool:
        return not self._shut

    def shut(self, deadline: float) -> None:
        """Let nobody in, wait until all are out, and close what is open."""
        with self._changed:
            self._shut = True
            self._changed.wait_for(lambda: not self._inside, max(0.0, deadline - monotonic()))
            self._torn = bool(self._inside)
            close = self._close() if self._close is not None else None
        if close is not None and not self._torn:
            with suppress(sqlite3.Error):  # there is nobody to tell: the child would find out
                close()

    def open(self) -> None:
        """In the parent: let all in again."""
        with self._changed:
            self._shut = self._torn = False
            self._changed.notify_all()

    def reopen(self) -> None:
        """In the child, where nothing of this is open."""
        _Process.torn = _Process.torn or self._torn
        self._changed = threading.Condition()
        self._inside = {}
        self._shut = False


def _before() -> None:
    _forking.acquire()
    deadline = monotonic() + FORK_SECONDS
    for gate in list(_gates):
        gate.shut(deadline)


def _in_parent() -> None:
    for gate in list(_gates):
        gate.open()
    _forking.release()


def _in_child() -> None:
    global _forking  # noqa: PLW0603 - a lock cannot be made free in place
    _forking = threading.Lock()
    for gate in list(_gates):
        gate.reopen()


os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)

"""Forks: what a process holds of SQLite is let go before it forks, so that parent and child may both go on.

Used by :mod:`artifactfs.registry.sqlite`, by the cache, and where a repository is opened. Any thread.

SQLite keeps in memory what its process has locked of a file. A forked child has a copy of that, while the locks stay the parent's: a
connection that the child opens to the same file takes locks for granted that it does not have, and lacks others for ever that a thread
of the parent held at that moment. A parent that closed its connections then found nobody else, and deleted the log that the child went
on writing to: a commit that was acknowledged, and lost (https://sqlite.org/howtocorrupt.html, section 2.6). SQLite's own mutexes stay
locked as well in a child when a thread of the parent was inside: of 160 children that were forked just after a first read through the
cache, 4 never came out of ``sqlite3.connect``. So does the lock of a module that a thread was importing.

Invariant *nothing open at a fork*: who uses connections, of whatever file, is inside a :class:`Gate`. A fork waits until nobody is,
and has the idle connections closed; both processes open their own when they need them next. All gates are one: a thread that is inside
of one may enter the others, or a fork would wait for it while it waits for the fork. ``subprocess`` does not come here: it executes
another program, which keeps nothing.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Final, Self

from artifactfs.errors import ArtifactFSError, Unavailable

FORK_SECONDS: Final = 60.0
"""How long a fork waits for other threads' transactions. Each ends within its own bound; when all of them wait, before this one."""

_gates: Final[weakref.WeakSet[Gate]] = weakref.WeakSet()


class _Process:
    """Of this process: who is inside, and whether it forks."""

    def __init__(self) -> None:
        self.forking = threading.Lock()  # one fork at a time
        self.changed = threading.Condition()
        self.inside: dict[int, int] = {}  # how often, by thread
        self.shut = False
        self.torn = (
            False  # it began with a transaction of its parent's half done, so that SQLite's memory is wrong in it
        )

    def is_open(self) -> bool:
        return not self.shut

    def is_empty(self) -> bool:
        return self.inside.keys() <= {threading.get_ident()}  # who forks inside of a transaction waits for nobody


_process = _Process()


class Gate:
    """Around each use of what must not be in use at a fork. ``seconds`` bounds the wait of who comes while the process forks."""

    def __init__(self, *, seconds: float) -> None:
        self._seconds = FORK_SECONDS + seconds
        self._close: weakref.WeakMethod[Callable[[], None]] | None = None
        _gates.add(self)

    def closes(self, close: Callable[[], None]) -> None:
        """Say how what is idle is closed: a method, whose object is not kept by it. It is called when nobody is inside."""
        self._close = weakref.WeakMethod(close)

    def __enter__(self) -> Self:
        me = threading.get_ident()
        process = _process
        with process.changed:
            if process.torn:
                raise Unavailable(
                    "this process was forked in the middle of a transaction of its parent's; fork while none is under way"
                )
            if (
                process.shut
                and me not in process.inside
                and not process.changed.wait_for(process.is_open, self._seconds)
            ):
                raise Unavailable("this process has been forking for long; repeat later")
            process.inside[me] = process.inside.get(me, 0) + 1
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        me = threading.get_ident()
        process = _process
        with process.changed:
            left = process.inside.get(me, 0) - 1
            if left > 0:
                process.inside[me] = left
            else:
                process.inside.pop(me, None)
                if process.shut:
                    process.changed.notify_all()

    def let_go(self) -> None:
        """Close what is open, as nobody uses it."""
        close = self._close() if self._close is not None else None
        if close is not None:
            with suppress(sqlite3.Error, ArtifactFSError):  # there is nobody to tell: the child would find out
                close()


def _before() -> None:
    process = _process
    process.forking.acquire()
    with process.changed:
        process.shut = True
        process.changed.wait_for(process.is_empty, FORK_SECONDS)
        busy = bool(process.inside)
    if not busy:
        for gate in list(_gates):
            gate.let_go()


def _in_parent() -> None:
    process = _process
    with process.changed:
        process.shut = False
        process.changed.notify_all()
    process.forking.release()


def _in_child() -> None:
    global _process  # noqa: PLW0603 - locks cannot be made free in place
    torn = _process.torn or bool(_process.inside)
    _process = _Process()
    _process.torn = torn


os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)

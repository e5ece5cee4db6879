"""Answers: what a server's Registry said last, in this process and, for the time without a network, beyond it.

Used by ``registry.py``. Any thread.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any, Final, Generic, Protocol, TypeVar

import msgspec

from artifactfs.remote import wire

BYTES: Final = 16 << 20
"""Encoded bytes of answers held in this process: versions of some 10,000 artifacts; decoded they take about five times as much."""

T = TypeVar("T")


class Memory(Protocol):
    """Small values that outlive the process; the Cache is one. It may forget, and never raises."""

    def remember(self, key: str, value: bytes) -> None:
        """Keep a value in place of the last one under this key."""

    def recall(self, key: str) -> bytes | None:
        """The last value, or None."""


class Answer(Generic[T]):
    """What was answered; None for absence.

    ``revision``: the project's when it was asked for, so that the answer holds as long as that is the present one (None: not known).
    ``heard``: the project's as it came with the answer.
    """

    __slots__ = ("body", "heard", "revision", "value")

    def __init__(self, value: T | None, body: bytes, *, revision: int | None, heard: int) -> None:
        self.value = value
        self.body = body
        self.revision = revision
        self.heard = heard


class _Kept(msgspec.Struct, frozen=True, array_like=True):
    """An answer in the Memory. An empty body is absence, which is no answer for the time without a network."""

    heard: int
    body: bytes
    revision: int | None


class Answers:
    """Answers by path of the question, the least recently used forgotten first. ``place`` tells servers and projects apart."""

    def __init__(self, memory: Memory | None, place: str, *, limit: int = BYTES) -> None:
        self._memory = memory
        self._place = place
        self._limit = limit
        self._lock = threading.Lock()
        self._bytes = 0
        self._held: OrderedDict[str, Answer[Any]] = OrderedDict()

    def valid(self, path: str, kind: type[T], revision: int) -> Answer[T] | None:
        """What was answered, here or in another process, if it holds at this revision."""
        answer = self.held(path)
        if answer is None and self._memory is not None:
            answer = self._recall(path, kind)
            if answer is not None and answer.revision == revision and answer.value is not None:
                self._hold(path, answer)
        return answer if answer is not None and answer.revision == revision else None

    def held(self, path: str) -> Answer[Any] | None:
        """What was answered in this process."""
        with self._lock:
            answer = self._held.get(path)
            if answer is not None:
                self._held.move_to_end(path)
            return answer

    def keep(self, path: str, answer: Answer[Any]) -> None:
        """Keep an answer."""
        before = self._hold(path, answer)
        known = before is not None and _as_kept(before) == _as_kept(answer)
        if self._memory is not None and not known:
            self._memory.remember(self._place + path, wire.encode(_Kept(answer.heard, answer.body, answer.revision)))

    def _hold(self, path: str, answer: Answer[Any]) -> Answer[Any] | None:
        with self._lock:
            before = self._held.pop(path, None)
            self._held[path] = answer
            self._bytes += _cost(answer) - (_cost(before) if before is not None else 0)
            while self._bytes > self._limit:
                self._bytes -= _cost(self._held.popitem(last=False)[1])
        return before

    def outdate(self) -> None:
        """No answer holds at any revision from now on, but each is still the last."""
        with self._lock:
            for answer in self._held.values():
                answer.revision = None

    def last(self, path: str, kind: type[T]) -> Answer[T] | None:
        """What was answered last, here or in another process, however long ago; None also for absence."""
        answer = self.held(path)
        if answer is None and self._memory is not None:
            answer = self._recall(path, kind)
        return answer if answer is not None and answer.value is not None else None

    def _recall(self, path: str, kind: type[T]) -> Answer[T] | None:
        data = self._memory.recall(self._place + path) if self._memory is not None else None
        if data is None:
            return None
        try:
            kept = msgspec.msgpack.decode(data, type=_Kept)
            value = msgspec.msgpack.decode(kept.body, type=kind) if kept.body else None
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return None  # of another release, or damaged: as if forgotten
        return Answer(value, kept.body, revision=kept.revision, heard=kept.heard)


def _as_kept(answer: Answer[Any]) -> tuple[bytes, int, int | None]:
    return answer.body, answer.heard, answer.revision


def _cost(answer: Answer[Any]) -> int:
    return 512 + len(answer.body)

"""Recent: a bounded mapping that remembers what was used lately, without a lock on a hit.

Used by the read path. Any thread.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class Recent(Generic[Value]):
    """Values by digest, at most about ``limit``.

    Two generations instead of a list in order of use: a hit in the younger one is a plain dictionary lookup without a lock. When the
    younger is half the limit it becomes the older, and what was not used since then is forgotten.
    """

    def __init__(self, limit: int) -> None:
        self._half = max(1, limit // 2)
        self._young: dict[bytes, Value] = {}
        self._old: dict[bytes, Value] = {}
        self._lock = threading.Lock()

    def get(self, key: bytes) -> Value | None:
        """The remembered value, now among the young; or None."""
        value = self._young.get(key)
        if value is None:
            value = self._old.get(key)
            if value is not None:
                self.update([(key, value)])
        return value

    def update(self, items: Iterable[tuple[bytes, Value]]) -> None:
        """Remember values."""
        with self._lock:
            self._young.update(items)
            if len(self._young) >= self._half:
                self._old, self._young = self._young, {}

    def forget(self, key: bytes) -> None:
        """Remember nothing under a key."""
        with self._lock:
            self._young.pop(key, None)
            self._old.pop(key, None)

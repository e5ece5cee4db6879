"""Stalls: chunks that were waited for in vain a moment ago, so that who comes next is told at once.

Used by the fetched source. Any thread. The kernel lets one reader of a page at a time ask for it; when that fails the next one asks
anew. Without this, 200 readers of one page that does not come would wait one after another, each for the whole bound.
"""

from __future__ import annotations

import threading
import time
from typing import Final

from artifactfs.errors import Unavailable

LONG: Final = 1.0
"""Seconds from which a failure took long; one that is found out quickly is found out anew."""
TOLD: Final = 1.0
"""For how many seconds it is told: time for hundreds to be told, and soon enough over when the network is back."""
MOST: Final = 4096
"""Chunks remembered; past it those that fail are not, and cost their readers the time again."""

Key = tuple[int, bytes]


class Stalls:
    """Failures by kind and digest, each for a moment."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._failed: dict[Key, tuple[Unavailable, float]] = {}

    def check(self, key: Key) -> None:
        """Raise the Unavailable that a fetch of this chunk has just ended with, if it took long."""
        failed = self._failed.get(key)
        if failed is not None and time.monotonic() < failed[1]:
            error = failed[0]
            raise Unavailable(*error.args) from error  # each reader its own, as raising writes a traceback into it

    def failed(self, key: Key, error: Unavailable, began: float) -> None:
        """A fetch that ``began`` then (monotonic) has failed."""
        now = time.monotonic()
        if now - began < LONG:
            return
        with self._lock:
            for old in [old for old, (_, until) in self._failed.items() if until <= now]:
                del self._failed[old]
            if len(self._failed) < MOST:
                self._failed[key] = (error, now + TOLD)

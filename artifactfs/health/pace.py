"""Pace: a bound on bytes a second, over all threads that read, and the order to stop.

Used by the passes over packs. Any thread.
"""

from __future__ import annotations

import threading
import time
from typing import Final

BURST_SECONDS: Final = 0.25
"""What was not used may be made up for: so much of the rate at once."""


class Stopped(Exception):
    """The order to stop was given."""


class Pace:
    """``rate``: bytes a second, 0: as fast as it goes. ``stop`` ends every wait."""

    def __init__(self, rate: int = 0, stop: threading.Event | None = None) -> None:
        self._rate = rate
        self._stop = stop or threading.Event()
        self._lock = threading.Lock()
        self._free = 0.0  # when the next byte may be read

    def stop(self) -> None:
        """Have every thread stop at its next step."""
        self._stop.set()

    def take(self, count: int) -> None:
        """Wait until so many bytes may be read. Raises Stopped."""
        wait = 0.0
        if self._rate:
            with self._lock:
                now = time.monotonic()
                begin = max(self._free, now - BURST_SECONDS)
                self._free = begin + count / self._rate
                wait = begin - now
        if self._stop.wait(wait) if wait > 0 else self._stop.is_set():
            raise Stopped

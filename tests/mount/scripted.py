"""A registry that counts what it is asked, can be out of reach, and then answers from memory: as one across a network does."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable

from artifactfs.errors import Unavailable

READS = ("artifacts", "artifact", "versions", "version", "resolve", "find_digest", "aliases")


class ScriptedRegistry:
    """Asks ``real``; ``calls`` counts but for ``revision``, which is cheap by contract."""

    def __init__(self, real) -> None:
        self._real = real
        self.calls: Counter[str] = Counter()
        self.down = ""  # why it is out of reach; "" when it is not
        self.hold: threading.Event | None = None  # what reads wait for
        self._seen = real.revision()
        self._remembered: dict[tuple, object] = {}
        self._closed = threading.Event()

    def __getattr__(self, name: str):
        method = getattr(self._real, name)
        if name not in READS:
            return method

        def read(*args):
            self.calls[name] += 1
            if self.hold is not None:
                assert self.hold.wait(60)
            if not self.down:
                self._remembered[name, *args] = method(*args)
            elif (name, *args) not in self._remembered:
                raise Unavailable(self.down)
            return self._remembered[name, *args]

        return read

    @property
    def online(self) -> bool:
        return not self.down

    def revision(self) -> int:
        if not self.down:
            self._seen = self._real.revision()
        return self._seen

    def changed(self, after: int, *, seconds: float) -> int:
        self.calls["changed"] += 1
        deadline = time.monotonic() + seconds
        while not self._closed.wait(0.001):
            if self.down:
                raise Unavailable(self.down)
            if self.revision() != after or time.monotonic() > deadline:
                return self._seen
        raise Unavailable("closed")

    def close(self) -> None:
        self._closed.set()

    def asked(self, action: Callable[[], object]) -> dict[str, int]:
        """What an action asks, but for the follower's question."""
        before = self.calls.copy()
        action()
        return {name: count for name, count in (self.calls - before).items() if name != "changed"}

"""Where chunks are, as the read path remembers it, and which of them this process has verified.

Used by the reader. May be called from any thread.

One question to the registry costs as much as reading a page of data, so places are asked for many at a time: for the
files of a directory, or for the chunks of a large file.
"""

from __future__ import annotations

import sys
import threading
from itertools import islice
from typing import TYPE_CHECKING, Final

from artifactfs.content.pack import pack_key

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from artifactfs.model.records import Location
    from artifactfs.registry.contract import Registry

REMEMBERED: Final = 200_000
"""Places remembered, about 300 bytes each. Past it the oldest half goes, and their chunks are asked for and verified
anew."""

ASKED_AT_ONCE: Final = 4096
"""Places asked for in one question: a whole node of a Sequence, about 10 ms."""


class Place:
    """A chunk's location, its pack's key, and whether this process has verified the chunk there."""

    __slots__ = ("key", "location", "verified")

    def __init__(self, location: Location) -> None:
        self.location = location
        self.key = sys.intern(pack_key(location.pack))  # a pack holds thousands of chunks
        self.verified = False


class Places:
    """Asks for the places of chunks and remembers them, bounded."""

    def __init__(self, registry: Registry, *, remembered: int = REMEMBERED) -> None:
        self._registry = registry
        self._half = max(1, remembered // 2)
        # Two generations instead of a list in order of use: a hit in the younger one is a plain dictionary lookup
        # without a lock. When the younger is full it becomes the older, and what was not used since then is
        # forgotten.
        self._young: dict[bytes, Place] = {}
        self._old: dict[bytes, Place] = {}
        self._lock = threading.Lock()

    def get(self, digest: bytes) -> Place | None:
        """The remembered place of a chunk, without asking."""
        place = self._young.get(digest)
        if place is None:
            place = self._old.get(digest)
            if place is not None:
                self._remember([(digest, place)])
        return place

    def find(self, digest: bytes, along: Iterable[bytes] = ()) -> Place | None:
        """The place of a chunk, or None. When it must be asked for, so are those of ``along`` (the first thousands)."""
        place = self.get(digest)
        if place is None:
            asked = {digest}
            asked.update(islice((other for other in along if self.get(other) is None), ASKED_AT_ONCE - 1))
            place = self._ask(asked).get(digest)
        return place

    def find_again(self, digest: bytes) -> Place | None:
        """Forget the place of a chunk and ask for it once more: it may have moved to another pack."""
        return self._ask({digest}).get(digest)

    def _ask(self, digests: Collection[bytes]) -> dict[bytes, Place]:
        found = {name: Place(location) for name, location in self._registry.locate(digests).items()}
        self._remember(found.items())
        return found

    def _remember(self, places: Iterable[tuple[bytes, Place]]) -> None:
        with self._lock:
            self._young.update(places)
            if len(self._young) >= self._half:
                self._old, self._young = self._young, {}

"""Where chunks are, as the read path remembers it, and which of them this process has verified.

Used by the sources. May be called from any thread.

One question to the registry costs as much as reading a page of data, over a network as much as reading a megabyte, so places are
asked for many at a time: for the files of a directory, or for the chunks of a large file.
"""

from __future__ import annotations

import sys
from itertools import islice
from typing import TYPE_CHECKING, Final

from artifactfs.content.pack import pack_key
from artifactfs.content.recent import Recent

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

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
        self._known: Recent[Place] = Recent(remembered)
        self.get = self._known.get  # the remembered place of a chunk, without asking, or None

    def find(self, digest: bytes, along: Iterable[bytes] = ()) -> Place | None:
        """The place of a chunk, or None. When it must be asked for, so are those of ``along`` (the first thousands)."""
        place = self.get(digest)
        if place is None:
            asked = {digest}
            asked.update(islice((other for other in along if self.get(other) is None), ASKED_AT_ONCE - 1))
            place = self._ask(asked).get(digest)
        return place

    def find_all(self, digests: Collection[bytes]) -> dict[bytes, Place]:
        """The places of these chunks, those that are not known in one question; unknown ones are left out."""
        found = {digest: place for digest in digests if (place := self.get(digest)) is not None}
        if len(found) < len(digests):
            found.update(self._ask([digest for digest in digests if digest not in found]))
        return found

    def find_again(self, digest: bytes) -> Place | None:
        """Forget the place of a chunk and ask for it once more: it may have moved to another pack."""
        return self._ask({digest}).get(digest)

    def remember(self, locations: Mapping[bytes, Location]) -> None:
        """Places that came unasked; those that are known stay as they are."""
        self._known.update([(name, Place(location)) for name, location in locations.items() if self.get(name) is None])

    def _ask(self, digests: Collection[bytes]) -> dict[bytes, Place]:
        found = {name: Place(location) for name, location in self._registry.locate(digests).items()}
        self._known.update(found.items())
        return found

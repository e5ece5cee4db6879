"""StoredSource: chunks from a Store and a Registry at hand.

Used by repositories in a directory, and by the server. Any thread.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

from artifactfs.content.memory import MEMORY, RAW_MEMORY, ChunkMemory
from artifactfs.content.pack import bare, unseal
from artifactfs.content.places import Place, Places
from artifactfs.errors import Integrity, NotFound
from artifactfs.model.digest import DATA, digest, format_digest, kind_of_flags
from artifactfs.model.records import FLAG_ENCRYPTED, FLAG_ZSTD, Location

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from artifactfs.content.store import Store
    from artifactfs.model.sequence import Piece
    from artifactfs.registry.contract import Registry

CODED: Final = FLAG_ZSTD | FLAG_ENCRYPTED


class StoredSource:
    """A :class:`~artifactfs.content.source.Source` without a cache. ``memory``: bytes of decoded chunks to keep."""

    def __init__(self, store: Store, registry: Registry, *, memory: int = MEMORY) -> None:
        self.store = store
        self.places = Places(registry)
        self._memory = ChunkMemory(memory, raw_limit=RAW_MEMORY if store.local else None)
        self._lock = threading.Lock()
        self._fetched = 0  # guarded by the lock

    @property
    def local(self) -> bool:
        """As the Store."""
        return self.store.local

    @property
    def memory(self) -> ChunkMemory:
        """Where chunks are put once they are verified."""
        return self._memory

    @property
    def bytes_fetched(self) -> int:
        """Bytes of whole chunks that came from the Store so far, as they are stored."""
        return self._fetched

    def fetch(self, name: bytes, kind: int, along: Iterable[bytes]) -> bytes:
        """Read a chunk, verify it and land it. Errors as the contract says."""
        place = self.places.find(name, along)
        if place is None:
            raise absent(name)
        try:
            data = self._fetch_at(place, name, kind)
        except (NotFound, Integrity) as error:
            # A collection or a repair may have moved the chunk since its place was asked for.
            again = self.places.find_again(name)
            if again is None or again.location == place.location:
                raise (gone(name, place.location) if isinstance(error, NotFound) else error) from None
            place = again
            try:
                data = self._fetch_at(place, name, kind)
            except NotFound:
                raise gone(name, place.location) from None
        self._memory.land((kind, name), data, raw=not place.location.flags & CODED)
        return data

    def path(self, directory: bytes, path: str) -> None:
        """A node at a time is as fast."""

    def read_verified(self, name: bytes, begin: int, end: int) -> bytes | None:
        """A range of a chunk, if it lies raw on the local disk and was verified there."""
        place = self.places.get(name)
        if place is None or not place.verified or place.location.flags & CODED or not self.store.local:
            return None
        if self._memory.raw((DATA, name)):
            return None
        try:
            return self.store.read(place.key, place.location.offset + begin, end - begin)
        except (NotFound, Integrity):
            place.verified = False  # fetched anew, which finds out what happened
            return None

    def ready(self, name: bytes) -> bool:
        """Whether a chunk of data comes without a network."""
        return self.store.local or (DATA, name) in self._memory

    def touched(self, name: bytes) -> None:
        """Nothing is gained by reading a local disk ahead: the kernel does."""

    def ahead(self, owner: bytes, pieces: Iterable[Piece]) -> None:
        """As :meth:`touched`."""

    def fetch_all(self, pieces: Iterable[Piece], *, pin: bool = False) -> Iterator[int]:
        """All is here."""
        del pin
        return (piece.size for piece in pieces)

    def pin(self, names: Collection[bytes]) -> None:
        """Nothing is ever evicted here."""

    def close(self) -> None:
        """There is nothing to end."""

    def _fetch_at(self, place: Place, name: bytes, kind: int) -> bytes:
        location = place.location
        try:
            stored = self.store.read(place.key, location.offset, location.length)
        except Integrity as error:
            raise damaged(name, location) from error
        data = opened(stored, location, name, kind)
        place.verified = True
        with self._lock:
            self._fetched += location.length
        return data


def opened(stored: bytes, location: Location, name: bytes, kind: int) -> bytes:
    """The verified plain bytes of a stored chunk. Integrity names the chunk and its place."""
    if kind_of_flags(location.flags) != kind:
        raise Integrity(f"chunk {format_digest(name)} is recorded as one of another kind; run `artifactfs verify`")
    try:
        plain = unseal(*bare(stored, location, name))
    except Integrity as error:
        raise damaged(name, location) from error
    if digest(kind, plain) != name:
        raise damaged(name, location)
    return plain


def damaged(name: bytes, location: Location) -> Integrity:
    """What to say of a chunk whose bytes are wrong."""
    return Integrity(
        f"chunk {format_digest(name)} is damaged in pack {location.pack} at offset {location.offset}; run `artifactfs verify`"
    )


def absent(name: bytes) -> Integrity:
    """What to say of a chunk that the registry does not know."""
    return Integrity(f"chunk {format_digest(name)} is in no pack; run `artifactfs verify`")


def gone(name: bytes, location: Location) -> Integrity:
    """What to say of a chunk whose pack is not there."""
    return Integrity(f"chunk {format_digest(name)}: its pack {location.pack} is missing; run `artifactfs verify`")

"""The Source contract: where the reader gets whole, verified chunks from.

Kinds: :class:`artifactfs.content.stored.StoredSource` (a Store and a Registry at hand),
:class:`artifactfs.content.fetch.FetchedSource` (a network, with the disk cache before it). All methods may be called from any thread.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import Protocol

from artifactfs.content.memory import ChunkMemory
from artifactfs.model.sequence import Piece


class Source(Protocol):
    """Chunks by digest and kind."""

    @property
    def local(self) -> bool:
        """Whether chunks come from a local disk alone, so that reads may run on a dispatcher thread."""

    @property
    def memory(self) -> ChunkMemory:
        """Where chunks are put once they are verified."""

    @property
    def bytes_fetched(self) -> int:
        """Bytes of whole chunks that came from the Store so far, as they are stored."""

    def fetch(self, name: bytes, kind: int, along: Iterable[bytes]) -> bytes:
        """Get a chunk that :attr:`memory` lacks, verify it, and land it there; called once at a time for each chunk.

        ``along`` are chunks whose places are asked for in the same question. Raises Integrity when the chunk is
        damaged, missing, or of another kind; Unavailable, Access and NoSpace as the Store and the Registry do.
        """

    def path(self, directory: bytes, path: str) -> None:
        """A path below a directory will be looked up: get the nodes along it at once, where that saves requests."""

    def read_verified(self, name: bytes, begin: int, end: int) -> bytes | None:
        """A range of a chunk of data by one read of the local disk, if it lies there raw and this process has verified it."""

    def ready(self, name: bytes) -> bool:
        """Whether a chunk of data comes without a network."""

    def touched(self, name: bytes) -> None:
        """A small file, one chunk, was read from memory: others may follow it."""

    def ahead(self, owner: bytes, pieces: Iterable[Piece]) -> None:
        """These chunks of a large file, the ``owner``, will be read soon. Fetches nothing before it returns, and need not at all."""

    def fetch_all(self, pieces: Iterable[Piece], *, pin: bool = False) -> Iterator[int]:
        """Get all these chunks of data into the cache, wherever there is one; yields plain bytes as they are there.

        ``pin`` keeps them from eviction. Raises as :meth:`fetch`.
        """

    def pin(self, names: Collection[bytes]) -> None:
        """Keep these chunks and nodes, which were read, from eviction, wherever there is a cache."""

    def close(self) -> None:
        """End threads; what is under way ends within a Store's bound. Idempotent."""

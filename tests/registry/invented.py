"""Packs of chunks that exist nowhere: a registry in a file believes who writes to it."""

from __future__ import annotations

from artifactfs.model.records import FLAG_ZSTD, ChunkRow, PackRow
from tests.conformance.registry import digest


def pack_of(name: object, *digests: bytes, length: int = 100) -> PackRow:
    """A pack of chunks of one length, back to back."""
    rows = tuple(
        ChunkRow(digest=key, offset=place * length, length=length, size=2 * length, flags=FLAG_ZSTD)
        for place, key in enumerate(digests)
    )
    return PackRow(digest=digest(("pack", name)).hex(), size=max(1, len(digests)) * length, chunks=rows)

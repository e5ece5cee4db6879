"""Blocks: pieces of an outside object, as they are asked for, checked and kept.

Used by this package's reading side. Values and pure functions, safe from any thread.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import msgspec

from artifactfs.content.stored import opened
from artifactfs.errors import ArtifactFSError, Integrity, Unavailable
from artifactfs.model.digest import DATA, DIGEST_SIZE, digest, format_digest
from artifactfs.model.records import ChunkRow, Location
from artifactfs.references.contract import Answer, changed


class Block(msgspec.Struct, frozen=True, gc=False):
    """``size`` bytes from ``begin`` on. ``key`` is the digest of these bytes when ``exact``, else a name for them."""

    key: bytes
    begin: int
    size: int
    exact: bool

    @property
    def end(self) -> int:
        """The offset after it."""
        return self.begin + self.size


class BlockSource(Protocol):
    """What blocks are of: one object as it was recorded."""

    @property
    def uri(self) -> str:
        """For messages."""

    @property
    def owner(self) -> bytes:
        """Names the object, as it was recorded, among others."""

    @property
    def size(self) -> int:
        """Bytes of all."""

    @property
    def keeps(self) -> bool:
        """Whether its blocks go into the Cache."""

    def answer(self, offset: int, length: int) -> Answer:
        """Ask the source, and compare what it says with the record. Integrity when that differs."""

    def blocks(self, offset: int, end: int) -> Iterator[Block]:
        """The blocks that hold a range of offsets, in order."""


class Wrong(Exception):
    """The bytes of a block did not come, or are not those recorded: asking once more tells whether that was on the way.

    ``error`` is what to say if it was not.
    """

    def __init__(self, error: Integrity | Unavailable) -> None:
        super().__init__(str(error))
        self.error = error


def take(source: BlockSource, answer: Answer, block: Block) -> bytes:
    """The next bytes of an answer, which are this block's. Raises Wrong."""
    parts: list[bytes] = []
    left = block.size
    try:
        while left and (data := answer.read(left)):
            parts.append(data)
            left -= len(data)
    except Unavailable as error:
        raise Wrong(error) from error
    if left:
        size = block.end - left
        raise Wrong(changed(source.uri, f"recorded size {source.size}, found {size}"))
    data = parts[0] if len(parts) == 1 else b"".join(parts)
    if block.exact:
        found = digest(DATA, data)
        if found != block.key:
            what = "checksum" if block.size == source.size else f"checksum of the bytes from {block.begin} on"
            raise Wrong(
                changed(source.uri, f"recorded {what} {format_digest(block.key)}, found {format_digest(found)}")
            )
    return data


def wrapped(block: Block, data: bytes) -> tuple[ChunkRow, bytes]:
    """A block as the Cache holds it: an exact one as any chunk, another one behind a digest of its bytes."""
    stored = data if block.exact else digest(DATA, data) + data
    return ChunkRow(block.key, 0, len(stored), len(stored), 0), stored


def unwrapped(block: Block, stored: bytes, *, flags: int, size: int) -> bytes | None:
    """A block from what the Cache holds; None when that is damaged."""
    if block.exact:
        try:
            data = opened(stored, Location("", 0, len(stored), size, flags), block.key, DATA)
        except ArtifactFSError:
            return None
    else:
        data = stored[DIGEST_SIZE:]
        if digest(DATA, data) != stored[:DIGEST_SIZE]:
            return None
    return data if len(data) == block.size else None


def runs(blocks: Sequence[Block], most: int) -> Iterator[list[Block]]:
    """Blocks in order, cut where they are no neighbours or would exceed ``most`` bytes."""
    run: list[Block] = []
    for block in blocks:
        if run and (block.begin != run[-1].end or block.end - run[0].begin > most):
            yield run
            run = []
        run.append(block)
    if run:
        yield run

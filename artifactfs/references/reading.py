"""The files that References are read through: what is recorded of an object, cut into blocks.

Used by References. Any number of threads may read one; there is nothing to close.

An object whose digest is recorded has the chunks of a file with that digest, each checked by its own. Of any other one the etag, the
version and the size are compared for every answer, and its blocks are of 1 MiB. Where nothing was recorded, the first answer says
what the object is as long as this file is open; another one that is opened later sees what is there then.
"""

from __future__ import annotations

import os
import threading
from bisect import bisect_right
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import msgspec
from blake3 import blake3

from artifactfs.content.ahead import Window
from artifactfs.errors import InvalidInput, Unavailable
from artifactfs.model.digest import format_digest
from artifactfs.model.sequence import SINGLE_CHUNK
from artifactfs.model.tree import RefEntry
from artifactfs.references.blocks import Block
from artifactfs.references.contract import Answer, Facts, Origin, changed, digest_of
from artifactfs.references.hashing import hash_stream

if TYPE_CHECKING:
    from artifactfs.content.reader import ContentReader, FileReader
    from artifactfs.references.fetcher import Fetcher

BLOCK: Final = 1 << 20
"""Bytes of a block without a digest: what a chunk has on average."""
AHEAD_MOST: Final = 32 << 20
"""Bytes fetched ahead of a sequential reader at most: half of what memory keeps of all that are read."""

_CONTEXT: Final = "artifactfs reference block"


class OutsideFile:
    """A :class:`~artifactfs.references.contract.ReferenceFile` over blocks. ``lists`` has the chunk lists of recorded digests."""

    def __init__(self, fetcher: Fetcher, origin: Origin, entry: RefEntry, lists: ContentReader) -> None:
        self._fetcher = fetcher
        self._origin = origin
        self._lists = lists
        self._lock = threading.Lock()
        self._object: Recorded | None = None if entry.size is None else Recorded(origin, entry, lists)
        self._entry = entry
        self._window = Window(AHEAD_MOST)

    @property
    def size(self) -> int:
        """Bytes; asked of the source when that was not recorded."""
        return self._recorded().size

    def read(self, offset: int, length: int) -> bytes | memoryview:
        """``length`` bytes from ``offset`` on; fewer at the end only."""
        parts = self.read_parts(offset, length)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def read_parts(self, offset: int, length: int) -> list[bytes | memoryview]:
        """As :meth:`read`, in pieces as they lie in memory."""
        if offset < 0:
            raise InvalidInput(f"cannot read at offset {offset}")
        source = self._recorded()
        end = min(offset + length, source.size)
        if offset >= end:
            return []
        ahead = self._window.after(offset, end, source.size)
        if ahead is not None:
            # What is read now is fetched for whoever waits for it.
            self._fetcher.ahead(source, max(end, ahead[0]), ahead[1])
        return self._fetcher.read(source, offset, end)

    def ready(self, offset: int, length: int) -> bool:
        """Whether a range needs no network, as far as is known at once."""
        source = self._object
        if source is None or not source.listed_in_memory:
            return False
        end = min(offset + length, source.size)
        return offset >= end or self._fetcher.ready(source, offset, end)

    def _recorded(self) -> Recorded:
        source = self._object
        if source is None:
            with self._lock:
                source = self._object
                if source is None:
                    source = self._object = _pinned(self._origin, self._entry, self._lists)
        return source


class Recorded:
    """A :class:`~artifactfs.references.blocks.BlockSource`: an object of which something is recorded, and its size always."""

    def __init__(self, origin: Origin, entry: RefEntry, lists: ContentReader, *, modified: str | None = None) -> None:
        if entry.size is None:
            raise InvalidInput(f"nothing is recorded of {entry.uri}")
        self._origin = origin
        self._entry = entry
        self._facts = Facts(entry.size, entry.etag, entry.version, modified)
        self._digest = digest_of(entry)
        self._list: FileReader | None = None
        if self._digest is not None and entry.size > SINGLE_CHUNK:
            self._list = lists.open(self._digest, entry.size)
        self.uri = entry.uri
        self.size = entry.size
        # Without an etag nobody can tell whether what is there another time is the same.
        told = entry.etag is not None or entry.version is not None or self._digest is not None
        self.keeps = origin.keeps and told
        nonce = b"" if told else os.urandom(16)
        record = (entry.uri, entry.size, entry.etag, entry.version, entry.checksum, nonce)
        self.owner = blake3(msgspec.msgpack.encode(record), derive_key_context=_CONTEXT).digest()

    @property
    def listed_in_memory(self) -> bool:
        """Whether :meth:`blocks` needs no network: of a large file with a digest the chunk list must be here."""
        return self._list is None or next(self._list.leaves_in_memory(), None) is not None

    def answer(self, offset: int, length: int) -> Answer:
        """Ask the source, and compare what it says with the record."""
        answer = self._origin.read(self._entry, offset, length)
        how = answer.facts.conflict(self._facts)
        if how is not None:
            answer.close()
            raise changed(self.uri, self._checksums(answer.facts) or how)
        return answer

    def blocks(self, offset: int, end: int) -> Iterator[Block]:
        """The blocks that hold a range of offsets."""
        if self._list is not None:
            yield from self._chunks(self._list, offset, end)
        elif self._digest is not None:
            if offset < end:
                yield Block(self._digest, 0, self.size, exact=True)
        else:
            for number in range(offset // BLOCK, -(-end // BLOCK)):
                begin = number * BLOCK
                key = blake3(self.owner + number.to_bytes(8, "big")).digest()
                yield Block(key, begin, min(BLOCK, self.size - begin), exact=False)

    @staticmethod
    def _chunks(listed: FileReader, offset: int, end: int) -> Iterator[Block]:
        while offset < end:
            first, leaf = listed.leaf_at(offset)
            for index in range(bisect_right(leaf.starts, offset - first) - 1, len(leaf.pieces)):
                begin = first + leaf.starts[index]
                if begin >= end:
                    return
                piece = leaf.pieces[index]
                yield Block(piece.digest, begin, piece.size, exact=True)
            offset = first + leaf.size

    def _checksums(self, facts: Facts) -> str | None:
        """What differs, by digest, where that costs little: of a small object whose size is another one."""
        if self._digest is None or facts.size is None or facts.size > SINGLE_CHUNK:
            return None
        answer = self._origin.read(self._entry, 0, None)
        try:
            found = hash_stream(answer.read)
        finally:
            answer.close()
        return (
            f"recorded checksum {format_digest(self._digest)} and size {self.size}, "
            f"found {format_digest(found.digest)} and {found.size}"
        )


def _pinned(origin: Origin, entry: RefEntry, lists: ContentReader) -> Recorded:
    """An object of which nothing was recorded, as it is now."""
    facts = origin.look(entry)
    if facts.size is None:
        raise Unavailable(f"{entry.uri} does not say how large it is; log it with its checksum, which reads it once")
    now = msgspec.structs.replace(entry, size=facts.size, etag=facts.etag, version=facts.version)
    return Recorded(origin, now, lists, modified=facts.modified if facts.etag is None else None)

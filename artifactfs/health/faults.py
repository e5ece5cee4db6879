"""Faults: what a look at packs found, and which chunks that hits.

Used by the passes over packs, by the naming of files and by repair. :class:`Faults` is filled by one thread and asked by one.

Memory: some 300 bytes a fault. A missing pack is one, however many chunks it held; of a short one, too.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from artifactfs.model.digest import format_digest
from artifactfs.model.records import Location

MISSING: Final = "missing"  # the pack is not in the Store
SIZE: Final = "size"  # it has another size than recorded
TABLE: Final = "table"  # its table of contents is missing, damaged or another's
CHUNK: Final = "chunk"  # a chunk's bytes are wrong or cannot be read
ROW: Final = "row"  # the chunk index has a chunk at a wrong place
UNRECORDED: Final = "unrecorded"  # the chunk index lacks a chunk that the pack has: no damage unless a version needs it


class Fault(msgspec.Struct, frozen=True):
    """One thing that is wrong with a pack; ``chunk``, when it is about one, is its digest. ``size``: of the pack, as found."""

    pack: str
    kind: str
    reason: str
    chunk: bytes = b""
    size: int = 0


class Faults:
    """All faults found so far."""

    def __init__(self, found: Iterable[Fault] = ()) -> None:
        self.all: list[Fault] = []
        self._missing: dict[str, str] = {}
        self._sizes: dict[str, int] = {}
        self._chunks: dict[tuple[str, bytes], str] = {}
        self._rows: dict[bytes, str] = {}
        self.add(found)

    def add(self, found: Iterable[Fault]) -> None:
        """Take faults in."""
        for fault in found:
            self.all.append(fault)
            if fault.kind == MISSING:
                self._missing[fault.pack] = fault.reason
            elif fault.kind == SIZE:
                self._sizes[fault.pack] = fault.size
            elif fault.kind == CHUNK:
                self._chunks[fault.pack, fault.chunk] = fault.reason
            elif fault.kind in {ROW, UNRECORDED}:
                self._rows[fault.chunk] = fault.reason

    def packs(self) -> list[str]:
        """The packs that something is wrong with, each once."""
        return list(dict.fromkeys(fault.pack for fault in self.all))

    def reason(self, digest: bytes, location: Location | None) -> str | None:
        """Why a chunk that the index has there cannot be read; None when nothing is known against it."""
        if location is None:
            return self._rows.get(digest) or f"chunk {format_digest(digest)} is in no pack"
        pack = location.pack
        if (missing := self._missing.get(pack)) is not None:
            return missing
        if location.offset + location.length > self._sizes.get(pack, location.offset + location.length):
            return f"chunk {format_digest(digest)} lies beyond the end of pack {pack}"
        return self._chunks.get((pack, digest)) or self._rows.get(digest)

"""What a collection of garbage did, or would do: pure values."""

from __future__ import annotations

import msgspec


class Waiting(msgspec.Struct, frozen=True):
    """Who a collection waits for: a session that may rely on what was condemned, what it is for, and when it ends at the latest."""

    session: int
    kind: str
    until: float  # seconds since the epoch; it may be prolonged


class Collected(msgspec.Struct):
    """What was found and done; sizes are bytes of objects in the Store.

    ``deleted`` went, less ``written`` that repacking wrote: that is what became free. ``condemned`` packs go at the next collection
    that finds those ``waiting_for`` ended. Of a dry run all are what would be, and nothing has changed.
    """

    versions: int = 0  # that live, or are kept by who works with them
    chunks: int = 0  # alive, nodes too
    packs: int = 0  # with something alive
    size: int = 0  # of these
    deleted_packs: int = 0
    deleted: int = 0
    repacked_packs: int = 0
    written: int = 0
    condemned_packs: int = 0
    condemned: int = 0
    waiting_for: list[Waiting] = msgspec.field(default_factory=list)
    notes: list[str] = msgspec.field(default_factory=list)  # what could not be done, a line each
    dry_run: bool = False

    @property
    def freed(self) -> int:
        """Bytes that became free."""
        return self.deleted - self.written

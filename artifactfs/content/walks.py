"""Walks: small files that are read in the order in which they lie in packs, and how much of what follows is worth fetching.

Used by the fetched source. Any thread; ``_lock`` guards everything. Packs are written in path order, so a program that goes through a
tree (`tar`, `cp -r`, a data loader without shuffling) reads a pack from its first byte to its last. A read in any other order begins
a walk of one step each time, for which nothing is fetched ahead.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from artifactfs.model.records import Location

FIRST: Final = 512 << 10
"""Bytes fetched ahead once three files were read in order; doubled at each further fetch. Two in order come about by chance: of
files that are read shuffled, with 64 walks remembered, every 300th of 20,000."""
MOST: Final = 8 << 20
"""Bytes fetched ahead at most: the size of one request. Two of them are under way when half of one is used up."""
WALKS: Final = 64
"""Walks remembered: that many programs may go through trees side by side."""


class Walk:
    """Where a walk in one pack has come to."""

    __slots__ = ("ahead", "begun", "window")

    def __init__(self) -> None:
        self.begun = False  # two files were read in order
        self.window = 0  # bytes that were last fetched ahead
        self.ahead = 0  # offset up to which everything was asked for


class Walks:
    """Follows walks by where they would go on."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_next: OrderedDict[tuple[str, int], Walk] = OrderedDict()
        self._ended: OrderedDict[str, int] = OrderedDict()  # packs that a walk came to the end of, with its window

    def step(self, place: Location) -> tuple[int, int] | None:
        """Note that the chunk at a place was read; the range of its pack (begin, end) to fetch ahead now, if any."""
        pack, offset, end = place.pack, place.offset, place.offset + place.length
        with self._lock:
            walk = self._by_next.pop((pack, offset), None)
            if walk is None:
                if (pack, end) not in self._by_next:  # else the same file once more
                    self._begin(pack, offset, end)
                return None
            self._by_next[pack, end] = walk
            if not walk.begun:
                walk.begun = True
                return None
            if walk.window and end <= walk.ahead - walk.window // 2:
                return None
            walk.window = min(2 * walk.window, MOST) if walk.window else FIRST
            begin, walk.ahead = max(walk.ahead, end), max(walk.ahead, end) + walk.window
            return begin, walk.ahead

    def ended(self, pack: str) -> None:
        """A walk's range reached the end of a pack: the next one that begins in another pack goes on where it stopped."""
        with self._lock:
            self._ended[pack] = MOST
            if len(self._ended) > WALKS:
                self._ended.popitem(last=False)

    def _begin(self, pack: str, offset: int, end: int) -> None:
        walk = self._by_next[pack, end] = Walk()
        if offset == 0 and self._ended:
            self._ended.popitem(last=False)
            walk.begun = True
            walk.window = MOST // 2
            walk.ahead = end
        if len(self._by_next) > WALKS:
            self._by_next.popitem(last=False)

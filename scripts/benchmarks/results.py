"""What was measured, as values: rows of two sides, and single facts."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median
from typing import Any

RATIO = "ratio"  # the mount's seconds over the local disk's; the goal is a ratio
SECONDS = "seconds"  # no local counterpart; the goal is seconds
NETWORK = "network-"  # how the ids begin of what is measured through the relay
DIFFERENCE = "difference"  # the mount's seconds minus those of the other side; the goal is seconds


@dataclass
class Row:
    """One line of the table: the seconds of each repeat, on the local disk (or what else it is set against) and on ours."""

    id: str
    work: str
    data: str = ""
    goal: float | None = None
    measure: str = RATIO
    local: list[float] = field(default_factory=list)
    ours: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)  # seconds of the daemon's processor time
    peer: list[float] = field(default_factory=list)  # the same work with another program of our kind

    def add(self, local: float | None, ours: float, processor: float | None = None) -> None:
        """One repeat."""
        if local is not None:
            self.local.append(local)
        self.ours.append(ours)
        if processor is not None:
            self.processor.append(processor)

    @property
    def values(self) -> list[float]:
        """What the goal is about, of each repeat."""
        if self.measure == SECONDS:
            return self.ours
        pairs = zip(self.local, self.ours, strict=True)
        return [ours / local if self.measure == RATIO else ours - local for local, ours in pairs]

    def as_json(self) -> dict[str, Any]:
        """All of it, with what follows from it."""
        value = median(self.values)
        return {
            "id": self.id,
            "work": self.work,
            "data": self.data,
            "measure": self.measure,
            "local": self.local,
            "ours": self.ours,
            "processor": self.processor,
            "peer": self.peer,
            "value": value,
            "low": min(self.values),
            "high": max(self.values),
            "goal": self.goal,
            "met": None if self.goal is None else value <= self.goal,
            "ahead": median(self.ours) < median(self.peer) if self.peer else None,
        }


@dataclass
class Fact:
    """One number that is no time: bytes, requests, memory. ``limit``: at most so much."""

    id: str
    what: str
    value: float
    unit: str
    limit: float | None = None
    note: str = ""

    def as_json(self) -> dict[str, Any]:
        """All of it."""
        return {
            "id": self.id,
            "what": self.what,
            "value": self.value,
            "unit": self.unit,
            "limit": self.limit,
            "met": None if self.limit is None else self.value <= self.limit,
            "note": self.note,
        }


Result = Row | Fact

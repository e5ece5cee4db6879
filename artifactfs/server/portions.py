"""Portions: as many records as one answer holds, where there may be any number of them.

Used by the routes that search and list; clients ask again for what is behind. Pure functions, safe from any thread.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, TypeVar

from artifactfs.remote.wire import MESSAGE_LIMIT, RECORDS, encode

PORTION: Final = MESSAGE_LIMIT // 4
"""Encoded bytes of records from which an answer ends. One record may be nearly as large as a message, and then goes alone."""

_LARGEST: Final = 2**63 - 1

T = TypeVar("T")


def bound(limit: int | None) -> int:
    """How many records to look for. What cannot be a limit stays as it is, for the registry to refuse."""
    if limit is None:
        return RECORDS
    return min(limit, RECORDS) if limit <= _LARGEST else limit


def portion(records: Sequence[T]) -> list[T]:
    """The first of some records, as many as fit: one at least. Sizing one takes 2 us."""
    return list(records[: fitting(len(encode(record)) for record in records)])


def fitting(sizes: Iterable[int]) -> int:
    """How many of some encoded sizes fit together: one at least, unless there is none."""
    count = total = 0
    for size in sizes:
        total += size
        if count and total > PORTION:
            break
        count += 1
    return count

"""Re-chunking: the chunk list of a changed large file, reading only what may be cut differently.

Used by the writer for commits from staging. Pure: bytes come from a callable. Safe from any thread.

The result is the same as cutting the whole file. It rests on two facts about the cutter: nothing before a boundary
matters for what follows it, and a chunk that ends before the end of the file depends on no byte past its end plus
``LOOKAHEAD``. So a chunk of the base is kept when it begins at a boundary of both files and nothing in it or in these
few bytes behind it changed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from artifactfs.content.chunks import LOOKAHEAD, Cutter
from artifactfs.errors import Conflict

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from artifactfs.model.sequence import Piece

ReadAt = Callable[[int, int], bytes | memoryview]
"""``read(offset, length)``: exactly these bytes of the changed file."""


def recut(
    base: Sequence[Piece], size: int, changed: Iterable[tuple[int, int]], read: ReadAt, cutter: Cutter
) -> Iterator[Piece | memoryview]:
    """Kept pieces of the base and the bytes of new chunks, in order, of a file of ``size`` bytes.

    ``base`` is the whole list of a file that the same cutter cut; ``changed`` are the half-open ranges of offsets whose
    bytes may differ from it (in any order, overlapping or past the end as they come). Raises Conflict when ``read``
    comes short.
    """
    starts = [0]
    for piece in base:
        starts.append(starts[-1] + piece.size)
    extents = _extents(changed, size, starts[-1])
    extent = 0

    def unchanged(index: int) -> bool:
        nonlocal extent
        while extent < len(extents) and extents[extent][1] <= starts[index]:
            extent += 1
        return extent == len(extents) or extents[extent][0] >= starts[index + 1] + LOOKAHEAD

    index = position = 0
    while position < size:
        while index < len(base) and unchanged(index):
            yield base[index]
            index += 1
        position = starts[index]
        window = 2 * cutter.maximum  # at first: most changes are small and end within a chunk or two
        meeting = False
        while position < size and not meeting:
            length = min(window, size - position)
            data = memoryview(read(position, length))
            if len(data) != length:
                raise Conflict(
                    f"the file changed while it was stored: {len(data)} of {length} bytes at {position}; try again"
                )
            begin = position
            for start, end in cutter.cut(data, final=begin + length == size):
                yield data[start:end]
                position = begin + end
                while index < len(base) and starts[index] < position:
                    index += 1
                if index < len(base) and starts[index] == position and unchanged(index):
                    meeting = True
                    break
            # What was read and not cut is read again: at most one chunk in four.
            window = 4 * cutter.maximum


def _extents(changed: Iterable[tuple[int, int]], size: int, base_size: int) -> list[tuple[int, int]]:
    """Rising ranges that do not overlap. Where the sizes differ, all from the shorter end on is changed."""
    ranges = [(start, min(end, size)) for start, end in changed if start < min(end, size)]
    if size != base_size:
        ranges.append((min(size, base_size), size + 1))
    merged: list[tuple[int, int]] = []
    for start, end in sorted(ranges):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from artifactfs.content.chunks import LOOKAHEAD, Cutter
from artifactfs.content.rechunk import recut
from artifactfs.errors import Conflict
from artifactfs.model.digest import DATA, digest
from artifactfs.model.sequence import Piece
from tests.content.stores import noise

CUTTER = Cutter(minimum=64, average=256, maximum=1024)


def cut(data: bytes) -> list[Piece]:
    return [Piece(digest(DATA, data[a:b]), b - a) for a, b in CUTTER.cut(data, final=True)]


class Reading:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.ranges: list[tuple[int, int]] = []

    def __call__(self, offset: int, length: int) -> bytes:
        self.ranges.append((offset, offset + length))
        return self.data[offset : offset + length]


def recut_pieces(base: list[Piece], data: bytes, changed: list[tuple[int, int]], read=None) -> list[Piece]:
    parts = recut(base, len(data), changed, read or Reading(data), CUTTER)
    return [part if isinstance(part, Piece) else Piece(digest(DATA, part), len(part)) for part in parts]


def edited(data: bytes, edits: list[tuple[int, int, int]], size: int) -> tuple[bytes, list[tuple[int, int]]]:
    """The bytes after edits (offset, length, seed) and a change of size, and the ranges that they touched."""
    new = bytearray(data)
    changed = []
    for offset, length, seed in edits:
        end = min(offset + length, len(new))
        if offset < end:
            new[offset:end] = noise(seed, end - offset)
            changed.append((offset, end))
    if size > len(new):
        changed.append((len(new), size))
        new += noise(size, size - len(new))
    return bytes(new[:size]), changed


@st.composite
def histories(draw):
    data = noise(draw(st.integers(0, 1 << 20)), draw(st.integers(0, 12_000)))
    zeros = draw(st.integers(0, 5000))  # chunks of the largest size
    data = data[:4000] + bytes(zeros) + data[4000:]
    # At a boundary and beside it are the places where a mistake would hide.
    ends = [0]
    for piece in cut(data):
        ends.append(ends[-1] + piece.size)
    near_boundary = st.builds(lambda end, by: max(0, end + by), st.sampled_from(ends), st.integers(-3, 3))
    anywhere = st.integers(0, len(data) + 100)
    places = st.one_of(near_boundary, anywhere)
    lengths = st.one_of(st.integers(1, 3), st.integers(1, 3000))
    edits = draw(st.lists(st.tuples(places, lengths, st.integers(0, 1 << 20)), max_size=6))
    size = draw(st.one_of(st.just(len(data)), places, st.integers(len(data), len(data) + 4000)))
    return data, edits, size


@settings(max_examples=600)
@given(histories())
@example((noise(1, 5000), [], 5000))
@example((b"", [], 3000))
@example((noise(1, 5000), [], 0))
def test_the_result_is_that_of_cutting_the_whole(history):
    data, edits, size = history
    new, changed = edited(data, edits, size)
    assert recut_pieces(cut(data), new, changed) == cut(new)


def test_every_single_byte_and_every_size_near_every_boundary():
    data = noise(7, 3000) + bytes(1500) + noise(8, 1500)
    base = cut(data)
    end = 0
    for piece in base:
        end += piece.size
        for position in range(max(0, end - LOOKAHEAD - 2), end + LOOKAHEAD + 2):
            if position < len(data):
                for flip in (0x01, 0xFF):
                    new = bytearray(data)
                    new[position] ^= flip
                    assert recut_pieces(base, bytes(new), [(position, position + 1)]) == cut(bytes(new)), position
            shorter = data[:position]
            assert recut_pieces(base, shorter, []) == cut(shorter), position
            longer = data + noise(position, position % 7)
            assert recut_pieces(base, longer, []) == cut(longer), position


def test_nothing_changed_reads_nothing():
    data = noise(1, 50_000)
    reading = Reading(data)
    assert recut_pieces(cut(data), data, [], reading) == cut(data)
    assert reading.ranges == []


def test_one_byte_reads_a_few_chunks_around_it():
    data = noise(1, 1_000_000)
    new, changed = edited(data, [(500_000, 1, 3)], len(data))
    reading = Reading(new)
    assert recut_pieces(cut(data), new, changed, reading) == cut(new)
    assert sum(end - begin for begin, end in reading.ranges) <= 8 * CUTTER.maximum
    assert min(begin for begin, _ in reading.ranges) >= 500_000 - CUTTER.maximum


def test_an_append_reads_the_last_chunk_and_what_was_appended():
    data = noise(1, 1_000_000)
    new, changed = edited(data, [], len(data) + 100)
    reading = Reading(new)
    assert recut_pieces(cut(data), new, changed, reading) == cut(new)
    assert sum(end - begin for begin, end in reading.ranges) <= CUTTER.maximum + 100 + LOOKAHEAD


def test_overlapping_and_unordered_ranges_and_ranges_past_the_end_are_understood():
    data = noise(1, 20_000)
    new, _ = edited(data, [(5000, 100, 2), (15_000, 10, 3)], len(data))
    changed = [(15_000, 40_000), (5050, 5100), (4990, 5060), (30_000, 30_001), (7, 7), (9, 3)]
    assert recut_pieces(cut(data), new, changed) == cut(new)


def test_a_short_read_is_a_conflict():
    data = noise(1, 20_000)
    with pytest.raises(Conflict, match="changed while"):
        recut_pieces(cut(data), data, [(5000, 5001)], lambda offset, length: data[offset : offset + length - 1])

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyfastcdc.py import FastCDC as PurePython

from artifactfs.content import chunks
from artifactfs.content.chunks import Cutter
from artifactfs.model.digest import DATA, digest
from tests.content.stores import noise

SMALL = {"minimum": 64, "average": 256, "maximum": 1024}


def whole(cutter: Cutter, data: bytes) -> list[tuple[int, int]]:
    return list(cutter.cut(data, final=True))


def stream(cutter: Cutter, data: bytes, sizes: list[int]) -> list[tuple[int, int]]:
    """Cut what comes in pieces of these sizes, keeping what could not be cut yet."""
    source = io.BytesIO(data)
    found = []
    at = 0
    buffer = b""
    turn = 0
    while part := source.read(sizes[turn % len(sizes)]):
        turn += 1
        buffer += part
        end = 0
        for begin, end in cutter.cut(buffer, final=False):
            found.append((at + begin, at + end))
        at += end
        buffer = buffer[end:]
    found += [(at + begin, at + end) for begin, end in cutter.cut(buffer, final=True)]
    return found


GOLDEN = [
    # end of chunk, first 8 bytes of its digest: format 1, for noise(1, 12 MiB)
    (1_217_099, "0ebdf59924cdbe26"),
    (3_621_694, "eaa6247a68596e52"),
    (4_758_601, "f687f81d05570872"),
    (7_376_231, "957b330fff1bdc0d"),
    (8_242_749, "7f887ac9ca3e1d83"),
    (9_118_553, "5dc18274b95befdf"),
    (10_681_609, "cf38228b1bf36a38"),
    (11_942_113, "d0688ef74746868f"),
    (12_382_736, "7fb66f31a9317f05"),
    (12_582_912, "0c99fb5daad2341d"),
]
GOLDEN_ZEROS = [4_194_304, 8_388_608, 10_485_760]


def test_boundaries_and_digests_of_format_1():
    data = noise(1, 12 << 20)
    found = [(end, digest(DATA, data[begin:end])[:8].hex()) for begin, end in whole(Cutter(), data)]
    assert found == GOLDEN


def test_boundaries_of_format_1_in_bytes_without_entropy():
    data = bytes(10 << 20)
    assert [end for _, end in whole(Cutter(), data)] == GOLDEN_ZEROS


def test_the_constants_are_those_of_format_1():
    assert (chunks.MINIMUM, chunks.AVERAGE, chunks.MAXIMUM) == (262_144, 1_048_576, 4_194_304)


def test_the_compiled_chunker_is_in_use():
    assert chunks.accelerated()


def test_the_slow_fallback_is_told(monkeypatch):
    monkeypatch.setattr(chunks, "FastCDC", PurePython)
    assert not chunks.accelerated()
    data = noise(2, 20_000)
    slow = whole(Cutter(**SMALL), data)
    monkeypatch.undo()
    assert slow == whole(Cutter(**SMALL), data)


@pytest.mark.parametrize("size", [0, 1, 63, 64, 65, 255, 1023, 1024, 1025, 5000])
def test_chunks_cover_the_bytes_and_keep_their_bounds(size):
    cuts = whole(Cutter(**SMALL), noise(3, size))
    assert [begin for begin, _ in cuts] == [0, *(end for _, end in cuts)][: len(cuts)]
    assert (cuts[-1][1] if cuts else 0) == size
    assert all(64 <= end - begin <= 1024 for begin, end in cuts[:-1])


@given(
    seed=st.integers(0, 1 << 30),
    size=st.integers(0, 20_000),
    zeros=st.integers(0, 6000),
    sizes=st.lists(st.integers(1, 4000), min_size=1, max_size=8),
)
def test_a_stream_is_cut_as_the_whole_whatever_the_reads(seed, size, zeros, sizes):
    data = noise(seed, size)
    data = data[: size // 2] + bytes(zeros) + data[size // 2 :]
    cutter = Cutter(**SMALL)
    assert stream(cutter, data, sizes) == whole(cutter, data)


def test_a_stream_is_cut_as_the_whole_with_the_constants_of_format_1():
    data = noise(4, 9 << 20) + bytes(9 << 20) + noise(5, 1 << 20)
    cutter = Cutter()
    assert stream(cutter, data, [1 << 20, 3_000_001, 12 << 20]) == whole(cutter, data)

from __future__ import annotations

import random
import struct

import pytest
import zstandard
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from artifactfs.content.pack import (
    PackUpload,
    decode_index,
    encode_index,
    index_key,
    pack_key,
    rebuild_rows,
    seal,
    unseal,
)
from artifactfs.errors import Access, Format, Integrity, NotFound
from artifactfs.model.digest import CHUNKS, DATA, TREE, digest
from artifactfs.model.records import FLAG_ENCRYPTED, FLAG_ZSTD, KIND_SHIFT, ChunkRow, PackRow
from tests.conformance.store import put
from tests.content.stores import noise

CHUNKS_OF_A_PACK = [(DATA, noise(1, 1000)), (TREE, b"node " * 100), (CHUNKS, noise(2, 33)), (DATA, b"x" * 5000)]


def write_pack(store) -> PackRow:
    upload = PackUpload(store)
    for kind, data in CHUNKS_OF_A_PACK:
        stored, flags = seal(data)
        upload.append(digest(kind, data), len(data), stored, flags | kind << KIND_SHIFT)
    return upload.publish()


def resign(data: bytes) -> bytes:
    """With a right checksum, so that what lies behind it is tried."""
    return data[:-32] + blake3(data[:-32]).digest()


def test_a_pack_is_its_chunks_and_nothing_else_and_named_by_its_bytes(store):
    row = write_pack(store)
    data = store.read(pack_key(row.digest), 0, row.size)
    assert blake3(data).hexdigest() == row.digest
    assert store.size(pack_key(row.digest)) == row.size == sum(chunk.length for chunk in row.chunks)
    for chunk, (kind, plain) in zip(row.chunks, CHUNKS_OF_A_PACK, strict=True):
        assert unseal(data[chunk.offset : chunk.offset + chunk.length], chunk) == plain
        assert chunk.digest == digest(kind, plain)
        assert chunk.flags >> KIND_SHIFT == kind


def test_the_table_of_contents_gives_back_the_rows(store):
    row = write_pack(store)
    assert rebuild_rows(store, row.digest) == row


def test_an_aborted_pack_leaves_nothing(store):
    upload = PackUpload(store)
    upload.append(digest(DATA, b"x"), 1, b"x", 0)
    upload.abort()
    upload.abort()
    assert list(store.list()) == []


def test_rebuilding_needs_both_objects_of_one_pack(store):
    row = write_pack(store)
    with pytest.raises(NotFound):
        rebuild_rows(store, "00" * 32)
    other = PackRow("00" * 32, row.size, row.chunks)
    put(store, index_key(other.digest), encode_index(row))
    put(store, pack_key(other.digest), bytes(row.size))
    with pytest.raises(Integrity, match="not the table of contents of its pack"):
        rebuild_rows(store, other.digest)
    store.delete(pack_key(row.digest))
    with pytest.raises(NotFound):
        rebuild_rows(store, row.digest)
    put(store, pack_key(row.digest), bytes(row.size - 1))
    with pytest.raises(Integrity):
        rebuild_rows(store, row.digest)


def test_the_bytes_of_format_1():
    row = PackRow(
        "ab" * 32,
        0x0102,
        (
            ChunkRow(b"\x11" * 32, 0, 0x0100, 0x0100, 0),
            ChunkRow(b"\x22" * 32, 0x0100, 2, 0x01020304, FLAG_ZSTD | 1 << KIND_SHIFT),
        ),
    )
    body = bytes.fromhex(
        "41465349 0100 3400 0201000000000000 0200000000000000" + "ab" * 32 +
        "11" * 32 + "0000000000000000 00010000 00010000 00 000000" +
        "22" * 32 + "0001000000000000 02000000 04030201 11 000000"
    )  # fmt: skip
    assert encode_index(row) == body + blake3(body).digest()
    assert decode_index(encode_index(row)) == row


@given(lengths=st.lists(st.integers(1, 1 << 22), max_size=50), seed=st.integers(0, 1 << 30))
def test_any_table_of_contents_is_read_back(lengths, seed):
    chance = random.Random(seed)
    offset = 0
    rows = []
    for length in lengths:
        flags = chance.choice([0, FLAG_ZSTD, FLAG_ENCRYPTED]) | chance.randrange(3) << KIND_SHIFT
        rows.append(ChunkRow(chance.randbytes(32), offset, length, chance.randrange(1, 1 << 22), flags))
        offset += length
    row = PackRow(chance.randbytes(32).hex(), offset, tuple(rows))
    assert decode_index(encode_index(row)) == row


@given(data=st.binary(max_size=300))
def test_any_bytes_are_refused_cleanly(data):
    with pytest.raises(Integrity):
        decode_index(data)


def test_any_flipped_byte_and_any_truncation_is_refused(store):
    data = encode_index(write_pack(store))
    for position in range(len(data)):
        damaged = bytearray(data)
        damaged[position] ^= 0x40
        with pytest.raises((Integrity, Format)):
            decode_index(bytes(damaged))
        with pytest.raises(Integrity):
            decode_index(data[:position])
    with pytest.raises(Integrity):
        decode_index(data + b"\0")


def patched(data: bytes, offset: int, code: str, value: int) -> bytes:
    changed = bytearray(data)
    struct.pack_into(code, changed, offset, value)
    return resign(bytes(changed))


@pytest.mark.parametrize(
    ("offset", "code", "value", "kind"),
    [
        (4, "<H", 3, Format),  # a newer format
        (4, "<H", 2, Access),  # as if it were sealed
        (6, "<H", 56, Integrity),  # bytes per entry
        (8, "<Q", 1, Integrity),  # bytes of the pack
        (16, "<Q", 1 << 60, Integrity),  # number of entries
        (16, "<Q", 3, Integrity),
        (56 + 32, "<Q", 7, Integrity),  # offset of the first entry: a gap
        (56 + 40, "<I", 0, Integrity),  # stored bytes
        (56 + 44, "<I", 0, Integrity),  # plain bytes
        (56 + 48, "<B", 0x80, Format),  # an unknown flag
        (56 + 48, "<B", 0x30, Integrity),  # an unknown kind
        (56 + 49, "<B", 1, Format),  # padding
    ],
)
def test_a_wrong_field_is_refused_behind_a_right_checksum(store, offset, code, value, kind):
    data = encode_index(write_pack(store))
    with pytest.raises(kind):
        decode_index(patched(data, offset, code, value))


def test_a_chunk_is_compressed_only_where_the_whole_gains_a_quarter():
    for data, compressed in [
        (b"a" * 1000, True),
        (noise(1, 100_000), False),
        (noise(1, 60_000) + bytes(40_000), True),  # gains 1.67
        (noise(1, 90_000) + bytes(10_000), False),  # gains 1.11
        (noise(1, 1 << 20) + bytes(1 << 20), True),  # a probe of the beginning would misjudge it
        (b"x", False),
    ]:
        stored, flags = seal(data)
        assert flags == (FLAG_ZSTD if compressed else 0)
        assert (stored is data) is not compressed
        assert unseal(bytes(stored), ChunkRow(b"", 0, len(stored), len(data), flags)) == data


def test_a_stored_chunk_that_cannot_be_is_an_integrity_error():
    frame = zstandard.ZstdCompressor(level=1).compress(b"a" * 1000)
    bomb = zstandard.ZstdCompressor(level=1).compress(bytes(100 << 20))
    for stored, size, flags in [
        (b"12345", 4, 0),
        (b"123", 4, 0),
        (b"not a frame at all", 1000, FLAG_ZSTD),
        (frame[:-3], 1000, FLAG_ZSTD),
        (frame + b"x", 1000, FLAG_ZSTD),
        (frame, 999, FLAG_ZSTD),
        (bomb, 1000, FLAG_ZSTD),
        (b"", 1000, FLAG_ZSTD),
    ]:
        with pytest.raises(Integrity):
            unseal(stored, ChunkRow(b"", 0, len(stored), size, flags))


def test_an_encrypted_chunk_is_told_apart_from_a_damaged_one():
    with pytest.raises(Access, match="is sealed, and its key is not here"):
        unseal(b"1234", ChunkRow(b"", 0, 4, 4, FLAG_ENCRYPTED))

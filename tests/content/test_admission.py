"""An uploaded pack is what its rows say, or it is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
import zstandard
from blake3 import blake3

from artifactfs.content.admission import check_upload
from artifactfs.content.local import LocalStore
from artifactfs.content.pack import encode_index, index_key, pack_key
from artifactfs.errors import Integrity, InvalidInput
from artifactfs.model.digest import CHUNKS, DATA, TREE, digest
from artifactfs.model.records import FLAG_ENCRYPTED, FLAG_ZSTD, KIND_SHIFT, ChunkRow, PackRow
from tests.conformance.packs import packed
from tests.conformance.store import put


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LocalStore]:
    opened = LocalStore(tmp_path / "store", create=True)
    yield opened
    opened.close()


@pytest.fixture
def stored(store: LocalStore) -> Callable[..., PackRow]:
    """``stored(*texts)``: a pack of these chunks that was uploaded."""

    def make(*texts: object, kind: int = DATA) -> PackRow:
        pack, data = packed(*texts, kind=kind)
        put(store, pack_key(pack.digest), data)
        return pack

    return make


def with_row(pack: PackRow, index: int, **changes: object) -> PackRow:
    rows = list(pack.chunks)
    rows[index] = msgspec.structs.replace(rows[index], **changes)
    return msgspec.structs.replace(pack, chunks=tuple(rows))


@pytest.mark.parametrize("kind", [DATA, TREE, CHUNKS])
def test_a_pack_of_what_it_says_is_accepted(store, stored, kind):
    check_upload(store, stored("a", "b", "c", kind=kind))


def test_raw_chunks_are_accepted(store):
    data = bytes(range(256))
    pack = PackRow(blake3(data).hexdigest(), 256, (ChunkRow(digest(DATA, data), 0, 256, 256, 0),))
    put(store, pack_key(pack.digest), data)
    check_upload(store, pack)


def test_a_pack_that_was_not_uploaded_is_refused(store):
    pack, _ = packed("a")
    with pytest.raises(InvalidInput, match=r"is not in the store; upload packs/.*\.pack first"):
        check_upload(store, pack)


def test_a_pack_of_another_size_is_refused(store, stored):
    pack = stored("a")
    with pytest.raises(InvalidInput, match=f"has {pack.size} bytes, not {pack.size + 1}"):
        check_upload(store, msgspec.structs.replace(pack, size=pack.size + 1))


@pytest.mark.parametrize("index", [0, 1, 2])
def test_one_wrong_digest_is_found_wherever_it_is(store, stored, index):
    pack = stored("a", "b", "c")
    row = pack.chunks[index]
    with pytest.raises(
        Integrity, match=f"the {row.length} bytes at {row.offset} of pack {pack.digest} are not the chunk"
    ):
        check_upload(store, with_row(pack, index, digest=digest(DATA, b"other")))


def test_a_chunk_of_another_kind_is_refused(store, stored):
    pack = stored("a")
    for kind in (TREE, CHUNKS):
        with pytest.raises(Integrity, match="are not the chunk"):
            check_upload(store, with_row(pack, 0, flags=pack.chunks[0].flags | kind << KIND_SHIFT))


def test_a_chunk_that_does_not_unpack_to_its_size_is_refused(store, stored):
    pack = stored("a", "b")
    for changes in ({"size": pack.chunks[1].size + 1}, {"flags": 0}, {"flags": 0, "size": pack.chunks[1].length}):
        with pytest.raises(Integrity, match="are not the chunk"):
            check_upload(store, with_row(pack, 1, **changes))


def test_a_frame_that_claims_to_be_enormous_is_not_unpacked(store):
    frame = zstandard.ZstdCompressor().compress(bytes(32 << 20))
    pack = PackRow(blake3(frame).hexdigest(), len(frame), (ChunkRow(bytes(32), 0, len(frame), 32 << 20, FLAG_ZSTD),))
    put(store, pack_key(pack.digest), frame)
    with pytest.raises(InvalidInput, match=f"cannot have {32 << 20} bytes; at most {4 << 20} are allowed"):
        check_upload(store, pack)
    node = with_row(pack, 0, flags=FLAG_ZSTD | TREE << KIND_SHIFT, size=1 << 40)
    with pytest.raises(InvalidInput, match=f"at most {64 << 20} are allowed"):
        check_upload(store, node)


def test_bytes_that_were_damaged_since_are_refused(store, stored):
    pack = stored("a", "b")
    file = store.path(pack_key(pack.digest))
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(Integrity):
        check_upload(store, pack)


def test_a_pack_under_a_name_that_is_not_its_own_is_refused(store, stored):
    pack, data = packed("a")
    other = msgspec.structs.replace(pack, digest=blake3(b"other").hexdigest())
    put(store, pack_key(other.digest), data)
    with pytest.raises(Integrity, match="does not have the bytes that its name says"):
        check_upload(store, other)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (lambda rows: rows[1:], "does not lie in pack .* at [0-9]+ instead of 0"),
        (lambda rows: rows[:1], "cover [0-9]+ of its [0-9]+ bytes"),
        (lambda rows: (rows[0], rows[0], rows[1]), "does not lie in pack"),
        (lambda rows: (rows[1], rows[0]), "does not lie in pack"),
        (lambda rows: (), "cover 0 of its"),
        (lambda rows: (msgspec.structs.replace(rows[0], flags=0x31), rows[1]), "unknown flags 0x31"),
        (lambda rows: (msgspec.structs.replace(rows[0], flags=0x41), rows[1]), "unknown flags 0x41"),
        (lambda rows: (msgspec.structs.replace(rows[0], size=0), rows[1]), "cannot have 0 bytes"),
    ],
)
def test_rows_that_break_the_format_are_refused(store, stored, changes, words):
    pack = stored("a", "b")
    with pytest.raises(InvalidInput, match=words):
        check_upload(store, msgspec.structs.replace(pack, chunks=changes(pack.chunks)))


def test_a_sealed_chunk_without_a_key_is_refused(store, stored):
    pack = stored("a")
    with pytest.raises(InvalidInput, match="is sealed without a key, or not sealed with one"):
        check_upload(store, with_row(pack, 0, flags=pack.chunks[0].flags | FLAG_ENCRYPTED))


def test_a_table_of_contents_that_tells_otherwise_is_refused(store, stored):
    pack = stored("a", "b")
    put(store, index_key(pack.digest), encode_index(with_row(pack, 1, digest=digest(DATA, b"other"))))
    with pytest.raises(Integrity, match=r"\.idx is not the table of contents of its pack"):
        check_upload(store, pack)
    store.delete(index_key(pack.digest))
    put(store, index_key(pack.digest), encode_index(pack))
    check_upload(store, pack)

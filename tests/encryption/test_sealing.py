"""Sealing: what was sealed comes back, and anything else does not; the bytes of the format stay as they are."""

from __future__ import annotations

import re

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from artifactfs import sealing
from artifactfs.content.pack import PackUpload, bare, decode_index, encode_index, seal, unseal
from artifactfs.errors import Access, Integrity, InvalidInput
from artifactfs.model.digest import DATA, TREE, digest
from artifactfs.model.records import FLAG_ENCRYPTED, FLAG_ZSTD, KIND_SHIFT, ChunkRow, Location, PackRow
from artifactfs.remote import wire
from tests.encryption.conftest import KEY

NAME = bytes(range(100, 132))
keys = st.binary(min_size=32, max_size=32)


@given(keys, st.integers(0, 2**63), keys, st.integers(0, 255), st.binary(max_size=5000))
def test_what_is_sealed_comes_back(key, offset, name, flags, data):
    sealed = sealing.seal(key, offset, name, flags, data)
    assert len(sealed) == len(data) + sealing.TAG_SIZE
    assert sealing.unseal(key, offset, name, flags, sealed) == data


@given(st.data(), keys, st.integers(0, 2**63), keys, st.integers(0, 255), st.binary(max_size=200))
def test_anything_else_does_not(data, key, offset, name, flags, plain):
    sealed = sealing.seal(key, offset, name, flags, plain)
    what = data.draw(st.sampled_from(["key", "offset", "name", "flags", "bytes", "short"]))
    if what == "key":
        key = data.draw(keys.filter(lambda other: other != key))
    elif what == "offset":
        offset = data.draw(st.integers(0, 2**63).filter(lambda other: other != offset))
    elif what == "name":
        name = data.draw(keys.filter(lambda other: other != name))
    elif what == "flags":
        flags ^= 1 << data.draw(st.integers(0, 7))
    elif what == "bytes":
        bit = data.draw(st.integers(0, 8 * len(sealed) - 1))
        sealed = (int.from_bytes(sealed) ^ 1 << bit).to_bytes(len(sealed))
    else:
        sealed = sealed[: data.draw(st.integers(0, len(sealed) - 1))]
    with pytest.raises(Integrity, match="damaged or tampered with"):
        sealing.unseal(key, offset, name, flags, sealed)


@given(keys, keys, st.text("abc-._", min_size=1, max_size=20), st.binary(min_size=32, max_size=32))
def test_a_data_key_comes_back_for_its_own_pack_of_its_own_project(project_key, key, project, pack):
    wrapped = sealing.wrap(project_key, project, pack.hex(), key)
    assert len(wrapped) == sealing.WRAPPED_SIZE
    assert sealing.unwrap(project_key, project, pack.hex(), wrapped) == key
    assert sealing.wrap(project_key, project, pack.hex(), key) != wrapped  # its nonce is random
    for others in (
        (sealing.new_key(), project, pack.hex(), wrapped),
        (project_key, project + "x", pack.hex(), wrapped),
        (project_key, project, bytes(32).hex() + "0", wrapped),
        (project_key, project, pack.hex(), wrapped[:-1]),
        (project_key, project, pack.hex(), wrapped[:-1] + bytes((wrapped[-1] ^ 1,))),
    ):
        with pytest.raises(Integrity):
            sealing.unwrap(*others)


def test_the_bytes_of_the_format():
    """As the first release with encryption wrote them."""
    assert sealing.key_id(KEY) == "d2b57f9a3addc07e"
    sealed = sealing.seal(KEY, 4096, NAME, FLAG_ENCRYPTED | FLAG_ZSTD, b"stored bytes")
    assert sealed.hex() == "a515a5ac2aa804ac5859d97c069a28ee7401edb1a30955c7bf427c80"
    row = ChunkRow(NAME, 0, 28, 12, FLAG_ENCRYPTED)
    table = encode_index(PackRow(bytes(32).hex(), 28, (row,), KEY))
    assert table[:56].hex() == "41465349020034001c000000000000000100000000000000" + bytes(32).hex()
    assert table[56:-32].hex() == (
        "5ee489ae08d2b4ade733c0be5c5fd13fc4a695658f3d459a4821c1b26c259dc6471344ecee4f7b7c4f2fc434376d7034d79f"
        "61d5e15b1153f6cb334aed4d8defde56e34b"
    )
    assert table[-32:] == blake3(table[:-32]).digest()
    wrapped = bytes.fromhex(
        "000102030405060708090a0b581ccb07deffdb039a57829fa2fb697d8cd88a38fb7156743f61e0811e6b01b26dbe058005bfe123df118027276d671e"
    )
    assert sealing.unwrap(KEY, "bikes", bytes(32).hex(), wrapped) == bytes(reversed(KEY))


class Collected:
    """A Store that keeps what is uploaded in memory."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}

    def upload(self) -> Collected:
        upload = Collected()
        upload.objects = self.objects
        upload.data = bytearray()
        return upload

    def write(self, data) -> None:
        self.data += data

    def publish(self, key: str) -> None:
        self.objects[key] = bytes(self.data)

    def abort(self) -> None:
        pass


def test_no_nonce_comes_twice_under_one_key(monkeypatch):
    used: list[tuple[bytes, bytes]] = []

    class Noting:
        def __init__(self, key: bytes) -> None:
            self.key = key
            self.real = cipher(key)

        def encrypt(self, nonce, data, additional):
            used.append((self.key, nonce))
            return self.real.encrypt(nonce, data, additional)

    cipher = sealing._cipher
    monkeypatch.setattr(sealing, "_cipher", Noting)
    for _ in range(2):
        upload = PackUpload(Collected(), sealed=True)
        for number in range(300):
            plain = b"%d " % number * (number % 7 + 1)
            stored, flags = seal(plain)
            upload.append(digest(DATA, plain), len(plain), stored, flags)
        upload.publish()
    assert len(used) == 602  # with the two tables
    assert len(set(used)) == 602
    assert len({key for key, _ in used}) == 2


def test_a_sealed_pack_is_opened_chunk_by_chunk_and_by_its_table():
    store = Collected()
    upload = PackUpload(store, sealed=True)
    chunks = [(DATA, b"text " * 500), (DATA, blake3(b"noise").digest(length=900)), (TREE, b"a node")]
    for kind, plain in chunks:
        stored, flags = seal(plain)
        taken = upload.append(digest(kind, plain), len(plain), stored, flags | kind << KIND_SHIFT)
        assert taken == len(stored) + sealing.TAG_SIZE
    pack = upload.publish()
    data, table = (store.objects[f"packs/{pack.digest[:2]}/{pack.digest}.{kind}"] for kind in ("pack", "idx"))
    assert blake3(data).hexdigest() == pack.digest
    assert decode_index(table, pack.key) == pack
    for (_, plain), row in zip(chunks, pack.chunks, strict=True):
        place = Location(pack.digest, row.offset, row.length, row.size, row.flags, pack.key)
        stored, shown = bare(data[row.offset : row.offset + row.length], place, row.digest)
        assert not shown.flags & FLAG_ENCRYPTED
        assert shown.length == len(stored) == row.length - sealing.TAG_SIZE
        assert unseal(stored, shown) == plain
        assert row.digest not in table
    with pytest.raises(Access, match="sealed, and its key is not here"):
        decode_index(table)
    with pytest.raises(Integrity, match="damaged or tampered with"):
        decode_index(table, sealing.new_key())
    for position in (24, 60, len(table) - 40):  # the header, an entry, the tag; with a right checksum
        forged = bytearray(table[:-32])
        forged[position] ^= 1
        with pytest.raises(Integrity):
            decode_index(bytes(forged) + blake3(forged).digest(), pack.key)


def test_no_text_of_a_value_shows_a_key():
    shown = re.compile(rf"{re.escape(repr(KEY)[2:20])}|{KEY.hex()}")
    place = Location("ab", 0, 1, 1, 2, KEY)
    row = PackRow("ab", 1, (), KEY)
    for value in (
        place, row, [place], {b"": place}, wire.NewPacks([row]), wire.to_places({b"": place}),
        wire.Nodes([], wire.to_places({b"": place})),
    ):  # fmt: skip
        assert shown.search(repr(value)) is None
        assert shown.search(str(value)) is None
    assert repr(place) == "Location(pack='ab', offset=0, length=1, size=1, flags=2)"
    assert all(name != "key" for name, _ in place.__rich_repr__())
    assert wire.from_places(wire.to_places({b"1": place})) == {b"1": place}


def test_a_key_of_another_length_is_refused():
    with pytest.raises(InvalidInput, match="a key has 32 bytes, not 31"):
        sealing.seal(KEY[1:], 0, NAME, 0, b"")

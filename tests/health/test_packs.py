"""Packs that repair meets elsewhere than in a plain directory: sealed ones, and those in a bucket. The index it writes."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from artifactfs.content.pack import index_key, pack_key
from artifactfs.content.store import Store
from artifactfs.content.writer import ContentWriter
from artifactfs.credentials import Credentials
from artifactfs.errors import Access
from artifactfs.health.examine import Examined, examine
from artifactfs.health.mend import QUARANTINE, adopt, mend_pack
from artifactfs.health.pace import Pace
from artifactfs.model.digest import DATA, digest
from artifactfs.model.records import PackRow
from artifactfs.registry.sql import SQLRegistry
from artifactfs.repository import Repository
from tests import s3
from tests.conformance.packs import chunk, content, packed
from tests.content.test_objects import opened, setenv

KEY = bytes(range(32))
PLAIN = [random.Random(number).randbytes(1000) for number in range(4)]


def look(store: Store, registry: SQLRegistry, row: PackRow) -> Examined:
    return examine(store, registry, row.digest, row.size, content=True, pace=Pace())


def replace(store: Store, key: str, data: bytes) -> None:
    store.delete(key)
    upload = store.upload()
    upload.write(data)
    upload.publish(key)


def flipped(store: Store, pack: PackRow, place: int) -> None:
    data = bytearray(store.read(pack_key(pack.digest), 0, pack.size))
    data[place] ^= 1
    replace(store, pack_key(pack.digest), bytes(data))


# -- sealed ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def registry(repository: Repository) -> SQLRegistry:
    assert isinstance(repository.registry, SQLRegistry)
    return repository.registry


@pytest.fixture
def encrypted(tmp_path: Path) -> Iterator[Repository]:
    with Repository.create(str(tmp_path / "encrypted"), credentials=Credentials(key=KEY.hex())) as made:
        made.registry.encrypt(KEY)
        yield made


def test_a_sealed_pack_is_mended_into_another_with_a_key_of_its_own(encrypted: Repository):
    registry, store = encrypted.registry, encrypted.store
    assert isinstance(registry, SQLRegistry)
    names = [digest(DATA, plain) for plain in PLAIN]
    with ContentWriter(store, registry, session=None) as writer:
        for name, plain in zip(names, PLAIN, strict=True):
            writer.add_chunk(name, plain, DATA)
    ((pack, size),) = registry.packs()
    row = PackRow(pack, size, registry.pack_rows(pack), registry.data_key(pack))
    assert look(store, registry, row).faults == []
    flipped(store, row, row.chunks[2].offset + 5)
    assert [fault.chunk for fault in look(store, registry, row).faults] == [names[2]]
    mended = mend_pack(store, registry, pack, size, Pace())
    assert mended is not None
    assert (mended.kept, mended.lost) == (3, 1)
    ((new, _),) = registry.packs()
    assert registry.data_key(new) != row.key
    assert registry.missing(names) == {names[2]}
    for name, plain in zip(names, PLAIN, strict=True):
        if name != names[2]:
            assert encrypted.reader.chunk(name, DATA) == plain


def test_a_sealed_table_is_written_anew_and_lost_rows_are_found_by_it(encrypted: Repository):
    registry, store = encrypted.registry, encrypted.store
    assert isinstance(registry, SQLRegistry)
    names = [digest(DATA, plain) for plain in PLAIN]
    with ContentWriter(store, registry, session=None) as writer:
        for name, plain in zip(names, PLAIN, strict=True):
            writer.add_chunk(name, plain, DATA)
    ((pack, size),) = registry.packs()
    table = store.read(index_key(pack), 0, store.size(index_key(pack)))
    registry.settle_packs([], lost=names[:2], without=[pack])
    assert adopt(store, registry, dict.fromkeys(names[:2], DATA), Pace()) == set(names[:2])
    assert registry.missing(names) == set()
    replace(store, index_key(pack), table[:-1] + bytes([table[-1] ^ 1]))
    mended = mend_pack(store, registry, pack, size, Pace())
    assert mended is not None
    assert (mended.kept, mended.lost) == (4, 0)
    assert store.read(index_key(pack), 0, len(table)) == table


def test_without_the_projects_key_a_sealed_pack_cannot_be_checked(encrypted: Repository):
    with ContentWriter(encrypted.store, encrypted.registry, session=None) as writer:
        writer.add_chunk(digest(DATA, PLAIN[0]), PLAIN[0], DATA)
    ((pack, size),) = encrypted.registry.packs()
    with Repository.open(encrypted.location) as keyless:
        assert isinstance(keyless.registry, SQLRegistry)
        with pytest.raises(Access, match="encrypted with the key"):
            examine(keyless.store, keyless.registry, pack, size, content=True, pace=Pace())


# -- in a bucket -------------------------------------------------------------------------------------------------------


@pytest.fixture
def bucket(moto: s3.Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    setenv(monkeypatch, moto.endpoint)
    stores = opened("health", tmp_path / "spool", seconds=20)
    yield stores.of_project("default")
    stores.close()


def test_a_pack_in_a_bucket_is_mended(bucket: Store, registry: SQLRegistry):
    names = [digest(DATA, plain) for plain in PLAIN]
    with ContentWriter(bucket, registry, session=None) as writer:
        for name, plain in zip(names, PLAIN, strict=True):
            writer.add_chunk(name, plain, DATA)
    ((pack, size),) = registry.packs()
    row = PackRow(pack, size, registry.pack_rows(pack))
    assert look(bucket, registry, row).faults == []
    flipped(bucket, row, row.chunks[2].offset + 5)
    assert [fault.chunk for fault in look(bucket, registry, row).faults] == [names[2]]
    mended = mend_pack(bucket, registry, pack, size, Pace())
    assert mended is not None
    assert (mended.kept, mended.lost) == (3, 1)
    places = registry.locate(names)
    assert set(places) == set(names) - {names[2]}
    (new,) = registry.packs()
    assert {place.pack for place in places.values()} == {new[0]}
    assert sorted(key for key, _ in bucket.list()) == sorted(
        [pack_key(new[0]), index_key(new[0]), QUARANTINE + pack_key(pack), QUARANTINE + index_key(pack)]
    )
    assert mend_pack(bucket, registry, *new, Pace()) is None


# -- the index ---------------------------------------------------------------------------------------------------------


def test_chunks_move_and_lost_ones_go_in_one_transaction(registry: SQLRegistry):
    old, _ = packed("a", "b", "c")
    new, _ = packed("a", "c")
    registry.add_packs([old])
    assert registry.pack_rows(old.digest) == old.chunks
    for _ in range(2):  # repeating it changes nothing
        registry.settle_packs([new], lost=[chunk("b")], without=[old.digest])
        assert registry.packs() == [(new.digest, new.size)]
        assert registry.pack_rows(new.digest) == new.chunks
        assert registry.missing([chunk("a"), chunk("b"), chunk("c")]) == {chunk("b")}
    assert registry.pack_rows(old.digest) == ()


def test_a_pack_that_still_has_chunks_stays(registry: SQLRegistry):
    old, _ = packed("a", "b", "c")
    registry.add_packs([old])
    registry.settle_packs([], lost=[chunk("b")], without=[old.digest])
    assert registry.packs() == [(old.digest, old.size)]
    assert registry.missing([chunk("a"), chunk("b")]) == {chunk("b")}


def test_a_lost_chunk_that_lies_elsewhere_meanwhile_stays(registry: SQLRegistry):
    old, _ = packed("a")
    other, _ = packed("b", content("b"))
    registry.add_packs([old, other])
    registry.settle_packs([], lost=[chunk("b")], without=[old.digest])
    assert registry.missing([chunk("b")]) == set()


def test_other_projects_are_not_touched(registry: SQLRegistry):
    row, _ = packed("a", "b")
    other = registry.of_project("other")
    for each in (registry, other):
        each.add_packs([row])
    registry.settle_packs([], lost=[chunk("a"), chunk("b")], without=[row.digest])
    assert registry.packs() == []
    assert other.packs() == [(row.digest, row.size)]
    assert other.pack_rows(row.digest) == row.chunks

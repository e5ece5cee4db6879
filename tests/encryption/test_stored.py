"""Encrypted repositories in a directory: what is stored tells nothing, and whatever was tampered with is told, never served."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from blake3 import blake3

from artifactfs import sealing
from artifactfs.content.pack import encode_index, index_key, pack_key, rebuild_rows
from artifactfs.content.stored import StoredSource
from artifactfs.errors import Access, Conflict, Integrity, InvalidInput
from artifactfs.model.digest import DATA, TREE
from artifactfs.model.records import FLAG_ENCRYPTED, PackRow
from artifactfs.repository import Repository
from artifactfs.transfer import copy
from artifactfs.upkeep import verify
from tests.conformance.packs import packed
from tests.conftest import TESTS
from tests.encryption.conftest import (
    KEY,
    LARGE,
    NOISE,
    TEXT,
    credentials,
    encrypted,
    found_below,
    traces,
)
from tests.transfer.sides import contents, put

ID = sealing.key_id(KEY)


def reopened(repository: Repository, key: bytes | None = KEY) -> Repository:
    return Repository.open(repository.location, project=repository.project, credentials=credentials(key))


def packs_below(repository: Repository) -> dict[str, bytes]:
    store = Path(repository.location, "store", repository.project)
    return {str(path.relative_to(store)): path.read_bytes() for path in store.rglob("*") if path.is_file()}


def test_what_is_put_comes_back_and_is_found_nowhere_in_the_store(repository, files, tmp_path):
    version = put(repository, files)
    stored = Path(repository.location, "store")
    assert len(list(stored.rglob("*.pack"))) == 2
    assert len(list(stored.rglob("*.idx"))) == 2
    assert found_below(stored) == []
    with reopened(repository) as again:
        assert contents(again, version, tmp_path / "out")["large.bin"][0] == LARGE
        assert (tmp_path / "out/noise.bin").read_bytes() == NOISE
        assert verify(again, [version]).damages == []
        assert again.registry.check() == []
        # It is stored compressed, and then sealed.
        place = again.registry.locate([blake3(TEXT).digest()])[blake3(TEXT).digest()]
        assert place.flags & FLAG_ENCRYPTED
        assert place.length < len(TEXT) / 20


def test_the_search_finds_what_is_not_encrypted(files, tmp_path):
    with Repository.create(str(tmp_path / "plain")) as plain:
        put(plain, files)
    kinds = {line.partition(" in /")[0] for line in found_below(tmp_path / "plain/store")}
    assert kinds == traces().keys() - {"the key"}


def test_nothing_plain_is_written_while_an_upload_is_under_way(repository, files):
    """Temporary files have names only while they are written; here they are looked at through the process's own descriptors."""
    with repository.writing("put") as writing:
        writing.writer.add_bytes(TEXT)
        writing.writer.add_bytes(NOISE)
        writing.writer.add_bytes(LARGE)
        writing.writer.add_node(TREE, b"\x93\x01" + b"name-of-a-patient.txt" * 3)
        writing.writer.add_bytes(os.urandom(40 << 20))  # pushes what is before it out of the buffers
        temporary = Path(repository.location, "store", repository.project, "tmp")
        assert sum(path.stat().st_size for path in temporary.iterdir()) > 9 << 20
        assert found_below(temporary) == []
        assert found_below(Path(repository.location, "store")) == []


def test_each_pack_has_a_key_of_its_own_and_the_registry_none_in_plain(repository, files):
    put(repository, files)
    with closing(sqlite3.connect(Path(repository.location, "registry.db"))) as database:
        wrapped = dict(database.execute("SELECT digest, wrapped_key FROM pack").fetchall())
    names = [digest for digest, _ in repository.registry.packs()]
    assert wrapped.keys() == set(names)
    keys = {digest: sealing.unwrap(KEY, "default", digest, wrapped[digest]) for digest in names}
    assert len(set(keys.values())) == len(names) > 1
    everything = b"".join(path.read_bytes() for path in Path(repository.location).rglob("*") if path.is_file())
    for key in (KEY, *keys.values()):
        assert key not in everything


def test_a_lost_key_and_a_wrong_one_are_told_apart(repository, files):
    version = put(repository, files)
    with reopened(repository, None) as lost:
        assert [artifact.name for artifact in lost.registry.artifacts()] == ["data"]  # names need no key
        with pytest.raises(Access, match=f"project 'default' is encrypted with the key {ID}, which is not here"):
            lost.entry(version, "noise.bin")
        with pytest.raises(Access, match="which is not here"), lost.writing("put") as writing:
            writing.writer.add_bytes(b"more")
    other = sealing.new_key()
    with reopened(repository, other) as wrong:
        with pytest.raises(Access, match=f"with the key {ID}, but ARTIFACTFS_KEY has the key {sealing.key_id(other)}"):
            wrong.entry(version, "noise.bin")
        with pytest.raises(Access, match="but ARTIFACTFS_KEY has"), wrong.writing("put") as writing:
            writing.writer.add_bytes(b"more")
    with reopened(repository) as right:
        assert right.registry.check() == []
        assert verify(right, [version]).damages == []


# -- tampered with ---------------------------------------------------------------------------------------------------------


def place_of(repository: Repository, name: bytes):
    return repository.registry.locate([name])[name]


def rewrite(repository: Repository, key: str, change: Callable[[bytearray], object]) -> None:
    path = Path(repository.location, "store", repository.project, key)
    data = bytearray(path.read_bytes())
    change(data)
    path.chmod(0o600)
    path.write_bytes(data)


def damages(repository: Repository, version) -> list[tuple[str, str]]:
    with reopened(repository) as again:
        return [(damage.path, damage.reason) for damage in verify(again, [version]).damages]


@pytest.mark.parametrize("where", ["the beginning", "the middle", "the end", "the tag"])
def test_a_bit_of_a_chunk_is_noticed_wherever_it_is(repository, files, where):
    version = put(repository, files)
    place = place_of(repository, blake3(TEXT).digest())
    at = {
        "the beginning": 0,
        "the middle": place.length // 2,
        "the end": place.length - 17,
        "the tag": place.length - 1,
    }[where]

    def flip(data: bytearray) -> None:
        data[place.offset + at] ^= 0x10

    rewrite(repository, pack_key(place.pack), flip)
    ((path, reason),) = damages(repository, version)
    assert path == "ward/name-of-a-patient.txt"
    assert f"is damaged in pack {place.pack} at offset {place.offset}; run `artifactfs verify`" in reason


def test_two_chunks_cannot_change_places(repository, tmp_path):
    source = tmp_path / "two"
    source.mkdir()
    one, two = blake3(b"one").digest(length=5000), blake3(b"two").digest(length=5000)
    (source / "one").write_bytes(one)
    (source / "two").write_bytes(two)
    version = put(repository, source)
    first, second = (place_of(repository, blake3(data).digest()) for data in (one, two))
    assert (first.pack, first.length) == (second.pack, second.length)

    def swap(data: bytearray) -> None:
        a, b = (slice(place.offset, place.offset + place.length) for place in (first, second))
        data[a], data[b] = data[b], data[a]

    rewrite(repository, pack_key(first.pack), swap)
    assert [path for path, _ in damages(repository, version)] == ["one", "two"]
    # Nor when the registry is made to agree: a chunk is sealed for its place.
    with closing(sqlite3.connect(Path(repository.location, "registry.db"))) as database:
        for data, place in ((one, second), (two, first)):
            database.execute("UPDATE chunk SET offset = ? WHERE digest = ?", (place.offset, blake3(data).digest()))
        database.commit()
    assert [path for path, _ in damages(repository, version)] == ["one", "two"]


def test_a_chunk_of_another_pack_is_none_of_this_one(repository, tmp_path):
    """The same content, stored twice under two keys."""
    with encrypted(tmp_path / "other") as other:
        for each in (repository, other):
            with each.writing("put") as writing:
                writing.writer.add_bytes(NOISE)
                writing.writer.flush()
        name = blake3(NOISE).digest()
        mine, theirs = place_of(repository, name), place_of(other, name)
        assert (mine.offset, mine.length) == (theirs.offset, theirs.length)
        assert mine.pack != theirs.pack
        replayed = packs_below(other)[pack_key(theirs.pack)]
    rewrite(repository, pack_key(mine.pack), lambda data: data.__setitem__(slice(None), replayed))
    with reopened(repository) as again, pytest.raises(Integrity, match=f"is damaged in pack {mine.pack}"):
        StoredSource(again.store, again.registry).fetch(name, DATA, ())


@pytest.mark.parametrize("byte", [0, 12, 44, 59])
def test_a_wrapped_key_that_was_changed_is_told(repository, files, byte):
    version = put(repository, files)
    with closing(sqlite3.connect(Path(repository.location, "registry.db"))) as database:
        for digest, wrapped in database.execute("SELECT digest, wrapped_key FROM pack").fetchall():
            forged = bytearray(wrapped)
            forged[byte] ^= 1
            database.execute("UPDATE pack SET wrapped_key = ? WHERE digest = ?", (bytes(forged), digest))
        database.commit()
    with (
        reopened(repository) as again,
        pytest.raises(Integrity, match=r"the key of pack [0-9a-f]{64} cannot be unwrapped .* damaged or tampered with"),
    ):
        again.entry(version, "noise.bin")


def test_wrapped_keys_cannot_change_places_nor_go(repository, files):
    version = put(repository, files)
    place = Path(repository.location, "registry.db")
    with closing(sqlite3.connect(place)) as database:
        (one, first), (two, second) = database.execute("SELECT id, wrapped_key FROM pack").fetchall()
        database.execute("UPDATE pack SET wrapped_key = ? WHERE id = ?", (second, one))
        database.execute("UPDATE pack SET wrapped_key = ? WHERE id = ?", (first, two))
        database.commit()
    with reopened(repository) as again, pytest.raises(Integrity, match="cannot be unwrapped"):
        again.entry(version, "noise.bin")
    with closing(sqlite3.connect(place)) as database:
        database.execute("UPDATE pack SET wrapped_key = NULL")
        database.commit()
    with reopened(repository) as again:
        with pytest.raises(Integrity, match="of the encrypted project 'default' has no key"):
            again.entry(version, "noise.bin")
        assert (
            len(
                [
                    line
                    for line in again.registry.check()
                    if "has a key and the project default is not encrypted" in line
                ]
            )
            == 2
        )


def test_the_chunk_index_is_rebuilt_from_tables_and_their_keys(repository, files):
    put(repository, files)
    for digest, _ in repository.registry.packs():
        table = index_key(digest)
        with pytest.raises(Access, match="sealed, and its key is not here"):
            rebuild_rows(repository.store, digest)
        with closing(sqlite3.connect(Path(repository.location, "registry.db"))) as database:
            (wrapped,) = database.execute("SELECT wrapped_key FROM pack WHERE digest = ?", (digest,)).fetchone()
        key = sealing.unwrap(KEY, "default", digest, wrapped)
        rows = rebuild_rows(repository.store, digest, key)
        assert rows.chunks
        for row in rows.chunks:
            place = place_of(repository, row.digest)
            assert (place.pack, place.offset, place.length, place.key) == (digest, row.offset, row.length, key)
        rewrite(repository, table, lambda data: data.__setitem__(70, data[70] ^ 1))
        with pytest.raises(Integrity):
            rebuild_rows(repository.store, digest, key)


# -- which projects are encrypted --------------------------------------------------------------------------------------------


def test_packs_are_sealed_as_the_project_is(repository, tmp_path):
    plain, _ = packed("a")
    with pytest.raises(InvalidInput, match=f"project 'default' is encrypted, and pack {plain.digest} is not"):
        repository.registry.add_packs([plain])
    sealed = PackRow(
        plain.digest, plain.size, tuple(msgspec.structs.replace(row, flags=row.flags | 2) for row in plain.chunks), KEY
    )
    with (
        Repository.create(str(tmp_path / "open")) as opened,
        pytest.raises(InvalidInput, match=f"project 'default' is not encrypted, and pack {plain.digest} is"),
    ):
        opened.registry.add_packs([sealed])
    for key in (b"", KEY[1:]):
        with pytest.raises(InvalidInput):
            repository.registry.add_packs([msgspec.structs.replace(sealed, key=key)])
    assert repository.registry.packs() == []
    repository.registry.add_packs([sealed])
    repository.registry.add_packs([sealed])  # again, as after a lost reply
    with pytest.raises(InvalidInput, match="is recorded with another key"):
        repository.registry.add_packs([msgspec.structs.replace(sealed, key=sealing.new_key())])
    assert encode_index(sealed) == encode_index(sealed)


def test_a_project_that_holds_something_is_not_encrypted_afterwards(tmp_path, files):
    with Repository.create(str(tmp_path / "repository")) as made:
        put(made, files)
        with pytest.raises(
            Conflict, match="holds content that is not encrypted; encrypt a new project, and copy there"
        ):
            made.registry.encrypt(KEY)
        assert made.registry.key_id() == ""
        other = made.registry.of_project("other")
        assert other.key_id() == ""
        other.encrypt(KEY)
        other.encrypt(KEY)
        assert (other.key_id(), made.registry.key_id()) == (ID, "")
        with pytest.raises(Conflict, match=f"is encrypted already, with the key {ID}; `artifactfs rekey`"):
            other.encrypt(bytes(32))


def test_versions_are_copied_into_an_encrypted_project_and_out_of_it(repository, files, tmp_path):
    with Repository.create(str(tmp_path / "one")) as one, Repository.create(str(tmp_path / "two")) as two:
        there = copy(one, put(one, files), repository).version
        assert found_below(Path(repository.location, "store")) == []
        back = copy(repository, there, two).version
        assert back.digest == there.digest
        assert contents(two, back, tmp_path / "out")["large.bin"][0] == LARGE
    with Repository.open(str(tmp_path / "two")) as two:
        assert verify(two, [back]).damages == []


def test_no_kernel_reads_a_sealed_pack(repository, tmp_path):
    """A file larger than a pack would have one of its own, and be handed to the kernel as it is."""
    data = blake3(b"long").digest(length=70 << 20)
    (tmp_path / "source").mkdir()
    (tmp_path / "source/long.bin").write_bytes(data)
    version = put(repository, tmp_path / "source")
    with reopened(repository) as again:
        file = again.open_file(again.entry(version, "long.bin"))
        assert again.verified_backing(file) == ""
        assert again.backing(file) == ""
        assert bytes(file.read(0, 1000)) == data[:1000]
        assert bytes(file.read(65 << 20, 1000)) == data[65 << 20 :][:1000]


# -- rekey -------------------------------------------------------------------------------------------------------------------


def test_rekey_wraps_anew_and_writes_no_pack(repository, files, tmp_path):
    version = put(repository, files)
    before = packs_below(repository)
    new = sealing.new_key()
    assert repository.registry.rekey(new) == len(repository.registry.packs())
    assert packs_below(repository) == before
    assert repository.registry.key_id() == sealing.key_id(new)
    with (
        reopened(repository) as old,
        pytest.raises(Access, match=f"with the key {sealing.key_id(new)}, but ARTIFACTFS_KEY has the key {ID}"),
    ):
        old.entry(version, "noise.bin")
    with reopened(repository, new) as again:
        assert contents(again, version, tmp_path / "out")["noise.bin"][0] == NOISE
        put(again, tmp_path / "out", "more")
        assert again.registry.check() == []
        with pytest.raises(InvalidInput, match="already; give another one"):
            again.registry.rekey(new)
    with Repository.create(str(tmp_path / "open")) as opened, pytest.raises(InvalidInput, match="is not encrypted"):
        opened.registry.rekey(new)


def test_rekey_without_the_present_key_changes_nothing(repository, files):
    version = put(repository, files)
    with reopened(repository, None) as lost, pytest.raises(Access, match="which is not here"):
        lost.registry.rekey(sealing.new_key())
    assert damages(repository, version) == []


def test_rekey_that_is_killed_in_the_middle_leaves_the_old_key(repository, files, tmp_path):
    version = put(repository, files)
    program = (
        "import sys, time\n"
        "from artifactfs import sealing\n"
        "from artifactfs.repository import Repository\n"
        "from tests.encryption.conftest import credentials\n"
        "wrap = sealing.wrap\n"
        "def slow(*arguments):\n"
        "    print('wrapping', flush=True)\n"
        "    time.sleep(float(sys.argv[2]))\n"
        "    return wrap(*arguments)\n"
        "sealing.wrap = slow\n"
        "with Repository.open(sys.argv[1], credentials=credentials()) as repository:\n"
        "    repository.registry.rekey(bytes(32))\n"
    )
    words = [sys.executable, "-c", program, repository.location, "60"]
    with subprocess.Popen(words, cwd=TESTS.parent, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "wrapping\n"
        time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    assert repository.registry.key_id() == ID
    assert damages(repository, version) == []
    assert re.fullmatch(r"[0-9a-f]{16}", repository.registry.check_key())

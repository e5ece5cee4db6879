"""What every registry of encrypted projects must do: data keys are stored wrapped, given out bare, and wrapped anew all or none.

A kind's test module subclasses :class:`SealedConformance` and provides the fixture ``open_registry``: a function that opens one more
client (keywords ``project``, ``key``) of the same, at first empty, registry, on connections of its own.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest
from sqlalchemy import select

from artifactfs import sealing
from artifactfs.credentials import Credentials
from artifactfs.errors import Access, Conflict, Integrity, InvalidInput
from artifactfs.keys import ProjectKeys
from artifactfs.model.records import FLAG_ENCRYPTED, PackRow
from artifactfs.registry.schema import pack as pack_table
from artifactfs.registry.sql import SQLRegistry
from tests.conformance.packs import chunk, packed
from tests.conformance.registry import commit

OLD = bytes(range(32))
NEW = bytes(range(32, 64))
WRITERS = 4
PACKS = 25
SECONDS = 60.0

Opener = Callable[..., SQLRegistry]


def keys_of(key: bytes | None) -> ProjectKeys:
    """Who has this key, or none."""
    return ProjectKeys(Credentials(key="" if key is None else key.hex()))


class KeyRing:
    """Who has several keys, as a server's key directory has."""

    def __init__(self, *keys: bytes) -> None:
        self._keys = {sealing.key_id(key): key for key in keys}

    def find(self, project: str, identity: str) -> bytes:
        """The key with this id."""
        return self._keys[identity]


def sealed(*texts: object) -> PackRow:
    """A pack as a sealed upload has it, with a data key of its own. No Store is asked here for its bytes."""
    row, _ = packed(*texts)
    chunks = tuple(msgspec.structs.replace(entry, flags=entry.flags | FLAG_ENCRYPTED) for entry in row.chunks)
    return PackRow(row.digest, row.size, chunks, key=sealing.new_key())


def wrapped(registry: SQLRegistry) -> dict[str, bytes | None]:
    """What stands in the table: white box."""
    with registry._database.reading() as connection:
        rows = connection.execute(select(pack_table.c.digest, pack_table.c.wrapped_key))
        return {digest: own for digest, own in rows}  # noqa: C416 - a row is no pair to mypy


class SealedConformance:
    """The suite."""

    @pytest.fixture
    def registry(self, open_registry: Opener) -> SQLRegistry:
        registry = open_registry(key=OLD)
        registry.encrypt(OLD)
        return registry

    def test_data_keys_are_stored_wrapped_and_given_out_bare(self, registry: SQLRegistry, open_registry: Opener):
        one, two = sealed("a", "b"), sealed("c")
        registry.add_packs([one, two])
        registry.add_packs([one])  # which changes nothing
        stored = wrapped(registry)
        assert stored.keys() == {one.digest, two.digest}
        for row in (one, two):
            assert row.key not in stored[row.digest]
            assert sealing.unwrap(OLD, "default", row.digest, stored[row.digest]) == row.key
        other = open_registry(key=OLD)  # which remembers nothing
        places = other.locate([chunk("a"), chunk("c"), chunk("unknown")])
        assert {digest: (place.pack, place.key) for digest, place in places.items()} == {
            chunk("a"): (one.digest, one.key),
            chunk("c"): (two.digest, two.key),
        }
        assert other.data_key(two.digest) == two.key
        assert other.data_key("0" * 64) == b""
        assert other.check_key() == other.key_id() == sealing.key_id(OLD)

    def test_the_key_of_a_pack_stays(self, registry: SQLRegistry, open_registry: Opener):
        row = sealed("a")
        registry.add_packs([row])
        with pytest.raises(InvalidInput, match=f"pack {row.digest} is recorded with another key"):
            registry.add_packs([msgspec.structs.replace(row, key=sealing.new_key())])
        assert open_registry(key=OLD).data_key(row.digest) == row.key

    @pytest.mark.parametrize(
        ("key", "words"),
        [(None, "which is not here"), (NEW, f"but ARTIFACTFS_KEY has the key {sealing.key_id(NEW)}")],
        ids=["lost", "wrong"],
    )
    def test_without_the_key_all_but_packs_can_be_had(
        self, registry: SQLRegistry, open_registry: Opener, key: bytes | None, words: str
    ):
        row = sealed("a")
        registry.add_packs([row])
        commit(registry, "a")
        other = open_registry(key=key)
        expected = f"project 'default' is encrypted with the key {sealing.key_id(OLD)}, {words}"
        for ask in (
            lambda: other.locate([chunk("a")]),
            lambda: other.data_key(row.digest),
            lambda: other.add_packs([sealed("b")]),
            lambda: other.rekey(sealing.new_key()),
            other.check_key,
        ):
            with pytest.raises(Access, match=expected):
                ask()
        assert [record.number for record in other.versions("bike-dataset")] == [0]
        assert other.missing([chunk("a"), chunk("b")]) == {chunk("b")}
        assert other.packs() == registry.packs() == [(row.digest, row.size)]
        assert other.check() == []
        assert open_registry(key=OLD).data_key(row.digest) == row.key

    def test_a_pack_is_sealed_as_its_project_is(self, registry: SQLRegistry, open_registry: Opener):
        plain, _ = packed("a")
        with pytest.raises(InvalidInput, match=f"project 'default' is encrypted, and pack {plain.digest} is not"):
            registry.add_packs([sealed("b"), plain])
        assert registry.packs() == []
        unsealed = open_registry(project="open", key=OLD)
        row = sealed("a")
        with pytest.raises(InvalidInput, match=f"project 'open' is not encrypted, and pack {row.digest} is"):
            unsealed.add_packs([plain, row])
        unsealed.add_packs([plain])
        assert unsealed.locate([chunk("a")])[chunk("a")].key == b""
        assert unsealed.check_key() == ""
        assert wrapped(registry) == {plain.digest: None}

    def test_a_project_that_holds_something_stays_as_it_is(self, registry: SQLRegistry, open_registry: Opener):
        registry.encrypt(OLD)  # idempotent
        with pytest.raises(Conflict, match="is encrypted already"):
            registry.encrypt(NEW)
        unsealed = open_registry(project="open")
        unsealed.add_packs([packed("a")[0]])
        with pytest.raises(Conflict, match="holds content that is not encrypted"):
            unsealed.encrypt(OLD)
        with pytest.raises(InvalidInput, match="project 'open' is not encrypted"):
            unsealed.rekey(NEW)

    def test_rekey_wraps_every_data_key_anew(self, registry: SQLRegistry, open_registry: Opener):
        rows = [sealed(number) for number in range(5)]
        registry.add_packs(rows)
        other = open_registry(project="other", key=OLD)
        other.encrypt(OLD)
        foreign = sealed("of another project")
        other.add_packs([foreign])
        with pytest.raises(InvalidInput, match="already"):
            registry.rekey(OLD)
        assert registry.rekey(NEW) == 5
        stored = wrapped(registry)
        for row in rows:
            assert sealing.unwrap(NEW, "default", row.digest, stored[row.digest]) == row.key
            with pytest.raises(Integrity):
                sealing.unwrap(OLD, "default", row.digest, stored[row.digest])
        assert sealing.unwrap(OLD, "other", foreign.digest, stored[foreign.digest]) == foreign.key
        assert open_registry(key=NEW).locate([chunk(3)])[chunk(3)].key == rows[3].key
        assert other.key_id() == sealing.key_id(OLD)

    def test_of_two_servers_the_one_with_the_old_key_gives_out_what_it_has_opened(
        self, registry: SQLRegistry, open_registry: Opener
    ):
        known, unknown = sealed("known"), sealed("unknown")
        registry.add_packs([known, unknown])
        behind = open_registry(key=OLD)
        assert behind.locate([chunk("known")])[chunk("known")].key == known.key
        # It finds its key again for each request, as a server does whose key file was not replaced yet.
        behind_later = open_registry(key=OLD)
        ahead = open_registry(key=OLD)
        assert ahead.rekey(NEW) == 2
        renewed = open_registry(key=NEW)
        added = sealed("added")
        renewed.add_packs([added])
        assert behind.locate([chunk("known")])[chunk("known")].key == known.key
        expected = f"encrypted with the key {sealing.key_id(NEW)}, but ARTIFACTFS_KEY has the key {sealing.key_id(OLD)}"
        for ask in (
            lambda: behind.locate([chunk("unknown")]),
            lambda: behind.locate([chunk("added")]),
            lambda: behind.add_packs([sealed("more")]),
            lambda: behind_later.locate([chunk("known")]),
            lambda: behind.rekey(sealing.new_key()),
        ):
            with pytest.raises(Access, match=expected):
                ask()
        places = renewed.locate([chunk("known"), chunk("unknown"), chunk("added")])
        assert {place.key for place in places.values()} == {known.key, unknown.key, added.key}

    def test_no_data_key_is_left_to_the_old_key_by_a_rekey_beside_writers(
        self, registry: SQLRegistry, open_registry: Opener
    ):
        registry.add_packs([sealed("before")])
        # On connections of their own; with both keys, as servers are whose directory of keys has the new one already.
        writers = [open_registry(keys=KeyRing(OLD, NEW)) for _ in range(WRITERS)]
        rekeying = open_registry(keys=KeyRing(OLD, NEW))
        begin = threading.Barrier(WRITERS + 1, timeout=SECONDS)
        added = threading.Semaphore(0)
        rekeyed = threading.Event()

        def write(number: int) -> list[PackRow]:
            begin.wait()
            rows = []
            for step in range(PACKS):
                # SQLite lets whoever comes next write, so writers can pass a waiting rekey until they are done.
                if step == PACKS // 2:
                    assert rekeyed.wait(SECONDS)
                rows.append(sealed(f"{number} {step}"))
                writers[number].add_packs([rows[-1]])
                commit(writers[number], f"{number} {step}")
                assert writers[number].locate([rows[-1].chunks[0].digest])
                added.release()
            return rows

        def rekey() -> list[int]:
            counts = []
            begin.wait()
            # There and back, each in the middle of it: what is added meanwhile is wrapped by whichever key it is then.
            for key in (NEW, OLD, NEW):
                for _ in range(WRITERS * PACKS // 4):
                    assert added.acquire(timeout=SECONDS)
                counts.append(rekeying.rekey(key))
                rekeyed.set()
            return counts

        with ThreadPoolExecutor(WRITERS + 1) as threads:
            exchanged = threads.submit(rekey)
            rows = [row for made in threads.map(write, range(WRITERS)) for row in made]
            counts = exchanged.result()
        assert counts == sorted(counts)
        assert 1 < counts[0] < counts[-1] <= WRITERS * PACKS + 1
        stored = wrapped(registry)
        assert len(stored) == WRITERS * PACKS + 1
        for row in rows:
            assert sealing.unwrap(NEW, "default", row.digest, stored[row.digest]) == row.key
        found = open_registry(key=NEW).locate([entry.digest for row in rows for entry in row.chunks])
        assert {place.key for place in found.values()} == {row.key for row in rows}

    def test_encrypting_beside_a_writer_of_what_is_plain(self, open_registry: Opener):
        """One of them is refused, whichever comes later: never is there a plain pack in an encrypted project."""
        for number in range(10):
            name = f"project-{number}"
            one, two = open_registry(project=name, key=OLD), open_registry(project=name, key=OLD)
            begin = threading.Barrier(2, timeout=SECONDS)
            outcomes: list[type[Exception] | None] = [None, None]

            def attempt(place: int, act: Callable[[], object], begin=begin, outcomes=outcomes) -> None:
                begin.wait()
                try:
                    act()
                except (Conflict, InvalidInput) as error:
                    outcomes[place] = type(error)

            with ThreadPoolExecutor(2) as threads:
                list(
                    threads.map(
                        attempt,
                        (0, 1),
                        (lambda one=one: one.encrypt(OLD), lambda two=two: two.add_packs([packed("p")[0]])),
                    )
                )
            assert outcomes in ([None, InvalidInput], [Conflict, None])
            assert bool(one.key_id()) == (outcomes[0] is None)
            assert bool(one.packs()) == (outcomes[1] is None)

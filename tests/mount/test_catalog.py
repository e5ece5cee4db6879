"""What a mount asks of its registry, and when: nothing while nothing changes, and little when something does."""

from __future__ import annotations

import itertools
import sqlite3
import threading

import pytest

from artifactfs.errors import Unavailable
from artifactfs.model.records import CommitRequest
from artifactfs.mount.catalog import Catalog
from artifactfs.registry.sql import SQLRegistry
from tests.conftest import eventually
from tests.mount.scripted import ScriptedRegistry

MANY = 300
digests = itertools.count(1)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "registry.db"


@pytest.fixture
def real(path):
    registry = SQLRegistry(path, create=True)
    yield registry
    registry.close()


@pytest.fixture
def registry(real):
    return ScriptedRegistry(real)


@pytest.fixture
def catalog(registry):
    return Catalog(registry, {})


def commit(real, name="data", *, aliases=()):
    number = next(digests)
    return real.commit(
        CommitRequest(
            commit_id=f"{number}", artifact=name, type=None, digest=number.to_bytes(32, "big"), size=0, files=0, entries=0,
            aliases=aliases,
        )
    ).version  # fmt: skip


def delete(path, name, number):
    """As the command `delete` leaves it."""
    with sqlite3.connect(path) as database:
        (version,) = database.execute(
            "SELECT version.id FROM version JOIN artifact ON artifact.id = version.artifact WHERE name = ? AND number = ?",
            (name, number),
        ).fetchone()
        database.execute("DELETE FROM alias WHERE version = ?", (version,))
        database.execute("UPDATE version SET deleted = 1 WHERE id = ?", (version,))
        database.execute("UPDATE project SET revision = revision + 1")
    database.close()


def look(catalog, name):
    """What a program that opens NAME/latest/… has the mount look up."""
    number = catalog.target(name, "latest")
    assert number is not None
    return catalog.version(name, number)


def test_a_second_look_asks_nothing(real, registry, catalog):
    names = [f"data{number:03}" for number in range(MANY)]
    for name in names:
        commit(real, name, aliases=("best",))

    def everything():
        assert sorted(catalog.names()) == names
        for name in names:
            assert look(catalog, name).name == f"{name}:v0"
            assert catalog.target(name, "best") == 0
            assert catalog.target(name, "worst") is None
            assert catalog.version(name, 1) is None
            assert catalog.series(name).versions[0].name == f"{name}:v0"
        assert catalog.series("absent") is None
        assert catalog.version("absent", 0) is None

    assert registry.asked(everything) == {"artifacts": 1, "versions": MANY}
    assert registry.asked(everything) == {}


def test_a_change_costs_the_list_and_what_is_looked_at(real, registry, catalog):
    for name in ("one", "two", "three"):
        commit(real, name, aliases=("best",))
        look(catalog, name)
    commit(real, "two")

    def others():
        assert look(catalog, "one").number == 0
        assert look(catalog, "three").number == 0
        assert catalog.version("two", 0).number == 0
        assert catalog.target("two", "latest") == 1

    assert registry.asked(others) == {"artifacts": 1}
    assert registry.asked(lambda: look(catalog, "two")) == {"versions": 1}
    assert look(catalog, "two").number == 1
    # What the list does not tell is asked for when it is wanted.
    real.move_aliases("two", 1, ["best"])
    assert registry.asked(lambda: catalog.target("two", "best")) == {"artifacts": 1, "versions": 1}
    assert catalog.target("two", "best") == 1
    real.edit("one", 0, description="new")
    assert catalog.series("one").versions[0].description == "new"


def test_a_pin_fixes_latest(real, registry):
    commit(real)
    commit(real)
    catalog = Catalog(registry, {"data": 0})
    assert catalog.target("data", "latest") == 0
    assert catalog.latest("data").number == 0
    assert catalog.series("data").aliases == {"latest": 0}


def test_vanished_versions_are_told_and_cost_one_question(path, real, registry, catalog):
    for name in ("one", "two", "three"):
        for _ in range(3):
            commit(real, name)
        look(catalog, name)
    assert catalog.vanished() == ([], [])
    delete(path, "two", 1)
    gone = []
    assert registry.asked(lambda: gone.append(catalog.vanished())) == {"artifacts": 1, "versions": 1}
    assert gone == [([], [("two", 1)])]
    assert catalog.vanished() == ([], [])
    assert catalog.version("two", 1) is None


def test_vanished_versions_are_told_although_a_lookup_saw_it_first(path, real, catalog):
    for _ in range(3):
        commit(real)
    commit(real, "other")
    look(catalog, "data")
    look(catalog, "other")
    delete(path, "data", 0)
    delete(path, "other", 0)
    assert catalog.version("data", 0) is None
    assert "other" not in catalog.names()
    assert catalog.vanished() == (["other"], [("other", 0), ("data", 0)])
    assert catalog.vanished() == ([], [])


def test_vanished_versions_are_told_although_the_numbers_look_the_same(path, real, catalog):
    """Two changes between two looks: as many versions as before, and the same `latest`."""
    for _ in range(3):
        commit(real)
    look(catalog, "data")
    before = catalog.names()["data"]
    delete(path, "data", 1)
    commit(real)
    real.move_aliases("data", 2, ["latest"])
    after = catalog.names()["data"]
    assert (before.versions, before.latest) == (after.versions, after.latest)
    assert catalog.vanished().versions == [("data", 1)]


def test_an_artifact_that_went_and_came_again_is_another(path, real, catalog):
    commit(real)
    assert look(catalog, "data").number == 0
    delete(path, "data", 0)
    commit(real)
    assert look(catalog, "data").number == 1
    assert catalog.vanished() == ([], [("data", 0)])


def test_out_of_reach_it_answers_as_it_did_before(real, registry, catalog):
    for name in ("seen", "listed"):
        commit(real, name)
    look(catalog, "seen")
    registry.down = "no network"
    assert look(catalog, "seen").number == 0
    assert sorted(catalog.names()) == ["listed", "seen"]
    assert catalog.target("listed", "latest") == 0
    with pytest.raises(Unavailable, match="no network"):
        catalog.version("listed", 0)
    never_seen = ScriptedRegistry(real)
    never_seen.down = "no network"
    with pytest.raises(Unavailable, match="no network"):
        Catalog(never_seen, {}).names()


def test_what_was_remembered_is_asked_for_again_once_it_can_be(path, real, registry, catalog):
    """The revision alone does not tell: it was known before the answers to it were."""
    commit(real, aliases=("best",))
    commit(real)
    look(catalog, "data")
    delete(path, "data", 0)
    commit(real, "new")
    registry.revision()
    registry.down = "no network"
    assert sorted(catalog.names()) == ["data"]
    assert catalog.version("data", 0) is not None
    assert registry.asked(lambda: look(catalog, "data")) == {}
    registry.down = ""
    assert sorted(catalog.names()) == ["data", "new"]
    assert catalog.version("data", 0) is None
    assert catalog.vanished().versions == [("data", 0)]


def test_after_an_outage_all_is_asked_for_once_more(real, registry, catalog):
    """Of an answer that came meanwhile nobody knows where it came from."""
    for name in ("one", "two"):
        commit(real, name, aliases=("best",))
        look(catalog, name)
    catalog.doubt()
    assert registry.asked(lambda: look(catalog, "one")) == {"artifacts": 1}
    assert registry.asked(lambda: catalog.target("one", "best")) == {"versions": 1}
    assert registry.asked(catalog.vanished) == {}
    assert registry.asked(lambda: (look(catalog, "one"), catalog.target("one", "best"))) == {}
    registry.hold = threading.Event()
    commit(real, "new")
    asked = registry.calls["artifacts"]
    thread = threading.Thread(target=catalog.names)
    thread.start()
    eventually(lambda: registry.calls["artifacts"] > asked)
    catalog.doubt()
    registry.hold.set()
    thread.join(60)
    registry.hold = None
    assert registry.asked(catalog.names) == {"artifacts": 1}


def test_many_that_want_the_same_ask_once_and_delay_nobody_else(real, registry, catalog):
    commit(real, "slow")
    commit(real, "quick")
    assert catalog.latest("quick").number == 0
    registry.hold = threading.Event()
    found = []
    threads = [threading.Thread(target=lambda: found.append(look(catalog, "slow"))) for _ in range(20)]
    assert registry.asked(lambda: [thread.start() for thread in threads]).get("versions", 0) <= 1
    assert look(catalog, "quick").number == 0
    registry.hold.set()
    for thread in threads:
        thread.join(60)
    assert [version.name for version in found] == ["slow:v0"] * 20
    assert registry.calls["versions"] == 2


def test_a_failure_is_each_one_s_own_and_asked_again(real, registry, catalog):
    commit(real)
    assert "data" in catalog.names()
    registry.down = "no network"
    for _ in range(2):
        with pytest.raises(Unavailable, match="no network"):
            catalog.series("data")
    registry.down = ""
    assert catalog.series("data").aliases == {"latest": 0}

"""What a collection changes in the registry, and that nobody is told wrong beside it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from artifactfs.errors import Conflict, Unavailable
from artifactfs.model.records import PackRow
from artifactfs.model.retention import Permissions
from artifactfs.registry import sql
from artifactfs.registry.collection import PACK_ALIVE, PACK_CONDEMNED, Lease, Pack
from artifactfs.registry.postgresql import PostgresDatabase
from artifactfs.registry.sql import SQLRegistry
from tests.conformance.packs import chunk, packed
from tests.conformance.registry import NAME, Clock, commit


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["sqlite", "postgresql"])
def registry(request: pytest.FixtureRequest, tmp_path: Path, clock: Clock) -> Iterator[SQLRegistry]:
    if request.param == "sqlite":
        opened = SQLRegistry(tmp_path / "registry.db", create=True, clock=clock)
    else:
        opened = SQLRegistry(PostgresDatabase(request.getfixturevalue("postgres_url")), clock=clock)
    yield opened
    opened.close()


@pytest.fixture
def token(registry: SQLRegistry) -> str:
    assert registry.collection.take("mine", "process 1 on here", after=Lease())
    return "mine"


def pack_of(*texts: object) -> PackRow:
    return packed(*texts)[0]


def states(registry: SQLRegistry) -> dict[str, int]:
    return {pack.digest: pack.state for pack in registry.collection.packs()}


def only(registry: SQLRegistry) -> Pack:
    (found,) = registry.collection.packs()
    return found


def condemn_all(registry: SQLRegistry, token: str) -> None:
    table = registry.collection
    table.condemn(token, [pack.id for pack in table.packs()])
    table.set_barrier(token)


def give_up(registry: SQLRegistry, token: str) -> list[str]:
    """Give up everything that is condemned, as a marking would that found nothing alive."""
    table = registry.collection
    table.end_expired(token)
    roots = table.roots(registry.open_session("gc", seconds=60))
    return [
        pack.digest for pack in table.give_up(token, [p for p in table.packs() if p.state == PACK_CONDEMNED], roots)
    ]


# -- the lease -----------------------------------------------------------------------------------------------------------


def test_one_collects_at_a_time(registry, token):
    table = registry.collection
    seen = table.lease()
    assert seen.holder == "process 1 on here"
    assert not table.take("other", "process 2 on there", after=Lease())
    table.beat(token)
    assert not table.take("other", "process 2 on there", after=seen)
    table.release("other")
    assert table.lease().token == token
    table.release(token)
    assert table.lease().token == ""


def test_who_lost_the_lease_changes_nothing_more(registry, token):
    table = registry.collection
    registry.add_packs([pack_of(1)])
    assert table.take("other", "process 2 on there", after=table.lease())
    for attempt in (
        lambda: table.beat(token),
        lambda: condemn_all(registry, token),
        lambda: table.end_expired(token),
        lambda: table.adopt(token, [("a" * 64, 5)]),
        lambda: table.move(token, pack_of(1, 2), {chunk(1): 1, chunk(2): 1}, session=1),
    ):
        with pytest.raises(Conflict, match="taken over by process 2 on there"):
            attempt()
    assert list(states(registry).values()) == [PACK_ALIVE]


# -- condemned packs -----------------------------------------------------------------------------------------------------


def test_condemned_chunks_can_be_read_but_are_missing_to_who_stores(registry, token):
    pack = pack_of(1)
    registry.add_packs([pack])
    condemn_all(registry, token)
    assert registry.missing([chunk(1)]) == {chunk(1)}
    assert registry.locate([chunk(1)])[chunk(1)].pack == pack.digest
    assert registry.packs() == []


def test_a_condemned_chunk_that_is_stored_again_is_found_where_it_was_stored(registry, token):
    registry.add_packs([pack_of(1, 2)])
    condemn_all(registry, token)
    anew = pack_of(2, 3)
    registry.add_packs([anew])
    assert registry.missing([chunk(1), chunk(2), chunk(3)]) == {chunk(1)}
    assert registry.locate([chunk(2)])[chunk(2)].pack == anew.digest
    assert registry.check() == []


def test_the_same_pack_stored_again_is_alive_at_once(registry, token):
    pack = pack_of(1)
    registry.add_packs([pack])
    condemn_all(registry, token)
    session = registry.open_session("put", seconds=60)
    registry.expect_pack(pack.digest, pack.size)
    registry.add_packs([pack], session=session)
    assert registry.missing([chunk(1)]) == set()
    assert give_up(registry, token) == []


def test_a_pack_that_somebody_is_about_to_publish_is_not_given_up(registry, token):
    pack = pack_of(1)
    registry.add_packs([pack])
    condemn_all(registry, token)
    session = registry.open_session("put", seconds=60)  # after the condemnation
    registry.expect_pack(pack.digest, pack.size)
    assert give_up(registry, token) == []
    registry.close_session(session)
    assert give_up(registry, token) == [pack.digest]


def test_a_pack_waits_for_sessions_before_it_and_not_for_later_ones(registry, token):
    pack = pack_of(1)
    registry.add_packs([pack])
    before = registry.open_session("put", seconds=60)
    condemn_all(registry, token)
    registry.open_session("put", seconds=60)
    assert [writer.id for writer in registry.collection.writers(only(registry).barrier or 0)] == [before]
    assert give_up(registry, token) == []
    registry.close_session(before)
    assert give_up(registry, token) == [pack.digest]


def test_mounts_are_not_waited_for(registry, token):
    registry.add_packs([pack_of(1)])
    registry.open_session("mount", seconds=60)
    condemn_all(registry, token)
    assert len(give_up(registry, token)) == 1


def test_a_pack_that_a_living_session_recorded_is_not_condemned(registry, token):
    session = registry.open_session("put", seconds=60)
    registry.add_packs([pack_of(1)], session=session)
    assert only(registry).fresh
    condemn_all(registry, token)
    assert only(registry).state == PACK_ALIVE
    registry.close_session(session)
    condemn_all(registry, token)
    assert only(registry).state == PACK_CONDEMNED


def test_a_session_that_was_counted_as_ended_stays_so_whatever_the_clock_says(registry, token, clock):
    registry.add_packs([pack_of(1)])
    session = registry.open_session("put", seconds=60)
    condemn_all(registry, token)
    clock.now += 3600  # forward, and back again
    assert len(give_up(registry, token)) == 1
    clock.now -= 3600
    with pytest.raises(Conflict, match="has expired"):
        commit(registry, "a", session=session)
    with pytest.raises(Conflict, match="has expired"):
        registry.renew_session(session, seconds=60)


def test_a_session_of_a_clock_that_went_back_is_waited_for(registry, token, clock):
    registry.add_packs([pack_of(1)])
    session = registry.open_session("put", seconds=60)
    clock.now -= 3600
    condemn_all(registry, token)
    assert give_up(registry, token) == []
    assert commit(registry, "a", session=session).created


def test_nothing_is_given_up_when_an_older_version_came_to_life(registry, token):
    registry.add_packs([pack_of(1)])
    commit(registry, "a")
    commit(registry, "b")
    registry.delete(NAME, 0)
    condemn_all(registry, token)
    table = registry.collection
    roots = table.roots(registry.open_session("gc", seconds=60))
    with registry._database.writing(durable=True) as connection:
        connection.exec_driver_sql("UPDATE version SET deleted = NULL")
    with pytest.raises(Conflict, match="a version was restored"):
        table.give_up(token, table.packs(), roots)


def test_who_stores_a_pack_waits_until_it_is_deleted(registry, token, monkeypatch):
    pack = pack_of(1)
    registry.add_packs([pack])
    number = only(registry).id
    condemn_all(registry, token)
    assert give_up(registry, token) == [pack.digest]
    with pytest.raises(Unavailable, match="is being deleted"):
        registry.add_packs([pack])
    monkeypatch.setattr(sql, "EXPECT_SECONDS", 0.1)
    with pytest.raises(Unavailable, match="repeat in a moment"):
        registry.expect_pack(pack.digest, pack.size)
    monkeypatch.setattr(sql, "EXPECT_SECONDS", 30.0)

    def finish() -> None:
        time.sleep(0.2)
        registry.collection.remove_rows(token, iter([(chunk(1), number)]))
        registry.collection.finish(token, [number])

    thread = threading.Thread(target=finish)
    thread.start()
    registry.expect_pack(pack.digest, pack.size)
    thread.join()
    assert registry.locate([chunk(1)]) == {}
    registry.add_packs([pack])
    assert registry.locate([chunk(1)])[chunk(1)].pack == pack.digest
    assert registry.check() == []


def test_chunks_move_to_another_pack_unless_they_have_moved_already(registry, token):
    first, second = pack_of(1, 2), pack_of(2, 3)
    registry.add_packs([first, second])
    numbers = {pack.digest: pack.id for pack in registry.collection.packs()}
    to = pack_of(1, 2, 3)
    sources = {chunk(1): numbers[first.digest], chunk(2): numbers[second.digest], chunk(3): numbers[second.digest]}
    registry.collection.move(token, to, sources, session=1)
    places = {name: place.pack for name, place in registry.locate([chunk(1), chunk(2), chunk(3)]).items()}
    # Chunk 2 was found in the first pack, and still is.
    assert places == {chunk(1): to.digest, chunk(2): first.digest, chunk(3): to.digest}
    assert registry.check() == []


# -- roots ---------------------------------------------------------------------------------------------------------------


def test_what_is_alive_are_versions_parts_and_what_sessions_keep(registry, token, clock):
    commit(registry, "a")
    deleted = commit(registry, "b").version
    session = registry.open_session("mount", seconds=60)
    registry.retention.hold(session, {deleted.id: "staging"})
    registry.retention.delete(NAME, [deleted.number], permissions=Permissions(in_use=True, aliases=True))
    part = registry.open_session("part", seconds=600)
    registry.add_part(NAME, "draft", b"t" * 32, session=part)

    def names() -> list[str]:
        registry.collection.end_expired(token)
        roots = registry.collection.roots(registry.open_session("gc", seconds=60))
        assert roots.deleted == {deleted.id}
        return [root.name for root in roots.roots]

    kept = f"{NAME}:v1 (deleted, but in use)"
    assert names() == [f"{NAME}:v0", kept, f"a part of the draft 'draft' of {NAME}"]
    clock.now += 61
    assert names() == [f"{NAME}:v0", f"a part of the draft 'draft' of {NAME}"]
    clock.now += 600
    assert names() == [f"{NAME}:v0"]

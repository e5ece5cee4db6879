"""Garbage is collected by the server: asked for by a client, once at a time, and on a schedule."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from artifactfs.collect import collect
from artifactfs.content.cache import CacheSettings
from artifactfs.draft import Draft
from artifactfs.errors import Conflict, NotFound
from artifactfs.remote import wire
from artifactfs.repository import Repository
from artifactfs.server import garbage
from artifactfs.server.log import Log
from tests.conftest import eventually
from tests.server.conftest import Served


@pytest.fixture
def client(served: Served, tmp_path: Path) -> Iterator[Repository]:
    with Repository.open(served.url, cache=CacheSettings(tmp_path / "cache", 1 << 30)) as repository:
        yield repository


def put(repository: Repository, place: Path, content: str) -> None:
    (place / "file").write_text(content)
    draft = Draft(repository)
    draft.add_file(place / "file", overwrite=True)
    draft.commit("data")


def size(served: Served) -> int:
    return sum(size for _, size in served.store.list())


def test_a_client_has_the_server_collect_and_is_told_what_was_freed(served, client, tmp_path):
    put(client, tmp_path, "one")
    put(client, tmp_path, "two")
    client.registry.delete("data", 0)
    before = size(served)
    said = collect(client, dry_run=True)
    assert size(served) == before
    report = collect(client)
    assert said.freed == report.freed == before - size(served) > 0
    assert report.versions == 1
    put(client, tmp_path, "one")
    assert collect(client).freed == 0
    assert [version.number for version in client.registry.versions("data")] == [1, 2]


def test_it_waits_for_clients_that_began_before(served, client, tmp_path):
    put(client, tmp_path, "one")
    session = client.registry.open_session("put", seconds=600)
    client.registry.delete("data", 0)
    assert [each.session for each in collect(client).waiting_for] == [session]
    threading.Timer(0.5, client.registry.close_session, [session]).start()
    assert collect(client, wait=30.0).freed > 0
    assert size(served) == 0


def test_one_collection_of_a_project_at_a_time(served, client):
    with pytest.raises(NotFound, match="no garbage of default was collected"):
        client.registry.collection_state()
    session = client.registry.open_session("put", seconds=600)
    served.registry.add_packs([], session=session)
    put_orphan(served)
    started = client.registry.start_collection(dry_run=False, wait=60.0)
    assert started.running
    with pytest.raises(Conflict, match="garbage of default is being collected already"):
        client.registry.start_collection(dry_run=False, wait=0.0)
    client.registry.close_session(session)
    eventually(lambda: not client.registry.collection_state().running)
    assert client.registry.collection_state().report.deleted_packs == 1


def put_orphan(served: Served) -> None:
    served.put("packs/ab/" + "ab" * 32 + ".idx", b"left by a crash")


def test_why_a_collection_failed_is_told(served, client, tmp_path):
    put(client, tmp_path, "one")
    for path in (tmp_path / "store").rglob("*.pack"):
        path.unlink()
    served.store.close()
    with pytest.raises(Exception, match="data:v0 cannot be read, so nothing is collected"):
        collect(client)
    state = served.ask("GET", "collection").message(wire.CollectionState)
    assert state.failure.code == "integrity"


def test_a_server_that_stops_lets_a_collection_go(served, client):
    client.registry.open_session("put", seconds=600)
    put_orphan(served)
    client.registry.start_collection(dry_run=False, wait=600.0)
    served.stop()


def test_projects_are_collected_on_a_schedule(served, client, tmp_path):
    put(client, tmp_path, "one")
    client.registry.delete("data", 0)
    lines: list[str] = []
    log = Log(lines.append)
    served.service.collections.schedule(0.1, log)
    eventually(lambda: lines)
    assert "garbage of default: 2 packs deleted, " in lines[0]
    assert size(served) == 0
    log.close()
    assert len(lines) == 1  # of what did nothing nothing is said


def test_a_pack_is_expected_before_it_is_published(served, client, tmp_path, monkeypatch):
    """Also over the network: what is sent while it is condemned is not deleted under its sender."""
    put(client, tmp_path, "one")
    client.registry.delete("data", 0)
    session = client.registry.open_session("put", seconds=600)
    assert collect(client).condemned_packs == 2
    put(client, tmp_path, "one")
    client.registry.close_session(session)
    assert collect(client).freed == 0
    (version,) = client.registry.versions("data")
    assert client.trees.summary(version.digest).files == 1
    assert garbage.WAIT_MOST >= 600

"""Retention over HTTP: quotas before anything is sent, and many tombstones."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from artifactfs.content.cache import CacheSettings
from artifactfs.draft import Draft
from artifactfs.errors import NoSpace
from artifactfs.remote import wire
from artifactfs.repository import Repository
from artifactfs.server import portions
from tests.conformance.registry import NAME, commit
from tests.server.conftest import Served


@pytest.fixture
def client(served: Served, tmp_path: Path) -> Iterator[Repository]:
    with Repository.open(served.url, cache=CacheSettings(tmp_path / "cache", reserve=0)) as repository:
        yield repository


def put(repository: Repository, place: Path, size: int) -> str:
    (place / "file").write_bytes(os.urandom(size))
    draft = Draft(repository)
    draft.add(place / "file")
    return draft.commit(NAME).version.name


def test_nothing_is_sent_of_what_is_beyond_the_quota(served, client, tmp_path):
    assert put(client, tmp_path, 10_000) == f"{NAME}:v0"
    client.registry.retention.set_quota(stored=50_000, logical=None)
    sent = len(served.logged())
    with pytest.raises(
        NoSpace, match=r"its quota is 50,000 bytes stored, [\d,]+ are used, and this takes at least [\d,]+ more"
    ):
        put(client, tmp_path, 60_000)
    client.registry.retention.set_quota(stored=None, logical=50_000)
    with pytest.raises(NoSpace, match=r"50,000 bytes in its versions, 10,000 are used, and this takes 60,000 more"):
        put(client, tmp_path, 60_000)
    asked = [(line["method"], line["path"]) for line in served.logged()[sent:] if "method" in line]
    assert not [path for method, path in asked if method == "PUT" and "/objects/" in path]
    assert not [path for _, path in asked if path.endswith(("/packs", "/commits"))]
    assert put(client, tmp_path, 20_000) == f"{NAME}:v1"


def test_a_session_says_what_is_left_only_where_it_is_bounded(served):
    session = served.ask("POST", "sessions", wire.NewSession("put", 60)).message(wire.Session)
    assert session.usage is None
    assert served.ask("PUT", "quota", wire.QuotaWanted(1000, None)).status == 204
    session = served.ask("POST", "sessions", wire.NewSession("put", 60)).message(wire.Session)
    assert (session.usage.quota_stored, session.usage.quota_logical, session.usage.stored) == (1000, None, 0)


def test_many_tombstones_come_in_several_answers(served, client, monkeypatch):
    for number in range(12):
        commit(served.registry, number)
    client.registry.retention.delete(NAME, list(range(11)))
    monkeypatch.setattr(portions, "PORTION", 1000)
    first = served.ask("GET", "deleted").message(wire.Tombstones)
    assert first.more
    assert len(first.tombstones) < 11
    found = client.registry.retention.tombstones(NAME)
    assert [gone.number for gone in found] == list(range(11))
    assert {gone.deleted_by for gone in found} == {"client 127.0.0.1"}

"""Answers that may be of any size come in parts, each of which a message holds; and what runs over HTTP alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from artifactfs.model.lineage import Link, NewRun, RunRecord
from artifactfs.model.query import Query
from artifactfs.model.records import VersionRecord
from artifactfs.remote import wire
from artifactfs.remote.client import Connection
from artifactfs.remote.registry import RemoteRegistry
from artifactfs.server import portions
from tests.conformance.registry import NAME, commit, digest
from tests.server.conftest import Served

BULK = {"notes": "x" * (1 << 20)}
COUNT = 2 + wire.MESSAGE_LIMIT // (1 << 20)  # so many records of this bulk are more than a message


@pytest.fixture
def connection(served: Served, connections: Callable[[str], Connection]) -> Connection:
    return connections(served.url)


@pytest.fixture
def registry(connection: Connection) -> RemoteRegistry:
    return RemoteRegistry(connection, project="default", memory=None)


def commits(registry: Any, count: int, **changes: object) -> list[VersionRecord]:
    for number in range(count):
        commit(registry, number, **changes)
    return registry.versions(NAME)


# -- what fits ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sizes", "count"),
    [([], 0), ([10], 1), ([200], 1), ([50, 50, 1], 2), ([50, 51], 1), ([200, 1], 1), ([1] * 500, 100)],
)
def test_a_portion_ends_before_it_is_too_large_and_has_one_record_at_least(monkeypatch, sizes, count):
    monkeypatch.setattr(portions, "PORTION", 100)
    assert portions.fitting(iter(sizes)) == count


def test_a_portion_and_the_largest_record_fit_into_a_message():
    assert 2 * portions.PORTION <= wire.MESSAGE_LIMIT


# -- more than a message holds -----------------------------------------------------------------------------------------


def test_versions_of_any_size_are_found(served, registry):
    made = commits(served.registry, COUNT, metadata=BULK)
    assert registry.find(Query(sort=("version",))) == made
    assert registry.find(Query(sort=("-version",), limit=COUNT - 1)) == made[:0:-1]


def test_runs_of_any_size_and_their_links_are_had(served, registry):
    used = commit(served.registry, "used").version
    for number in range(COUNT):
        served.registry.start_run(NewRun(id=f"run-{number:03}", name="one", config=BULK))
        served.registry.add_inputs(f"run-{number:03}", [used.id])
    assert registry.runs() == served.registry.runs()
    assert len(registry.runs()) == COUNT
    found = registry.links(versions=[used.id])
    assert found == served.registry.links(versions=[used.id])
    assert (len(found.links), len(found.runs), found.versions) == (COUNT, COUNT, [used])


def test_a_run_that_used_more_versions_than_a_message_holds_shows_them_all(served, registry):
    made = commits(served.registry, COUNT, metadata=BULK)
    served.registry.start_run(NewRun(id="one", name="one"))
    registry.add_inputs("one", [version.id for version in made])
    assert registry.links(runs=["one"]) == served.registry.links(runs=["one"])


# -- many small ones ---------------------------------------------------------------------------------------------------


def test_records_come_as_many_as_an_answer_may_have(served, registry, connection, monkeypatch):
    monkeypatch.setattr(portions, "RECORDS", 10)
    made = commits(served.registry, 25)
    for number in range(25):
        served.registry.start_run(NewRun(id=f"run-{number}", name="one"))
    before = connection.requests
    assert registry.find(Query(sort=("version",))) == made
    assert connection.requests - before == 3
    assert registry.find(Query(sort=("version",), limit=10, offset=5)) == made[5:15]
    assert connection.requests - before == 4
    assert registry.find(Query(sort=("version",), limit=21)) == made[:21]
    assert connection.requests - before == 7
    assert registry.runs() == served.registry.runs()
    assert connection.requests - before == 10
    assert registry.runs(limit=10) == served.registry.runs(limit=10)
    assert connection.requests - before == 11


def test_links_come_in_parts_that_name_what_is_theirs(served, registry, monkeypatch):
    made = commits(served.registry, 9)
    for number in range(3):
        served.registry.start_run(NewRun(id=f"run-{number}", name="one"))
        served.registry.add_inputs(f"run-{number}", [version.id for version in made])
    served.registry.delete(NAME, 3)
    monkeypatch.setattr(portions, "PORTION", 2000)
    whole = served.registry.links(runs=["run-0", "run-1", "run-2"])
    after = 0
    parts: list[wire.Lineage] = []
    while not parts or parts[-1].more:
        part = served.ask("POST", "links", wire.LinksWanted(runs=["run-0", "run-1", "run-2"], after=after))
        parts.append(part.message(wire.Lineage))
        after += len(parts[-1].links)
        assert {record.id for record in parts[-1].runs} == {link.run for link in parts[-1].links}
        named = {link.version for link in parts[-1].links} - {made[3].id}
        assert {record.id for record in parts[-1].versions} == named
    assert len(parts) == 4  # what is told of the deleted version takes room too
    assert [link for part in parts for link in part.links] == whole.links
    assert registry.links(runs=["run-0", "run-1", "run-2"]) == whole


# -- over HTTP alone ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("media", [wire.JSON, wire.MSGPACK])
def test_a_run_from_start_to_end(served, media):
    new = NewRun(id="one", name="the one", job_type="train", config={"lr": 0.1}, command=("python", "train.py"))
    started = served.ask("POST", "runs", new, media=media)
    assert started.headers["content-type"] == media
    assert started.message(RunRecord) == served.registry.run("one")
    made = commit(served.registry, "a", run="one").version
    used = commit(served.registry, "b").version
    assert served.ask("PUT", "runs/one/life", wire.RunLife(60), media=media).status == 204
    assert served.ask("POST", "runs/one/inputs", wire.Inputs([used.id]), media=media).status == 204
    ended = served.ask("PATCH", "runs/one", wire.RunChange(state="failed", exit_status=3), media=media)
    record = ended.message(RunRecord)
    assert (record.state, record.exit_status, record.inputs, record.outputs) == ("failed", 3, 1, 1)
    listed = served.ask("GET", "runs?job_type=train&state=failed", media=media).message(wire.Runs)
    assert listed == wire.Runs([record])
    found = served.ask("POST", "links", wire.LinksWanted(versions=[made.id, used.id]), media=media).message(
        wire.Lineage
    )
    assert [(link.run, link.version, link.output) for link in found.links] == [
        ("one", *pair) for pair in sorted([(made.id, True), (used.id, False)])
    ]
    assert all(isinstance(link, Link) for link in found.links)


@pytest.mark.parametrize(
    ("method", "path", "message", "status", "code"),
    [
        ("GET", "runs/gone", None, 404, "not-found"),
        ("GET", "runs/a%20b", None, 404, "not-found"),
        ("PATCH", "runs/gone", wire.RunChange(), 404, "not-found"),
        ("PUT", "runs/gone/life", wire.RunLife(60), 404, "not-found"),
        ("PUT", "runs/gone/life", wire.RunLife(-1), 400, "invalid-input"),
        ("POST", "runs/gone/inputs", wire.Inputs([]), 404, "not-found"),
        ("POST", "runs", NewRun(id="a b", name="x"), 400, "invalid-input"),
        ("GET", "runs?state=odd", None, 400, "invalid-input"),
        ("GET", "runs?limit=x", None, 400, "invalid-input"),
        ("GET", "runs?limit=-1", None, 400, "invalid-input"),
        ("GET", "runs?offset=-1", None, 400, "invalid-input"),
        ("POST", "find", Query(where="metadata.x >"), 400, "invalid-input"),
        ("POST", "find", Query(limit=-1), 400, "invalid-input"),
        ("DELETE", f"artifacts/{NAME}/versions/7", None, 404, "not-found"),
        ("DELETE", f"artifacts/{NAME}/versions/0", None, 409, "conflict"),
        ("DELETE", f"artifacts/{NAME}/versions/0?delete_aliases=maybe", None, 400, "invalid-input"),
        ("POST", f"artifacts/{NAME}/parts", wire.Part("", digest("x"), 1), 400, "invalid-input"),
        ("POST", f"artifacts/{NAME}/parts", wire.Part("draft", digest("x"), 77), 409, "conflict"),
        ("GET", f"artifacts/{NAME}/parts", None, 400, "invalid-input"),
    ],
)
def test_what_is_wrong_is_said_by_its_status(served, method, path, message, status, code):
    commit(served.registry, "a", aliases=("best",))
    answer = served.ask(method, path, message)
    assert (answer.status, answer.code) == (status, code)


def test_a_deleted_version_is_gone_for_everybody_who_follows(served, registry):
    commit(served.registry, "a")
    commit(served.registry, "b")
    before = registry.changed(-1, seconds=0)
    assert registry.resolve(NAME, "latest").number == 1
    registry.delete(NAME, 1)
    assert registry.revision() > before
    assert registry.resolve(NAME, "latest").number == 0

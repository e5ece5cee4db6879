"""The database behind servers crashes or is away, a server dies between commit and answer: one version, and no work is lost."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.conftest import eventually
from tests.faults.proxy import interrupted, lost_reply, relay, then
from tests.faults.remote.machines import (
    BUCKET,
    COMMITS,
    ERRNOS,
    LARGE,
    PACK,
    PATIENCE,
    Reading,
    Team,
    finish,
    in_time,
    read,
    read_again,
    read_all,
    shown,
)
from tests.postgres import Server as Cluster

BACK_END = BUCKET

AWAY = 3.0
"""Seconds for which a database is away that clients wait for."""


@pytest.fixture
def fresh(tmp_path: Path) -> Path:
    (tmp_path / "fresh").mkdir()
    for name, size in (("large", 1 << 20), ("small", 1000)):
        (tmp_path / "fresh" / name).write_bytes(os.urandom(size))
    return tmp_path / "fresh"


@pytest.fixture
def second(server: Team, tmp_path: Path) -> Iterator[Team]:
    """Another server of the same registry and bucket."""
    made = Team(tmp_path / "second", server.database, server.bucket, server.far, beside=server)
    try:
        made.start()
        yield made
    finally:
        made.close()
    assert "Traceback" not in made.log(), made.log()


class Database:
    """The session's cluster. It is started by one thread that lasts, as it ends with the thread that started it."""

    def __init__(self, cluster: Cluster, thread: ThreadPoolExecutor) -> None:
        self._cluster = cluster
        self._thread = thread

    def stop(self) -> None:
        """End it and every connection."""
        self._thread.submit(self._cluster.stop).result()

    def start(self) -> None:
        """Start it; clients are let in on return."""
        self._thread.submit(self._cluster.start).result()

    def crash(self) -> None:
        """As ``pg_ctl restart -m immediate``: it recovers from its log."""
        self._thread.submit(self._cluster.stop, signal.SIGQUIT).result()
        self.start()


@pytest.fixture
def database(postgres: Cluster) -> Iterator[Database]:
    """It runs again when the test ends."""
    with ThreadPoolExecutor(1) as thread:
        yield Database(postgres, thread)
        thread.submit(postgres.stop).result()
    postgres.start()


def stage(machine, name: str, source: Path) -> None:
    staging = machine.staging(name)
    for path, data in read_all(source).items():
        (staging / path).write_bytes(data)


# -- a database that crashes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "where", "act"),
    [
        ("upload", PACK, relay),
        ("asked", COMMITS, relay),
        ("answered", COMMITS, lost_reply),
    ],
    ids=["upload", "asked", "answered"],
)
def test_it_crashes_during_a_put_and_a_commit(server, database, proxy, new_machine, begin, fresh, what, where, act):
    put, staged = f"crash-{what}", f"crash-{what}-staged"
    there = new_machine(seconds=PATIENCE)
    there.mount()
    stage(there, staged, fresh)
    (there.root / staged / "staging/large").write_bytes(os.urandom(1 << 20))
    for name, words in ((put, ("put", put, fresh)), (staged, ("commit", staged))):

        def crashing(exchange):
            try:
                if act is not relay:
                    act(exchange)
            finally:
                database.crash()
            relay(exchange)

        with proxy.fault(crashing, where, times=1) as happened:
            assert finish(begin(there, *words)).stdout == f"{name}:v0\n"
        assert happened.met == 1
        assert server.versions(name) == [f"{name}:v0"]
    assert read_all(shown(there.root / put / "v0")) == read_all(fresh)
    assert read_all(there.root / staged / "v0") == read_all(there.root / staged / "staging")
    there.unmount()


def test_it_crashes_while_a_commit_is_carried_out(server, database, proxy, new_machine, begin, fresh):
    """At some moment or other: a version is there once."""
    there = new_machine(seconds=PATIENCE)
    for number in range(4):
        (fresh / "number").write_bytes(bytes([number]))
        soon = threading.Timer(0.004 * number, database.crash)
        with proxy.fault(then(soon.start, relay), COMMITS, times=1):
            assert finish(begin(there, "put", "often", fresh)).stdout == f"often:v{number}\n"
        soon.join()
    assert server.versions("often") == [f"often:v{number}" for number in range(4)]


def test_it_is_away_for_a_moment_and_nobody_notices(server, database, new_machine, begin, fresh, tmp_path):
    """A put, a get and a mount wait for it."""
    there = new_machine(seconds=PATIENCE)
    there.mount()
    database.stop()
    back = threading.Timer(AWAY, database.start)
    back.start()
    put, get = begin(there, "put", "moment", fresh), begin(there, "get", "data", tmp_path / "out")
    reading = Reading(there.root / "data/v0" / LARGE)
    assert finish(put).stdout == "moment:v0\n"
    assert finish(get).status == 0
    assert reading.result() == read(server.source / LARGE)
    back.join()
    assert read_all(tmp_path / "out") == read_all(server.source)
    assert server.versions("moment") == ["moment:v0"]
    assert read_all(shown(there.root / "moment/v0")) == read_all(fresh)
    there.unmount()


def test_while_it_is_away_there_are_errors_that_say_so_and_what_was_read_is_read(
    server, database, new_machine, begin, fresh, tmp_path
):
    there = new_machine(seconds=2)
    in_time(there.mount)
    assert in_time((there.root / "data/v0/other.bin").read_bytes) == read(server.source / "other.bin")
    in_time(lambda: stage(there, "away", fresh))
    database.stop()

    def told(*words: object) -> bool:
        """Whether what the server says has come in time: its last answer may be late, of which is told instead."""
        done = finish(begin(there, *words))
        assert done.status == 1, words
        assert "cannot be reached: start it" in done.stderr or "does not answer" in done.stderr, done
        return "cannot be reached: start it" in done.stderr

    for words in (("put", "away-put", fresh), ("commit", "away"), ("get", "data", tmp_path / "out")):
        eventually(lambda words=words: told(*words))
    assert read(there.root / "data/v0/other.bin") == read(server.source / "other.bin")
    assert read_all(there.root / "away/staging") == read_all(fresh)
    database.start()
    # No server was restarted.
    there.cli.env["ARTIFACTFS_TIMEOUT"] = str(PATIENCE)
    assert finish(begin(there, "put", "away-put", fresh)).stdout == "away-put:v0\n"
    assert read_again(there.root / "data/v0") == read_all(server.source)
    assert in_time(lambda: there.commit("away")) == "away:v0"
    assert server.versions("away") == ["away:v0"]
    assert read_again(there.root / "away/v0") == read_all(fresh)
    there.unmount()


# -- a server that dies beside another one -----------------------------------------------------------------------------


def test_a_server_that_dies_between_a_commit_and_its_answer_made_one_version(
    server, second, proxy, new_machine, begin, fresh
):
    """The other one is asked again, and knows."""
    there = new_machine(seconds=PATIENCE)
    there.mount()
    stage(there, "between-staged", fresh)
    for name, words in (("between", ("put", "between", fresh)), ("between-staged", ("commit", "between-staged"))):

        def dies(exchange):
            try:
                lost_reply(exchange)
            finally:
                server.kill()
                proxy.target = second.port

        with proxy.fault(dies, COMMITS, times=1) as happened:
            assert finish(begin(there, *words)).stdout == f"{name}:v0\n"
        assert happened.met == 1
        assert second.versions(name) == [f"{name}:v0"]
        proxy.target = server.port
        server.start()
    assert read_all(shown(there.root / "between/v0")) == read_all(there.root / "between-staged/v0") == read_all(fresh)
    there.unmount()


def test_a_server_that_dies_while_it_is_used_is_replaced_by_another(
    server, second, proxy, packs, new_machine, begin, fresh, tmp_path
):
    """Behind an address that leads to the other one then: reads, a put and a commit end well."""
    there = new_machine(seconds=PATIENCE)
    there.mount()
    stage(there, "over-staged", fresh)

    def fail_over() -> None:
        server.kill()
        proxy.target = second.port

    try:
        with packs.fault(interrupted(200_000, fail_over), times=1) as happened:
            get, reading = begin(there, "get", "data", tmp_path / "out"), Reading(there.root / "data/v0" / LARGE)
            put, commit = begin(there, "put", "over", fresh), begin(there, "commit", "over-staged")
            assert finish(put).stdout == "over:v0\n"
            assert finish(commit).stdout == "over-staged:v0\n"
            assert finish(get).status == 0
            assert reading.result() == read(server.source / LARGE)
        assert happened.met == 1
        assert read_all(tmp_path / "out") == read_all(server.source)
        assert second.versions("over") == ["over:v0"]
        assert second.versions("over-staged") == ["over-staged:v0"]
        assert read_all(shown(there.root / "over/v0")) == read_all(there.root / "over-staged/v0") == read_all(fresh)
    finally:
        server.restart()
    there.unmount()


def test_with_its_server_and_its_database_away_what_was_read_is_read(server, database, proxy, new_machine):
    there = new_machine(seconds=2)
    in_time(there.mount)
    assert in_time((there.root / "data/v0/other.bin").read_bytes) == read(server.source / "other.bin")
    server.kill()
    database.stop()
    try:
        with proxy.refusing():
            assert read(there.root / "data/v0/other.bin") == read(server.source / "other.bin")
            assert read(there.root / "data/v0/small/f01") in ERRNOS
    finally:
        database.start()
        server.start()
    assert read_again(there.root / "data/v0") == read_all(server.source)
    there.unmount()

"""The server scrubs: it finds damage before anybody reads it, goes on after a restart, and two servers do not do it twice."""

from __future__ import annotations

import json
import random
import re
import signal
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from artifactfs.content.local import LocalStore
from artifactfs.content.stores import LocalStores
from artifactfs.health.pace import Pace, Stopped
from artifactfs.registry.sql import SQLRegistry
from artifactfs.repository import Repository
from artifactfs.server.log import Log
from artifactfs.server.metrics import Metrics
from artifactfs.server.scrubbing import LEASE_SECONDS, TOPIC, Scrubbing
from tests.conftest import Cli, eventually
from tests.health.test_interrupted import damage, put_packs
from tests.server.conftest import ask

DAY = 86400.0


class Machine:
    """A server's scrubbing over the repository, without the server."""

    def __init__(self, place: Path, *, rate: int = 0) -> None:
        self.now = 100 * DAY
        self.lines: list[str] = []
        self.registry = SQLRegistry(place / "registry.db")
        self.stores = LocalStores(place / "store")
        self.metrics = Metrics(lambda: (0, 0), lambda: 0)
        self.log = Log(self.lines.append)
        self.scrubbing = Scrubbing(
            self.registry,
            self.stores,
            days=30,
            rate=rate,
            log=self.log,
            metrics=self.metrics,
            clock=lambda: self.now,
        )

    def count(self, name: str) -> float:
        found = re.search(rf"^artifactfs_scrub_{name} (\S+)$", self.metrics.text().decode(), re.MULTILINE)
        assert found is not None
        return float(found[1])

    def messages(self) -> list[str]:
        self.log.close()
        return [json.loads(line)["message"] for line in self.lines]

    def close(self) -> None:
        self.log.close()
        self.stores.close()
        self.registry.close()


@pytest.fixture
def place(repository: Repository) -> Path:
    put_packs(repository, 4)
    return Path(repository.location)


@pytest.fixture
def one(place: Path) -> Iterator[Machine]:
    with closing(Machine(place)) as machine:
        yield machine


@pytest.fixture
def other(place: Path) -> Iterator[Machine]:
    with closing(Machine(place)) as machine:
        yield machine


def test_everything_is_read_once_in_so_many_days(one: Machine, other: Machine):
    one.scrubbing.look()
    assert one.count("chunks_total") == 8
    assert one.count("damaged_total") == 0
    assert one.count("finished_timestamp_seconds") == one.now
    one.now = other.now = one.now + 29 * DAY
    one.scrubbing.look()
    other.scrubbing.look()
    assert (one.count("chunks_total"), other.count("chunks_total")) == (8, 0)
    assert other.count("finished_timestamp_seconds") == 100 * DAY
    one.now += DAY
    one.scrubbing.look()
    assert one.count("chunks_total") == 16
    assert one.messages() == []


def test_the_log_names_files_that_a_damage_hits(repository: Repository, one: Machine):
    version = repository.registry.versions("data")[2]
    entry = repository.entry(version, "file")
    damage(repository, repository.registry.locate([entry.digest])[entry.digest].pack)  # type: ignore[union-attr]
    one.scrubbing.look()
    assert one.count("damaged_total") == 1
    found = one.messages()
    assert "is damaged in pack" in found[0]
    assert [line.partition(" is damaged:")[0] for line in found[1:]] == ["scrub: default/data:v2/file"]
    assert "run `artifactfs verify --repair` here" in found[1]


def test_while_one_server_scrubs_another_does_not(one: Machine, other: Machine):
    assert one.scrubbing._claim(one.registry) is not None
    other.scrubbing.look()
    assert other.count("chunks_total") == 0
    # It was killed, and its lease ends.
    other.now += LEASE_SECONDS + 1
    other.scrubbing.look()
    assert other.count("chunks_total") == 8


def test_a_server_whose_lease_was_taken_over_stops(one: Machine, other: Machine, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("artifactfs.server.scrubbing.SAVE_SECONDS", 0.0)
    text = None
    scrubbed = one.metrics.scrubbed

    def taken(chunks: int, damaged: int) -> None:
        nonlocal text
        scrubbed(chunks, damaged)
        if text is None:
            text = one.registry.note(TOPIC)
            other.now += LEASE_SECONDS + 1
            other.scrubbing.look()

    monkeypatch.setattr(one.metrics, "scrubbed", taken)
    one.scrubbing.look()
    assert one.count("chunks_total") == 1
    assert other.count("chunks_total") == 8


def test_it_goes_on_where_it_was_stopped(place: Path, one: Machine, other: Machine, monkeypatch: pytest.MonkeyPatch):
    scrubbed = one.metrics.scrubbed

    def stopping(chunks: int, damaged: int) -> None:
        scrubbed(chunks, damaged)
        if one.count("chunks_total") == 3:
            one.scrubbing.stop()

    monkeypatch.setattr(one.metrics, "scrubbed", stopping)
    with pytest.raises(Stopped):
        one.scrubbing.look()
    other.scrubbing.look()
    read = one.count("chunks_total")
    assert 3 <= read < 8
    assert other.count("chunks_total") == 8 - read


def test_it_keeps_to_its_rate_and_stops_at_once():
    pace = Pace(10)
    pace.take(10)
    pace.stop()
    with pytest.raises(Stopped):
        pace.take(0)


def test_a_server_does_it_by_itself(cli: Cli):
    (cli.home / "file").write_bytes(random.Random(1).randbytes(50_000))
    cli("put", "data", "file")
    place = cli.home / ".local/share/artifactfs/repository"
    pack = max(place.glob("store/**/*.pack"), key=lambda path: path.stat().st_size)
    data = bytearray(pack.read_bytes())
    data[1000] ^= 1
    pack.write_bytes(data)
    with cli.start("serve", "--port", 0, "--scrub-days", "0.00001") as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().split()[-1]
            # Once all is read and told; what was found is counted before.
            eventually(
                lambda: b"artifactfs_scrub_finished_timestamp_seconds 0.0" not in ask(url, "GET", "/metrics").body
            )
            assert b"artifactfs_scrub_damaged_total 0.0" not in ask(url, "GET", "/metrics").body
            process.send_signal(signal.SIGTERM)
            _, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 0
    lines = [json.loads(line) for line in errors.splitlines()]
    assert any("scrub: default/data:v0/file is damaged" in line.get("message", "") for line in lines)
    assert "--scrub-days 0 never scrubs" in cli.refuses("serve", "--port", 0, "--scrub-rate", "0", status=2)


def test_notes_are_exchanged_by_one_alone(one: Machine, other: Machine):
    assert one.registry.note("topic") is None
    assert one.registry.exchange_note("topic", None, "a")
    assert not other.registry.exchange_note("topic", None, "b")
    assert not other.registry.exchange_note("topic", "b", "c")
    assert other.registry.exchange_note("topic", "a", "b")
    assert one.registry.note("topic") == "b"
    assert one.registry.of_project("x" * 128).note("topic") is None
    assert isinstance(one.stores.of_project("default"), LocalStore)

"""The witness: what Runs open is recorded once, later when it cannot be now, and never at the cost of an open."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from artifactfs.errors import InvalidInput, NotFound, Unavailable
from artifactfs.mount import witness as module
from artifactfs.mount.witness import REMEMBERED_RUNS, Witness
from tests.conftest import eventually

RUN = "r1"


class Recording:
    """The part of a Registry that a witness asks; ``fails`` is raised by each call until it is None."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[int, ...]]] = []
        self.attempts = 0
        self.fails: Exception | None = None
        self.deleted: set[int] = set()
        self.hold = threading.Event()
        self.hold.set()

    def add_inputs(self, run: str, versions: list[int]) -> None:
        self.attempts += 1
        assert self.hold.wait(60)
        if self.fails is not None:
            raise self.fails
        if self.deleted & set(versions):
            raise NotFound("there is no version with this id")
        self.calls.append((run, tuple(versions)))

    def version(self, name: str, number: int) -> Any:
        made_by = {1: RUN, 2: "another"}
        record = type("Record", (), {"id": 10 + number, "run": made_by.get(number, "")})
        return None if number == 9 else record

    @property
    def inputs(self) -> set[tuple[str, int]]:
        return {(run, version) for run, versions in self.calls for version in versions}


class Areas:
    """The part of Staging that a witness asks."""

    def __init__(self, bases: dict[int, tuple[str, int]]) -> None:
        self.bases = bases

    def base_of(self, node: int) -> tuple[str, int] | None:
        if node == 0:
            raise OSError(116, "Stale file handle")
        return self.bases.get(node)


@pytest.fixture
def registry() -> Recording:
    return Recording()


@pytest.fixture
def witness(registry: Recording, monkeypatch: pytest.MonkeyPatch) -> Iterator[Witness]:
    monkeypatch.setattr(module, "RETRY_SECONDS", (0.01, 0.01))
    monkeypatch.setattr(module, "CLOSE_SECONDS", 0.05)
    made = Witness(registry)
    made.adopt([os.getpid()], RUN)
    yield made
    made.close()


def test_an_input_is_recorded_once_however_often_it_is_opened(witness, registry):
    for _ in range(5):
        for version in (1, 2, 3):
            witness.opened(os.getpid(), version)
        assert witness.settle(seconds=60) == 0
    assert sorted(version for _, versions in registry.calls for version in versions) == [1, 2, 3]
    assert registry.attempts <= 3


def test_who_is_in_no_run_makes_no_call_and_no_thread(registry):
    before = threads()  # those of tests before this one may still be ending
    witness = Witness(registry)
    witness.opened(os.getpid(), 1)
    witness.opened_base(os.getpid(), 5, Areas({5: ("data", 2)}))
    assert witness.settle(seconds=60) == 0
    assert registry.attempts == 0
    assert threads() <= before
    witness.close()


def threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "witness"}


def test_an_open_does_not_wait_for_the_registry(witness, registry):
    registry.hold.clear()
    for version in range(100):
        witness.opened(os.getpid(), version)
    eventually(lambda: registry.attempts == 1)
    assert registry.calls == []
    registry.hold.set()
    assert witness.settle(seconds=60) == 0
    assert registry.inputs == {(RUN, version) for version in range(100)}
    assert registry.attempts <= 3  # what comes while a call is under way goes together


def test_what_cannot_be_recorded_now_waits(witness, registry, caplog):
    caplog.set_level("INFO")
    registry.fails = Unavailable("the server does not answer")
    witness.opened(os.getpid(), 1)
    eventually(lambda: "inputs of the run r1 wait: the server does not answer" in caplog.text)
    assert witness.settle(seconds=0.1) == 1
    registry.fails = None
    witness.opened(os.getpid(), 2)
    assert witness.settle(seconds=60) == 0
    assert registry.inputs == {(RUN, 1), (RUN, 2)}


def test_what_is_under_way_is_not_recorded_yet(witness, registry, caplog):
    registry.hold.clear()
    witness.opened(os.getpid(), 1)
    eventually(lambda: registry.attempts == 1)
    witness.opened(os.getpid(), 2)
    assert witness.settle(seconds=0.1) == 2
    witness.close()
    assert "2 inputs of the run r1 are not recorded: the mount has ended" in caplog.text
    registry.hold.set()


def test_what_is_left_at_the_end_is_in_the_log(witness, registry, caplog):
    registry.fails = Unavailable("the server does not answer")
    witness.opened(os.getpid(), 1)
    witness.opened(os.getpid(), 2)
    witness.close()
    assert "2 inputs of the run r1 are not recorded: the mount has ended" in caplog.text
    witness.opened(os.getpid(), 3)  # a last request of the kernel
    witness.close()


def test_a_deleted_version_costs_no_other_input(witness, registry):
    registry.hold.clear()
    registry.deleted = {2}
    witness.opened(os.getpid(), 0)
    eventually(lambda: registry.attempts == 1)
    for version in (1, 2, 3):
        witness.opened(os.getpid(), version)
    registry.hold.set()
    assert witness.settle(seconds=60) == 0
    assert registry.inputs == {(RUN, 0), (RUN, 1), (RUN, 3)}


@pytest.mark.parametrize("error", [NotFound("there is no run 'r1'"), InvalidInput("no"), ZeroDivisionError("oh")])
def test_what_is_refused_is_said_and_does_not_end_the_witness(witness, registry, caplog, error):
    registry.fails = error
    witness.opened(os.getpid(), 1)
    assert witness.settle(seconds=60) == 0
    witness.opened(os.getpid(), 2)
    assert witness.settle(seconds=60) == 0
    assert str(error) in caplog.text
    if isinstance(error, NotFound):
        assert len(caplog.records) == 1  # a run of another project does not fill the log
    registry.fails = None
    witness.opened(os.getpid(), 3)
    assert witness.settle(seconds=60) == 0
    assert registry.inputs == {(RUN, 3)}


def test_a_file_in_staging_is_an_input_as_long_as_it_is_a_versions(witness, registry):
    areas = Areas({5: ("data", 2), 6: ("data", 2), 7: ("data", 3)})
    for node in (0, 4, 5, 6, 7):
        witness.opened_base(os.getpid(), node, areas)
    assert witness.settle(seconds=60) == 0
    assert registry.inputs == {(RUN, 12), (RUN, 13)}


def test_what_a_run_committed_itself_is_no_input_when_it_reads_on_in_staging(witness, registry):
    witness.opened_base(os.getpid(), 5, Areas({5: ("data", 1)}))
    witness.opened_base(os.getpid(), 5, Areas({5: ("gone", 9)}))
    assert witness.settle(seconds=60) == 0
    assert registry.calls == []


def test_what_is_remembered_is_bounded(witness):
    for number in range(REMEMBERED_RUNS + 20):
        witness._note(f"run{number}", 1)
    assert len(witness._seen) <= REMEMBERED_RUNS


def test_many_threads_record_each_input_once(witness, registry):
    start = threading.Barrier(8)

    def work() -> None:
        witness.adopt([threading.get_native_id()], RUN)
        start.wait(60)
        for version in range(200):
            witness.opened(threading.get_native_id(), version)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert witness.settle(seconds=60) == 0
    recorded = [version for _, versions in registry.calls for version in versions]
    assert sorted(recorded) == list(range(200))

"""Several processes on one SQLite registry, and processes that are killed."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from artifactfs.registry.sql import SQLRegistry
from tests.conformance.registry import NAME, commit, digest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "registry.db"


@pytest.fixture
def reopen(path: Path) -> Iterator[Callable[[], SQLRegistry]]:
    """Opens the registry in this process, making it when it is not there."""
    with ExitStack() as stack:
        yield lambda: stack.enter_context(closing(SQLRegistry(path, create=True)))


@pytest.fixture
def start() -> Iterator:
    """Starts a writer; none outlives the test."""
    with ExitStack() as stack:

        def start(*words: object) -> subprocess.Popen[str]:
            process = stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-W", "error", "-m", "tests.registry.writer", *map(str, words)],
                    cwd=ROOT,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
            stack.callback(process.kill)
            return process

        yield start


def finish(process: subprocess.Popen[str]) -> list[str]:
    out, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (0, "")
    return out.splitlines()


def test_eight_processes_commit_without_losing_or_doubling_a_version(start, path, reopen):
    reopen()
    writers = [start("commits", path, f"writer{number}", 10) for number in range(8)]
    lines = [[tuple(map(int, line.split())) for line in finish(writer)] for writer in writers]
    for own in lines:
        numbers = [number for number, _ in own]
        revisions = [revision for _, revision in own]
        assert numbers == sorted(set(numbers))
        assert revisions == sorted(set(revisions))
    assert sorted(number for own in lines for number, _ in own) == list(range(80))
    registry = reopen()
    versions = registry.versions(NAME)
    assert [version.number for version in versions] == list(range(80))
    assert {version.digest for version in versions} == {
        digest((f"writer{writer}", number)) for writer in range(8) for number in range(10)
    }
    assert registry.revision() == 80
    assert registry.aliases(NAME) == {"latest": 79}
    assert registry.check() == []


def test_of_two_processes_on_one_base_one_wins(start, path, reopen):
    registry = reopen()
    commit(registry, "base")
    racers = [start("race", path, contents) for contents in ("a", "b")]
    for racer in racers:
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        racer.stdin.write("go\n")
        racer.stdin.flush()
    assert sorted(line for racer in racers for line in finish(racer)) == ["lost", "won"]
    assert len(registry.versions(NAME)) == 2


def test_processes_that_create_it_at_once_share_one_registry(start, path, reopen):
    creators = [start("create", path) for _ in range(4)]
    for creator in creators:
        assert creator.stdout.readline() == "ready\n"
    for creator in creators:
        creator.stdin.write("go\n")
        creator.stdin.flush()
    assert sorted(line for creator in creators for line in finish(creator)) == ["0", "1", "2", "3"]
    assert len(reopen().versions(NAME)) == 4
    assert not list(path.parent.glob("*.new*"))


def test_killed_before_any_statement_a_commit_leaves_the_old_state_and_then_the_new_one(start, path):
    steps = [line.split() for line in finish(start("killed", path))]
    states = [(state, damages, revision, end) for _, state, damages, revision, end in steps]
    assert len(states) > 10
    assert set(states[:-1]) == {("old", "0", "1", "killed")}
    assert states[-1] == ("new", "0", "2", "lived")


@pytest.mark.parametrize("delay", [0.0, 0.003, 0.01, 0.05])
def test_killed_at_any_moment_nothing_acknowledged_is_lost_and_nothing_is_mixed(start, path, reopen, delay):
    writer = start("endless", path)
    acknowledged = [int(writer.stdout.readline()) for _ in range(5)][-1]
    time.sleep(delay)
    writer.kill()
    acknowledged = max([acknowledged, *map(int, writer.stdout.read().splitlines())])
    registry = reopen()
    assert registry.check() == []
    numbers = [version.number for version in registry.versions(NAME)]
    assert numbers == list(range(len(numbers)))
    last = numbers[-1]
    assert last - acknowledged in {0, 1}
    assert registry.aliases(NAME) == dict.fromkeys(("a", "b", "c", "latest"), last)
    assert registry.revision() == len(numbers)
    chunks = [digest((number, part)) for number in numbers for part in range(50)]
    assert registry.missing(chunks) == set()
    # Whole packs or none, also of the commit that never came.
    assert len(registry.missing([digest((last + 1, part)) for part in range(50)])) in {0, 50}
    assert commit(registry, "more", base=last).version.number == last + 1


def test_the_same_commit_after_a_kill_is_made_once(start, path, reopen):
    writer = start("endless", path)
    for _ in range(3):
        writer.stdout.readline()
    writer.kill()
    writer.wait()
    registry = reopen()
    count = len(registry.versions(NAME))
    again = commit(registry, 2, aliases=("a", "b", "c"), commit_id="endless-2")
    assert (again.created, again.version.number) == (True, 2)
    assert len(registry.versions(NAME)) == count
    assert registry.artifact(NAME).latest == count - 1

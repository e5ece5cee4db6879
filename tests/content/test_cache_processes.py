"""Several processes on one cache, and processes that are killed: one fetch a chunk, no wrong bytes, nothing left uncounted."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from artifactfs.content.cache import Cache, CacheSettings
from artifactfs.content.claims import Claims
from artifactfs.content.shelf import Shelf
from artifactfs.model.digest import DATA, digest
from tests.conftest import eventually
from tests.content.cached import PLENTY, extents, get, keep, offer, on_disk, present, processes
from tests.content.stores import noise

MIB = 1 << 20
SLACK = MIB
"""Bytes by which the tables of several processes may grow at once, after room was made."""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def opened(directory: Path) -> Iterator[Callable[..., Cache]]:
    with ExitStack() as stack:

        def opened(limit: int = PLENTY) -> Cache:
            return stack.enter_context(closing(Cache(CacheSettings(directory, limit=limit, reserve=0))))

        yield opened


@pytest.fixture
def start() -> Iterator:
    with processes() as start:
        yield start


def name_of(number: int, size: int = 100) -> bytes:
    return digest(DATA, noise(number, size))


# -- claims ------------------------------------------------------------------------------------------------------------


def test_a_claim_is_one_process_s_until_it_is_killed(opened, directory, start):
    cache = opened()
    other = start("claim", directory, 1)
    assert other.line() == "True"
    assert not cache.claim(name_of(1))
    assert not cache.claim_within(name_of(1), 0.05)
    assert cache.claim(name_of(2))
    late = start("claim", directory, 2)
    assert late.line() == "False"
    other.send_signal(signal.SIGKILL)
    assert cache.claim_within(name_of(1), 30)
    assert start("claim", directory, 1).line() == "False"


def test_a_claim_ends_by_release_and_with_the_cache(opened):
    first, second = opened(), opened()
    assert first.claim(name_of(1))
    assert first.claim(name_of(2))
    assert not first.claim(name_of(1))
    assert not second.claim(name_of(1))
    first.release([name_of(1), name_of(7)])
    assert second.claim(name_of(1))
    assert not second.claim(name_of(2))
    first.close()
    assert second.claim(name_of(2))
    second.release([name_of(2)])
    second.release([name_of(2)])


def test_thousands_of_claims_are_held_apart(opened):
    first, second = opened(), opened()
    names = [name_of(number) for number in range(3000)]
    assert all(map(first.claim, names))
    assert not any(map(second.claim, names[::100]))
    first.release(names[:1000])
    assert all(map(second.claim, names[:1000]))
    assert not any(map(second.claim, names[1000::100]))


def test_neighbouring_numbers_are_claims_of_their_own(tmp_path):
    with closing(Claims(tmp_path / "claims")) as first, closing(Claims(tmp_path / "claims")) as second:
        for number in (0, 2, (1 << 62) - 1):
            assert first.take(number)
        assert second.take(1)
        first.give(2)
        assert second.take(2)
        assert not second.take(0)
        assert not second.take((1 << 62) - 1)


def test_a_chunk_is_fetched_once_by_however_many_processes(directory, start, tmp_path):
    log = tmp_path / "fetched"
    fetchers = [start("fetch", directory, 150, log) for _ in range(4)]
    for fetcher in fetchers:
        assert fetcher.line() == "ready"
    for fetcher in fetchers:
        fetcher.stdin.write("\n")
        fetcher.stdin.flush()
    for fetcher in fetchers:
        fetcher.ended()
    assert sorted(map(int, log.read_text().split())) == list(range(150))


def test_when_the_one_that_fetches_is_killed_another_one_does(directory, start, tmp_path):
    log = tmp_path / "fetched"
    fetchers = [start("fetch", directory, 60, log, 17) for _ in range(2)] + [start("fetch", directory, 60, log)]
    for fetcher in fetchers:
        assert fetcher.line() == "ready"
    for fetcher in fetchers:
        fetcher.stdin.write("\n")
        fetcher.stdin.flush()
    fetchers[2].ended()
    assert sorted(map(int, log.read_text().split())) == list(range(60))


# -- keeping at once ---------------------------------------------------------------------------------------------------


def test_the_limit_holds_for_all_processes_together(opened, directory, start):
    limit = 30 * MIB
    cache = opened(limit)
    sizes = (20_000, 3 * MIB, 300_000, 8 * MIB)
    keepers = [start("keep", directory, limit, 1000 * each, 40, size) for each, size in enumerate(sizes)]
    for keeper in keepers:
        assert keeper.line() == "ready"
    for keeper in keepers:
        keeper.stdin.write("\n")
        keeper.stdin.flush()
    worst = 0
    while any(keeper.poll() is None for keeper in keepers):
        worst = max(worst, on_disk(directory))
    assert worst <= limit + SLACK
    for keeper in keepers:
        assert int(keeper.ended()) > 0
    status = cache.status()
    assert limit // 2 < status.bytes <= limit + SLACK
    assert abs(status.bytes - on_disk(directory)) < SLACK


def test_counts_are_summed_over_processes(opened, directory, start):
    for process in [start("count", directory, 10 * number, number) for number in range(1, 5)]:
        process.ended()
    status = opened().status()
    assert (status.hits, status.misses, status.fetched, status.saved) == (100, 10, 100, 1000)


def test_what_another_process_has_open_stays_readable_when_it_is_cleared(opened, directory, start):
    cache = opened()
    (name,) = keep(cache, noise(5, 100_000))
    other = start("hold", directory, 5)
    assert other.line() == "True"
    assert cache.clear() >= 100_000
    assert extents(directory) == []
    assert present(cache, [name]) == [False]
    other.stdin.write("\n")
    other.stdin.flush()
    assert other.line() == "True False"


# -- killed ------------------------------------------------------------------------------------------------------------


def test_what_a_killed_process_was_writing_is_removed_by_the_next(opened, directory, start):
    first = opened()
    keep(first, noise(2, 1000))
    first.close()
    process = start("half", directory, 5 * MIB)
    assert process.wait(60) == -signal.SIGKILL
    assert sorted(path.stat().st_size for path in extents(directory)) == [1000, 5 * MIB // 2]
    # Counted from the beginning, so that the limit held.
    cache = Cache(CacheSettings(directory, limit=PLENTY, reserve=0))
    with closing(cache):
        assert cache._caretaker.shelf.catalog.sums(0).taken == 4096 + 5 * MIB
        keep(cache, noise(3, 1000))
        assert sorted(path.stat().st_size for path in extents(directory)) == [1000, 1000]
        assert cache.status().chunk_bytes == 2 * 4096
        assert cache.find([name_of(1, 5 * MIB)], DATA) == {}
        keep(cache, noise(1, 5 * MIB))


def test_a_process_that_goes_on_removes_what_another_left(opened, directory, start):
    cache = opened()
    keep(cache, noise(2, 1000))
    start("half", directory, 100_000).wait(60)
    assert len(extents(directory)) == 2
    cache._caretaker.do(cache._look_after)
    assert len(extents(directory)) == 1


def test_what_a_living_process_is_writing_is_left_alone(opened, directory, monkeypatch):
    writer, other = opened(), opened()
    keep(other, noise(9, 10))
    real = os.writev
    removed = []

    def slow(descriptor: int, parts: list[memoryview]) -> int:
        removed.append(other._caretaker.do(Shelf.reclaim))
        return real(descriptor, parts)

    monkeypatch.setattr(os, "writev", slow)
    (name,) = keep(writer, noise(1, 1000))
    assert removed == [0]
    assert get(other, name) == noise(1, 1000)


def test_random_kills_never_make_wrong_bytes_and_nothing_is_left(opened, directory, start):
    """Threads of several processes at a cache that is too small for them, killed all the time."""
    limit = 12 * MIB
    choice = random.Random(4)
    cache = opened(limit)
    running = [start("hammer", directory, limit, f"first {each}", 120) for each in range(3)]
    killed = 0
    worst = 0
    while killed < 12:
        time.sleep(choice.uniform(0.05, 0.5))
        worst = max(worst, on_disk(directory))
        victim = choice.choice(running)
        assert victim.poll() is None, victim.communicate()
        victim.kill()
        killed += 1
        running[running.index(victim)] = start("hammer", directory, limit, f"again {killed}", 120)
    for process in running:
        process.line()
        process.kill()
        process.wait(60)
    polite = [start("hammer", directory, limit, f"last {each}", 2) for each in range(2)]
    for process in polite:
        assert process.ended() == "started\nTrue"
    assert worst <= limit + SLACK

    # What is left is what the catalog tells of, to the file, and each chunk is what it was.
    cache._caretaker.do(cache._look_after)
    catalog = cache._caretaker.shelf.catalog
    assert catalog.unfinished() == []
    assert {int(path.name, 16) for path in extents(directory)} == catalog.numbers(0)
    assert catalog.sums(0).taken == sum(-(-path.stat().st_size // 4096) * 4096 for path in extents(directory))
    world = {name_of(number, size): (number, size) for number in range(200) for size in [5_000 + 37_000 * (number % 7)]}
    found = cache.find(world, DATA)
    assert found
    for name, held in found.items():
        assert cache.read(held) == noise(*world[name])
    assert offer(cache, noise(999, MIB))
    eventually(lambda: cache.status().trouble == "")

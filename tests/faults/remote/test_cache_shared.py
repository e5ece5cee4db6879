"""Two mounts and four `get`s on one cache, killed at random: each that lives has right bytes, and nobody waits for the dead."""

from __future__ import annotations

import random
import time
from contextlib import closing
from pathlib import Path

from artifactfs.content.cache import Cache, CacheSettings
from tests.conftest import eventually
from tests.faults.proxy import silence
from tests.faults.remote.machines import (
    HANG_SECONDS,
    LARGE,
    PACK,
    PATIENCE,
    Reading,
    finish,
    no_wrong_bytes,
    read,
    read_all,
)

ROUNDS = 5


def unkept(directory: Path) -> int:
    """How often something was not kept so far, as on a slow machine other processes had the tables for too long."""
    with closing(Cache(CacheSettings(directory))) as cache:
        return cache.status().unkept


def test_killed_at_random(server, proxy, new_machine, begin, tmp_path):
    expected = read_all(server.source)
    size = sum(map(len, expected.values()))
    cache = tmp_path / "cache"
    mounts = [new_machine(name, seconds=PATIENCE, cache=cache) for name in ("a", "b")]
    for each in mounts:
        each.mount()
    chance = random.Random(7)
    for number in range(ROUNDS):
        mounts[0]("cache", "clear")
        before, unkept_before = proxy.received(PACK), unkept(cache)
        outs = [tmp_path / f"out{number}-{each}" for each in range(4)]
        gets = [begin(mounts[each % 2], "get", "data", out) for each, out in enumerate(outs)]
        readings = [Reading(each.root / "data/v0" / LARGE) for each in mounts]
        killed = set(chance.sample(range(4), 2)) if number else set()
        for each in killed:
            time.sleep(chance.uniform(0.05, 0.4))
            gets[each].kill()
        if number == 2:
            mounts[1].kill()
        for each, (process, out) in enumerate(zip(gets, outs, strict=True)):
            if each in killed:
                process.communicate(timeout=HANG_SECONDS)
                no_wrong_bytes(out, server.source)
            else:
                assert finish(process).status == 0
                assert read_all(out) == expected
        first, second = (reading.result() for reading in readings)
        assert first == expected[LARGE]
        if number == 2:
            assert isinstance(second, int) or second == expected[LARGE]
            mounts[1].mount()
        else:
            assert second == expected[LARGE]
        # Each chunk once; what the dead had not kept yet once more. The mounts' own memory spares some.
        fetched = proxy.received(PACK) - before
        assert fetched <= size * (1.1 + len(killed) + (number == 2)) or unkept(cache) > unkept_before
    for each in mounts:
        assert read_all(each.root / "data/v0") == expected
        each.unmount()


def test_nobody_waits_for_a_process_that_was_killed_while_it_fetched(server, proxy, new_machine, begin, tmp_path):
    """Its claims are gone with it."""
    expected = read_all(server.source)
    cache = tmp_path / "cache"
    here, there = (new_machine(name, seconds=PATIENCE, cache=cache) for name in ("a", "b"))
    there.mount()
    assert read(there.root / "data/v0/small/f01") == expected["small/f01"]
    with proxy.fault(silence, PACK, method="GET") as happened:
        dead = begin(here, "get", "data", tmp_path / "out")
        eventually(lambda: happened.met >= 1)
        reading = Reading(there.root / "data/v0" / LARGE)
        time.sleep(0.2)
        dead.kill()
        dead.communicate(timeout=HANG_SECONDS)
    no_wrong_bytes(tmp_path / "out", server.source)
    assert reading.result() == expected[LARGE]
    there.unmount()

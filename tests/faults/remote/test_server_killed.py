"""The server is killed and comes back on its port: whoever was using it goes on, and nothing is made twice."""

from __future__ import annotations

import os
import random
import re
import threading
import time

import pytest

from tests.faults.proxy import cut_request, interrupted, lost_reply, relay, then
from tests.faults.remote.machines import (
    BACK_ENDS,
    COMMITS,
    ERRNOS,
    LARGE,
    PACK,
    PATIENCE,
    Reading,
    finish,
    in_time,
    read,
    read_again,
    read_all,
    shown,
)
from tests.mounted.living import Mounted

BOTH = pytest.mark.parametrize("running", BACK_ENDS, indirect=True)


def stage(machine: Mounted, name: str, files: dict[str, bytes]) -> None:
    staging = machine.staging(name)
    for path, data in files.items():
        (staging / path).write_bytes(data)


@BOTH
def test_during_reads(server, packs, new_machine, begin, tmp_path):
    expected = read_all(server.source)
    here, there = new_machine("get", seconds=PATIENCE), new_machine("mount", seconds=PATIENCE)
    with packs.fault(interrupted(200_000, server.restart), times=2) as happened:
        assert finish(begin(here, "get", "data", tmp_path / "out")).status == 0
    assert happened.met == 2
    assert read_all(tmp_path / "out") == expected
    there.mount()
    with packs.fault(interrupted(200_000, server.restart), times=2) as happened:
        assert read(there.root / "data/v0" / LARGE) == expected[LARGE]
    assert happened.met == 2
    assert read_all(there.root / "data/v0") == expected
    there.unmount()


@BOTH
@pytest.mark.parametrize(
    ("what", "where", "act"),
    [
        ("upload", PACK, cut_request(500_000)),
        ("uploaded", PACK, lost_reply),
        ("asked", COMMITS, relay),
        ("answered", COMMITS, lost_reply),
    ],
)
def test_during_a_put_and_a_commit(server, proxy, new_machine, begin, tmp_path, what, where, act):
    """``what``: how far it had come when the server was killed. Killed before it is asked and after it has answered."""
    put, staged = what, f"{what}-staged"
    files = {"large": os.urandom(2 << 20), "small": os.urandom(1000)}
    (tmp_path / "new").mkdir()
    for name, data in files.items():
        (tmp_path / "new" / name).write_bytes(data)
    there = new_machine(seconds=PATIENCE)
    there.mount()
    stage(there, staged, {**files, "large": os.urandom(2 << 20)})
    for name, words in ((put, ("put", put, tmp_path / "new")), (staged, ("commit", staged))):

        def killing(exchange):
            try:
                if act is not relay:
                    act(exchange)
            finally:
                server.restart()
            if act is relay:
                relay(exchange)

        with proxy.fault(killing, where, times=1) as happened:
            done = finish(begin(there, *words))
        assert happened.met == 1
        assert done.stdout == f"{name}:v0\n", done
        assert server.versions(name) == [f"{name}:v0"]
    assert read_all(shown(there.root / put / "v0")) == files
    assert read_all(there.root / staged / "v0") == read_all(there.root / staged / "staging")
    there.unmount()


@BOTH
def test_while_it_carries_out_a_commit(server, proxy, new_machine, begin):
    """At some moment or other, many times: a version is there once, complete."""
    there = new_machine(seconds=PATIENCE)
    there.mount()
    chance = random.Random(11)
    for number in range(6):
        stage(there, "often", {f"f{number}": os.urandom(5000)})
        soon = threading.Timer(chance.uniform(0, 0.02), server.restart)
        with proxy.fault(then(soon.start, relay), COMMITS, times=1) as happened:
            assert there.commit("often") == f"often:v{number}"
        assert happened.met == 1
        soon.join()
        assert server.versions("often") == [f"often:v{each}" for each in range(number + 1)]
        assert sorted(os.listdir(there.root / "often/latest")) == [f"f{each}" for each in range(number + 1)]
    there.unmount()


def test_while_it_is_down_what_was_read_is_read_and_the_rest_fails(server, proxy, new_machine, begin, tmp_path):
    expected = read_all(server.source)
    there = new_machine(seconds=2)
    in_time(there.mount)
    assert in_time((there.root / "data/v0/other.bin").read_bytes) == expected["other.bin"]
    assert len(in_time(lambda: os.listdir(there.root / "data/v0/small"))) == 41
    in_time(lambda: stage(there, "down", {"a": b"a"}))
    server.kill()
    with proxy.refusing():
        assert read(there.root / "data/v0" / LARGE) in ERRNOS
        assert read(there.root / "data/v0/other.bin") == expected["other.bin"]
        assert finish(begin(there, "commit", "down")).status == 1
        assert finish(begin(there, "put", "down", server.source)).status == 1
        assert finish(begin(there, "get", "data", tmp_path / "out")).status == 1
        assert there.status()["online"] is False
        # A fresh mount, and what a fresh process reads from the cache.
        there.unmount()
        there.mount()
        assert read(there.root / "data/v0/other.bin") == expected["other.bin"]
        assert read(there.root / "data/v0" / LARGE) in ERRNOS
        assert read_all(there.root / "down/staging") == {"a": b"a"}
    server.start()
    assert read_again(there.root / "data/v0") == expected
    assert in_time(lambda: there.commit("down")) == "down:v0"
    assert server.versions("down") == ["down:v0"]
    there.unmount()


def test_without_a_proxy_between_it_is_killed_at_any_time(server, proxy, new_machine, begin, tmp_path):
    """Reads, puts and commits go on meanwhile, of two machines; each version is there once, and the bytes are right."""
    machines = [new_machine(name, seconds=PATIENCE) for name in ("a", "b")]
    for each in machines:
        each.cli.env["ARTIFACTFS_REPOSITORY"] = f"http://127.0.0.1:{server.port}"
        each.mount()
    chance = random.Random(5)
    expected = read_all(server.source)
    over = threading.Event()
    kills = []

    def kill_now_and_then():
        took = 0.0  # by its last restart: on a slow machine it has more time to get something done
        while not over.wait(chance.uniform(0.5, 1.2) * max(1.0, took)):
            began = time.monotonic()
            server.restart()
            took = time.monotonic() - began
            kills.append(1)

    killer = threading.Thread(target=kill_now_and_then)
    killer.start()
    try:
        number = 0
        while number < 3 or len(kills) < 3:
            (tmp_path / "new").mkdir(exist_ok=True)
            (tmp_path / "new/data").write_bytes(os.urandom(1 << 20))
            stage(machines[0], "any-staged", {f"f{number}": os.urandom(300_000)})
            commands = [
                (machines[0], "commit", "any-staged"),
                (machines[1], "put", "any", tmp_path / "new"),
                (machines[1], "--cache-dir", tmp_path / f"cache{number}", "get", "data", tmp_path / f"{number}"),
            ]
            begun = [begin(*command) for command in commands]
            name = LARGE if number < 2 else "other.bin"
            reading = Reading(machines[number % 2].root / "data/v0" / name)
            done = [finish(process) for process in begun]
            for command, outcome in zip(commands, done, strict=True):
                # A process that has not had an answer yet does not wait for a server that is down.
                for _ in range(20):
                    if outcome.status == 0:
                        break
                    assert re.search(r"cannot reach|does not answer", outcome.stderr), outcome
                    outcome = finish(begin(*command))  # noqa: PLW2901
                assert outcome.status == 0, outcome
            assert server.versions("any") == [f"any:v{each}" for each in range(number + 1)]
            assert server.versions("any-staged") == [f"any-staged:v{each}" for each in range(number + 1)]
            assert read_all(tmp_path / f"{number}") == expected
            assert reading.result() == expected[name]
            number += 1
    finally:
        over.set()
        killer.join()
    for each in machines:
        assert read_all(each.root / "data/v0") == expected
        each.unmount()
    assert server.cli("verify").status == 0

"""Collections beside everything else, in processes that are killed, against a model. Prints how many cases it ran.

    python tests/properties/collecting.py --minutes 60
    python tests/properties/collecting.py --minutes 60 --kind deployed

A case is a repository in which three workers put, commit from staging, build on versions, delete, restore what they deleted (or store
it again), and read, while two processes collect garbage; each of them, and each server that it goes through, may be killed or stopped
for a while at any moment. Then two quiet rounds must leave every version of the model whole, and no byte in the Store that no version
needs, must free what they say, and touch no other project.

To be read in this order: garbage/ground.py (the kinds of repositories, and how processes open them), garbage/model.py (what a worker
says that it did is the model), garbage/workers.py (what workers and collectors do), this (a case), garbage/judging.py (its end).
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.properties.garbage.ground import COLLECTORS, KINDS, WORKERS, Ground, Host
from tests.properties.garbage.judging import judge
from tests.properties.garbage.workers import Worker, collect_on

OPERATIONS = 25  # of a worker in a case
KILL_SECONDS = 10.0  # and up to half as much more: after that nobody is killed any more
END_SECONDS = 120.0  # then, for what is left of the operations


class Processes:
    """Those of a case, by name: role and number."""

    def __init__(self, ground: Ground, chance: random.Random, operations: int) -> None:
        self._ground = ground
        self._chance = chance
        self._operations = operations
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, role: str, number: int) -> None:
        environ = None
        if role == "server":
            words, environ = self._ground.serving(number)
        else:
            words = [sys.executable, __file__, f"--{role}", str(self._ground.top), str(number)]
            words += [str(self._chance.getrandbits(32)), str(self._operations)]
        with self._log(role, number).open("ab") as log:
            self._running[f"{role} {number}"] = subprocess.Popen(
                words, env=environ, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def _log(self, role: str, number: int) -> Path:
        return self._ground.top / f"{role}-{number}.log"

    def running(self) -> list[str]:
        return [name for name, process in self._running.items() if process.poll() is None]

    def stop_for(self, name: str, seconds: float) -> None:
        self._running[name].send_signal(signal.SIGSTOP)
        time.sleep(seconds)
        self._running[name].send_signal(signal.SIGCONT)

    def replace(self, name: str) -> None:
        """Kill one, and have another one take its place."""
        self._running[name].kill()
        self._running[name].wait()
        role, number = name.split()
        self.start(role, int(number))

    def end(self, role: str) -> None:
        """All of a role must end well."""
        for name, process in self._running.items():
            if name.startswith(role):
                if role == "server":
                    process.terminate()
                process.wait(END_SECONDS)
                said = self._log(role, int(name.split()[1])).read_text()
                assert process.returncode == 0, f"{name} failed ({process.returncode}):\n{said[-4000:]}"
                assert "Traceback" not in said, f"{name}:\n{said[-4000:]}"

    def kill(self) -> None:
        for process in self._running.values():
            process.kill()
            process.wait()


def case(host: Host, kind: str, seed: int, *, operations: int, seconds: float) -> dict[str, int]:
    """One repository's life; returns what happened. AssertionError says what was lost or left."""
    chance = random.Random(seed)
    ground = host.lay(kind, chance)
    try:
        counts = live(ground, chance, operations, seconds)
        host.still(ground)
        counts |= judge(ground)
    except Exception:
        say(f"{kind} case with seed {seed} failed; its files are in {ground.top}")
        raise
    except BaseException:  # somebody ends it
        shutil.rmtree(ground.top)
        raise
    host.clear(ground)
    shutil.rmtree(ground.top)
    return counts


def live(ground: Ground, chance: random.Random, operations: int, seconds: float) -> dict[str, int]:
    """Until all is done, some of it by those who took the places of others."""
    (ground.top / "collected").touch()
    counts = {"kills": 0, "of servers": 0, "stops": 0}
    processes = Processes(ground, chance, operations)
    try:
        for role, many in (("server", len(ground.ports)), ("worker", WORKERS), ("collector", COLLECTORS)):
            for number in range(many):
                processes.start(role, number)
        quiet = time.monotonic() + seconds * (1 + chance.random() / 2)
        while time.monotonic() < quiet + END_SECONDS:
            time.sleep(0.05 + chance.random() * 0.4)
            running = processes.running()
            if not any(name.startswith("worker") for name in running):
                break
            victim = chance.choice(running)
            if time.monotonic() > quiet:
                continue
            if chance.random() < 0.3:
                processes.stop_for(victim, chance.random() * 2.5)
                counts["stops"] += 1
            elif chance.random() < 0.5:
                processes.replace(victim)
                counts["kills"] += 1
                counts["of servers"] += victim.startswith("server")
        (ground.top / "stop").touch()
        for role in ("worker", "collector", "server"):
            processes.end(role)
    finally:
        processes.kill()
    collected = [line.split() for line in (ground.top / "collected").read_text().splitlines()]
    counts["collections"] = len(collected)
    counts["by servers"] = sum(by == "server" for _, _, by in collected)
    counts["packs deleted"] = sum(int(deleted) for deleted, _, _ in collected)
    counts["packs repacked"] = sum(int(repacked) for _, repacked, _ in collected)
    return counts


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=1.0, help="after which no other case begins")
    parser.add_argument("--cases", type=int, default=None, help="how many there are at most")
    parser.add_argument("--kind", choices=(*KINDS, "all"), default="all", help="of repositories; all: by turns")
    parser.add_argument("--seed", type=int, default=None, help="of the first case; printed with each")
    parser.add_argument("--operations", type=int, default=OPERATIONS, help="of a worker in a case")
    parser.add_argument("--seconds", type=float, default=KILL_SECONDS, help="for which a case has its processes killed")
    parser.add_argument("--worker", nargs=4)
    parser.add_argument("--collector", nargs=4)
    words = parser.parse_args()
    if words.worker or words.collector:
        place, number, seed, operations = words.worker or words.collector
        ground = Ground.read(Path(place))
        if words.worker:
            Worker(ground, int(number), int(seed)).run(int(operations))
        else:
            collect_on(ground, int(number), int(seed))
        return
    signal.signal(signal.SIGTERM, ended)
    seed = words.seed if words.seed is not None else random.SystemRandom().getrandbits(30)
    last = None if words.cases is None else seed + words.cases
    end = time.monotonic() + words.minutes * 60
    totals: dict[str, Counter[str]] = {}
    with Host() as host:
        while time.monotonic() < end and seed != last:
            kind = KINDS[seed % len(KINDS)] if words.kind == "all" else words.kind
            counts = case(host, kind, seed, operations=words.operations, seconds=words.seconds)
            total = totals.setdefault(kind, Counter())
            total.update({"cases": 1, **counts})
            say(f"{kind} seed {seed}: {counts}; so far {dict(total)}")
            seed += 1
    done = {kind: dict(total) for kind, total in totals.items()}
    say(f"done: {done}")


def ended(*_: Any) -> None:
    """SIGTERM: processes and servers go as well."""
    raise SystemExit(1)


if __name__ == "__main__":
    main()

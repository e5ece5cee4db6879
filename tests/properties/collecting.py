"""Collections beside everything else, in processes that are killed, against a model. Prints how many cases it ran.

    python tests/properties/collecting.py --minutes 60

A case is a repository in which three workers put, commit from staging, build on versions, delete, restore what they deleted (or store
it again), and read, while one or two processes collect garbage; each of them may be killed or stopped for a while at any moment. Each
worker owns artifacts of its own, but all draw their files from one small pool, so that they share chunks. A worker says what it is
about to do and what was done, to a file of its own: the model is what these say.

Then two quiet rounds must leave every version of the model whole, and no byte in the Store that no version needs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from artifactfs import repository as repositories
from artifactfs.collect import collect
from artifactfs.collector import _Collector, collect_project
from artifactfs.content import pack as packs
from artifactfs.content import writer as writers
from artifactfs.content.pack import index_key, pack_key
from artifactfs.draft import Draft
from artifactfs.errors import Conflict, NotFound, Unavailable
from artifactfs.model.retention import Permissions
from artifactfs.model.tree import FileEntry
from artifactfs.mount import keeping
from artifactfs.mount.commit import commit_area
from artifactfs.mount.keeping import Keeper
from artifactfs.registry.sql import SQLRegistry
from artifactfs.repository import Repository
from artifactfs.restoring import restore
from artifactfs.upkeep import verify
from tests.staging.driver import Disk

WORKERS = 3
COLLECTORS = 2
OPERATIONS = 25  # of a worker in a case
POOL = 14  # different files
SMALL_PACK = 60_000  # bytes, so that a case has many packs, mostly dead ones among them

Files = dict[str, str]  # path: SHA-256 of the content
Versions = dict[str, Files]  # "name:vN"


def content(number: int) -> bytes:
    """A file of the pool: some are of several chunks, some compress."""
    chance = random.Random(number)
    size = chance.choice([10, 3_000, 20_000, 50_000] + [5 << 20] * (number % 7 == 0))
    return chance.randbytes(size) if number % 3 else bytes([number + 1]) * size


def named(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Worker:
    """What one process does to its artifacts."""

    def __init__(self, top: Path, number: int, seed: int) -> None:
        packs.PACK_SIZE = writers.PACK_SIZE = SMALL_PACK
        # So that sessions of the killed end soon, and those of the stopped sometimes before they go on.
        repositories.SESSION_SECONDS, repositories.HEARTBEAT_SECONDS = 1.5, 0.2
        keeping.STAGED_SECONDS = 86_400.0  # judged are days later
        self.top = top
        self.number = number
        self.chance = random.Random(seed)
        self.repository = Repository.open(str(top / "repository"))
        self.journal = (top / f"journal-{number}").open("a", encoding="utf-8")
        self.names = [f"w{number}-{letter}" for letter in "ab"]
        self.living = replay(top, number)[0]
        self.deleted: Versions = {}  # by this process

    def say(self, **words: Any) -> None:
        self.journal.write(json.dumps(words) + "\n")
        self.journal.flush()

    def run(self) -> None:
        actions: list[Callable[[], None]] = [
            self.put,
            self.put,
            self.stage,
            self.build,
            self.delete,
            self.delete,
            self.restore,
            self.read,
            self.slow,
        ]
        for _ in range(OPERATIONS):
            try:
                self.chance.choice(actions)()
            except Conflict as error:
                # It was stopped for longer than its session lived: then nothing has happened.
                if "session" not in str(error):
                    raise
                self.say(done="nothing")
        self.repository.close()

    def some_files(self) -> Files:
        numbers = self.chance.sample(range(POOL), self.chance.randint(1, 5))
        return {f"d{number % 2}/f{number}": str(number) for number in numbers}

    def logged(self, name: str, files: Files, version: Any) -> None:
        self.living[f"{name}:v{version.number}"] = files
        self.say(done="version", name=f"{name}:v{version.number}", files=files)

    def put(self, *, pause: float = 0.0) -> None:
        name = self.chance.choice(self.names)
        wanted = self.some_files()
        source = Path(tempfile.mkdtemp(dir=self.top))
        files = {}
        for path, number in wanted.items():
            data = content(int(number))
            (source / path).parent.mkdir(exist_ok=True)
            (source / path).write_bytes(data)
            files[path] = named(data)
        self.say(doing="version", artifact=name, files=files)
        draft = Draft(self.repository)
        draft.add(source)
        version = draft.commit(name, progress=lambda _: time.sleep(pause)).version
        self.logged(name, files, version)
        shutil.rmtree(source)

    def slow(self) -> None:
        """A put that takes so long that a collection runs meanwhile."""
        self.put(pause=0.02)

    def build(self) -> None:
        """A draft over a version, of which the rest is not stored anew."""
        if not self.living:
            return
        base = self.chance.choice(sorted(self.living))
        name, _, number = base.partition(":v")
        record = self.repository.registry.version(name, int(number))
        assert record is not None, base
        extra = self.chance.randrange(POOL)
        files = {**self.living[base], "added": named(content(extra))}
        self.say(doing="version", artifact=name, files=files)
        source = Path(tempfile.mkdtemp(dir=self.top))
        (source / "added").write_bytes(content(extra))
        draft = Draft(self.repository, base=record.digest, versions=[(name, int(number))])
        draft.add_file(source / "added", overwrite=True)
        version = draft.commit(name).version
        self.logged(name, files, version)
        shutil.rmtree(source)

    def stage(self) -> None:
        """A staging commit as a mount makes it, perhaps on a version that is deleted meanwhile."""
        name = self.chance.choice(self.names)
        workspace = Path(tempfile.mkdtemp(dir=self.top))
        disk = Disk(self.repository, workspace, name)
        keeper = Keeper(
            self.repository.registry, disk.staging.based, {}, mountpoint=str(workspace), workspace=workspace
        )
        try:
            base = disk.area.base_number
            files = {} if base is None else dict(self.living[f"{name}:v{base}"])
            for path, number in self.some_files().items():
                directory = path.partition("/")[0]
                if not disk.exists(directory):
                    disk.mkdir(directory)
                disk.write(path, content(int(number)))
                files[path] = named(content(int(number)))
            keeper.start()
            if base is not None and self.chance.random() < 0.5:
                self.wait_until_held(name, base)
                self.remove(f"{name}:v{base}")
                time.sleep(self.chance.random())
            self.say(doing="version", artifact=name, files=files)
            version = commit_area(self.repository, disk.staging, name, force=True).version
            self.logged(name, files, version)
        finally:
            keeper.close()
            disk.staging.close()
        shutil.rmtree(workspace)

    def wait_until_held(self, name: str, number: int) -> None:
        """As long as it is not, nobody says that a version is in use."""
        record = self.repository.registry.version(name, number)
        assert record is not None
        end = time.monotonic() + 20
        while record.id not in dict(self.repository.registry.retention.held()):
            assert time.monotonic() < end, f"{record.name} is not held"
            time.sleep(0.02)

    def delete(self) -> None:
        if self.living:
            self.remove(self.chance.choice(sorted(self.living)))

    def remove(self, version: str) -> None:
        name, _, number = version.partition(":v")
        self.say(doing="delete", name=version)
        # Sessions of the killed hold it for a while.
        everything = Permissions(aliases=True, in_use=True)
        self.repository.registry.retention.delete(name, [int(number)], permissions=everything)
        if (files := self.living.pop(version, None)) is not None:
            self.deleted[version] = files
        self.say(done="delete", name=version)

    def restore(self) -> None:
        """What was deleted is had back, unless it was collected."""
        if not self.deleted:
            return
        name, _, number = (version := self.chance.choice(sorted(self.deleted))).partition(":v")
        gone = self.repository.registry.retention.tombstone(name, int(number))
        assert gone is not None, version
        self.say(doing="version", artifact=name, files=self.deleted[version])
        try:
            restored = restore(self.repository, gone).version
        except NotFound:
            self.say(done="nothing")
        else:
            self.logged(name, self.deleted[version], restored)

    def read(self) -> None:
        if self.living:
            check_version(self.repository, version := self.chance.choice(sorted(self.living)), self.living[version])


def check_version(repository: Repository, version: str, files: Files) -> None:
    """Every byte of a version is what it was."""
    name, _, number = version.partition(":v")
    record = repository.registry.version(name, int(number))
    assert record is not None, f"{version} is lost"
    found = {
        path: named(bytes(repository.open_file(entry).read(0, entry.size)))
        for path, entry in repository.trees.walk(record.digest)
        if isinstance(entry, FileEntry)
    }
    assert found == files, f"{version} has other contents"


def replay(top: Path, number: int) -> tuple[Versions, dict[str, Any] | None]:
    """What a worker's file says: the versions that live, and what it was about to do when it died."""
    living: Versions = {}
    doing = None
    path = top / f"journal-{number}"
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            words = json.loads(line)
        except ValueError:
            continue  # killed within a line that says what it was about to do, or had done: the registry decides
        if "doing" in words:
            doing = words
        elif words["done"] == "nothing":
            doing = None
        elif words["done"] == "version":
            living[words["name"]] = words["files"]
            doing = None
        else:
            living.pop(words["name"], None)
            doing = None
    return living, doing


def settle(repository: Repository, top: Path, number: int) -> None:
    """What was under way when a worker was killed has happened or not: the registry says which, and its file is told."""
    living, doing = replay(top, number)
    if doing is None:
        return
    with (top / f"journal-{number}").open("a", encoding="utf-8") as journal:
        if doing["doing"] == "delete":
            name, _, version = doing["name"].partition(":v")
            if repository.registry.version(name, int(version)) is None:
                journal.write("\n" + json.dumps({"done": "delete", "name": doing["name"]}) + "\n")
            else:
                journal.write(
                    "\n" + json.dumps({"done": "version", "name": doing["name"], "files": living[doing["name"]]}) + "\n"
                )
            return
        for record in repository.registry.versions(doing["artifact"]):
            called = f"{record.artifact}:v{record.number}"
            if called not in living:
                check_version(repository, called, doing["files"])
                journal.write("\n" + json.dumps({"done": "version", "name": called, "files": doing["files"]}) + "\n")


def work(top: Path, number: int, seed: int) -> None:
    Worker(top, number, seed).run()


def collect_on(top: Path, seed: int) -> None:
    """Collect again and again, until the workers have ended."""
    packs.PACK_SIZE = SMALL_PACK
    chance = random.Random(seed)
    with Repository.open(str(top / "repository")) as repository, (top / "collected").open("a") as log:
        while not (top / "stop").exists():
            try:
                report = collect(repository, wait=chance.random(), lease_seconds=2.0)
                log.write(f"{report.deleted_packs}\n")
                log.flush()
            except (Conflict, Unavailable):
                time.sleep(0.1)  # somebody else collects
            time.sleep(chance.random() * 0.1)


def case(top: Path, seed: int, *, kills: bool = True) -> dict[str, int]:
    """One repository's life; returns what happened. AssertionError says what was lost or left."""
    chance = random.Random(seed)
    Repository.create(str(top / "repository")).close()
    (top / "collected").touch()
    counts = {"kills": 0, "stops": 0}
    processes: dict[str, subprocess.Popen[str]] = {}

    def start(role: str, number: int) -> None:
        words = [sys.executable, __file__, f"--{role}", str(top), str(number), str(chance.getrandbits(32))]
        log = (top / f"{role}-{number}.log").open("a")
        processes[f"{role} {number}"] = subprocess.Popen(words, stdout=log, stderr=log, text=True)
        log.close()

    for number in range(WORKERS):
        start("worker", number)
    for number in range(COLLECTORS):
        start("collector", number)
    quiet = time.monotonic() + 10 + chance.random() * 5  # nobody is killed any more
    try:
        while time.monotonic() < quiet + 60:
            time.sleep(0.05 + chance.random() * 0.4)
            running = [name for name, process in processes.items() if process.poll() is None]
            if not any(name.startswith("worker") for name in running):
                break
            victim = chance.choice(running)
            if time.monotonic() > quiet or not kills:
                continue
            if chance.random() < 0.3:
                processes[victim].send_signal(signal.SIGSTOP)
                time.sleep(chance.random() * 2.5)
                processes[victim].send_signal(signal.SIGCONT)
                counts["stops"] += 1
            elif chance.random() < 0.5:
                processes[victim].kill()
                processes[victim].wait()
                counts["kills"] += 1
                role, number = victim.split()
                if role == "worker":
                    with Repository.open(str(top / "repository")) as repository:
                        settle(repository, top, int(number))
                start(role, int(number))
        (top / "stop").touch()
        for name, process in processes.items():
            process.wait(60)
            role, number = name.split()
            said = (top / f"{role}-{number}.log").read_text()
            assert process.returncode == 0, f"{name} failed ({process.returncode}):\n{said[-4000:]}"
    finally:
        for process in processes.values():
            process.kill()
            process.wait()
    counts["collections"] = len(deleted := (top / "collected").read_text().split())
    counts["deleted meanwhile"] = sum(map(int, deleted))
    counts |= judge(top)
    return counts


def judge(top: Path) -> dict[str, int]:
    """Two quiet rounds, then nothing alive is lost and nothing dead is left."""
    packs.PACK_SIZE = SMALL_PACK
    model: Versions = {}
    for number in range(WORKERS):
        model |= replay(top, number)[0]
    freed = 0
    with Repository.open(str(top / "repository")) as repository:
        for _ in range(2):
            # Sessions of the dead have ended by then.
            later = SQLRegistry(top / "repository/registry.db", clock=lambda: time.time() + 200_000)
            before = sum(size for _, size in repository.store.list())
            report = collect_project(later, repository.store, lease_seconds=2.0)
            later.close()
            after = sum(size for _, size in repository.store.list())
            assert before - after == report.freed, f"{report} freed {before - after}"
            freed += report.freed
    # Anew, so that nothing is remembered.
    with Repository.open(str(top / "repository")) as repository:
        versions = [
            each for artifact in repository.registry.artifacts() for each in repository.registry.versions(artifact.name)
        ]
        assert sorted(f"{each.artifact}:v{each.number}" for each in versions) == sorted(model)
        for version, files in model.items():
            check_version(repository, version, files)
        report = verify(repository, versions)
        assert report.damages == [], report.damages
        nothing_dead(repository)
    return {"versions": len(model), "freed at last": freed}


def nothing_dead(repository: Repository) -> None:
    """Every object is of a pack that is recorded, and every pack is more than half alive."""
    registry = repository.registry
    named = [digest for digest, _ in registry.packs()]
    objects = sorted(key for digest in named for key in (pack_key(digest), index_key(digest)))
    assert [key for key, _ in repository.store.list()] == objects
    alive: dict[str, int] = dict.fromkeys(named, 0)
    seen: set[bytes] = set()
    assert isinstance(registry, SQLRegistry)
    collector = _Collector(registry, repository.store, None, lambda _: None)
    marked = collector._mark(registry.collection.roots(None), registry.collection.packs())
    for digest in marked.living:
        seen.add(digest)
    for place in registry.locate(seen).values():
        alive[place.pack] += place.length
    sizes = dict(registry.packs())
    sparse = {digest: (size, sizes[digest]) for digest, size in alive.items() if size * 2 < sizes[digest]}
    assert not sparse, f"mostly dead packs are left: {sparse}"
    rows = {digest for digest, _, _ in registry.collection.chunks()}
    assert seen <= rows
    marked.close()


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=None, help="of the first case; printed with each")
    parser.add_argument("--worker", nargs=3)
    parser.add_argument("--collector", nargs=3)
    words = parser.parse_args()
    if words.worker:
        work(Path(words.worker[0]), int(words.worker[1]), int(words.worker[2]))
        return
    if words.collector:
        collect_on(Path(words.collector[0]), int(words.collector[2]))
        return
    seed = words.seed if words.seed is not None else random.SystemRandom().getrandbits(30)
    end = time.monotonic() + words.minutes * 60
    total: dict[str, int] = {"cases": 0}
    while time.monotonic() < end:
        top = Path(tempfile.mkdtemp(prefix="collecting-"))
        try:
            counts = case(top, seed)
        except BaseException:
            say(f"case with seed {seed} failed; its files are in {top}")
            raise
        shutil.rmtree(top)
        total["cases"] += 1
        for key, value in counts.items():
            total[key] = total.get(key, 0) + value
        say(f"seed {seed}: {counts}; so far {total}")
        seed += 1
    say(f"done: {total}")


if __name__ == "__main__":
    main()

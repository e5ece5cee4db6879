"""The processes of a case: a worker, which makes, reads and deletes versions, and a collector.

Each worker owns artifacts of its own, but all draw their files from one small pool, so that they share chunks.
"""

from __future__ import annotations

import random
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from artifactfs import repository as repositories
from artifactfs.collect import collect
from artifactfs.content import pack as packs
from artifactfs.content import writer as writers
from artifactfs.draft import Draft
from artifactfs.errors import Conflict, NotFound, Unavailable
from artifactfs.model.retention import Permissions
from artifactfs.mount import keeping
from artifactfs.mount.commit import commit_area
from artifactfs.mount.keeping import Keeper
from artifactfs.registry.sql import SQLRegistry
from artifactfs.repository import Repository
from artifactfs.restoring import restore
from tests.properties.garbage.ground import Ground
from tests.properties.garbage.model import POOL, Files, Journal, Versions, check_version, content, named, version_of
from tests.staging.driver import Disk

SMALL_PACK = 60_000  # bytes, so that a case has many packs, mostly dead ones among them
LEASE_SECONDS = 2.0  # of a collection that was stopped; a server's has its own
HELD_SECONDS = 60.0


class Worker:
    """What one process does to its artifacts."""

    def __init__(self, ground: Ground, number: int, seed: int) -> None:
        packs.PACK_SIZE = writers.PACK_SIZE = SMALL_PACK
        # So that sessions of the killed end soon, and those of the stopped sometimes before they go on.
        repositories.SESSION_SECONDS, repositories.HEARTBEAT_SECONDS = 1.5, 0.2
        keeping.STAGED_SECONDS = 86_400.0  # judged are days later
        self.top = ground.top
        self.chance = random.Random(seed)
        self.journal = Journal(ground.top, number)
        self.living = self.journal.told.living
        self.gone: Versions = {}  # that this process deleted
        self.names = [self.free_name(f"w{number}-{letter}") for letter in "ab"]
        self.repository = ground.open_worker(number)

    def free_name(self, stem: str) -> str:
        """That of an artifact of which nothing is undecided."""
        number = 0
        while self.journal.told.is_left_alone(f"{stem}{number}"):
            number += 1
        return f"{stem}{number}"

    def run(self, operations: int) -> None:
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
        for _ in range(operations):
            try:
                self.chance.choice(actions)()
            except Conflict as error:
                # It was stopped for longer than its session lived: then nothing has happened.
                if "session" not in str(error):
                    raise
                self.journal.nothing()
        self.repository.close()
        self.journal.close()

    def some_files(self) -> Files:
        numbers = self.chance.sample(range(POOL), self.chance.randint(1, 5))
        return {f"d{number % 2}/f{number}": str(number) for number in numbers}

    def logged(self, name: str, files: Files, version: Any) -> None:
        self.living[f"{name}:v{version.number}"] = files
        self.journal.made(f"{name}:v{version.number}", files)

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
        self.journal.making(name, files)
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
        of, number = version_of(base)
        record = self.repository.registry.version(of, number)
        assert record is not None, base
        name = of if of in self.names else self.chance.choice(self.names)
        extra = self.chance.randrange(POOL)
        files = {**self.living[base], "added": named(content(extra))}
        self.journal.making(name, files)
        source = Path(tempfile.mkdtemp(dir=self.top))
        (source / "added").write_bytes(content(extra))
        draft = Draft(self.repository, base=record.digest, versions=[(of, number)])
        draft.add_file(source / "added", overwrite=True)
        version = draft.commit(name).version
        self.logged(name, files, version)
        shutil.rmtree(source)

    def stage(self) -> None:
        """A staging commit as a mount makes it, perhaps on a version that is deleted meanwhile."""
        name = self.chance.choice(self.names)
        workspace = Path(tempfile.mkdtemp(dir=self.top))
        disk = Disk(self.repository, workspace, name)
        try:
            self.change_and_commit(disk, workspace)
        finally:
            disk.staging.close()
        shutil.rmtree(workspace)

    def change_and_commit(self, disk: Disk, workspace: Path) -> None:
        name = disk.name
        base = None if disk.area.base_number is None else f"{name}:v{disk.area.base_number}"
        if base is not None and base not in self.living:
            # While its server was away, it was answered from what was known before.
            assert not isinstance(self.repository.registry, SQLRegistry), base
            return
        files = {} if base is None else dict(self.living[base])
        for path, number in self.some_files().items():
            directory = path.partition("/")[0]
            if not disk.exists(directory):
                disk.mkdir(directory)
            disk.write(path, content(int(number)))
            files[path] = named(content(int(number)))
        keeper = Keeper(
            self.repository.registry, disk.staging.based, {}, mountpoint=str(workspace), workspace=workspace
        )
        keeper.start()
        try:
            if base is not None and self.chance.random() < 0.5:
                self.wait_until_held(base)
                self.remove(base)
                time.sleep(self.chance.random())
            self.journal.making(name, files)
            version = commit_area(self.repository, disk.staging, name, force=True).version
            self.logged(name, files, version)
        finally:
            keeper.close()

    def wait_until_held(self, version: str) -> None:
        """As long as it is not, nobody says that a version is in use."""
        record = self.repository.registry.version(*version_of(version))
        assert record is not None
        end = time.monotonic() + HELD_SECONDS
        while record.id not in dict(self.repository.registry.retention.held()):
            assert time.monotonic() < end, f"{record.name} is not held"
            time.sleep(0.02)

    def delete(self) -> None:
        if self.living:
            self.remove(self.chance.choice(sorted(self.living)))

    def remove(self, version: str) -> None:
        name, number = version_of(version)
        self.journal.deleting(version)
        # Sessions of the killed hold it for a while.
        everything = Permissions(aliases=True, in_use=True)
        self.repository.registry.retention.delete(name, [number], permissions=everything)
        self.gone[version] = self.living.pop(version)
        self.journal.deleted(version)

    def restore(self) -> None:
        """What was deleted is had back, unless it was collected."""
        own = [version for version in sorted(self.gone) if version_of(version)[0] in self.names]
        if not own:
            return
        name, number = version_of(version := self.chance.choice(own))
        gone = self.repository.registry.retention.tombstone(name, number)
        assert gone is not None, version
        self.journal.making(name, self.gone[version])
        try:
            restored = restore(self.repository, gone).version
        except NotFound:
            self.journal.nothing()
        else:
            self.logged(name, self.gone[version], restored)

    def read(self) -> None:
        if self.living:
            check_version(self.repository, version := self.chance.choice(sorted(self.living)), self.living[version])


def collect_on(ground: Ground, number: int, seed: int) -> None:
    """Collect one project or another, again and again, until the workers have ended. Some give encrypted ones new keys, too.

    Where there are servers, every other collector has one of them do it.
    """
    packs.PACK_SIZE = SMALL_PACK
    chance = random.Random(seed)
    with ExitStack() as closing, (ground.top / "collected").open("a") as log:

        def opened(project: str) -> Repository:
            if not ground.ports or number % 2 == 0:
                return ground.open(project)
            return ground.open_through(chance.randrange(len(ground.ports)), project, f"cache-of-collector-{number}")

        repositories = {project: closing.enter_context(opened(project)) for project in ground.projects}
        while not (ground.top / "stop").exists():
            project = chance.choice(ground.projects)
            repository = repositories[project]
            try:
                report = collect(repository, wait=chance.random(), lease_seconds=LEASE_SECONDS)
                by = "itself" if isinstance(repository.registry, SQLRegistry) else "server"
                log.write(f"{report.deleted_packs} {report.repacked_packs} {by}\n")
                log.flush()
            except (Conflict, Unavailable):
                time.sleep(0.1)  # somebody else collects, or the server is just being stopped
            except NotFound as error:
                # A server that was killed while it collected is there again.
                if "since the server started" not in str(error):
                    raise
            if project in ground.sealed and isinstance(repository.registry, SQLRegistry) and chance.random() < 0.1:
                repository.registry.rekey(ground.new_key())
            time.sleep(chance.random() * 0.1)

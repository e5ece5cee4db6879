"""Where a case takes place: a repository of one of the kinds, and how each of its processes opens it.

`directory`: an embedded repository with one project. `encrypted`: one with two projects, each with a key of its own. `deployed`: the
registry in a database on PostgreSQL and the packs in a bucket behind a server of S3, with two projects, of which one is encrypted, and
with one or two `artifactfs serve`, through which some processes go, while the others open both themselves.

A Ground is a file in the case's directory, which its processes read; a Host is the database server and the object store that the
deployed cases of a run share.
"""

from __future__ import annotations

import os
import random
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Self

import msgspec

from artifactfs import keys, sealing
from artifactfs.content.cache import CacheSettings
from artifactfs.credentials import Credentials
from artifactfs.directory import REGISTRY
from artifactfs.errors import Unavailable
from artifactfs.keys import ProjectKeys
from artifactfs.placing import Ground as Placing
from artifactfs.placing import open_stores_at
from artifactfs.registry.opening import open_registry
from artifactfs.registry.sql import SQLRegistry
from artifactfs.repository import Repository
from tests import postgres, s3

KINDS = ("directory", "encrypted", "deployed")
FIRST, SECOND = "default", "other"
WORKERS = 3
COLLECTORS = 2
PORTS = range(20_000, 30_000)  # which the kernel gives to no client
LONG = 200_000  # seconds, after which no session lives any more
SECONDS = 60.0  # for which clients wait for a server that was killed


class Ground(msgspec.Struct, frozen=True):
    """What the processes of a case must know. ``ways``: of each worker, its project, and the server that it goes through, if any."""

    kind: str
    place: str
    projects: tuple[str, ...]
    sealed: tuple[str, ...]  # those of the projects that are encrypted
    ways: tuple[tuple[str, int | None], ...]
    database: str = ""
    store: str = ""
    ports: tuple[int, ...] = ()  # of the servers

    @classmethod
    def read(cls, top: Path) -> Self:
        return msgspec.json.decode((top / "ground").read_bytes(), type=cls)

    def write(self) -> None:
        (self.top / "ground").write_bytes(msgspec.json.encode(self))

    @property
    def top(self) -> Path:
        """The case's directory."""
        return Path(self.place)

    # -- opening ---------------------------------------------------------------------------------------------------

    @property
    def credentials(self) -> Credentials:
        """All keys that the projects have, or had."""
        return Credentials(key_directory=self._keys)

    @property
    def _keys(self) -> Path:
        return self.top / "config/artifactfs/keys"

    def open(self, project: str) -> Repository:
        """Registry and Store themselves."""
        if self.kind != "deployed":
            return Repository.open(str(self.top / "repository"), project=project, credentials=self.credentials)
        spool = self.top / "spool"
        spool.mkdir(exist_ok=True)
        return Repository.over(self.registry(project), beside=None, disk=spool, credentials=self.credentials)

    def open_through(self, server: int, project: str, cache: str) -> Repository:
        """By way of a server, which is waited for: it may just have been killed."""
        repository = Repository.open(
            f"http://127.0.0.1:{self.ports[server]}",
            project=project,
            cache=CacheSettings(self.top / cache, reserve=0),
            seconds=SECONDS,
        )
        end = time.monotonic() + SECONDS
        while True:
            try:
                repository.registry.key_id()
            except Unavailable:
                assert time.monotonic() < end, "a server does not come back"
                time.sleep(0.1)
            else:
                return repository

    def open_worker(self, number: int) -> Repository:
        project, server = self.ways[number]
        return self.open(project) if server is None else self.open_through(server, project, f"cache-{number}")

    def registry(self, project: str, *, clock: Callable[[], float] = time.time) -> SQLRegistry:
        location = self.database or str(self.top / "repository" / REGISTRY)
        return open_registry(location, project=project, clock=clock, keys=ProjectKeys(self.credentials))

    def later(self, project: str) -> SQLRegistry:
        """The registry at a time when sessions of the dead have ended."""
        return self.registry(project, clock=lambda: time.time() + LONG)

    def new_key(self) -> bytes:
        """A key, where everybody finds it who asks for it by its id."""
        key = sealing.new_key()
        keys.write_key(keys.kept_at(self._keys, sealing.key_id(key)), key)
        return key

    # -- serving ---------------------------------------------------------------------------------------------------

    def serving(self, number: int) -> tuple[list[str], dict[str, str]]:
        """Words and environment of a server, which has a home of its own, and the keys of all projects."""
        home = self.top / f"server-{number}"
        home.mkdir(exist_ok=True)
        words = [sys.executable, "-m", "artifactfs", "serve", "--port", str(self.ports[number]), "--graceful", "5"]
        words += ["--gc-interval", "never", "--upkeep-interval", "never", "--scrub-days", "0", "--no-access-log"]
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("ARTIFACTFS_", "XDG_"))}
        own = {
            "HOME": str(home),
            "XDG_CONFIG_HOME": str(self.top / "config"),
            "PYTHONPATH": str(Path(__file__).parents[3]),
        }
        return words, {**kept, **own, "ARTIFACTFS_REGISTRY": self.database, "ARTIFACTFS_STORE": self.store}


class Host:
    """The database server and the object store of the deployed cases, made when the first of these begins. Gone at the end."""

    def __init__(self) -> None:
        self._ending = ExitStack()
        self._postgres: postgres.Server | None = None
        self._databases: dict[Path, str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.close()

    def lay(self, kind: str, chance: random.Random) -> Ground:
        """A new ground, in a directory of its own."""
        top = Path(tempfile.mkdtemp(prefix="collecting-"))
        if kind == "directory":
            ground = Ground(kind, str(top), (FIRST,), (), ((FIRST, None),) * WORKERS)
        elif kind == "encrypted":
            ways = [(FIRST, None), (SECOND, None), (chance.choice((FIRST, SECOND)), None)]
            ground = Ground(kind, str(top), (FIRST, SECOND), (FIRST, SECOND), tuple(ways))
        else:
            ground = self._deployed(top, chance)
        ground.write()
        if kind != "deployed":
            Repository.create(str(top / "repository")).close()
        for project in ground.sealed:
            with ground.open(project) as repository:
                assert isinstance(repository.registry, SQLRegistry)
                repository.registry.encrypt(ground.new_key())
        return ground

    def _deployed(self, top: Path, chance: random.Random) -> Ground:
        if self._postgres is None:
            self._postgres = self._ending.enter_context(postgres.running())
            bucket = self._ending.enter_context(s3.moto())
            os.environ.update({**bucket.environ, "AWS_ALLOW_HTTP": "true"})
        database = self._databases[top] = self._postgres.new_database()
        ports = tuple(lasting_port() for _ in range(chance.choice((1, 2))))
        projects = [FIRST, SECOND, chance.choice((FIRST, SECOND))]
        servers = [None, 0, chance.choice((None, len(ports) - 1))]
        chance.shuffle(servers)
        ground = Ground(
            "deployed",
            str(top),
            (FIRST, SECOND),
            (SECOND,),
            tuple(zip(projects, servers, strict=True)),
            self._postgres.url(database),
            f"s3://{s3.BUCKET}/{top.name}",
            ports,
        )
        registry = open_registry(ground.database, create=True)
        open_stores_at(registry, ground.store, Placing(None, top, SECONDS), moved=False).close()
        registry.close()
        return ground

    def still(self, ground: Ground) -> None:
        """Nothing that the dead asked for is carried out any more."""
        if ground.database:
            assert self._postgres is not None
            self._postgres.end_connections(self._databases[ground.top])

    def clear(self, ground: Ground) -> None:
        """Remove what the object store and the database server hold of a case."""
        if ground.database:
            assert self._postgres is not None
            self._postgres.drop_database(self._databases.pop(ground.top))


def lasting_port() -> int:
    """A port that nobody listens at, and that no client is given while a server that was killed is away."""
    while True:
        port = random.SystemRandom().choice(PORTS)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port

"""A real PostgreSQL for tests: Debian's, on a socket of its own below a directory of its own, as an ordinary user.

One server for a session (of each worker), one database, which each test finds empty. Should the session be killed, the
server ends with it.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from artifactfs.registry.postgresql import PostgresDatabase
from artifactfs.registry.schema import FORMAT_KEY, TABLES, meta
from tests.ports import HeldPort

PROGRAMS = Path("/usr/lib/postgresql")
USER = "tests"
SECONDS = 60
_SETTINGS = {
    "fsync": "off",  # but where durability is what a test is about
    "full_page_writes": "off",
    "max_connections": "200",
    "shared_buffers": "32MB",
    "max_wal_size": "256MB",
    "logging_collector": "off",
    "autovacuum": "off",
}


def programs() -> Path:
    """Where the newest server's programs are. `scripts/setup --test` installs one."""
    found = sorted(PROGRAMS.glob("*/bin/initdb"), key=lambda path: float(path.parent.parent.name))
    assert found, "there is no PostgreSQL: run scripts/setup --test"
    return found[-1].parent


class Server:
    """A running cluster. Its superuser has the name USER, and is let in without a password through the socket."""

    def __init__(self, place: Path, port: int, *, settings: dict[str, str] | None = None) -> None:
        self.place = place
        self.port = port
        self._owner: dict[str, object] = {}
        self._settings = {**_SETTINGS, **(settings or {})}
        self._names = itertools.count()
        self._process: subprocess.Popen[bytes] | None = None
        self.programs = programs()
        if os.geteuid() == 0:  # which PostgreSQL refuses
            nobody = pwd.getpwnam("nobody")
            os.chown(place, nobody.pw_uid, nobody.pw_gid)
            self._owner = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        create = [self.programs / "initdb", "-D", self.data, "-U", USER, "-A", "trust", "-E", "UTF8", "--no-sync"]
        # A language's order of text, not that of code points, so that who relies on it is found out.
        create += ["--locale-provider=icu", "--icu-locale=en", "--locale=C.UTF-8"]
        subprocess.run(create, cwd=place, capture_output=True, check=True, **self._owner)
        (self.data / "pg_hba.conf").write_text("local all all trust\nhost all all 127.0.0.1/32 scram-sha-256\n")

    @property
    def data(self) -> Path:
        return self.place / "data"

    def start(self) -> None:
        """Start, and wait until it lets clients in."""
        serve = [self.programs / "postgres", "-D", self.data, "-k", self.place, "-p", str(self.port)]
        serve += ["-c", "listen_addresses=127.0.0.1"]
        for name, value in self._settings.items():
            serve += ["-c", f"{name}={value}"]
        # A fast shutdown when who started it dies; as the user changes before, Popen cannot do both.
        start = ["setpriv", "--pdeathsig", "INT"]
        if os.geteuid() == 0:
            start += ["--reuid", "nobody", "--regid", str(self._owner["group"]), "--clear-groups"]
        with (self.place / "log").open("ab") as log:
            self._process = subprocess.Popen([*start, *serve], cwd=self.place, stdout=log, stderr=log)
        deadline = time.monotonic() + SECONDS
        while True:
            with contextlib.suppress(psycopg.OperationalError):
                psycopg.connect(self.url("postgres"), connect_timeout=5).close()
                return
            assert self._process.poll() is None, (self.place / "log").read_text()
            assert time.monotonic() < deadline, (self.place / "log").read_text()
            time.sleep(0.05)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """End it: SIGINT ends connections first, SIGQUIT is a crash."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGCONT)
        self._process.send_signal(how)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(SECONDS)
        self._process.kill()
        self._process.wait()
        self._process = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def url(self, database: str, *, tcp: bool = False, user: str = USER) -> str:
        """How a client reaches a database: through the socket, or, which takes a password, by TCP."""
        if tcp:
            return f"postgresql://{user}@127.0.0.1:{self.port}/{database}"
        return f"postgresql://{user}@/{database}?host={self.place}&port={self.port}"

    def sql(self, statement: str, *, database: str = "postgres") -> list[tuple]:
        """Run a statement as the superuser."""
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def new_database(self, *, template: str = "template0") -> str:
        """The name of a new database, empty or a copy."""
        name = f"test_{next(self._names)}"
        self.sql(f"CREATE DATABASE {name} TEMPLATE {template}")
        return name

    def end_connections(self, database: str) -> None:
        """End every client's connection, as an administrator can; they are gone on return."""
        self.sql(f"SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = '{database}'")  # noqa: S608

    def empty_database(self, name: str) -> None:
        """Remove all rows but those that say the format, and the connections of tests that are over."""
        self.end_connections(name)
        tables = ", ".join(table for table in TABLES.tables if table != meta.name)
        self.sql(f"TRUNCATE {tables} RESTART IDENTITY; DELETE FROM meta WHERE key <> '{FORMAT_KEY}'", database=name)  # noqa: S608

    def drop_database(self, name: str) -> None:
        """Remove a database, whoever is connected."""
        self.sql(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


@contextlib.contextmanager
def running(**settings: str) -> Iterator[Server]:
    """A cluster, gone at the end."""
    # Not pytest's directory: an ordinary user cannot go there, and a socket's path has at most 107 bytes.
    place = Path(tempfile.mkdtemp(prefix="artifactfs-test-pg-", dir="/var/tmp"))
    try:
        with contextlib.closing(HeldPort()) as port:  # also while it is stopped
            server = Server(place, port.number, settings=settings)
            try:
                server.start()
                yield server
            finally:
                server.stop()
    finally:
        shutil.rmtree(place)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """The session's server."""
    with running() as server:
        yield server


@pytest.fixture(scope="session")
def postgres_registry(postgres: Server) -> str:
    """The name of the database whose registry each test finds empty."""
    name = postgres.new_database()
    PostgresDatabase(postgres.url(name), create=True).close()
    return name


@pytest.fixture
def postgres_url(postgres: Server, postgres_registry: str) -> str:
    """The URL of an empty registry. Emptied, not made: that takes a fifth of the time."""
    postgres.empty_database(postgres_registry)
    return postgres.url(postgres_registry)


@pytest.fixture
def empty_database(postgres: Server) -> Iterator[str]:
    """The name of a database without tables."""
    name = postgres.new_database()
    yield name
    postgres.drop_database(name)

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests import postgres as postgresql
from tests import s3
from tests.faults.proxy import Proxy
from tests.faults.remote.machines import DIRECTORY, HANG_SECONDS, THROUGH, Server, Team, Way, machine
from tests.mounted.living import Mounted, watched


@pytest.fixture(autouse=True)
def _bounded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with watched(tmp_path_factory.getbasetemp(), 2 * HANG_SECONDS):
        yield


@pytest.fixture(scope="session")
def moto() -> Iterator[s3.Server]:
    with s3.moto() as bucket:
        yield bucket


@pytest.fixture(scope="module")
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for the tests of a file: each makes artifacts of its own.

    The back end is its parameter, or else the file's BACK_END, or else a directory.
    """
    back_end = getattr(request, "param", getattr(request.module, "BACK_END", DIRECTORY))
    home = tmp_path_factory.mktemp("server") / "home"
    with ExitStack() as ending:
        if back_end == DIRECTORY:
            server = Server(home)
        else:
            cluster: postgresql.Server = request.getfixturevalue("postgres")
            database = cluster.new_database()
            ending.callback(cluster.drop_database, database)
            bucket: s3.Server = request.getfixturevalue("moto")
            far = Proxy(bucket.port)
            ending.callback(far.close)
            server = Team(home, cluster.url(database), bucket, far, signed=back_end != THROUGH)
        ending.callback(server.close)
        server.start()
        server.fill()
        yield server
    assert "Traceback" not in server.log(), server.log()


@pytest.fixture
def server(running: Server) -> Server:
    return running


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    made = Proxy(server.port)
    yield made
    made.close()


@pytest.fixture
def packs(server: Server, proxy: Proxy) -> Way:
    """Where packs travel to and from what keeps them."""
    return server.way(proxy)


@pytest.fixture
def new_machine(tmp_path: Path, proxy: Proxy) -> Iterator[Callable[..., Mounted]]:
    """Machines on call; gone, with their mounts, when the test ends."""
    with ExitStack() as ending:
        yield lambda name="m", **options: ending.enter_context(machine(tmp_path / name, proxy, **options))


@pytest.fixture
def begin() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts commands on machines; gone when the test ends."""
    with ExitStack() as ending:

        def start(machine: Mounted, *words: object) -> subprocess.Popen[str]:
            process = ending.enter_context(machine.cli.start(*words))
            ending.callback(process.kill)
            return process

        yield start

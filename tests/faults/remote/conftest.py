from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.faults.proxy import Proxy
from tests.faults.remote.machines import HANG_SECONDS, Server, machine
from tests.mounted.living import Mounted, watched


@pytest.fixture(autouse=True)
def _bounded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with watched(tmp_path_factory.getbasetemp(), 2 * HANG_SECONDS):
        yield


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for the tests of a file: each makes artifacts of its own."""
    server = Server(tmp_path_factory.mktemp("server") / "home")
    try:
        server.start()
        yield server
    finally:
        server.kill()
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

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from artifactfs.remote.client import Connection
from tests.remote.scripted import ScriptedServer


def hurry(connection: Connection) -> None:
    """From now on, wait for a server that has gone no longer than a test can: what came before had its time."""
    connection.seconds = 0.3
    connection._shortest_rest = 0.03


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between attempts; what counts here is how many there are."""
    monkeypatch.setattr("artifactfs.remote.client.FIRST_DELAY", 0.02)


@pytest.fixture
def long_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that cannot be reached is left alone for as long as any test takes, if ``seconds`` are ten times as many."""
    monkeypatch.setattr("artifactfs.remote.client.REST_SECONDS", 60.0)


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    opened = ScriptedServer()
    yield opened
    opened.close()


@pytest.fixture
def connect(server: ScriptedServer) -> Iterator[Callable[..., Connection]]:
    """Connections on call, to the scripted server or another address; closed when the test ends."""
    opened: list[Connection] = []

    def call(url: str | None = None, **bounds: float) -> Connection:
        connection = Connection(server.url if url is None else url, **bounds)
        opened.append(connection)
        return connection

    yield call
    for connection in opened:
        connection.close()


@pytest.fixture
def connection(connect: Callable[..., Connection]) -> Connection:
    """Where nothing but a failure is waited out: a busy machine takes its time to answer."""
    return connect(seconds=30.0)

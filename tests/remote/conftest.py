from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from artifactfs.remote.client import Connection
from tests.remote.scripted import ScriptedServer


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between attempts; what counts here is how many there are."""
    monkeypatch.setattr("artifactfs.remote.client.FIRST_DELAY", 0.02)


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
    return connect(seconds=5.0)

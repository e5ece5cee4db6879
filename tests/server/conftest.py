"""A server in a thread of the test, and a process of its own that serves; plain HTTP to ask them."""

from __future__ import annotations

import http.client
import json
import secrets
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest

from artifactfs.content.local import LocalStore
from artifactfs.content.stores import LocalStores, Stores
from artifactfs.registry.sql import SQLRegistry
from artifactfs.remote import wire
from artifactfs.remote.client import Connection
from artifactfs.server.app import create_app
from artifactfs.server.log import Log
from artifactfs.server.service import Service
from artifactfs.server.serving import Serving, listen, url_of
from tests.conftest import TESTS, eventually

PROJECT = "/v1/projects/default"


@dataclass(frozen=True)
class Answer:
    """What a server answered."""

    status: int
    headers: dict[str, str]  # lower case
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def message(self, kind: type) -> Any:
        return wire.decode(self.body, kind, self.headers["content-type"])

    @property
    def code(self) -> str:
        """Of a Failure, which every error must be."""
        failure = self.message(wire.Failure)
        assert failure.message
        assert "\n" not in failure.message
        assert "Traceback" not in failure.message
        return failure.code


def ask(
    url: str,
    method: str,
    path: str,
    message: object = None,
    *,
    body: Any = None,
    media: str = wire.JSON,
    headers: dict[str, str] | None = None,
) -> Answer:
    """One request on a connection of its own. ``message`` is sent, and an answer asked for, as ``media``."""
    sent = {"Accept": media, **(headers or {})}
    if message is not None:
        body = wire.encode(message, media)
        sent.setdefault("Content-Type", media)
    with closing(connect(url)) as connection:
        connection.request(method, path, body, sent)
        return answer_of(connection)


def connect(url: str) -> http.client.HTTPConnection:
    parts = urlsplit(url)
    assert parts.hostname is not None
    return http.client.HTTPConnection(parts.hostname, parts.port, timeout=30)


def answer_of(connection: http.client.HTTPConnection) -> Answer:
    response = connection.getresponse()
    return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, response.read())


@dataclass
class Served:
    """A server in a thread, with what it is made of."""

    url: str
    registry: SQLRegistry
    stores: Any  # Stores, of a directory unless a test has others
    service: Service
    app: Any
    serving: Serving
    thread: threading.Thread
    writer: Log
    lines: list[str] = field(default_factory=list)

    @property
    def store(self) -> LocalStore:
        """The Store of the project ``default``."""
        return self.stores.of_project("default")

    def ask(self, method: str, path: str, message: object = None, **options: Any) -> Answer:
        """A request; ``path`` is below the project unless it begins with a slash."""
        return ask(self.url, method, path if path.startswith("/") else f"{PROJECT}/{path}", message, **options)

    def put(self, key: str, data: bytes) -> None:
        assert self.ask("PUT", f"objects/{key}", body=data).status == 204

    def metric(self, name: str) -> float:
        """The sum of a metric's values over its labels."""
        text = self.ask("GET", "/metrics").body.decode()
        return sum(
            float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.split("{")[0].split(" ")[0] == name
        )

    @property
    def log(self) -> list[dict[str, Any]]:
        """What was written so far: all of it once the server has stopped."""
        return [msgspec.json.decode(line) for line in self.lines]

    def logged(self) -> list[dict[str, Any]]:
        """The log with all requests that were answered so far: a thread writes it, behind the answers."""
        mark = secrets.token_hex(8)
        self.ask("GET", "/healthz", headers={"X-Request-ID": mark})
        eventually(lambda: any(mark in line for line in self.lines))
        return self.log

    def stop(self) -> None:
        self.serving.stop()
        self.thread.join(60)
        assert not self.thread.is_alive()
        self.writer.close()


@contextmanager
def serving(place: Path, *, graceful: int = 5, stores: Stores | None = None, **options: Any) -> Iterator[Served]:
    """``options``: as :func:`create_app` has them."""
    registry = SQLRegistry(place / "registry.db", create=True)
    stores = stores or LocalStores(place / "store")
    lines: list[str] = []
    log = Log(lines.append)
    app = create_app(registry, stores, log=log, **options)
    listener = listen("127.0.0.1", 0)
    server = Serving(app, listener, graceful=graceful)
    ready = threading.Event()
    thread = threading.Thread(target=server.run, args=(ready.set,))
    served = Served(url_of(listener), registry, stores, app.state.service, app, server, thread, log, lines)
    thread.start()
    try:
        assert ready.wait(30)
        yield served
    finally:
        served.stop()
        registry.close()
        stores.close()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with serving(tmp_path) as running:
        yield running


@pytest.fixture(scope="module")
def host() -> Iterator[Callable[[Path], str]]:
    """``host(directory)``: the address of a new repository there, served by another process."""
    script = [sys.executable, "-m", "tests.server.host"]
    with subprocess.Popen(
        script, cwd=TESTS.parent, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def begin(place: Path) -> str:
            print(place, file=process.stdin, flush=True)
            return process.stdout.readline().strip()

        try:
            yield begin
            _, errors = process.communicate(timeout=60)
            assert errors == ""
            assert process.returncode == 0
        finally:
            process.kill()


@pytest.fixture
def connections() -> Iterator[Callable[[str], Connection]]:
    """Connections of the client on call; closed when the test ends."""
    opened: list[Connection] = []

    def begin(url: str) -> Connection:
        opened.append(Connection(url))
        return opened[-1]

    yield begin
    for connection in opened:
        connection.close()

"""A server process that speaks TLS with a certificate of a private CA, on a repository of a test with tokens."""

from __future__ import annotations

import http.client
import json
import re
import secrets
import signal
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from artifactfs.registry.sql import SQLRegistry
from artifactfs.remote import wire
from tests.access.authority import Authority
from tests.conftest import STOPPED_SECONDS, Cli, eventually
from tests.ports import HeldPort
from tests.server.conftest import Answer, answer_of


class Guarded:
    """A repository, the process that serves it while there is one, and its CA."""

    def __init__(self, place: Path) -> None:
        (place / "home").mkdir(parents=True)
        self.place = place
        self.cli = Cli(place / "home")  # works on the repository itself
        self.repository = place / "repository"
        self.cli.env["ARTIFACTFS_REPOSITORY"] = str(self.repository)
        self.cli("init", self.repository)
        self.authority = Authority(place)
        self.url = ""
        self._held = HeldPort()
        self.port = self._held.number
        self._log = place / "serve.log"
        self._process: subprocess.Popen[str] | None = None

    def start(self, *options: object, tls: bool = True) -> None:
        assert self._process is None
        if tls:
            chain, key = self.authority.certify()
            options = (*options, "--tls-cert", chain, "--tls-key", key)
        words = [*self.cli.program, "serve", "--port", str(self.port), *map(str, options)]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                words, env=self.cli.env, cwd=self.cli.home, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                stderr=log, text=True,
            )  # fmt: skip
        assert self._process.stdout is not None
        said = self._process.stdout.readline()
        found = re.search(r"https?://[0-9.]+:\d+", said)
        assert found is not None, (said, self._log.read_text())
        self.url = found[0]

    def stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOPPED_SECONDS)
            finally:
                process.kill()
                assert process.stdout is not None
                process.stdout.close()

    def close(self) -> None:
        """End it for good."""
        self.stop()
        self._held.close()

    @property
    def log(self) -> str:
        """What was written so far: all of it once the server has stopped."""
        return self._log.read_text()

    def logged(self) -> str:
        """The log with all requests that were answered so far: the server writes it behind the answers."""
        mark = secrets.token_hex(8)
        self.ask("GET", "/healthz", headers={"X-Request-ID": mark})
        eventually(lambda: mark in self.log)
        return self.log

    def registry(self) -> SQLRegistry:
        """To be closed."""
        return SQLRegistry(self.repository / "registry.db")

    def token(self, role: str, project: str = "default", *, seconds: float | None = None) -> str:
        with closing(self.registry()) as registry:
            return registry.tokens.create(project=project, role=role, seconds=seconds).token

    def revoke(self, token: str) -> None:
        with closing(self.registry()) as registry:
            registry.tokens.revoke(token[4:12])

    def ask(
        self, method: str, path: str, *, token: str = "", message: object = None, headers: dict[str, str] | None = None
    ) -> Answer:
        sent = {"Accept": wire.JSON, **(headers or {})}
        if token:
            sent["Authorization"] = f"Bearer {token}"
        body = None
        if message is not None:
            body = json.dumps(message).encode()
            sent["Content-Type"] = wire.JSON
        parts = urlsplit(self.url)
        assert parts.hostname is not None
        connection: http.client.HTTPConnection
        if parts.scheme == "https":
            context = ssl.create_default_context(cafile=self.authority.file)
            connection = http.client.HTTPSConnection(parts.hostname, parts.port, timeout=30, context=context)
        else:
            connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=30)
        with closing(connection):
            connection.request(method, path, body, sent)
            return answer_of(connection)

    def client(self, home: Path, token: str = "") -> Cli:
        """The command line of another home, on this server; ``token`` in its usual file."""
        (home / ".config/artifactfs").mkdir(parents=True, exist_ok=True)
        cli = Cli(home)
        cli.env |= {"ARTIFACTFS_REPOSITORY": self.url, "ARTIFACTFS_CA_FILE": str(self.authority.file)}
        if token:
            keep(home / ".config/artifactfs/token", token)
        return cli


def keep(path: Path, token: str) -> None:
    """Write a token's file as a whole, as who renews it does."""
    beside = path.with_suffix(".new")
    beside.touch(0o600)
    beside.write_text(f"{token}\n")
    beside.rename(path)


@contextmanager
def guarding(place: Path) -> Iterator[Guarded]:
    made = Guarded(place)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Guarded]:
    """Not started yet."""
    with guarding(tmp_path / "guarded") as made:
        yield made


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """One for a whole module, started, with TLS."""
    with guarding(tmp_path_factory.mktemp("access") / "guarded") as made:
        made.token("admin", "")
        made.start()
        yield made


def document_of(guarded: Guarded) -> dict[str, Any]:
    answer = guarded.ask("GET", "/openapi.json")
    assert answer.status == 200
    document: dict[str, Any] = answer.json
    return document

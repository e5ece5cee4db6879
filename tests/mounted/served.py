"""A server as a person runs it: `artifactfs serve` in a process of its own, at a port that stays the same over restarts."""

from __future__ import annotations

import http.client
import json
import re
import secrets
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from tests.conftest import Cli, eventually
from tests.ports import HeldPort

ENDED_SECONDS = 60.0


class Server:
    """A repository below ``directory``, and the process that serves it while there is one."""

    def __init__(self, directory: Path) -> None:
        (directory / "home").mkdir(parents=True)
        self.cli = Cli(directory / "home")  # works on the repository itself, without the server
        self.repository = directory / "repository"
        self.cli.env["ARTIFACTFS_REPOSITORY"] = str(self.repository)
        self.cli("init", self.repository)
        self._log = directory / "serve.log"
        self._process: subprocess.Popen[str] | None = None
        self._port = HeldPort()
        self.url = ""

    def start(self) -> None:
        """Begin to serve; returns when it does."""
        assert self._process is None
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*self.cli.program, "serve", "--port", str(self._port.number)],
                env=self.cli.env, cwd=self.cli.home, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True,
            )  # fmt: skip
        assert self._process.stdout is not None
        said = self._process.stdout.readline()
        found = re.search(r"http://[0-9.]+:\d+", said)
        assert found is not None, (said, self._log.read_text())
        self.url = found[0]

    def stop(self, number: int = signal.SIGKILL) -> None:
        """End it by a signal. It may have been ended."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(number)
            process.wait(ENDED_SECONDS)
            assert process.stdout is not None
            process.stdout.close()

    def close(self) -> None:
        """End it for good."""
        self.stop()
        self._port.close()

    def requests(self) -> Counter[str]:
        """Requests that were answered so far, but for the long polls: method and path below the project."""
        whole = self._log.read_text().rpartition("\n")[0]  # the last line may be half written
        lines: list[dict[str, Any]] = [json.loads(line) for line in whole.splitlines()]
        asked = [f"{line['method']} {line['path'].rpartition('default/')[2]}" for line in lines if "path" in line]
        return Counter(each for each in asked if each not in {"GET revision", "GET /healthz"})

    def wait_for_log(self) -> None:
        """Return once the log has all requests that were answered so far: a thread of the server writes it behind the answers."""
        if self._process is None:
            return
        mark = secrets.token_hex(8)
        with closing(http.client.HTTPConnection("127.0.0.1", self._port.number, timeout=60)) as connection:
            connection.request("GET", "/healthz", headers={"X-Request-ID": mark})
            connection.getresponse().read()
        eventually(lambda: mark in self._log.read_text())

    def requests_of(self, action: Callable[[], object]) -> Counter[str]:
        """What an action asks the server."""
        before = self._settled()
        action()
        return self._settled() - before

    def _settled(self) -> Counter[str]:
        """The requests so far, once no more come of what was asked for."""
        self.wait_for_log()
        seen = self.requests()
        while True:
            time.sleep(0.3)
            self.wait_for_log()
            now = self.requests()
            if now == seen:
                return now
            seen = now


@contextmanager
def serving(directory: Path) -> Iterator[Server]:
    """A server that runs; it is gone in the end."""
    server = Server(directory)
    try:
        server.start()
        yield server
    finally:
        server.close()


def online(status: Callable[[], dict[str, Any]], *, is_it: bool = True, seconds: float = 60.0) -> dict[str, Any]:
    """Wait until a mount says that it is online, or that it is not; returns its status."""
    eventually(lambda: status()["online"] is is_it, seconds=seconds)
    return status()

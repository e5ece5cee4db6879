"""The far side: `artifactfs serve` behind the relay, and what passed between it and a client.

Requests are the lines of the server's access log; bytes are those that the relay took, headers and all, so that neither is the word of
the client that is measured.
"""

from __future__ import annotations

import contextlib
import json
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Self

from artifactfs.content.pack import pack_key
from benchmarks import inputs
from benchmarks.programs import ROUND_TRIP_SECONDS, Relay, awaited, running
from benchmarks.workbench import Workbench, say

_PROJECT = "/v1/projects/default"
ADDRESS = r"http://127\.0\.0\.1:(\d+)"
_POLL = "GET revision"
_OBJECT = "GET objects"
_QUIET_SECONDS = 0.2  # in which a line of the access log, and the last bytes, have come
# The log's times are whole milliseconds, and a request that answers to another comes a full round trip after it.
_APART = ROUND_TRIP_SECONDS - 0.002


@dataclass(frozen=True)
class Request:
    """A request that was answered. ``kind``: the method and the first word below the project."""

    kind: str
    begin: float
    sent: int  # bytes of the answer's body


@dataclass(frozen=True)
class Traffic:
    """What passed while something ran."""

    requests: list[Request]
    up: int  # bytes from the client
    down: int

    @property
    def asked(self) -> list[Request]:
        """All requests but the ones that wait for news, of which a mount has one at a time."""
        return [request for request in self.requests if request.kind != _POLL]

    @property
    def objects(self) -> list[Request]:
        """Requests for ranges of packs."""
        return [request for request in self.requests if request.kind == _OBJECT]

    @property
    def turns(self) -> int:
        """Requests in sequence, each a round trip or more after the one before: how many may have waited for one another."""
        count, last = 0, float("-inf")
        for request in sorted(self.asked, key=lambda request: request.begin):
            if request.begin >= last + _APART:
                count, last = count + 1, request.begin
        return count

    def spelled(self) -> str:
        """The requests by kind."""
        return ", ".join(f"{kind} {count:,}" for kind, count in Counter(each.kind for each in self.requests).items())


class Far:
    """A context manager: a server of the repository in a directory, which is made when it is absent."""

    def __init__(self, bench: Workbench, directory: Path) -> None:
        self.bench = bench
        self.directory = directory
        self._notes = bench.root / "output" / "serve"
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        bench = self.bench
        if not self.directory.exists():
            bench.run(bench.artifactfs("init", self.directory))
        command = bench.artifactfs("--repository", self.directory, "serve", "--host", "127.0.0.1", "--port", "0")
        with self._stack as stack:
            server = stack.enter_context(running(command, self._notes, bench.environment, bench.root))
            port = int(awaited(server, self._notes, ADDRESS).group(1))
            self.direct = f"http://127.0.0.1:{port}"
            self.relay = stack.enter_context(Relay(port))
            self.url = f"http://127.0.0.1:{self.relay.port}"
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def fill(self, source: Path) -> str:
        """Put an input, without the relay, under its own name."""
        say(f"putting {source.name}")
        cache = self.bench.empty("filling")
        self.bench.run(self._command(self.direct, cache, "put", source.name, source))
        self.settle()
        return source.name

    def command(self, cache: Path, *words: str | Path) -> list[str]:
        """A command of the product on this repository, through the relay, that keeps its cache there."""
        return self._command(self.url, cache, *words)

    def _command(self, url: str, cache: Path, *words: str | Path) -> list[str]:
        return self.bench.artifactfs("--repository", url, "--cache-dir", cache, *words)

    def settle(self) -> None:
        """Have all packs in the page cache, and nothing on its way to the disk."""
        inputs.settle(self.directory / "store")
        self.bench.run(["sync"])

    def packs(self) -> list[tuple[str, int]]:
        """Address, behind the relay, and size of each pack."""
        request = urllib.request.Request(f"{self.direct}{_PROJECT}/packs", headers={"Accept": "application/json"})  # noqa: S310
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request) as answer:
            packs = json.load(answer)["packs"]
        return [(f"{self.url}{_PROJECT}/objects/{pack_key(digest)}", size) for digest, size in packs]

    @contextlib.contextmanager
    def watched(self, into: list[Traffic]) -> Iterator[None]:
        """What passes meanwhile is appended ``into`` a list."""
        lines, before = len(self._lines()), self.relay.counts()
        yield
        found, after = self._settled()
        requests = [request(line) for line in found[lines:]]
        into.append(Traffic(requests, after["up"] - before["up"], after["down"] - before["down"]))

    def _settled(self) -> tuple[list[dict[str, Any]], dict[str, int]]:
        """The log's lines and the relay's counts, once nothing comes any more: on a busy machine that may take longer."""
        found = self._lines(), self.relay.counts()
        while True:
            time.sleep(_QUIET_SECONDS)
            before, found = found, (self._lines(), self.relay.counts())
            if found == before:
                return found

    def _lines(self) -> list[dict[str, Any]]:
        return access(self._notes.read_text(encoding="utf-8", errors="replace"))


def access(text: str) -> list[dict[str, Any]]:
    """The lines of the access log, among others, that are about the project."""
    whole = text[: text.rfind("\n") + 1].splitlines()  # a line that is being written is for the next time
    lines = [json.loads(line) for line in whole if line.startswith("{")]
    return [line for line in lines if str(line.get("path", "")).startswith(_PROJECT)]


def request(line: dict[str, Any]) -> Request:
    """A line of the access log as a request."""
    word = str(line["path"]).removeprefix(f"{_PROJECT}/").partition("/")[0]
    end = datetime.fromisoformat(line["time"]).timestamp()
    return Request(f"{line['method']} {word}", end - line["duration_ms"] / 1000, line["bytes"])

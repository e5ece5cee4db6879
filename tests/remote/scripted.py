"""A server over a real socket that does what a test says, request by request, and notes what it was asked."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from artifactfs.remote import wire
from tests.ports import HeldPort

PROJECT = "/v1/projects/default/"


@dataclass
class Asked:
    """A request as it came. ``connection`` numbers the connections."""

    method: str
    target: str
    headers: dict[str, str]  # names in lower case
    body: bytes
    connection: int

    @property
    def path(self) -> str:
        """What of the project was asked for."""
        return unquote(urlsplit(self.target).path).removeprefix(PROJECT)

    @property
    def words(self) -> dict[str, str]:
        return {key: values[0] for key, values in parse_qs(urlsplit(self.target).query).items()}

    @property
    def range(self) -> str:
        return self.headers.get("range", "")

    def message(self, kind: type) -> Any:
        return wire.decode(self.body, kind, self.headers["content-type"])


class Line:
    """The server's end of a connection."""

    def __init__(self, server: ScriptedServer, sock: socket.socket) -> None:
        self.server = server
        self.sock = sock
        self.file = sock.makefile("rb")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def reset(self) -> None:
        """End with an error instead of an end."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.close()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)
        self.file.close()
        self.sock.close()

    def stall(self) -> None:
        """Nothing more, until the test ends."""
        self.server.closing.wait()


Step = Callable[[Asked, Line], bool | None]
"""Answers a request; True when the connection may serve another one."""


def head(status: int, headers: Mapping[str, object], *, protocol: object = wire.PROTOCOL) -> bytes:
    named = {} if protocol is None else {wire.PROTOCOL_HEADER: protocol}
    lines = [f"HTTP/1.1 {status} Said", *(f"{key}: {value}" for key, value in {**named, **headers}.items())]
    return "\r\n".join([*lines, "", ""]).encode()


def reply(
    status: int = 200,
    body: bytes = b"",
    headers: Mapping[str, object] | None = None,
    *,
    protocol: object = wire.PROTOCOL,
    length: int | None = None,
) -> Step:
    """An answer; ``length`` is what it says of its body."""
    stated = {"Content-Length": len(body) if length is None else length}

    def step(asked: Asked, line: Line) -> bool:
        line.send(head(status, {**stated, **(headers or {})}, protocol=protocol))
        if asked.method != "HEAD":
            line.send(body)
        return length is None

    return step


def message(value: Any, *, status: int = 200, revision: int | None = None, **headers: object) -> Step:
    named = dict(headers)
    named["Content-Type"] = wire.MSGPACK
    if revision is not None:
        named[wire.REVISION_HEADER] = revision
    return reply(status, wire.encode(value), named)


def failure(status: int, code: str, text: str, **headers: object) -> Step:
    return message(wire.Failure(code, text), status=status, **headers)


def drop(_asked: Asked, _line: Line) -> None:
    """The request was read; the connection ends without an answer."""


def reset(_asked: Asked, line: Line) -> None:
    line.reset()


def stall(_asked: Asked, line: Line) -> None:
    line.stall()


def object_range(
    data: bytes, *, status: int = 206, cut: int | None = None, then: Callable[[Line], None] | None = None
) -> Step:
    """The range of an object that is asked for; only the first ``cut`` bytes of it, and then whatever ``then`` does."""

    def step(asked: Asked, line: Line) -> bool:
        begin, end = map(int, asked.range.removeprefix("bytes=").split("-"))
        body = data[begin : end + 1]
        line.send(
            head(
                status,
                {"Content-Length": len(body), "Content-Range": f"bytes {begin}-{begin + len(body) - 1}/{len(data)}"},
            )
        )
        line.send(body if cut is None else body[:cut])
        if then is not None:
            then(line)
        return cut is None

    return step


def trickle(line: Line) -> None:
    """A byte now and then, without end."""
    with contextlib.suppress(OSError):
        while not line.server.closing.wait(0.02):
            line.send(b"x")


NOTHING = failure(404, "not-found", "there is nothing here")


@dataclass
class ScriptedServer:
    """Answers each request with the next step of ``script``, then with ``otherwise``."""

    script: deque[Step] = field(default_factory=deque)
    otherwise: Step = NOTHING
    asked: list[Asked] = field(default_factory=list)
    port: int = 0

    def __post_init__(self) -> None:
        self.closing = threading.Event()
        self.cut: Callable[[Line], object] | None = None  # once, in place of reading a request's body
        self.connections = 0
        self._lines: list[Line] = []
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._listener: socket.socket | None = None
        self._held = HeldPort()  # also while it is deaf
        self.port = self._held.number
        self.listen()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def paths(self) -> list[str]:
        return [f"{asked.method} {asked.path}" for asked in self.asked]

    @property
    def ranges(self) -> list[str]:
        return [asked.range.removeprefix("bytes=") for asked in self.asked]

    def listen(self) -> None:
        """Begin to take connections, at the same port as before."""
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self._begin(self._accept, self._listener)

    def deafen(self) -> None:
        """Take no connections any more, and end those that are there: as when its process is killed."""
        with self._lock:
            lines, self._lines = self._lines, []
        for line in lines:
            with contextlib.suppress(OSError):
                line.sock.shutdown(socket.SHUT_RDWR)
        if self._listener is not None:
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None

    def close(self) -> None:
        self.closing.set()
        self.deafen()
        self._held.close()
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive()

    def _begin(self, work: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        with self._lock:
            self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            line = Line(self, sock)
            with self._lock:
                self.connections += 1
                number = self.connections
                self._lines.append(line)
            self._begin(self._serve, line, number)

    def _serve(self, line: Line, number: int) -> None:
        with contextlib.suppress(OSError, ValueError):
            while (asked := _read(line, number)) is not None:
                with self._lock:
                    self.asked.append(asked)
                    step = self.script.popleft() if self.script else self.otherwise
                if not step(asked, line):
                    break
        line.close()


def _read(line: Line, number: int) -> Asked | None:
    first = line.file.readline().decode().split()
    if len(first) != 3:
        return None
    headers: dict[str, str] = {}
    while text := line.file.readline().decode().strip():
        key, _, value = text.partition(":")
        headers[key.lower()] = value.strip()
    length = int(headers.get("content-length", 0))
    cut, line.server.cut = line.server.cut, None
    if cut is not None:
        cut(line)
        return None
    body = line.file.read(length)
    return Asked(first[0], first[1], headers, body, number) if len(body) == length else None

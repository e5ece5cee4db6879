"""A proxy between clients and a server, in the test's process, that does to a request what a test says.

A :class:`Fault` says to which requests (method, path, the n-th of them) it happens; what happens is an act, a function of the
:class:`Exchange`. Requests without a fault are relayed. Each connection has a thread, which ends with it or with :meth:`Proxy.close`.
"""

from __future__ import annotations

import re
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Final

from tests.ports import HeldPort

BLOCK: Final = 64 << 10
HEAD_LIMIT: Final = 64 << 10
END_SECONDS: Final = 60.0
_RESET: Final = struct.pack("ii", 1, 0)  # SO_LINGER: what is closed is reset, as when a machine on the way gives up


class Gone(Exception):
    """The connection to the client is at its end. ``reset``: not politely."""

    def __init__(self, *, reset: bool = False) -> None:
        super().__init__()
        self.reset = reset


class Head:
    """The first lines of a request or a response."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.first, *lines = data.decode("latin-1").rstrip().split("\r\n")
        self.fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}

    @property
    def length(self) -> int | None:
        value = self.fields.get("content-length")
        return None if value is None else int(value)

    def with_length(self, length: int) -> bytes:
        return re.sub(rb"(?i)(\r\ncontent-length:) *\d+", rb"\1 %d" % length, self.data)


class Wire:
    """A connection, read head by head and body by body."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._read = b""

    def head(self) -> Head | None:
        while b"\r\n\r\n" not in self._read:
            data = self.sock.recv(BLOCK)
            if not data or len(self._read) > HEAD_LIMIT:
                return None
            self._read += data
        head, _, self._read = self._read.partition(b"\r\n\r\n")
        return Head(head + b"\r\n\r\n")

    def take(self, most: int) -> bytes:
        if self._read:
            data, self._read = self._read[:most], self._read[most:]
            return data
        return self.sock.recv(min(most, BLOCK))


class Exchange:
    """A request of a client, whose body has not been read yet, and what may be done with it."""

    def __init__(self, proxy: Proxy, client: Wire, head: Head) -> None:
        self.proxy = proxy
        self.client = client
        self.head = head
        self.method, self.path = head.first.split(" ")[:2]
        self.body_left = head.length or 0

    def body(self, most: int | None = None) -> Iterator[bytes]:
        """The request's body, or the next ``most`` bytes of it, as they come."""
        left = self.body_left if most is None else min(most, self.body_left)
        while left:
            data = self.client.take(left)
            if not data:
                raise Gone
            left -= len(data)
            self.body_left -= len(data)
            yield data

    @contextmanager
    def server(self) -> Iterator[Wire]:
        """A connection to the server, to which nothing has been sent."""
        try:
            sock = socket.create_connection(("127.0.0.1", self.proxy.target), timeout=END_SECONDS)
        except OSError as error:
            raise Gone(reset=True) from error
        sock.settimeout(None)
        with sock, self.proxy.holding(sock):
            yield Wire(sock)

    @contextmanager
    def forwarded(self) -> Iterator[tuple[Head, Iterator[bytes]]]:
        """The server's response to the whole request: its head, its body as it comes."""
        with self.server() as server:
            server.sock.sendall(self.head.data)
            for data in self.body():
                server.sock.sendall(data)
            head = server.head()
            if head is None:
                raise Gone(reset=True)
            yield head, self._answer(server, head)

    def _answer(self, server: Wire, head: Head) -> Iterator[bytes]:
        empty = self.method == "HEAD" or head.first.split(" ")[1] in {"204", "304"}
        left = 0 if empty else head.length
        while left is None or left:
            data = server.take(BLOCK if left is None else left)
            if not data:
                raise Gone(reset=bool(left))
            if left is not None:
                left -= len(data)
            self.proxy.count(self, len(data))
            yield data

    def send(self, data: bytes) -> None:
        self.client.sock.sendall(data)

    def wait_for_client(self) -> None:
        """Until the client gives up."""
        while self.client.sock.recv(BLOCK):
            pass
        raise Gone


Act = Callable[[Exchange], None]


@dataclass
class Fault:
    """What happens to requests: to ``times`` of them (all: None) after the first ``skip``. ``met``: to how many it has."""

    act: Act
    method: str
    path: re.Pattern[str]
    skip: int
    times: int | None
    met: int = 0

    def meets(self, method: str, path: str) -> bool:
        if (self.method and method != self.method) or not self.path.search(path):
            return False
        if self.skip:
            self.skip -= 1
            return False
        if self.times is not None and self.met >= self.times:
            return False
        self.met += 1
        return True


@dataclass
class Seen:
    """A request that came, and the bytes of the server's answer to it so far."""

    method: str
    path: str
    fields: dict[str, str] = field(repr=False)
    received: int = 0


class Proxy:
    """Listens on a port of its own, which stays the same while :meth:`refusing`."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.seen: list[Seen] = []
        self._lock = threading.Lock()
        self._faults: list[Fault] = []
        self._socks: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._current: dict[Exchange, Seen] = {}
        self.ending = threading.Event()
        self._held = HeldPort()
        self.port = self._held.number
        self._listen()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    # -- what happens ----------------------------------------------------------------------------------------------

    @contextmanager
    def fault(
        self, act: Act, path: str, *, method: str = "", skip: int = 0, times: int | None = None
    ) -> Iterator[Fault]:
        """While this lasts, the act happens to these requests."""
        fault = Fault(act, method, re.compile(path), skip, times)
        with self._lock:
            self._faults.append(fault)
        try:
            yield fault
        finally:
            with self._lock:
                self._faults.remove(fault)

    @contextmanager
    def refusing(self) -> Iterator[None]:
        """While this lasts nobody listens, and all connections are cut."""
        self._deafen()
        self._cut()
        try:
            yield
        finally:
            self._listen()

    def requests(self, path: str, method: str = "") -> list[Seen]:
        """Requests so far."""
        with self._lock:
            return [seen for seen in self.seen if method in {"", seen.method} and re.search(path, seen.path)]

    def received(self, path: str) -> int:
        """Bytes of bodies that the server answered with."""
        return sum(seen.received for seen in self.requests(path))

    # -- life ------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        self.ending.set()
        self._deafen()
        self._cut()
        for thread in self._threads:
            thread.join(END_SECONDS)
        self._held.close()
        assert not any(thread.is_alive() for thread in self._threads)

    def count(self, exchange: Exchange, received: int) -> None:
        with self._lock:
            self._current[exchange].received += received

    @contextmanager
    def holding(self, sock: socket.socket) -> Iterator[None]:
        """While this lasts the socket is one of those that are cut."""
        with self._lock:
            self._socks.add(sock)
        try:
            yield
        finally:
            with self._lock:
                self._socks.discard(sock)

    def _listen(self) -> None:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        listener.listen(1024)
        self._listener = listener
        thread = threading.Thread(target=self._accept, args=(listener,), name="proxy", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _deafen(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # accept() elsewhere returns; closing alone would not make it
        self._listener.close()

    def _cut(self) -> None:
        with self._lock:
            for sock in self._socks:
                with suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(sock,), name="proxy-connection", daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, sock: socket.socket) -> None:
        with sock, self.holding(sock):
            if self.ending.is_set():
                return
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            client = Wire(sock)
            try:
                while (head := client.head()) is not None:
                    self._carry(Exchange(self, client, head))
            except Gone as gone:
                if gone.reset:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            except OSError:
                pass  # either side is gone

    def _carry(self, exchange: Exchange) -> None:
        seen = Seen(exchange.method, exchange.path, exchange.head.fields)
        with self._lock:
            self.seen.append(seen)
            self._current[exchange] = seen
            faults = [fault for fault in self._faults if fault.meets(exchange.method, exchange.path)]
        try:
            (faults[0].act if faults else relay)(exchange)
        finally:
            with self._lock:
                del self._current[exchange]


# -- acts --------------------------------------------------------------------------------------------------------------


def relay(exchange: Exchange) -> None:
    """What a proxy is for."""
    with exchange.forwarded() as (head, body):
        exchange.send(head.data)
        for data in body:
            exchange.send(data)


def answering(status: int, *fields: str) -> Act:
    """A status of what stands before the server, which does not see the request."""

    def act(exchange: Exchange) -> None:
        for _ in exchange.body():
            pass
        lines = [f"HTTP/1.1 {status} Trouble", "Content-Length: 8", "Content-Type: text/plain", *fields]
        exchange.send(("\r\n".join(lines) + "\r\n\r\n").encode() + (b"" if exchange.method == "HEAD" else b"trouble\n"))

    return act


def silence(exchange: Exchange) -> None:
    """Accept, and never answer."""
    exchange.wait_for_client()


def cut_response(after: int) -> Act:
    """Reset the connection when so many bytes of the body have been sent."""
    return _first_bytes(after, _reset)


def cut_request(after: int) -> Act:
    """Reset the connection when so many bytes of the request's body have been taken; the server gets these."""

    def act(exchange: Exchange) -> None:
        with exchange.server() as server:
            server.sock.sendall(exchange.head.data)
            for data in exchange.body(after):
                server.sock.sendall(data)
        raise Gone(reset=True)

    return act


def trickle_response(after: int, happening: Callable[[], object] = lambda: None) -> Act:
    """A byte a second, once so many have been sent and something of the test's has happened."""

    def slowly(exchange: Exchange, rest: bytes, body: Iterator[bytes]) -> None:
        happening()
        for data in _all(rest, body):
            for byte in data:
                if exchange.proxy.ending.wait(1.0):
                    raise Gone
                exchange.send(bytes([byte]))

    return _first_bytes(after, slowly)


def trickle_request(after: int) -> Act:
    """Take a byte of the request's body a second, once so many have been taken."""

    def act(exchange: Exchange) -> None:
        for _ in exchange.body(after):
            pass
        for _ in range(exchange.body_left):
            if exchange.proxy.ending.wait(1.0):
                raise Gone
            for _ in exchange.body(1):
                pass
        raise Gone

    return act


def short_response(after: int, happening: Callable[[], object] = lambda: None) -> Act:
    """Say how long the body is, and end it politely before, once something of the test's has happened."""

    def end(exchange: Exchange, rest: bytes, body: Iterator[bytes]) -> None:
        happening()
        raise Gone

    return _first_bytes(after, end)


def shortened_response(exchange: Exchange) -> None:
    """Half the body, with a Content-Length that says so."""
    with exchange.forwarded() as (head, body):
        data = b"".join(body)
        exchange.send(head.with_length(len(data) // 2) + data[: len(data) // 2])


def flipped_response(exchange: Exchange) -> None:
    """One byte of the body is another one."""
    with exchange.forwarded() as (head, body):
        exchange.send(head.data + flipped(b"".join(body)))


def flipped_request(exchange: Exchange) -> None:
    """One byte of the request's body is another one."""
    data = flipped(b"".join(exchange.body()))
    with exchange.server() as server:
        server.sock.sendall(exchange.head.data + data)
        head = server.head()
        assert head is not None
        exchange.send(head.data + b"".join(exchange._answer(server, head)))


def lost_reply(exchange: Exchange) -> None:
    """The server does it, and nobody is told."""
    with exchange.forwarded() as (_, body):
        for _ in body:
            pass
    raise Gone(reset=True)


def then(before: Callable[[], object], act: Act) -> Act:
    """Do something of the test's first."""

    def both(exchange: Exchange) -> None:
        before()
        act(exchange)

    return both


def flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 0x20]) + data[middle + 1 :] if data else data


def interrupted(after: int, happening: Callable[[], object]) -> Act:
    """Something of the test's happens when so many bytes of the response's body have been sent; then the rest is sent, if it comes."""

    def go_on(exchange: Exchange, rest: bytes, body: Iterator[bytes]) -> None:
        happening()
        for data in _all(rest, body):
            exchange.send(data)

    return _first_bytes(after, go_on)


def _first_bytes(after: int, rest: Callable[[Exchange, bytes, Iterator[bytes]], None]) -> Act:
    """Relay so many bytes of a body; do ``rest`` when there are more."""

    def act(exchange: Exchange) -> None:
        with exchange.forwarded() as (head, body):
            exchange.send(head.data)
            left = after
            for data in body:
                exchange.send(data[:left])
                if len(data) > left:
                    rest(exchange, data[left:], body)
                    return
                left -= len(data)

    return act


def _reset(exchange: Exchange, rest: bytes, body: Iterator[bytes]) -> None:
    raise Gone(reset=True)


def _all(rest: bytes, body: Iterator[bytes]) -> Iterator[bytes]:
    yield rest
    yield from body

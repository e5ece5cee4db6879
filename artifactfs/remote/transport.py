"""One HTTP request and its response, bounded in time: the only file that knows ``requests``.

Used by ``client.py`` and by References to the web, which decide what is repeated and what a response means. Any thread; a
:class:`Response` belongs to one.

The library bounds single waits for the network, so a server that gives a byte now and then is waited for without end. Here every wait
belongs to an :class:`Exchange` with a deadline, which the socket looks at before each wait. No cookie is sent, no body decoded.
:class:`Transport` takes nothing from the environment and follows no redirect; :class:`WebTransport` does both, as other programs do.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import logging
import socket
import ssl
import threading
import time
from collections.abc import Iterable, Mapping
from http.cookiejar import DefaultCookiePolicy
from ipaddress import ip_address
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Final, cast
from weakref import WeakSet

import requests
from requests.adapters import HTTPAdapter
from requests.structures import CaseInsensitiveDict
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError

PACE: Final = 32 << 10
"""Bytes a second that must move, or a deadline is met: eight streams at once need 2 Mbit/s. A byte a second ends at the deadline."""

IDLE_CONNECTIONS: Final = 256
"""Connections kept for reuse: more than threads fetch at once, as the library warns on stderr about each that it may not keep."""

BAD_CERTIFICATE: Final = "its certificate is not valid"
CLOSED: Final = "the connection was closed without an answer"

Body = bytes | Iterable[bytes | memoryview]


class _WithoutQuery(logging.Filter):
    """The library logs each request, for whoever asks for that: without the query, which is the secret of a signed URL."""

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple):
            record.args = tuple(_cut_query(each) for each in record.args)
        return True


def _cut_query(value: object) -> object:
    return f"{value.partition('?')[0]}?…" if isinstance(value, str) and "?" in value else value


logging.getLogger("urllib3.connectionpool").addFilter(_WithoutQuery())


class Unreachable(Exception):
    """No connection came about. The message says why."""


class Broken(Exception):
    """The connection broke, or came to a standstill. ``stale``: it had been idle, and was closed before it answered anything.

    ``silent``: nothing came any more, so other idle connections may be as dead.
    """

    def __init__(self, reason: str, *, stale: bool = False, silent: bool = False) -> None:
        super().__init__(reason)
        self.stale = stale
        self.silent = silent


class Exchange:
    """How long a request may take, and how far it has come.

    A wait for the network lasts ``silence`` seconds at most, the one for the first byte of the response ``answer``; all end at
    ``deadline`` (monotonic), which recedes by a second for every PACE bytes that move.
    """

    __slots__ = (
        "answer",
        "begun",
        "connect",
        "deadline",
        "failure",
        "fresh",
        "headed",
        "reached",
        "silence",
        "traffic",
    )

    def __init__(self, traffic: Transport, deadline: float, connect: float, silence: float, answer: float) -> None:
        self.traffic = traffic
        self.deadline = deadline
        self.connect = connect
        self.silence = silence
        self.answer = answer
        self.fresh = False  # the connection was made for this request
        self.reached = False  # there is a connection
        self.begun = False  # the response has begun
        self.headed = False  # the response's head has come; its body is read
        self.failure: OSError | None = None  # why the response's body ended early

    def wait(self, longest: float) -> float:
        """Seconds that the next wait may last. TimeoutError when there are none."""
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return min(left, longest)

    def moved(self, *, sent: int = 0, received: int = 0) -> None:
        """Bytes moved."""
        self.deadline += (sent + received) / PACE
        self.traffic.count(sent, received)


class _Current(threading.local):
    """The exchange that this thread is in while the library makes its request: there is no way to hand it through."""

    exchange: Exchange | None = None


_current: Final = _Current()


class Line:
    """A connected socket as the library uses it, with waits bounded by the exchange that it serves."""

    def __init__(self, sock: socket.socket, exchange: Exchange) -> None:
        self._sock = sock
        self._exchange = exchange
        self._readers = 0
        self._closed = False
        self.fileno = sock.fileno

    def settimeout(self, _seconds: float | None) -> None:
        """Called when a request begins on a connection that was kept, and when its response is waited for."""
        exchange = _current.exchange
        if exchange is not None:
            exchange.reached = True
            self._exchange = exchange

    def sendall(self, data: bytes | memoryview) -> None:
        """Send everything."""
        exchange = self._exchange
        rest = memoryview(data)
        while rest:
            self._sock.settimeout(exchange.wait(exchange.silence))
            count = self._sock.send(rest)
            exchange.moved(sent=count)
            rest = rest[count:]

    def receive(self, buffer: memoryview) -> int:
        """Receive what is there, or the next to come; 0 at the end."""
        exchange = self._exchange
        self._sock.settimeout(exchange.wait(exchange.silence if exchange.begun else exchange.answer))
        count = self._sock.recv_into(buffer)
        if count:
            exchange.begun = True
            exchange.moved(received=count)
        return count

    def makefile(self, _mode: str) -> io.BufferedReader:
        """The receiving side. The socket stays open until it is closed too."""
        self._readers += 1
        return io.BufferedReader(_Incoming(self, self._exchange))

    def shutdown(self, how: int = socket.SHUT_RDWR) -> None:
        """End both directions, from any thread: who waits for it stops waiting."""
        with contextlib.suppress(OSError):
            # Not SSLSocket's own, which takes the session away from under the thread that reads.
            socket.socket.shutdown(self._sock, how)

    def close(self) -> None:
        """Close the socket, once nobody reads from it any more."""
        self._closed = True
        if not self._readers:
            self._sock.close()

    def release(self) -> None:
        """A reader is closed."""
        self._readers -= 1
        if self._closed:
            self.close()


class _Incoming(io.RawIOBase):
    """The receiving side of a Line, for one response."""

    def __init__(self, line: Line, exchange: Exchange) -> None:
        self._line: Line | None = line
        self._exchange = exchange

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        line = self._line
        if line is None:
            return 0
        try:
            return line.receive(buffer)
        except OSError as error:
            if not self._exchange.headed:
                raise
            # The buffer above forgets what it has when it meets an error, but not when it meets the end.
            self._exchange.failure = error
            return 0

    def close(self) -> None:
        line, self._line = self._line, None
        super().close()
        if line is not None:
            line.release()


class _PlainConnection(HTTPConnection):
    """Connects within the exchange's bound, whatever the number of addresses and however long their lookup takes."""

    def _new_conn(self) -> socket.socket:
        exchange = _exchange()
        deadline = time.monotonic() + exchange.wait(exchange.connect)
        failure: OSError = OSError("the host has no address")
        for family, kind, protocol, address in _look_up(self._dns_host, self.port, exchange.connect):
            sock = socket.socket(family, kind, protocol)
            try:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise TimeoutError
                sock.settimeout(left)
                sock.connect(address)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            except OSError as error:
                sock.close()
                failure = error
            else:
                return sock
        raise failure

    def connect(self) -> None:
        exchange = _exchange()
        super().connect()
        line = Line(self.sock, exchange)
        self.sock = cast("Any", line)
        exchange.traffic.opened(line)
        exchange.fresh = exchange.reached = True


class _TLSConnection(_PlainConnection, HTTPSConnection):
    """The same with TLS: the handshake has what connecting left of the time."""


class _PlainPool(HTTPConnectionPool):
    ConnectionCls = _PlainConnection


class _TLSPool(HTTPSConnectionPool):
    ConnectionCls = _TLSConnection


class _Adapter(HTTPAdapter):
    def init_poolmanager(self, connections: int, maxsize: int, block: bool = False, **options: Any) -> None:
        super().init_poolmanager(connections, maxsize, block, **options)
        self.poolmanager.pool_classes_by_scheme = {"http": _PlainPool, "https": _TLSPool}


class Response:
    """A response whose head has come. Its body is read, or it is closed; both give the connection back or drop it."""

    def __init__(self, reply: requests.Response, exchange: Exchange) -> None:
        self._raw = reply.raw
        self._exchange = exchange
        self._failed: str | None = None
        self.status = reply.status_code
        self.headers: Mapping[str, str] = reply.headers
        length = self.headers.get("Content-Length", "")
        self.length = int(length) if length.isascii() and length.isdecimal() else None
        """Bytes of the body, when the server says so."""

    def set_deadline(self, deadline: float) -> None:
        """By when (monotonic) what is read next must have come."""
        self._exchange.deadline = deadline

    def read(self, length: int) -> bytes:
        """The next ``length`` bytes of the body; fewer when it ended or broke.

        The bytes are received where they stay: 4 MiB ranges came with 2.2 GB/s in one thread and 3.6 GB/s in eight, as fast as
        with ``http.client`` alone; ``readinto`` of this library copies and has half of that.
        """
        try:
            return cast("bytes", self._raw.read(length, decode_content=False)) or b""
        except (HTTPError, http.client.HTTPException, OSError) as error:
            self._failed = _words(error)
            return b""

    def read_all(self, limit: int) -> bytes:
        """The whole body. Broken when it comes short; one byte more than ``limit`` when it is larger."""
        if self.length is not None:
            wanted = min(self.length, limit + 1)
            data = self.read(wanted) if wanted else b""
            if len(data) < wanted:
                raise self.broken()
            return data
        parts: list[bytes] = []
        size = 0
        while size <= limit and (data := self.read(limit + 1 - size)):
            parts.append(data)
            size += len(data)
        if self.failed:
            raise self.broken()
        return b"".join(parts)

    @property
    def failed(self) -> bool:
        """Whether the body broke where it was read last."""
        return self._failed is not None or self._exchange.failure is not None

    def broken(self) -> Broken:
        """Why the body came short."""
        failure = self._exchange.failure
        if failure is None:
            return Broken(self._failed or "the connection was cut")
        return Broken(_words(failure), silent=isinstance(failure, TimeoutError))

    def close(self) -> None:
        """Be done. The connection is kept when the body was read to its end. Idempotent."""
        if self.status == 204 or self._raw.length_remaining == 0:
            self.read(1)  # an empty body is only known to have ended when it was asked for
        else:
            self._raw.close()
        self._raw.release_conn()


class Transport:
    """Requests to one server. ``connect``: seconds that a connection may take, its lookup included.

    ``ca_file``: the certificates that its own is checked with; None: those that the library brings.
    """

    _hosts = 1  # that connections are kept for

    def __init__(self, *, connect: float, ca_file: Path | None = None) -> None:
        self._connect = connect
        self._verify: bool | str = True if ca_file is None else str(ca_file)
        self._lock = threading.Lock()
        self._lines: WeakSet[Line] = WeakSet()
        self._adapter = _Adapter(pool_connections=self._hosts, pool_maxsize=IDLE_CONNECTIONS)
        self._closed = False
        self.requests = 0
        self.bytes_sent = 0
        self.bytes_received = 0

    def send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: Body | None,
        *,
        deadline: float,
        silence: float,
        answer: float,
    ) -> Response:
        """Send a request and wait for the response's head. Raises Unreachable or Broken.

        ``body``, when it is no bytes, comes in blocks, and ``headers`` have its Content-Length.
        """
        exchange = Exchange(self, deadline, self._connect, silence, answer)
        with self._lock:
            self.requests += 1
        _current.exchange = exchange
        try:
            reply = self._ask(method, url, headers, body, (self._connect, silence))
        except (requests.RequestException, HTTPError, http.client.HTTPException, OSError, UnicodeError) as error:
            cause = _cause(error)
            if not exchange.reached:
                raise Unreachable(_words(cause, self._connect)) from error
            stale = not exchange.fresh and not exchange.begun and not isinstance(cause, TimeoutError)
            raise Broken(_words(cause), stale=stale, silent=isinstance(cause, TimeoutError)) from error
        except AttributeError as error:
            # The library looks at a socket that is gone: the idle connection that it had just taken was closed by
            # `forget_idle` of another thread.
            raise Broken("the connection was closed meanwhile", stale=True) from error
        finally:
            _current.exchange = None
        exchange.headed = True
        return Response(reply, exchange)

    def _ask(
        self, method: str, url: str, headers: Mapping[str, str], body: Body | None, timeout: tuple[float, float]
    ) -> requests.Response:
        request = requests.PreparedRequest()
        request.method = method
        request.url = url
        request.headers = CaseInsensitiveDict(headers)
        request.body = cast("Any", body)
        # The adapter alone: a Session adds redirects, cookies and the environment, and a tenth of the time of 4 MiB.
        return self._adapter.send(request, stream=True, timeout=timeout, verify=self._verify)

    def forget_idle(self) -> None:
        """Close the connections that wait for reuse."""
        self._adapter.poolmanager.clear()

    def opened(self, line: Line) -> None:
        """A connection was made."""
        with self._lock:
            self._lines.add(line)
            closed = self._closed
        if closed:
            line.shutdown()

    def count(self, sent: int, received: int) -> None:
        """Bytes moved."""
        with self._lock:
            self.bytes_sent += sent
            self.bytes_received += received

    def close(self) -> None:
        """End all connections, also those that are waited for. Idempotent."""
        with self._lock:
            self._closed = True
            lines = list(self._lines)
        for line in lines:
            line.shutdown()
        self.forget_idle()


class WebTransport(Transport):
    """Requests to any server. Follows redirects, and takes proxies, certificates and passwords (``~/.netrc``) from the environment.

    Through a proxy single waits are bounded, and not their sum.
    """

    _hosts = 16

    def __init__(self, *, connect: float) -> None:
        super().__init__(connect=connect)
        self._session = requests.Session()
        self._session.max_redirects = 10
        self._session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, self._adapter)

    def _ask(
        self, method: str, url: str, headers: Mapping[str, str], body: Body | None, timeout: tuple[float, float]
    ) -> requests.Response:
        return self._session.request(
            method, url, headers=headers, data=cast("Any", body), stream=True, timeout=timeout, allow_redirects=True
        )


def _exchange() -> Exchange:
    exchange = _current.exchange
    if exchange is None:
        raise OSError("a connection without a request")
    return exchange


_Address = tuple[socket.AddressFamily, socket.SocketKind, int, Any]


def _look_up(host: str, port: int | None, seconds: float) -> list[_Address]:
    """Addresses of a host. The system's lookup has no bound that could be given to it, so it runs in a thread of its own."""
    host = host.strip("[]")
    found: SimpleQueue[list[_Address] | OSError | UnicodeError] = SimpleQueue()

    def ask() -> None:
        try:
            found.put(
                [(row[0], row[1], row[2], row[4]) for row in socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM)]
            )
        except (OSError, UnicodeError) as error:
            found.put(error)

    if _is_literal(host):
        ask()
    else:
        threading.Thread(target=ask, name="host-lookup", daemon=True).start()
    try:
        result = found.get(timeout=seconds)
    except Empty:
        raise TimeoutError from None
    if isinstance(result, list):
        return result
    raise result


def _is_literal(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _cause(error: BaseException) -> BaseException:
    """What an error of the libraries stands for."""
    while isinstance(error, requests.RequestException | HTTPError):
        below = error.__cause__ or error.__context__
        if below is None:
            break
        error = below
    return error


def _words(error: BaseException, connect: float | None = None) -> str:
    """A cause in words, one line."""
    cause = _cause(error)
    if isinstance(cause, TimeoutError):
        return "no answer in time" if connect is None else f"no connection within {connect:g} s"
    if isinstance(cause, socket.gaierror | UnicodeError):
        return "the host's name is not known"
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"{BAD_CERTIFICATE} ({cause.verify_message})"
    if isinstance(cause, http.client.RemoteDisconnected):
        return CLOSED
    if isinstance(cause, http.client.BadStatusLine | http.client.LineTooLong):
        return "what answers does not speak HTTP"
    if isinstance(cause, http.client.HTTPException):
        return "the connection was cut"
    text = cause.strerror if isinstance(cause, OSError) and cause.strerror else str(cause)
    return " ".join((text or type(cause).__name__).split()).lower()

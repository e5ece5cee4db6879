"""Serving: an application on a socket until it is told to stop.

Used by ``cli/serving.py``, and by tests in a thread. Stopping (SIGTERM, SIGINT, or :meth:`Serving.stop`) closes the socket, ends long
polls at once, lets other requests finish within a bound, and returns.
"""

from __future__ import annotations

import errno
import ipaddress
import signal
import socket
import ssl
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Final

import uvicorn
from fastapi import FastAPI

from artifactfs.errors import Access, InvalidInput, Unavailable
from artifactfs.server.certificates import Certificate
from artifactfs.server.connections import BoundedConnection
from artifactfs.server.service import Service

GRACEFUL_SECONDS: Final = 30
"""How long requests that are under way may take after the order to stop."""
KEEP_ALIVE_SECONDS: Final = 75
"""How long an idle connection is kept: longer than a reverse proxy (60 s) keeps it, so that no request meets one that is closing."""
BACKLOG: Final = 2048
"""Connections that wait to be accepted: a cluster that starts at once."""
CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""Of TLS 1.2: what was said stays secret when the server's key is lost later, and no CBC. uvicorn's own choice, the word TLSv1, leaves
nothing but CBC. TLS 1.3 has no others."""


def is_loopback(host: str) -> bool:
    """Whether all addresses of a host are of this machine alone. InvalidInput for a host without addresses."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise InvalidInput(f"the host {host!r} has no address; give a name or an address of this machine") from error
    return all(ipaddress.ip_address(str(address[0]).partition("%")[0]).is_loopback for *_, address in found)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there; port 0 is any free one. Unavailable when it is in use, Access when it is not allowed."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(BACKLOG)
        except BaseException:
            listener.close()
            raise
    except (OSError, OverflowError) as error:
        raise _translated(error, host, port) from error
    return listener


def _translated(error: Exception, host: str, port: int) -> Unavailable | Access | InvalidInput:
    number = error.errno if isinstance(error, OSError) else None
    if number == errno.EADDRINUSE:
        return Unavailable(f"port {port} of {host} is in use by another process; choose another --port, or 0 for any")
    if number in {errno.EACCES, errno.EPERM}:
        return Access(f"port {port} of {host} is not for this user; choose a --port from 1024 on")
    words = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return InvalidInput(f"cannot listen at port {port} of {host}: {words.lower()}; choose an address of this machine")


def url_of(listener: socket.socket, *, tls: bool = False) -> str:
    """The address of a socket as clients of this machine write it."""
    host, port = listener.getsockname()[:2]
    scheme = "https" if tls else "http"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


class Serving:
    """An application on a listening socket. ``graceful``: seconds that requests have to finish after the order to stop.

    ``certificate``: what TLS is spoken with (see :mod:`artifactfs.server.certificates`); None: it is not.
    """

    def __init__(
        self,
        app: FastAPI,
        listener: socket.socket,
        *,
        graceful: int = GRACEFUL_SECONDS,
        certificate: Certificate | None = None,
    ) -> None:
        service: Service = app.state.service
        self._service = service
        self._listener = listener
        config = uvicorn.Config(
            app,
            http=BoundedConnection,
            ws="none",
            loop="uvloop",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            backlog=BACKLOG,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=graceful,
            ssl_certfile=None if certificate is None else certificate.chain,
            ssl_keyfile=None if certificate is None else certificate.key,
            ssl_ciphers=CIPHERS,
        )
        config.load()
        if config.ssl is not None:
            config.ssl.minimum_version = ssl.TLSVersion.TLSv1_2  # whatever the system's configuration allows
        self._server = _Server(config, service.end)

    def run(self, ready: Callable[[], None]) -> None:
        """Serve until stopped; ``ready`` is called once requests are answered. Signals are heeded on the main thread only."""
        undo = self._service.log.listen()
        self._server.ready = ready
        try:
            self._server.run(sockets=[self._listener])
        finally:
            undo()
            self._listener.close()

    def stop(self) -> None:
        """Give the order to stop. From any thread."""
        self._server.should_exit = True


class _Server(uvicorn.Server):
    """Tells when it is ready, and lets the application begin to end before it waits for requests."""

    ready: Callable[[], None]

    def __init__(self, config: uvicorn.Config, end: Callable[[], None]) -> None:
        super().__init__(config)
        self._end = end

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._end()
        await super().shutdown(sockets)

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """As uvicorn's own, but a stop that was asked for is no death by signal: the exit status is 0."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

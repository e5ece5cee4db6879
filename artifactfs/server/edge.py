"""The edge of the application: what holds for every request, whatever its route.

Used by ``app.py`` as the outermost middleware. It gives each request an id, refuses clients that are too old, says which protocol it
speaks, counts, logs, and turns an unexpected failure into one line.
"""

from __future__ import annotations

import re
import secrets
import time
from typing import Any, Final

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from artifactfs.errors import ArtifactFSError, Format
from artifactfs.remote.wire import OLDEST_PROTOCOL, PROTOCOL, PROTOCOL_HEADER, check_protocol
from artifactfs.server.failures import failed
from artifactfs.server.service import Service

REQUEST_ID: Final = "X-Request-ID"
GONE: Final = 499
"""Status in log and metrics of a request whose client went away before it was answered; nginx says it so."""

_ID: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_NO_ROUTE: Final = "none"


class Edge:
    """Wraps the application."""

    def __init__(self, app: ASGIApp, *, service: Service) -> None:
        self._app = app
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(self._service, scope, receive, send)
        try:
            await self._answer(exchange, scope)
        except ClientDisconnect:
            pass
        except Exception as error:
            # The last border of a request: a fault of ours is one line to the client and a traceback to the log.
            await exchange.fail(error)
        finally:
            exchange.end()

    async def _answer(self, exchange: _Exchange, scope: Scope) -> None:
        spoken = exchange.headers.get(PROTOCOL_HEADER)
        if spoken is not None and scope["path"].startswith("/v1"):
            try:
                check_protocol(spoken, "this client", oldest=OLDEST_PROTOCOL)
            except Format as error:
                await failed(Request(scope), error)(scope, exchange.receive, exchange.send)
                return
        await self._app(scope, exchange.receive, exchange.send)


class _Exchange:
    """One request with its answer, as far as it has come."""

    def __init__(self, service: Service, scope: Scope, receive: Receive, send: Send) -> None:
        self._service = service
        self._scope = scope
        self._receive = receive
        self._send = send
        self._began = time.monotonic()
        self._status: int | None = None
        self._complete = False
        self._received = 0
        self._sent = 0
        self.headers = Headers(scope=scope)
        given = self.headers.get(REQUEST_ID, "")
        self.id = given if _ID.fullmatch(given) else secrets.token_hex(8)

    async def receive(self) -> Message:
        """An event of the request, counted."""
        message = await self._receive()
        count = len(message.get("body", b""))
        if count:
            self._received += count
            self._service.metrics.moved(received=count)
        return message

    async def send(self, message: Message) -> None:
        """An event of the answer, with the headers of every answer, counted."""
        if message["type"] == "http.response.start":
            self._status = message["status"]
            headers: list[tuple[bytes, bytes]] = [
                *message.get("headers", ()),
                (PROTOCOL_HEADER.lower().encode(), str(PROTOCOL).encode()),
                (REQUEST_ID.lower().encode(), self.id.encode()),
            ]
            await self._send({**message, "headers": headers})
            return
        count = len(message.get("body", b""))
        await self._send(message)
        self._complete = not message.get("more_body", False)
        if count:
            self._sent += count
            self._service.metrics.moved(sent=count)

    async def fail(self, error: Exception) -> None:
        """Tell of a fault of ours; an answer that has begun breaks off, which its length gives away."""
        cause = error.__cause__
        if self._status is not None and isinstance(cause, ArtifactFSError):
            # Something failed while it was sent, as when a bucket breaks off again and again: no fault of ours.
            self._service.log.note("warning", f"the answer to request {self.id} broke off: {cause}")
            return
        self._service.log.failure(error, request=self.id)
        if self._status is None:
            told = ArtifactFSError(f"the server failed unexpectedly; its log tells more of request {self.id}")
            await failed(Request(self._scope), told, status=500)(self._scope, self.receive, self.send)

    def end(self) -> None:
        """Count and log it."""
        status = self._status if self._status is not None else GONE
        seconds = time.monotonic() - self._began
        route: Any = self._scope.get("route")
        template = getattr(route, "path_format", _NO_ROUTE)
        self._service.metrics.count(self._scope["method"], template, status, seconds)
        client = self._scope.get("client")
        self._service.log.request(
            client=client[0] if client else "",
            method=self._scope["method"],
            path=self._scope["path"],
            status=status,
            received=self._received,
            sent=self._sent,
            seconds=seconds,
            request=self.id,
        )

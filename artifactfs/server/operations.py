"""Routes about the server itself: what answers here, whether it lives and is ready, what it counts."""

from __future__ import annotations

from typing import Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from artifactfs import __version__
from artifactfs.errors import Unavailable
from artifactfs.model.access import READ
from artifactfs.remote.wire import OLDEST_PROTOCOL, PROTOCOL, Hello, encode
from artifactfs.server.document import OPEN, Operations
from artifactfs.server.failures import media_of
from artifactfs.server.metrics import CONTENT_TYPE
from artifactfs.server.service import Service

operation: Final = Operations("Server", "")


class Health(msgspec.Struct, frozen=True):
    """How the server is: "ok"."""

    status: str


@operation("GET", "/v1", gives=Hello, role=OPEN)
async def hello(request: Request) -> Response:
    """What answers at this address, and which protocols it speaks."""
    return _told(request, Hello("artifactfs", __version__, PROTOCOL, OLDEST_PROTOCOL))


@operation("GET", "/healthz", gives=Health, role=OPEN)
async def healthz(request: Request) -> Response:
    """Whether the process answers at all: if not, start it anew."""
    return _told(request, Health("ok"))


@operation("GET", "/readyz", gives=Health, role=OPEN)
async def readyz(request: Request) -> Response:
    """Whether registry and store can be used and the server is not about to stop: if not, send requests elsewhere."""
    service: Service = request.app.state.service
    if service.ending:
        raise Unavailable("the server is stopping")

    await service.reading.run(lambda: service.own.missing([bytes(32)]))
    await service.check_stores()
    return _told(request, Health("ok"))


@operation(
    "GET",
    "/metrics",
    status=200,
    extra={
        "success": {
            "description": "Prometheus' text format.",
            "content": {"text/plain": {"schema": {"type": "string"}}},
        }
    },
    role=READ,
)
async def metrics(request: Request) -> Response:
    """Counters for Prometheus."""
    service: Service = request.app.state.service
    return Response(await service.reading.run(service.metrics.text), media_type=CONTENT_TYPE)


def _told(request: Request, message: Hello | Health) -> Response:
    media = media_of(request)
    return Response(encode(message, media), media_type=media)

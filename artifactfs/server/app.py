"""The application: routes, what wraps them, and how errors become answers.

Used by ``serving.py`` and by tests. It is an adapter: every rule is the registry's or the content's.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from typing import Any, Final

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match

from artifactfs import __version__
from artifactfs.content.stores import Stores
from artifactfs.errors import ArtifactFSError, InvalidInput, NotFound
from artifactfs.registry.sql import SQLRegistry
from artifactfs.server import collecting, content, objects, operations, retention, runs, tokens, versions
from artifactfs.server.access import Access
from artifactfs.server.document import add_routes, complete
from artifactfs.server.edge import Edge
from artifactfs.server.failures import Refusal, failed
from artifactfs.server.log import Log
from artifactfs.server.service import Service
from artifactfs.server.signing import SIGNED_SECONDS

_MODULES: Final = (
    operations.operation,
    versions.operation,
    runs.operation,
    content.operation,
    collecting.operation,
    objects.operation,
    tokens.operation,
    retention.operation,
)
_ABOUT: Final = (
    "The Store and Registry contracts of a repository over HTTP. Messages are msgpack or JSON, as Content-Type and Accept say; "
    "in JSON bytes are base64. Every error is a Failure."
)


def create_app(
    registry: SQLRegistry,
    stores: Stores,
    *,
    log: Log,
    require_tokens: bool = False,
    hosts: Collection[str] | None = None,
    signed: float | None = SIGNED_SECONDS,
    upkeep_seconds: float = 0.0,
) -> FastAPI:
    """The application that serves a repository; ``registry`` is any project's. Both stay the caller's to close.

    ``signed``: seconds that URLs of packs in an object store live; None: none are given.
    ``require_tokens``, ``hosts``: as in :class:`~artifactfs.server.access.Access`. ``upkeep_seconds``: how often retention rules are
    applied; 0: never.
    """
    service = Service(registry, stores, log=log, signed=signed, upkeep_seconds=upkeep_seconds)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.upkeep.start()
        yield
        service.end()
        service.close()

    app = FastAPI(
        title="ArtifactFS",
        version=__version__,
        description=_ABOUT,
        lifespan=lifespan,
        # The pages that FastAPI brings load scripts from other hosts.
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.service = service
    app.state.access = Access(service.own.tokens, service.reading, required=require_tokens, hosts=hosts)
    for module in _MODULES:
        add_routes(app, module)
    app.add_exception_handler(ArtifactFSError, _told)
    app.add_exception_handler(Refusal, _refused)
    app.add_exception_handler(RequestValidationError, _wrong_parameters)
    app.add_exception_handler(HTTPException, _no_route)
    app.add_middleware(Edge, service=service)
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            complete(generate(), [operation for module in _MODULES for operation in module])
        return generate()

    app.openapi = openapi  # type: ignore[method-assign]
    return app


async def _told(request: Request, error: Exception) -> Response:
    assert isinstance(error, ArtifactFSError)  # noqa: S101 - registered for it
    return failed(request, error)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)  # noqa: S101 - registered for it
    return failed(request, error.error, status=error.status, headers=error.headers)


async def _wrong_parameters(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - registered for it
    first = error.errors()[0]
    return failed(request, InvalidInput(f"wrong {first['loc'][-1]} in the {first['loc'][0]}: {first['msg'].lower()}"))


async def _no_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for it
    path = request.url.path
    told: ArtifactFSError
    if error.status_code == 404:
        told = NotFound(f"nothing is at {path}; /openapi.json tells what there is")
    else:
        told = InvalidInput(f"{request.method} is not a method of {path}; /openapi.json tells which are")
        return failed(request, told, status=error.status_code, headers={"Allow": ", ".join(_methods(request))})
    return failed(request, told, status=error.status_code)


def _methods(request: Request) -> list[str]:
    """Methods of a path, of all its routes: the router knows those of the first alone."""
    found: set[str] = set()
    for route in request.app.routes:
        match, _ = route.matches(request.scope)
        if match is not Match.NONE:
            found |= getattr(route, "methods", None) or set()
    return sorted(found)

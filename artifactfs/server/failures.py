"""Errors as HTTP says them: the one table from our errors to statuses, and the response that carries one.

Used by every route and by the application's exception handlers. Pure functions, safe from any thread.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from artifactfs.errors import (
    Access,
    ArtifactFSError,
    Conflict,
    Format,
    Integrity,
    InvalidInput,
    NoSpace,
    NotFound,
    ReadOnly,
    Unavailable,
)
from artifactfs.remote.wire import JSON, MSGPACK, PROTOCOL, PROTOCOL_HEADER, REVISION_HEADER, encode, to_failure

_STATUS: Final[dict[type[ArtifactFSError], int]] = {
    NotFound: 404,
    Conflict: 409,
    InvalidInput: 400,
    ReadOnly: 403,
    Access: 403,
    Integrity: 500,  # what lies in the store is damaged; for what a client sent, routes say 422
    Format: 426,
    Unavailable: 503,
    NoSpace: 507,
}
_HEADERS: Final[dict[int, Mapping[str, str]]] = {
    426: {"Upgrade": f"{PROTOCOL_HEADER}/{PROTOCOL}"},  # RFC 9110, section 15.5.22, asks for it
    503: {"Retry-After": "1"},
}
CLOSE: Final[Mapping[str, str]] = {"Connection": "close"}
"""Headers of an answer to a request whose body has stopped coming: the rest is not waited for."""

MEANINGS: Final = {
    400: "The request's words are wrong; it is not to be repeated.",
    401: "No token came, or none that is good.",
    403: "The token has too low a role, or the server may not do this with its files.",
    404: "It is not there, or the token is of another project.",
    405: "Not a method of this path.",
    408: "The request's body stopped coming.",
    409: "The state changed, or forbids it.",
    411: "An object's length must be stated.",
    413: "The body is larger than the server takes.",
    415: "The body is neither msgpack nor JSON.",
    416: "The range is not within the object, or there are several.",
    422: "The bytes that were sent do not match their digest; nothing was recorded.",
    426: "The client's protocol is too old.",
    500: "Stored data is damaged, or the server failed.",
    503: "A part does not answer now; to be repeated.",
    507: "The server's disk is full.",
}
"""What each status means, for the OpenAPI document."""


class Refusal(Exception):
    """An error whose status is not the table's, for HTTP has a word of its own for it."""

    def __init__(self, status: int, error: ArtifactFSError, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(str(error))
        self.status = status
        self.error = error
        self.headers = headers or {}


def media_of(request: Request) -> str:
    """The media type to answer in: msgpack for who names it, JSON for everybody else (a person with curl)."""
    return MSGPACK if MSGPACK in request.headers.get("accept", "") else JSON


def failed(
    request: Request, error: ArtifactFSError, *, status: int | None = None, headers: Mapping[str, str] | None = None
) -> Response:
    """The response that reports an error."""
    if status is None:
        status = next((_STATUS[kind] for kind in type(error).__mro__ if kind in _STATUS), 500)
    media = media_of(request)
    revision = getattr(request.state, "revision", None)
    return Response(
        encode(to_failure(error), media),
        status,
        {
            **_HEADERS.get(status, {}),
            **(headers or {}),
            **({} if revision is None else {REVISION_HEADER: str(revision)}),
        },
        media,
    )

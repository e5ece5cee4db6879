"""Operations and how the OpenAPI document tells of them: parameters, messages in both media types, statuses.

Used by the modules of routes, which declare operations, and by ``app.py``, which makes them routes. Pure.

Messages are msgspec structs, so their schemas come from msgspec; FastAPI adds the parameters that it reads from the signatures.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
from fastapi import Depends, FastAPI
from starlette.requests import Request
from starlette.responses import Response

from artifactfs.remote.wire import JSON, MSGPACK, OLDEST_PROTOCOL, PROTOCOL_HEADER, REVISION_HEADER, Failure
from artifactfs.server.access import Access
from artifactfs.server.failures import MEANINGS

PROJECT: Final = "/v1/projects/{project}"
OPEN: Final = ""
"""The role of an operation that everybody may ask for."""
TOKEN_SCHEME: Final = "token"  # noqa: S105 - a name
VERSIONED: Final = "/v1"
"""What the paths of the protocol begin with; others are asked by programs that do not speak it."""
ALWAYS: Final = (400, 503)
"""Statuses that every operation on a project may answer with, besides those of any operation."""
REFUSED: Final = (408, 413, 415)
"""And those that take a message."""

_REFERENCES: Final = "#/components/schemas/{name}"
_ENCODINGS: Final = "Where a schema says base64, msgpack has the bytes themselves."

Endpoint = Callable[..., Awaitable[Response]]


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One method of one path."""

    method: str
    path: str
    endpoint: Endpoint
    role: str
    takes: type | None
    gives: type | None
    status: int
    fails: tuple[int, ...]
    extra: Mapping[str, Any] = field(default_factory=dict)


class Operations(list[Operation]):
    """Operations below a path, as a module declares them. ``subject`` is their heading in the document."""

    def __init__(self, subject: str, prefix: str = PROJECT) -> None:
        super().__init__()
        self.subject = subject
        self._prefix = prefix

    def __call__(
        self,
        method: str,
        path: str,
        *,
        role: str,
        takes: type | None = None,
        gives: type | None = None,
        fails: tuple[int, ...] = (),
        status: int | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> Callable[[Endpoint], Endpoint]:
        """Declare what follows as an operation: the message it takes, the one it gives, statuses besides the usual ones.

        ``role`` is the least that may ask for it, of the project in its path, or of all where there is none; OPEN: everybody.
        ``extra`` are fields of its OpenAPI operation, where no message says it all.
        """

        def declare(endpoint: Endpoint) -> Endpoint:
            whole = self._prefix + path
            self.append(
                Operation(
                    method=method,
                    path=whole,
                    endpoint=endpoint,
                    role=role,
                    takes=takes,
                    gives=gives,
                    status=status or (200 if gives is not None else 204),
                    fails=tuple(sorted({*fails, *_usual(whole, role), *(REFUSED if takes is not None else ())})),
                    extra=extra or {},
                )
            )
            return endpoint

        return declare


def add_routes(app: FastAPI, operations: Operations) -> None:
    """Make operations routes of an application."""
    for operation in operations:
        app.add_api_route(
            operation.path,
            operation.endpoint,
            methods=[operation.method],
            status_code=operation.status,
            response_class=Response,
            response_model=None,
            dependencies=[Depends(_admission(operation.role))] if operation.role != OPEN else None,
            operation_id=f"{operation.method.lower()}_{operation.endpoint.__name__}",
            tags=[operations.subject],
            responses={
                operation.status: _success(operation),
                **{status: _failure(MEANINGS[status]) for status in operation.fails},
                "default": _failure("Any other failure."),
            },
            openapi_extra=_extra(operation),
        )


def _usual(path: str, role: str) -> set[int]:
    """Statuses that follow from where an operation is and whom it answers."""
    found = {500}
    if path.startswith(VERSIONED):
        found.add(426)
    if path.startswith(PROJECT):
        found |= {*ALWAYS, 404}
    if role != OPEN:
        found |= {401, 403, 503}  # tokens are looked up, too
    return found


def _admission(role: str) -> Callable[[Request], Awaitable[None]]:
    """What runs before an operation, and before anything of its request is looked at; ``request.state.admit`` runs it again."""

    async def admit(request: Request) -> None:
        access: Access = request.app.state.access

        async def again() -> None:
            request.state.holder = await access.admit(request, role, request.path_params.get("project"))

        request.state.admit = again
        await again()

    return admit


def complete(document: dict[str, Any], operations: Iterable[Operation]) -> dict[str, Any]:
    """The document with the schemas that its operations refer to."""
    kinds = {kind for operation in operations for kind in (operation.takes, operation.gives) if kind is not None}
    ordered = sorted({*kinds, Failure}, key=lambda kind: kind.__name__)
    _, schemas = msgspec.json.schema_components(ordered, ref_template=_REFERENCES)
    components: dict[str, Any] = document.setdefault("components", {})
    components.setdefault("schemas", {}).update(schemas)
    components["headers"] = {
        "Protocol": {"description": "The protocol that the server speaks.", "schema": {"type": "integer"}},
        "Revision": {"description": "The project's revision.", "schema": {"type": "integer"}},
        "RetryAfter": {"description": "Seconds until a repetition makes sense.", "schema": {"type": "integer"}},
    }
    components["securitySchemes"] = {
        TOKEN_SCHEME: {
            "type": "http",
            "scheme": "bearer",
            "description": "A token, as `artifactfs token create` prints it. Asked for where the server has tokens.",
        }
    }
    components["parameters"] = {
        "Protocol": {
            "name": PROTOCOL_HEADER,
            "in": "header",
            "required": False,
            "description": "The protocol that the client speaks; a client without it is answered too.",
            "schema": {"type": "integer", "minimum": OLDEST_PROTOCOL},
        }
    }
    return document


def content_of(kind: type) -> dict[str, Any]:
    """A message in both media types."""
    schema = {"$ref": _REFERENCES.format(name=kind.__name__)}
    return {JSON: {"schema": schema}, MSGPACK: {"schema": schema}}


def header_references(operation: Operation) -> dict[str, Any]:
    """Headers of an operation's answers."""
    found = {PROTOCOL_HEADER: {"$ref": "#/components/headers/Protocol"}}
    if operation.path.startswith(PROJECT):
        found[REVISION_HEADER] = {"$ref": "#/components/headers/Revision"}
    return found


def _success(operation: Operation) -> dict[str, Any]:
    found: dict[str, Any] = {"headers": header_references(operation)}
    if operation.gives is not None:
        found |= {
            "description": (operation.gives.__doc__ or "").partition("\n")[0],
            "content": content_of(operation.gives),
        }
    elif operation.status == 204:
        found["description"] = "Done."
    found.update(operation.extra.get("success", {}))
    return found


def _failure(meaning: str) -> dict[str, Any]:
    found: dict[str, Any] = {
        "description": meaning,
        "headers": {PROTOCOL_HEADER: {"$ref": "#/components/headers/Protocol"}},
        "content": content_of(Failure),
    }
    if meaning == MEANINGS[401]:
        found["headers"]["WWW-Authenticate"] = {
            "description": "Which kind of token is asked for.",
            "schema": {"type": "string"},
        }
    if meaning == MEANINGS[503]:
        found["headers"]["Retry-After"] = {"$ref": "#/components/headers/RetryAfter"}
    return found


def _extra(operation: Operation) -> dict[str, Any]:
    spoken = [{"$ref": "#/components/parameters/Protocol"}] if operation.path.startswith(VERSIONED) else []
    found: dict[str, Any] = {
        "parameters": [*spoken, *operation.extra.get("parameters", ())],
        # In a list of this scheme stand the roles that are needed.
        "security": [] if operation.role == OPEN else [{TOKEN_SCHEME: [operation.role]}],
    }
    if operation.takes is not None:
        found["requestBody"] = {
            "required": True,
            "description": f"{(operation.takes.__doc__ or '').partition(chr(10))[0]} {_ENCODINGS}",
            "content": content_of(operation.takes),
        }
    if "body" in operation.extra:
        found["requestBody"] = operation.extra["body"]
    if "responses" in operation.extra:
        found["responses"] = operation.extra["responses"]
    return found

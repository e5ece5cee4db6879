"""A call: one request below a project, from its body to its answer.

Used by every route below /v1/projects/NAME. On the event loop's thread; what a route gives to :meth:`Call.read` and its like runs on a
thread, together with encoding the answer and looking at the project's revision.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Annotated, Any, Final, TypeVar

from fastapi import Depends, Path
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from artifactfs.content.store import Store
from artifactfs.errors import ArtifactFSError, InvalidInput, Unavailable
from artifactfs.registry.contract import Registry
from artifactfs.remote.wire import JSON, MESSAGE_LIMIT, MSGPACK, REVISION_HEADER, decode, encode
from artifactfs.server.failures import CLOSE, Refusal, media_of
from artifactfs.server.service import Service
from artifactfs.server.threads import Threads

IDLE_SECONDS: Final = 30.0
"""How long a request's body may pause."""

_LARGE: Final = 64 << 10
"""Bytes of a message from which decoding it, 0.2 ms and more, is not for the event loop's thread."""

T = TypeVar("T")


class Call:
    """A request to a project. ``revision`` is the project's once the request was carried out."""

    def __init__(self, request: Request, project: str) -> None:
        service: Service = request.app.state.service
        self.request = request
        self.project = project
        self.service = service
        self.registry: Registry = service.registry(project)

    @property
    def store(self) -> Store:
        """The project's Store."""
        return self.service.store(self.project)

    async def message(self, kind: type[T]) -> T:
        """The request's message. Refusals of other media types and of too many bytes; InvalidInput for what is no such message."""
        media = self.request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if media not in {MSGPACK, JSON}:
            raise Refusal(
                415, InvalidInput(f"cannot read a message of type {media or 'none'!r}; send {MSGPACK} or {JSON}")
            )
        data = b"".join([part async for part in self.body(MESSAGE_LIMIT)])
        if len(data) < _LARGE:
            return decode(data, kind, media)
        return await self.service.reading.run(lambda: decode(data, kind, media))

    async def body(self, limit: int) -> AsyncIterator[bytes]:
        """The request's body as it comes, ``limit`` bytes at most. Raises Refusal, ClientDisconnect."""
        declared = self.request.headers.get("content-length", "")
        if declared and int(declared) > limit:
            raise _too_large(declared, limit)
        size = 0
        more = True
        while more:
            try:
                async with asyncio.timeout(IDLE_SECONDS):
                    event = await self.request.receive()
            except TimeoutError:
                error = Unavailable(f"the request's body did not go on for {IDLE_SECONDS:g} s; send it again")
                raise Refusal(408, error, CLOSE) from None
            if event["type"] == "http.disconnect":
                raise ClientDisconnect
            part: bytes = event.get("body", b"")
            more = event.get("more_body", False)
            size += len(part)
            if size > limit:
                raise _too_large(f"more than {limit}", limit)
            if part:
                yield part

    async def read(self, work: Callable[[Registry], Any]) -> Response:
        """Answer with what ``work`` reads."""
        return await self._answer(self.service.reading, work)

    async def write(self, work: Callable[[Registry], Any]) -> Response:
        """Answer with what ``work`` does: a message, or 204 without one."""
        return await self._answer(self.service.writing, work)

    async def fetch(self, work: Callable[[Registry], Any]) -> Response:
        """Answer with what ``work`` reads, from the Store too."""
        return await self._answer(self.service.fetching, work)

    async def examine(self, work: Callable[[Registry], Any]) -> Response:
        """Answer with what ``work`` finds out, which takes a processor for a while."""
        return await self._answer(self.service.checking, work)

    async def carry_out(self, threads: Threads, work: Callable[[Registry], T]) -> T:
        """What ``work`` returns or raises; in both cases the project's revision is known afterwards, and told to followers."""
        registry = self.registry

        def both() -> tuple[T | ArtifactFSError, int | None]:
            revision = None
            try:
                result: T | ArtifactFSError = work(registry)
            except ArtifactFSError as error:
                result = error
            with suppress(ArtifactFSError):
                revision = registry.revision()
            return result, revision

        result, revision = await threads.run(both)
        if revision is not None:
            self.request.state.revision = revision
            self.service.changes.saw(self.project, revision)
        if isinstance(result, ArtifactFSError):
            raise result
        return result

    def told(self, message: Any) -> Response:
        """Answer with a small message that is known already."""
        media = media_of(self.request)
        return self.reply(encode(message, media), media)

    def headers(self) -> dict[str, str]:
        """Headers of an answer: the revision."""
        revision = getattr(self.request.state, "revision", None)
        return {} if revision is None else {REVISION_HEADER: str(revision)}

    def reply(self, body: bytes | None, media: str) -> Response:
        """An answer of an encoded message, or 204 for None."""
        if body is None:
            return Response(status_code=204, headers=self.headers())
        return Response(body, 200, self.headers(), media)

    async def _answer(self, threads: Threads, work: Callable[[Registry], Any]) -> Response:
        media = media_of(self.request)

        def encoded(registry: Registry) -> bytes | None:
            message = work(registry)
            return None if message is None else encode(message, media)

        return self.reply(await self.carry_out(threads, encoded), media)


async def _call(request: Request, project: Annotated[str, Path(description="The project's name.")]) -> Call:
    return Call(request, project)


ProjectCall = Annotated[Call, Depends(_call)]
"""What a route below a project takes first."""


def _too_large(size: str, limit: int) -> Refusal:
    return Refusal(413, InvalidInput(f"the body has {size} bytes; at most {limit} are taken"))

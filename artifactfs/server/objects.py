"""Routes of objects: the Store contract by key, by range, in blocks.

A download takes a thread for as long as a block is read from the disk, never while its client is waited for. Blocks that lie in the
kernel's memory are read by the event loop's thread, 0.03 ms each: eight downloads side by side came with 2.4 GB/s in all this way, and
with 1.5 GB/s and three times the processor time when each block was handed over to a thread.

Of an object store a download is one request there, whose bytes come through as the client takes them. Its first block comes before the
answer's head, so that what is missing or damaged there is an error, not a broken answer.
"""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import AsyncIterator
from functools import partial
from itertools import islice
from typing import Annotated, Final, Protocol

from blake3 import blake3
from fastapi import Path, Query
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from artifactfs.content.local import LocalStore, check_key
from artifactfs.content.store import Store, Upload
from artifactfs.errors import ArtifactFSError, Integrity, InvalidInput
from artifactfs.model.access import ADMIN, READ, WRITE
from artifactfs.registry.contract import Registry
from artifactfs.remote import wire
from artifactfs.server.calls import Call, ProjectCall
from artifactfs.server.document import Operations
from artifactfs.server.failures import Refusal
from artifactfs.server.service import Service

operation: Final = Operations("Objects")

SENT: Final = 256 << 10
"""Bytes that are read and sent at once, of which a slow client holds two blocks: one that waits and one that uvicorn has. Larger ones
take as much of the processor."""
TAKEN: Final = 1 << 20
"""Bytes of an upload that are written and hashed at once, by a thread."""

Key = Annotated[str, Path(description="The object's key; its parts are separated by slashes.")]

_PACK: Final = re.compile(r"packs/[0-9a-f]{2}/([0-9a-f]{64})\.pack")
_RANGE: Final = re.compile(r"bytes=(?:([0-9]{1,18})-([0-9]{0,18})|-([0-9]{1,18}))")

_BINARY: Final = {wire.BYTES: {"schema": {"type": "string", "format": "binary"}}}
_LENGTH: Final = {"Content-Length": {"description": "Bytes of the body.", "schema": {"type": "integer"}}}


@operation("GET", "/objects", gives=wire.Objects, role=READ)
async def objects(
    call: ProjectCall,
    prefix: Annotated[str, Query(description="What the keys begin with.")] = "",
    after: Annotated[str, Query(description="Only keys that sort behind this one.")] = "",
) -> Response:
    """Keys and sizes in bytes, sorted by key, page by page."""
    store = call.store

    def page(_: object) -> wire.Objects:
        found = list(islice(((key, size) for key, size in store.list(prefix) if key > after), wire.BATCH + 1))
        return wire.Objects(found[: wire.BATCH], len(found) > wire.BATCH)

    return await call.fetch(page)


@operation("POST", "/objects/sign", takes=wire.Keys, gives=wire.SignedUrls, role=READ)
async def sign(call: ProjectCall) -> Response:
    """URLs by which these objects can be read straight from the object store for a while; none where nothing is signed."""
    keys = (await call.message(wire.Keys)).keys
    if len(keys) > wire.SIGNED:
        raise InvalidInput(f"{len(keys)} keys are too many for one question; ask for {wire.SIGNED} at a time")
    for key in keys:
        check_key(key)
    return await call.read(lambda _: call.service.signing.urls(call.project, keys, anew=True))


@operation(
    "HEAD",
    "/objects/{key:path}",
    status=200,
    fails=(404,),
    extra={"success": {"description": "The object's size is the Content-Length."}},
    role=READ,
)
async def size(call: ProjectCall, key: Key) -> Response:
    """An object's size, without its bytes."""
    found = await call.carry_out(call.service.fetching, lambda _: call.store.size(key))
    return Response(None, 200, {**call.headers(), "Content-Length": str(found), "Accept-Ranges": "bytes"}, wire.BYTES)


@operation(
    "GET",
    "/objects/{key:path}",
    status=200,
    fails=(404, 416),
    extra={
        "parameters": [
            {
                "name": "Range",
                "in": "header",
                "required": False,
                "description": "One range of bytes: bytes=FIRST-LAST, bytes=FIRST- or bytes=-COUNT.",
                "schema": {"type": "string"},
            }
        ],
        "success": {"description": "The whole object.", "content": _BINARY},
        "responses": {
            "206": {
                "description": "The range.",
                "content": _BINARY,
                "headers": {
                    "Content-Range": {
                        "description": "bytes FIRST-LAST/SIZE",
                        "schema": {"type": "string"},
                    }
                },
            }
        },
    },
    role=READ,
)
async def get(call: ProjectCall, key: Key) -> Response:
    """An object's bytes, or one range of them."""
    store = call.store
    if not store.local:
        return await _get_far(call, store, key)

    def look(_: object) -> int:
        store.read(key, 0, 0)  # opens it
        return store.size(key)

    total = await call.carry_out(call.service.reading, look)
    begin, end, status, headers = _answer(call, key, total)
    return ObjectResponse(_LocalBlocks(call.service, store, key), begin, end, status=status, headers=headers)


async def _get_far(call: Call, store: Store, key: str) -> Response:
    """As :func:`get`, of a Store behind a network."""
    service, name = call.service, f"{call.project}/{key}".encode()

    def look(_: object) -> int:
        found = service.sizes.get(name)
        # What was shorter for a while, and is whole again, is not to be cut off for good.
        if found is None or _cuts(call.request, found):
            found = store.size(key)
            service.sizes.update([(name, found)])
        return found

    total = await call.carry_out(service.fetching, look)
    begin, end, status, headers = _answer(call, key, total)
    blocks = _FarBlocks(service, store, key, begin, end)
    try:
        await blocks.begin()
    except ArtifactFSError:
        service.sizes.forget(name)
        raise
    return ObjectResponse(blocks, begin, end, status=status, headers=headers)


def _cuts(request: Request, size: int) -> bool:
    """Whether an object of this size ends before the range that is asked for."""
    found = _RANGE.fullmatch(request.headers.get("range", "").replace(" ", ""))
    return found is not None and int(found[2] or found[1] or 0) >= size


def _answer(call: Call, key: str, total: int) -> tuple[int, int, int, dict[str, str]]:
    """What is asked for of an object of this size: its begin and end, the answer's status and headers."""
    span = _span(call.request, key, total)
    headers = {**call.headers(), "Accept-Ranges": "bytes"}
    if span is None:
        return 0, total, 200, headers
    begin, end = span
    headers["Content-Range"] = f"bytes {begin}-{end - 1}/{total}"
    return begin, end, 206, headers


@operation(
    "PUT",
    "/objects/{key:path}",
    fails=(408, 411, 413, 422, 507),
    extra={
        "body": {
            "required": False,
            "description": f"The object, {wire.OBJECT_LIMIT} bytes at most, with its Content-Length; no bytes are an object too.",
            "content": _BINARY,
        }
    },
    role=WRITE,
)
async def put(call: ProjectCall, key: Key) -> Response:
    """Store an object, durable on return. One that is there is left as it is. A pack must be what its name says."""
    if "content-length" not in call.request.headers:
        raise Refusal(411, InvalidInput(f"the length of {key} is not stated; send a Content-Length"))
    check_key(key)
    pack = _PACK.fullmatch(key)
    store, writing, sending = call.store, call.service.writing, call.service.sending
    upload = await writing.run(store.upload)
    receiver = _Receiver(upload, pack[1] if pack is not None else None)
    try:
        async for block in _blocks(call):
            await call.service.reading.run(lambda block=block: receiver.take(block))  # type: ignore[misc]
        receiver.check(key)
        await call.carry_out(sending, lambda registry: receiver.publish(key, registry))
    except BaseException:
        await asyncio.shield(writing.run(receiver.abort))
        raise
    return call.reply(None, "")


@operation("DELETE", "/objects/{key:path}", role=ADMIN)
async def delete(call: ProjectCall, key: Key) -> Response:
    """Remove an object, if it is there."""
    call.service.sizes.forget(f"{call.project}/{key}".encode())
    await call.carry_out(call.service.sending, lambda _: call.store.delete(key))
    return call.reply(None, "")


class _Blocks(Protocol):
    """Where an answer's blocks come from, one after another."""

    async def read(self, position: int, length: int) -> bytes | bytearray:
        """The next bytes."""


class _LocalBlocks:
    """Blocks of a file of this machine."""

    def __init__(self, service: Service, store: Store, key: str) -> None:
        self._service = service
        self._store = store
        self._key = key

    async def read(self, position: int, length: int) -> bytes | bytearray:
        store, key = self._store, self._key
        block = bytearray(length)
        if isinstance(store, LocalStore) and store.read_cached(key, position, memoryview(block)):
            return block
        return await self._service.reading.run(partial(store.read, key, position, length))


class _FarBlocks:
    """Blocks of an object behind a network, by one request."""

    def __init__(self, service: Service, store: Store, key: str, begin: int, end: int) -> None:
        self._service = service
        lengths = [min(SENT, end - position) for position in range(begin, end, SENT)]
        self._parts = iter(store.read_parts(key, begin, lengths))
        self._first: bytes | None = None

    async def begin(self) -> None:
        """Have the first block come."""
        self._first = await self._next()

    async def read(self, _position: int, _length: int) -> bytes | bytearray:
        first, self._first = self._first, None
        return await self._next() if first is None else first

    async def _next(self) -> bytes:
        return await self._service.fetching.run(lambda: next(self._parts, b""))


class ObjectResponse(Response):
    """Bytes ``begin`` to ``end`` of an object, in blocks, each read when the one before the last is on its way."""

    def __init__(self, blocks: _Blocks, begin: int, end: int, *, status: int, headers: dict[str, str]) -> None:
        super().__init__(None, status, {**headers, "Content-Length": str(end - begin)}, wire.BYTES)
        self._blocks = blocks
        self._begin = begin
        self._end = end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - of ASGI
        """Send it, or stop when the client goes away."""
        position = self._begin
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        # uvicorn takes what is sent to a client that has gone, and says nothing.
        gone = asyncio.create_task(_gone(receive))
        try:
            while position < self._end and not gone.done():
                block = await self._blocks.read(position, min(SENT, self._end - position))
                position += len(block)
                await send({"type": "http.response.body", "body": block, "more_body": position < self._end})
                # What is sent to nobody is taken without waiting: let it be seen that the client has gone.
                await asyncio.sleep(0)
            if self._begin == self._end:
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            gone.cancel()


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class _Receiver:
    """An upload and, for a pack, the digest of what came."""

    def __init__(self, upload: Upload, name: str | None) -> None:
        # A request that is cancelled may still have a thread that writes, while another one aborts.
        self._lock = threading.Lock()
        self._aborted = False
        self._upload = upload
        self._name = name
        self._size = 0
        self._hash = blake3() if name is not None else None

    def take(self, block: bytes) -> None:
        """The next bytes."""
        with self._lock:
            if not self._aborted:
                self._size += len(block)
                self._upload.write(block)
                if self._hash is not None:
                    self._hash.update(block)

    def publish(self, key: str, registry: Registry) -> None:
        """Make them an object. Of a pack the registry is told before, so that no collection deletes it meanwhile."""
        with self._lock:
            if not self._aborted:
                if self._name is not None:
                    registry.expect_pack(self._name, self._size)
                self._upload.publish(key)

    def abort(self) -> None:
        """Forget them, unless they are an object."""
        with self._lock:
            self._aborted = True
            self._upload.abort()

    def check(self, key: str) -> None:
        """Refuse a pack of other bytes than its name says."""
        if self._hash is not None and self._hash.hexdigest() != self._name:
            raise Refusal(422, Integrity(f"{key} was sent with other bytes than its name says; send it again"))


async def _blocks(call: Call) -> AsyncIterator[bytes]:
    """A body in blocks of TAKEN bytes and more: as they come, of 64 KiB and more, writing would hand over to a thread too often."""
    parts: list[bytes] = []
    size = 0
    async for part in call.body(wire.OBJECT_LIMIT):
        parts.append(part)
        size += len(part)
        if size >= TAKEN:
            yield b"".join(parts)
            parts, size = [], 0
    if parts:
        yield b"".join(parts)


def _span(request: Request, key: str, total: int) -> tuple[int, int] | None:
    """The range that is asked for, half-open; None for the whole object."""
    text = request.headers.get("range", "")
    if not text.startswith("bytes="):
        return None  # no range, or one of a unit that RFC 9110 says to ignore
    found = _RANGE.fullmatch(text.replace(" ", ""))
    if found is None:
        raise _unsatisfiable(f"{key}: cannot send {text!r}; ask for one range of bytes at a time", total)
    if found[3] is not None:
        begin, end = max(0, total - int(found[3])), total
    else:
        begin = int(found[1])
        end = min(int(found[2]) + 1, total) if found[2] else total
    if begin >= end:
        raise _unsatisfiable(f"{key}: has {total} bytes, so {text!r} is not within it; run `artifactfs verify`", total)
    return begin, end


def _unsatisfiable(message: str, total: int) -> Refusal:
    # As Store.read says it: what was to be there is not.
    return Refusal(416, Integrity(message), {"Content-Range": f"bytes */{total}"})

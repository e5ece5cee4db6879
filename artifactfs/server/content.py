"""Routes of the chunk index and of nodes: what is missing, where it is, nodes below a directory or along a path, new packs."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Final

import msgspec
from starlette.responses import Response

from artifactfs.content.admission import check_upload
from artifactfs.errors import Integrity, InvalidInput
from artifactfs.model.access import READ, WRITE
from artifactfs.registry.chunks import check_pack
from artifactfs.remote import wire
from artifactfs.server.calls import ProjectCall
from artifactfs.server.document import Operations
from artifactfs.server.failures import Refusal
from artifactfs.server.nodes import along_path, with_nodes_below

operation: Final = Operations("Content")


@operation("POST", "/chunks/missing", takes=wire.Digests, gives=wire.Digests, role=READ)
async def missing(call: ProjectCall) -> Response:
    """Those of these chunks that the project does not hold."""
    asked = _bounded((await call.message(wire.Digests)).digests)
    return await call.read(lambda registry: wire.Digests(list(registry.missing(asked))))


@operation("POST", "/chunks/locate", takes=wire.PlacesWanted, gives=wire.Places, role=READ)
async def locate(call: ProjectCall) -> Response:
    """Where these chunks are; unknown ones are left out."""
    wanted = await call.message(wire.PlacesWanted)
    asked = _bounded(wanted.digests)
    return await call.read(lambda registry: _signed(call, wire.to_places(registry.locate(asked)), wanted.urls))


@operation("POST", "/nodes", takes=wire.NodesWanted, gives=wire.Nodes, role=READ)
async def nodes(call: ProjectCall) -> Response:
    """Nodes, with some below them. An answer is bounded: what does not fit is left out, like what is not held, and asked for again."""
    wanted = await call.message(wire.NodesWanted)
    _bounded(wanted.digests)
    return await call.fetch(
        lambda registry: _with_urls(
            call, with_nodes_below(call.service.nodes(call.project), registry, wanted), wanted.urls
        )
    )


@operation("POST", "/path", takes=wire.PathWanted, gives=wire.Nodes, role=READ)
async def path(call: ProjectCall) -> Response:
    """All nodes along a path, and where what lies at its end is: one request to open a file."""
    wanted = await call.message(wire.PathWanted)
    return await call.fetch(
        lambda registry: _with_urls(call, along_path(call.service.nodes(call.project), registry, wanted), wanted.urls)
    )


@operation("GET", "/packs", gives=wire.Packs, role=READ)
async def packs(call: ProjectCall) -> Response:
    """Every pack of the project: digest and size in bytes."""
    return await call.read(lambda registry: wire.Packs(registry.packs()))


@operation("POST", "/packs", takes=wire.NewPacks, fails=(409, 422, 507), role=WRITE)
async def add_packs(call: ProjectCall) -> Response:
    """Record packs that were uploaded, all or none. Each is read and every chunk checked against its digest first."""
    new = await call.message(wire.NewPacks)
    for pack in new.packs:
        check_pack(pack)
    service = call.service
    checks = (service.checking.run(partial(check_upload, call.store, pack)) for pack in new.packs)
    # To their ends, also when one fails: the next request need not compete with what is left of this one.
    for failure in await asyncio.gather(*checks, return_exceptions=True):
        if isinstance(failure, Integrity):
            raise Refusal(422, failure)
        if isinstance(failure, BaseException):
            raise failure
    return await call.write(lambda registry: registry.add_packs(new.packs, session=new.session))


def _signed(call: ProjectCall, places: wire.Places, urls: bool) -> wire.Places:
    return call.service.signing.signed(call.project, places, wanted=urls)


def _with_urls(call: ProjectCall, found: wire.Nodes, urls: bool) -> wire.Nodes:
    return msgspec.structs.replace(found, places=_signed(call, found.places, urls)) if urls else found


def _bounded(digests: list[bytes]) -> list[bytes]:
    if len(digests) > wire.BATCH:
        raise InvalidInput(f"{len(digests)} digests are too many for one question; ask for {wire.BATCH} at a time")
    return digests

"""Routes of collections of garbage: begin one, and ask how it goes."""

from __future__ import annotations

from typing import Final

from starlette.responses import Response

from artifactfs.model.access import ADMIN
from artifactfs.remote import wire
from artifactfs.server.calls import ProjectCall
from artifactfs.server.document import Operations

operation: Final = Operations("Upkeep")


@operation("POST", "/collection", takes=wire.CollectionWanted, gives=wire.CollectionState, fails=(409,), role=ADMIN)
async def collect(call: ProjectCall) -> Response:
    """Begin to collect garbage, or to find out what would be; how it goes is asked for."""
    wanted = await call.message(wire.CollectionWanted)
    collections = call.service.collections
    return call.told(collections.start(call.project, dry_run=wanted.dry_run, wait=wanted.wait))


@operation("GET", "/collection", gives=wire.CollectionState, fails=(404,), role=ADMIN)
async def collection(call: ProjectCall) -> Response:
    """How the last collection of garbage is going, or how it ended."""
    return call.told(call.service.collections.state(call.project))

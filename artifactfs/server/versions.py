"""Routes of versions: revision, artifacts, versions, search, aliases, commits, parts of drafts, sessions, health of the database.

Each is one method of the Registry contract, whose docstrings say what they do.
"""

from __future__ import annotations

import asyncio
from typing import Annotated, Final

from fastapi import Path
from fastapi import Query as Word
from msgspec.structs import replace
from starlette.responses import Response

from artifactfs.errors import NotFound
from artifactfs.model.access import ADMIN, ALL_PROJECTS, READ, WRITE
from artifactfs.model.query import Query
from artifactfs.model.records import ArtifactRecord, CommitRequest, CommitResult, VersionRecord
from artifactfs.registry.contract import Registry
from artifactfs.remote import wire
from artifactfs.server.access import Holder
from artifactfs.server.calls import ProjectCall
from artifactfs.server.document import Operations
from artifactfs.server.portions import bound, portion

operation: Final = Operations("Versions")

Name = Annotated[str, Path(description="The artifact's name.")]
Number = Annotated[int, Path(description="The version's number.")]
Alias = Annotated[str, Path(description="The alias.")]
Digest = Annotated[str, Path(pattern="^[0-9a-f]{64}$", description="Digest of the root Tree, hexadecimal.")]
SessionId = Annotated[int, Path(description="The session's id.")]


@operation("GET", "/revision", gives=wire.Revision, role=READ)
async def revision(
    call: ProjectCall,
    after: Annotated[int | None, Word(description="Wait until the revision is another than this one.")] = None,
    seconds: Annotated[
        float,
        Word(
            ge=0, allow_inf_nan=False, description=f"How long to wait at most; never longer than {wire.POLL_SECONDS:g}."
        ),
    ] = wire.POLL_SECONDS,
) -> Response:
    """The project's revision, at once or when it has changed: how changes made elsewhere are followed."""
    if after is None or seconds <= 0:
        return await call.read(lambda registry: wire.Revision(registry.revision()))
    gone = asyncio.create_task(_gone(call))
    try:
        present = await call.service.changes.wait(call.project, after, min(seconds, wire.POLL_SECONDS), gone)
    finally:
        gone.cancel()
    call.request.state.revision = present
    return call.told(wire.Revision(present))


async def _gone(call: ProjectCall) -> None:
    """Returns when the client has gone away."""
    while (await call.request.receive())["type"] != "http.disconnect":
        pass


@operation("GET", "/artifacts", gives=wire.Artifacts, role=READ)
async def artifacts(call: ProjectCall) -> Response:
    """All artifacts that have a living version, sorted by name."""
    return await call.read(lambda registry: wire.Artifacts(registry.artifacts()))


@operation("GET", "/artifacts/{name}", gives=ArtifactRecord, fails=(404,), role=READ)
async def artifact(call: ProjectCall, name: Name) -> Response:
    """One artifact."""

    def find(registry: Registry) -> ArtifactRecord:
        found = registry.artifact(name)
        if found is None:
            raise NotFound(f"no artifact {name!r} in project {call.project!r}")
        return found

    return await call.read(find)


@operation("GET", "/artifacts/{name}/versions", gives=wire.Versions, role=READ)
async def versions(call: ProjectCall, name: Name) -> Response:
    """Living versions of an artifact, rising numbers; empty when the artifact is not there."""
    return await call.read(lambda registry: wire.Versions(registry.versions(name)))


@operation("GET", "/artifacts/{name}/versions/{number}", gives=VersionRecord, fails=(404,), role=READ)
async def version(call: ProjectCall, name: Name, number: Number) -> Response:
    """One living version."""
    return await call.read(lambda registry: _there(registry.version(name, number), f"{name}:v{number}"))


@operation(
    "PATCH", "/artifacts/{name}/versions/{number}", takes=wire.Edit, gives=VersionRecord, fails=(404,), role=WRITE
)
async def edit(call: ProjectCall, name: Name, number: Number) -> Response:
    """Replace description, metadata or tags of a version."""
    new = await call.message(wire.Edit)
    return await call.write(
        lambda registry: registry.edit(name, number, description=new.description, metadata=new.metadata, tags=new.tags)
    )


@operation("DELETE", "/artifacts/{name}/versions/{number}", fails=(404, 409), role=ADMIN)
async def delete_version(
    call: ProjectCall,
    name: Name,
    number: Number,
    delete_aliases: Annotated[bool, Word(description="Whether its aliases may go too.")] = False,
) -> Response:
    """Delete a version. `latest` then names the highest number that is left; the number is never given again."""
    return await call.write(lambda registry: registry.delete(name, number, delete_aliases=delete_aliases))


@operation("POST", "/find", takes=Query, gives=wire.Found, role=READ)
async def find(call: ProjectCall) -> Response:
    """Living versions of the project that match, in the order asked for."""
    query = await call.message(Query)

    def search(registry: Registry) -> wire.Found:
        revision = registry.revision()
        limit = bound(query.limit)
        found = registry.find(replace(query, limit=limit))
        taken = portion(found)
        return wire.Found(taken, revision, more=len(taken) < len(found) or len(found) == limit != query.limit)

    return await call.read(search)


@operation(
    "POST",
    "/artifacts/{name}/versions/{number}/aliases",
    takes=wire.AliasNames,
    gives=VersionRecord,
    fails=(404,),
    role=WRITE,
)
async def move_aliases(call: ProjectCall, name: Name, number: Number) -> Response:
    """Point aliases at a version; `latest` too, when asked."""
    moved = await call.message(wire.AliasNames)
    return await call.write(lambda registry: registry.move_aliases(name, number, moved.aliases))


@operation("POST", "/artifacts/{name}/aliases/remove", takes=wire.AliasNames, fails=(404, 409), role=WRITE)
async def remove_aliases(call: ProjectCall, name: Name) -> Response:
    """Remove aliases, all or none. `latest` cannot be removed."""
    removed = await call.message(wire.AliasNames)
    return await call.write(lambda registry: registry.remove_aliases(name, removed.aliases))


@operation("GET", "/artifacts/{name}/aliases", gives=wire.Aliases, role=READ)
async def aliases(call: ProjectCall, name: Name) -> Response:
    """Aliases of an artifact with the number each names."""
    return await call.read(lambda registry: wire.Aliases(registry.aliases(name)))


@operation("GET", "/artifacts/{name}/aliases/{alias}", gives=VersionRecord, fails=(404,), role=READ)
async def resolve(call: ProjectCall, name: Name, alias: Alias) -> Response:
    """The version that an alias names."""
    return await call.read(lambda registry: _there(registry.resolve(name, alias), f"{name}:{alias}"))


@operation("GET", "/artifacts/{name}/digests/{digest}", gives=VersionRecord, fails=(404,), role=READ)
async def find_digest(call: ProjectCall, name: Name, digest: Digest) -> Response:
    """The living version of an artifact with these contents."""
    wanted = bytes.fromhex(digest)
    return await call.read(lambda registry: _there(registry.find_digest(name, wanted), f"{name}@blake3:{digest}"))


@operation("POST", "/commits", takes=CommitRequest, gives=CommitResult, fails=(404, 409, 507), role=WRITE)
async def commit(call: ProjectCall) -> Response:
    """Make, or reuse, a version: the commit point. A repetition with the same commit id returns what it made."""
    request = await call.message(CommitRequest)
    return await call.write(lambda registry: registry.commit(request))


@operation("POST", "/artifacts/{name}/parts", takes=wire.Part, fails=(409,), role=WRITE)
async def add_part(call: ProjectCall, name: Name) -> Response:
    """Record a tree as a part of a draft, which several processes fill and a commit ends."""
    new = await call.message(wire.Part)
    return await call.write(lambda registry: registry.add_part(name, new.draft, new.digest, session=new.session))


@operation("GET", "/artifacts/{name}/parts", gives=wire.Digests, role=READ)
async def parts(call: ProjectCall, name: Name, draft: Annotated[str, Word(description="The draft.")]) -> Response:
    """Trees that were added to a draft, in order of digest; empty when nothing was, or it was committed."""
    return await call.read(lambda registry: wire.Digests(registry.parts(name, draft)))


@operation("POST", "/sessions", takes=wire.NewSession, gives=wire.Session, role=WRITE)
async def open_session(call: ProjectCall) -> Response:
    """Register a writer or reader."""
    new = await call.message(wire.NewSession)
    return await call.write(lambda registry: wire.Session(registry.open_session(new.kind, seconds=new.seconds)))


@operation("PUT", "/sessions/{session}", takes=wire.SessionLife, fails=(409,), role=WRITE)
async def renew_session(call: ProjectCall, session: SessionId) -> Response:
    """Prolong a session that has not ended."""
    life = await call.message(wire.SessionLife)
    return await call.write(lambda registry: registry.renew_session(session, seconds=life.seconds))


@operation(
    "PUT",
    "/sessions/{session}/versions",
    takes=wire.VersionNumbers,
    gives=wire.VersionNumbers,
    fails=(409,),
    role=WRITE,
)
async def keep_versions(call: ProjectCall, session: SessionId) -> Response:
    """Keep versions for a session, instead of those before, so that nothing they hold is collected; tells those that are not kept."""
    asked = (await call.message(wire.VersionNumbers)).versions
    return await call.write(lambda registry: wire.VersionNumbers(registry.keep_versions(session, asked)))


@operation("DELETE", "/sessions/{session}", role=WRITE)
async def close_session(call: ProjectCall, session: SessionId) -> Response:
    """End a session."""
    return await call.write(lambda registry: registry.close_session(session))


@operation("GET", "/check", gives=wire.Damages, role=ADMIN)
async def check(call: ProjectCall) -> Response:
    """Damages of the database itself; which, is for admins of all projects. Reads everything once."""
    holder: Holder = call.request.state.holder

    def examine(registry: Registry) -> wire.Damages:
        found = registry.check()
        if found and holder.project != ALL_PROJECTS:
            found = ["the registry's database is damaged; an admin of all projects sees how by: artifactfs verify"]
        return wire.Damages(found)

    return await call.examine(examine)


def _there(found: VersionRecord | None, name: str) -> VersionRecord:
    if found is None:
        raise NotFound(f"there is no {name}")
    return found

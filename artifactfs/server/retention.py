"""Routes of retention: deletion, tombstones, renames, protected aliases, rules, what sessions hold, quotas.

Each is one method of the Retention contract, whose docstrings say what they do.
"""

from __future__ import annotations

from typing import Annotated, Final

from fastapi import Path
from fastapi import Query as Word
from starlette.responses import Response

from artifactfs.errors import NotFound
from artifactfs.model.access import ADMIN, READ, WRITE
from artifactfs.model.retention import Protection, RetentionRule, Tombstone, Usage
from artifactfs.registry.contract import Registry
from artifactfs.remote import wire
from artifactfs.server.access import asker
from artifactfs.server.calls import ProjectCall
from artifactfs.server.document import Operations
from artifactfs.server.portions import portion

operation: Final = Operations("Retention")

Name = Annotated[str, Path(description="The artifact's name.")]


@operation("POST", "/artifacts/{name}/delete", takes=wire.Deletion, gives=wire.Tombstones, fails=(404, 409), role=ADMIN)
async def delete_versions(call: ProjectCall, name: Name) -> Response:
    """Delete versions of an artifact, or all of them, all or none."""
    wanted = await call.message(wire.Deletion)
    by = asker(call.request)

    def delete(registry: Registry) -> wire.Tombstones:
        gone = registry.retention.delete(name, wanted.numbers, permissions=wanted.permissions, by=by)
        taken = portion(gone)
        return wire.Tombstones(taken, more=len(taken) < len(gone))

    return await call.write(delete)


@operation("GET", "/deleted", gives=wire.Tombstones, role=READ)
async def tombstones(
    call: ProjectCall,
    artifact: Annotated[str | None, Word(description="Of this artifact alone.")] = None,
    offset: Annotated[int, Word(ge=0, description="How many to leave out first.")] = 0,
) -> Response:
    """Deleted versions in the order they went: what they were, when they went, and by whom."""

    def find(registry: Registry) -> wire.Tombstones:
        rest = registry.retention.tombstones(artifact)[offset:]
        taken = portion(rest)
        return wire.Tombstones(taken, more=len(taken) < len(rest))

    return await call.read(find)


@operation("GET", "/artifacts/{name}/deleted/{number}", gives=Tombstone, fails=(404,), role=READ)
async def tombstone(
    call: ProjectCall, name: Name, number: Annotated[int, Path(description="The number that the version had.")]
) -> Response:
    """What is known of one deleted version."""

    def find(registry: Registry) -> Tombstone:
        found = registry.retention.tombstone(name, number)
        if found is None:
            raise NotFound(f"no version {name}:v{number} was deleted")
        return found

    return await call.read(find)


@operation("PUT", "/artifacts/{name}/name", takes=wire.NewName, fails=(404, 409), role=ADMIN)
async def rename(call: ProjectCall, name: Name) -> Response:
    """Give an artifact another name; everything else of it stays."""
    new = await call.message(wire.NewName)
    return await call.write(lambda registry: registry.retention.rename(name, new.name))


@operation("GET", "/former-names", gives=wire.FormerNames, role=READ)
async def former_names(call: ProjectCall) -> Response:
    """Names that artifacts had, each with the one that they have now."""
    return await call.read(lambda registry: wire.FormerNames(registry.retention.former_names()))


@operation("GET", "/protections", gives=wire.Protections, role=READ)
async def protections(call: ProjectCall) -> Response:
    """All protected aliases."""
    return await call.read(lambda registry: wire.Protections(registry.retention.protections()))


@operation("POST", "/protections", takes=Protection, fails=(404,), role=ADMIN)
async def protect(call: ProjectCall) -> Response:
    """Let an alias of an artifact, or of every one, be moved and removed by admins only."""
    new = await call.message(Protection)
    return await call.write(lambda registry: registry.retention.protect(new.alias, new.artifact))


@operation("POST", "/protections/remove", takes=Protection, fails=(404,), role=ADMIN)
async def unprotect(call: ProjectCall) -> Response:
    """End the protection of an alias."""
    old = await call.message(Protection)
    return await call.write(lambda registry: registry.retention.unprotect(old.alias, old.artifact))


@operation("GET", "/retention", gives=wire.Rules, role=READ)
async def rules(call: ProjectCall) -> Response:
    """All retention rules."""
    return await call.read(lambda registry: wire.Rules(registry.retention.rules()))


@operation("POST", "/retention", takes=RetentionRule, gives=RetentionRule, fails=(404,), role=ADMIN)
async def set_rule(call: ProjectCall) -> Response:
    """Set, or replace, which versions of an artifact or of every one are deleted by themselves."""
    rule = await call.message(RetentionRule)
    by = asker(call.request)
    return await call.write(lambda registry: registry.retention.set_rule(rule, by=by))


@operation("POST", "/retention/remove", takes=wire.RuleOf, fails=(404,), role=ADMIN)
async def remove_rule(call: ProjectCall) -> Response:
    """Remove a retention rule."""
    old = await call.message(wire.RuleOf)
    return await call.write(lambda registry: registry.retention.remove_rule(old.artifact))


@operation("PUT", "/sessions/{session}/held", takes=wire.Held, gives=wire.NotHeld, fails=(409,), role=WRITE)
async def hold(call: ProjectCall, session: Annotated[int, Path(description="The session's id.")]) -> Response:
    """Let a session keep these versions from being deleted, and no others; tells those that it does not keep."""
    held = await call.message(wire.Held)
    return await call.write(lambda registry: wire.NotHeld(registry.retention.hold(session, dict(held.versions))))


@operation("GET", "/held", gives=wire.Held, role=READ)
async def held(call: ProjectCall) -> Response:
    """Versions that living sessions keep, each with what for."""
    return await call.read(lambda registry: wire.Held(registry.retention.held()))


@operation("GET", "/usage", gives=Usage, role=READ)
async def usage(call: ProjectCall) -> Response:
    """What the project takes, and may take at most."""
    return await call.read(lambda registry: registry.retention.usage())


@operation("PUT", "/quota", takes=wire.QuotaWanted, role=ADMIN)
async def set_quota(call: ProjectCall) -> Response:
    """Replace what the project may take at most."""
    wanted = await call.message(wire.QuotaWanted)
    return await call.write(lambda registry: registry.retention.set_quota(stored=wanted.stored, logical=wanted.logical))

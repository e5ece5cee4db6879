"""Deletion of versions: what stands in its way, what it removes, and what stays of them.

Used by :mod:`artifactfs.registry.sql` and :mod:`artifactfs.registry.retention`, which own the transaction. Functions on it; safe from
any thread.

A deleted version's row stays, for its number, its commit ids and its lineage: it is its own tombstone. Invariant. REFUSED WHOLE: every
version is looked at before the first is changed.
"""

from __future__ import annotations

import os
import pwd
import socket
from collections.abc import Collection, Sequence
from functools import cache
from typing import Any, Final

from sqlalchemy import Connection, Select, bindparam, delete, insert, select

from artifactfs.errors import Conflict, NotFound
from artifactfs.model.names import LATEST
from artifactfs.model.records import VersionRecord
from artifactfs.model.retention import Permissions, Tombstone
from artifactfs.registry import edits
from artifactfs.registry.checks import LARGEST
from artifactfs.registry.protection import protected_among
from artifactfs.registry.schema import artifact, held_version, session, version
from artifactfs.registry.versions import BATCH, record_of, version_numbered, versions

_LONGEST_NAME: Final = 255  # characters of who deleted a version
_SHOWN: Final = 3  # holders of a version that a message names

_HOLDERS: Final = (
    select(held_version.c.purpose)
    .join_from(held_version, session, session.c.id == held_version.c.session)
    .where(held_version.c.version == bindparam("of"), session.c.expires > bindparam("now"), session.c.ended.is_(None))
    .order_by(held_version.c.purpose)
)
_HELD: Final = (
    select(held_version.c.version, held_version.c.purpose)
    .join_from(held_version, session, session.c.id == held_version.c.session)
    .where(session.c.project == bindparam("of"), session.c.expires > bindparam("now"), session.c.ended.is_(None))
)
_TOMBSTONES: Final = (
    select(
        version.c.id,
        artifact.c.name,
        artifact.c.type,
        version.c.number,
        version.c.digest,
        version.c.size,
        version.c.files,
        version.c.created,
        version.c.deleted,
        version.c.deleted_by,
        version.c.description,
        version.c.run,
        version.c.metadata,
    )
    .join_from(artifact, version, version.c.artifact == artifact.c.id)
    .where(artifact.c.project == bindparam("project"), version.c.deleted.is_not(None))
)
_IN_ORDER: Final = _TOMBSTONES.order_by(version.c.deleted, version.c.id)
_OF_ARTIFACT: Final = _IN_ORDER.where(artifact.c.name == bindparam("name"))
_NUMBERED: Final = _TOMBSTONES.where(artifact.c.name == bindparam("name"), version.c.number == bindparam("number"))
_BY_ID: Final = _TOMBSTONES.where(version.c.id.in_(bindparam("ids", expanding=True)))
_RELEASE: Final = delete(held_version).where(held_version.c.session == bindparam("by"))
_OF_PROJECT: Final = (
    select(version.c.id)
    .join_from(version, artifact, artifact.c.id == version.c.artifact)
    .where(
        artifact.c.project == bindparam("project"),
        version.c.id.in_(bindparam("ids", expanding=True)),
        version.c.deleted.is_(None),
    )
    .order_by(version.c.id)
    .with_for_update(read=True, of=version)  # none of them is deleted unseen
)
# Deleted ones that living sessions keep, which are held, so that none of these ends meanwhile.
_KEPT_ON: Final = (
    select(held_version.c.version)
    .join_from(held_version, session, session.c.id == held_version.c.session)
    .where(
        session.c.project == bindparam("project"),
        held_version.c.version.in_(bindparam("ids", expanding=True)),
        session.c.expires > bindparam("now"),
        session.c.ended.is_(None),
    )
    .order_by(session.c.id)
    .with_for_update(read=True, key_share=True, of=session)
)


def delete_versions(
    connection: Connection,
    project: int,
    name: str,
    numbers: Collection[int] | None,
    *,
    permissions: Permissions,
    by: str,
    now: int,
) -> list[int]:
    """Delete versions of an artifact, or all of them (None), all or none; returns their ids.

    Conflict says for each what stands in the way, and which option says that it may go too. NotFound without one of them.
    """
    locked = edits.lock_artifact(connection, project, name)
    if locked is None:
        raise edits.no_version(name, min(numbers)) if numbers else no_artifact(name)
    of = locked[0]
    records = _wanted(connection, project, name, numbers)
    obstacles = [
        words for record in records for words in _obstacles(connection, of, record, permissions=permissions, now=now)
    ]
    if len(obstacles) == 1:
        raise Conflict(obstacles[0])
    if obstacles:
        raise Conflict("\n  ".join((f"nothing of {name} was deleted:", *obstacles)))
    for record in records:
        edits.bury(connection, of, record, by=by[:_LONGEST_NAME], now=now)
    return [record.id for record in records]


def _wanted(connection: Connection, project: int, name: str, numbers: Collection[int] | None) -> list[VersionRecord]:
    """The living versions of these numbers, rising."""
    if numbers is None:
        found = versions(connection, project, name)
        if not found:
            raise no_artifact(name)
        return found
    records = []
    for number in sorted(set(numbers)):
        record = version_numbered(connection, project, name, number)
        if record is None:
            raise edits.no_version(name, number)
        records.append(record)
    return records


def _obstacles(
    connection: Connection, of: int, record: VersionRecord, *, permissions: Permissions, now: int
) -> list[str]:
    """What keeps a version, a line each."""
    found = []
    others = [called for called in record.aliases if called != LATEST]
    guarded = protected_among(connection, of, others)
    plain = [called for called in others if called not in guarded]
    if plain and not permissions.aliases:
        found.append(
            f"{record.name} has {_named('alias', 'aliases', plain)}: "
            "move or remove them first, or delete them with it (`--delete-aliases`)"
        )
    if guarded and not (permissions.aliases and permissions.protected):
        found.append(
            f"{record.name} has {_named('protected alias', 'protected aliases', guarded)}: "
            "move or remove them first, or delete them with it (`--delete-aliases --protected`)"
        )
    if not permissions.in_use:
        holders = list(connection.execute(_HOLDERS, {"of": record.id, "now": now}).scalars())
        if holders:
            more = f" and {len(holders) - _SHOWN} more" if len(holders) > _SHOWN else ""
            found.append(
                f"{record.name} is in use ({', '.join(holders[:_SHOWN])}{more}): "
                "wait until it is not, or delete it nevertheless (`--in-use`)"
            )
    return found


def _named(one: str, many: str, names: Sequence[str]) -> str:
    return f"the {one if len(names) == 1 else many} {', '.join(names)}"


# -- what stays ----------------------------------------------------------------------------------------------------


def tombstones(connection: Connection, project: int, name: str | None) -> list[Tombstone]:
    """Deleted versions of an artifact, or of all (None), in the order they went."""
    if name is None:
        return _records(connection, _IN_ORDER, {"project": project})
    return _records(connection, _OF_ARTIFACT, {"project": project, "name": name})


def tombstone(connection: Connection, project: int, name: str, number: int) -> Tombstone | None:
    """What is known of the deleted version with this number."""
    if not 0 <= number <= LARGEST:
        return None
    return next(iter(_records(connection, _NUMBERED, {"project": project, "name": name, "number": number})), None)


def tombstones_with_ids(connection: Connection, project: int, ids: Sequence[int]) -> list[Tombstone]:
    """Deleted versions of the project among these ids (any number), in their order."""
    found: dict[int, Tombstone] = {}
    for start in range(0, len(ids), BATCH):
        rows = _records(connection, _BY_ID, {"project": project, "ids": ids[start : start + BATCH]})
        found.update((record.id, record) for record in rows)
    return [found[identity] for identity in ids if identity in found]


def _records(connection: Connection, statement: Select[Any], values: dict[str, Any]) -> list[Tombstone]:
    return [record_of(Tombstone, row) for row in connection.execute(statement, values)]


def no_artifact(name: str) -> NotFound:
    """The error for an artifact that has no version."""
    return NotFound(f"there is no artifact {name!r}; `artifactfs ls` lists those there are")


# -- who keeps versions --------------------------------------------------------------------------------------------


def hold(connection: Connection, project: int, holder: int, held: dict[int, str], *, now: int) -> list[int]:
    """Let a session, whose row the caller holds, keep these versions (ids, each with what for) and no others.

    Of deleted ones those stay kept that a living session keeps, this one or another. Returns the others, sorted.
    """
    wanted = sorted(identity for identity in held if 0 < identity <= LARGEST)
    there: set[int] = set()
    for start in range(0, len(wanted), BATCH):
        batch = wanted[start : start + BATCH]
        there.update(connection.execute(_OF_PROJECT, {"project": project, "ids": batch}).scalars())
        there.update(connection.execute(_KEPT_ON, {"project": project, "ids": batch, "now": now}).scalars())
    connection.execute(_RELEASE, {"by": holder})
    if there:
        rows = [{"session": holder, "version": one, "purpose": held[one]} for one in sorted(there)]
        connection.execute(insert(held_version), rows)
    return sorted(held.keys() - there)


def held(connection: Connection, project: int, *, now: int) -> list[tuple[int, str]]:
    """Versions that living sessions of a project keep, each with what for."""
    return sorted((identity, purpose) for identity, purpose in connection.execute(_HELD, {"of": project, "now": now}))


# -- who deletes ---------------------------------------------------------------------------------------------------


@cache
def this_user() -> str:
    """``USER@HOST`` of this process."""
    try:
        name = pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:  # a user without an account, as in containers
        name = str(os.geteuid())
    return f"{name}@{socket.gethostname()}"

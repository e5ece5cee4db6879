"""Quotas: what a project takes, and that it does not take more than it may.

Used by :mod:`artifactfs.registry.sql`, the commit and :mod:`artifactfs.registry.retention`. Functions on the caller's connection or
transaction; safe from any thread. Without a quota a check is one row read by its key; with one, the sizes of all packs (2 ms for the
20,000 of 1 TB) or of all versions are added up.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import Connection, bindparam, func, select, update

from artifactfs.errors import InvalidInput, NoSpace
from artifactfs.model.retention import Usage, full, over_quota
from artifactfs.registry.checks import LARGEST
from artifactfs.registry.schema import PACK_ALIVE, artifact, pack, project, version

_QUOTAS: Final = select(project.c.quota_stored, project.c.quota_logical).where(project.c.id == bindparam("of"))
# What a collection has condemned counts no more, and is charged again when it is stored again.
_STORED: Final = select(func.sum(pack.c.size)).where(pack.c.project == bindparam("of"), pack.c.state == PACK_ALIVE)
_LIVING: Final = (
    select(func.sum(version.c.size), func.count(), func.count(version.c.artifact.distinct()))
    .join_from(artifact, version, version.c.artifact == artifact.c.id)
    .where(artifact.c.project == bindparam("of"), version.c.deleted.is_(None))
)
_NAME: Final = select(project.c.name).where(project.c.id == bindparam("of"))
_SET: Final = update(project).where(project.c.id == bindparam("of"))


def usage(connection: Connection, of: int) -> Usage:
    """What a project takes, and may."""
    stored, logical = quotas(connection, of)
    size, versions, artifacts = connection.execute(_LIVING, {"of": of}).one()
    return Usage(_stored(connection, of), int(size or 0), artifacts, versions, stored, logical)


def quotas(connection: Connection, of: int) -> tuple[int | None, int | None]:
    """Bytes of packs, and of versions, that a project may take; None: any number."""
    row = connection.execute(_QUOTAS, {"of": of}).first()
    return (None, None) if row is None else (row[0], row[1])


def set_quota(connection: Connection, of: int, *, stored: int | None, logical: int | None) -> None:
    """Replace both. What is there already stays, also when it is more."""
    connection.execute(_SET, {"of": of, "quota_stored": stored, "quota_logical": logical})


def check_quota(quota: int | None) -> int | None:
    """A quota as it is kept. InvalidInput for what is none."""
    if quota is not None and not 0 <= quota <= LARGEST:
        raise InvalidInput(f"not a quota: {quota} bytes; choose 0 or more")
    return quota


def stored_before(connection: Connection, of: int) -> int | None:
    """Bytes of a project's packs, where they are bounded; else None, and nothing was added up."""
    return _stored(connection, of) if quotas(connection, of)[0] is not None else None


def require_stored(connection: Connection, of: int, before: int | None) -> None:
    """NoSpace when packs that were recorded since ``before`` are more than the project may take."""
    if before is not None:
        _refuse(connection, of, before=before, stored=_stored(connection, of) - before)


def require_logical(connection: Connection, of: int, size: int) -> None:
    """NoSpace when a new version of this size is more than the project may take."""
    if quotas(connection, of)[1] is not None:
        _refuse(connection, of, logical=size)


def _refuse(connection: Connection, of: int, *, before: int | None = None, stored: int = 0, logical: int = 0) -> None:
    found = usage(connection, of)
    if before is not None:
        found = Usage(before, found.logical, found.artifacts, found.versions, found.quota_stored, found.quota_logical)
    if words := over_quota(found, stored=stored, logical=logical):
        raise NoSpace(full(connection.execute(_NAME, {"of": of}).scalar_one(), words))


def _stored(connection: Connection, of: int) -> int:
    return int(connection.execute(_STORED, {"of": of}).scalar() or 0)

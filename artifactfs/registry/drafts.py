"""Drafts that several processes fill: the trees that each of them added.

Used by :mod:`artifactfs.registry.sql` and the commit. Functions on the caller's transaction; safe from any thread.

A part lives as long as the session it was added under, since what it holds may be collected after. A draft has no row of its
own: it is what its parts say, of an artifact that need not be there yet.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import Connection, bindparam, delete, select

from artifactfs.registry.schema import draft_part, session
from artifactfs.registry.sqlite import SQLiteDatabase

DRAFT: Final = "the id of a draft"

_COLUMNS: Final = ("project", "artifact", "draft", "digest", "session")
_OF_DRAFT: Final = (
    (draft_part.c.project == bindparam("of"))
    & (draft_part.c.artifact == bindparam("name"))
    & (draft_part.c.draft == bindparam("called"))
)
_PARTS: Final = (
    select(draft_part.c.digest)
    .distinct()
    .join_from(draft_part, session, session.c.id == draft_part.c.session)
    .where(_OF_DRAFT, session.c.expires > bindparam("now"))
    .order_by(draft_part.c.digest)
)
_FORGET: Final = delete(draft_part).where(_OF_DRAFT)


def add_part(
    connection: Connection,
    database: SQLiteDatabase,
    project: int,
    name: str,
    draft: str,
    digest: bytes,
    *,
    session: int,
) -> None:
    """Record a part under a session that the caller has checked. Nothing happens when it is there."""
    database.insert_absent(connection, draft_part, _COLUMNS, [(project, name, draft, digest, session)])


def parts(connection: Connection, project: int, name: str, draft: str, *, now: int) -> list[bytes]:
    """What was added under sessions that live, in order of digest."""
    rows = connection.execute(_PARTS, {"of": project, "name": name, "called": draft, "now": now})
    return list(rows.scalars())


def forget_parts(connection: Connection, project: int, name: str, draft: str) -> None:
    """Remove all parts of a draft; nothing happens when it has none."""
    connection.execute(_FORGET, {"of": project, "name": name, "called": draft})

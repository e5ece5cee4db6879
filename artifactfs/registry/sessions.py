"""Sessions: who works on a project now, until when.

Used by :mod:`artifactfs.registry.sql` and the commit. Functions on the caller's transaction; safe from any thread.

Instants are nanoseconds since the epoch. A session that expired is as good as closed: it cannot be renewed, and what was
to be written under it is refused, since the chunks that it protected may have been collected.
"""

from __future__ import annotations

import math
from typing import Final

from sqlalchemy import Connection, bindparam, delete, insert, or_, select, update

from artifactfs.errors import Conflict, InvalidInput
from artifactfs.registry.schema import artifact, draft_part, session, session_version, version
from artifactfs.registry.sqlite import SQLiteDatabase

KEEPING: Final = "mount"
"""The kind of a session that keeps versions and stores nothing: collections do not wait for its end."""
COLLECTING: Final = "gc"
"""The kind of a collection's own."""

_LIVING: Final = (
    select(session.c.kind)
    .where(
        session.c.id == bindparam("number"),
        session.c.project == bindparam("of"),
        session.c.expires > bindparam("now"),
        session.c.ended.is_(None),
    )
    .with_for_update()
)
_OPEN: Final = insert(session).returning(session.c.id)
_RENEW: Final = update(session).where(
    session.c.id == bindparam("number"),
    session.c.project == bindparam("of"),
    session.c.expires > bindparam("now"),
    session.c.ended.is_(None),
)
# Versions that live, or that another living session keeps: what they hold was never given up.
_KEEPABLE: Final = (
    select(version.c.id)
    .join_from(version, artifact, artifact.c.id == version.c.artifact)
    .where(
        artifact.c.project == bindparam("of"),
        artifact.c.name == bindparam("called"),
        version.c.number == bindparam("numbered"),
        or_(
            version.c.deleted.is_(None),
            select(session_version.c.version)
            .join_from(session_version, session, session.c.id == session_version.c.session)
            .where(
                session_version.c.version == version.c.id,
                session.c.expires > bindparam("now"),
                session.c.ended.is_(None),
            )
            .exists(),
        ),
    )
)
_UNKEEP: Final = delete(session_version).where(session_version.c.session == bindparam("number"))
_CLOSE: Final = delete(session).where(session.c.id == bindparam("number"), session.c.project == bindparam("of"))
# With parts of drafts one stays for a while longer, so that who finishes the draft is told that they have ended.
_SWEEP: Final = delete(session).where(
    session.c.project == bindparam("of"),
    session.c.expires <= bindparam("now"),
    or_(
        session.c.expires <= bindparam("past"),
        ~select(draft_part.c.session).where(draft_part.c.session == session.c.id).exists(),
    ),
)
TOLD_NANOSECONDS: Final = 30 * 86_400 * 1_000_000_000
"""How long the parts of an ended session are remembered."""


def lifetime(seconds: float, *, what: str = "a session") -> int:
    """``seconds`` in nanoseconds. InvalidInput unless positive and at most a year."""
    if not (math.isfinite(seconds) and 0 < seconds <= 366 * 86_400):
        raise InvalidInput(f"{what} cannot live for {seconds} s: choose more than none and at most a year")
    return int(seconds * 1e9)


def open_session(connection: Connection, project: int, kind: str, *, now: int, expires: int) -> int:
    """Register a session; removes those of the project that have expired. Returns its id, which is never used again."""
    connection.execute(_SWEEP, {"of": project, "now": now, "past": now - TOLD_NANOSECONDS})
    row = {"project": project, "kind": kind, "started": now, "expires": expires}
    return int(connection.execute(_OPEN, row).scalar_one())


def renew_session(connection: Connection, project: int, number: int, *, now: int, expires: int) -> None:
    """Move a session's end. Conflict when it has ended."""
    if not connection.execute(_RENEW, {"of": project, "number": number, "now": now, "expires": expires}).rowcount:
        raise _ended(number)


def close_session(connection: Connection, project: int, number: int) -> None:
    """End a session, with the parts of drafts that it kept; nothing happens when it has ended."""
    connection.execute(_CLOSE, {"of": project, "number": number})


def keep_versions(
    connection: Connection,
    database: SQLiteDatabase,
    project: int,
    number: int,
    versions: list[tuple[str, int]],
    *,
    now: int,
) -> list[tuple[str, int]]:
    """Let a living session keep these versions and no others; returns those that it cannot, as what they held may be gone."""
    require_session(connection, project, number, now=now, storing=False)
    found: dict[tuple[str, int], int] = {}
    for name, numbered in versions:
        asked = {"of": project, "called": name, "numbered": numbered, "now": now}
        identity = connection.execute(_KEEPABLE, asked).scalar()
        if identity is not None:
            found[name, numbered] = identity
    connection.execute(_UNKEEP, {"number": number})
    if found:
        rows = [(number, identity) for identity in found.values()]
        database.insert_absent(connection, session_version, ("session", "version"), rows)
    return [each for each in dict.fromkeys(versions) if each not in found]


def require_session(
    connection: Connection, project: int, number: int | None, *, now: int, storing: bool = True
) -> None:
    """Hold a session's row until the transaction ends. Conflict when it has ended; None is no session.

    InvalidInput when something is to be stored under one that collections do not wait for.
    """
    if number is None:
        return
    kind = connection.execute(_LIVING, {"of": project, "number": number, "now": now}).scalar()
    if kind is None:
        raise _ended(number)
    if storing and kind in {KEEPING, COLLECTING}:
        raise InvalidInput(f"nothing can be stored under session {number}, which is of kind {kind!r}: open another")


def _ended(number: int) -> Conflict:
    return Conflict(f"session {number} has expired or was closed: what it stored may be gone; start again")

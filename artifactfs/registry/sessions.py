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
from artifactfs.registry.checks import LARGEST
from artifactfs.registry.schema import draft_part, session

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
    # Shared: it can be prolonged meanwhile, and serve several transactions, but not be ended.
    .with_for_update(read=True, key_share=True)
)
_OPEN: Final = insert(session).returning(session.c.id)
_RENEW: Final = update(session).where(
    session.c.id == bindparam("number"),
    session.c.project == bindparam("of"),
    session.c.expires > bindparam("now"),
    session.c.ended.is_(None),
)
_CLOSE: Final = delete(session).where(session.c.id == bindparam("number"), session.c.project == bindparam("of"))
# With parts of drafts one stays for a while longer, so that who finishes the draft is told that they have ended.
# One that is held, or that somebody else is sweeping, is left to the next sweep: this one waits for nobody.
_ENDED: Final = (
    select(session.c.id)
    .where(
        session.c.project == bindparam("of"),
        session.c.expires <= bindparam("now"),
        or_(
            session.c.expires <= bindparam("past"),
            ~select(draft_part.c.session).where(draft_part.c.session == session.c.id).exists(),
        ),
    )
    .with_for_update(skip_locked=True)
)
_SWEEP: Final = delete(session).where(session.c.id.in_(_ENDED))
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
    row = {"of": project, "number": number, "now": now, "expires": expires}
    if not _is_id(number) or not connection.execute(_RENEW, row).rowcount:
        raise _ended(number)


def close_session(connection: Connection, project: int, number: int) -> None:
    """End a session, with the parts of drafts that it kept; nothing happens when it has ended."""
    if _is_id(number):
        connection.execute(_CLOSE, {"of": project, "number": number})


def require_session(
    connection: Connection, project: int, number: int | None, *, now: int, storing: bool = True
) -> None:
    """Hold a session's row until the transaction ends. Conflict when it has ended; None is no session.

    InvalidInput when something is to be stored under one that collections do not wait for.
    """
    if number is None:
        return
    row = {"of": project, "number": number, "now": now}
    kind = connection.execute(_LIVING, row).scalar() if _is_id(number) else None
    if kind is None:
        raise _ended(number)
    if storing and kind in {KEEPING, COLLECTING}:
        raise InvalidInput(f"nothing can be stored under session {number}, which is of kind {kind!r}: open another")


def _is_id(number: int) -> bool:
    """Whether a column could hold it: what a client says is a session may be any number."""
    return 0 <= number <= LARGEST


def _ended(number: int) -> Conflict:
    return Conflict(f"session {number} has expired or was closed: what it stored may be gone; start again")

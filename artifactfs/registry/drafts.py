"""Drafts that several processes fill: the trees that each of them added.

Used by :mod:`artifactfs.registry.sql` and the commit. Functions on the caller's transaction; safe from any thread.

A part lives as long as the session it was added under, since what it holds may be collected after. A draft has no row of its
own: it is what its parts say, of an artifact that need not be there yet. One that was committed is remembered as a commit of its own
(table commit_made), so that who comes late does not begin another one of the same name.
"""

from __future__ import annotations

from typing import Final

from blake3 import blake3
from sqlalchemy import Connection, bindparam, delete, select

from artifactfs.errors import Conflict
from artifactfs.registry.database import Database
from artifactfs.registry.schema import artifact, commit_made, draft_part, session, version

DRAFT: Final = "the id of a draft"

_COLUMNS: Final = ("project", "artifact", "draft", "digest", "session")
_OF_DRAFT: Final = (
    (draft_part.c.project == bindparam("of"))
    & (draft_part.c.artifact == bindparam("name"))
    & (draft_part.c.draft == bindparam("called"))
)
_PARTS: Final = (
    select(draft_part.c.digest, session.c.expires, session.c.ended)
    .join_from(draft_part, session, session.c.id == draft_part.c.session)
    .where(_OF_DRAFT)
)
# Who ends a session removes its parts of drafts. To remove a draft's parts its sessions are held first, so that neither waits for the
# other with half of them removed.
_HOLD_SESSIONS: Final = (
    select(session.c.id)
    .where(session.c.id.in_(select(draft_part.c.session).where(_OF_DRAFT)))
    .order_by(session.c.id)
    .with_for_update(read=True, key_share=True)
)
_FORGET: Final = delete(draft_part).where(_OF_DRAFT)
_FINISHED: Final = (
    select(version.c.number)
    .join_from(commit_made, version, version.c.id == commit_made.c.version)
    .join(artifact, artifact.c.id == commit_made.c.artifact)
    .where(
        artifact.c.project == bindparam("of"),
        artifact.c.name == bindparam("name"),
        commit_made.c.commit_id == bindparam("commit_id"),
    )
)


def add_part(
    connection: Connection,
    database: Database,
    project: int,
    name: str,
    draft: str,
    digest: bytes,
    *,
    session: int,
) -> None:
    """Record a part under a session that the caller has checked. Nothing happens when it is there.

    Conflict when the draft was committed.
    """
    finished = connection.execute(_FINISHED, {"of": project, "name": name, "commit_id": _commit_id(draft)}).scalar()
    if finished is not None:
        raise Conflict(
            f"the draft {draft!r} of {name} was finished as {name}:v{finished} and takes no more parts; "
            "give the next one another id"
        )
    database.insert_absent(connection, draft_part, _COLUMNS, [(project, name, draft, digest, session)])


def parts(connection: Connection, project: int, name: str, draft: str, *, now: int, hold: bool = False) -> list[bytes]:
    """What was added, in order of digest. Conflict when sessions have ended that kept some of it: it would be left out.

    ``hold``: none of these sessions ends until the transaction does.
    """
    if hold:
        connection.execute(_HOLD_SESSIONS, {"of": project, "name": name, "called": draft}).all()
    living: dict[bytes, bool] = {}
    for digest, expires, over in connection.execute(_PARTS, {"of": project, "name": name, "called": draft}):
        living[digest] = living.get(digest, False) or (expires > now and over is None)
    ended = sum(not lives for lives in living.values())
    if ended:
        raise Conflict(
            f"{ended} of {len(living)} parts of the draft {draft!r} of {name} were added too long ago, and may be gone: "
            "add them again, or begin a draft with another id"
        )
    return sorted(living)


def finish(
    connection: Connection,
    database: Database,
    project: int,
    name: str,
    draft: str,
    *,
    artifact: int,
    version: int,
    created: bool,
) -> None:
    """Remove all parts of a draft, and remember which version they became."""
    connection.execute(_HOLD_SESSIONS, {"of": project, "name": name, "called": draft}).all()
    connection.execute(_FORGET, {"of": project, "name": name, "called": draft})
    row = (artifact, _commit_id(draft), version, created)
    database.insert_absent(connection, commit_made, ("artifact", "commit_id", "version", "created"), [row])


def _commit_id(draft: str) -> str:
    """What a draft's commit is remembered by: no client makes such ids, and it is never longer than 128 characters."""
    return f"draft {blake3(draft.encode()).hexdigest()}"

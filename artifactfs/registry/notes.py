"""Notes: what upkeep writes down about a project, such as how far a scrub is and who does it.

Used by :mod:`artifactfs.registry.sql`. Rows of the table ``meta``, a topic and a project each. Functions on the caller's connection;
safe from any thread.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Final

from sqlalchemy import Connection, bindparam, select, update

from artifactfs.registry.database import Database
from artifactfs.registry.schema import meta

_READ: Final = select(meta.c.value).where(meta.c.key == bindparam("called"))
_EXCHANGE: Final = (
    update(meta)
    .where(meta.c.key == bindparam("called"), meta.c.value == bindparam("old"))
    .values(value=bindparam("new"))
)


def read(connection: Connection, project: str, topic: str) -> str | None:
    """The note, or None."""
    return read_row(connection, _key(project, topic))


def exchange(connection: Connection, database: Database, project: str, topic: str, old: str | None, new: str) -> bool:
    """Replace a note, if it is still ``old``, in the caller's transaction."""
    return exchange_row(connection, database, _key(project, topic), old, new)


def read_row(connection: Connection, key: str) -> str | None:
    """The value of a row of ``meta``, or None."""
    return connection.execute(_READ, {"called": key}).scalar()


def exchange_row(connection: Connection, database: Database, key: str, old: str | None, new: str) -> bool:
    """As :func:`exchange`, of a row by its own key. Waits for whoever is about to insert it, or has changed it."""
    if old is None:
        if read_row(connection, key) is not None:
            return False
        database.insert_absent(connection, meta, ("key", "value"), [(key, new)])
        return read_row(connection, key) == new
    return connection.execute(_EXCHANGE, {"called": key, "old": old, "new": new}).rowcount == 1


def _key(project: str, topic: str) -> str:
    # A key has 64 characters, and a project's name may have more.
    return f"{topic}:{sha256(project.encode()).hexdigest()[:32]}"

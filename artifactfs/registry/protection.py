"""Protected aliases: which they are, and that they move on purpose only.

Used by :mod:`artifactfs.registry.edits`, :mod:`artifactfs.registry.deletion` and :mod:`artifactfs.registry.retention`. Functions on
the caller's transaction; safe from any thread.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from sqlalchemy import Connection, bindparam, delete, select

from artifactfs.errors import Conflict, InvalidInput, NotFound
from artifactfs.model.names import LATEST
from artifactfs.model.retention import EVERY, Protection
from artifactfs.registry.database import Database
from artifactfs.registry.schema import EVERY_ARTIFACT, artifact, protection

_OF_ARTIFACT: Final = (
    select(protection.c.alias)
    .join_from(artifact, protection, protection.c.project == artifact.c.project)
    .where(
        artifact.c.id == bindparam("of"),
        (protection.c.artifact == EVERY_ARTIFACT) | (protection.c.artifact == artifact.c.id),
    )
)
_LIST: Final = (
    select(protection.c.alias, artifact.c.name)
    .outerjoin_from(protection, artifact, artifact.c.id == protection.c.artifact)
    .where(protection.c.project == bindparam("project"))
)
_REMOVE: Final = delete(protection).where(
    protection.c.project == bindparam("of"),
    protection.c.artifact == bindparam("which"),
    protection.c.alias == bindparam("called"),
)


def protected_among(connection: Connection, of: int, names: Collection[str]) -> list[str]:
    """Those of these aliases of an artifact that are protected, sorted."""
    if not names:
        return []
    return sorted(set(names).intersection(connection.execute(_OF_ARTIFACT, {"of": of}).scalars()))


def require_unprotected(connection: Connection, of: int, names: Collection[str]) -> None:
    """Conflict when one of these aliases of an artifact, which is about to move or go, is protected."""
    if found := protected_among(connection, of, names):
        raise Conflict(
            f"{'the alias' if len(found) == 1 else 'the aliases'} {', '.join(found)} "
            f"{'is' if len(found) == 1 else 'are'} protected: `artifactfs alias` moves or removes "
            f"{'it' if len(found) == 1 else 'them'} with --protected, on a server for an admin"
        )


def protections(connection: Connection, project: int) -> list[Protection]:
    """All that are protected, by artifact and alias; those of every artifact first."""
    rows = connection.execute(_LIST, {"project": project})
    found = [Protection(called, name or EVERY) for called, name in rows]
    return sorted(found, key=lambda one: (one.artifact, one.alias))


def protect(connection: Connection, database: Database, project: int, which: int, called: str) -> None:
    """Protect an alias of an artifact, or of every one. Nothing happens when it is."""
    if called == LATEST:
        raise InvalidInput(f"the alias {LATEST} moves with every commit, so it cannot be protected; choose another one")
    database.insert_absent(connection, protection, ("project", "artifact", "alias"), [(project, which, called)])


def unprotect(connection: Connection, project: int, which: int, called: str) -> None:
    """End the protection of an alias. NotFound when there is none."""
    if not connection.execute(_REMOVE, {"of": project, "which": which, "called": called}).rowcount:
        raise NotFound(f"the alias {called} is not protected there; `artifactfs alias protected` lists those that are")

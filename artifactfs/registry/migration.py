"""Bringing a registry's file of an older format to that of this release, at its first opening.

Used by :mod:`artifactfs.registry.sqlite`, in one transaction that it owns: a file is of the one format or of the other. Every
format so far has all that the one before had, so that what is lacking is added, as the tables of this release have it.

Processes of an older release that have the file open go on writing it as before. They know nothing of what was added: a version that
they commit is whole, but not found by its metadata. They should be ended first.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import Connection, bindparam, select

from artifactfs.errors import Integrity
from artifactfs.registry import facts
from artifactfs.registry.additions import add_what_is_lacking
from artifactfs.registry.schema import FORMAT, FORMAT_KEY, artifact, meta, version

OLDEST: Final = 1  # format that can be brought to this one
_FACTS_SINCE: Final = 2

_FORMAT: Final = select(meta.c.value).where(meta.c.key == FORMAT_KEY)
_LIVING: Final = (
    select(version.c.id, artifact.c.project)
    .join_from(version, artifact, artifact.c.id == version.c.artifact)
    .where(version.c.deleted.is_(None))
)
_METADATA: Final = select(version.c.metadata).where(version.c.id == bindparam("identity"))


def migrate(connection: Connection) -> None:
    """Bring the file to this release's format, unless somebody else just did. Takes 0.2 ms a version."""
    found = connection.execute(_FORMAT).scalar_one()
    if found == str(FORMAT):
        return
    add_what_is_lacking(connection)
    if int(found) < _FACTS_SINCE:
        _take_metadata_apart(connection)
    connection.execute(meta.update().where(meta.c.key == FORMAT_KEY).values(value=str(FORMAT)))


def _take_metadata_apart(connection: Connection) -> None:
    for identity, project in connection.execute(_LIVING).all():
        try:
            metadata = connection.execute(_METADATA, {"identity": identity}).scalar_one()
        except Integrity:
            continue  # reading this version says so, as it did before; the others are fine
        if isinstance(metadata, dict):
            facts.replace(connection, project, identity, metadata)

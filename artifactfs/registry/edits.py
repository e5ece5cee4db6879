"""What changes about artifacts after their commits: aliases, tags, descriptions and metadata; and how a version ends.

Used by :mod:`artifactfs.registry.sql`, which owns the transaction and raises the project's revision when a function here says that
something changed, and by the commit. Safe from any thread.

Invariant. ONE WRITER AN ARTIFACT: whoever reads an artifact in order to change it holds its row from then on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import msgspec
from sqlalchemy import Connection, bindparam, delete, insert, select, update

from artifactfs.errors import NotFound
from artifactfs.model.names import LATEST
from artifactfs.model.records import VersionRecord
from artifactfs.registry import facts
from artifactfs.registry.database import as_json
from artifactfs.registry.protection import require_unprotected
from artifactfs.registry.schema import alias, artifact, tag, version
from artifactfs.registry.versions import version_numbered

LOCK_ARTIFACT: Final = (
    select(artifact.c.id, artifact.c.type, artifact.c.next_number)
    .where(artifact.c.project == bindparam("project"), artifact.c.name == bindparam("name"))
    .with_for_update()
)
_POINTED: Final = select(alias.c.name, alias.c.version).where(alias.c.artifact == bindparam("of"))
_POINT: Final = update(alias).where(alias.c.artifact == bindparam("of"), alias.c.name == bindparam("called"))
_UNPOINT: Final = delete(alias).where(alias.c.artifact == bindparam("of"), alias.c.name == bindparam("called"))
_CHANGE_VERSION: Final = update(version).where(version.c.id == bindparam("of"))
_UNTAG: Final = delete(tag).where(tag.c.version == bindparam("of"))
_HIGHEST: Final = (
    select(version.c.id)
    .where(version.c.artifact == bindparam("of"), version.c.deleted.is_(None))
    .order_by(version.c.number.desc())
    .limit(1)
)


class Labels(NamedTuple):
    """What becomes of a version's tags: replaced (None: not), then some more, then some less."""

    tags: tuple[str, ...] | None
    more: tuple[str, ...]
    less: tuple[str, ...]

    def of(self, record: VersionRecord) -> tuple[str, ...]:
        """The tags that a version has then, sorted. NotFound for those to remove that it has not."""
        present = record.tags if self.tags is None else self.tags
        if absent := [name for name in self.less if name not in present]:
            raise NotFound(
                f"{record.name} has no tag {', '.join(absent)}; its tags are {', '.join(record.tags) or 'none'}"
            )
        return tuple(sorted({*present, *self.more}.difference(self.less)))


def lock_artifact(connection: Connection, project: int, name: str) -> Sequence[Any] | None:
    """Hold an artifact's row until the transaction ends: its id, type and next number."""
    return connection.execute(LOCK_ARTIFACT, {"project": project, "name": name}).first()


def point(connection: Connection, of: int, identity: int, names: Sequence[str], *, protected: bool = False) -> bool:
    """Let aliases of a locked artifact name a version; whether any did not already.

    Conflict when one that is protected would move, unless ``protected``.
    """
    present = dict(connection.execute(_POINTED, {"of": of}).all())
    moved = [called for called in dict.fromkeys(names) if present.get(called) != identity]
    if not protected:
        require_unprotected(connection, of, [called for called in moved if called != LATEST])
    for called in moved:
        if called not in present:
            connection.execute(insert(alias), {"artifact": of, "name": called, "version": identity})
        else:
            connection.execute(_POINT, {"of": of, "called": called, "version": identity})
    return bool(moved)


def require_version(connection: Connection, project: int, name: str, number: int) -> VersionRecord:
    """A living version. NotFound without it."""
    record = version_numbered(connection, project, name, number)
    if record is None:
        raise no_version(name, number)
    return record


def add_tags(
    connection: Connection, existing: VersionRecord | None, identity: int, tags: Sequence[str], now: int
) -> bool:
    """Give tags to a version beside those it has; whether it had not all of them."""
    new = [name for name in tags if existing is None or name not in existing.tags]
    if not new:
        return False
    connection.execute(insert(tag), [{"version": identity, "name": name} for name in new])
    if existing is not None:
        connection.execute(_CHANGE_VERSION, {"of": identity, "updated": now})
    return True


def move_aliases(
    connection: Connection, project: int, name: str, number: int, aliases: Sequence[str], *, protected: bool
) -> tuple[VersionRecord, bool]:
    """Point checked aliases at a version; also says whether any moved. Conflict for protected ones, unless ``protected``."""
    of, record = _hold(connection, project, name, number)
    if not point(connection, of, record.id, aliases, protected=protected):
        return record, False
    return require_version(connection, project, name, number), True


def remove_aliases(connection: Connection, project: int, name: str, aliases: Sequence[str], *, protected: bool) -> bool:
    """Remove aliases, all or none; whether there were any. Conflict for protected ones, unless ``protected``."""
    locked = lock_artifact(connection, project, name)
    if locked is None:
        raise NotFound(f"there is no artifact {name!r}; `artifactfs ls` lists those there are")
    present = {called for called, _ in connection.execute(_POINTED, {"of": locked[0]})}
    if absent := [called for called in aliases if called not in present]:
        raise NotFound(
            f"{name} has no alias {', '.join(absent)}; its aliases are {', '.join(sorted(present)) or 'none'}"
        )
    if not protected:
        require_unprotected(connection, locked[0], aliases)
    for called in aliases:
        connection.execute(_UNPOINT, {"of": locked[0], "called": called})
    return bool(aliases)


def edit(
    connection: Connection,
    project: int,
    name: str,
    number: int,
    *,
    description: str | None,
    metadata: dict[str, Any] | None,
    labels: Labels,
    now: int,
) -> tuple[VersionRecord, bool]:
    """Replace a version's checked description, metadata and tags; also says whether they differ from what was there."""
    _, record = _hold(connection, project, name, number)
    values: dict[str, Any] = {}
    if description is not None and description != record.description:
        values["description"] = description
    # As they are stored: in Python 1, 1.0 and True are equal.
    if metadata is not None and as_json(metadata) != as_json(record.metadata):
        values["metadata"] = metadata
    tags = labels.of(record)
    retagged = tags != record.tags
    if not values and not retagged:
        return record, False
    values["updated"] = now
    connection.execute(_CHANGE_VERSION, {"of": record.id, **values})
    if "metadata" in values:
        facts.replace(connection, project, record.id, values["metadata"])
    if retagged:
        connection.execute(_UNTAG, {"of": record.id})
        add_tags(connection, None, record.id, tags, now)
        values["tags"] = tags
    return msgspec.structs.replace(record, **values), True


def bury(connection: Connection, of: int, record: VersionRecord, *, by: str, now: int) -> None:
    """Delete a version of a locked artifact with its aliases and tags. Its row stays, for its number, commit ids and lineage."""
    connection.execute(_CHANGE_VERSION, {"of": record.id, "deleted": now, "deleted_by": by})
    connection.execute(_UNTAG, {"of": record.id})
    facts.remove(connection, record.id)
    for called in record.aliases:
        connection.execute(_UNPOINT, {"of": of, "called": called})
    if LATEST in record.aliases and (left := connection.execute(_HIGHEST, {"of": of}).scalar()) is not None:
        point(connection, of, left, [LATEST])


def _hold(connection: Connection, project: int, name: str, number: int) -> tuple[int, VersionRecord]:
    """A living version, its artifact held: the artifact's id and the version. NotFound without it."""
    locked = lock_artifact(connection, project, name)
    record = None if locked is None else version_numbered(connection, project, name, number)
    if locked is None or record is None:
        raise no_version(name, number)
    return locked[0], record


def no_version(name: str, number: int) -> NotFound:
    """The error for a version that is not there."""
    return NotFound(f"there is no {name}:v{number}; `artifactfs log {name}` lists the versions there are")

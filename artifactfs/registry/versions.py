"""Artifacts, versions and aliases as they are read: the statements, and records from rows.

Used by :mod:`artifactfs.registry.sql` and the commit. Functions on the caller's connection, each one statement, so that each sees one
state; safe from any thread. Statements are built once: executing a prebuilt one costs 20 us, building it each time 80.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, TypeVar

import msgspec
from sqlalchemy import Connection, Select, bindparam, func, select

from artifactfs.errors import Integrity
from artifactfs.model.names import LATEST
from artifactfs.model.records import ArtifactRecord, VersionRecord
from artifactfs.registry.checks import LARGEST
from artifactfs.registry.schema import alias, artifact, tag, version

_Record = TypeVar("_Record", bound=msgspec.Struct)

BATCH: Final = 512  # keys of one statement, see chunks.py

# Aliases and tags hold no "/", so that it can part them.
_PART: Final = "/"
_ALIASES: Final = (
    select(func.aggregate_strings(alias.c.name, _PART))
    .where(alias.c.artifact == version.c.artifact, alias.c.version == version.c.id)
    .correlate(version)
    .scalar_subquery()
)
_TAGS: Final = (
    select(func.aggregate_strings(tag.c.name, _PART))
    .where(tag.c.version == version.c.id)
    .correlate(version)
    .scalar_subquery()
)
_LIVING_VERSIONS: Final = (
    select(
        version.c.id,
        artifact.c.name,
        artifact.c.type,
        version.c.number,
        version.c.digest,
        version.c.size,
        version.c.files,
        version.c.entries,
        version.c.created,
        version.c.description,
        version.c.metadata,
        _ALIASES,
        _TAGS,
        version.c.updated,
        version.c.run,
    )
    .join_from(artifact, version, version.c.artifact == artifact.c.id)
    .where(artifact.c.project == bindparam("project"), version.c.deleted.is_(None))
)
_BY_ID: Final = _LIVING_VERSIONS.where(version.c.id.in_(bindparam("ids", expanding=True)))
_VERSIONS: Final = _LIVING_VERSIONS.where(artifact.c.name == bindparam("name"))
_ALL: Final = _VERSIONS.order_by(version.c.number)
_BY_NUMBER: Final = _VERSIONS.where(version.c.number == bindparam("number"))
_BY_DIGEST: Final = _VERSIONS.where(version.c.digest == bindparam("digest"))
_ASKED: Final = alias.alias("asked")  # beside the aliases that the record lists
_BY_ALIAS: Final = _VERSIONS.join(
    _ASKED, (_ASKED.c.artifact == artifact.c.id) & (_ASKED.c.version == version.c.id)
).where(_ASKED.c.name == bindparam("alias"))
_ALIAS_NUMBERS: Final = (
    select(alias.c.name, version.c.number)
    .join_from(artifact, alias, alias.c.artifact == artifact.c.id)
    .join(version, version.c.id == alias.c.version)
    .where(
        artifact.c.project == bindparam("project"), artifact.c.name == bindparam("name"), version.c.deleted.is_(None)
    )
)

_LATEST: Final = (
    select(version.c.number)
    .join_from(alias, version, version.c.id == alias.c.version)
    .where(alias.c.artifact == artifact.c.id, alias.c.name == LATEST)
    .scalar_subquery()
)
_LIVING: Final = (
    select(func.count())
    .select_from(version)
    .where(version.c.artifact == artifact.c.id, version.c.deleted.is_(None))
    .scalar_subquery()
)
_ARTIFACTS: Final = select(
    artifact.c.id, artifact.c.name, artifact.c.type, artifact.c.created, _LATEST, _LIVING, artifact.c.next_number
).where(artifact.c.project == bindparam("project"))
_ARTIFACT: Final = _ARTIFACTS.where(artifact.c.name == bindparam("name"))


def artifacts(connection: Connection, project: int) -> list[ArtifactRecord]:
    """All artifacts with a living version, sorted by name."""
    rows = connection.execute(_ARTIFACTS, {"project": project})
    # Sorted here: the order of text is each database's own.
    return sorted((record for record in map(_artifact, rows) if record.versions), key=lambda record: record.name)


def artifact_named(connection: Connection, project: int, name: str) -> ArtifactRecord | None:
    """One artifact; None without a living version of it."""
    row = connection.execute(_ARTIFACT, {"project": project, "name": name}).first()
    record = None if row is None else _artifact(row)
    return record if record is not None and record.versions else None


def versions(connection: Connection, project: int, name: str) -> list[VersionRecord]:
    """Living versions, rising numbers."""
    return [_version(row) for row in connection.execute(_ALL, {"project": project, "name": name})]


def version_numbered(connection: Connection, project: int, name: str, number: int) -> VersionRecord | None:
    """The living version with this number."""
    if not 0 <= number <= LARGEST:
        return None
    return _one(connection, _BY_NUMBER, {"project": project, "name": name, "number": number})


def version_with_digest(connection: Connection, project: int, name: str, digest: bytes) -> VersionRecord | None:
    """The living version with this root digest."""
    return _one(connection, _BY_DIGEST, {"project": project, "name": name, "digest": digest})


def version_with_alias(connection: Connection, project: int, name: str, alias: str) -> VersionRecord | None:
    """The version that an alias names."""
    return _one(connection, _BY_ALIAS, {"project": project, "name": name, "alias": alias})


def versions_with_ids(connection: Connection, project: int, ids: Sequence[int]) -> list[VersionRecord]:
    """The living versions of the project with these ids (any number, each once), in their order."""
    found: dict[int, VersionRecord] = {}
    for start in range(0, len(ids), BATCH):
        rows = connection.execute(_BY_ID, {"project": project, "ids": ids[start : start + BATCH]})
        found.update((record.id, record) for record in map(_version, rows))
    return [found[identity] for identity in ids if identity in found]


def aliases(connection: Connection, project: int, name: str) -> dict[str, int]:
    """Aliases and the numbers they name, sorted by alias."""
    rows = connection.execute(_ALIAS_NUMBERS, {"project": project, "name": name})
    return dict(sorted(rows.all(), key=lambda row: str(row[0])))


def _one(connection: Connection, statement: Select[Any], values: dict[str, Any]) -> VersionRecord | None:
    row = connection.execute(statement, values).first()
    return None if row is None else _version(row)


def _artifact(row: Sequence[Any]) -> ArtifactRecord:
    return record_of(ArtifactRecord, row)


def _version(row: Sequence[Any]) -> VersionRecord:
    *values, aliases_joined, tags_joined, updated, run = row
    return record_of(VersionRecord, (*values, _parted(aliases_joined), _parted(tags_joined), updated, run))


def _parted(joined: object) -> tuple[str, ...]:
    return tuple(sorted(joined.split(_PART))) if isinstance(joined, str) else ()


def record_of(kind: type[_Record], values: Sequence[Any]) -> _Record:
    """A record of values in the order of its fields, which a damaged page may have given other types (1 us)."""
    fields = dict(zip(kind.__struct_fields__, values, strict=True))
    try:
        return msgspec.convert(fields, kind, builtin_types=(bytes,))
    except msgspec.ValidationError as error:
        raise Integrity(f"the registry holds a damaged row ({error}): run `artifactfs verify`") from error

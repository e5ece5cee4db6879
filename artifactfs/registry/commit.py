"""The commit: from a request to a version, inside one transaction; and what else changes versions and aliases.

Used by :mod:`artifactfs.registry.sql`, which owns the transaction and raises the project's revision when a function here says that
something changed. Safe from any thread.

Invariants. ONE WRITER AN ARTIFACT: whoever reads an artifact in order to change it holds its row from then on. NUMBERS RISE: a number
is taken from ``next_number`` and never given again. ANSWERED ONCE: a commit id has one row, written with what the commit did, so a
repeat is answered from there and changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, bindparam, delete, insert, select, update

from artifactfs.errors import Conflict, InvalidInput, NotFound
from artifactfs.model.digest import DIGEST_SIZE
from artifactfs.model.names import DEFAULT_TYPE, LATEST, check_alias, check_metadata, check_name, check_type
from artifactfs.model.records import CommitRequest, CommitResult, VersionRecord
from artifactfs.registry.schema import alias, artifact, commit_made, version
from artifactfs.registry.sessions import require_session
from artifactfs.registry.sqlite import SQLiteDatabase
from artifactfs.registry.versions import version_numbered, version_with_alias, version_with_digest

LARGEST: Final = 2**63 - 1  # what a column holds

_LOCK: Final = (
    select(artifact.c.id, artifact.c.type, artifact.c.next_number)
    .where(artifact.c.project == bindparam("project"), artifact.c.name == bindparam("name"))
    .with_for_update()
)
_MADE: Final = (
    select(version.c.number, version.c.digest, version.c.deleted, commit_made.c.created)
    .join_from(commit_made, version, version.c.id == commit_made.c.version)
    .where(commit_made.c.artifact == bindparam("artifact"), commit_made.c.commit_id == bindparam("commit_id"))
)
_POINTED: Final = select(alias.c.name, alias.c.version).where(alias.c.artifact == bindparam("of"))
_POINT: Final = update(alias).where(alias.c.artifact == bindparam("of"), alias.c.name == bindparam("called"))
_UNPOINT: Final = delete(alias).where(alias.c.artifact == bindparam("of"), alias.c.name == bindparam("called"))
_CHANGE_ARTIFACT: Final = update(artifact).where(artifact.c.id == bindparam("of"))
_INSERT_VERSION: Final = insert(version).returning(version.c.id)
_CHANGE_VERSION: Final = update(version).where(version.c.id == bindparam("of"))


def check_request(request: CommitRequest) -> CommitRequest:
    """The request with its metadata as stored and each alias once. InvalidInput for what no registry may hold."""
    check_name(request.artifact)
    if request.type is not None:
        check_type(request.type)
    if not (0 < len(request.commit_id) <= 128 and request.commit_id.isascii() and request.commit_id.isprintable()):
        raise InvalidInput(f"not a commit id: {request.commit_id!r}; 1 to 128 printable ASCII characters are one")
    if len(request.digest) != DIGEST_SIZE:
        raise InvalidInput(f"not the digest of a tree: {len(request.digest)} bytes instead of {DIGEST_SIZE}")
    for count in (request.size, request.files, request.entries):
        if not 0 <= count <= LARGEST:
            raise InvalidInput(f"not a size or count: {count}")
    if request.base is not None and not -1 <= request.base <= LARGEST:
        raise InvalidInput(f"not a version to build on: {request.base}")
    return msgspec.structs.replace(
        request,
        aliases=check_aliases(request.aliases),
        description=check_description(request.description),
        metadata=check_json(request.metadata),
    )


def check_aliases(names: Sequence[str]) -> tuple[str, ...]:
    """Each alias once, in the order given."""
    return tuple(dict.fromkeys(check_alias(name) for name in names))


def check_description(text: str | None) -> str | None:
    """Free text that every database can hold."""
    if text is not None and (not is_text(text) or "\0" in text):
        raise InvalidInput("the description is not valid UTF-8 or holds NUL; write it again without")
    return text


def check_json(metadata: dict[str, Any] | None) -> dict[str, Any] | None:
    """Metadata as it is stored, all of its text valid UTF-8."""
    if metadata is None:
        return None
    checked = check_metadata(metadata)
    try:
        msgspec.json.encode(checked)
    except UnicodeEncodeError:
        raise InvalidInput("the metadata holds text that is not valid UTF-8; write it again without") from None
    return checked


def is_text(text: str) -> bool:
    """Whether a text is valid UTF-8; names that come from a mount may not be."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def commit(
    connection: Connection, database: SQLiteDatabase, project: int, request: CommitRequest, *, now: int
) -> tuple[CommitResult, bool]:
    """Make or reuse a version for a checked request; also says whether anything that can be seen has changed."""
    name = request.artifact
    locked = _lock_artifact(connection, project, name)
    if locked is None:
        values = (project, name, request.type or DEFAULT_TYPE, now, 0)
        database.insert_absent(connection, artifact, ("project", "name", "type", "created", "next_number"), [values])
        # By us, or by somebody who was faster.
        locked = connection.execute(_LOCK, {"project": project, "name": name}).one()
    of, kind, next_number = locked

    repeat = connection.execute(_MADE, {"artifact": of, "commit_id": request.commit_id}).first()
    if repeat is not None:
        return _answer_again(connection, project, request, repeat), False

    require_session(connection, project, request.session, now=now)
    latest = version_with_alias(connection, project, name, LATEST)
    _settle_type(connection, of, kind, request, latest)
    existing = version_with_digest(connection, project, name, request.digest)
    present = -1 if latest is None else latest.number
    unchanged = existing is not None and existing.number == present
    if request.base is not None and request.base != present and not request.force and not unchanged:
        raise _moved(name, request.base, present)

    changed = existing is None
    if existing is None:
        number = next_number
        identity = _insert_version(connection, of, number, request, now)
        connection.execute(_CHANGE_ARTIFACT, {"of": of, "next_number": number + 1})
    else:
        number, identity = existing.number, existing.id
    changed |= _point(connection, of, identity, (LATEST, *request.aliases))
    connection.execute(
        insert(commit_made),
        {"artifact": of, "commit_id": request.commit_id, "version": identity, "created": existing is None},
    )
    return CommitResult(_require(connection, project, name, number), existing is None), changed


def move_aliases(
    connection: Connection, project: int, name: str, number: int, aliases: Sequence[str]
) -> tuple[VersionRecord, bool]:
    """Point checked aliases at a version; also says whether any moved."""
    locked = _lock_artifact(connection, project, name)
    record = _require(connection, project, name, number)
    if locked is None or not _point(connection, locked[0], record.id, aliases):
        return record, False
    return _require(connection, project, name, number), True


def remove_aliases(connection: Connection, project: int, name: str, aliases: Sequence[str]) -> bool:
    """Remove aliases, all or none; whether there were any."""
    locked = _lock_artifact(connection, project, name)
    if locked is None:
        raise NotFound(f"there is no artifact {name!r}; `artifactfs ls` lists those there are")
    present = {called for called, _ in connection.execute(_POINTED, {"of": locked[0]})}
    if absent := [called for called in aliases if called not in present]:
        raise NotFound(
            f"{name} has no alias {', '.join(absent)}; its aliases are {', '.join(sorted(present)) or 'none'}"
        )
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
) -> tuple[VersionRecord, bool]:
    """Replace a version's checked description and metadata; also says whether they differ from what was there."""
    _lock_artifact(connection, project, name)
    record = _require(connection, project, name, number)
    values: dict[str, Any] = {}
    if description is not None and description != record.description:
        values["description"] = description
    if metadata is not None and metadata != record.metadata:
        values["metadata"] = metadata
    if not values:
        return record, False
    connection.execute(_CHANGE_VERSION, {"of": record.id, **values})
    return msgspec.structs.replace(record, **values), True


def _lock_artifact(connection: Connection, project: int, name: str) -> Sequence[Any] | None:
    """Hold an artifact's row until the transaction ends: its id, type and next number."""
    return connection.execute(_LOCK, {"project": project, "name": name}).first()


def _answer_again(connection: Connection, project: int, request: CommitRequest, made: Sequence[Any]) -> CommitResult:
    number, digest, deleted, created = made
    if digest != request.digest:
        raise InvalidInput(f"the commit id {request.commit_id!r} was used for other contents; make a new one")
    if deleted is not None:
        raise Conflict(f"{request.artifact}:v{number}, which this commit made, was deleted since; commit again")
    return CommitResult(_require(connection, project, request.artifact, number), created)


def _settle_type(
    connection: Connection, of: int, kind: str, request: CommitRequest, latest: VersionRecord | None
) -> None:
    if request.type is None or request.type == kind:
        return
    if latest is not None:
        raise Conflict(
            f"{request.artifact} is of type {kind!r}, not {request.type!r}: leave the type out, or choose another name"
        )
    # Nothing of it lives (each living version keeps a `latest`), so nobody relies on the type that it had.
    connection.execute(_CHANGE_ARTIFACT, {"of": of, "type": request.type})


def _moved(name: str, base: int, present: int) -> Conflict:
    now = f"`latest` is v{present}" if present >= 0 else "there is no version now"
    built = f"this commit builds on v{base}" if base >= 0 else "this commit builds on none"
    onto = f"onto v{present} " if present >= 0 else ""
    return Conflict(
        f"{name} has moved on: {now}, {built}; "
        f"`artifactfs rebase` brings your changes {onto}first, `--force` commits them as they are"
    )


def _insert_version(connection: Connection, of: int, number: int, request: CommitRequest, now: int) -> int:
    added = connection.execute(
        _INSERT_VERSION,
        {
            "artifact": of,
            "number": number,
            "digest": request.digest,
            "size": request.size,
            "files": request.files,
            "entries": request.entries,
            "created": now,
            "description": request.description or "",
            "metadata": request.metadata or {},
        },
    )
    return int(added.scalar_one())


def _point(connection: Connection, of: int, identity: int, names: Sequence[str]) -> bool:
    """Let aliases of a locked artifact name a version; whether any did not already."""
    present = dict(connection.execute(_POINTED, {"of": of}).all())
    changed = False
    for called in dict.fromkeys(names):
        if called not in present:
            connection.execute(insert(alias), {"artifact": of, "name": called, "version": identity})
        elif present[called] != identity:
            connection.execute(_POINT, {"of": of, "called": called, "version": identity})
        else:
            continue
        changed = True
    return changed


def _require(connection: Connection, project: int, name: str, number: int) -> VersionRecord:
    record = version_numbered(connection, project, name, number) if 0 <= number <= LARGEST else None
    if record is None:
        raise NotFound(f"there is no {name}:v{number}; `artifactfs log {name}` lists the versions there are")
    return record

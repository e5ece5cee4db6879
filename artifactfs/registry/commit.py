"""The commit: from a request to a version, inside one transaction.

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
from sqlalchemy import Connection, bindparam, insert, select, update

from artifactfs.errors import Conflict, InvalidInput
from artifactfs.model.names import DEFAULT_TYPE, LATEST, check_name, check_run, check_type
from artifactfs.model.records import CommitRequest, CommitResult, VersionRecord
from artifactfs.registry import drafts, facts
from artifactfs.registry.checks import (
    LARGEST,
    check_aliases,
    check_description,
    check_digest,
    check_json,
    check_tags,
    check_token,
)
from artifactfs.registry.database import Database
from artifactfs.registry.edits import LOCK_ARTIFACT, add_tags, lock_artifact, point, require_version
from artifactfs.registry.quotas import require_logical
from artifactfs.registry.retention import renamed_to
from artifactfs.registry.runs import add_links, require_run
from artifactfs.registry.schema import artifact, commit_made, run_input, run_output, version
from artifactfs.registry.sessions import require_session
from artifactfs.registry.versions import version_with_alias, version_with_digest

_MADE: Final = (
    select(version.c.number, version.c.digest, version.c.deleted, commit_made.c.created)
    .join_from(commit_made, version, version.c.id == commit_made.c.version)
    .where(commit_made.c.artifact == bindparam("artifact"), commit_made.c.commit_id == bindparam("commit_id"))
)
_CHANGE_ARTIFACT: Final = update(artifact).where(artifact.c.id == bindparam("of"))
_INSERT_VERSION: Final = insert(version).returning(version.c.id)


def check_request(request: CommitRequest) -> CommitRequest:
    """The request with its metadata as stored and each alias once. InvalidInput for what no registry may hold."""
    check_name(request.artifact)
    if request.type is not None:
        check_type(request.type)
    check_token(request.commit_id, "a commit id")
    check_digest(request.digest)
    for count in (request.size, request.files, request.entries):
        if not 0 <= count <= LARGEST:
            raise InvalidInput(f"not a size or count: {count}")
    if request.base is not None and not -1 <= request.base <= LARGEST:
        raise InvalidInput(f"not a version to build on: {request.base}")
    if request.run is not None:
        check_run(request.run)
    if request.draft is not None:
        check_token(request.draft, drafts.DRAFT)
    return msgspec.structs.replace(
        request,
        aliases=check_aliases(request.aliases),
        tags=check_tags(request.tags),
        description=check_description(request.description),
        metadata=check_json(request.metadata),
    )


def commit(
    connection: Connection, database: Database, project: int, request: CommitRequest, *, now: int
) -> tuple[CommitResult, bool]:
    """Make or reuse a version for a checked request; also says whether anything that can be seen has changed."""
    name = request.artifact
    locked = lock_artifact(connection, project, name)
    if locked is None:
        if (called := renamed_to(connection, project, name)) is not None:
            raise Conflict(f"{name} was renamed to {called}: commit to that, or choose another name")
        values = (project, name, request.type or DEFAULT_TYPE, now, 0)
        database.insert_absent(connection, artifact, ("project", "name", "type", "created", "next_number"), [values])
        # By us, or by somebody who was faster.
        locked = connection.execute(LOCK_ARTIFACT, {"project": project, "name": name}).one()
    of, kind, next_number = locked

    repeat = connection.execute(_MADE, {"artifact": of, "commit_id": request.commit_id}).first()
    if repeat is not None:
        return _answer_again(connection, project, request, repeat), False

    require_session(connection, project, request.session, now=now)
    if request.draft is not None:
        # What its parts hold was not stored anew: their sessions must have lasted until now.
        drafts.parts(connection, project, name, request.draft, now=now, hold=True)
    if request.run is not None:
        require_run(connection, project, request.run)
    latest = version_with_alias(connection, project, name, LATEST)
    _settle_type(connection, of, kind, request, latest)
    existing = version_with_digest(connection, project, name, request.digest)
    found = existing is not None and request.find
    present = -1 if latest is None else latest.number
    unchanged = existing is not None and existing.number == present
    if request.base is not None and request.base != present and not (request.force or unchanged or found):
        raise _moved(name, request.base, present)

    changed = existing is None
    if existing is None:
        number = next_number
        require_logical(connection, project, request.size)
        identity = _insert_version(connection, of, number, request, now)
        facts.replace(connection, project, identity, request.metadata or {})
        connection.execute(_CHANGE_ARTIFACT, {"of": of, "next_number": number + 1})
    else:
        number, identity = existing.number, existing.id
    if not found:
        changed |= point(connection, of, identity, (LATEST, *request.aliases))
        changed |= add_tags(connection, existing, identity, request.tags, now)
    if request.run is not None:
        links = run_input if request.find else run_output
        add_links(connection, database, links, project, request.run, [identity], now=now)
    if request.draft is not None:
        made = existing is None
        drafts.finish(connection, database, project, name, request.draft, artifact=of, version=identity, created=made)
    connection.execute(
        insert(commit_made),
        {"artifact": of, "commit_id": request.commit_id, "version": identity, "created": existing is None},
    )
    return CommitResult(require_version(connection, project, name, number), existing is None), changed


def _answer_again(connection: Connection, project: int, request: CommitRequest, made: Sequence[Any]) -> CommitResult:
    number, digest, deleted, created = made
    if digest != request.digest:
        raise InvalidInput(f"the commit id {request.commit_id!r} was used for other contents; make a new one")
    if deleted is not None:
        raise Conflict(f"{request.artifact}:v{number}, which this commit made, was deleted since; commit again")
    return CommitResult(require_version(connection, project, request.artifact, number), created)


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
            # A version that was looked for is what its Run used, not what it made.
            "run": "" if request.find else request.run or "",
        },
    )
    return int(added.scalar_one())

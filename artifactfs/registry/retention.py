"""The Retention contract in SQL: deletion, tombstones, renames, rules, protected aliases, who keeps versions, quotas.

Handed out by :mod:`artifactfs.registry.sql`, whose transactions it works in. Safe from any thread.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from typing import Final, Protocol

from sqlalchemy import Connection, bindparam, delete, insert, select, update

from artifactfs.errors import Conflict, InvalidInput, NotFound
from artifactfs.model.names import check_alias, check_name
from artifactfs.model.query import parse_condition
from artifactfs.model.retention import EVERY, NOTHING_MORE, Permissions, Protection, RetentionRule, Tombstone, Usage
from artifactfs.registry import checks, deletion, protection, quotas, sessions
from artifactfs.registry.database import Database
from artifactfs.registry.edits import lock_artifact
from artifactfs.registry.schema import EVERY_ARTIFACT, artifact, former_name, project, retention_rule, version
from artifactfs.registry.versions import artifact_named, record_of

_LONGEST_PURPOSE: Final = 1000  # characters of what a version is kept for

_IDENTITY: Final = select(artifact.c.id).where(
    artifact.c.project == bindparam("project"), artifact.c.name == bindparam("name")
)
_ONE_AT_A_TIME: Final = select(project.c.id).where(project.c.id == bindparam("of")).with_for_update()
_RENAME: Final = update(artifact).where(artifact.c.id == bindparam("of"))
_EVER: Final = select(version.c.id).where(version.c.artifact == bindparam("of")).limit(1)
_FORMER: Final = (
    select(former_name.c.name, artifact.c.name)
    .join_from(former_name, artifact, artifact.c.id == former_name.c.artifact)
    .where(former_name.c.project == bindparam("project"))
)
_FORMER_NAMED: Final = _FORMER.where(former_name.c.name == bindparam("name"))
_FREE: Final = delete(former_name).where(
    former_name.c.project == bindparam("of"), former_name.c.name == bindparam("called")
)
_RULES: Final = (
    select(
        artifact.c.name,
        retention_rule.c.keep_last,
        retention_rule.c.older_than,
        retention_rule.c.keep_aliased,
        retention_rule.c.condition,
        retention_rule.c.changed,
        retention_rule.c.changed_by,
    )
    .outerjoin_from(retention_rule, artifact, artifact.c.id == retention_rule.c.artifact)
    .where(retention_rule.c.project == bindparam("project"))
)
_REMOVE_RULE: Final = delete(retention_rule).where(
    retention_rule.c.project == bindparam("of"), retention_rule.c.artifact == bindparam("which")
)


class Writing(Protocol):
    """One transaction of a registry, with the project's id."""

    def __call__(self, *, durable: bool) -> AbstractContextManager[tuple[Connection, int]]:
        """Begin it; committed at the end, undone when the body raises."""


class RaiseRevision(Protocol):
    """Says at the end of a transaction that something visible changed."""

    def __call__(self, connection: Connection, number: int, *, changed: bool) -> None:
        """Raise it, if ``changed``."""


class SQLRetention:
    """A :class:`~artifactfs.registry.contract.Retention`. ``now`` gives nanoseconds since the epoch."""

    def __init__(
        self,
        project: str,
        database: Database,
        reading: Callable[[], AbstractContextManager[tuple[Connection, int]]],
        writing: Writing,
        raise_revision: RaiseRevision,
        now: Callable[[], int],
    ) -> None:
        self._project = project
        self._database = database
        self._reading = reading
        self._writing = writing
        self._raise_revision = raise_revision
        self._now = now

    # -- deletion --------------------------------------------------------------------------------------------------

    def delete(
        self, name: str, numbers: Collection[int] | None, *, permissions: Permissions = NOTHING_MORE, by: str = ""
    ) -> list[Tombstone]:
        """Delete versions of an artifact, or all of them (None), all or none, and say what they were."""
        check_name(name)
        checks.check_words(by, "who deletes", most=255)
        with self._writing(durable=True) as (connection, of):
            ids = deletion.delete_versions(
                connection,
                of,
                name,
                numbers,
                permissions=permissions,
                by=by or deletion.this_user(),
                now=self._now(),
            )
            self._raise_revision(connection, of, changed=bool(ids))
            return deletion.tombstones_with_ids(connection, of, ids)

    def tombstones(self, name: str | None = None) -> list[Tombstone]:
        """Deleted versions of an artifact, or of all (None), in the order they went."""
        if name is not None and not checks.is_text(name):
            return []
        with self._reading() as (connection, of):
            return deletion.tombstones(connection, of, name)

    def tombstone(self, name: str, number: int) -> Tombstone | None:
        """What is known of one deleted version, or None."""
        if not checks.is_text(name):
            return None
        with self._reading() as (connection, of):
            return deletion.tombstone(connection, of, name, number)

    # -- names -----------------------------------------------------------------------------------------------------

    def rename(self, old: str, new: str) -> None:
        """Give an artifact another name; everything else of it stays."""
        check_name(old)
        check_name(new)
        with self._writing(durable=True) as (connection, of):
            connection.execute(_ONE_AT_A_TIME, {"of": of})
            locked = lock_artifact(connection, of, old)
            if locked is None or artifact_named(connection, of, old) is None:
                raise deletion.no_artifact(old)
            if old == new:
                return
            taken = lock_artifact(connection, of, new)
            if taken is not None:
                if artifact_named(connection, of, new) is not None:
                    raise Conflict(
                        f"there is an artifact {new!r} already; choose another name, or rename that one first"
                    )
                if connection.execute(_EVER, {"of": taken[0]}).first() is not None:
                    raise Conflict(
                        f"{new} had versions, whose numbers are not given again; choose another name "
                        f"(`artifactfs log --deleted {new}` lists them)"
                    )
                raise Conflict(f"an artifact {new!r} is being made; choose another name")
            connection.execute(_FREE, {"of": of, "called": new})
            connection.execute(_RENAME, {"of": locked[0], "name": new})
            row = {"project": of, "name": old, "artifact": locked[0]}
            connection.execute(insert(former_name), row)
            self._raise_revision(connection, of, changed=True)

    def former_names(self) -> dict[str, str]:
        """Names that artifacts had, each with the one that they have now."""
        with self._reading() as (connection, of):
            return dict(sorted((old, new) for old, new in connection.execute(_FORMER, {"project": of})))

    # -- protected aliases -----------------------------------------------------------------------------------------

    def protect(self, alias: str, artifact: str = EVERY) -> None:
        """Let an alias of an artifact, or of every one, move and go on purpose only. Idempotent."""
        check_alias(alias)
        with self._writing(durable=True) as (connection, of):
            protection.protect(connection, self._database, of, _which(connection, of, artifact), alias)

    def unprotect(self, alias: str, artifact: str = EVERY) -> None:
        """End the protection of an alias. NotFound without it."""
        check_alias(alias)
        with self._writing(durable=True) as (connection, of):
            protection.unprotect(connection, of, _which(connection, of, artifact), alias)

    def protections(self) -> list[Protection]:
        """All protected aliases."""
        with self._reading() as (connection, of):
            return protection.protections(connection, of)

    # -- rules -----------------------------------------------------------------------------------------------------

    def set_rule(self, rule: RetentionRule, *, by: str = "") -> RetentionRule:
        """Set, or replace, which versions of an artifact or of every one are deleted by themselves."""
        check_rule(rule)
        checks.check_words(by, "who sets a rule", most=255)
        with self._writing(durable=True) as (connection, of):
            # Else two that replace one rule both remove the old one, and then both insert theirs.
            connection.execute(_ONE_AT_A_TIME, {"of": of})
            which = _which(connection, of, rule.artifact)
            connection.execute(_REMOVE_RULE, {"of": of, "which": which})
            row = {
                "project": of,
                "artifact": which,
                "keep_last": rule.keep_last,
                "older_than": rule.older_than,
                "keep_aliased": rule.keep_aliased,
                "condition": rule.where,
                "changed": self._now(),
                "changed_by": by or deletion.this_user(),
            }
            connection.execute(insert(retention_rule), row)
            return next(one for one in _rules(connection, of) if one.artifact == rule.artifact)

    def remove_rule(self, artifact: str = EVERY) -> None:
        """Remove a rule. NotFound without it."""
        with self._writing(durable=True) as (connection, of):
            which = _which(connection, of, artifact)
            if not connection.execute(_REMOVE_RULE, {"of": of, "which": which}).rowcount:
                raise NotFound(
                    f"there is no retention rule for {artifact or 'the project'}; `artifactfs retention show` lists them"
                )

    def rules(self) -> list[RetentionRule]:
        """All rules, the one of every artifact first."""
        with self._reading() as (connection, of):
            return _rules(connection, of)

    # -- who keeps versions ----------------------------------------------------------------------------------------

    def hold(self, session: int, held: dict[int, str]) -> list[int]:
        """Let a session keep these versions from being deleted, and no others; returns those that it does not keep."""
        for purpose in held.values():
            checks.check_words(purpose, "what a version is kept for", most=_LONGEST_PURPOSE)
            if not checks.is_text(purpose):
                raise InvalidInput("what a version is kept for is not valid UTF-8; write it again")
        with self._writing(durable=self._database.outlived) as (connection, of):
            now = self._now()
            sessions.require_session(connection, of, session, now=now, storing=False)
            return deletion.hold(connection, of, session, held, now=now)

    def held(self) -> list[tuple[int, str]]:
        """Versions that living sessions keep, each with what for."""
        with self._reading() as (connection, of):
            return deletion.held(connection, of, now=self._now())

    # -- quotas ----------------------------------------------------------------------------------------------------

    def usage(self) -> Usage:
        """What the project takes, and may take at most."""
        with self._reading() as (connection, of):
            return quotas.usage(connection, of)

    def set_quota(self, *, stored: int | None, logical: int | None) -> None:
        """Replace what the project may take at most; None: any number."""
        quotas.check_quota(stored)
        quotas.check_quota(logical)
        with self._writing(durable=True) as (connection, of):
            quotas.set_quota(connection, of, stored=stored, logical=logical)


def renamed_to(connection: Connection, project: int, name: str) -> str | None:
    """The present name of the artifact that had this one."""
    row = connection.execute(_FORMER_NAMED, {"project": project, "name": name}).first()
    return None if row is None else str(row[1])


def check_rule(rule: RetentionRule) -> RetentionRule:
    """A rule that can be kept. InvalidInput for one that says nothing, or what no version can be."""
    if rule.empty:
        raise InvalidInput(
            "a rule that says nothing would delete everything; give --keep-last, --older-than, --keep-aliased or --where"
        )
    for number, least, option in ((rule.keep_last, 1, "--keep-last"), (rule.older_than, 0, "--older-than")):
        if number is not None and not least <= number <= checks.LARGEST:
            raise InvalidInput(f"{option}: not so many: {number}; choose {least} or more")
    parse_condition(rule.where)
    return rule


def _rules(connection: Connection, of: int) -> list[RetentionRule]:
    rows = connection.execute(_RULES, {"project": of})
    found = [record_of(RetentionRule, (name or EVERY, *rest[:2], bool(rest[2]), *rest[3:])) for name, *rest in rows]
    return sorted(found, key=lambda rule: rule.artifact)


def _which(connection: Connection, of: int, name: str) -> int:
    """What a row says for which artifact it is. NotFound without the artifact."""
    if name == EVERY:
        return EVERY_ARTIFACT
    check_name(name)
    found = connection.execute(_IDENTITY, {"project": of, "name": name}).scalar()
    if found is None:
        raise deletion.no_artifact(name)
    return int(found)

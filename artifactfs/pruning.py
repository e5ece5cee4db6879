"""Pruning: which versions a rule deletes, and deleting them.

Used by ``delete`` and ``prune``, and by servers, which apply the rules that are kept. Safe from any thread; nothing is held between
calls. A plan is of the moment it was made: each version is looked at again by the transaction that deletes it, which leaves what has
become needed since.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Final

import msgspec

from artifactfs.errors import Conflict, NotFound
from artifactfs.model.names import LATEST
from artifactfs.model.query import Query
from artifactfs.model.records import VersionRecord
from artifactfs.model.retention import EVERY, NOTHING_MORE, Permissions, RetentionRule, Tombstone
from artifactfs.registry.contract import Registry

_SECOND: Final = 1_000_000_000

TOGETHER: Final = 50
"""Versions that are deleted in one transaction, and by one request to a server, at most: other writers wait some 30 ms for them."""


class Kept(msgspec.Struct, frozen=True):
    """A version that a rule would delete and that stays, and why."""

    version: VersionRecord
    reason: str


class PrunePlan(msgspec.Struct):
    """What goes, the oldest first, and what stays though a rule says otherwise."""

    gone: list[VersionRecord] = []
    kept: list[Kept] = []


def plan(
    registry: Registry,
    rules: Iterable[RetentionRule],
    names: Collection[str] = (),
    *,
    now: int,
    permissions: Permissions = NOTHING_MORE,
) -> PrunePlan:
    """What these rules delete of artifacts (without names: of all that a rule is of). ``now``: nanoseconds since the epoch.

    The rule of an artifact stands in the place of that of every one. `latest` always stays. NotFound for an artifact that is not.
    """
    by_name = {rule.artifact: rule for rule in rules}
    there = {record.name for record in registry.artifacts()}
    for name in names:
        if name not in there:
            raise NotFound(f"there is no artifact {name!r}; `artifactfs ls` lists those there are")
    meant: list[VersionRecord] = []
    for name in sorted(set(names) or there):
        rule = by_name.get(name, by_name.get(EVERY))
        if rule is not None:
            meant += _meant(registry, name, rule, now)
    return examine(registry, meant, permissions=permissions, keep_latest=True)


def examine(
    registry: Registry, versions: Iterable[VersionRecord], *, permissions: Permissions, keep_latest: bool = False
) -> PrunePlan:
    """Which of these versions may be deleted now, and why the others stay."""
    found = PrunePlan()
    purposes: dict[int, list[str]] = {}
    for identity, purpose in registry.retention.held():
        purposes.setdefault(identity, []).append(purpose)
    protections = registry.retention.protections()
    for version in versions:
        protected = {each.alias for each in protections if each.artifact in {EVERY, version.artifact}}
        aliases = [alias for alias in version.aliases if keep_latest or alias != LATEST]
        reason = _reason(aliases, protected, purposes.get(version.id, []), permissions)
        if reason:
            found.kept.append(Kept(version, reason))
        else:
            found.gone.append(version)
    return found


def carry_out(
    registry: Registry,
    versions: Iterable[VersionRecord],
    *,
    permissions: Permissions = NOTHING_MORE,
    by: str = "",
) -> Iterator[Tombstone | Kept]:
    """Delete versions; what has become needed since stays, what is gone already is passed over.

    Neighbours of an artifact go together, :data:`TOGETHER` at most, and one by one where something is in the way of some of them.
    """
    for artifact, neighbours in itertools.groupby(versions, key=lambda version: version.artifact):
        while several := list(itertools.islice(neighbours, TOGETHER)):
            try:
                numbers = [version.number for version in several]
                yield from registry.retention.delete(artifact, numbers, permissions=permissions, by=by)
            except (Conflict, NotFound):
                yield from _one_by_one(registry, several, permissions=permissions, by=by)


def _one_by_one(
    registry: Registry, versions: Iterable[VersionRecord], *, permissions: Permissions, by: str
) -> Iterator[Tombstone | Kept]:
    for version in versions:
        try:
            yield from registry.retention.delete(version.artifact, [version.number], permissions=permissions, by=by)
        except Conflict as error:
            yield Kept(version, str(error))
        except NotFound:
            continue


def _meant(registry: Registry, name: str, rule: RetentionRule, now: int) -> list[VersionRecord]:
    """The versions that all of a rule holds for, rising numbers."""
    versions = registry.versions(name)
    if rule.keep_last is not None:
        versions = versions[: -rule.keep_last]
    if rule.older_than is not None:
        before = now - rule.older_than * _SECOND
        versions = [version for version in versions if version.created < before]
    if rule.where and versions:
        matching = {version.id for version in registry.find(Query(artifact=name, where=rule.where))}
        versions = [version for version in versions if version.id in matching]
    return versions


def _reason(aliases: Sequence[str], protected: set[str], purposes: list[str], permissions: Permissions) -> str:
    """Why a version with these aliases stays, in words; empty when it may go."""
    if LATEST in aliases:
        return f"it is {LATEST}"
    guarded = [alias for alias in aliases if alias in protected]
    if guarded and not (permissions.aliases and permissions.protected):
        return f"protected alias {', '.join(guarded)} (--delete-aliases --protected)"
    if aliases and not permissions.aliases:
        return f"alias {', '.join(aliases)} (--delete-aliases)"
    if purposes and not permissions.in_use:
        return f"in use: {', '.join(purposes)} (--in-use)"
    return ""


STEP: Final = 200
"""Versions that :func:`apply_rules` deletes in one step: some transactions."""


class Applied(msgspec.Struct, frozen=True):
    """What a step of applying rules did. ``more``: there is something left to delete now."""

    deleted: list[Tombstone]
    more: bool


def apply_rules(registry: Registry, *, now: int, by: str, most: int = STEP) -> Applied:
    """Delete what the kept rules of a project say, ``most`` versions at most."""
    rules = registry.retention.rules()
    if not rules:
        return Applied([], more=False)
    found = plan(registry, rules, now=now).gone
    outcomes = carry_out(registry, found[:most], by=by)
    return Applied([each for each in outcomes if isinstance(each, Tombstone)], more=len(found) > most)

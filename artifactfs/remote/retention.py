"""RemoteRetention: the Retention contract over HTTP.

Used by the RemoteRegistry, which hands it out and makes its requests. Any thread. Nothing of it is remembered for the time without a
network. Who asks is the server's to say, so ``by`` is not sent.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from typing import Any, Final, Protocol, TypeVar

from artifactfs.errors import InvalidInput, NotFound, Unavailable
from artifactfs.model.names import check_name
from artifactfs.model.retention import (
    EVERY,
    NOTHING_MORE,
    Permissions,
    Protection,
    RetentionRule,
    Tombstone,
    Usage,
)
from artifactfs.remote import wire
from artifactfs.remote.client import Reply, query, segment

LARGEST: Final = 2**63 - 1
"""The largest number that a registry holds."""

T = TypeVar("T")


class Call(Protocol):
    """A request whose answer is a message."""

    def __call__(self, kind: type[T], method: str, path: str, message: Any = None) -> T:
        """The answer."""


class Tell(Protocol):
    """A request; ``once``: it is not sent again when its answer is lost."""

    def __call__(self, method: str, path: str, message: Any = None, *, once: bool = False) -> Reply:
        """The reply."""


class Read(Protocol):
    """The message that a reply holds."""

    def __call__(self, reply: Reply, kind: type[T]) -> T:
        """The message."""


class RemoteRetention:
    """The :class:`~artifactfs.registry.contract.Retention` behind a server."""

    def __init__(self, call: Call, tell: Tell, read: Read) -> None:
        self._call = call
        self._tell = tell
        self._read = read

    def delete(
        self, name: str, numbers: Collection[int] | None, *, permissions: Permissions = NOTHING_MORE, by: str = ""
    ) -> list[Tombstone]:
        """Delete versions of an artifact, or all of them (None), all or none, and say what they were."""
        del by
        check_name(name)
        if numbers is not None:
            for number in numbers:
                if not 0 <= number <= LARGEST:
                    raise NotFound(f"there is no {name}:v{number}; `artifactfs log {name}` lists what is there")
            if len(numbers) > wire.BATCH:
                raise InvalidInput(f"{len(numbers):,} versions are too many for one deletion; name {wire.BATCH:,}")
        wanted = wire.Deletion(None if numbers is None else sorted(set(numbers)), permissions)
        path = f"artifacts/{segment(name)}/delete"
        before = None if numbers is not None else {each.number for each in self.tombstones(name)}
        try:
            answer = self._read(self._tell("POST", path, wanted, once=True), wire.Tombstones)
            if not answer.more:
                return answer.tombstones
        except Unavailable:
            # Sent again after a lost reply it would not find them. What is left of them tells whether they were deleted: all or none.
            if not self._gone(name, wanted.numbers):
                with suppress(NotFound):
                    self._tell("POST", path, wanted)
        return [each for each in self.tombstones(name) if _is_of(each.number, wanted.numbers, before)]

    def _gone(self, name: str, numbers: list[int] | None) -> bool:
        """Whether what was to be deleted is."""
        if numbers is None:
            return not self._call(wire.Versions, "GET", f"artifacts/{segment(name)}/versions").versions
        return set(numbers) <= {each.number for each in self.tombstones(name)}

    def tombstones(self, name: str | None = None) -> list[Tombstone]:
        """Deleted versions of an artifact, or of all (None), in the order they went."""
        if name is not None and not _is_name(name):
            return []
        found: list[Tombstone] = []
        while True:
            asked: dict[str, Any] = {} if name is None else {"artifact": name}
            answer = self._call(wire.Tombstones, "GET", f"deleted{query(**asked, offset=len(found))}")
            found += answer.tombstones
            if not (answer.more and answer.tombstones):
                return found

    def tombstone(self, name: str, number: int) -> Tombstone | None:
        """What is known of one deleted version, or None."""
        if not (_is_name(name) and 0 <= number <= LARGEST):
            return None
        try:
            return self._call(Tombstone, "GET", f"artifacts/{segment(name)}/deleted/{number}")
        except NotFound:
            return None

    def rename(self, old: str, new: str) -> None:
        """Give an artifact another name; everything else of it stays."""
        path, message = f"artifacts/{segment(check_name(old))}/name", wire.NewName(check_name(new))
        try:
            self._tell("PUT", path, message, once=True)
        except Unavailable:
            if self.former_names().get(old) != new:
                self._tell("PUT", path, message)

    def former_names(self) -> dict[str, str]:
        """Names that artifacts had, each with the one that they have now."""
        return self._call(wire.FormerNames, "GET", "former-names").names

    def protect(self, alias: str, artifact: str = EVERY) -> None:
        """Let an alias of an artifact, or of every one, move and go on purpose only. Idempotent."""
        self._tell("POST", "protections", Protection(alias, artifact))

    def unprotect(self, alias: str, artifact: str = EVERY) -> None:
        """End the protection of an alias. NotFound without it."""
        old = Protection(alias, artifact)
        try:
            self._tell("POST", "protections/remove", old, once=True)
        except Unavailable:
            if old in self.protections():
                self._tell("POST", "protections/remove", old)

    def protections(self) -> list[Protection]:
        """All protected aliases."""
        return self._call(wire.Protections, "GET", "protections").protections

    def set_rule(self, rule: RetentionRule, *, by: str = "") -> RetentionRule:
        """Set, or replace, which versions of an artifact or of every one are deleted by themselves."""
        del by
        return self._call(RetentionRule, "POST", "retention", rule)

    def remove_rule(self, artifact: str = EVERY) -> None:
        """Remove a rule. NotFound without it."""
        try:
            self._tell("POST", "retention/remove", wire.RuleOf(artifact), once=True)
        except Unavailable:
            if any(rule.artifact == artifact for rule in self.rules()):
                self._tell("POST", "retention/remove", wire.RuleOf(artifact))

    def rules(self) -> list[RetentionRule]:
        """All rules, the one of every artifact first."""
        return self._call(wire.Rules, "GET", "retention").rules

    def hold(self, session: int, held: dict[int, str]) -> list[int]:
        """Let a session keep these versions from being deleted, and no others; returns those that it does not keep."""
        asked = wire.Held(list(held.items()))
        return self._call(wire.NotHeld, "PUT", f"sessions/{session}/held", asked).versions

    def held(self) -> list[tuple[int, str]]:
        """Versions that living sessions keep, each with what for."""
        return self._call(wire.Held, "GET", "held").versions

    def usage(self) -> Usage:
        """What the project takes, and may take at most."""
        return self._call(Usage, "GET", "usage")

    def set_quota(self, *, stored: int | None, logical: int | None) -> None:
        """Replace what the project may take at most; None: any number."""
        self._tell("PUT", "quota", wire.QuotaWanted(stored, logical))


def _is_of(number: int, numbers: list[int] | None, before: set[int] | None) -> bool:
    """Whether a deleted version is one that was just asked for; of all: one that was not deleted before."""
    return number in numbers if numbers is not None else before is None or number not in before


def _is_name(name: str) -> bool:
    try:
        check_name(name)
    except (InvalidInput, UnicodeError):
        return False
    return True

"""What may be deleted, what was, and how much there may be, as plain frozen values.

Used by every floor above; holds no I/O. All values are immutable and may be shared between threads. Instants are nanoseconds since the
epoch, sizes bytes.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

EVERY: Final = ""
"""What stands for the name of an artifact in what is said of all artifacts of a project."""


class Tombstone(msgspec.Struct, frozen=True):
    """A version that was deleted: what it was, when it went, and by whom."""

    id: int  # as in its VersionRecord
    artifact: str
    type: str
    number: int
    digest: bytes
    size: int
    files: int
    created: int
    deleted: int
    deleted_by: str  # for people: USER@HOST, or the token of who asked a server; empty when it is not known
    description: str
    run: str  # id of the Run that made it; empty when no Run did
    metadata: dict[str, Any] | None = None  # None: a server of an older release does not tell it

    @property
    def name(self) -> str:
        """The address ``artifact:vN`` that it had."""
        return f"{self.artifact}:v{self.number}"


class Permissions(msgspec.Struct, frozen=True, kw_only=True):
    """What else a deletion may take, besides the version: each is refused unless it is said."""

    aliases: bool = False  # aliases other than `latest` go with it
    protected: bool = False  # protected aliases too
    in_use: bool = False  # though mounts build on it, or pin it


NOTHING_MORE: Final = Permissions()


class Protection(msgspec.Struct, frozen=True):
    """An alias of an artifact, or of every artifact (EVERY), that is moved and removed on purpose only."""

    alias: str
    artifact: str = EVERY


class RetentionRule(msgspec.Struct, frozen=True, kw_only=True):
    """Which versions of an artifact, or of every artifact without a rule of its own (EVERY), are deleted.

    Those that all of it holds for: not among the last ``keep_last`` by number, older than ``older_than`` seconds, matching the
    condition ``where`` of search. Versions with an alias stay, which ``keep_aliased`` alone says too: then all others go.
    """

    artifact: str = EVERY
    keep_last: int | None = None
    older_than: int | None = None
    keep_aliased: bool = False
    where: str = ""
    changed: int = 0
    changed_by: str = ""

    @property
    def empty(self) -> bool:
        """Whether it says nothing, and so would take everything."""
        return self.keep_last is None and self.older_than is None and not self.keep_aliased and not self.where


class Usage(msgspec.Struct, frozen=True):
    """What a project takes, and may take at most (None: any number).

    ``stored``: bytes of its packs, each content once and as it is compressed; ``logical``: bytes of the files of its living versions,
    as if each version were stored alone.
    """

    stored: int
    logical: int
    artifacts: int
    versions: int
    quota_stored: int | None = None
    quota_logical: int | None = None


class Begun(msgspec.Struct, frozen=True):
    """A session that was opened; where the project has a quota, what it takes, so that a writer is refused before it sends."""

    session: int
    usage: Usage | None = None


def over_quota(usage: Usage, *, stored: int = 0, logical: int = 0) -> str | None:
    """Why so many more bytes are too many, with the numbers; None when they are not."""
    # What is stored is refused before all of it is known.
    for more, used, quota, what, least in (
        (stored, usage.stored, usage.quota_stored, "stored", "at least "),
        (logical, usage.logical, usage.quota_logical, "in its versions", ""),
    ):
        if quota is not None and more and used + more > quota:
            return f"its quota is {quota:,} bytes {what}, {used:,} are used, and this takes {least}{more:,} more"
    return None


def full(called: str, words: str) -> str:
    """The message for a project that may take no more."""
    return f"the project {called} is full: {words}; delete versions (`artifactfs stats` says what takes the space), or raise it"

"""The Registry contract: everything with meaning that is not bytes.

Kinds: :class:`artifactfs.registry.sql.SQLRegistry` (SQLite, PostgreSQL); over HTTP later. One conformance suite
(``tests/conformance/registry.py``) holds every kind to this page. All methods may be called from any thread, and
from several processes on one database. Every call ends within the kind's stated bound and then raises
:class:`~artifactfs.errors.Unavailable`. A call that raised may be repeated: adding what is there is no error,
and a commit is identified by its ``commit_id``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any, Protocol

from artifactfs.model.access import NewToken, TokenRecord
from artifactfs.model.lineage import Links, NewRun, RunRecord
from artifactfs.model.query import Query
from artifactfs.model.records import (
    ArtifactRecord,
    CommitRequest,
    CommitResult,
    Location,
    PackRow,
    VersionRecord,
)


class Tokens(Protocol):
    """Who may do what, for all projects that whoever asks is an admin of."""

    def create(self, *, project: str, role: str, name: str = "", seconds: float | None = None) -> NewToken:
        """Make a token of a project, which need not be there yet, or of all (empty). ``seconds``: how long it lives; None: always."""

    def records(self) -> list[TokenRecord]:
        """Tokens in the order they were made, ended ones too."""

    def revoke(self, identity: str) -> TokenRecord:
        """End a token at once; one that was revoked stays so. NotFound without it. Returns what it is then."""


class Registry(Protocol):
    """Artifacts, versions, aliases, sessions and the chunk index of one project."""

    @property
    def project(self) -> str:
        """Name of the project that all calls are bounded by."""

    @property
    def online(self) -> bool:
        """Whether the registry answered when last asked; a local one always does. What is read offline is remembered."""

    @property
    def tokens(self) -> Tokens:
        """Who may do what, through a server."""

    def close(self) -> None:
        """Release connections. Idempotent. Ends a :meth:`changed` that waits."""

    # -- reading ---------------------------------------------------------------------------------------------------

    def revision(self) -> int:
        """A number that rises, in commit order, with every visible change of the project. Cheap: called per lookup.

        Over a network it is answered from memory while a :meth:`changed` keeps that memory fresh.
        """

    def changed(self, after: int, *, seconds: float) -> int:
        """Wait until the revision is another than ``after``, at most ``seconds``; returns the present one.

        How changes made elsewhere are followed, by one thread at a time. Unavailable when the registry cannot be reached.
        """

    def artifacts(self) -> list[ArtifactRecord]:
        """All artifacts that have a living version, sorted by name."""

    def artifact(self, name: str) -> ArtifactRecord | None:
        """One artifact, or None when it is not there."""

    def versions(self, name: str) -> list[VersionRecord]:
        """Living versions of an artifact, rising numbers; empty when the artifact is not there."""

    def version(self, name: str, number: int) -> VersionRecord | None:
        """One living version, or None."""

    def resolve(self, name: str, alias: str) -> VersionRecord | None:
        """The version that an alias names, or None."""

    def find_digest(self, name: str, digest: bytes) -> VersionRecord | None:
        """The living version of an artifact whose root digest is this, or None."""

    def aliases(self, name: str) -> dict[str, int]:
        """Aliases of an artifact with the number each names."""

    def find(self, query: Query) -> list[VersionRecord]:
        """Living versions of the project that match, in the order asked for.

        InvalidInput says what is wrong with a condition, and where.
        """

    # -- chunk index -----------------------------------------------------------------------------------------------

    def missing(self, digests: Collection[bytes]) -> set[bytes]:
        """Those of these chunks (any number) that the project does not hold, or is about to give up.

        What is not among them stays until the sessions that lived when it was asked have ended.
        """

    def locate(self, digests: Collection[bytes]) -> dict[bytes, Location]:
        """Where these chunks (any number) are; unknown ones are left out."""

    def add_packs(self, packs: Iterable[PackRow], *, session: int | None = None) -> None:
        """Record packs that are durable in the Store, all or none. A chunk that is known keeps its first location.

        Durable when it returns only after the next :meth:`commit` (SQLite: one fsync a commit, not one a pack).
        """

    def expect_pack(self, digest: str, size: int) -> None:
        """Say that a pack is about to be published to the Store, before every publication. Idempotent.

        What lies there under this name, or will, is not deleted until the sessions that live now have ended. Waits while it is being
        deleted, and then is Unavailable. Over a network nothing is asked: a server says it to itself when it is sent a pack.
        """

    def packs(self) -> list[tuple[str, int]]:
        """Every pack of the project that no collection has condemned: digest and size in bytes."""

    # -- commit ----------------------------------------------------------------------------------------------------

    def commit(self, request: CommitRequest) -> CommitResult:
        """Make, or reuse, a version in one transaction (DESIGN: the commit point), durable on return.

        Raises Conflict (base moved; artifact has another type; session expired), InvalidInput (names, metadata).
        """

    def move_aliases(self, name: str, number: int, aliases: Sequence[str]) -> VersionRecord:
        """Point aliases at a version. `latest` too, when asked. NotFound without such a version."""

    def remove_aliases(self, name: str, aliases: Sequence[str]) -> None:
        """Remove aliases, all or none. NotFound names those that are not there; `latest` cannot be removed (Conflict)."""

    def edit(
        self,
        name: str,
        number: int,
        *,
        description: str | None = None,
        metadata: dict[str, Any] | None = None,
        tags: Sequence[str] | None = None,
    ) -> VersionRecord:
        """Replace description, metadata or tags of a version (None leaves as is). NotFound without such a version."""

    def delete(self, name: str, number: int, *, delete_aliases: bool = False) -> None:
        """Delete a version; its number is never given again. `latest` then names the highest number that is left.

        Conflict names its aliases other than `latest`, unless they may go too. NotFound without such a version. What it held
        stays in the Store until it is collected; lineage keeps its links.
        """

    # -- drafts that several processes fill ------------------------------------------------------------------------

    def add_part(self, name: str, draft: str, digest: bytes, *, session: int) -> None:
        """Record a tree as a part of a draft of an artifact; ``session`` protects what it holds. Idempotent.

        Conflict once the draft was committed. Parts go with the commit that names the draft, or with their session.
        """

    def parts(self, name: str, draft: str) -> list[bytes]:
        """Trees that were added to a draft, in order of digest; empty when nothing was, or it was committed.

        Conflict when the sessions of some have ended, as these would be left out.
        """

    # -- runs and lineage ------------------------------------------------------------------------------------------

    def start_run(self, new: NewRun) -> RunRecord:
        """Start a Run, or take up the one with this id again: it runs then, and keeps what it had. InvalidInput for what is none."""

    def renew_run(self, run: str, *, seconds: float) -> None:
        """Say that a Run still runs, for so long. Of one that ended nothing changes. NotFound without such a Run."""

    def update_run(
        self,
        run: str,
        *,
        config: dict[str, Any] | None = None,
        state: str | None = None,
        exit_status: int | None = None,
    ) -> RunRecord:
        """Replace a Run's configuration, or end it (state finished or failed). None leaves as is. NotFound without such a Run."""

    def run(self, run: str) -> RunRecord | None:
        """One Run, or None."""

    def runs(
        self,
        *,
        job_type: str | None = None,
        state: str | None = None,
        name: str | None = None,
        limit: int | None = None,
        offset: int = 0,
    ) -> list[RunRecord]:
        """Runs, the last started first."""

    def add_inputs(self, run: str, versions: Collection[int]) -> None:
        """Record that a Run, running or ended, used these versions (VersionRecord.id), all or none. Idempotent.

        NotFound without such a Run, or for an id that no version of the project ever had. Outputs are recorded by :meth:`commit`.
        """

    def links(self, *, versions: Collection[int] = (), runs: Collection[str] = ()) -> Links:
        """All links of these versions and of these Runs, with the Runs and versions at both ends. Unknown ones have none."""

    # -- sessions --------------------------------------------------------------------------------------------------

    def open_session(self, kind: str, *, seconds: float) -> int:
        """Register a writer or reader that lives for ``seconds`` unless renewed; returns its id."""

    def renew_session(self, session: int, *, seconds: float) -> None:
        """Prolong a session. Conflict when it has expired or was closed."""

    def close_session(self, session: int) -> None:
        """End a session. Idempotent."""

    def keep_versions(self, session: int, versions: Collection[tuple[str, int]]) -> list[tuple[str, int]]:
        """Let a session keep these versions (artifact, number), instead of those before, so that nothing they hold is collected.

        Returns those that it does not keep, as they were deleted and no living session keeps them. Conflict when it has ended.
        """

    # -- health ----------------------------------------------------------------------------------------------------

    def check(self) -> list[str]:
        """Damages of the database itself, one line each; empty when it is whole. Reads everything once."""

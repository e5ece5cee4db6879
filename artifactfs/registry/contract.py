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
    ChunkRow,
    CommitRequest,
    CommitResult,
    Location,
    PackRow,
    VersionRecord,
)
from artifactfs.model.retention import (
    EVERY,
    NOTHING_MORE,
    Begun,
    Permissions,
    Protection,
    RetentionRule,
    Tombstone,
    Usage,
)


class Tokens(Protocol):
    """Who may do what, for all projects that whoever asks is an admin of."""

    def create(self, *, project: str, role: str, name: str = "", seconds: float | None = None) -> NewToken:
        """Make a token of a project, which need not be there yet, or of all (empty). ``seconds``: how long it lives; None: always."""

    def records(self) -> list[TokenRecord]:
        """Tokens in the order they were made, ended ones too."""

    def revoke(self, identity: str) -> TokenRecord:
        """End a token at once; one that was revoked stays so. NotFound without it. Returns what it is then."""


class Retention(Protocol):
    """What may be deleted, what was, and how much there may be, in one project. ``by``: who asks, for people; empty: this user."""

    def delete(
        self, name: str, numbers: Collection[int] | None, *, permissions: Permissions = NOTHING_MORE, by: str = ""
    ) -> list[Tombstone]:
        """Delete versions of an artifact, or all of them (None), all or none; `latest` then names the highest number that is left.

        Conflict has a line for all that stands in the way: aliases other than `latest`, protected ones, sessions that hold a version;
        each may be permitted. NotFound without one of them. What they held stays in the Store until it is collected.
        """

    def tombstones(self, name: str | None = None) -> list[Tombstone]:
        """Deleted versions of an artifact, or of all (None), in the order they went."""

    def tombstone(self, name: str, number: int) -> Tombstone | None:
        """What is known of one deleted version, or None."""

    def rename(self, old: str, new: str) -> None:
        """Give an artifact another name: versions, numbers, aliases, lineage, rules and protections stay with it.

        The old name is remembered (:meth:`former_names`), and no commit makes an artifact of it; another rename may give it again.
        NotFound without the artifact, Conflict when the new name is another's, or was one's whose versions were all deleted.
        """

    def former_names(self) -> dict[str, str]:
        """Names that artifacts had, each with the one that they have now."""

    def protect(self, alias: str, artifact: str = EVERY) -> None:
        """Let an alias of an artifact, or of every one, be moved and removed on purpose only. Idempotent. InvalidInput for `latest`.

        NotFound without the artifact.
        """

    def unprotect(self, alias: str, artifact: str = EVERY) -> None:
        """End what :meth:`protect` said of the same. NotFound without it."""

    def protections(self) -> list[Protection]:
        """All protected aliases, those of every artifact first."""

    def set_rule(self, rule: RetentionRule, *, by: str = "") -> RetentionRule:
        """Set, or replace, which versions of an artifact or of every one are deleted; returns it as it is kept.

        InvalidInput for one that says nothing, NotFound without the artifact.
        """

    def remove_rule(self, artifact: str = EVERY) -> None:
        """Remove the rule of an artifact, or of every one. NotFound without it."""

    def rules(self) -> list[RetentionRule]:
        """All rules, the one of every artifact first."""

    def hold(self, session: int, held: dict[int, str]) -> list[int]:
        """Let a session keep these versions (VersionRecord.id, each with what for) from being deleted, and no others.

        All that they hold stays until the session ends, also when they are deleted on purpose. Returns those, sorted, that it does not
        keep: they were deleted and no living session keeps them, so that what they held may be gone. Conflict when it has ended.
        """

    def held(self) -> list[tuple[int, str]]:
        """Versions (VersionRecord.id) that living sessions keep, each with what for; sorted."""

    def usage(self) -> Usage:
        """What the project takes, and may take at most."""

    def set_quota(self, *, stored: int | None, logical: int | None) -> None:
        """Replace what the project may take at most (see Usage); None: any number. What is there stays, also when it is more.

        From then on :meth:`Registry.add_packs` and :meth:`Registry.commit` are NoSpace, with the numbers, where it would be more.
        """


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

    @property
    def retention(self) -> Retention:
        """What may be deleted, what was, and how much there may be."""

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
        """Where these chunks (any number) are, of sealed packs with their data keys; unknown ones are left out.

        Access when the project's key is not here, or is another one; Integrity when a data key was tampered with.
        """

    def key_id(self) -> str:
        """Id of the key that wraps the data keys of the project's packs; empty: it is not encrypted.

        Asked by who writes, before the first pack: those of an encrypted project are sealed.
        """

    def add_packs(self, packs: Iterable[PackRow], *, session: int | None = None) -> None:
        """Record packs that are durable in the Store, all or none. A chunk that is known keeps its first location.

        Of an encrypted project each has its data key (``PackRow.key``), stored wrapped, of another one none; else InvalidInput.
        Durable when it returns only after the next :meth:`commit` (SQLite: one fsync a commit, not one a pack), or at once where
        clients go on after a crash of what keeps it (PostgreSQL).
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

        Raises Conflict (base moved; artifact has another type, or was renamed; a protected alias would move; session expired),
        InvalidInput (names, metadata), NoSpace (the project may take no more).
        """

    def move_aliases(self, name: str, number: int, aliases: Sequence[str], *, protected: bool = False) -> VersionRecord:
        """Point aliases at a version. `latest` too, when asked. NotFound without such a version.

        Conflict when one that is protected would move, unless ``protected``; on a server that is Access but for an admin.
        """

    def remove_aliases(self, name: str, aliases: Sequence[str], *, protected: bool = False) -> None:
        """Remove aliases, all or none. NotFound names those that are not there; `latest` cannot be removed (Conflict).

        ``protected``: as for :meth:`move_aliases`.
        """

    def edit(
        self,
        name: str,
        number: int,
        *,
        description: str | None = None,
        metadata: dict[str, Any] | None = None,
        tags: Sequence[str] | None = None,
        add_tags: Sequence[str] = (),
        remove_tags: Sequence[str] = (),
    ) -> VersionRecord:
        """Replace description, metadata or tags of a version (None leaves as is). NotFound without such a version.

        Tags may be added and removed instead: what others add at the same time stays. NotFound names those to remove that it lacks.
        """

    def delete(self, name: str, number: int, *, delete_aliases: bool = False) -> None:
        """Delete a version; its number is never given again. `latest` then names the highest number that is left.

        As :meth:`Retention.delete` of one, which nothing but its aliases may be permitted for.
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

    def begin(self, kind: str, *, seconds: float) -> Begun:
        """As :meth:`open_session`, and what the project takes, where it may not take any number of bytes."""

    def renew_session(self, session: int, *, seconds: float) -> None:
        """Prolong a session. Conflict when it has expired or was closed."""

    def close_session(self, session: int) -> None:
        """End a session. Idempotent."""

    # -- health ----------------------------------------------------------------------------------------------------

    def check(self) -> list[str]:
        """Damages of the database itself, one line each; empty when it is whole. Reads everything once."""


class PackIndex(Protocol):
    """What verify and repair ask of a registry that is at hand: which pack has which chunks, and to have that changed.

    Not over HTTP: a server mends what it has itself.
    """

    @property
    def project(self) -> str:
        """Name of the project."""

    def packs(self) -> list[tuple[str, int]]:
        """As :meth:`Registry.packs`."""

    def locate(self, digests: Collection[bytes]) -> dict[bytes, Location]:
        """As :meth:`Registry.locate`."""

    def check_key(self) -> str:
        """Find the project's key, and open a data key with it; returns its id, empty when it is not encrypted. Access, Integrity."""

    def data_key(self, pack: str) -> bytes:
        """The data key of a pack; empty for one that is not sealed, or not there. Access without the project's key."""

    def has_pack(self, pack: str) -> bool:
        """Whether a pack is among :meth:`packs`: a collection may have condemned it meanwhile."""

    def pack_rows(self, pack: str) -> tuple[ChunkRow, ...]:
        """The chunks that lie in a pack as far as the index tells, in order of offset. Reads the whole index: 1 s a million chunks."""

    def expect_pack(self, digest: str, size: int) -> None:
        """As :meth:`Registry.expect_pack`; also before one that lies in the Store is read, to be recorded."""

    def settle_packs(
        self, packs: Sequence[PackRow], *, lost: Collection[bytes] = (), without: Collection[str] = ()
    ) -> None:
        """Move chunks to other packs, and let go of lost ones, in one durable transaction. Repeating it changes nothing.

        Chunks of ``packs``, which are durable in the Store, are there from now on, wherever they were;
        those of ``lost`` that lie in a pack of ``without`` are held no more, so that they may be stored again; and each pack of
        ``without`` that no chunk is left in is forgotten.
        """

    def note(self, topic: str) -> str | None:
        """What was written down last about a topic of the project."""

    def exchange_note(self, topic: str, old: str | None, new: str) -> bool:
        """Write down ``new`` if ``old`` (None: nothing) is what stands there; whether it was. Atomic among all processes."""

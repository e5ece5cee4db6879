"""The Registry in SQL: artifacts, versions, aliases, commits, sessions and the chunk index of one project.

Used by the repository. Safe from any thread and from several processes on one database. This module owns the transactions; what
happens in them is its neighbours': :mod:`~artifactfs.registry.versions` (reading), :mod:`~artifactfs.registry.commit`,
:mod:`~artifactfs.registry.edits`, :mod:`~artifactfs.registry.drafts`, :mod:`~artifactfs.registry.runs`,
:mod:`~artifactfs.registry.sessions`, :mod:`~artifactfs.registry.chunks`. They speak SQLAlchemy Core; what differs between databases
(connections, locks, durability, errors) is that of their adapters (:mod:`artifactfs.registry.database`).
"""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from threading import Event
from typing import Any, Final

from sqlalchemy import Connection, bindparam, case, select, update

from artifactfs.errors import Conflict, Format, Integrity, Unavailable
from artifactfs.model.lineage import Links, NewRun, RunRecord
from artifactfs.model.names import LATEST, check_name, check_run, is_run
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
from artifactfs.model.retention import Begun, Permissions
from artifactfs.registry import checks, drafts, edits, notes, quotas, sealed, search, sessions, versions
from artifactfs.registry import commit as commits
from artifactfs.registry import runs as lineage
from artifactfs.registry.chunks import ChunkIndex, being_deleted, check_pack
from artifactfs.registry.collection import CollectionTable
from artifactfs.registry.consistency import breaches
from artifactfs.registry.database import BUSY_SECONDS, CHECK_SECONDS, Database
from artifactfs.registry.retention import SQLRetention
from artifactfs.registry.schema import OTHER_KEY, STORE_KEY, project
from artifactfs.registry.sqlite import SQLiteDatabase
from artifactfs.registry.tokens import TokenTable
from artifactfs.sealing import key_id

LOOK_SECONDS: Final = 0.25
"""How often a waiting :meth:`SQLRegistry.changed` looks."""
EXPECT_SECONDS: Final = 10.0
"""How long who stores a pack waits for a collection that is deleting one of the same name."""
_EXPECT_LOOK: Final = 0.05

_FIND_PROJECT: Final = select(project.c.id).where(project.c.name == bindparam("called"))
_PROJECTS: Final = select(project.c.name).order_by(project.c.name)
# To the milliseconds of the clock, as long as these rise: what is remembered of a state that the restoring of a backup undid is never
# taken for what came after.
_RAISE_REVISION: Final = (
    update(project)
    .where(project.c.id == bindparam("of"))
    .values(revision=case((project.c.revision >= bindparam("now"), project.c.revision + 1), else_=bindparam("now")))
)
_NO_PROJECT: Final = 0  # identifiers begin at 1


class SQLRegistry:
    """A :class:`~artifactfs.registry.contract.Registry` in a database: one that is open, or the SQLite file with this path.

    The open one is this registry's to close from then on. ``create`` makes the file when it is not there; otherwise NotFound. A
    project comes into being with the first write to it. ``clock`` gives seconds since the epoch. ``seconds`` bounds the wait for the
    file's other writers; after it a call is Unavailable. ``keys`` has the keys of encrypted projects. Raises Format for a newer
    format, Integrity for a damaged file, InvalidInput on a network file system.
    """

    def __init__(
        self,
        database: str | os.PathLike[str] | Database,
        *,
        project: str = "default",
        create: bool = False,
        clock: Callable[[], float] = time.time,
        seconds: float = BUSY_SECONDS,
        keys: sealed.Keys | None = None,
    ) -> None:
        self._name = check_name(project)
        self._clock = clock
        self._database: Database = (
            SQLiteDatabase(database, create=create, seconds=seconds)
            if isinstance(database, str | os.PathLike)
            else database
        )
        self._keys = keys if keys is not None else sealed.NoKeys()
        self._chunks = ChunkIndex(self._database, self._keys)
        self._outlived = self._database.outlived
        self._closed = Event()
        self._number = _NO_PROJECT  # the project's id, once it is there; then it stays

    def __str__(self) -> str:
        return str(self._database)

    @property
    def project(self) -> str:
        """Name of the project that all calls are bounded by."""
        return self._name

    @property
    def online(self) -> bool:
        """Always: it is a file of this machine, or a server's own database."""
        return True

    @property
    def tokens(self) -> TokenTable:
        """Who may do what, for all projects of this database."""
        return TokenTable(self._database, self._now)

    @property
    def retention(self) -> SQLRetention:
        """What may be deleted, what was, and how much there may be."""
        return SQLRetention(self._name, self._database, self._reading, self._writing, self._raise_revision, self._now)

    @property
    def collection(self) -> CollectionTable:
        """What collecting garbage asks and changes."""
        return CollectionTable(self._database, self._chunks, self._reading, self._writing, self._now)

    def outlive(self) -> None:
        """From now on, and for what :meth:`of_project` gives, whoever is told something may outlive a crash of this machine.

        So a server's clients on other machines: what they were told of packs and sessions is on the disk before.
        """
        self._outlived = True

    def of_project(self, name: str) -> SQLRegistry:
        """The registry of another project of this database, on the same connections: closing one closes all. Costs nothing."""
        other = copy.copy(self)
        other._name = check_name(name)  # noqa: SLF001 - one of us
        other._number = _NO_PROJECT  # noqa: SLF001
        return other

    def close(self) -> None:
        """Release connections. Idempotent."""
        self._closed.set()
        self._database.close()

    # -- reading ---------------------------------------------------------------------------------------------------

    def revision(self) -> int:
        """A number that rises, in commit order, with every visible change of the project. 3 us; 0 before the first."""
        return self._database.revision(self._name)

    def changed(self, after: int, *, seconds: float) -> int:
        """Wait until the revision is another than ``after``, at most ``seconds``; returns the present one."""
        deadline = time.monotonic() + seconds
        # Another process may have changed it, which a file does not tell: a look costs 3 us.
        while (present := self.revision()) == after and (left := deadline - time.monotonic()) > 0:
            if self._closed.wait(min(left, LOOK_SECONDS)):
                break
        return present

    def artifacts(self) -> list[ArtifactRecord]:
        """All artifacts that have a living version, sorted by name."""
        with self._reading() as (connection, number):
            return versions.artifacts(connection, number)

    def artifact(self, name: str) -> ArtifactRecord | None:
        """One artifact, or None when it is not there."""
        if not checks.is_text(name):
            return None
        with self._reading() as (connection, number):
            return versions.artifact_named(connection, number, name)

    def versions(self, name: str) -> list[VersionRecord]:
        """Living versions of an artifact, rising numbers; empty when the artifact is not there."""
        if not checks.is_text(name):
            return []
        with self._reading() as (connection, number):
            return versions.versions(connection, number, name)

    def version(self, name: str, number: int) -> VersionRecord | None:
        """One living version, or None."""
        if not checks.is_text(name):
            return None
        with self._reading() as (connection, of):
            return versions.version_numbered(connection, of, name, number)

    def resolve(self, name: str, alias: str) -> VersionRecord | None:
        """The version that an alias names, or None."""
        if not (checks.is_text(name) and checks.is_text(alias)):
            return None
        with self._reading() as (connection, number):
            return versions.version_with_alias(connection, number, name, alias)

    def find_digest(self, name: str, digest: bytes) -> VersionRecord | None:
        """The living version of an artifact whose root digest is this, or None."""
        if not checks.is_text(name):
            return None
        with self._reading() as (connection, number):
            return versions.version_with_digest(connection, number, name, digest)

    def aliases(self, name: str) -> dict[str, int]:
        """Aliases of an artifact with the number each names."""
        if not checks.is_text(name):
            return {}
        with self._reading() as (connection, number):
            return versions.aliases(connection, number, name)

    def find(self, query: Query) -> list[VersionRecord]:
        """Living versions that match, in the order asked for. InvalidInput says what is wrong with a condition, and where."""
        with self._reading() as (connection, number):
            return search.find(connection, number, query)

    # -- chunk index -----------------------------------------------------------------------------------------------

    def missing(self, digests: Collection[bytes]) -> set[bytes]:
        """Those of these chunks (any number) that the project does not hold."""
        return self._chunks.missing(self._number or self._find_project(), digests)

    def locate(self, digests: Collection[bytes]) -> dict[bytes, Location]:
        """Where these chunks (any number) are; unknown ones are left out."""
        return self._chunks.locate(self._number or self._find_project(), digests)

    def key_id(self) -> str:
        """Id of the key that wraps the data keys of the project's packs; empty: it is not encrypted."""
        with self._reading() as (connection, number):
            return sealed.key_of(connection, number)

    def encrypt(self, key: bytes) -> None:
        """Have the project, which holds nothing yet, be encrypted with this key. Idempotent. Conflict when it holds something."""
        with self._writing(durable=True) as (connection, number):
            sealed.encrypt(connection, number, key_id(key))

    def rekey(self, key: bytes) -> int:
        """Wrap the data keys of all packs with another key, all or none; returns how many. InvalidInput, Access, Integrity."""
        with self._writing(durable=True) as (connection, number):
            return sealed.rewrap(connection, self._keys, number, key)

    def check_key(self) -> str:
        """Find the project's key, and open a data key with it; returns its id, empty when it is not encrypted. Access, Integrity."""
        with self._reading() as (connection, number):
            return sealed.check_key(connection, self._keys, number)

    def add_packs(self, packs: Iterable[PackRow], *, session: int | None = None) -> None:
        """Record packs that are durable in the Store, all or none; durable with the next commit.

        At once in a database that clients outlive: a commit that came after its crash would make a version without its chunks.
        InvalidInput for a chunk outside of its pack and for a pack that is not sealed as the project is, Conflict when the session has
        ended, Access without the project's key, NoSpace when the project may take no more.
        """
        rows = [check_pack(row) for row in packs]  # before the lock: the caller's iterator may be slow
        with self._writing(durable=self._outlived) as (connection, number):
            sessions.require_session(connection, number, session, now=self._now())
            before = quotas.stored_before(connection, number)
            self._chunks.add(connection, number, rows, session=session)
            quotas.require_stored(connection, number, before)

    def expect_pack(self, digest: str, size: int) -> None:
        """Say that a pack is about to be published. Waits while a collection deletes one of this name; then Unavailable."""
        end = time.monotonic() + EXPECT_SECONDS
        while True:
            with self._writing(durable=self._outlived) as (connection, number):
                if self._chunks.expect(connection, number, digest, size):
                    return
            if time.monotonic() > end:
                raise being_deleted(digest)
            time.sleep(_EXPECT_LOOK)

    def packs(self) -> list[tuple[str, int]]:
        """Every pack of the project, sorted by digest: digest and size in bytes."""
        return self._chunks.packs(self._number or self._find_project())

    def projects(self) -> list[str]:
        """Names of all projects of this database that were ever written to, sorted."""
        with self._database.reading() as connection:
            return list(connection.execute(_PROJECTS).scalars())

    def pack_holders(self) -> dict[str, list[str]]:
        """Of every pack of this database, by digest, the names of the projects that hold it, sorted."""
        return self._chunks.holders()

    def store_url(self) -> str:
        """The bucket that the packs of all projects are in; empty: they are beside the registry."""
        return self._stated(STORE_KEY)

    def record_store(self, url: str, *, instead_of: str) -> str:
        """Remember where the packs of all projects are, if ``instead_of`` is what was remembered; returns what is remembered now.

        Servers that start side by side, each with the bucket that it was told, agree by it.
        """
        return self._state(STORE_KEY, url, instead_of=instead_of)

    def other_registry(self) -> str:
        """The registry, in words, whose packs lie beside this one; empty: they are this one's."""
        return self._stated(OTHER_KEY)

    def record_other_registry(self, words: str) -> None:
        """Remember that the packs beside this registry are another one's, so that nobody takes them for garbage."""
        self._state(OTHER_KEY, words, instead_of=self.other_registry())

    def _stated(self, key: str) -> str:
        with self._database.reading() as connection:
            return notes.read_row(connection, key) or ""

    def _state(self, key: str, value: str, *, instead_of: str) -> str:
        with self._database.writing(durable=True) as connection:
            found = notes.read_row(connection, key)
            if (found or "") == instead_of:
                notes.exchange_row(connection, self._database, key, found, value)
            return notes.read_row(connection, key) or ""

    def pack_totals(self) -> tuple[int, int]:
        """How many packs all projects of this database hold, and how many bytes these have."""
        return self._chunks.totals()

    # -- commit ----------------------------------------------------------------------------------------------------

    def commit(self, request: CommitRequest) -> CommitResult:
        """Make, or reuse, a version in one transaction, durable on return.

        Raises Conflict (base moved; artifact has another type; session ended), InvalidInput (names, metadata), NotFound (no such Run).
        """
        checked = commits.check_request(request)
        with self._writing(durable=True) as (connection, number):
            result, changed = commits.commit(connection, self._database, number, checked, now=self._now())
            self._raise_revision(connection, number, changed=changed)
            return result

    def move_aliases(self, name: str, number: int, aliases: Sequence[str], *, protected: bool = False) -> VersionRecord:
        """Point aliases at a version. `latest` too, when asked. NotFound without such a version, Conflict for protected ones."""
        check_name(name)
        checked = checks.check_aliases(aliases)
        with self._writing(durable=True) as (connection, of):
            record, changed = edits.move_aliases(connection, of, name, number, checked, protected=protected)
            self._raise_revision(connection, of, changed=changed)
            return record

    def remove_aliases(self, name: str, aliases: Sequence[str], *, protected: bool = False) -> None:
        """Remove aliases, all or none. NotFound names those that are not there; `latest` cannot be removed (Conflict)."""
        check_name(name)
        checked = checks.check_aliases(aliases)
        if LATEST in checked:
            raise Conflict(f"the alias {LATEST} of {name} cannot be removed; `artifactfs alias add` moves it")
        with self._writing(durable=True) as (connection, of):
            changed = edits.remove_aliases(connection, of, name, checked, protected=protected)
            self._raise_revision(connection, of, changed=changed)

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
        """Replace description, metadata or tags of a version (None leaves as is). NotFound without such a version."""
        check_name(name)
        words = checks.check_description(description)
        values = checks.check_json(metadata)
        labels = edits.Labels(
            None if tags is None else checks.check_tags(tags),
            checks.check_tags(add_tags),
            checks.check_tags(remove_tags),
        )
        with self._writing(durable=True) as (connection, of):
            now = self._now()
            record, changed = edits.edit(
                connection, of, name, number, description=words, metadata=values, labels=labels, now=now
            )
            self._raise_revision(connection, of, changed=changed)
            return record

    def delete(self, name: str, number: int, *, delete_aliases: bool = False) -> None:
        """Delete a version; `latest` then names the highest number left. Conflict names its aliases, unless they may go too."""
        self.retention.delete(name, [number], permissions=Permissions(aliases=delete_aliases))

    # -- drafts that several processes fill ------------------------------------------------------------------------

    def add_part(self, name: str, draft: str, digest: bytes, *, session: int) -> None:
        """Record a tree as a part of a draft. Idempotent. Conflict when the session has ended."""
        check_name(name)
        checks.check_token(draft, drafts.DRAFT)
        checks.check_digest(digest)
        with self._writing(durable=True) as (connection, number):
            sessions.require_session(connection, number, session, now=self._now())
            drafts.add_part(connection, self._database, number, name, draft, digest, session=session)

    def parts(self, name: str, draft: str) -> list[bytes]:
        """Trees that were added to a draft, in order of digest. Conflict when sessions that kept some have ended."""
        if not (checks.is_text(name) and checks.is_text(draft)):
            return []
        with self._reading() as (connection, number):
            return drafts.parts(connection, number, name, draft, now=self._now())

    # -- runs and lineage ------------------------------------------------------------------------------------------

    def start_run(self, new: NewRun) -> RunRecord:
        """Start a Run, or take up the one with this id again. InvalidInput for what is none."""
        checked = lineage.check_new(new)
        with self._writing(durable=True) as (connection, number):
            return lineage.start_run(connection, self._database, number, checked, now=self._now())

    def renew_run(self, run: str, *, seconds: float) -> None:
        """Say that a Run still runs, for so long; one that ended stays as it is. NotFound without it."""
        lifetime = sessions.lifetime(seconds, what="a run")
        check_run(run)
        with self._writing(durable=False) as (connection, number):
            now = self._now()
            lineage.renew_run(connection, number, run, now=now, expires=now + lifetime)

    def update_run(
        self,
        run: str,
        *,
        config: dict[str, Any] | None = None,
        state: str | None = None,
        exit_status: int | None = None,
    ) -> RunRecord:
        """Replace a Run's configuration, or end it. NotFound without it."""
        check_run(run)
        change = lineage.check_change(config=config, state=state, exit_status=exit_status)
        with self._writing(durable=True) as (connection, number):
            return lineage.update_run(connection, number, run, change, now=self._now())

    def run(self, run: str) -> RunRecord | None:
        """One Run, or None."""
        if not is_run(run):
            return None
        with self._reading() as (connection, number):
            return next(iter(lineage.runs_with_ids(connection, number, [run], now=self._now())), None)

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
        now = self._now()
        wanted = lineage.wanted(job_type=job_type, state=state, name=name, limit=limit, offset=offset, now=now)
        with self._reading() as (connection, number):
            return lineage.runs(connection, number, wanted, now=now)

    def add_inputs(self, run: str, versions: Collection[int]) -> None:
        """Record that a Run used these versions (VersionRecord.id). Idempotent. NotFound without it or one of them."""
        check_run(run)
        with self._writing(durable=True) as (connection, number):
            lineage.add_inputs(connection, self._database, number, run, versions, now=self._now())

    def links(self, *, versions: Collection[int] = (), runs: Collection[str] = ()) -> Links:
        """All links of these versions and of these Runs, with what is at both ends."""
        with self._reading() as (connection, number):
            return lineage.links(connection, number, versions, runs, now=self._now())

    # -- sessions --------------------------------------------------------------------------------------------------

    def open_session(self, kind: str, *, seconds: float) -> int:
        """Register a writer or reader that lives for ``seconds`` unless renewed; returns its id."""
        return self.begin(kind, seconds=seconds).session

    def begin(self, kind: str, *, seconds: float) -> Begun:
        """As :meth:`open_session`, and what the project takes, where it may not take any number of bytes."""
        lifetime = sessions.lifetime(seconds)
        # A crash that takes the session from a client that goes on would fail its commit, and might give its number to another one.
        with self._writing(durable=self._outlived) as (connection, number):
            now = self._now()
            session = sessions.open_session(connection, number, kind, now=now, expires=now + lifetime)
            bounded = quotas.quotas(connection, number) != (None, None)
            return Begun(session, quotas.usage(connection, number) if bounded else None)

    def renew_session(self, session: int, *, seconds: float) -> None:
        """Prolong a session. Conflict when it has expired or was closed."""
        lifetime = sessions.lifetime(seconds)
        with self._writing(durable=False) as (connection, number):
            now = self._now()
            sessions.renew_session(connection, number, session, now=now, expires=now + lifetime)

    def close_session(self, session: int) -> None:
        """End a session. Idempotent."""
        with self._writing(durable=False) as (connection, number):
            sessions.close_session(connection, number, session)

    # -- health ----------------------------------------------------------------------------------------------------

    def check(self) -> list[str]:
        """Damages of the database itself, one line each; empty when it is whole. Reads everything once."""
        found = self._database.damages()
        try:
            with self._database.reading(seconds=CHECK_SECONDS) as connection:
                found += [f"{self._database}: {line}" for line in breaches(connection)]
        except (Integrity, Format, Unavailable) as error:
            found.append(str(error))
        return list(dict.fromkeys(found))

    def data_key(self, pack: str) -> bytes:
        """The data key of a pack; empty for one that is not sealed, or not there. Access without the project's key."""
        return self._chunks.data_key(self._number or self._find_project(), pack)

    def has_pack(self, pack: str) -> bool:
        """Whether a pack is among :meth:`packs`."""
        return self._chunks.has(self._number or self._find_project(), pack)

    def pack_rows(self, pack: str) -> tuple[ChunkRow, ...]:
        """The chunks that lie in a pack as far as the index tells, in order of offset. Reads the whole index."""
        return self._chunks.rows_of(self._number or self._find_project(), pack)

    def settle_packs(
        self, packs: Sequence[PackRow], *, lost: Collection[bytes] = (), without: Collection[str] = ()
    ) -> None:
        """Have chunks in other packs from now on; forget lost ones, and packs of ``without`` that have none left. One transaction."""
        rows = [check_pack(row) for row in packs]
        with self._writing(durable=True) as (connection, number):
            self._chunks.settle(connection, number, rows, lost=lost, without=without)

    def note(self, topic: str) -> str | None:
        """What was written down last about a topic of the project."""
        with self._database.reading() as connection:
            return notes.read(connection, self._name, topic)

    def exchange_note(self, topic: str, old: str | None, new: str) -> bool:
        """Write down ``new`` if ``old`` is what stands there; whether it was."""
        with self._writing(durable=True) as (connection, _):
            return notes.exchange(connection, self._database, self._name, topic, old, new)

    # -- transactions ----------------------------------------------------------------------------------------------

    def _now(self) -> int:
        return int(self._clock() * 1e9)

    @contextmanager
    def _reading(self) -> Iterator[tuple[Connection, int]]:
        with self._database.reading() as connection:
            yield connection, self._number or self._find_project(connection)

    @contextmanager
    def _writing(self, *, durable: bool) -> Iterator[tuple[Connection, int]]:
        with self._database.writing(durable=durable) as connection:
            number = self._number or self._find_project(connection)
            if number == _NO_PROJECT:
                self._database.insert_absent(
                    connection, project, ("name", "revision", "created"), [(self._name, 0, self._now())]
                )
                number = connection.execute(_FIND_PROJECT, {"called": self._name}).scalar_one()
            yield connection, number

    def _find_project(self, connection: Connection | None = None) -> int:
        if connection is None:
            with self._database.reading() as own:
                return self._find_project(own)
        found = connection.execute(_FIND_PROJECT, {"called": self._name}).scalar()
        # Asked before a transaction inserts it, so what is found is committed, and may be remembered.
        if found is not None:
            self._number = found
        return self._number

    def _raise_revision(self, connection: Connection, number: int, *, changed: bool) -> None:
        """At the end of a transaction, so that the project's row is held shortly and revisions rise in commit order."""
        if changed:
            connection.execute(_RAISE_REVISION, {"of": number, "now": int(self._clock() * 1000)})

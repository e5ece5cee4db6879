"""Collecting garbage, as the Registry sees it: who collects, what is alive, which packs are condemned, deleted, or moved.

Used by ``artifactfs/collector.py`` by way of :class:`~artifactfs.registry.sql.SQLRegistry`, which lends its transactions. Safe from
any thread and from several processes; all that changes something names the token of the lease, and is refused once another has it.

Invariants. ONE COLLECTOR: every transaction here holds the row of the lease and compares its token. CONDEMNED, THEN ASKED: the
barrier of a condemned pack is read in a transaction after the one that condemned it, so that a session above the barrier has never
been told that the pack's chunks are there. ENDED STAYS ENDED: a session that a collection does not wait for is marked as ended in the
registry, so that no clock brings it back. NOTHING COMES TO LIFE: packs are given up only while no version lives that was there at
the marking and was not marked.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Final, Protocol

import msgspec
from sqlalchemy import Connection, bindparam, delete, func, or_, select, update

from artifactfs.errors import Conflict
from artifactfs.model.records import PackRow
from artifactfs.registry.checks import LARGEST
from artifactfs.registry.chunks import ChunkIndex
from artifactfs.registry.database import Database
from artifactfs.registry.schema import (
    PACK_ALIVE,
    PACK_CONDEMNED,
    PACK_DELETING,
    PACK_GONE,
    artifact,
    chunk,
    collection,
    draft_part,
    held_version,
    pack,
    session,
    version,
)
from artifactfs.registry.sessions import COLLECTING, KEEPING

ROWS: Final = 20_000
"""Rows of chunks that are read in one statement."""
_BATCH: Final = 500  # keys of one statement
_REMOVED: Final = 5_000  # rows of chunks that one transaction removes: writers wait 50 ms at most

_LEASE: Final = select(collection.c.holder, collection.c.token, collection.c.beat).where(
    collection.c.project == bindparam("of")
)
_HOLD: Final = _LEASE.with_for_update()
_CHANGE_LEASE: Final = update(collection).where(
    collection.c.project == bindparam("of"), collection.c.token == bindparam("held")
)
# Taken for good, before the collection's row, in the order in which transactions that store take them: a commit that holds one's row
# comes first. One that is prolonged meanwhile is found again, and left out.
_EXPIRED: Final = (
    select(session.c.id)
    .where(session.c.project == bindparam("of"), session.c.expires <= bindparam("now"), session.c.ended.is_(None))
    .order_by(session.c.id)
    .with_for_update()
)
_END: Final = update(session).where(session.c.id.in_(bindparam("ids", expanding=True))).values(ended=bindparam("now"))
# Whether its time is over is asked of the clock by :meth:`CollectionTable.end_expired` alone, or by who changes nothing.
_LIVES: Final = session.c.ended.is_(None) & (session.c.expires > bindparam("clock"))
_NO_CLOCK: Final = -(1 << 62)
_WRITERS: Final = select(session.c.id, session.c.kind, session.c.expires).where(
    session.c.project == bindparam("of"), _LIVES, session.c.kind.not_in((KEEPING, COLLECTING))
)
_HIGHEST_SESSION: Final = select(func.max(session.c.id)).where(session.c.project == bindparam("of"))
_PARTS: Final = (
    select(draft_part.c.artifact, draft_part.c.draft, draft_part.c.digest)
    .join_from(draft_part, session, session.c.id == draft_part.c.session)
    .where(draft_part.c.project == bindparam("of"), _LIVES)
)
_LIVING: Final = (
    select(version.c.id, artifact.c.name, version.c.number, version.c.digest)
    .join_from(version, artifact, artifact.c.id == version.c.artifact)
    .where(artifact.c.project == bindparam("of"), version.c.deleted.is_(None))
    .order_by(artifact.c.name, version.c.number)
)
_KEPT: Final = (
    select(version.c.id, artifact.c.name, version.c.number, version.c.digest)
    .distinct()
    .join_from(held_version, session, session.c.id == held_version.c.session)
    .join(version, version.c.id == held_version.c.version)
    .join(artifact, artifact.c.id == version.c.artifact)
    .where(session.c.project == bindparam("of"), _LIVES, artifact.c.project == bindparam("of"))
)
_DELETED: Final = (
    select(version.c.id)
    .join_from(version, artifact, artifact.c.id == version.c.artifact)
    .where(artifact.c.project == bindparam("of"), version.c.deleted.is_not(None))
)
_PACKS: Final = (
    select(
        pack.c.id,
        pack.c.digest,
        pack.c.size,
        pack.c.state,
        pack.c.barrier,
        select(session.c.id).where(session.c.id == pack.c.session, _LIVES).exists(),
    )
    .where(pack.c.project == bindparam("of"), pack.c.state != PACK_GONE)
    .order_by(pack.c.id)
)
_CHUNKS: Final = (
    select(chunk.c.digest, chunk.c.pack, chunk.c.length)
    .where(chunk.c.project == bindparam("of"), chunk.c.digest > bindparam("after"))
    .order_by(chunk.c.digest)
    .limit(ROWS)
)
_IDS: Final[Any] = bindparam("ids", expanding=True)
_CONDEMN: Final = (
    update(pack)
    .where(
        pack.c.id.in_(_IDS),
        pack.c.state == PACK_ALIVE,
        or_(
            pack.c.session.is_(None),
            ~select(session.c.id).where(session.c.id == pack.c.session, _LIVES).exists(),
        ),
    )
    .values(state=PACK_CONDEMNED, barrier=None)
)
_ADOPT: Final = (
    update(pack)
    .where(pack.c.project == bindparam("of"), pack.c.digest == bindparam("called"), pack.c.state == PACK_GONE)
    .values(state=PACK_CONDEMNED, barrier=None)
)
_SET_BARRIER: Final = (
    update(pack)
    .where(pack.c.project == bindparam("of"), pack.c.state == PACK_CONDEMNED, pack.c.barrier.is_(None))
    .values(barrier=bindparam("highest"))
)
_ACQUIT: Final = update(pack).where(pack.c.id.in_(_IDS), pack.c.state == PACK_CONDEMNED).values(state=PACK_ALIVE)
_GIVE_UP: Final = (
    update(pack)
    .where(pack.c.id == bindparam("number"), pack.c.state == PACK_CONDEMNED, pack.c.barrier == bindparam("seen"))
    .values(state=PACK_DELETING)
)
_FINISH: Final = (
    update(pack).where(pack.c.id.in_(_IDS), pack.c.state == PACK_DELETING).values(state=PACK_GONE, wrapped_key=None)
)
_REMOVE_ROW: Final = delete(chunk).where(
    chunk.c.project == bindparam("of"), chunk.c.digest == bindparam("named"), chunk.c.pack == bindparam("inside")
)

Reading = Callable[[], AbstractContextManager[tuple[Connection, int]]]


class Writing(Protocol):
    """One transaction of a registry, with the project's id."""

    def __call__(self, *, durable: bool) -> AbstractContextManager[tuple[Connection, int]]:
        """Begin it; committed at the end, undone when the body raises."""


class Lease(msgspec.Struct, frozen=True):
    """Who collects: words for people (empty: nobody), a token, and a number that rises while they live."""

    holder: str = ""
    token: str = ""
    beat: int = 0


class Root(msgspec.Struct, frozen=True):
    """A tree that is alive with all below it, and what it is, in words."""

    name: str
    digest: bytes


class Roots(msgspec.Struct, frozen=True):
    """What is alive, asked after the sessions: all with a lower id than ``bound`` that might have stored something had ended before.

    ``deleted`` are the ids of the versions that were deleted then, ``versions`` how many live or are kept: of
    those with the same contents there is one root.
    """

    roots: tuple[Root, ...]
    deleted: frozenset[int]
    bound: int
    versions: int

    def covers(self, other: Roots) -> bool:
        """Whether all that is alive there is alive here too."""
        return {root.digest for root in other.roots} <= {root.digest for root in self.roots}


class Pack(msgspec.Struct, frozen=True):
    """A pack as the registry has it: its row's id, digest, bytes, state and barrier, and whether who recorded it still works."""

    id: int
    digest: str
    size: int
    state: int
    barrier: int | None
    fresh: bool


class Writer(msgspec.Struct, frozen=True):
    """A living session that may rely on what it was told: its id, what it is for, and until when it lives (nanoseconds)."""

    id: int
    kind: str
    expires: int


class CollectionTable:
    """What a collection asks and changes in one project. ``now`` gives nanoseconds since the epoch."""

    def __init__(
        self, database: Database, chunks: ChunkIndex, reading: Reading, writing: Writing, now: Callable[[], int]
    ) -> None:
        self._database = database
        self._chunks = chunks
        self._reading = reading
        self._writing = writing
        self._now = now

    # -- the lease -------------------------------------------------------------------------------------------------

    def lease(self) -> Lease:
        """Who collects now."""
        with self._reading() as (connection, of):
            found = connection.execute(_LEASE, {"of": of}).first()
        return Lease() if found is None else Lease(*found)

    def take(self, token: str, holder: str, *, after: Lease) -> bool:
        """Take the lease over from the holder that was seen; False when it is another's by now, or that one has moved."""
        with self._writing(durable=True) as (connection, of):
            self._database.insert_absent(connection, collection, ("project",), [(of,)])
            if Lease(*connection.execute(_HOLD, {"of": of}).one()) != after:
                return False
            values = {"of": of, "held": after.token, "holder": holder, "token": token, "beat": after.beat + 1}
            connection.execute(_CHANGE_LEASE, values)
            return True

    def beat(self, token: str) -> None:
        """Say that the holder lives. Conflict when another has taken the lease."""
        with self._holding(token, durable=False) as (connection, of):
            connection.execute(_CHANGE_LEASE.values(beat=collection.c.beat + 1), {"of": of, "held": token})

    def release(self, token: str) -> None:
        """Let the lease go; nothing happens when it is another's."""
        with self._writing(durable=False) as (connection, of):
            connection.execute(_CHANGE_LEASE, {"of": of, "held": token, "holder": "", "token": ""})

    # -- looking ---------------------------------------------------------------------------------------------------

    def roots(self, session: int | None) -> Roots:
        """What is alive. ``session`` is the collector's own, opened after :meth:`end_expired`; None: nothing will be changed."""
        clock = self._now() if session is None else _NO_CLOCK
        with self._reading() as (connection, of):
            asked = {"of": of, "clock": clock}
            writers = connection.execute(_WRITERS, asked).all()
            # In this order: a part becomes a version, a version that lived is kept on; never the other way.
            parts = connection.execute(_PARTS, asked).all()
            deleted = frozenset(connection.execute(_DELETED, {"of": of}).scalars())
            living = connection.execute(_LIVING, {"of": of}).all()
            kept = connection.execute(_KEPT, asked).all()
        roots = [Root(f"{name}:v{number}", digest) for _, name, number, digest in living]
        roots += [Root(f"{name}:v{number} (deleted, but in use)", digest) for _, name, number, digest in kept]
        roots += [Root(f"a part of the draft {draft!r} of {name}", digest) for name, draft, digest in parts]
        bound = min([row[0] for row in writers] + [LARGEST if session is None else session])
        # Kept and living versions are often the same.
        unique = {root.digest: root for root in reversed(roots)}
        return Roots(tuple(reversed(unique.values())), deleted, bound, len({row[0] for row in (*living, *kept)}))

    def end_expired(self, token: str) -> None:
        """Let sessions whose time is over be over, whatever the clock will say."""
        now = self._now()
        with self._writing(durable=False) as (connection, of):
            expired = list(connection.execute(_EXPIRED, {"of": of, "now": now}).scalars())
            _require_lease(connection, of, token)
            for batch in _batches(expired):
                connection.execute(_END, {"ids": batch, "now": now})

    def writers(self, barrier: int) -> list[Writer]:
        """Living sessions up to a barrier, the oldest first."""
        with self._reading() as (connection, of):
            found = [Writer(*row) for row in connection.execute(_WRITERS, {"of": of, "clock": self._now()})]
        return sorted((writer for writer in found if writer.id <= barrier), key=lambda writer: writer.id)

    def packs(self) -> list[Pack]:
        """All packs that are not gone, the oldest first."""
        with self._reading() as (connection, of):
            return [Pack(*row) for row in connection.execute(_PACKS, {"of": of, "clock": self._now()})]

    def chunks(self) -> Iterator[tuple[bytes, int, int]]:
        """Digest, pack and stored bytes of every chunk, in order of digest. Each some thousands are of one moment."""
        after = b""
        while True:
            with self._reading() as (connection, of):
                rows = connection.execute(_CHUNKS, {"of": of, "after": after}).all()
            yield from ((digest, number, length) for digest, number, length in rows)
            if len(rows) < ROWS:
                return
            after = rows[-1][0]

    # -- packs -----------------------------------------------------------------------------------------------------

    def adopt(self, token: str, objects: Sequence[tuple[str, int]]) -> None:
        """Condemn packs (digest and size) that lie in the Store and have no row: whoever is about to record one of them still can."""
        for start in range(0, len(objects), _BATCH):
            part = objects[start : start + _BATCH]
            with self._holding(token, durable=False) as (connection, of):
                rows = [(of, digest, size, PACK_CONDEMNED) for digest, size in part]
                self._database.insert_absent(connection, pack, ("project", "digest", "size", "state"), rows)
                connection.execute(_ADOPT, [{"of": of, "called": digest} for digest, _ in part])

    def condemn(self, token: str, packs: Collection[int]) -> None:
        """From now on who stores is told that the chunks of these packs are missing. All in one transaction."""
        with self._holding(token, durable=False) as (connection, _):
            for batch in _batches(packs):
                connection.execute(_CONDEMN, {"ids": batch, "clock": _NO_CLOCK})

    def set_barrier(self, token: str) -> None:
        """Say which sessions may rely on what was condemned before this call: all that there are now."""
        with self._holding(token, durable=False) as (connection, of):
            highest = connection.execute(_HIGHEST_SESSION, {"of": of}).scalar() or 0
            connection.execute(_SET_BARRIER, {"of": of, "highest": highest})

    def acquit(self, token: str, packs: Collection[int]) -> None:
        """Take condemned packs back that were found alive."""
        with self._holding(token, durable=False) as (connection, _):
            for batch in _batches(packs):
                connection.execute(_ACQUIT, {"ids": batch})

    def give_up(self, token: str, packs: Sequence[Pack], roots: Roots) -> list[Pack]:
        """Decide, for good, to delete packs that a marking of ``roots`` found dead; returns those that could be.

        The others were recorded anew, or sessions that live might rely on them. Conflict when a version has come to life.
        """
        given: dict[int, Pack] = {}
        with self._holding(token, durable=True) as (connection, of):
            if any(row[0] in roots.deleted for row in connection.execute(_LIVING, {"of": of})):
                raise Conflict("a version was restored meanwhile; run `artifactfs gc` once more")
            for each in sorted(packs, key=lambda each: each.digest):  # as who stores them takes them
                if each.barrier is None or each.barrier >= roots.bound:
                    continue
                if connection.execute(_GIVE_UP, {"number": each.id, "seen": each.barrier}).rowcount:
                    given[each.id] = each
            if given:
                connection.execute(_CHANGE_LEASE, {"of": of, "held": token, "collected": self._now()})
        return list(given.values())

    def remove_rows(self, token: str, rows: Iterator[tuple[bytes, int]]) -> None:
        """Remove chunks (digest and pack) of packs that were given up."""
        batch: list[dict[str, object]] = []
        for digest, number in rows:
            batch.append({"named": digest, "inside": number})
            if len(batch) == _REMOVED:
                self._remove(token, batch)
                batch = []
        if batch:
            self._remove(token, batch)

    def _remove(self, token: str, batch: list[dict[str, object]]) -> None:
        with self._holding(token, durable=False) as (connection, of):
            connection.execute(_REMOVE_ROW, [{"of": of, **row} for row in batch])

    def finish(self, token: str, packs: Collection[int]) -> None:
        """Packs that were given up are gone: their objects are deleted and their rows removed."""
        with self._holding(token, durable=True) as (connection, _):
            for batch in _batches(packs):
                connection.execute(_FINISH, {"ids": batch})

    def move(self, token: str, row: PackRow, sources: Mapping[bytes, int], *, session: int) -> None:
        """Record a pack that holds chunks of others (``sources``: ids by chunk), which are found there from now on. All or none."""
        with self._holding(token, durable=True) as (connection, of):
            self._chunks.move(connection, of, row, sources, session=session)

    @contextmanager
    def _holding(self, token: str, *, durable: bool) -> Iterator[tuple[Connection, int]]:
        """A transaction of the lease's holder. Conflict when another has taken it."""
        with self._writing(durable=durable) as (connection, of):
            _require_lease(connection, of, token)
            yield connection, of


def _require_lease(connection: Connection, of: int, token: str) -> None:
    found = connection.execute(_HOLD, {"of": of}).first()
    if found is None or found[1] != token:
        who = found[0] if found is not None and found[0] else "another process"
        raise Conflict(f"this collection was taken over by {who}, as it did not go on for a while")


def _batches(numbers: Collection[int]) -> Iterator[list[int]]:
    ordered = sorted(numbers)
    for start in range(0, len(ordered), _BATCH):
        yield ordered[start : start + _BATCH]


__all__ = [
    "PACK_ALIVE",
    "PACK_CONDEMNED",
    "PACK_DELETING",
    "CollectionTable",
    "Lease",
    "Pack",
    "Root",
    "Roots",
    "Writer",
]

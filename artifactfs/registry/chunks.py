"""The chunk index: which chunks a project holds, and where they lie.

Used by :mod:`artifactfs.registry.sql`. Safe from any thread.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Final

from sqlalchemy import (
    ARRAY,
    Column,
    Connection,
    FromClause,
    LargeBinary,
    Select,
    bindparam,
    column,
    delete,
    func,
    literal_column,
    select,
    true,
    update,
)

from artifactfs.errors import Integrity, InvalidInput, Unavailable
from artifactfs.model.digest import DIGEST_SIZE
from artifactfs.model.records import FLAG_ENCRYPTED, ChunkRow, Location, PackRow
from artifactfs.registry import sealed
from artifactfs.registry.database import Database
from artifactfs.registry.schema import (
    PACK_ALIVE,
    PACK_CONDEMNED,
    PACK_DELETING,
    PACK_GONE,
    chunk,
    collection,
    pack,
    session,
)
from artifactfs.registry.schema import project as project_table
from artifactfs.sealing import KEY_SIZE

# Keys of one statement. A key costs 1.6 us from 128 to 2,000 of them (1.0 straight at the driver, which is not worth a second way of
# speaking SQL); single statements cost 20 us. In order of digest, which is the table's order, it is 1.6 times as fast as at random.
_BATCH: Final = 512
_POSTGRESQL: Final = "postgresql"
_COLUMNS: Final = ("project", "digest", "pack", "offset", "length", "size", "flags")

# One statement, so that it sees one moment: what a collection condemned is missing.
_KNOWN: Final = (
    select(chunk.c.digest)
    .join_from(chunk, pack, pack.c.id == chunk.c.pack)
    .where(
        chunk.c.project == bindparam("project"),
        chunk.c.digest.in_(bindparam("digests", expanding=True)),
        pack.c.state == PACK_ALIVE,
    )
)
_PLACES: Final = select(
    chunk.c.digest, chunk.c.pack, chunk.c.offset, chunk.c.length, chunk.c.size, chunk.c.flags
).where(chunk.c.project == bindparam("project"), chunk.c.digest.in_(bindparam("digests", expanding=True)))
# PostgreSQL is made to look each one up, whatever it knows of the table: as long as it had no statistics, which come within a minute,
# it went through all of the project, 90 ms for 100,000 chunks.
_WANTED: Final = (
    func.unnest(bindparam("digests", type_=ARRAY(LargeBinary)))
    .table_valued(column("digest", LargeBinary), name="wanted")
    .render_derived()
)


def _each(*columns: Column[Any]) -> FromClause:
    own = chunk.c.project == bindparam("project")
    return select(*columns).where(own, chunk.c.digest == _WANTED.c.digest).offset(literal_column("0")).lateral("found")


def _looked_up(found: FromClause) -> Select[Any]:
    return select(*found.c).select_from(_WANTED).join(found, true())


_FOUND: Final = _each(chunk.c.digest, chunk.c.pack)
# The packs are few, as many as a batch names: each is looked up by its key, or all are joined at once.
_KNOWN_EACH: Final = (
    select(_FOUND.c.digest)
    .select_from(_WANTED)
    .join(_FOUND, true())
    .join(pack, pack.c.id == _FOUND.c.pack)
    .where(pack.c.state == PACK_ALIVE)
)
_PLACES_EACH: Final = _looked_up(
    _each(chunk.c.digest, chunk.c.pack, chunk.c.offset, chunk.c.length, chunk.c.size, chunk.c.flags)
)
# With the id of the project's key: one statement sees a data key and what wraps it before a rekey, or both after it.
_NAMES: Final = (
    select(pack.c.id, pack.c.digest, pack.c.wrapped_key, project_table.c.name, project_table.c.key_id)
    .join_from(pack, project_table, project_table.c.id == pack.c.project)
    .where(pack.c.id.in_(bindparam("ids", expanding=True)))
)
_PACK: Final = (
    select(pack.c.id, pack.c.size, pack.c.wrapped_key, pack.c.state)
    .where(pack.c.project == bindparam("project"), pack.c.digest == bindparam("digest"))
    .with_for_update()
)
_PACKS: Final = (
    select(pack.c.digest, pack.c.size)
    .where(pack.c.project == bindparam("project"), pack.c.state == PACK_ALIVE)
    .order_by(pack.c.digest)
)
_ALIVE: Final = select(pack.c.id).where(
    pack.c.project == bindparam("project"), pack.c.digest == bindparam("digest"), pack.c.state == PACK_ALIVE
)
_KEYED: Final = select(pack.c.id).where(
    pack.c.project == bindparam("project"),
    pack.c.digest == bindparam("digest"),
    (pack.c.state == PACK_ALIVE) | pack.c.wrapped_key.is_not(None),
)
_RECORD: Final = (
    update(pack)
    .where(pack.c.id == bindparam("number"))
    .values(
        state=PACK_ALIVE,
        barrier=None,
        size=bindparam("bytes"),
        session=bindparam("by"),
        wrapped_key=bindparam("wrapped"),
    )
)
_EXPECT: Final = (
    update(pack).where(pack.c.id == bindparam("number")).values(state=PACK_CONDEMNED, barrier=bindparam("highest"))
)
_HIGHEST_SESSION: Final = select(func.max(session.c.id)).where(session.c.project == bindparam("of"))
_SHARE: Final = select(collection.c.project).where(collection.c.project == bindparam("of")).with_for_update(read=True)
# A chunk moves to a pack that was just recorded when the one it lay in is condemned, or is one of those that give theirs away.
_OF_PLACE: Final = update(chunk).where(chunk.c.project == bindparam("of"), chunk.c.digest == bindparam("named"))
_PLACED: Final[dict[str, Any]] = {
    name: bindparam(f"new_{name}") for name in ("pack", "offset", "length", "size", "flags")
}
_REPLACE: Final = _OF_PLACE.where(
    select(pack.c.id).where(pack.c.id == chunk.c.pack, pack.c.state != PACK_ALIVE).exists()
).values(_PLACED)
_MOVE: Final = _OF_PLACE.where(chunk.c.pack == bindparam("source")).values(_PLACED)
_NOT_ALIVE: Final = (
    select(pack.c.id)
    .where(pack.c.project == bindparam("of"), pack.c.state.in_((PACK_CONDEMNED, PACK_DELETING)))
    .limit(1)
)
_ROWS_OF_PACK: Final = (
    select(chunk.c.digest, chunk.c.offset, chunk.c.length, chunk.c.size, chunk.c.flags)
    .join_from(chunk, pack, pack.c.id == chunk.c.pack)
    .where(
        chunk.c.project == bindparam("project"), pack.c.project == chunk.c.project, pack.c.digest == bindparam("digest")
    )
    .order_by(chunk.c.offset)
)
_FORGET: Final = delete(chunk).where(
    chunk.c.project == bindparam("project"), chunk.c.digest.in_(bindparam("digests", expanding=True))
)
_FORGET_IN: Final = _FORGET.where(chunk.c.pack.in_(bindparam("packs", expanding=True)))
_EMPTY_PACKS: Final = delete(pack).where(
    pack.c.project == bindparam("project"),
    pack.c.id.in_(bindparam("packs", expanding=True)),
    ~select(chunk.c.digest).where(chunk.c.pack == pack.c.id).exists(),
)
_NUMBERS: Final = select(pack.c.id).where(
    pack.c.project == bindparam("project"), pack.c.digest.in_(bindparam("names", expanding=True))
)
_HOLDERS: Final = (
    select(pack.c.digest, project_table.c.name).join_from(pack, project_table).order_by(project_table.c.name)
)
_TOTALS: Final = (
    select(func.count(), func.coalesce(func.sum(pack.c.size), 0)).select_from(pack).where(pack.c.state != PACK_GONE)
)


_Row = tuple[int, bytes, int, int, int, int, int]
"""A chunk's row, in the order of _COLUMNS."""


class ChunkIndex:
    """The tables ``pack`` and ``chunk``. Projects are given by their id. ``keys`` has those of encrypted projects."""

    def __init__(self, database: Database, keys: sealed.Keys) -> None:
        self._database = database
        self._keys = keys
        # Names and data keys of packs by id, so that a location carries no text of its own: ids are never used again and a pack keeps
        # its data key, hence this is never stale. Grows by 300 bytes a pack of 64 MiB. Threads only add equal values.
        self._names: dict[int, tuple[str, bytes]] = {}

    def missing(self, project: int, digests: Collection[bytes]) -> set[bytes]:
        """Those of ``digests`` that the project does not hold, or is about to give up."""
        absent = set(digests)
        if absent:
            with self._database.reading() as connection:
                for batch in _batches(absent):
                    statement = _KNOWN_EACH if connection.dialect.name == _POSTGRESQL else _KNOWN
                    rows = connection.execute(statement, {"project": project, "digests": batch})
                    absent.difference_update(rows.scalars())
        return absent

    def locate(self, project: int, digests: Collection[bytes]) -> dict[bytes, Location]:
        """Where ``digests`` are; unknown ones are left out."""
        found: dict[bytes, Location] = {}
        if not digests:
            return found
        with self._database.reading() as connection:
            for batch in _batches(set(digests)):
                statement = _PLACES_EACH if connection.dialect.name == _POSTGRESQL else _PLACES
                rows = connection.execute(statement, {"project": project, "digests": batch}).all()
                names = self._pack_names(connection, {row[1] for row in rows})
                for digest, number, offset, length, size, flags in rows:
                    if not type(offset) is type(length) is type(size) is type(flags) is int:
                        raise Integrity(f"{self._database} has damaged chunks: run `artifactfs verify`")
                    name, key = names[number]
                    found[digest] = Location(name, offset, length, size, flags, key)
        return found

    def add(
        self, connection: Connection, project: int, packs: Sequence[PackRow], *, session: int | None = None
    ) -> None:
        """Record packs with their chunks, in the caller's transaction. Unavailable for one that a collection is deleting.

        All packs, then all chunks, each in the order of their tables: it is fastest, and two transactions that add some of the same
        never wait for each other.
        """
        if not packs:
            return
        self._share(connection, project)
        chunks = self._record(connection, project, packs, session)
        if chunks:
            self._database.insert_absent(connection, chunk, _COLUMNS, chunks)
            # A look of 4 us: nearly always there is nothing condemned.
            if connection.execute(_NOT_ALIVE, {"of": project}).first() is not None:
                connection.execute(_REPLACE, [_values(each) for each in chunks])

    def move(
        self,
        connection: Connection,
        project: int,
        row: PackRow,
        sources: Mapping[bytes, int],
        *,
        session: int | None,
    ) -> None:
        """Record a pack whose chunks lie in other packs too, and have them found in it from now on.

        ``sources`` says of each chunk in which (by id); one that is found elsewhere by now stays there. In the caller's transaction,
        which holds the collection's row.
        """
        chunks = self._record(connection, project, [row], session)
        connection.execute(_MOVE, [{**_values(each), "source": sources[each[1]]} for each in chunks])

    def expect(self, connection: Connection, project: int, digest: str, size: int) -> bool:
        """Keep the object of a pack, there or not, until the sessions of now have ended. False while one is being deleted."""
        values = [(project, digest, size, PACK_GONE)]
        self._database.insert_absent(connection, pack, ("project", "digest", "size", "state"), values)
        row = connection.execute(_PACK, {"project": project, "digest": digest}).one()
        if row.state == PACK_DELETING:
            return False
        if row.state in {PACK_CONDEMNED, PACK_GONE}:
            highest = connection.execute(_HIGHEST_SESSION, {"of": project}).scalar() or 0
            connection.execute(_EXPECT, {"number": row.id, "highest": highest})
        return True

    def _share(self, connection: Connection, project: int) -> None:
        """Where a database has several writers, no collection changes packs until the transaction ends, and others add theirs."""
        self._database.insert_absent(connection, collection, ("project",), [(project,)])
        connection.execute(_SHARE, {"of": project})

    def _record(
        self, connection: Connection, project: int, packs: Sequence[PackRow], session: int | None
    ) -> list[_Row]:
        """Have rows say that packs are alive; returns the rows of their chunks, in the order of the table."""
        rows = sorted(packs, key=lambda row: row.digest)
        wrapped = sealed.wrap(connection, self._keys, project, [(row.digest, row.key) for row in rows])
        self._database.insert_absent(
            connection,
            pack,
            ("project", "digest", "size", "wrapped_key"),
            [(project, row.digest, row.size, own) for row, own in zip(rows, wrapped, strict=True)],
        )
        chunks: list[_Row] = []
        for row, own in zip(rows, wrapped, strict=True):
            found = connection.execute(_PACK, {"project": project, "digest": row.digest}).one()
            present = found.wrapped_key
            if found.state == PACK_DELETING:
                raise being_deleted(row.digest)
            if found.state == PACK_ALIVE or present is not None:
                if found.size != row.size:
                    raise InvalidInput(f"pack {row.digest} has {found.size} bytes, not {row.size}")
                if present != own and not sealed.is_key(
                    connection, self._keys, project, (row.digest, row.key), present
                ):
                    raise InvalidInput(f"pack {row.digest} is recorded with another key; begin the upload anew")
            if present is None:
                present = own  # of an object that was found, or said to come, no key is known
            connection.execute(_RECORD, {"number": found.id, "bytes": row.size, "by": session, "wrapped": present})
            chunks += [
                (project, entry.digest, found.id, entry.offset, entry.length, entry.size, entry.flags)
                for entry in row.chunks
            ]
        return sorted(chunks)

    def packs(self, project: int) -> list[tuple[str, int]]:
        """Every pack that is not about to go: digest and size, sorted by digest."""
        with self._database.reading() as connection:
            return [(digest, size) for digest, size in connection.execute(_PACKS, {"project": project})]

    def has(self, project: int, digest: str) -> bool:
        """Whether a pack is among :meth:`packs`."""
        with self._database.reading() as connection:
            return connection.execute(_ALIVE, {"project": project, "digest": digest}).first() is not None

    def data_key(self, project: int, digest: str) -> bytes:
        """The data key of a pack; empty for one that is not sealed, or not there. Access, Integrity."""
        with self._database.reading() as connection:
            # Of an object that a collection found, or that was said to come, no key is known.
            numbers = set(connection.execute(_KEYED, {"project": project, "digest": digest}).scalars())
            return next((self._pack_names(connection, numbers)[number][1] for number in numbers), b"")

    def rows_of(self, project: int, digest: str) -> tuple[ChunkRow, ...]:
        """The chunks that lie in a pack, in order of offset. Reads the whole index."""
        with self._database.reading() as connection:
            rows = connection.execute(_ROWS_OF_PACK, {"project": project, "digest": digest})
            return tuple(ChunkRow(*row) for row in rows)

    def settle(
        self,
        connection: Connection,
        project: int,
        packs: Sequence[PackRow],
        *,
        lost: Collection[bytes],
        without: Collection[str],
    ) -> None:
        """Move chunks to other packs, and forget lost ones and packs without any, in the caller's transaction."""
        self._share(connection, project)  # before any chunk's row, as collections do
        for row in packs:
            for batch in _batches({entry.digest for entry in row.chunks}):
                connection.execute(_FORGET, {"project": project, "digests": batch})
        self.add(connection, project, packs)
        if without:
            numbers = list(connection.execute(_NUMBERS, {"project": project, "names": list(without)}).scalars())
            for batch in _batches(set(lost)):
                connection.execute(_FORGET_IN, {"project": project, "digests": batch, "packs": numbers})
            connection.execute(_EMPTY_PACKS, {"project": project, "packs": numbers})

    def holders(self) -> dict[str, list[str]]:
        """Of every pack, by digest, the names of the projects that hold it, sorted."""
        found: dict[str, list[str]] = {}
        with self._database.reading() as connection:
            for digest, name in connection.execute(_HOLDERS):
                found.setdefault(digest, []).append(name)
        return found

    def totals(self) -> tuple[int, int]:
        """How many packs all projects hold, and how many bytes these have."""
        with self._database.reading() as connection:
            count, size = connection.execute(_TOTALS).one()
            return int(count), int(size)

    def _pack_names(self, connection: Connection, wanted: set[int]) -> dict[int, tuple[str, bytes]]:
        unknown = wanted - self._names.keys()
        if unknown:
            rows = connection.execute(_NAMES, {"ids": list(unknown)})
            self._names.update(
                (number, (name, sealed.unwrap(self._keys, of, identity, name, wrapped)))
                for number, name, wrapped, of, identity in rows.all()
            )
            if lost := wanted - self._names.keys():
                raise Integrity(
                    f"{self._database} has chunks in {len(lost)} packs that it lacks: run `artifactfs verify`"
                )
        return self._names


def _values(row: _Row) -> dict[str, object]:
    of, named, *place = row
    names = ("new_pack", "new_offset", "new_length", "new_size", "new_flags")
    return {"of": of, "named": named, **dict(zip(names, place, strict=True))}


def being_deleted(digest: str) -> Unavailable:
    """What to say of a pack that is to be stored again while it is deleted."""
    return Unavailable(
        f"pack {digest} is being deleted by a collection; repeat in a moment, or, if that was interrupted, after `artifactfs gc`"
    )


def check_pack(row: PackRow) -> PackRow:
    """The row itself, when each chunk has a digest and lies within the pack; else InvalidInput."""
    if len(row.digest) != 2 * DIGEST_SIZE or row.size <= 0:
        raise InvalidInput(f"not a pack: {row.digest!r} of {row.size} bytes")
    if row.key and len(row.key) != KEY_SIZE:
        raise InvalidInput(f"the key of pack {row.digest} has {len(row.key)} bytes; one has {KEY_SIZE}")
    for entry in row.chunks:
        if bool(entry.flags & FLAG_ENCRYPTED) != bool(row.key):
            raise InvalidInput(
                f"chunk {entry.digest.hex()} of pack {row.digest} is sealed without a key, or not sealed with one"
            )
        if len(entry.digest) != DIGEST_SIZE:
            raise InvalidInput(f"pack {row.digest} names a chunk by {len(entry.digest)} bytes instead of {DIGEST_SIZE}")
        if entry.offset < 0 or entry.length <= 0 or entry.offset + entry.length > row.size or entry.size < 0:
            raise InvalidInput(
                f"chunk {entry.digest.hex()} ({entry.length} bytes at {entry.offset}) "
                f"does not lie in pack {row.digest} of {row.size} bytes"
            )
    return row


def _batches(digests: set[bytes]) -> Iterator[list[bytes]]:
    ordered = sorted(digests)
    for start in range(0, len(ordered), _BATCH):
        yield ordered[start : start + _BATCH]

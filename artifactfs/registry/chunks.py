"""The chunk index: which chunks a project holds, and where they lie.

Used by :mod:`artifactfs.registry.sql`. Safe from any thread.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Final

from sqlalchemy import Connection, bindparam, func, select, update

from artifactfs.errors import Integrity, InvalidInput, Unavailable
from artifactfs.model.digest import DIGEST_SIZE
from artifactfs.model.records import Location, PackRow
from artifactfs.registry.schema import (
    PACK_ALIVE,
    PACK_CONDEMNED,
    PACK_DELETING,
    PACK_GONE,
    chunk,
    collection,
    pack,
    project,
    session,
)
from artifactfs.registry.sqlite import SQLiteDatabase

# Keys of one statement. A key costs 1.6 us from 128 to 2,000 of them (1.0 straight at the driver, which is not worth a second way of
# speaking SQL); single statements cost 20 us. In order of digest, which is the table's order, it is 1.6 times as fast as at random.
_BATCH: Final = 512
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
_NAMES: Final = select(pack.c.id, pack.c.digest).where(pack.c.id.in_(bindparam("ids", expanding=True)))
_PACK: Final = (
    select(pack.c.id, pack.c.size, pack.c.state)
    .where(pack.c.project == bindparam("project"), pack.c.digest == bindparam("digest"))
    .with_for_update()
)
_PACKS: Final = (
    select(pack.c.digest, pack.c.size)
    .where(pack.c.project == bindparam("project"), pack.c.state == PACK_ALIVE)
    .order_by(pack.c.digest)
)
_RECORD: Final = (
    update(pack)
    .where(pack.c.id == bindparam("number"))
    .values(state=PACK_ALIVE, barrier=None, size=bindparam("bytes"), session=bindparam("by"))
)
_EXPECT: Final = (
    update(pack).where(pack.c.id == bindparam("number")).values(state=PACK_CONDEMNED, barrier=bindparam("highest"))
)
# In any project: where they share a Store, the object is the same.
_DELETING: Final = (
    select(pack.c.id)
    .where(
        pack.c.project.in_(select(project.c.id)),
        pack.c.digest == bindparam("digest"),
        pack.c.state == PACK_DELETING,
    )
    .limit(1)
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


class ChunkIndex:
    """The tables ``pack`` and ``chunk``. Projects are given by their id."""

    def __init__(self, database: SQLiteDatabase) -> None:
        self._database = database
        # Names of packs by id, so that a location carries no text of its own: ids are never used again, hence this is never stale.
        # Grows by 200 bytes a pack of 64 MiB. Threads only add equal values.
        self._names: dict[int, str] = {}

    def missing(self, project: int, digests: Collection[bytes]) -> set[bytes]:
        """Those of ``digests`` that the project does not hold."""
        absent = set(digests)
        if absent:
            with self._database.reading() as connection:
                for batch in _batches(absent):
                    rows = connection.execute(_KNOWN, {"project": project, "digests": batch})
                    absent.difference_update(rows.scalars())
        return absent

    def locate(self, project: int, digests: Collection[bytes]) -> dict[bytes, Location]:
        """Where ``digests`` are; unknown ones are left out."""
        found: dict[bytes, Location] = {}
        if not digests:
            return found
        with self._database.reading() as connection:
            for batch in _batches(set(digests)):
                rows = connection.execute(_PLACES, {"project": project, "digests": batch}).all()
                names = self._pack_names(connection, {row[1] for row in rows})
                for digest, number, offset, length, size, flags in rows:
                    if not type(offset) is type(length) is type(size) is type(flags) is int:
                        raise Integrity(f"{self._database} has damaged chunks: run `artifactfs verify`")
                    found[digest] = Location(names[number], offset, length, size, flags)
        return found

    def add(
        self, connection: Connection, project: int, packs: Sequence[PackRow], *, session: int | None = None
    ) -> None:
        """Record packs with their chunks, in the caller's transaction. Unavailable for one that a collection is deleting."""
        database = self._database
        # Where a database has several writers, no collection gives packs up between the statements that follow.
        database.insert_absent(connection, collection, ("project",), [(project,)])
        connection.execute(_SHARE, {"of": project})
        for row in packs:
            number = _record(connection, database, project, row, session)
            rows = _rows_of(project, number, row)
            if rows:
                database.insert_absent(connection, chunk, _COLUMNS, rows)
                # A look of 4 us: nearly always there is nothing condemned.
                if connection.execute(_NOT_ALIVE, {"of": project}).first() is not None:
                    connection.execute(_REPLACE, [_values(each) for each in rows])

    def expect(self, connection: Connection, project: int, digest: str, size: int) -> bool:
        """Keep the object of a pack, there or not, until the sessions of now have ended. False while one is being deleted."""
        values = [(project, digest, size, PACK_GONE)]
        self._database.insert_absent(connection, pack, ("project", "digest", "size", "state"), values)
        number, _, state = connection.execute(_PACK, {"project": project, "digest": digest}).one()
        if connection.execute(_DELETING, {"digest": digest}).first() is not None:
            return False
        if state in {PACK_CONDEMNED, PACK_GONE}:
            highest = connection.execute(_HIGHEST_SESSION, {"of": project}).scalar() or 0
            connection.execute(_EXPECT, {"number": number, "highest": highest})
        return True

    def packs(self, project: int) -> list[tuple[str, int]]:
        """Every pack that is not about to go: digest and size, sorted by digest."""
        with self._database.reading() as connection:
            return [(digest, size) for digest, size in connection.execute(_PACKS, {"project": project})]

    def _pack_names(self, connection: Connection, wanted: set[int]) -> dict[int, str]:
        unknown = wanted - self._names.keys()
        if unknown:
            rows = connection.execute(_NAMES, {"ids": list(unknown)})
            self._names.update((number, name) for number, name in rows)
            if lost := wanted - self._names.keys():
                raise Integrity(
                    f"{self._database} has chunks in {len(lost)} packs that it lacks: run `artifactfs verify`"
                )
        return self._names


def move_chunks(
    connection: Connection,
    database: SQLiteDatabase,
    project: int,
    row: PackRow,
    sources: Mapping[bytes, int],
    *,
    session: int | None,
) -> None:
    """Record a pack whose chunks lie in other packs too, and have them found in it from now on.

    ``sources`` says of each chunk in which (by id); one that is found elsewhere by now stays there. In the caller's transaction.
    """
    number = _record(connection, database, project, row, session)
    rows = _rows_of(project, number, row)
    connection.execute(_MOVE, [{**_values(each), "source": sources[each[1]]} for each in rows])


def _record(connection: Connection, database: SQLiteDatabase, project: int, row: PackRow, session: int | None) -> int:
    """The id of a pack's row, which says that it is alive."""
    names = ("project", "digest", "size", "session")
    database.insert_absent(connection, pack, names, [(project, row.digest, row.size, session)])
    number, size, state = connection.execute(_PACK, {"project": project, "digest": row.digest}).one()
    if state == PACK_DELETING:
        raise being_deleted(row.digest)
    if size != row.size and state == PACK_ALIVE:
        raise InvalidInput(f"pack {row.digest} has {size} bytes, not {row.size}")
    connection.execute(_RECORD, {"number": number, "bytes": row.size, "by": session})
    return int(number)


def _rows_of(project: int, number: int, row: PackRow) -> list[tuple[int, bytes, int, int, int, int, int]]:
    """Rows of a pack's chunks in the order of the table, as above."""
    return sorted(
        (project, entry.digest, number, entry.offset, entry.length, entry.size, entry.flags) for entry in row.chunks
    )


def _values(row: tuple[int, bytes, int, int, int, int, int]) -> dict[str, object]:
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
    for entry in row.chunks:
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

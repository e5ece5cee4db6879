"""Catalog: which chunk lies where in the cache, what the cache holds, what was used when, and counts over all processes.

Used by the cache, which reads it from any thread, and by the shelf, which alone changes it and does so from one thread: one connection
for either. The shelf's thread is inside a gate (:mod:`artifactfs.forks`) for all of a task. Several processes have the file open.
Knows nothing of files: a row may name an extent that is damaged or gone.

An *extent* is some chunks' stored bytes back to back, with a random number that is never given again. Invariant *reserved-first*:
an extent's row, with its bytes counted, is there before its file, and its chunks' rows come after the file is whole. So the sum of
bytes is never below what is on the disk, and what a killed process leaves is a row that is not ``complete``.

A question is answered with one row of text. SQLite's binding gives up the interpreter's lock at each row, and with one other
thread computing waits up to 5 ms to have it back: 500 rows took 544 ms so, as one row 7 ms (alone 1.2 and 1.6 ms). For the same reason
rows are written by the hundred.
"""

# ruff: noqa: S608 - statements are put together of text of this module alone; values are bound

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from artifactfs.errors import ArtifactFSError, Integrity, NoSpace, Unavailable
from artifactfs.forks import Gate
from artifactfs.model.records import ChunkRow

BUSY_SECONDS: Final = 1.0
"""How long a call waits for another process's change: these take milliseconds, so a longer one is of a process that hangs."""

_ASK_SECONDS: Final = 10.0  # for this process's other questions, each of which is bounded by that

APPLICATION_ID: Final = 0x41465363  # "AFSc" in bytes 68-71 of the file

KEY_SIZE: Final = 33  # bytes: digest and kind
LARGEST: Final = 1 << 30
"""Bytes of an extent or a chunk at most: of a chunk's row that says more something is damaged."""

_MOST: Final = 1 << 50  # bytes of a part; no disk of one machine holds more
_ASKED_AT_ONCE: Final = 500
_WRITTEN_AT_ONCE: Final = 100
_CHECKPOINT_PAGES: Final = 1000  # 4 MiB of log, which counts as taken space
_LOG_KEPT: Final = 4 << 20  # bytes
_CACHE_KIB: Final = 8192

# One row a statement. Parts: see shelf.py.
_SCHEMA: Final = (
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    # Sums over the extents of a part: bytes as taken on the disk, and those of pinned extents.
    "CREATE TABLE part (part INTEGER PRIMARY KEY, bytes INTEGER NOT NULL, pinned INTEGER NOT NULL)",
    # members: the keys of its chunks, back to back; last, as a row's end lies elsewhere when it is long.
    """CREATE TABLE extent (
        id INTEGER PRIMARY KEY, part INTEGER NOT NULL, bytes INTEGER NOT NULL, used REAL NOT NULL, pinned INTEGER NOT NULL,
        complete INTEGER NOT NULL, chunks INTEGER NOT NULL, members BLOB NOT NULL)""",
    "CREATE INDEX extent_used ON extent (part, used) WHERE pinned = 0 AND complete = 1",
    "CREATE INDEX extent_incomplete ON extent (id) WHERE complete = 0",
    # key: the digest and a byte for the kind, as what was verified as one kind of chunk is nothing of another.
    """CREATE TABLE chunk (
        key BLOB PRIMARY KEY, extent INTEGER NOT NULL, offset INTEGER NOT NULL, length INTEGER NOT NULL, size INTEGER NOT NULL,
        flags INTEGER NOT NULL) WITHOUT ROWID""",
    "CREATE TABLE answer (key TEXT PRIMARY KEY, stored REAL NOT NULL, value BLOB NOT NULL)",
    "CREATE INDEX answer_stored ON answer (stored)",
    "CREATE TABLE counter (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID",
)

_ROW: Final = "hex(key) || ' ' || extent || ' ' || offset || ' ' || length || ' ' || size || ' ' || flags"

Row = tuple[bytes, int, int, int, int, int]
"""Key, extent, offset, stored length, plain size, flags."""


class Extent(NamedTuple):
    """An extent that may go: its number, its part, the bytes it takes on the disk, and its members' keys."""

    id: int
    part: int
    taken: int
    pinned: bool
    members: bytes


class Sums(NamedTuple):
    """Bytes that the extents of one part take on the disk, and pinned ones of them."""

    taken: int
    pinned: int


class PartCounts(msgspec.Struct, frozen=True):
    """Of one part: bytes as taken on the disk, complete extents, chunks in them."""

    taken: int = 0
    pinned: int = 0
    extents: int = 0
    chunks: int = 0


def make_key(digest: bytes, kind: int) -> bytes:
    """What a chunk of a kind is called in the catalog."""
    return digest + bytes((kind,))


class Catalog:
    """The catalog in a file. ``create`` makes its tables: only under the directory's exclusive lock, where no file is.

    Errors as :func:`translate_sqlite` gives them.
    """

    def __init__(self, path: Path, *, create: bool = False) -> None:
        self.path = path
        self._closed = False
        self._asking = threading.Lock()
        self._changer: sqlite3.Connection | None = None  # both are closed while the process forks
        self._asker: sqlite3.Connection | None = None
        self._gate = Gate(seconds=BUSY_SECONDS)
        with self._gate, self._translated():
            self._changer = self._connect(create=create)
            try:
                if create:
                    self._make_tables()
                elif self._changer.execute("PRAGMA application_id").fetchall() != [(APPLICATION_ID,)]:
                    raise Integrity(f"{path} is no catalog of a cache")
                self._asker = self._connect()
            except BaseException:
                self._let_go()
                raise
            # Not that of another file which is made in its place: while this one is open its number is not given again.
            self._identity = _identity(path)
        self._gate.closes(self._let_go)

    def gone(self) -> bool:
        """Whether the file was deleted or replaced since it was opened. 2 µs."""
        return self._closed or self._identity is None or _identity(self.path) != self._identity

    def close(self) -> None:
        """Close both connections. Idempotent."""
        with self._gate, self._asking:
            self._closed = True
            self._let_go()

    # -- asking, from any thread -----------------------------------------------------------------------------------

    def find(self, keys: Sequence[bytes]) -> list[Row]:
        """Rows of those of these chunks that the cache has. One statement for 500 keys."""
        found: list[Row] = []
        with self._translated(), self._asked() as connection:
            for first in range(0, len(keys), _ASKED_AT_ONCE):
                found += _find(connection, keys[first : first + _ASKED_AT_ONCE])
        return found

    def recall(self, key: str) -> bytes | None:
        """A remembered answer."""
        with self._translated(), self._asked() as connection:
            rows = connection.execute("SELECT value FROM answer WHERE key = ?", (key,)).fetchall()
        return self._checked(rows[0], bytes)[0] if rows else None

    def counters(self) -> dict[str, int]:
        """Counts of all processes, as far as they are written."""
        with self._translated(), self._asked() as connection:
            rows = connection.execute("SELECT name, value FROM counter").fetchall()
        return dict(self._checked(row, str, int) for row in rows)

    def parts(self) -> dict[int, PartCounts]:
        """What each part holds. About 1 ms for 10,000 extents."""
        with self._translated(), self._asked() as connection:
            counts = connection.execute(
                "SELECT part, count(*), sum(chunks) FROM extent WHERE complete = 1 GROUP BY part"
            ).fetchall()
            sums = [
                self._checked(row, int, int, int) for row in connection.execute("SELECT part, bytes, pinned FROM part")
            ]
        held = {
            part: (extents, chunks) for part, extents, chunks in (self._checked(row, int, int, int) for row in counts)
        }
        return {part: PartCounts(taken, pinned, *held.get(part, (0, 0))) for part, taken, pinned in sums}

    # -- changing, from the shelf's thread -------------------------------------------------------------------------

    @contextmanager
    def changing(self) -> Iterator[None]:
        """One transaction: all of what is called inside, or nothing."""
        with self._translated():
            self._writer.execute("BEGIN IMMEDIATE").close()
            try:
                yield
                self._writer.execute("COMMIT").close()
            except BaseException:
                with suppress(sqlite3.Error):  # SQLite ends some failed transactions itself
                    self._writer.execute("ROLLBACK").close()
                raise

    def known(self, keys: Sequence[bytes]) -> list[Row]:
        """As :meth:`find`, inside a transaction or not."""
        with self._translated():
            found: list[Row] = []
            for first in range(0, len(keys), _ASKED_AT_ONCE):
                found += _find(self._writer, keys[first : first + _ASKED_AT_ONCE])
            return found

    def sums(self, part: int) -> Sums:
        """Bytes of a part."""
        found = Sums(*self._checked(self._one("SELECT bytes, pinned FROM part WHERE part = ?", (part,)), int, int))
        if not 0 <= found.pinned <= found.taken <= _MOST:
            raise Integrity(
                f"{self.path} is damaged: a part cannot take {found.taken} bytes, {found.pinned} of them pinned"
            )
        return found

    def unfinished_bytes(self) -> int:
        """Bytes of extents that are being written."""
        found: int = self._checked(self._one("SELECT ifnull(sum(bytes), 0) FROM extent WHERE complete = 0"), int)[0]
        return found

    def oldest(self, part: int, count: int) -> list[Extent]:
        """Extents of a part that were used least recently, none that is pinned or being written."""
        return self._extents("part = ? AND pinned = 0 AND complete = 1 ORDER BY used LIMIT ?", (part, count))

    def all_extents(self, count: int, *, pinned: bool) -> list[Extent]:
        """Extents, with the pinned ones or without, none that is being written."""
        return self._extents(f"complete = 1 {'' if pinned else 'AND pinned = 0'} LIMIT ?", (count,))

    def unfinished(self) -> list[Extent]:
        """Extents that are being written, or whose writer died."""
        return self._extents("complete = 0", ())

    def extents(self, numbers: Iterable[int]) -> list[Extent]:
        """Extents with these numbers, as far as they are there."""
        return [found for number in numbers for found in self._extents("id = ?", (number,))]

    def numbers(self, part: int) -> set[int]:
        """Numbers of all extents of a part, also of those that are being written."""
        with self._translated():
            return {row[0] for row in self._writer.execute("SELECT id FROM extent WHERE part = ?", (part,)).fetchall()}

    def reserve(self, extent: Extent, used: float) -> None:
        """Record an extent that is going to be written, and count its bytes."""
        self._run(
            "INSERT INTO extent VALUES (?, ?, ?, ?, ?, 0, ?, ?)",
            (*extent[:3], used, extent.pinned, len(extent.members) // KEY_SIZE, extent.members),
        )
        self._count(extent.part, extent.taken, extent.taken * extent.pinned)

    def record(self, extent: int, rows: Sequence[ChunkRow], keys: Sequence[bytes]) -> int | None:
        """Record the chunks of an extent that has been written. How many are here and nowhere else; None: its row is gone."""
        values: list[Any] = []
        offset = 0
        for row, key in zip(rows, keys, strict=True):
            values += (key, extent, offset, row.length, row.size, row.flags)
            offset += row.length
        recorded = 0
        for first in range(0, len(rows), _WRITTEN_AT_ONCE):
            count = min(_WRITTEN_AT_ONCE, len(rows) - first)
            recorded += self._run(
                f"INSERT OR IGNORE INTO chunk VALUES {','.join(['(?,?,?,?,?,?)'] * count)}",
                values[first * 6 : (first + count) * 6],
            )
        if not self._run("UPDATE extent SET complete = 1, chunks = ? WHERE id = ?", (recorded, extent)):
            return None
        return recorded

    def remove(self, extents: Sequence[Extent]) -> None:
        """Forget extents, as this transaction told them, and their chunks, and no longer count their bytes."""
        if not extents:
            return
        numbers = ",".join(str(extent.id) for extent in extents)
        members = b"".join(extent.members for extent in extents)
        keys = [members[at : at + KEY_SIZE] for at in range(0, len(members), KEY_SIZE)]
        for first in range(0, len(keys), _ASKED_AT_ONCE):
            asked = _padded(keys[first : first + _ASKED_AT_ONCE])
            self._run(f"DELETE FROM chunk WHERE key IN ({_marks(asked)}) AND extent IN ({numbers})", asked)
        self._run(f"DELETE FROM extent WHERE id IN ({numbers})", ())
        for part in {extent.part for extent in extents}:
            some = [extent for extent in extents if extent.part == part]
            pinned = sum(extent.taken for extent in some if extent.pinned)
            self._count(part, -sum(extent.taken for extent in some), -pinned)

    def drop(self, rows: Iterable[Row]) -> list[Extent]:
        """Forget chunks. Extents of which no chunk is left."""
        touched: dict[int, int] = {}
        for key, extent, *_ in rows:
            touched[extent] = touched.get(extent, 0) + self._run(
                "DELETE FROM chunk WHERE key = ? AND extent = ?", (key, extent)
            )
        for extent, count in touched.items():
            self._run("UPDATE extent SET chunks = chunks - ? WHERE id = ?", (count, extent))
        return [
            found for number in touched for found in self._extents("id = ? AND complete = 1 AND chunks <= 0", (number,))
        ]

    def pin(self, numbers: Iterable[int]) -> None:
        """Keep extents from eviction."""
        waiting = list(numbers)
        for first in range(0, len(waiting), _ASKED_AT_ONCE):
            some = ",".join(map(str, waiting[first : first + _ASKED_AT_ONCE]))
            self._run(
                "UPDATE part SET pinned = pinned + (SELECT ifnull(sum(bytes), 0) FROM extent "
                f"WHERE extent.part = part.part AND extent.pinned = 0 AND id IN ({some}))",
                (),
            )
            self._run(f"UPDATE extent SET pinned = 1 WHERE id IN ({some})", ())

    def touch(self, used: Sequence[tuple[int, float]]) -> None:
        """Record when extents were last used."""
        for first in range(0, len(used), _WRITTEN_AT_ONCE):
            some = used[first : first + _WRITTEN_AT_ONCE]
            self._run(
                f"WITH seen (id, at) AS (VALUES {','.join(['(?,?)'] * len(some))}) "
                "UPDATE extent SET used = max(used, seen.at) FROM seen WHERE extent.id = seen.id",
                [value for pair in some for value in pair],
            )

    def remember(self, key: str, value: bytes, *, now: float, limit: int) -> None:
        """Keep an answer; past ``limit`` bytes of answers the oldest go."""
        self._run("INSERT OR REPLACE INTO answer VALUES (?, ?, ?)", (key, now, value))
        while self._one("SELECT ifnull(sum(length(value)), 0) FROM answer")[0] > limit:
            self._run("DELETE FROM answer WHERE stored = (SELECT min(stored) FROM answer)", ())

    def forget_answers(self) -> None:
        """Forget all answers."""
        self._run("DELETE FROM answer", ())

    def add(self, counts: Iterable[tuple[str, int]]) -> None:
        """Add to counters."""
        for name, count in counts:
            self._run(
                "INSERT INTO counter VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = value + excluded.value",
                (name, count),
            )

    def add_part(self, part: int) -> None:
        """Begin a part that holds nothing."""
        self._run("INSERT INTO part VALUES (?, 0, 0)", (part,))

    def recount(self) -> None:
        """Make the sums anew."""
        self._run(
            "UPDATE part SET bytes = (SELECT ifnull(sum(bytes), 0) FROM extent WHERE extent.part = part.part), pinned = "
            "(SELECT ifnull(sum(bytes * pinned), 0) FROM extent WHERE extent.part = part.part)",
            (),
        )

    def boot(self) -> str:
        """Of which start of the machine it is known that table and files agree."""
        rows = self._rows("SELECT value FROM meta WHERE key = 'boot'", ())
        return str(rows[0][0]) if rows else ""

    def set_boot(self, boot: str) -> None:
        """See :meth:`boot`."""
        self._run("INSERT OR REPLACE INTO meta VALUES ('boot', ?)", (boot,))

    def shrink(self) -> None:
        """Give the file's free pages and its log back to the disk."""
        with self._translated():
            # A script, as the statement is to be stepped to its end though it gives no rows.
            self._writer.executescript("PRAGMA incremental_vacuum; PRAGMA wal_checkpoint(TRUNCATE)").close()

    def files(self) -> list[Path]:
        """The files that it consists of."""
        return [self.path.with_name(self.path.name + end) for end in ("", "-wal", "-shm")]

    # -- statements ------------------------------------------------------------------------------------------------

    def _run(self, statement: str, values: Sequence[Any]) -> int:
        """Run a statement that gives nothing back; how many rows it changed."""
        with self._translated():
            cursor = self._writer.execute(statement, values)
            changed = cursor.rowcount
            cursor.close()
            return changed

    def _rows(self, statement: str, values: Sequence[Any]) -> list[Any]:
        with self._translated():
            return self._writer.execute(statement, values).fetchall()

    def _one(self, statement: str, values: Sequence[Any] = ()) -> Any:
        rows = self._rows(statement, values)
        if not rows:
            raise Integrity(f"{self.path} lacks a row")
        return rows[0]

    def _extents(self, which: str, values: Sequence[Any]) -> list[Extent]:
        rows = self._rows(f"SELECT id, part, bytes, pinned, members FROM extent WHERE {which}", values)
        checked = (self._checked(row, int, int, int, int, bytes) for row in rows)
        return [Extent(number, part, taken, bool(pinned), members) for number, part, taken, pinned, members in checked]

    def _checked(self, row: Sequence[Any], *types: type) -> Any:
        """A row whose values have these types. Integrity otherwise: SQLite has any value in any column, and a bit may flip."""
        if not all(map(isinstance, row, types)):
            raise Integrity(f"{self.path} is damaged: a row holds what no row does")
        return row

    def _count(self, part: int, taken: int, pinned: int) -> None:
        self._run("UPDATE part SET bytes = bytes + ?, pinned = pinned + ? WHERE part = ?", (taken, pinned, part))

    @contextmanager
    def _asked(self) -> Iterator[sqlite3.Connection]:
        with self._gate:
            if not self._asking.acquire(timeout=_ASK_SECONDS):
                raise Unavailable(f"{self.path} does not answer; try again")
            try:
                if self._asker is None:
                    self._asker = self._connect_again()
                yield self._asker
            finally:
                self._asking.release()

    @property
    def _writer(self) -> sqlite3.Connection:
        if self._changer is None:
            self._changer = self._connect_again()
        return self._changer

    def _connect_again(self) -> sqlite3.Connection:
        if self._closed:
            raise Unavailable(f"{self.path} was closed")
        if self.gone():
            raise Unavailable(f"{self.path} was replaced; try again")
        return self._connect()

    def _let_go(self) -> None:
        """Close both connections for now. When nobody uses them."""
        for connection in (self._asker, self._changer):
            if connection is not None:
                connection.close()
        self._asker = self._changer = None

    def _connect(self, *, create: bool = False) -> sqlite3.Connection:
        connection = sqlite3.connect(
            f"{self.path.as_uri()}?mode={'rwc' if create else 'rw'}",
            uri=True,
            timeout=BUSY_SECONDS,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=256,
        )
        try:
            for setting in (
                "auto_vacuum = INCREMENTAL",  # counts before the first table only
                "journal_mode = WAL",
                # Synced at checkpoints alone: a crash of the machine costs the last rows, not the file.
                "synchronous = NORMAL",
                f"wal_autocheckpoint = {_CHECKPOINT_PAGES}",
                f"journal_size_limit = {_LOG_KEPT}",
                f"cache_size = -{_CACHE_KIB}",
                "cell_size_check = ON",  # a damaged page is an error when it is read, not a wrong row
                "trusted_schema = OFF",  # nothing in the file's schema may call functions
            ):
                connection.execute(f"PRAGMA {setting}").close()
        except BaseException:
            connection.close()
            raise
        return connection

    def _make_tables(self) -> None:
        with self.changing():
            for statement in _SCHEMA:
                self._writer.execute(statement).close()
            self._writer.execute(f"PRAGMA application_id = {APPLICATION_ID}").close()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            if self._closed:
                raise Unavailable(f"{self.path} was closed") from error
            raise translate_sqlite(error, str(self.path)) from error


def translate_sqlite(error: sqlite3.Error, what: str) -> ArtifactFSError:
    """SQLite's errors about a file of the cache: NoSpace, Unavailable (it may pass), Integrity (to be made anew)."""
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:  # raised by the driver itself, as for text that is no UTF-8
        return Integrity(f"{what} is damaged ({error})")
    if code in {sqlite3.SQLITE_IOERR_READ, sqlite3.SQLITE_IOERR_SHORT_READ}:
        return Integrity(f"{what} cannot be read ({error})")
    match code & 0xFF:
        case sqlite3.SQLITE_FULL:
            return NoSpace(f"{what} cannot grow, the disk is full; free some space")
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB | sqlite3.SQLITE_ERROR | sqlite3.SQLITE_CONSTRAINT:
            return Integrity(f"{what} is damaged ({error})")
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return Unavailable(f"{what} is held by another process; try again")
        case _:
            return Unavailable(f"{what} cannot be read or written ({error}); check the disk and permissions")


def _find(connection: sqlite3.Connection, keys: Sequence[bytes]) -> list[Row]:
    if len(keys) == 1:
        statement = "SELECT key, extent, offset, length, size, flags FROM chunk WHERE key = ?"
        return [_row(*row) for row in connection.execute(statement, keys).fetchall()]
    asked = _padded(keys)
    statement = f"SELECT group_concat({_ROW}, char(10)) FROM chunk WHERE key IN ({_marks(asked)})"
    text: str | None = connection.execute(statement, asked).fetchall()[0][0]
    if text is None:
        return []
    try:
        return [
            _row(bytes.fromhex(key), int(extent), int(offset), int(length), int(size), int(flags))
            for key, extent, offset, length, size, flags in (line.split(" ") for line in text.split("\n"))
        ]
    except ValueError as error:
        raise Integrity(f"the catalog of the cache is damaged: {error}") from error


def _row(key: object, extent: object, offset: object, length: object, size: object, flags: object) -> Row:
    """A row as it can be: others would be read as a place that no file has, or as more bytes than there is memory."""
    if (
        isinstance(key, bytes)
        and type(extent) is type(offset) is type(length) is type(size) is type(flags) is int
        and extent >= 0
        and 0 <= offset <= LARGEST
        and 0 < length <= LARGEST
        and 0 < size <= LARGEST
        and 0 <= flags <= 0xFF
    ):
        return key, extent, offset, length, size, flags
    raise Integrity("the catalog of the cache is damaged: a chunk's row is none that it can have")


def _padded(keys: Sequence[bytes]) -> Sequence[bytes]:
    """Keys, the last one repeated, so that few statements are prepared."""
    wanted = next(size for size in (8, 64, _ASKED_AT_ONCE) if size >= len(keys))
    return [*keys, *[keys[-1]] * (wanted - len(keys))]


def _marks(values: Sequence[object]) -> str:
    return ",".join("?" * len(values))


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(path)  # noqa: PTH116 - on the path of every question
    except OSError:
        return None
    return found.st_dev, found.st_ino

"""A registry's SQLite file: creating and opening it, its connections and transactions, and its errors in our words.

Used by :mod:`artifactfs.registry.sql`, which knows the tables' meaning but no SQLite. Safe from any thread: readers draw
connections from a bounded pool, writers of this process queue on one lock (16 writers that leave the queueing to
SQLite's busy handler starved each other for up to 1.2 s), and those of other processes on SQLite's own. At a fork
nothing is open (:mod:`artifactfs.forks`).

Durability. The commit of a transaction at synchronous=FULL syncs the log before it becomes visible. One at NORMAL is
visible and atomic at once, and not synced. It lies in the log *before* every later commit, whose sync covers the whole
file, and after a crash a frame counts only when the checksums, which run on from frame to frame, hold up to it
(https://sqlite.org/fileformat2.html, section 4.1). A checkpoint syncs the log before it copies
(https://sqlite.org/pragma.html#pragma_synchronous). So a durable commit makes durable what was committed before it.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
import threading
import urllib.parse
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, Table, create_engine
from sqlalchemy.dialects.sqlite import dialect, insert
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import QueuePool
from sqlalchemy.schema import CreateIndex, CreateTable

from artifactfs.errors import Access, ArtifactFSError, Format, Integrity, NoSpace, NotFound, Unavailable, translate_os
from artifactfs.forks import Gate
from artifactfs.registry.database import BUSY_SECONDS, READERS, as_json, read_json
from artifactfs.registry.migration import OLDEST, migrate
from artifactfs.registry.netfs import refuse_network_filesystem
from artifactfs.registry.schema import FORMAT, FORMAT_KEY, TABLES

# In bytes 68-71 of the file (PRAGMA application_id): "AFSr". Tells a registry from any other SQLite file.
APPLICATION_ID: Final = 0x41465372

# Chunk rows arrive in random order of digest, so that one pack's rows touch most pages of the table. Inserting up to a million
# rows, 5,000 a transaction: 12.7 us for the last ones with pages of 4 KiB and a checkpoint every 1,000, 6.0 us with these two.
_PAGE_SIZE: Final = 8192  # bytes
_CHECKPOINT_PAGES: Final = 4000  # 32 MiB of log
_LOG_KEPT: Final = 64 * 1024 * 1024  # bytes: a log that grew during an import shrinks to this
_CACHE_KIB: Final = 8192  # of pages, a connection

_MENDED: Final = "run `artifactfs verify --repair`, and where that cannot mend it restore the file from a backup"

# https://sqlite.org/rescode.html; the low byte of an extended code is its class, unless it stands here itself.
_ERRORS: Final[dict[int, tuple[type[ArtifactFSError], str]]] = {
    sqlite3.SQLITE_CORRUPT: (Integrity, f"is damaged: {_MENDED}"),
    sqlite3.SQLITE_NOTADB: (
        Integrity,
        "is no SQLite file, or its beginning is damaged: restore the file from a backup",
    ),
    sqlite3.SQLITE_CONSTRAINT: (Integrity, "contradicts itself: run `artifactfs verify`"),
    sqlite3.SQLITE_FULL: (NoSpace, "cannot grow, the disk is full: nothing was changed; free some space and repeat"),
    # The first who opens the file makes 32 KiB of shared memory beside it.
    sqlite3.SQLITE_IOERR_SHMSIZE: (NoSpace, "cannot be opened, the disk is full: free some space and repeat"),
    sqlite3.SQLITE_BUSY: (Unavailable, "is held by another process; repeat when that has ended"),
    sqlite3.SQLITE_LOCKED: (Unavailable, "is held by another process; repeat when that has ended"),
    sqlite3.SQLITE_PROTOCOL: (Unavailable, "is held by another process; repeat when that has ended"),
    sqlite3.SQLITE_READONLY: (Access, "cannot be written: check the permissions of the file and of its directory"),
    sqlite3.SQLITE_PERM: (Access, "cannot be written: check the permissions of the file and of its directory"),
    sqlite3.SQLITE_AUTH: (Access, "cannot be written: check the permissions of the file and of its directory"),
    sqlite3.SQLITE_CANTOPEN: (Access, "cannot be opened: check the permissions of the file and of its directory"),
    sqlite3.SQLITE_IOERR: (Unavailable, "cannot be read or written: the disk reports an error"),
    sqlite3.SQLITE_ERROR: (Format, "lacks tables of its format: restore the file from a backup"),
}


class SQLiteDatabase:
    """A :class:`~artifactfs.registry.database.Database`: one SQLite file.

    ``seconds`` bounds every wait for another writer or for a free connection.
    """

    def __init__(self, path: str | os.PathLike[str], *, create: bool = False, seconds: float = BUSY_SECONDS) -> None:
        self.path = Path(path).absolute()
        self._seconds = seconds
        self._closed = False
        refuse_network_filesystem(self.path, what="the registry")
        self._gate = Gate(seconds=seconds)
        with self._gate:
            self._open(create=create)
        self._gate.closes(self._let_go)

    @property
    def outlived(self) -> bool:
        """Not by those who open the file: what takes from it what was not flushed, a crash of the machine, ends them too."""
        return False

    def _open(self, *, create: bool) -> None:
        if create and not self.path.exists():
            self._create()
        if not self.path.is_file():
            raise NotFound(f"there is no registry at {self.path}; `artifactfs init` makes a repository")
        self._file = _identity(self.path)
        # A connection of its own for `revision`, below SQLAlchemy and never writing.
        self._watch_lock = threading.Lock()
        self._watch: sqlite3.Connection | None = None
        try:
            older = self._check_format(self._watching())
        except BaseException:
            self._unwatch()
            raise
        self._writer = threading.Lock()
        self._inserts: dict[tuple[str, tuple[str, ...]], str] = {}
        self._engine = create_engine(
            "sqlite://",
            creator=self._connect,
            poolclass=QueuePool,
            pool_size=READERS,
            max_overflow=0,
            pool_timeout=self._seconds,
            pool_use_lifo=True,  # few warm page caches rather than many cold ones
            json_serializer=as_json,
            json_deserializer=read_json,
        )
        if older:
            try:
                with self.writing(durable=True) as connection:
                    migrate(connection)
            except BaseException:
                self.close()
                raise

    def __str__(self) -> str:
        return f"the registry {self.path}"

    def close(self) -> None:
        """Close every connection. Idempotent; the last one of all processes folds the log into the file."""
        with self._watch_lock:
            self._closed = True
            self._unwatch()
        self._engine.dispose()

    def _let_go(self) -> None:
        """Close every connection for now; new ones are opened as they are needed."""
        with self._watch_lock:
            self._unwatch()
        self._engine.dispose()

    def _watching(self) -> sqlite3.Connection:
        self._require_open()
        if self._watch is None:
            with self._translated():
                self._watch = self._connect()
        return self._watch

    def _unwatch(self) -> None:
        if self._watch is not None:
            self._watch.close()
            self._watch = None

    # -- transactions ----------------------------------------------------------------------------------------------

    @contextmanager
    def reading(self, *, seconds: float | None = None) -> Iterator[Connection]:
        """A connection on which every statement sees one commit or the next, never a part. No statement waits, nor is bounded."""
        del seconds
        self._require_open()
        with self._gate, self._translated(), self._engine.connect() as connection:
            yield connection

    @contextmanager
    def writing(self, *, durable: bool) -> Iterator[Connection]:
        """One transaction that holds the write lock from its begin on; committed at the end, undone when the body raises.

        ``durable``: synced to the disk on return, with all that was committed before (see the module).
        """
        self._require_open()
        with self._gate:
            if not self._writer.acquire(timeout=self._seconds):
                raise Unavailable(
                    f"{self} is busy: another thread has been writing for {self._seconds:g} s; repeat later"
                )
            try:
                with self._translated(), self._engine.connect() as connection:
                    connection.exec_driver_sql(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
                    # IMMEDIATE: a transaction that begins by reading could not become a writer after another one wrote.
                    connection.exec_driver_sql("BEGIN IMMEDIATE")
                    self._require_file()
                    yield connection
                    connection.commit()
            finally:
                self._writer.release()

    def insert_absent(self, connection: Connection, table: Table, names: Sequence[str], rows: list[Any]) -> None:
        """Insert rows (tuples in the order of ``names``) whose keys are not there yet; the others stay as they are.

        The statement is compiled once and its rows go straight to the driver: 2 us a row, against 5 through Core. JSON therefore
        goes as text (:func:`as_json`).
        """
        key = (table.name, tuple(names))
        text = self._inserts.get(key)
        if text is None:
            statement = insert(table).on_conflict_do_nothing()
            text = str(statement.compile(dialect=self._engine.dialect, column_keys=list(names)))
            self._inserts[key] = text
        connection.exec_driver_sql(text, rows)

    def revision(self, project: str) -> int:
        """The revision of the project with this name; 0 when it is not there.

        One SELECT of cached pages: 4 us. `PRAGMA data_version` alone, to know whether to ask, takes 2.4: both look into the
        log's shared memory.
        """
        try:
            with self._gate, self._watch_lock:
                # fetchall: a statement that is not run to its end would hold a read transaction, and the log could not be reset.
                rows = self._watching().execute("SELECT revision FROM project WHERE name = ?", (project,)).fetchall()
        except sqlite3.Error as error:
            raise self._translate(error) from error
        revision = rows[0][0] if rows else 0
        if not isinstance(revision, int):
            raise Integrity(f"{self} is damaged: {_MENDED}")
        return revision

    def damages(self) -> list[str]:
        """What SQLite finds wrong with the file, a line each. Reads all of it."""
        self._require_open()
        found: list[str] = []
        for check, lines_of in (("integrity_check", _integrity_lines), ("foreign_key_check", _foreign_key_lines)):
            try:
                with self.reading() as connection:
                    rows = connection.exec_driver_sql(f"PRAGMA {check}").all()
            except (Integrity, Format, Unavailable) as error:
                found.append(str(error))
                continue
            found += [f"{self}: {line}" for row in rows for line in lines_of(row)]
        return found

    # -- opening ---------------------------------------------------------------------------------------------------

    def _connect(self, path: Path | None = None, *, mode: str = "rw") -> sqlite3.Connection:
        """A connection in driver autocommit, where a transaction is what BEGIN begins. Never creates a file in mode rw."""
        address = f"file:{urllib.parse.quote(str(path or self.path))}?mode={mode}"
        connection = sqlite3.connect(
            address, uri=True, timeout=self._seconds, isolation_level=None, check_same_thread=False
        )
        try:
            for setting in (
                "foreign_keys=ON",
                f"cache_size=-{_CACHE_KIB}",
                f"wal_autocheckpoint={_CHECKPOINT_PAGES}",
                f"journal_size_limit={_LOG_KEPT}",
                "cell_size_check=ON",  # a damaged page is an error when it is read, not a wrong row
                "trusted_schema=OFF",  # nothing in the file's schema may call functions
            ):
                connection.execute(f"PRAGMA {setting}").close()
        except BaseException:
            connection.close()
            raise
        return connection

    def _create(self) -> None:
        """Make the file beside and link it to its name: there is a whole registry or none, and of two creators one wins."""
        if not self.path.parent.is_dir():
            raise NotFound(f"{self} cannot be created: {self.path.parent} is no directory; make it first")
        beside = self.path.with_name(f"{self.path.name}.{secrets.token_hex(8)}.new")
        try:
            try:
                with self._translated(), closing(self._connect(beside, mode="rwc")) as connection:
                    # The page size counts only before the first page is written. Synced as a whole below.
                    for setting in (f"page_size={_PAGE_SIZE}", f"application_id={APPLICATION_ID}", "synchronous=OFF"):
                        connection.execute(f"PRAGMA {setting}").close()
                    for statement in _definitions():
                        connection.execute(statement).close()
                    connection.execute("INSERT INTO meta VALUES (?, ?)", (FORMAT_KEY, str(FORMAT))).close()
                    connection.execute("PRAGMA journal_mode=WAL").close()  # stays with the file
                _sync(beside)
                os.link(beside, self.path)
                _sync(self.path.parent)
            except FileExistsError:
                pass  # another process was first
            finally:
                beside.unlink(missing_ok=True)
        except OSError as error:
            raise translate_os(error, f"the registry {self.path} cannot be created") from error

    def _check_format(self, connection: sqlite3.Connection) -> bool:
        """Refuse what is none of our files, or a newer one; whether it has an older format."""
        with self._translated():
            application = connection.execute("PRAGMA application_id").fetchall()[0][0]
            if application != APPLICATION_ID:
                raise Format(f"{self.path} is a SQLite file, but no ArtifactFS registry; choose another path")
            rows = connection.execute("SELECT value FROM meta WHERE key = ?", (FORMAT_KEY,)).fetchall()
        found = rows[0][0] if rows else "none"
        older = found in {str(number) for number in range(OLDEST, FORMAT)}
        if found != str(FORMAT) and not older:
            raise Format(f"{self} has format {found}, this release reads format {FORMAT}; use a newer release")
        with self._translated():
            # Once in a file it stays, but a copy by VACUUM INTO, as backups are made, comes without.
            if connection.execute("PRAGMA journal_mode").fetchall()[0][0] != "wal":
                connection.execute("PRAGMA journal_mode=WAL").close()
        return older

    # -- errors ----------------------------------------------------------------------------------------------------

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, SQLAlchemyError) as error:
            raise self._translate(error) from error

    def _translate(self, error: Exception) -> ArtifactFSError:
        """The one table from SQLite's and SQLAlchemy's errors to ours."""
        if isinstance(error, PoolTimeout):
            return Unavailable(f"{self} is busy: no connection became free within {self._seconds:g} s; repeat later")
        cause = error.orig if isinstance(error, DBAPIError) else error
        code = getattr(cause, "sqlite_errorcode", None)
        if code is not None:
            kind, words = _ERRORS.get(code) or _ERRORS.get(code & 0xFF, (Unavailable, "does not answer"))
            return kind(f"{self} {words} ({cause}, {getattr(cause, 'sqlite_errorname', code)})")
        if self._closed:
            return Unavailable(f"{self} was closed")
        if isinstance(cause, sqlite3.OperationalError):  # raised by the driver itself for text that is no UTF-8
            return Integrity(f"{self} is damaged: {_MENDED} ({cause})")
        return ArtifactFSError(f"{self} failed: {cause}")

    def _require_open(self) -> None:
        if self._closed:
            raise Unavailable(f"{self} was closed")

    def _require_file(self) -> None:
        """What is written to a file that has lost its name is acknowledged and gone; SQLite does not look (in WAL mode)."""
        if _identity(self.path) != self._file:
            raise NotFound(f"{self} is gone: it was moved, deleted or replaced while it was open")


def _definitions() -> Iterator[str]:
    form = dialect()
    for table in TABLES.sorted_tables:
        yield str(CreateTable(table).compile(dialect=form))
        for index in table.indexes:
            yield str(CreateIndex(index).compile(dialect=form))


def _integrity_lines(row: Sequence[Any]) -> list[str]:
    # "ok", or several findings in one text below a heading "*** in database main ***".
    return [line for line in str(row[0]).splitlines() if line != "ok" and not line.startswith("***")]


def _foreign_key_lines(row: Sequence[Any]) -> list[str]:
    table, rowid, parent, _ = row
    return [f"a row of {table} ({rowid}) names a missing {parent}"]


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

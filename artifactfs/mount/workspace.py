"""Workspace: the directory in which one mount keeps its staging areas, and the tables in it.

::

    lock              held by the daemon that owns the workspace; contains its process id
    workspace.db      SQLite: areas, inodes, names, xattrs, layers, extents, and whose they are
    files/XX/ID       sparse local files, one a layer (mount/layers.py), in hexadecimal; XX is ID without its last 10 bits:
                      on ext4 5,000 files took 30 µs each so, and 80 to 1,100 spread over 256 directories

Used by the modules of staging alone (inodes, files, areas, aside, freeze), which know the meaning of the rows. One connection, guarded
by :attr:`Workspace.lock`, which is reentrant and guards all metadata of staging; no file content is read or written under it.

Invariant *acknowledged is kept*: an operation is one SQLite transaction, and the write-ahead log of a finished transaction
outlives the process (not the machine: that takes :meth:`Workspace.sync`). A row is never ahead of the bytes it speaks of.

Invariant *no lost file*: a local file's layer row, or its row in ``garbage``, is committed before the file is made, and the row goes
after the file is gone.
"""

from __future__ import annotations

import errno
import fcntl
import os
import sqlite3
from contextlib import suppress
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING, Any, Final

import msgspec

from artifactfs import __version__
from artifactfs.errors import Conflict, Format, translate_os
from artifactfs.mount.layers import LocalFile
from artifactfs.mount.room import Room
from artifactfs.registry.netfs import refuse_network_filesystem

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

FORMAT: Final = 2
APPLICATION_ID: Final = 0x41465377  # "AFSw" in bytes 68-71 of the file

NUMBERS_RESERVED: Final = 4096
"""Inode and layer numbers reserved by one write; a kill wastes the rest of them (of 2^60)."""
GARBAGE_BATCH: Final = 256
"""Rows of deleted local files that are removed together."""

_CHECKPOINT_PAGES: Final = 8000  # 32 MiB of log: a checkpoint costs two fsyncs, here one in about 3,000 operations
_LOG_KEPT: Final = 64 * 1024 * 1024  # bytes
_CACHE_KIB: Final = 32768

# One row a statement; a reader of the tables finds their meaning in the modules named.
# What format 2 has beyond format 1, which therefore becomes format 2 by these alone.
_ADDED: Final = (
    # Whose workspace this is (mountpoint, repository, project), and the release that wrote its format.
    "CREATE TABLE about (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    # aside.py. What was discarded of an artifact's area and may come back: the area as it was. Its rows bear the area -id.
    """CREATE TABLE discarded (
        id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL, at INTEGER NOT NULL, root INTEGER NOT NULL,
        origin INTEGER, base_number INTEGER, base_digest BLOB, base_created INTEGER NOT NULL, following INTEGER NOT NULL,
        generation INTEGER NOT NULL,
        pending_commit TEXT, pending_digest BLOB, pending_generation INTEGER)""",
)

_SCHEMA: Final = (
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID",
    # inodes.py. An area without base_number had no version when it began; without base_digest it began empty.
    """CREATE TABLE area (
        id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, root INTEGER NOT NULL,
        origin INTEGER, base_number INTEGER, base_digest BLOB, base_created INTEGER NOT NULL, following INTEGER NOT NULL,
        generation INTEGER NOT NULL,
        pending_commit TEXT, pending_digest BLOB, pending_generation INTEGER)""",
    # inodes.py. An immutable tree that untouched entries of an area still come from.
    """CREATE TABLE origin (
        id INTEGER PRIMARY KEY AUTOINCREMENT, area INTEGER NOT NULL, digest BLOB NOT NULL, created INTEGER NOT NULL)""",
    # inodes.py. mode has the type bits. digest: of a file without layer its content, of a directory its tree in the origin.
    # committed: of a directory its tree in the base. open: written to and not yet recorded, look at the local file.
    """CREATE TABLE inode (
        id INTEGER PRIMARY KEY, area INTEGER NOT NULL, mode INTEGER NOT NULL, uid INTEGER NOT NULL, gid INTEGER NOT NULL,
        atime INTEGER NOT NULL, mtime INTEGER NOT NULL, ctime INTEGER NOT NULL, size INTEGER NOT NULL, nlink INTEGER NOT NULL,
        target BLOB, reference BLOB, digest BLOB, layer INTEGER, origin INTEGER, position INTEGER, committed BLOB,
        open INTEGER NOT NULL)""",
    "CREATE INDEX inode_open ON inode (id) WHERE open = 1",
    # inodes.py. child NULL: the name is gone though the origin or the base has it. changed: generation of the last change of what the
    # name stands for, 0 none since the base. bound: generation in which the name came to stand for this child.
    """CREATE TABLE link (
        parent INTEGER NOT NULL, name BLOB NOT NULL, child INTEGER, flags INTEGER NOT NULL, changed INTEGER NOT NULL,
        bound INTEGER NOT NULL, PRIMARY KEY (parent, name)) WITHOUT ROWID""",
    "CREATE INDEX link_child ON link (child) WHERE child IS NOT NULL",
    "CREATE INDEX link_changed ON link (parent, name) WHERE changed <> 0",
    """CREATE TABLE xattr (
        inode INTEGER NOT NULL, name BLOB NOT NULL, value BLOB NOT NULL, PRIMARY KEY (inode, name)) WITHOUT ROWID""",
    # layers.py. Over another layer (below), over a version's content (digest, base_size), or over nothing.
    """CREATE TABLE layer (
        id INTEGER PRIMARY KEY, area INTEGER NOT NULL, generation INTEGER NOT NULL,
        below INTEGER, digest BLOB, base_size INTEGER NOT NULL, base_limit INTEGER NOT NULL)""",
    "CREATE INDEX layer_below ON layer (below) WHERE below IS NOT NULL",
    # layers.py. Half-open ranges of a layer's own bytes; only for layers that are over something.
    """CREATE TABLE extent (
        layer INTEGER NOT NULL, start INTEGER NOT NULL, end INTEGER NOT NULL, PRIMARY KEY (layer, start)) WITHOUT ROWID""",
    # Local files that no row refers to any more.
    "CREATE TABLE garbage (layer INTEGER PRIMARY KEY)",
    *_ADDED,
)


class Place(msgspec.Struct, frozen=True):
    """Whose staging a workspace keeps: a mount point, and the repository and project that are mounted there."""

    mountpoint: str
    repository: str
    project: str


class Transaction:
    """``with workspace.transaction:`` all of it or nothing. Reentrant: what is inside belongs to the outermost one.

    Holds the workspace's lock. An error rolls back, lets :attr:`Workspace.on_rollback` repair what is in memory, and passes on.
    """

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._depth = 0

    def __enter__(self) -> None:
        workspace = self._workspace
        workspace.lock.acquire()
        if self._depth == 0:
            try:
                workspace.execute("BEGIN IMMEDIATE")
            except BaseException:
                workspace.lock.release()
                raise
        self._depth += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        workspace = self._workspace
        self._depth -= 1
        try:
            if self._depth:
                return
            if kind is None:
                try:
                    workspace.execute("COMMIT")
                except OSError:
                    workspace.rollback()
                    raise
            else:
                workspace.rollback()
        finally:
            workspace.lock.release()


class Workspace:
    """An open workspace, owned by this process.

    ``place`` is written into it; None leaves what is there. ``limit``: bytes that local files may take, None: what the disk has.
    Raises Conflict (another daemon has it; names its process), Format (a newer one), InvalidInput (network file system), Access.
    """

    def __init__(self, path: Path, *, place: Place | None = None, limit: int | None = None) -> None:
        self.path = path
        self.lock = RLock()
        self.transaction = Transaction(self)
        self.on_rollback: Callable[[], None] = lambda: None
        self.holds = 0
        """Frozen generations that may still read local files which nothing else refers to. Guarded by ``lock``."""
        self._garbage: list[int] = []  # files to delete
        self._deleted: list[int] = []  # files deleted whose rows are still there
        self._next: dict[str, int] = {}
        self._reserved: dict[str, int] = {}
        refuse_network_filesystem(path, what="the workspace of a mount")
        try:
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock_file = _take_lock(path / "lock", path)
        except OSError as error:
            raise translate_os(error, f"cannot open the workspace {path}") from error
        try:
            self._db = self._connect()
            self._prepare()
            if place is not None:
                self._note(msgspec.structs.asdict(place))
            (path / "files").mkdir(exist_ok=True)
            for directory in (path / "files").iterdir():
                with suppress(OSError):  # the others hold something
                    directory.rmdir()
        except BaseException:
            os.close(self._lock_file)
            raise
        self.room = Room(path / "files", limit=limit)
        self._garbage = [row[0] for row in self.execute("SELECT layer FROM garbage")]
        self.collect()

    # -- statements ------------------------------------------------------------------------------------------------

    def execute(self, statement: str, values: Sequence[Any] = ()) -> sqlite3.Cursor:
        """Run a statement, under the lock. SQLite's errors become OSError (ENOSPC when the disk is full, else EIO)."""
        try:
            return self._db.execute(statement, values)
        except sqlite3.Error as error:
            raise _translate(error) from error

    def rollback(self) -> None:
        """End a failed transaction and repair what is in memory; called under the lock."""
        with suppress(OSError):  # SQLite ends some failed transactions itself
            self.execute("ROLLBACK")
        self._reserved.clear()
        self.on_rollback()

    def number(self, kind: str) -> int:
        """The next number of a kind (``inode``, ``layer``). Never one that was given before, also after a kill."""
        with self.lock:
            if kind not in self._next:
                row = self.execute("SELECT value FROM meta WHERE key = ?", (kind,)).fetchone()
                self._next[kind] = row[0] if row else 1
            value = self._next[kind]
            if value >= self._reserved.get(kind, 0):
                limit = value + NUMBERS_RESERVED
                self.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (kind, limit))
                self._reserved[kind] = limit
            self._next[kind] = value + 1
            return value

    def snapshot(self) -> sqlite3.Connection:
        """A connection that sees the tables as they are now, for as long as it is open. For one thread at a time."""
        connection = self._connect()
        try:
            connection.execute("PRAGMA query_only = 1")
            connection.execute("BEGIN")
            connection.execute("SELECT value FROM meta WHERE key = 'format'").fetchone()
        except sqlite3.Error as error:
            connection.close()
            raise _translate(error) from error
        return connection

    def sync(self) -> None:
        """Make everything in the tables so far durable, over a crash of the machine too."""
        with self.lock:
            # A commit at FULL syncs the log, and with it every earlier transaction (see registry/sqlite.py).
            self.execute("PRAGMA synchronous = FULL")
            try:
                with self.transaction:
                    self.execute("INSERT OR REPLACE INTO meta VALUES ('synced', 1 + ifnull("
                                 "(SELECT value FROM meta WHERE key = 'synced'), 0))")  # fmt: skip
            finally:
                self.execute("PRAGMA synchronous = NORMAL")

    # -- local files -----------------------------------------------------------------------------------------------

    def layer_path(self, layer: int) -> str:
        """Where the local file of a layer is, or will be."""
        return f"{self.path}/files/{layer >> 10:02x}/{layer:x}"

    def local_file(self, layer: int) -> LocalFile:
        """The local file of a layer, which need not be there yet."""
        return LocalFile(self.layer_path(layer), self.room)

    def discard(self, layers: Sequence[int]) -> None:
        """Give local files, whose rows in ``garbage`` are committed, to the next :meth:`collect`."""
        with self.lock:
            self._garbage.extend(layers)

    def collect(self) -> None:
        """Delete discarded local files, unless a frozen generation may still read them."""
        if not self._garbage:
            return
        with self.lock:
            if self.holds:
                return
            layers, self._garbage = self._garbage, []
        self.remove(layers)

    def remove(self, layers: Sequence[int]) -> None:
        """Delete local files at once, which no frozen generation reads; their rows in ``garbage`` are committed."""
        for layer in layers:
            self.room.unlink(self.layer_path(layer))
        with self.lock:
            self._deleted += layers
            if len(self._deleted) >= GARBAGE_BATCH:
                self._forget_deleted()

    def _forget_deleted(self) -> None:
        deleted, self._deleted = self._deleted, []
        with self.transaction:
            for layer in deleted:
                self.execute("DELETE FROM garbage WHERE layer = ?", (layer,))

    # -- life ------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Make everything durable and let the workspace go. Idempotent."""
        with self.lock:
            if self._lock_file < 0:
                return
            try:
                self.collect()
                self._forget_deleted()
                self.sync()
                self.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            finally:
                self.abandon()

    def abandon(self) -> None:
        """Let the workspace go as a killed process would: nothing is flushed."""
        with self.lock:
            if self._lock_file >= 0:
                self._db.close()
                os.close(self._lock_file)
                self._lock_file = -1

    def _connect(self) -> sqlite3.Connection:
        try:
            connection = sqlite3.connect(
                self.path / "workspace.db", isolation_level=None, check_same_thread=False, cached_statements=256
            )
            for pragma in (
                "journal_mode = WAL",
                "synchronous = NORMAL",
                f"wal_autocheckpoint = {_CHECKPOINT_PAGES}",
                f"journal_size_limit = {_LOG_KEPT}",
                f"cache_size = -{_CACHE_KIB}",
                "temp_store = MEMORY",
            ):
                connection.execute(f"PRAGMA {pragma}")
        except sqlite3.Error as error:
            raise _translate(error) from error
        return connection

    def _note(self, values: dict[str, str]) -> None:
        with self.transaction:
            for key, value in values.items():
                self.execute("INSERT OR REPLACE INTO about VALUES (?, ?)", (key, value))

    def _prepare(self) -> None:
        """Check the format, make the tables, or add what an older format lacks."""
        found = self.execute("PRAGMA application_id").fetchone()[0]
        tables = self.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if not tables:
            with self.transaction:
                for statement in _SCHEMA:
                    self.execute(statement)
                self.execute("INSERT INTO meta VALUES ('format', ?)", (FORMAT,))
                self.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                self._note({"release": __version__})
            return
        if found != APPLICATION_ID:
            raise Format(f"{self.path / 'workspace.db'} is no workspace of ArtifactFS; move it away")
        number = self.execute("SELECT value FROM meta WHERE key = 'format'").fetchone()[0]
        if number > FORMAT:
            raise refusal(self._db, self.path, number)
        if number < FORMAT:
            with self.transaction:
                for statement in _ADDED:
                    self.execute(statement)
                self.execute("UPDATE meta SET value = ? WHERE key = 'format'", (FORMAT,))
                self._note({"release": __version__})


def refusal(database: sqlite3.Connection, workspace: Path, number: int) -> Format:
    """Why a workspace of a newer format is not read, and what reads it: the release that wrote it says so in ``about``."""
    try:
        row = database.execute("SELECT value FROM about WHERE key = 'release'").fetchone()
    except sqlite3.Error:
        row = None
    newer = f"use artifactfs {row[0]} or newer" if row is not None else "use a newer artifactfs"
    return Format(f"the workspace {workspace} has format {number}; this release reads up to format {FORMAT}: {newer}")


def _take_lock(path: Path, workspace: Path) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
        os.close(descriptor)
        raise Conflict(
            f"the workspace {workspace} is in use by the mount, or the command, with process id {owner}; end that one first"
        ) from None
    except OSError:
        os.close(descriptor)
        raise
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor


def _translate(error: sqlite3.Error) -> OSError:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    number = errno.ENOSPC if code == sqlite3.SQLITE_FULL else errno.EIO
    return OSError(number, f"{os.strerror(number)} (the tables of staging: {error})")

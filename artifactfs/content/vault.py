"""Vault: one part of the cache, extents of bytes as files that diskcache keeps.

Used by the shelf, from one thread, which is inside a gate (:mod:`artifactfs.forks`). :meth:`Vault.path` may be called from
any thread: an extent's file bears the extent's number, so reading needs neither diskcache nor SQLite.

What diskcache 5.6.3 is not left to do, and why:

- Keys and values. Its own Disk unpickles what its table says is a pickle, so that who can write the table runs code (CVE-2025-69872).
  :class:`StrictDisk` knows extents only; which Disk to use is not stored, hence every opener passes it.
- Writing a value. It leaves a partial file when the disk is full, and what it is given as bytes it writes line by line.
- Its size limit, which counts entries and was exceeded threefold with mixed sizes. The shelf evicts by bytes.
- Its connections: one for each thread that calls it, which only that thread can close; before a fork another one must.
- Waiting. Its constructor goes on for 60 s when another process holds the table, so that the table is tried before.
- Its check, which deletes files that other processes are just writing, outside of the exclusive lock.
"""

from __future__ import annotations

import errno
import mmap
import os
import re
import sqlite3
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import diskcache

from artifactfs.content.catalog import BUSY_SECONDS, translate_sqlite
from artifactfs.errors import Integrity, NoSpace, Unavailable, translate_os
from artifactfs.forks import Gate

Buffer = bytes | bytearray | memoryview

_REST_SECONDS: Final = 5.0
"""How long the table is not tried after a wait in vain."""

_TIDY_SECONDS: Final = 1.0
_TIDIED_AT_ONCE: Final = 20

DIRECT_BYTES: Final = 1 << 20
"""Size from which an extent is written past the page cache: below it the disk is waited for longer than a copy takes."""
_SPACE: Final = 8 << 20
_BLOCK: Final = 4096
_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW

_PARTS_A_CALL: Final = 1024  # IOV_MAX: buffers that one writev(2) takes
_BINARY: Final = 2  # diskcache's MODE_BINARY: the value is a file of bytes
_NAME: Final = re.compile(r"[0-9a-f]{16}")

# Of diskcache. No index, no statistics, nothing deleted by itself. Small logs, as they count as taken space; a set is some 6 pages.
_SETTINGS: Final = {
    "cull_limit": 0,
    "eviction_policy": "none",
    "statistics": 0,
    "sqlite_cache_size": 256,  # pages
    "sqlite_mmap_size": 0,
    "sqlite_wal_autocheckpoint": 250,  # pages: 1 MiB
    "sqlite_journal_size_limit": 1 << 20,
}


class StrictDisk(diskcache.Disk):  # type: ignore[misc] # diskcache ships no types
    """Extents and nothing else: keys are their names, values files of their own name. Raises Integrity for all other rows."""

    def __init__(self, directory: str, **settings: Any) -> None:
        super().__init__(directory, **settings)
        self._writer = _Writer()

    def put(self, key: Any) -> tuple[str, bool]:
        """A key as it is stored."""
        return _checked(key), True

    def get(self, key: Any, raw: Any) -> str:
        """A key as it was stored. diskcache's own unpickles what is not raw."""
        if not raw:
            raise Integrity("a part of the cache holds a foreign key")
        return _checked(key)

    def store(self, value: Any, read: Any, key: Any = None) -> tuple[int, int, str, None]:
        """Write a value: whole, or nothing stays."""
        if not read or not isinstance(value, _Extent):
            raise Integrity("the cache keeps extents only")
        name, path = self.filename(key)
        return self._writer.write(path, value.parts), _BINARY, name, None

    def fetch(self, mode: Any, filename: Any, value: Any, read: Any) -> Any:
        """Values are read by their names."""
        del mode, filename, value, read
        raise Integrity("extents are not read through diskcache")

    def filename(self, key: Any = None, value: Any = None) -> tuple[str, str]:
        """The file of a key. All in one directory: ext4 made 20,000 in 1.9 s so, in 3.0 s spread over 256."""
        del value
        name = _checked(key)
        return name, f"{self._directory}/{name}"

    def remove(self, file_path: Any) -> None:
        """Delete a value's file. The table cannot name one elsewhere."""
        with suppress(OSError):
            Path(self._directory, _checked(file_path)).unlink()


class _Table(diskcache.Cache):  # type: ignore[misc] # diskcache ships no types
    """diskcache's table on one connection, which whichever thread forks the process can close. Its own is bound to a thread."""

    _connection: sqlite3.Connection | None = None

    @property
    def _con(self) -> sqlite3.Connection:
        # As in diskcache 5.6.3, Cache._con.
        if self._connection is None:
            self._connection = sqlite3.connect(
                Path(self.directory, diskcache.core.DBNAME),
                timeout=self.timeout,
                isolation_level=None,
                check_same_thread=False,
            )
            with suppress(sqlite3.OperationalError):  # before its tables are made
                for key, value in self._connection.execute("SELECT key, value FROM Settings").fetchall():
                    if key.startswith("sqlite_"):
                        self.reset(key, value, update=False)
        return self._connection

    def close(self) -> None:
        """Close the connection; the next use makes another one. Idempotent."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


class Vault:
    """The part in a directory, which is there. Errors as :func:`translate_sqlite` and ``translate_os`` give them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._table = directory / diskcache.core.DBNAME
        self._opened: Any = None
        self._rests_until = 0.0
        self._stale: list[int] = []
        self._gate = Gate(seconds=BUSY_SECONDS)
        self._gate.closes(self._let_go)
        self._counted = [directory, *(directory / f"{self._table.name}{end}" for end in ("", "-wal", "-shm"))]

    def path(self, extent: int) -> str:
        """The file of an extent, which need not be there."""
        return f"{self.directory}/{extent:016x}"

    def put(self, extent: int, parts: Sequence[Buffer]) -> None:
        """Write an extent: these parts back to back, without copying them. When it raises, nothing of it stays."""
        if time.monotonic() < self._rests_until:
            raise Unavailable(f"{self._table} is held by another process; try again")
        try:
            with self._table_open() as table:
                table.set(f"{extent:016x}", _Extent(parts), read=True)
        except BaseException:
            with suppress(OSError):
                Path(self.path(extent)).unlink()
            raise

    def remove(self, extent: int) -> None:
        """Delete an extent, whatever is left of it; its row is for :meth:`tidy`. Who has it open goes on reading."""
        # What cannot be deleted is out of the catalog all the same: it would be chosen, and fail, again and again.
        with suppress(OSError):
            Path(self.path(extent)).unlink()
        self._stale.append(extent)

    def tidy(self) -> None:
        """Delete the rows of what was removed. A row without a file is a trifle, so what cannot be deleted now is left for later.

        Not done in removing: a deletion by diskcache gives up the interpreter's lock about ten times, which beside a thread that
        computes takes 50 ms, and the catalog is held meanwhile.
        """
        deadline = time.monotonic() + _TIDY_SECONDS
        if self._stale and time.monotonic() >= self._rests_until:
            with suppress(Unavailable, NoSpace), self._table_open() as table:
                while self._stale and time.monotonic() < deadline:
                    with table.transact():
                        for extent in self._stale[-_TIDIED_AT_ONCE:]:
                            table.delete(f"{extent:016x}")
                    del self._stale[-_TIDIED_AT_ONCE:]

    def extents(self) -> set[int]:
        """Numbers of all extents."""
        with self._table_open() as table:
            return {int(name, 16) for name in table.iterkeys()}

    def check(self) -> None:
        """Bring table and files into agreement. Only under the directory's exclusive lock. 32 µs an extent."""
        # What it finds it also mends, and tells of as warnings, which a process may have made errors.
        with self._table_open() as table, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            table.check(fix=True)

    def overhead(self) -> int:
        """Bytes of the directory and of the table: all but the extents."""
        return sum(size_of(path) for path in self._counted)

    def close(self) -> None:
        """Close the table, from the thread that used it. Idempotent."""
        opened, self._opened = self._opened, None
        if opened is not None:
            opened.close()

    def _let_go(self) -> None:
        """Close the table's connection for now, as the process forks. The next use of the table makes another one."""
        if self._opened is not None:
            self._opened.close()

    @contextmanager
    def _table_open(self) -> Iterator[Any]:
        try:
            if self._opened is None:
                self._try()
                self._opened = _Table(str(self.directory), timeout=BUSY_SECONDS, disk=StrictDisk, **_SETTINGS)
            yield self._opened
        except BaseException as error:
            # A connection whose transaction failed at its end may still be inside of it.
            with suppress(sqlite3.Error):
                self.close()
            if isinstance(error, diskcache.Timeout):
                raise self._held() from error
            if isinstance(error, sqlite3.Error):
                raise translate_sqlite(error, str(self._table)) from error
            if isinstance(error, OSError):
                raise translate_os(error, f"cannot write to {self.directory}") from error
            if isinstance(error, TypeError | ValueError | LookupError | AttributeError):
                raise Integrity(f"{self._table} is damaged: diskcache does not understand it ({error})") from error
            raise

    def _held(self) -> Unavailable:
        self._rests_until = time.monotonic() + _REST_SECONDS
        return Unavailable(f"{self._table} is held by another process; try again")

    def _try(self) -> None:
        """Begin and end a change of the table, so that opening it will not wait for one who holds it."""
        if not self._table.exists():
            return
        with closing(sqlite3.connect(self._table, timeout=BUSY_SECONDS, isolation_level=None)) as connection:
            try:
                connection.execute("BEGIN IMMEDIATE").close()
                connection.execute("ROLLBACK").close()
            except sqlite3.OperationalError as error:
                if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY:
                    raise self._held() from error
                raise


class _Extent:
    """What StrictDisk writes; diskcache passes it on unread."""

    __slots__ = ("parts",)

    def __init__(self, parts: Sequence[Buffer]) -> None:
        self.parts = parts


def size_of(path: Path) -> int:
    """Bytes of a file or directory; 0 when it is not there."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _checked(name: Any) -> str:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise Integrity("a part of the cache names a foreign file")
    return name


class _Writer:
    """Writes extents: past the kernel's page cache where that is possible, so that it need not hold them twice.

    What is fetched is read through a mount, whose pages the kernel keeps anyway. 1 GiB written so takes 0.03 s of processor time
    and a copy of 0.1 s, through the page cache 0.25 s to 1.6 s, depending on whose memory it must find. Used by one thread at a time.
    """

    def __init__(self) -> None:
        self._space: mmap.mmap | None = None  # such writes come from whole pages, to whole blocks
        self._direct = True  # until a file system says no

    def write(self, path: str, parts: Sequence[Buffer]) -> int:
        """Make a file of these parts, back to back; returns its size in bytes. When it raises, nothing of it stays."""
        size = sum(map(len, parts))
        try:
            if self._direct and size >= DIRECT_BYTES:
                try:
                    return self._write_direct(path, parts, size)
                except OSError as error:
                    if error.errno not in {errno.EINVAL, errno.EOPNOTSUPP}:
                        raise
                    self._direct = False
                    with suppress(FileNotFoundError):
                        Path(path).unlink()
            return _write_buffered(path, parts)
        except BaseException:
            with suppress(OSError):
                Path(path).unlink()
            raise

    def _write_direct(self, path: str, parts: Sequence[Buffer], size: int) -> int:
        descriptor = os.open(path, _CREATE | os.O_DIRECT, 0o600)
        try:
            if self._space is None:
                self._space = mmap.mmap(-1, _SPACE)
            space = self._space
            filled = 0
            for part in parts:
                view = memoryview(part).cast("B")
                while view:
                    taken = min(len(view), _SPACE - filled)
                    space[filled : filled + taken] = view[:taken]
                    filled += taken
                    view = view[taken:]
                    if filled == _SPACE:
                        _write_all(descriptor, memoryview(space))
                        filled = 0
            if filled:
                _write_all(descriptor, memoryview(space)[: -(-filled // _BLOCK) * _BLOCK])
                os.ftruncate(descriptor, size)
        finally:
            os.close(descriptor)
        return size


def _write_all(descriptor: int, data: memoryview) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def _write_buffered(path: str, parts: Sequence[Buffer]) -> int:
    descriptor = os.open(path, _CREATE, 0o600)
    try:
        size = 0
        for first in range(0, len(parts), _PARTS_A_CALL):
            waiting = [memoryview(part).cast("B") for part in parts[first : first + _PARTS_A_CALL]]
            while waiting:
                written = os.writev(descriptor, waiting)
                size += written
                done = 0
                while done < len(waiting) and written >= len(waiting[done]):
                    written -= len(waiting[done])
                    done += 1
                del waiting[:done]
                if waiting:
                    waiting[0] = waiting[0][written:]
        return size
    finally:
        os.close(descriptor)

"""Rescue: a registry's SQLite file with damaged pages becomes a new file with all that can still be read.

Used by repair, while nobody has the file open. One thread. What says where chunks are (``chunk``) and what search finds (``fact``) can
be made anew, from packs and from metadata; of every other table all rows must be readable, or nothing is changed: then only a
backup has them. The damaged file is kept beside, as ``registry.db.damaged-<time>``.

Killed at any step, the file is the old one or the new one: the new one is written beside, flushed, and renamed over it.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Final

from sqlalchemy import select

from artifactfs.errors import Conflict, Integrity, translate_os
from artifactfs.registry import facts
from artifactfs.registry.holders import holder
from artifactfs.registry.schema import TABLES, artifact, chunk, fact, version
from artifactfs.registry.sqlite import SQLiteDatabase

MADE_ANEW: Final = frozenset({chunk.name, fact.name})
_ROWS: Final = 5000  # copied at a time
_BACKUP: Final = "restore the file from a backup"


def is_damaged(path: Path) -> bool:
    """Whether SQLite finds pages of the file wrong, as opposed to rows that contradict each other. Reads all of it."""
    try:
        with closing(_open(path)) as connection:
            return [row[0] for row in connection.execute("PRAGMA integrity_check(1)")] != ["ok"]
    except sqlite3.DatabaseError:
        return True


def rescue(path: Path) -> list[str]:
    """Put a new file in the place of a damaged one. Returns the tables that are empty now and must be made anew (``chunk``), if any.

    Conflict while a process has the file open; Integrity names a table that only a backup has, and nothing was changed.
    """
    who = holder(path)
    if who is not None:
        raise Conflict(
            f"process {who} has {path} open: end what uses this repository, mounts and servers too, and repeat"
        )
    beside = path.with_name(f"{path.name}.rescued")
    _remove(beside)
    try:
        SQLiteDatabase(beside, create=True).close()
        with (
            _reported(path),
            closing(_open(path)) as old,
            closing(sqlite3.connect(beside, isolation_level=None)) as new,
        ):
            lost = _copy(old, new, path)
        if fact.name in lost:
            _find_facts(beside)
        _replace(path, beside)
    except OSError as error:
        raise translate_os(error, f"the registry {path} cannot be made anew") from error
    finally:
        _remove(beside)
    return sorted(set(lost) - {fact.name})


def _open(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=30, isolation_level=None)
    connection.execute("PRAGMA cell_size_check=ON").close()
    return connection


def _copy(old: sqlite3.Connection, new: sqlite3.Connection, path: Path) -> list[str]:
    new.execute("PRAGMA foreign_keys=OFF").close()
    new.execute("BEGIN").close()
    lost = []
    for table in TABLES.sorted_tables:
        names = [column.name for column in table.columns]
        columns = ", ".join(f'"{name}"' for name in names)
        marks = ", ".join("?" * len(names))
        new.execute(f'DELETE FROM "{table.name}"').close()  # noqa: S608 - names of the schema
        try:
            rows = old.execute(f'SELECT {columns} FROM "{table.name}" NOT INDEXED')  # noqa: S608 - names of the schema
            while batch := rows.fetchmany(_ROWS):
                new.executemany(f'INSERT INTO "{table.name}" VALUES ({marks})', batch).close()  # noqa: S608
        except sqlite3.DatabaseError as error:
            if table.name not in MADE_ANEW:
                raise Integrity(
                    f"the registry {path} is damaged in its table {table.name}, which nothing else tells ({error}): {_BACKUP}"
                ) from error
            new.execute(f'DELETE FROM "{table.name}"').close()  # noqa: S608 - names of the schema
            lost.append(table.name)
    # Identifiers are never used again, also those of rows that are gone.
    for name, number in old.execute("SELECT name, seq FROM sqlite_sequence").fetchall():
        changed = new.execute("UPDATE sqlite_sequence SET seq = max(seq, ?) WHERE name = ?", (number, name)).rowcount
        if not changed:
            new.execute("INSERT INTO sqlite_sequence VALUES (?, ?)", (name, number)).close()
    new.execute("COMMIT").close()
    return lost


def _find_facts(path: Path) -> None:
    database = SQLiteDatabase(path)
    try:
        with database.writing(durable=True) as connection:
            living = (
                select(version.c.id, artifact.c.project, version.c.metadata)
                .join_from(version, artifact, artifact.c.id == version.c.artifact)
                .where(version.c.deleted.is_(None))
            )
            for identity, project, metadata in connection.execute(living).all():
                facts.replace(connection, project, identity, metadata)
    finally:
        database.close()


def _replace(path: Path, beside: Path) -> None:
    with closing(sqlite3.connect(beside, isolation_level=None)) as new:
        found = [row[0] for row in new.execute("PRAGMA integrity_check(1)")]
        new.execute("PRAGMA wal_checkpoint(TRUNCATE)").close()
    if found != ["ok"]:
        raise Integrity(f"the registry {path} cannot be made anew ({found[0]}): {_BACKUP}")
    _sync(beside)
    kept = path.with_name(f"{path.name}.damaged-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}")
    # The log of the old file must not be taken for one of the new file.
    for suffix in ("-wal", "-shm"):
        with suppress(FileNotFoundError):
            Path(f"{path}{suffix}").rename(f"{kept}{suffix}")
    os.link(path, kept)
    beside.replace(path)
    _sync(path.parent)


@contextmanager
def _reported(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.DatabaseError as error:
        raise Integrity(f"the registry {path} is damaged so that it cannot be read ({error}): {_BACKUP}") from error


def _remove(beside: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        Path(f"{beside}{suffix}").unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

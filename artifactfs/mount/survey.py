"""Survey: what is in workspaces, mounted or not, without opening them.

Used by `status --all`. Their tables are read by a connection of SQLite's that cannot write; a mount that has one goes on undisturbed.
Sizes are what the local files take of the disk. Runs on any thread.
"""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import msgspec

from artifactfs.mount import control
from artifactfs.mount.aside import KEPT_SECONDS
from artifactfs.mount.workspace import APPLICATION_ID, FORMAT, Place, refusal

LOGS: Final = ("daemon.log", "daemon.log.1")
_MOUNTED: Final = re.compile(r": mounted (?P<what>.+) \(project (?P<project>[^()]+)\)$", re.MULTILINE)
_SECOND: Final = 1_000_000_000

# Names that differ from the base: those gone, files, and directories that the base has not there.
# 2 is BASED (mount/inodes.py); 61440 and 16384 are S_IFMT and S_IFDIR.
_CHANGES: Final = """
    SELECT count(*) FROM inode AS directory JOIN link ON link.parent = directory.id AND link.changed <> 0
    LEFT JOIN inode AS child ON child.id = link.child
    WHERE directory.area = ? AND CASE
        WHEN link.child IS NULL THEN link.flags & 2
        WHEN child.mode & 61440 <> 16384 THEN 1
        ELSE link.bound <> 0 AND (NOT link.flags & 2 OR link.bound = link.changed) END"""
# Directories that a commit made before, or that were moved before one which failed: to be sure, they count when nothing else does.
_DOUBTFUL: Final = """
    SELECT 1 FROM inode AS directory JOIN link ON link.parent = directory.id AND link.changed <> 0
    WHERE directory.area = ? AND link.bound <> 0 LIMIT 1"""


class AreaFound(msgspec.Struct, frozen=True):
    """Changes of an artifact that are not committed. Times in nanoseconds since the epoch.

    ``discarded``: when they were, and until when that can be undone; None of what is in staging. ``changes``: names; ``bytes``: of
    the disk.
    """

    artifact: str
    base: int | None
    changes: int
    bytes: int
    changed: int
    discarded: int | None = None
    until: int | None = None


class WorkspaceFound(msgspec.Struct, frozen=True):
    """A workspace: whose it is (None: not known), the process that has it (None: no mount), and its areas that hold something.

    ``trouble``: why the areas are not known.
    """

    path: Path
    place: Place | None
    pid: int | None
    areas: tuple[AreaFound, ...]
    trouble: str | None = None


def survey(workspaces: Path, named: Callable[[Place], str]) -> list[WorkspaceFound]:
    """Every workspace below a directory, by name. ``named`` gives the name that a place's workspace has."""
    try:
        paths = sorted(path for path in workspaces.iterdir() if (path / "workspace.db").exists())
    except OSError:
        return []
    return [look(path, named) for path in paths]


def look(path: Path, named: Callable[[Place], str]) -> WorkspaceFound:
    """What a workspace holds."""
    place: Place | None = None
    areas: tuple[AreaFound, ...] = ()
    trouble = None
    try:
        with contextlib.closing(_connect(path)) as database:
            number = _check(database)
            if number is None:
                trouble = "its workspace.db is none of ArtifactFS"
            elif number > FORMAT:
                trouble = str(refusal(database, path, number))
                place = _written(database)
            else:
                place = _written(database) if number > 1 else None
                areas = tuple(_areas(database, path, discarded=number > 1))
    except (sqlite3.Error, OSError) as error:
        trouble = f"its tables cannot be read: {error}"
    pid = control.daemon_of(path) if (path / control.SOCKET).exists() else None
    return WorkspaceFound(path, place or _logged(path, named), pid, areas, trouble)


def _connect(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(f"file:{quote(str(path / 'workspace.db'))}?mode=ro", uri=True, isolation_level=None)
    database.execute("BEGIN")  # one state of all tables
    return database


def _check(database: sqlite3.Connection) -> int | None:
    """The format; None of a file that is no workspace."""
    if database.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
        return None
    number: int = database.execute("SELECT value FROM meta WHERE key = 'format'").fetchone()[0]
    return number


def _written(database: sqlite3.Connection) -> Place | None:
    with contextlib.suppress(sqlite3.Error):
        found = dict(database.execute("SELECT key, value FROM about"))
        with contextlib.suppress(msgspec.ValidationError):
            return msgspec.convert(found, Place)
    return None


def _logged(path: Path, named: Callable[[Place], str]) -> Place | None:
    """Whose workspace one of format 1 is: its log says so, and its name, which is made of that, proves it."""
    for log in LOGS:
        with contextlib.suppress(OSError):
            for found in _MOUNTED.finditer((path / log).read_text(encoding="utf-8", errors="replace")):
                words = found["what"].split(" on ")
                for cut in range(1, len(words)):
                    place = Place(" on ".join(words[cut:]), " on ".join(words[:cut]), found["project"])
                    if named(place) == path.name:
                        return place
    return None


def _areas(database: sqlite3.Connection, path: Path, *, discarded: bool) -> Iterator[AreaFound]:
    for number, name, base in database.execute("SELECT id, name, base_number FROM area ORDER BY name").fetchall():
        changes = _changes(database, number)
        if changes:
            yield AreaFound(name, base, changes, *_taken(database, path, number))
    if discarded:
        now = time.time_ns()
        query = "SELECT id, name, base_number, at FROM discarded ORDER BY name, id"
        for number, name, base, at in database.execute(query).fetchall():
            until = at + KEPT_SECONDS * _SECOND
            if until > now:
                found = AreaFound(name, base, _changes(database, -number), *_taken(database, path, -number), at, until)
                yield found


def _changes(database: sqlite3.Connection, area: int) -> int:
    counted: int = database.execute(_CHANGES, (area,)).fetchone()[0]
    return counted or int(database.execute(_DOUBTFUL, (area,)).fetchone() is not None)


def _taken(database: sqlite3.Connection, path: Path, area: int) -> tuple[int, int]:
    """Bytes of disk, and the time of the last change."""
    latest: int = database.execute("SELECT ifnull(max(ctime), 0) FROM inode WHERE area = ?", (area,)).fetchone()[0]
    taken = 0
    layers: list[tuple[Any, ...]] = database.execute("SELECT id FROM layer WHERE area = ?", (area,)).fetchall()
    for (layer,) in layers:
        with contextlib.suppress(FileNotFoundError):
            status = os.stat(f"{path}/files/{layer >> 10:02x}/{layer:x}")  # noqa: PTH116 - as in workspace.py
            taken += status.st_blocks * 512
            latest = max(latest, status.st_mtime_ns)
    return taken, latest


__all__ = ["AreaFound", "WorkspaceFound", "look", "survey"]

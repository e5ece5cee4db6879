"""Processes that write records into staging until they are ended, and note each one that was acknowledged.

Run as a program: ``writers.py append|fsync|rename|sqlite DIRECTORY NOTES NUMBER``. NOTES lies outside the mount; a number is written
there when the system call that made the record last had returned. When the mount dies they end.
"""

from __future__ import annotations

import os
import sqlite3
import sys
import time
from collections.abc import Callable
from pathlib import Path

KINDS = ("append", "fsync", "rename", "many", "sqlite")
RECORD = b"%08d\n"


def append(directory: Path, name: str, acknowledge: Callable[[int], None], *, sync: bool = False) -> None:
    """Records at the end of one file."""
    descriptor = os.open(directory / name, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o644)
    number = os.fstat(descriptor).st_size // 9
    while True:
        os.write(descriptor, RECORD % number)
        if sync:
            os.fsync(descriptor)
        acknowledge(number)
        number += 1
        time.sleep(0.001)


def rename(directory: Path, name: str, acknowledge: Callable[[int], None]) -> None:
    """A file that is saved again and again, as editors do."""
    target = directory / name
    number = int(target.read_bytes()[:8]) + 1 if target.exists() else 0
    while True:
        beside = directory / f"{name}.swp"
        beside.write_bytes(RECORD % number * 500)
        beside.rename(target)
        acknowledge(number)
        number += 1
        time.sleep(0.001)


def many(directory: Path, name: str, acknowledge: Callable[[int], None]) -> None:
    """A new file for each record, in directories that are moved."""
    number = sum(1 for _ in directory.glob(f"{name}.*/*"))
    while True:
        made = directory / "made"
        made.mkdir(exist_ok=True)
        place = directory / f"{name}.{number // 10}"
        if not place.exists():
            (directory / f"{name}.new").mkdir(exist_ok=True)
            (directory / f"{name}.new").rename(place)
        (place / f"{number:08d}").write_bytes(RECORD % number)
        acknowledge(number)
        number += 1
        time.sleep(0.001)


def sqlite(directory: Path, name: str, acknowledge: Callable[[int], None]) -> None:
    """Transactions of a database."""
    with sqlite3.connect(directory / name, isolation_level=None, timeout=30) as db:
        db.execute("CREATE TABLE IF NOT EXISTS t (n INTEGER PRIMARY KEY)")
        number = db.execute("SELECT coalesce(max(n), -1) + 1 FROM t").fetchone()[0]
        while True:
            db.execute("INSERT INTO t VALUES (?)", (number,))
            acknowledge(number)
            number += 1


def check(kind: str, directory: Path, name: str, acknowledged: int) -> None:
    """Assert that a directory holds every record up to the acknowledged number, and at most the one after."""
    if kind in {"append", "fsync"}:
        records = (directory / name).read_bytes()
        # The record that was being written may be there, or a part of it.
        whole = len(records) // 9
        assert whole in {acknowledged + 1, acknowledged + 2}, (kind, whole, acknowledged)
        assert records.startswith(b"".join(RECORD % number for number in range(whole)))
    elif kind == "rename":
        records = (directory / name).read_bytes()
        assert records == records[:9] * 500
        assert int(records[:8]) in {acknowledged, acknowledged + 1}, (kind, records[:8], acknowledged)
    elif kind == "many":
        found = sorted(path.name for path in directory.glob(f"{name}.*/*"))
        assert found[: acknowledged + 1] == [f"{number:08d}" for number in range(acknowledged + 1)]
        assert len(found) <= acknowledged + 2
        for path in directory.glob(f"{name}.*/*"):
            if int(path.name) <= acknowledged:
                assert path.read_bytes() == RECORD % int(path.name)
    else:
        with sqlite3.connect(directory / name, timeout=30) as db:
            assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            count, top = db.execute("SELECT count(*), max(n) FROM t").fetchone()
        db.close()
        assert count == top + 1
        assert top in {acknowledged, acknowledged + 1}, (kind, top, acknowledged)


def last_of(notes: Path) -> int:
    """The number that was acknowledged last; -1 before the first."""
    return len(notes.read_bytes()) - 1 if notes.exists() else -1


def main(kind: str, directory: str, notes: str) -> None:
    descriptor = os.open(notes, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o644)

    def acknowledge(_number: int) -> None:
        os.write(descriptor, b".")

    place, name = Path(directory), Path(notes).name
    if kind in {"append", "fsync"}:
        append(place, name, acknowledge, sync=kind == "fsync")
    else:
        {"rename": rename, "many": many, "sqlite": sqlite}[kind](place, name, acknowledge)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except (OSError, sqlite3.Error):
        sys.exit(3)  # the mount has died

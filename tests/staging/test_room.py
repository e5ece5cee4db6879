"""The staging limit and the disk's reserve: only what is new counts, what was discarded goes first, and refusing loses nothing."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from artifactfs.mount import room
from artifactfs.mount.workspace import Workspace
from artifactfs.repository import Repository
from tests.staging.driver import Disk

LIMIT = 1 << 20


class Limited(Disk):
    """With a limit."""

    def make(self) -> Workspace:
        return Workspace(self.path, limit=LIMIT)


@pytest.fixture
def limited(base: Repository, tmp_path: Path) -> Iterator[Disk]:
    disk = Limited(base, tmp_path / "workspace")
    yield disk
    disk.staging.close()


def used(disk: Disk) -> int:
    found = disk.staging.room.used
    assert found == disk.local_bytes() == room.measure(disk.path / "files")
    return found


def refused(disk: Disk, path: str, data: bytes, number: int = errno.EDQUOT) -> None:
    with pytest.raises(OSError) as caught:
        disk.write(path, data)
    assert caught.value.errno == number


def test_what_is_written_is_counted(limited: Disk):
    assert used(limited) == 0
    limited.write("one", b"1" * 300_000)
    limited.patch("images/cat.png", 100, b"x")
    first = used(limited)
    assert 300_000 < first < 320_000
    limited.write("one", b"2" * 300_000)
    assert used(limited) == first
    limited.truncate("one", 100_000)
    assert used(limited) < 120_000
    limited.unlink("one")
    assert used(limited) < 10_000
    limited.kill()
    assert used(limited) < 10_000


def test_beyond_the_limit_nothing_is_lost(limited: Disk):
    limited.write("kept", b"k" * 600_000)
    refused(limited, "large", b"l" * 600_000)
    assert limited.read("kept") == b"k" * 600_000
    assert limited.at("large").size == 0
    limited.write("kept", b"K" * 600_000)  # over what is there
    limited.patch("kept", 10, b"!" * 500_000)
    assert used(limited) < LIMIT
    with limited.opened("reserved", os.O_RDWR | os.O_CREAT) as fh, pytest.raises(OSError) as caught:
        limited.staging.fallocate(fh, 0, 0, 900_000)
    assert caught.value.errno == errno.EDQUOT
    limited.unlink("kept")
    limited.write("large", b"l" * 600_000)
    limited.commit()
    assert used(limited) == 0
    limited.write("next", b"n" * 900_000)


def test_holes_take_nothing(limited: Disk):
    limited.truncate("images/cat.png", 100 << 20)
    limited.write("sparse", b"")
    limited.truncate("sparse", 1 << 30)
    assert used(limited) < 10_000
    limited.patch("sparse", 1 << 29, b"x" * 500_000)
    with pytest.raises(OSError) as caught:
        limited.patch("sparse", 1 << 28, b"x" * 600_000)
    assert caught.value.errno == errno.EDQUOT
    limited.patch("sparse", 1 << 29, b"y" * 500_000)


def test_what_was_discarded_counts_and_goes_first_the_oldest_before(limited: Disk):
    for name in ("first", "second"):
        limited.write(name, name.encode() * 50_000)
        limited.staging.discard(limited.area)
    assert 500_000 < used(limited) < 600_000
    limited.write("third", b"3" * 700_000)
    assert limited.workspace.execute("SELECT count(*) FROM discarded").fetchone() == (1,)
    limited.commit()
    limited.staging.undo(limited.area)
    assert limited.read("second") == b"second" * 50_000
    limited.staging.discard(limited.area)
    refused(limited, "fourth", b"4" * (LIMIT + 1))
    assert limited.workspace.execute("SELECT count(*) FROM discarded").fetchone() == (0,)


def test_what_was_discarded_goes_while_a_commit_runs(limited: Disk):
    limited.write("old", b"o" * 500_000)
    limited.staging.discard(limited.area)
    limited.write("mine", b"m" * 100_000)
    frozen = limited.staging.freeze(limited.area)
    limited.write("more", b"+" * 800_000)
    version = limited.land(frozen)
    limited.staging.thaw(frozen, version)
    assert limited.read("more") == b"+" * 800_000
    assert limited.changes() == [("added", "more")]


def test_statfs_tells_the_limit(limited: Disk):
    limited.write("one", b"1" * 500_000)
    numbers = limited.staging.statfs(limited.area.root)
    assert numbers.blocks * numbers.bsize == LIMIT
    assert (numbers.bavail * numbers.bsize) // 100_000 == (LIMIT - used(limited)) // 100_000


def test_the_reserve_of_the_disk_is_left(disk: Disk, monkeypatch: pytest.MonkeyPatch):
    disk.write("kept", b"k" * 100_000)
    free = 0

    class Numbers:
        f_bavail, f_frsize = 0, 4096

    monkeypatch.setattr(room.os, "statvfs", lambda path: Numbers)
    disk.staging.room._unasked = 0  # as if much had been written since
    refused(disk, "more", b"m" * 5000, errno.ENOSPC)
    disk.patch("kept", 0, b"K" * 100_000)
    assert disk.read("kept") == b"K" * 100_000
    assert disk.staging.room.left() == free
    disk.unlink("kept")
    monkeypatch.undo()
    disk.write("more", b"m" * 5000)

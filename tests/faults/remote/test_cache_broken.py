"""What goes wrong with the cache: bytes are right all the same, and with the trouble over they are kept again."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest

from tests.faults.remote.machines import BACK_ENDS, BUCKET, DIRECTORY, PACK, PATIENCE, finish, read, read_all, shown
from tests.mounted.living import grow, small_disk


def filled(directory: Path) -> None:
    """Not a byte is free on a disk any more."""
    with (directory / "filler").open("wb") as filler:
        try:
            while True:
                filler.write(bytes(1 << 20))
                filler.flush()
        except OSError:
            pass
        try:
            while True:
                os.write(filler.fileno(), bytes(512))
        except OSError:
            pass


def extents(cache: Path) -> list[Path]:
    """The files that hold chunks and nodes."""
    return [path for part in ("chunks", "nodes") for path in (cache / part).iterdir() if len(path.name) == 16]


@pytest.mark.parametrize("running", BACK_ENDS, indirect=True)
def test_a_disk_that_fills_up_costs_fetches_and_nothing_else(server, new_machine, begin, tmp_path):
    expected = read_all(server.source)
    with small_disk(tmp_path / "small", 8 << 20) as disk:
        there = new_machine(seconds=PATIENCE, cache=disk / "cache")
        there.mount()
        # More than fits: the rest passes by.
        assert read_all(there.root / "data/v0") == expected
        filled(disk)
        there.unmount()
        there.mount()
        assert read_all(there.root / "data/v0") == expected
        assert finish(begin(there, "get", "data", tmp_path / "out")).status == 0
        assert read_all(tmp_path / "out") == expected
        # What is sent is spooled there.
        (tmp_path / "new").mkdir()
        (tmp_path / "new/file").write_bytes(os.urandom(1 << 20))
        failed = finish(begin(there, "put", "full", tmp_path / "new"))
        assert failed.status == 1
        assert "no space left" in failed.stderr
        assert server.versions("full") == []
        # With space again the same mount keeps what it fetches, and the same put succeeds.
        (disk / "filler").unlink()
        grow(disk, 64 << 20)
        assert there.put("full", tmp_path / "new") == "full:v0"
        assert read_all(shown(there.root / "full/v0")) == read_all(tmp_path / "new")
        assert finish(begin(there, "get", "data", tmp_path / "again")).status == 0
        assert read_all(tmp_path / "again") == expected
        there.unmount()


def test_a_cache_that_was_full_from_the_start(server, new_machine, begin, tmp_path):
    expected = read_all(server.source)
    with small_disk(tmp_path / "small", 1 << 20) as disk:
        filled(disk)
        here = new_machine(seconds=PATIENCE, cache=disk / "cache")
        done = finish(begin(here, "get", "data", tmp_path / "out"))
        if done.status:
            assert "no space left" in done.stderr
        else:
            assert read_all(tmp_path / "out") == expected
        (disk / "filler").unlink()
        assert finish(begin(here, "get", "data", tmp_path / "again")).status == 0
        assert read_all(tmp_path / "again") == expected


def test_deleted_under_a_running_mount(server, proxy, new_machine, begin, tmp_path):
    expected = read_all(server.source)
    there = new_machine(seconds=PATIENCE)
    cache = Path(there.cli.env["ARTIFACTFS_CACHE_DIR"])
    there.mount()
    assert read(there.root / "data/v0/other.bin") == expected["other.bin"]
    for _ in range(2):
        delete(cache)
        assert read_all(there.root / "data/v0") == expected
    assert finish(begin(there, "get", "data", tmp_path / "out")).status == 0
    assert read_all(tmp_path / "out") == expected
    there.unmount()
    there.mount()
    assert read_all(there.root / "data/v0") == expected
    # It is made anew, and used again: what is kept now is not fetched once more.
    before = proxy.received(PACK)
    there.unmount()
    there.mount()
    assert read_all(there.root / "data/v0") == expected
    assert proxy.received(PACK) - before < len(expected["other.bin"])
    there.unmount()


def delete(directory: Path) -> None:
    """As ``rm -r`` does it, again when the mount has put something in meanwhile."""
    deadline = time.monotonic() + 60
    while directory.exists():
        assert time.monotonic() < deadline
        shutil.rmtree(directory, ignore_errors=True)


def flip(path: Path) -> None:
    with path.open("r+b") as file:
        for offset in range(0, os.fstat(file.fileno()).st_size, 1000):
            byte = os.pread(file.fileno(), 1, offset)
            os.pwrite(file.fileno(), bytes([byte[0] ^ 1]), offset)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def overwrite(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


@pytest.mark.parametrize(
    ("running", "damage"),
    [*((DIRECTORY, damage) for damage in (flip, cut, overwrite, Path.unlink)), (BUCKET, flip)],
    indirect=["running"],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_damaged_in_place_it_is_fetched_anew(server, packs, new_machine, begin, tmp_path, damage):
    expected = read_all(server.source)
    here = new_machine(seconds=PATIENCE)
    assert finish(begin(here, "get", "data", tmp_path / "out")).status == 0
    cache = Path(here.cli.env["ARTIFACTFS_CACHE_DIR"])
    here.mount()
    assert len(os.listdir(here.root / "data/v0/small")) == 41
    damaged = extents(cache)
    assert damaged
    for path in damaged:
        damage(path)
    # A mount that was there before, and a process that was not.
    assert read_all(here.root / "data/v0") == expected
    assert finish(begin(here, "get", "data", tmp_path / "again")).status == 0
    assert read_all(tmp_path / "again") == expected
    here.unmount()
    # What was fetched instead is kept.
    fetched = packs.received()
    assert finish(begin(here, "get", "data", tmp_path / "third")).status == 0
    assert read_all(tmp_path / "third") == expected
    assert packs.received() == fetched


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("catalog.db", flip),
        ("catalog.db", empty),
        ("chunks/cache.db", flip),
        ("nodes/cache.db", cut),
        ("format", flip),
        ("claims", cut),
    ],
)
def test_its_own_files_damaged_in_place(server, new_machine, begin, tmp_path, name, damage):
    """Bytes are right, also in a mount that uses it; a fresh process repairs it, or says in one line that it cannot."""
    expected = read_all(server.source)
    here = new_machine(seconds=PATIENCE)
    here.complaints = 100
    assert finish(begin(here, "get", "data:v0/small", tmp_path / "out")).status == 0
    here.mount()
    damage(Path(here.cli.env["ARTIFACTFS_CACHE_DIR"]) / name)
    assert read_all(here.root / "data/v0") == expected
    done = finish(begin(here, "get", "data", tmp_path / "again"))
    assert done.status == 0 or name == "format", done
    if done.status == 0:
        assert read_all(tmp_path / "again") == expected
    here.unmount()

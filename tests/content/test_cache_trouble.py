"""What stands in a cache's way is a miss, no error, long wait or wrong byte: full disks, damage, deletion, processes that hang."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import logging
import os
import pickle
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from artifactfs.content import cache as cache_module
from artifactfs.content import cachedir as cachedir_module
from artifactfs.content import caretaker as caretaker_module
from artifactfs.content import catalog as catalog_module
from artifactfs.content import shelf as shelf_module
from artifactfs.content import vault as vault_module
from artifactfs.content.cache import Cache, CacheSettings
from artifactfs.content.shelf import Shelf
from artifactfs.content.vault import StrictDisk, Vault
from artifactfs.errors import Integrity
from artifactfs.model.digest import DATA, TREE, digest
from tests.conftest import eventually
from tests.content.cached import PLENTY, extents, get, keep, offer, on_disk, present, small_disk
from tests.content.stores import noise

MIB = 1 << 20


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def opened(directory: Path) -> Iterator[Callable[..., Cache]]:
    with ExitStack() as stack:

        def opened(limit: int = PLENTY) -> Cache:
            return stack.enter_context(closing(Cache(CacheSettings(directory, limit=limit, reserve=0))))

        yield opened


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits for other processes are short, and nothing rests."""
    for module in (catalog_module, vault_module):
        monkeypatch.setattr(module, "BUSY_SECONDS", 0.05)
    for module in (caretaker_module, cache_module):
        monkeypatch.setattr(module, "REST_SECONDS", 0.0)
    monkeypatch.setattr(vault_module, "_REST_SECONDS", 0.0)
    monkeypatch.setattr(cachedir_module, "LOCK_SECONDS", 0.05)


def name_of(number: int, size: int = 1000) -> bytes:
    return digest(DATA, noise(number, size))


def look(cache: Cache) -> None:
    """What is done every few seconds."""
    cache._caretaker.try_to(cache._look_after, default=None)


def fill(path: Path) -> None:
    """Take what is left of a disk."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
    with contextlib.suppress(OSError):
        while True:
            os.write(descriptor, b"x" * 4096)
    os.close(descriptor)
    assert os.statvfs(path.parent).f_bavail == 0


# -- full disks --------------------------------------------------------------------------------------------------------


def test_a_full_disk_keeps_nothing_more_and_serves_what_is_there(tmp_path):
    with (
        small_disk(tmp_path / "small", 16 * MIB) as disk,
        closing(Cache(CacheSettings(disk / "cache", limit=PLENTY, reserve=0))) as cache,
    ):
        names = keep(cache, noise(1, 100_000), pin=True)
        fill(disk / "other")
        before = on_disk(disk / "cache")
        for number in range(10, 15):
            assert not offer(cache, noise(number, 300_000))
        assert get(cache, names[0]) == noise(1, 100_000)
        look(cache)
        assert on_disk(disk / "cache") <= before
        assert cache.status().unkept >= 1
        (disk / "other").unlink()
        eventually(lambda: offer(cache, noise(20, 300_000)))
        assert get(cache, digest(DATA, noise(20, 300_000))) == noise(20, 300_000)


def test_a_quota_that_the_disk_does_not_tell_of_is_met_by_evicting(tmp_path, monkeypatch):
    monkeypatch.setattr(Shelf, "free", lambda self: PLENTY)
    with (
        small_disk(tmp_path / "small", 16 * MIB) as disk,
        closing(Cache(CacheSettings(disk / "cache", limit=PLENTY, reserve=0))) as cache,
    ):
        for number in range(60):
            keep(cache, noise(number, MIB))
        there = present(cache, [name_of(number, MIB) for number in range(60)])
        assert there[-1]
        assert 6 <= there.count(True) < 16
        # Not one half-written file.
        assert {path.stat().st_size for path in extents(disk / "cache")} == {MIB}


def test_a_full_disk_when_it_is_opened_is_no_error(tmp_path, impatient):
    with small_disk(tmp_path / "small", 4 * MIB) as disk:
        fill(disk / "other")
        (disk / "cache").mkdir(mode=0o700)
        with closing(Cache(CacheSettings(disk / "cache", limit=PLENTY, reserve=0))) as cache:
            assert not offer(cache, noise(1, 1000))
            assert cache.find([name_of(1)], DATA) == {}
            assert cache.claim(name_of(1))
            assert "space" in cache.status().trouble
            (disk / "other").unlink()
            eventually(lambda: offer(cache, noise(1, 1000)))
            assert get(cache, name_of(1)) == noise(1, 1000)


def test_tables_that_cannot_grow_on_a_full_disk_give_way_to_what_can_be_evicted(tmp_path):
    with (
        small_disk(tmp_path / "small", 16 * MIB) as disk,
        closing(Cache(CacheSettings(disk / "cache", limit=PLENTY, reserve=0))) as cache,
    ):
        for number in range(8):
            keep(cache, noise(number, MIB))
        fill(disk / "other")
        keep(cache, noise(50, MIB))
        assert get(cache, name_of(50, MIB)) == noise(50, MIB)


@pytest.mark.parametrize("number", [errno.EIO, errno.EDQUOT, errno.ENOSPC, errno.EROFS])
def test_a_disk_that_fails_writes_leaves_nothing_behind(opened, directory, monkeypatch, number, impatient):
    cache = opened()
    names = keep(cache, noise(1, 1000), pin=True)
    real = os.writev

    def fail(descriptor: int, parts: list[memoryview]) -> int:
        real(descriptor, [parts[0][:100]])
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "writev", fail)
    assert not offer(cache, noise(2, 1000))
    monkeypatch.undo()
    assert len(extents(directory)) == 1
    assert get(cache, names[0]) == noise(1, 1000)
    assert cache._caretaker.shelf.catalog.sums(0).taken == 4096


# -- damage ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["deleted", "emptied", "cut", "a link", "a directory"])
def test_an_extent_that_is_gone_or_short_is_a_miss_and_kept_anew(opened, directory, how):
    cache = opened()
    names = keep(cache, noise(1, 1000), noise(2, 1000))
    held = cache.find(names, DATA)[names[1]]
    (path,) = extents(directory)
    if how == "emptied":
        path.write_bytes(b"")
    elif how == "cut":
        os.truncate(path, 1999)
    else:
        path.unlink()
        if how == "a link":
            path.symlink_to("/etc/passwd")
        elif how == "a directory":
            path.mkdir()
    assert cache.read(held) is None
    keep(cache, noise(1, 1000), noise(2, 1000))
    assert [get(cache, name) for name in names] == [noise(1, 1000), noise(2, 1000)]


def test_an_open_extent_that_is_cut_is_a_miss(opened, directory):
    cache = opened()
    (name,) = keep(cache, noise(1, 10_000))
    held = cache.find([name], DATA)[name]
    assert cache.read(held) == noise(1, 10_000)
    os.truncate(extents(directory)[0], 5000)
    assert cache.read(held, 0, 5000) == noise(1, 10_000)[:5000]
    assert cache.read(held, 4000, 2000) is None
    keep(cache, noise(1, 10_000))
    assert get(cache, name) == noise(1, 10_000)


def test_damage_in_place_is_mended_by_dropping(opened, directory):
    cache = opened()
    names = keep(cache, noise(1, 1000), noise(2, 1000))
    with extents(directory)[0].open("r+b") as file:
        file.seek(10)
        file.write(b"damage")
    assert get(cache, names[0]) != noise(1, 1000)
    cache.drop(names[:1])
    assert get(cache, names[0]) is None
    keep(cache, noise(1, 1000))
    assert [get(cache, name) for name in names] == [noise(1, 1000), noise(2, 1000)]


def test_a_read_error_is_a_miss(opened, monkeypatch):
    cache = opened()
    (name,) = keep(cache, noise(1, 1000))
    held = cache.find([name], DATA)[name]

    def fail(*_: object) -> bytes:
        raise OSError(errno.EIO, "input/output error")

    monkeypatch.setattr(os, "pread", fail)
    assert cache.read(held) is None
    monkeypatch.undo()
    keep(cache, noise(1, 1000))
    assert get(cache, name) == noise(1, 1000)


def test_a_process_without_descriptors_lets_go_of_some_and_forgets_nothing(opened, monkeypatch):
    cache = opened()
    names = [keep(cache, noise(number, 1000))[0] for number in range(4)]
    found = cache.find(names, DATA)
    for name in names[:3]:
        cache.read(found[name])
    real = os.open
    left = [1]

    def refuse(path: str, *rest: int) -> int:
        if left[0]:
            left[0] -= 1
            raise OSError(errno.EMFILE, "too many open files")
        return real(path, *rest)

    monkeypatch.setattr(os, "open", refuse)
    assert cache.read(found[names[3]]) == noise(3, 1000)
    left[0] = 100
    assert cache.read(found[names[0]]) is None
    left[0] = 0
    assert [cache.read(found[name]) for name in names] == [noise(number, 1000) for number in range(4)]


def damage(path: Path, how: str) -> None:
    if how == "garbage":
        path.write_bytes(noise(1, max(8192, path.stat().st_size)))
    elif how == "pages":
        with path.open("r+b") as file:
            file.seek(4096)
            file.write(noise(1, path.stat().st_size - 4096))
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "gone":
        path.unlink()


@pytest.mark.parametrize("how", ["garbage", "pages", "empty", "gone"])
@pytest.mark.parametrize("table", ["catalog.db", "chunks/cache.db", "nodes/cache.db"])
def test_a_damaged_table_between_two_uses_is_made_anew(opened, directory, table, how):
    cache = opened()
    names = keep(cache, *(noise(number, 1000) for number in range(100)))
    keep(cache, noise(1, 50), kind=TREE)
    cache.close()
    damage(directory / table, how)
    cache = opened()
    for data in (noise(1000, 500), noise(1001, 500)):
        offer(cache, data)
        offer(cache, data, kind=TREE)
    cache.clear()
    keep(cache, noise(2000, 500))
    keep(cache, noise(2000, 500), kind=TREE)
    for number, name in enumerate(names):
        assert get(cache, name) in {None, noise(number, 1000)}
    look(cache)
    assert len(extents(directory)) == len(extents(directory, "nodes")) == 1
    assert not list(directory.glob("discarded-*"))
    assert cache.status().trouble == ""


@pytest.mark.parametrize("how", ["garbage", "pages"])
def test_a_catalog_damaged_in_use_is_a_miss_and_made_anew(opened, directory, how, impatient):
    cache, other = opened(), opened()
    names = [keep(cache, noise(number, 1000))[0] for number in range(200)]
    look(cache)
    with closing(sqlite3.connect(directory / "catalog.db")) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    damage(directory / "catalog.db", how)
    cache._caretaker.shelf.catalog._asker.execute("PRAGMA cache_size = 0")
    for each in (cache, other):
        for number, name in enumerate(names):
            assert get(each, name) in {None, noise(number, 1000)}
    eventually(lambda: offer(cache, noise(500, 1000)))
    eventually(lambda: offer(other, noise(501, 1000)))
    eventually(lambda: get(other, name_of(500)) == noise(500, 1000))
    eventually(lambda: get(cache, name_of(501)) == noise(501, 1000))


COLUMNS = [
    "chunk.extent", "chunk.offset", "chunk.length", "chunk.size", "chunk.flags", "extent.part", "extent.bytes", "extent.used",
    "extent.members", "extent.chunks", "part.bytes", "part.pinned", "counter.value", "answer.value", "answer.stored", "meta.value",
]  # fmt: skip


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("value", ["text", 0.5, -1, 2**62, b"x"], ids=["text", "fraction", "negative", "huge", "bytes"])
def test_a_value_that_a_flipped_bit_left_is_no_error(opened, directory, impatient, column, value):
    cache = opened(limit=4 << 20)
    names = [keep(cache, noise(number, 1000))[0] for number in range(20)]
    cache.remember("key", b"answer")
    get(cache, names[0])
    cache.status()
    table, name = column.split(".")
    with closing(sqlite3.connect(directory / "catalog.db", isolation_level=None)) as connection:
        connection.execute(f"UPDATE {table} SET {name} = ?", (value,))  # noqa: S608 - both are of the list above
    for each in (cache, opened(limit=4 << 20)):
        for wanted in (names[:1], names):
            for name, held in each.find(wanted, DATA).items():
                assert each.read(held) in {None, noise(names.index(name), 1000)} or column in {
                    "chunk.offset",
                    "chunk.extent",
                }
        for number in range(30, 60):  # so that some must go
            offer(each, noise(number, 200_000))
        each.recall("key")
        each.pin(names)
        each.drop(names[:3])
        each.status()
    eventually(lambda: offer(cache, noise(500, 1000)) and get(cache, name_of(500)) == noise(500, 1000))


def test_a_planted_pickle_is_not_run(opened, directory):
    class Planted:
        def __reduce__(self):
            return os.mkdir, (str(directory / "ran"),)

    cache = opened()
    keep(cache, noise(1, 1000))
    cache.close()
    with closing(sqlite3.connect(directory / "chunks" / "cache.db")) as connection, connection:
        for key, raw, mode, filename, value in (
            ("0123456789abcdef", 1, 4, None, pickle.dumps(Planted())),
            (pickle.dumps(Planted()), 0, 4, None, pickle.dumps(Planted())),
            ("0123456789abcdee", 1, 2, "../../victim", None),
        ):
            connection.execute(
                "INSERT INTO Cache (key, raw, store_time, access_time, mode, filename, value, size) "
                "VALUES (?, ?, 1, 1, ?, ?, ?, 0)",
                (key, raw, mode, filename, value),
            )
    victim = directory.parent / "victim"
    victim.write_text("precious")
    _other_boot(directory)
    cache = opened()
    offer(cache, noise(2, 1000))
    cache.clear(pinned=True)
    keep(cache, noise(3, 1000))
    assert get(cache, name_of(3)) == noise(3, 1000)
    assert not (directory / "ran").exists()
    assert victim.read_text() == "precious"


def test_the_disk_of_a_part_knows_extents_only(tmp_path):
    disk = StrictDisk(str(tmp_path))
    for refused in (
        lambda: disk.put(b"0123456789abcdef"),
        lambda: disk.put(1),
        lambda: disk.put("../x"),
        lambda: disk.put("0123456789ABCDEF"),
        lambda: disk.get(b"", False),
        lambda: disk.get("0123456789abcdef/..", True),
        lambda: disk.store(b"bytes", False, key="0123456789abcdef"),
        lambda: disk.store(io.BytesIO(b"bytes"), True, key="0123456789abcdef"),
        lambda: disk.fetch(4, None, b"", False),
        lambda: disk.fetch(2, "0123456789abcdef", None, True),
        lambda: disk.remove("../0123456789abcdef"),
    ):
        with pytest.raises(Integrity):
            refused()
    assert list(tmp_path.iterdir()) == []


# -- the directory goes ------------------------------------------------------------------------------------------------


def test_a_directory_deleted_in_use_is_made_anew(opened, directory):
    cache, other = opened(), opened()
    (name,) = keep(cache, noise(1, 1000))
    held = cache.find([name], DATA)[name]
    cache.read(held)
    assert get(other, name) == noise(1, 1000)
    shutil.rmtree(directory)
    assert cache.find([name], DATA) == {}
    assert cache.recall("x") is None
    assert cache.read(held) in {None, noise(1, 1000)}
    keep(cache, noise(2, 1000))
    keep(other, noise(3, 1000))
    assert get(cache, name_of(3)) == noise(3, 1000)
    assert get(other, name_of(2)) == noise(2, 1000)
    assert len(extents(directory)) == 2
    look(cache)
    assert cache.read(held) is None


def test_a_part_deleted_in_use_is_made_anew(opened, directory, impatient):
    cache = opened()
    (name,) = keep(cache, noise(1, 1000))
    shutil.rmtree(directory / "chunks")
    assert get(cache, name) is None
    eventually(lambda: offer(cache, noise(1, 1000)))
    assert get(cache, name) == noise(1, 1000)


def test_something_else_in_its_place_keeps_nothing(opened, directory, impatient):
    cache = opened()
    (name,) = keep(cache, noise(1, 1000))
    shutil.rmtree(directory)
    directory.write_text("not a cache")
    for _ in range(3):
        assert cache.find([name], DATA) == {}
        assert not offer(cache, noise(2, 1000))
    assert "no directory" in cache.status().trouble
    directory.unlink()
    eventually(lambda: offer(cache, noise(2, 1000)))


# -- others ------------------------------------------------------------------------------------------------------------


def counted(monkeypatch: pytest.MonkeyPatch, owner: type, name: str) -> list[str]:
    calls: list[str] = []
    real = getattr(owner, name)

    def call(*arguments: object, **options: object) -> object:
        calls.append(name)
        return real(*arguments, **options)

    monkeypatch.setattr(owner, name, call)
    return calls


@pytest.mark.parametrize("table", ["catalog.db", "chunks/cache.db"])
def test_a_process_that_hangs_in_a_change_is_waited_for_once(opened, directory, monkeypatch, table, impatient):
    monkeypatch.setattr(caretaker_module, "REST_SECONDS", 3600.0)
    cache = opened()
    (name,) = keep(cache, noise(1, 1000))
    calls = counted(monkeypatch, Shelf, "keep")
    with closing(sqlite3.connect(directory / table, isolation_level=None)) as hanging:
        hanging.execute("BEGIN IMMEDIATE")
        for number in range(10, 40):
            assert not offer(cache, noise(number, 1000))
        assert len(calls) == 1
        assert get(cache, name) == noise(1, 1000)
        assert "another process" in cache.status().trouble
        hanging.execute("ROLLBACK")
    cache._caretaker._resting_until = 0.0
    keep(cache, noise(10, 1000))
    assert cache.status().trouble == ""


def test_a_part_that_is_held_when_it_is_first_used_is_not_waited_for_a_minute(opened, directory, impatient):
    keep(opened(), noise(1, 1000))
    cache = opened()
    with closing(sqlite3.connect(directory / "chunks" / "cache.db", isolation_level=None)) as hanging:
        hanging.execute("BEGIN IMMEDIATE")
        # diskcache itself would try for a minute, and a test may take five.
        assert not offer(cache, noise(2, 1000))
        hanging.execute("ROLLBACK")
    eventually(lambda: offer(cache, noise(2, 1000)))


def test_extents_go_though_their_table_is_held(opened, directory, impatient):
    cache = opened()
    for number in range(5):
        keep(cache, noise(number, 1000))
    with closing(sqlite3.connect(directory / "chunks" / "cache.db", isolation_level=None)) as hanging:
        hanging.execute("BEGIN IMMEDIATE")
        cache.clear()
        hanging.execute("ROLLBACK")
    assert extents(directory) == []
    keep(cache, noise(1, 1000))
    assert get(cache, name_of(1)) == noise(1, 1000)


def test_while_another_process_mends_the_parts_nothing_is_kept(opened, directory, monkeypatch, impatient):
    cache = opened()
    (name,) = keep(cache, noise(1, 1000))
    with (directory / "lock").open("r+b") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert not offer(cache, noise(2, 1000))
        assert get(cache, name) == noise(1, 1000)
    eventually(lambda: offer(cache, noise(2, 1000)))


def test_a_disk_that_hangs_is_waited_for_once(opened, monkeypatch):
    cache = opened()
    (name,) = keep(cache, noise(1, 1000))
    monkeypatch.setattr(caretaker_module, "REST_SECONDS", 3600.0)
    calls = counted(monkeypatch, Shelf, "keep")
    hanging, going_on = threading.Event(), threading.Event()
    real = os.writev

    def hang(descriptor: int, parts: list[memoryview]) -> int:
        hanging.set()
        going_on.wait(60)
        return real(descriptor, parts)

    def refused() -> bool:
        """Whether the wait was one for the disk: a slow thread has not begun by then, and has nothing to do."""
        cache._caretaker._resting_until = 0.0
        assert not offer(cache, noise(2, 1000))
        return hanging.is_set()

    monkeypatch.setattr(os, "writev", hang)
    with monkeypatch.context() as hasty:
        hasty.setattr(caretaker_module, "WAIT_SECONDS", 0.05)
        eventually(refused)
    for number in range(3, 20):
        assert not offer(cache, noise(number, 1000))
    assert calls == ["keep"]
    assert get(cache, name) == noise(1, 1000)
    assert "does not answer" in cache.status().trouble
    going_on.set()
    cache._caretaker._resting_until = 0.0
    keep(cache, noise(30, 1000))


def test_where_nobody_can_tell_everybody_has_the_claim(opened, monkeypatch):
    first, second = opened(), opened()

    def fail(*_: object) -> int:
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(fcntl, "fcntl", fail)
    assert first.claim(name_of(1))
    assert second.claim(name_of(1))
    assert second.claim_within(name_of(1), 5)
    first.release([name_of(1)])


def test_trouble_is_logged_once(opened, directory, caplog, impatient):
    cache = opened()
    keep(cache, noise(1, 1000))
    shutil.rmtree(directory)
    directory.write_text("not a cache")
    with caplog.at_level(logging.WARNING):
        for number in range(5):
            offer(cache, noise(number, 1000))
    assert [record.getMessage().count("no directory") for record in caplog.records] == [1]
    directory.unlink()


def test_clear_says_when_it_cannot(opened, directory, impatient):
    cache = opened()
    keep(cache, noise(1, 1000))
    with closing(sqlite3.connect(directory / "catalog.db", isolation_level=None)) as hanging:
        hanging.execute("BEGIN IMMEDIATE")
        with pytest.raises(shelf_module.ArtifactFSError, match="another process"):
            cache.clear()
        hanging.execute("ROLLBACK")
    assert cache.clear() > 0


# -- after a crash of the machine --------------------------------------------------------------------------------------


def _other_boot(directory: Path) -> None:
    with closing(sqlite3.connect(directory / "catalog.db")) as connection, connection:
        connection.execute("UPDATE meta SET value = 'another' WHERE key = 'boot'")


def test_after_a_crash_of_the_machine_tables_and_files_agree_again(opened, directory):
    cache = opened()
    names = [keep(cache, noise(number, 1000))[0] for number in range(6)]
    cache.close()
    first, second, *_ = extents(directory)
    first.unlink()  # its data was never written
    with closing(sqlite3.connect(directory / "chunks" / "cache.db")) as connection, connection:
        # Its row was never written, but that of the catalog was.
        connection.execute("DELETE FROM Cache WHERE key = ?", (second.name,))
    (directory / "chunks" / ("ab" * 8)).write_bytes(b"nobody's")
    _other_boot(directory)
    cache = opened()
    keep(cache, noise(100, 1000))
    assert (directory / "chunks" / ("ab" * 8)).exists() is False
    assert present(cache, names).count(True) == 4
    assert len(extents(directory)) == 5
    status = cache.status()
    assert (status.chunk_bytes, status.extents, status.chunks) == (5 * 4096, 5, 5)
    for number, name in enumerate(names):
        assert get(cache, name) in {None, noise(number, 1000)}


def test_only_one_process_checks_and_only_once(opened, directory, monkeypatch):
    checks = counted(monkeypatch, Vault, "check")
    keep(opened(), noise(1, 1000))
    assert checks == []
    _other_boot(directory)
    for number in range(3):
        cache = opened()
        keep(cache, noise(10 + number, 1000))
        look(cache)
    assert checks == ["check", "check"]  # one a part


def test_a_check_waits_for_nobody(opened, directory, monkeypatch):
    monkeypatch.setattr(cachedir_module, "LOCK_SECONDS", 0.05)
    keep(opened(), noise(1, 1000))
    _other_boot(directory)
    checks = counted(monkeypatch, Vault, "check")
    with (directory / "lock").open("r+b") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        cache = opened()
        keep(cache, noise(2, 1000))
        look(cache)
        keep(cache, noise(3, 1000))
        assert checks == []
    look(cache)
    assert checks == ["check", "check"]


def test_a_large_cache_is_checked_later(opened, directory, monkeypatch):
    keep(opened(), noise(1, 1000))
    _other_boot(directory)
    monkeypatch.setattr(shelf_module, "SMALL", 0)
    checks = counted(monkeypatch, Vault, "check")
    cache = opened()
    keep(cache, noise(2, 1000))
    assert checks == []
    look(cache)
    assert checks == ["check", "check"]
    assert get(cache, name_of(1)) == noise(1, 1000)

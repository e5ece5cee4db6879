"""The cache by itself: what is kept is found and read back, within its limit, and the least used goes first."""

from __future__ import annotations

import os
import sqlite3
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from artifactfs.content import cache as cache_module
from artifactfs.content import caretaker as caretaker_module
from artifactfs.content import catalog as catalog_module
from artifactfs.content.cache import Cache, CacheSettings
from artifactfs.content.shelf import DEFAULT_LIMIT, DEFAULT_RESERVE, NODE_SHARE
from artifactfs.errors import Access, Format, InvalidInput
from artifactfs.model.digest import CHUNKS, DATA, TREE, digest
from tests.conftest import eventually
from tests.content.cached import PLENTY, extents, get, keep, offer, on_disk, present, row_of, small_disk
from tests.content.stores import noise

MIB = 1 << 20
TABLES = 3 * MIB
"""Bytes that the tables of a small cache take at most, logs included."""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def opened(directory: Path) -> Iterator[Callable[..., Cache]]:
    """Opens the cache, as often as wanted."""
    with ExitStack() as stack:

        def opened(limit: int | None = PLENTY, reserve: int | None = 0) -> Cache:
            return stack.enter_context(closing(Cache(CacheSettings(directory, limit=limit, reserve=reserve))))

        yield opened


# -- keeping and reading -----------------------------------------------------------------------------------------------


def test_what_is_kept_is_found_and_read(opened):
    cache = opened()
    chunks = [noise(number, 1000 * number + 1) for number in range(50)]
    names = keep(cache, *chunks)
    found = cache.find([*names, b"x" * 32], DATA)
    assert list(map(found.get, [*names, b"x" * 32])) == [*map(found.__getitem__, names), None]
    for name, data in zip(names, chunks, strict=True):
        held = found[name]
        assert (held.length, held.size, held.flags, held.verified) == (len(data), len(data), 0, False)
        assert cache.read(held) == data
        assert cache.read(held, len(data) // 3) == data[len(data) // 3 :]
        assert cache.read(held, 0, 1) == data[:1]
        assert cache.read(held, len(data)) == b""


def test_a_range_beyond_a_chunk_is_refused(opened):
    cache = opened()
    names = keep(cache, noise(1, 100), noise(2, 100))
    held = cache.find(names, DATA)[names[0]]
    for begin, length in ((0, 101), (101, None), (-1, 5), (50, -1), (99, 2)):
        with pytest.raises(InvalidInput):
            cache.read(held, begin, length)


def test_any_number_of_chunks_is_found_at_once(opened):
    cache = opened()
    chunks = [number.to_bytes(4, "big") for number in range(3000)]
    names = keep(cache, *chunks)
    for count in (0, 1, 2, 8, 9, 499, 500, 501, 3000):
        assert len(cache.find(names[:count], DATA)) == count
    assert cache.find(frozenset(names), DATA).keys() == set(names)
    assert [cache.read(held) for held in map(cache.find(names, DATA).__getitem__, names)] == chunks


def test_chunks_fetched_together_are_one_file(opened, directory):
    cache = opened()
    keep(cache, *(noise(number, 20_000) for number in range(400)))
    assert [path.stat().st_size for path in extents(directory)] == [400 * 20_000]


def test_another_process_s_view_is_the_same(opened):
    first, second = opened(), opened()
    names = keep(first, noise(1, 1000))
    assert get(second, names[0]) == noise(1, 1000)
    second.drop(names)
    assert first.find(names, DATA) == {}


def test_it_outlives_the_process(opened):
    first = opened()
    names = keep(first, noise(1, 1000))
    first.close()
    assert get(opened(), names[0]) == noise(1, 1000)


def test_a_chunk_is_found_as_the_kind_that_it_was_kept_as(opened):
    cache = opened()
    (name,) = keep(cache, noise(1, 500), kind=TREE)
    assert present(cache, [name], TREE) == [True]
    assert cache.find([name], DATA) == cache.find([name], CHUNKS) == {}
    rows = [row_of(noise(2, 10), DATA), row_of(noise(3, 10), TREE), row_of(noise(4, 10), CHUNKS)]
    assert cache.keep(rows, [noise(2, 10), noise(3, 10), noise(4, 10)])
    for row, kind, number in zip(rows, (DATA, TREE, CHUNKS), (2, 3, 4), strict=True):
        assert get(cache, row.digest, kind) == noise(number, 10)


def test_flags_and_plain_size_come_back(opened):
    cache = opened()
    row = row_of(noise(1, 300))
    row = type(row)(row.digest, 5, 300, 1200, 1)
    assert cache.keep([row], [noise(1, 300)])
    held = cache.find([row.digest], DATA)[row.digest]
    assert (held.length, held.size, held.flags) == (300, 1200, 1)
    assert cache.read(held) == noise(1, 300)


def test_any_buffers_are_kept(opened):
    cache = opened()
    whole = bytearray(noise(1, 5000))
    parts = [whole[:1000], memoryview(whole)[1000:3000], bytes(whole[3000:])]
    rows = [row_of(bytes(part)) for part in parts]
    assert cache.keep(rows, parts)
    assert [get(cache, row.digest) for row in rows] == [bytes(part) for part in parts]


def test_more_parts_than_one_system_call_takes_and_a_write_that_is_cut(opened, monkeypatch):
    cache = opened()
    real = os.writev
    monkeypatch.setattr(os, "writev", lambda fd, parts: real(fd, [b"".join(parts)[:777]]))
    chunks = [number.to_bytes(4, "big") * (1 + number % 9) for number in range(1500)]
    names = keep(cache, *chunks)
    found = cache.find(names, DATA)
    assert [cache.read(found[name]) for name in names] == chunks


def test_what_is_there_is_not_kept_twice(opened, directory):
    first, second = opened(), opened()
    keep(first, noise(1, 1000), noise(2, 1000))
    assert offer(second, noise(1, 1000), noise(2, 1000))
    assert len(extents(directory)) == 1
    names = keep(second, noise(2, 1000), noise(3, 500), noise(3, 500))
    assert sorted(path.stat().st_size for path in extents(directory)) == [500, 2000]
    assert [get(first, name) for name in names] == [noise(2, 1000), noise(3, 500), noise(3, 500)]


def test_a_body_of_another_length_than_its_row_is_refused(opened):
    with pytest.raises(InvalidInput):
        opened().keep([row_of(b"four")], [b"fiver"])


def test_a_dropped_chunk_is_kept_anew(opened, directory):
    cache = opened()
    names = keep(cache, noise(1, 1000), noise(2, 1000))
    cache.drop(names[:1])
    assert present(cache, names) == [False, True]
    assert len(extents(directory)) == 1
    keep(cache, noise(1, 1000))
    assert get(cache, names[0]) == noise(1, 1000)
    # When nothing of an extent is left it goes.
    cache.drop(names)
    assert extents(directory) == []
    assert cache.status().chunk_bytes == 0


def test_the_way_of_a_read_is_one_pread_and_no_statement(opened, monkeypatch):
    cache = opened()
    names = keep(cache, *(noise(number, 1000) for number in range(100)))
    statements: list[str] = []
    shelf = cache._caretaker.shelf
    for connection in (shelf.catalog._asker, shelf.catalog._writer):
        connection.set_trace_callback(statements.append)
    found = cache.find(names, DATA)
    assert len(statements) == 1
    calls: list[str] = []
    for name in ("open", "pread", "stat", "fstat"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, real=real, name=name, **k: (calls.append(name), real(*a, **k))[1])
    cache.read(found[names[0]])
    assert calls == ["open", "pread"]
    del calls[:]
    for name in names:
        assert cache.read(found[name]) is not None
    monkeypatch.undo()
    assert calls == ["pread"] * 100
    assert len(statements) == 1
    assert cache.find(names[:1], DATA).keys() == set(names[:1])
    assert len(statements) == 2


def test_thousands_of_chunks_are_asked_for_by_the_five_hundred(opened):
    cache = opened()
    statements: list[str] = []
    cache._caretaker.shelf.catalog._asker.set_trace_callback(statements.append)
    cache.find([number.to_bytes(32, "big") for number in range(2100)], DATA)
    assert len(statements) == 5


def test_descriptors_are_bounded_and_reused(opened, directory, monkeypatch):
    monkeypatch.setattr(cache_module, "OPEN_EXTENTS", 4)

    def held() -> list[str]:
        """Files of the cache that are open here; of others some may be closed at any time, as garbage is collected."""
        links = (os.path.realpath(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd"))
        return [os.path.relpath(link, directory) for link in links if link.startswith(f"{directory}/")]

    cache = opened()
    names = [keep(cache, noise(number, 100))[0] for number in range(12)]
    before = held()
    assert "catalog.db" in before
    for number, name in enumerate(names):
        assert get(cache, name) == noise(number, 100)
    opened_since = held()
    for name in before:
        opened_since.remove(name)
    assert len(opened_since) == 4
    assert set(opened_since) <= {f"chunks/{path.name}" for path in extents(directory)}
    cache.close()
    assert held() == []


# -- limits ------------------------------------------------------------------------------------------------------------


def test_the_least_recently_used_goes_first(opened):
    cache = opened(limit=10 * MIB + TABLES)
    names = [keep(cache, noise(number, MIB))[0] for number in range(10)]
    cache.read(cache.find(names[:1], DATA)[names[0]])
    cache.status()  # writes down what was used
    names += [keep(cache, noise(number, MIB))[0] for number in range(10, 14)]
    there = present(cache, names)
    assert there[0]
    gone = there.count(False)
    assert 0 < gone <= 6
    assert there[1 : 1 + gone] == [False] * gone


def test_the_limit_is_kept_to_the_byte_with_sizes_mixed(opened, directory):
    limit = 40 * MIB
    cache = opened(limit=limit)
    worst = 0
    small = 0
    for round_number in range(6):
        for _ in range(100):
            small += 1
            keep(cache, noise(small, 20_000))
        worst = max(worst, on_disk(directory))
        for number in range(3):
            keep(cache, noise(10_000 + round_number * 10 + number, 8 * MIB))
            worst = max(worst, on_disk(directory))
            assert cache.status().bytes <= limit
    # The tables may grow by a few rows once the room is made.
    assert worst <= limit + 512 * 1024
    # And what fits is used: all but less than one of the large ones.
    assert on_disk(directory) > limit - 8 * MIB - TABLES


def test_bytes_told_are_those_on_the_disk(opened, directory):
    cache = opened()
    for number in range(40):
        keep(cache, *(noise(number * 100 + each, 3_000) for each in range(7)))
    keep(cache, *(noise(number, 700) for number in range(5000, 5100)), kind=TREE)
    status = cache.status()
    assert abs(status.bytes - on_disk(directory)) < 128 * 1024
    assert status.chunk_bytes == 40 * 24_576
    assert status.node_bytes == -(-70_000 // 4096) * 4096
    assert (status.extents, status.chunks, status.nodes) == (41, 280, 100)


def test_an_extent_larger_than_the_limit_is_not_kept_and_costs_nothing(opened):
    cache = opened(limit=8 * MIB)
    names = keep(cache, noise(1, MIB))
    assert not offer(cache, noise(2, 9 * MIB))
    assert present(cache, names) == [True]
    assert cache.status().unkept == 1


def test_a_limit_of_nothing_keeps_nothing(opened, directory):
    cache = opened(limit=0)
    assert not offer(cache, noise(1, 10))
    assert not offer(cache, noise(1, 10), kind=TREE)
    cache.remember("a", b"b")
    assert cache.recall("a") is None
    assert cache.find([digest(DATA, noise(1, 10))], DATA) == {}
    assert extents(directory) == []


def test_a_smaller_limit_is_come_down_to(opened, directory):
    large = opened(limit=100 * MIB)
    for number in range(40):
        keep(large, noise(number, MIB))
    small = opened(limit=10 * MIB)
    keep(small, noise(100, MIB))
    assert on_disk(directory) <= 10 * MIB + 512 * 1024


def test_pinned_chunks_stay(opened):
    cache = opened(limit=10 * MIB + TABLES)
    pinned = keep(cache, noise(1, MIB), pin=True) + keep(cache, noise(2, MIB))
    cache.pin(pinned[1:])
    # Kept before, and asked for once more with a pin.
    pinned += keep(cache, noise(3, MIB))
    assert offer(cache, noise(3, MIB), pin=True)
    assert cache.status().pinned_bytes == 3 * MIB
    for number in range(10, 40):
        keep(cache, noise(number, MIB))
    assert present(cache, pinned) == [True] * 3
    cache.pin(pinned)
    assert cache.status().pinned_bytes == 3 * MIB


def test_when_pins_fill_the_limit_nothing_more_is_kept_and_status_says_so(opened):
    cache = opened(limit=10 * MIB)
    pinned = []
    for number in range(20):
        if offer(cache, noise(number, MIB), pin=True):
            pinned += [digest(DATA, noise(number, MIB))]
    assert 6 <= len(pinned) < 10
    assert not offer(cache, noise(50, MIB))
    assert present(cache, pinned) == [True] * len(pinned)
    status = cache.status()
    assert status.pinned_bytes == len(pinned) * MIB
    assert "pinned" in status.trouble
    assert "--pinned" in status.trouble
    # Nodes still have their share.
    keep(cache, noise(60, 1000), kind=TREE)


def test_nodes_outlive_chunks_and_keep_to_their_share(opened):
    limit = 20 * MIB
    cache = opened(limit=limit)
    nodes = [keep(cache, noise(number, 100_000), kind=TREE)[0] for number in range(10)]
    for number in range(100, 160):
        keep(cache, noise(number, MIB))
    assert present(cache, nodes, TREE) == [True] * 10
    for number in range(200, 260):
        nodes += keep(cache, noise(number, 100_000), kind=TREE)
    status = cache.status()
    assert limit // NODE_SHARE - 110_000 < status.node_bytes <= limit // NODE_SHARE
    there = present(cache, nodes, TREE)
    assert there == sorted(there)
    assert status.bytes <= limit


def test_the_reserve_of_the_disk_is_left_free(tmp_path):
    with (
        small_disk(tmp_path / "small", 64 * MIB) as disk,
        closing(Cache(CacheSettings(disk / "cache", limit=PLENTY, reserve=24 * MIB))) as cache,
    ):
        for number in range(80):
            keep(cache, noise(number, MIB))
            assert os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize >= 23 * MIB
        # When others need the space the cache makes way.
        (disk / "other").write_bytes(noise(1, 20 * MIB))
        keep(cache, noise(100, MIB))
        assert os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize >= 23 * MIB
        (disk / "more").write_bytes(noise(2, 23 * MIB))
        assert not offer(cache, noise(101, MIB))
        assert "free space" in cache.status().trouble
        (disk / "more").unlink()
        keep(cache, noise(102, MIB))
        assert cache.status().trouble == ""


def test_limit_and_reserve_go_by_the_disk(tmp_path, opened):
    disk = os.statvfs(tmp_path)
    status = opened(None, None).status()
    assert status.limit == min(DEFAULT_LIMIT, disk.f_blocks * disk.f_frsize // 10)
    assert status.reserve == min(DEFAULT_RESERVE, disk.f_blocks * disk.f_frsize // 50)
    with small_disk(tmp_path / "small", 50 * MIB) as small, closing(Cache(CacheSettings(small / "cache"))) as cache:
        assert (cache.status().limit, cache.status().reserve) == (5 * MIB, MIB)


def test_an_evicted_extent_that_is_open_gives_its_space_back_in_time(opened, monkeypatch):
    reader, writer = opened(), opened()
    names = keep(writer, noise(1, 10_000))
    held = reader.find(names, DATA)[names[0]]
    assert reader.read(held) == noise(1, 10_000)
    writer.clear()
    # Open it is still there, but is no longer found; and at the next look it is closed.
    assert reader.read(held) == noise(1, 10_000)
    assert reader.find(names, DATA) == {}
    reader._caretaker.do(reader._look_after)
    assert reader.read(held) is None


def test_it_is_looked_after_every_few_seconds(opened, monkeypatch):
    monkeypatch.setattr(caretaker_module, "TICK_SECONDS", 0.02)
    reader, writer = opened(), opened()
    names = keep(writer, noise(1, 10_000))
    held = reader.find(names, DATA)[names[0]]
    assert reader.read(held) == noise(1, 10_000)
    writer.clear()
    eventually(lambda: reader.read(held) is None)
    reader.count(hits=5)
    eventually(lambda: writer.status().hits == 5)


def test_the_table_of_a_part_knows_what_the_catalog_knows(opened, directory):
    cache = opened(limit=6 * MIB)
    for number in range(300):
        keep(cache, noise(number, 50_000))
    cache._caretaker.do(cache._look_after)
    with closing(sqlite3.connect(directory / "chunks" / "cache.db")) as connection:
        table = {row[0] for row in connection.execute("SELECT key FROM Cache")}
    assert table == {path.name for path in extents(directory)}
    assert 0 < len(table) < 200


# -- clearing, counting, answers ---------------------------------------------------------------------------------------


def test_clear_frees_all_but_pins_and_these_when_asked(opened, directory):
    cache = opened()
    names = [keep(cache, noise(number, 50_000))[0] for number in range(150)]
    pinned = keep(cache, noise(1000, 50_000), pin=True)
    nodes = keep(cache, noise(1, 100), kind=TREE)
    cache.remember("who", b"me")
    before = on_disk(directory)
    freed = cache.clear()
    assert abs(before - on_disk(directory) - freed) < 128 * 1024
    assert present(cache, names) == [False] * 150
    assert present(cache, nodes, TREE) == [False]
    assert cache.recall("who") is None
    assert present(cache, pinned) == [True]
    assert len(extents(directory)) == 1
    assert cache.clear(pinned=True) >= 50_000
    assert extents(directory) == extents(directory, "nodes") == []
    status = cache.status()
    assert (status.chunk_bytes, status.node_bytes, status.pinned_bytes, status.extents) == (0, 0, 0, 0)
    keep(cache, noise(1000, 50_000))


def test_counts_are_summed_over_caches_and_stay(opened):
    first, second = opened(), opened()
    assert first.status().hit_rate is None
    first.count(hits=3, misses=1, fetched=100, saved=300)
    second.count(hits=4, fetched=11)
    second.close()
    status = first.status()
    assert (status.hits, status.misses, status.fetched, status.saved) == (7, 1, 111, 300)
    assert status.hit_rate == 7 / 8
    first.close()
    assert opened().status().hits == 7


def test_uses_are_written_down_now_and_then_and_not_by_the_call(opened):
    cache = opened()
    names = keep(cache, noise(1, 100))
    catalog = cache._caretaker.shelf.catalog
    at_first = catalog._asker.execute("SELECT used FROM extent").fetchone()
    cache.find(names, DATA)
    assert catalog._asker.execute("SELECT used FROM extent").fetchone() == at_first
    cache._caretaker.do(cache._look_after)
    assert catalog._asker.execute("SELECT used FROM extent").fetchone() > at_first


def test_answers_are_remembered_by_all(opened):
    first, second = opened(), opened()
    assert first.recall("artifacts") is None
    first.remember("artifacts", b"one")
    first.remember("artifacts", b"two")
    assert second.recall("artifacts") == b"two"
    first.close()
    second.close()
    assert opened().recall("artifacts") == b"two"


def test_answers_take_a_small_share_and_the_oldest_go(opened):
    cache = opened(limit=50 * MIB)  # a 50th: 1 MiB
    for number in range(40):
        cache.remember(f"answer {number}", noise(number, 100_000))
    there = [cache.recall(f"answer {number}") is not None for number in range(40)]
    assert there == sorted(there)
    assert there.count(True) == 10
    cache.remember("large", noise(1, 300_000))
    assert cache.recall("large") is None


def test_threads_share_a_cache(opened):
    cache = opened(limit=8 * MIB)
    failures: list[object] = []

    def work(seed: int) -> None:
        for number in range(40):
            data = noise((seed + number) % 60, 50_000)
            offer(cache, data)
            found = get(cache, digest(DATA, data))
            if found not in {None, data}:
                failures.append(number)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(0, 64, 8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert cache.status().bytes <= 8 * MIB
    assert cache.status().unkept == 0


def test_a_closed_cache_is_all_misses(opened):
    cache = opened()
    names = keep(cache, noise(1, 100))
    held = cache.find(names, DATA)[names[0]]
    cache.read(held)
    cache.close()
    cache.close()
    assert cache.find(names, DATA) == {}
    assert cache.read(held) is None
    assert not offer(cache, noise(2, 100))
    cache.drop(names)
    cache.remember("a", b"b")
    assert cache.recall("a") is None
    assert cache.claim(names[0])
    assert "closed" in cache.status().trouble


def test_closing_ends_the_thread(opened):
    cache = opened()
    keep(cache, noise(1, 100))
    thread = cache._caretaker._thread
    assert thread in threading.enumerate()
    cache.close()
    assert thread not in threading.enumerate()


# -- the directory -----------------------------------------------------------------------------------------------------


def test_nobody_else_may_look_into_it(opened, directory):
    directory.mkdir(mode=0o755)
    keep(opened(), noise(1, 100))
    for path in (directory, directory / "chunks", directory / "nodes"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert stat.S_IMODE(extents(directory)[0].stat().st_mode) == 0o600


def test_another_user_s_directory_is_refused(directory, opened):
    directory.mkdir()
    os.chown(directory, 4242, -1)
    with pytest.raises(Access, match=r"4242.*--cache-dir"):
        opened()


def test_a_newer_format_is_refused(directory, opened):
    opened().close()
    (directory / "format").write_text("artifactfs cache 2\n")
    with pytest.raises(Format, match=r"format 2.*format 1.*--cache-dir"):
        opened()


def test_a_directory_of_other_things_is_refused_and_left_alone(directory, opened):
    directory.mkdir()
    (directory / "thesis.txt").write_text("mine")
    with pytest.raises(InvalidInput, match=r"thesis\.txt.*--cache-dir"):
        opened()
    assert os.listdir(directory) == ["thesis.txt"]
    (directory / "thesis.txt").unlink()
    opened()


def test_a_file_is_no_directory(directory, opened):
    directory.write_text("")
    with pytest.raises(InvalidInput, match="--cache-dir"):
        opened()


def test_a_network_file_system_is_refused(directory, opened, monkeypatch):
    monkeypatch.setattr("artifactfs.registry.netfs.filesystem_of", lambda path, mountinfo: "nfs4")
    with pytest.raises(InvalidInput, match=r"the cache.*NFS.*--cache-dir"):
        opened()


def test_a_name_that_diskcache_would_replace_is_refused(directory):
    with pytest.raises(InvalidInput, match="--cache-dir"):
        Cache(CacheSettings(directory / "$HOME"))


def test_negative_sizes_are_refused(opened):
    for sizes in ((-1, 0), (0, -1)):
        with pytest.raises(InvalidInput):
            opened(*sizes)


def test_a_lost_marker_is_written_again(directory, opened):
    names = keep(opened(), noise(1, 100))
    (directory / "format").unlink()
    assert get(opened(), names[0]) == noise(1, 100)
    assert (directory / "format").read_text() == "artifactfs cache 1\n"


def test_the_tables_say_what_they_are(directory, opened):
    opened().close()
    with closing(sqlite3.connect(directory / "catalog.db")) as connection:
        assert connection.execute("PRAGMA application_id").fetchone() == (catalog_module.APPLICATION_ID,)

"""Versions, or paths in them, in the cache of a repository behind a network: what comes, what stays, what is read without it."""

from __future__ import annotations

import pytest

from artifactfs.errors import Integrity, NotFound, Unavailable
from artifactfs.model.names import parse_address
from artifactfs.transfer import WarmStats, warm
from tests.transfer.sides import MIB, contents, damage, far, noise, put


def named(repository, text):
    return repository.resolve(parse_address(text))


def test_what_was_warmed_is_read_with_the_network_gone(source, tree, place):
    version = put(source, tree)
    seen = []
    with far(place / "source", place / "cache") as behind:
        stats = warm(behind, named(behind, "data"), "", progress=lambda now: seen.append((now.files, now.bytes_done)))
    assert (stats.files, stats.bytes_done) == (version.files, version.size) == seen[-1]
    assert seen == sorted(seen)
    with far(place / "source", place / "cache") as behind:
        behind.store.away = True
        assert contents(behind, version, place / "there") == contents(source, version, place / "here")
        assert warm(behind, version, "").bytes_done == version.size
        assert behind.store.requests == []


def test_only_what_is_at_the_path_comes(source, tree, place):
    version = put(source, tree)
    with far(place / "source", place / "cache") as behind:
        stats = warm(behind, version, "sub/deep")
        assert (stats.files, stats.bytes_done) == (1, 9 * MIB)
        assert warm(behind, version, "sub/f07") == WarmStats(1, 3000)
        assert warm(behind, version, "link") == WarmStats(1, 0)
        assert warm(behind, version, "hollow") == WarmStats(0, 0)
        with pytest.raises(NotFound, match="has no 'sub/nothing'"):
            warm(behind, version, "sub/nothing")
    with far(place / "source", place / "cache") as behind:
        behind.store.away = True
        for path in ("sub/deep/large", "sub/f07"):
            entry = source.entry(version, path)
            assert behind.open_file(behind.entry(version, path)).read(0, entry.size) == source.open_file(entry).read(
                0, entry.size
            )
        with pytest.raises(Unavailable):
            behind.open_file(behind.entry(version, "sub/f08")).read(0, 1)


def test_chunks_come_by_wide_ranges(source, place):
    root = place / "many"
    root.mkdir()
    for number in range(3000):
        (root / f"{number:04d}").write_bytes(noise(number, 20_000))
    version = put(source, root)
    with far(place / "source", place / "cache") as behind:
        warm(behind, version, "")
        requests = behind.store.requests
    assert requests.count("read") <= 60 // 8 + 3  # 60 MB in ranges of 8 MiB, cut after each 2,048 chunks
    assert requests.count("nodes") <= 5
    assert requests.count("locate") <= 4


@pytest.mark.parametrize("path", ["", "sub", "sub/f07"])
def test_what_is_pinned_stays_when_others_come(source, tree, place, path):
    version = put(source, tree)
    for number in range(3):
        (place / f"other{number}").mkdir()
        for index in range(200):
            (place / f"other{number}" / f"{index:03d}").write_bytes(noise(10_000 + 200 * number + index, 100_000))
    others = [put(source, place / f"other{number}", f"other{number}") for number in range(3)]
    with far(place / "source", place / "cache", limit=40 * MIB) as behind:
        warm(behind, version, path, pin=True)
        assert behind.cache.status().pinned_bytes > 0
        for other in others:
            warm(behind, other, "")
        assert behind.cache.status().bytes <= 40 * MIB
    with far(place / "source", place / "cache", limit=40 * MIB) as behind:
        behind.store.away = True
        assert warm(behind, version, path).files > 0
        assert behind.store.requests == []
        with pytest.raises(Unavailable):
            warm(behind, others[0], "")


def test_damage_is_told(source, tree, place):
    version = put(source, tree)
    damage(source, source.entry(version, "sub/f07").digest)
    with far(place / "source", place / "cache") as behind, pytest.raises(Integrity, match="damaged in pack"):
        warm(behind, version, "")


def test_where_all_is_at_hand_nothing_is_read_but_the_trees(source, tree):
    version = put(source, tree)
    before = source.reader.bytes_fetched
    stats = warm(source, version, "", pin=True)
    assert (stats.files, stats.bytes_done) == (version.files, version.size)
    assert source.reader.bytes_fetched - before < 30_000

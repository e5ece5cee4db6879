"""``cache``: status and clear, as processes of their own beside one that uses the cache."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from artifactfs.content.cache import Cache, CacheSettings
from artifactfs.model.digest import TREE
from tests.content.cached import extents, keep
from tests.content.stores import noise


@pytest.fixture
def directory(cli) -> Path:
    """Where the cache is by default."""
    return cli.home / ".cache" / "artifactfs"


@pytest.fixture
def cache(directory: Path) -> Iterator[Cache]:
    with closing(Cache(CacheSettings(directory))) as cache:
        yield cache


def test_status_tells_what_is_held_and_counted(cli, cache, directory):
    keep(cache, noise(1, 1_000_000), noise(2, 500_000), pin=True)
    keep(cache, noise(3, 2000), kind=TREE)
    cache.count(hits=3, misses=1, fetched=1_502_000, saved=4_506_000)
    here = cache.status()  # writes the counts down
    told = json.loads(cli("cache", "status", "--json").stdout)
    assert told["directory"] == str(directory)
    assert (told["chunks"], told["nodes"], told["extents"]) == (2, 1, 2)
    assert told["chunk_bytes"] == told["pinned_bytes"] == here.chunk_bytes >= 1_500_000
    assert told["bytes"] >= told["chunk_bytes"] + told["node_bytes"]
    assert told["limit"] == here.limit
    assert (told["hits"], told["misses"], told["hit_rate"]) == (3, 1, 0.75)
    assert (told["fetched"], told["saved"], told["trouble"]) == (1_502_000, 4_506_000, "")
    lines = dict(line.split(maxsplit=1) for line in cli("cache", "status").lines)
    assert lines["chunks"] == "1.4 MiB in 2 chunks"
    assert lines["hit"] == "rate   75.0% (3 hits, 1 missed)"
    assert "trouble" not in lines


def test_status_of_a_cache_that_nobody_used(cli):
    assert "nothing was asked yet" in cli("cache", "status").stdout
    assert json.loads(cli("cache", "status", "--json").stdout)["hit_rate"] is None


def test_clear_frees_and_spares_pins(cli, cache, directory):
    keep(cache, noise(1, 3_000_000))
    pinned = keep(cache, noise(2, 2_000_000), pin=True)
    done = cli("cache", "clear")
    assert done.stdout.startswith(("freed 2.9 MiB", "freed 3."))
    assert "1.9 MiB of pinned chunks stay; --pinned deletes them too" in done.stderr
    assert cache.find(pinned, 0).keys() == set(pinned)
    assert len(extents(directory)) == 1
    done = cli("cache", "clear", "--pinned")
    assert done.stdout.startswith(("freed 1.9 MiB", "freed 2."))
    assert done.stderr == ""
    assert cache.find(pinned, 0) == {}
    assert extents(directory) == []


def test_another_directory_and_size(cli, tmp_path):
    told = json.loads(
        cli("--cache-dir", tmp_path / "elsewhere", "--cache-size", "7MB", "cache", "status", "--json").stdout
    )
    assert (told["directory"], told["limit"]) == (str(tmp_path / "elsewhere"), 7_000_000)


def test_what_is_no_cache_is_refused(cli, tmp_path, directory):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter").write_text("1")
    for command in ("status", "clear"):
        assert "--cache-dir" in cli.refuses("--cache-dir", tmp_path / "thesis", "cache", command, status=2)
    assert (tmp_path / "thesis" / "chapter").read_text() == "1"
    directory.mkdir(parents=True)
    os.chown(directory, 4242, -1)
    assert "another user" in cli.refuses("cache", "status")

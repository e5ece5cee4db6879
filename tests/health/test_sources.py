"""Where repair takes lost bytes from, when no other repository is named: other packs, and this user's cache."""

from __future__ import annotations

import random
from contextlib import closing
from pathlib import Path

import pytest

from artifactfs.checkup import CacheHolder, repair
from artifactfs.content.cache import Cache, CacheSettings
from artifactfs.content.pack import PackUpload, seal
from artifactfs.health.pace import Pace
from artifactfs.model.records import ChunkRow
from artifactfs.model.tree import FileEntry
from artifactfs.repository import Repository
from tests.health.test_killed_repair import NAMES, damage, put, readable

LOST = 2
PLAIN = random.Random(LOST).randbytes(3000)


@pytest.fixture
def lost(repository: Repository) -> FileEntry:
    """A file of the repository whose only chunk is damaged."""
    put(repository)
    damage(repository, NAMES[LOST])
    entry = repository.entry(repository.registry.versions("data")[0], NAMES[LOST])
    assert isinstance(entry, FileEntry)
    return entry


def test_another_pack_has_the_chunk(repository: Repository, lost: FileEntry):
    stored, flags = seal(PLAIN)
    upload = PackUpload(repository.store)
    upload.append(lost.digest, len(PLAIN), stored, flags)
    pack = upload.publish().digest
    result = repair(repository, lambda: Repository.open(repository.location), [], pace=Pace())
    assert result.left.sound
    assert result.done[-1] == "1 chunk that the index lacked was found in a pack"
    assert repository.registry.locate([lost.digest])[lost.digest].pack == pack
    assert readable(repository.location) == set(NAMES)


@pytest.mark.parametrize("sound", [True, False])
def test_the_cache_has_the_chunk(repository: Repository, lost: FileEntry, tmp_path: Path, sound: bool):
    stored, flags = seal(PLAIN if sound else PLAIN[:-1] + b"x")
    with closing(Cache(CacheSettings(tmp_path / "cache", limit=1 << 20, reserve=0))) as cache:
        row = ChunkRow(lost.digest, 0, len(stored), len(PLAIN), flags)
        assert cache.keep([row], [bytes(stored)])
        result = repair(repository, lambda: Repository.open(repository.location), [CacheHolder(cache)], pace=Pace())
    assert result.left.sound == sound
    assert (result.done[-1] == "1 lost chunk was restored from the cache") == sound
    assert readable(repository.location) >= set(NAMES) - {NAMES[LOST]}
    assert (NAMES[LOST] in readable(repository.location)) == sound

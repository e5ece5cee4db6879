"""``gc --registry``: a database and the packs that it names, collected and held without a server."""

from __future__ import annotations

import sys
from pathlib import Path

from artifactfs.model.retention import Permissions
from tests.health.deployed import FILES, LATER, Deployed


def test_garbage_goes_and_nothing_else(deployed: Deployed, tmp_path: Path):
    with deployed.open() as repository:
        repository.registry.retention.delete("data", [0], permissions=Permissions())
    before = deployed.packs()
    said = deployed.cli(*deployed.words, "gc", "--registry", deployed.url, "--dry-run")
    assert said.lines[0].startswith("alive: 1 version, ")
    assert "would be deleted: " in said.stdout
    assert deployed.packs() == before
    # What v1 shares with v0 stays, all else of v0 goes: the directory that named its files.
    said = deployed.cli(*deployed.words, "gc", env={"ARTIFACTFS_REGISTRY": deployed.url, "TMPDIR": str(tmp_path)})
    assert said.lines[0].startswith("alive: 1 version, ")
    assert deployed.verify().status == 0
    assert list(tmp_path.glob("artifactfs-*")) == []
    with deployed.open() as repository:
        repository.registry.retention.delete("data", [1], permissions=Permissions(aliases=True))
    said = deployed.cli(*deployed.words, "gc", "--registry", deployed.url)
    assert said.lines[0].startswith("alive: 0 versions, 0 chunks in 0 packs")
    assert deployed.packs() == []


def test_a_hold_finds_the_database_by_the_variable(deployed: Deployed):
    with deployed.open() as repository:
        repository.registry.retention.delete("data", [1], permissions=Permissions(aliases=True))
    gc = [sys.executable, "-m", "artifactfs", *map(str, deployed.words), "gc"]
    held = deployed.cli("gc", "--hold", "--", *gc, env={"ARTIFACTFS_REGISTRY": deployed.url}).stdout
    assert "(backup) that began before has ended" in held
    assert "deleted: 0 packs (0 B)" in held
    freed = deployed.cli(*deployed.words, "gc", "--registry", deployed.url)
    assert not freed.lines[1].startswith("deleted: 0 packs")
    with deployed.open() as repository:
        record = repository.registry.version("data", 0)
        assert record is not None
        found = dict(repository.trees.walk(record.digest))
    assert set(FILES) <= set(found)
    assert not set(LATER) & set(found)

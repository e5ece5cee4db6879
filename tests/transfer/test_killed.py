"""A copy is killed (SIGKILL) at a moment of its own and started again: nothing that was recorded crosses twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from artifactfs.repository import Repository
from artifactfs.transfer import CopyStats, copy
from artifactfs.upkeep import verify
from tests.transfer.sides import MIB, contents, make_tree, noise, packs_of, put

SIZE = 12 * MIB  # of files besides the tree: packs are of 4 MiB there


@pytest.mark.parametrize(
    ("moment", "turn"),
    [("stored", 1), ("recorded", 1), ("stored", 3), ("recorded", 3), ("recorded", 5), ("commit", 1), ("committed", 1)],
)
def test_a_copy_that_was_killed_goes_on_with_what_was_not_recorded(source, destination, place, moment, turn):
    tree = make_tree(place / "tree")
    for number in range(12):
        (tree / f"more{number:02d}").write_bytes(noise(1000 + number, SIZE // 12))
    version = put(source, tree, aliases=("best",))
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("dying.py"), source.location, destination.location, moment, str(turn)],
        check=False, capture_output=True, text=True, timeout=120, env={**os.environ, "PYTHONPATH": str(root)},
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr

    recorded = sum(packs_of(destination).values())
    landed = moment == "committed"
    assert (destination.registry.artifact("data") is not None) == landed, "a version is there whole or not at all"
    assert (recorded == 0) == ((moment, turn) == ("stored", 1))

    stats = CopyStats()
    with Repository.open(destination.location) as fresh:
        copied = copy(source, version, fresh, stats=stats)
        assert verify(fresh, fresh.registry.versions("data")).damages == []
        assert copied.created != landed
        assert copied.version.name == "data:v0"
        assert copied.version.aliases == ("best", "latest")
        assert contents(fresh, copied.version, place / "there") == contents(source, version, place / "here")
        assert recorded + stats.bytes_stored == sum(packs_of(fresh).values()) == sum(packs_of(source).values())
    assert (stats.files, stats.bytes_done) == (version.files, version.size)

"""`mount --read-only`: no opens are seen, and what the mount says of itself is still of this moment."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mounted.living import Mounted, living


@pytest.fixture
def mounted(tmp_path: Path, binding: str) -> Iterator[Mounted]:
    source = tmp_path / "source"
    source.mkdir()
    for number in range(200):
        (source / f"f{number:03d}").write_bytes(os.urandom(2000))
    with living(tmp_path / "m", binding, "--read-only") as made:
        made.put("data", source)
        made.mount("--read-only")
        yield made


def test_the_status_is_whole_and_fresh_each_time(mounted: Mounted) -> None:
    root = mounted.root / "data/v0"
    reads = [mounted.status()["counts"]["reads"]]
    for number in range(20):
        (root / f"f{number:03d}").read_bytes()
        reads.append(mounted.status()["counts"]["reads"])  # json.loads: nothing is cut off
    assert reads == sorted(set(reads))


def test_new_versions_appear_in_the_information_at_once(mounted: Mounted, tmp_path: Path) -> None:
    info = mounted.root / ".artifactfs/info/data"
    assert os.listdir(info) == ["v0.json"]
    assert '"best"' not in (info / "v0.json").read_text()
    mounted("alias", "add", "data:v0", "best")
    assert '"best"' in (info / "v0.json").read_text()
    (tmp_path / "more").write_text("more")
    mounted.put("data", tmp_path / "more")
    assert sorted(os.listdir(info)) == ["v0.json", "v1.json"]

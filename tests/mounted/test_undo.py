"""`discard --undo` in a mount: the kernel shows what was brought back at once, and a kill leaves one state or the other."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import ended, eventually
from tests.mounted.living import Mounted, followed, succeeds
from tests.mounted.trees import content, sample


@pytest.fixture
def data(mounted: Mounted, tmp_path: Path) -> Path:
    mounted.put("data", sample(tmp_path / "source"))
    return mounted.root / "data"


def change(staging: Path) -> None:
    (staging / "words.txt").write_text("changed")
    (staging / "new").write_text("new")
    with (staging / "large.bin").open("r+b") as file:
        file.write(b"x" * 5000)
    succeeds("rm -r images; mv run walk; mkdir empty/below; ln new empty/below/linked", staging)


def test_undo_is_seen_at_once(mounted: Mounted, data: Path) -> None:
    staging = data / "staging"
    base = content(staging)
    change(staging)
    changed = content(staging)
    for _ in range(2):
        reader = (staging / "words.txt").open("rb", buffering=0)
        assert reader.read() == b"changed"
        mounted("discard", "data")
        assert content(staging) == base
        for gone in ("new", "walk", "empty/below"):
            assert not (staging / gone).exists()
        mounted("discard", "data", "--undo")
        assert content(staging) == changed
        for there in ("images", "run"):
            assert not (staging / there).exists()
        assert (staging / "new").stat().st_nlink == 2
        assert os.pread(reader.fileno(), 7, 0) in {b"changed", b"word 0\n"}
        reader.close()
    mounted.kill()
    mounted.remount()
    assert content(staging) == changed
    mounted("discard", "data")
    mounted.unmount()
    mounted.mount()
    assert content(staging) == base
    mounted("discard", "data", "--undo")
    assert content(staging) == changed
    assert mounted.commit("data") == "data:v1"
    assert content(data / "v1") == changed
    assert mounted("diff", "data").stdout == ""


def test_undo_when_staging_has_followed_latest(mounted: Mounted, data: Path, tmp_path: Path) -> None:
    staging = data / "staging"
    change(staging)
    changed = content(staging)
    mounted("discard", "data")
    (tmp_path / "source/theirs").write_text("theirs")
    mounted.put("data", tmp_path / "source")
    eventually(lambda: followed(staging / "theirs", "theirs"))
    mounted("discard", "data", "--undo")
    assert content(staging) == changed
    assert not (staging / "theirs").exists()
    assert "rebase" in mounted.refuses("commit", "data")


def test_a_kill_while_discards_are_done_and_undone_leaves_one_state_or_the_other(
    mounted: Mounted, data: Path, tmp_path: Path
) -> None:
    staging = data / "staging"
    base = content(staging)
    change(staging)
    many = staging / "many"
    many.mkdir()
    for number in range(60):
        (many / f"{number}").write_text(f"{number}")
    changed = content(staging)
    loop = tmp_path / "loop.py"
    loop.write_text(
        "import sys\nfrom pathlib import Path\nfrom artifactfs.errors import ArtifactFSError\n"
        "from artifactfs.mount import control\nworkspace = Path(sys.argv[1])\nprint('begun', flush=True)\n"
        "try:\n    while True:\n        for op in ('discard', 'undo'):\n"
        "            control.request(workspace, op, {'artifact': 'data'})\nexcept ArtifactFSError:\n    pass\n"
    )
    for turn in range(2):
        workspace = mounted.status()["workspace"]
        words = [sys.executable, loop, workspace]
        with subprocess.Popen(words, env=mounted.cli.env, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                assert process.stdout.readline() == "begun\n"
                time.sleep(0.2 + 0.13 * turn)
                mounted.kill()
                watch = os.pidfd_open(process.pid)
                assert ended(watch, 60)
                os.close(watch)
            finally:
                process.kill()
        mounted.remount()
        found = content(staging)
        assert found in (base, changed)
        if found == base:
            mounted("discard", "data", "--undo")
        assert content(staging) == changed
    assert mounted.commit("data") == "data:v1"
    assert content(data / "v1") == changed


def test_a_mount_keeps_its_limit(unmounted: Mounted, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source/file").write_bytes(b"f" * 100_000)
    unmounted.put("data", tmp_path / "source")
    unmounted.mount("--staging-size", "4MiB")
    staging = unmounted.root / "data/staging"
    with pytest.raises(OSError, match="Disk quota exceeded"):
        (staging / "large").write_bytes(b"x" * (10 << 20))
    size = (staging / "large").stat().st_size
    assert 3 << 20 <= size <= 4 << 20
    assert (staging / "large").read_bytes() == b"x" * size
    # What is there may be written over, cut and removed at the limit.
    with (staging / "large").open("r+b") as file:
        file.write(b"y" * (1 << 20))
    os.truncate(staging / "large", 1 << 20)
    (staging / "more").write_bytes(b"m" * (2 << 20))
    unmounted.unmount()
    unmounted.mount("--staging-size", "4MiB")
    with pytest.raises(OSError, match="Disk quota exceeded"):
        (staging / "again").write_bytes(b"a" * (2 << 20))
    assert (staging / "large").read_bytes() == b"y" * (1 << 20)
    assert unmounted.commit("data") == "data:v1"
    (staging / "again").write_bytes(b"a" * (3 << 20))

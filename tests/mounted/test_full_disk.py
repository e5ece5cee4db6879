"""Full disks: ENOSPC is said, the state from before is whole, and with space again the work goes on."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import eventually
from tests.mounted.living import SMALL_DISK, Mounted, grow, living, small_disk


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Mounted]:
    """Not mounted yet: a test first says which disk is small."""
    with living(tmp_path / "m", "kernel") as made:
        yield made


def files(root: Path, count: int, size: int) -> Path:
    root.mkdir()
    for number in range(count):
        (root / f"f{number}").write_bytes(os.urandom(size))
    return root


def room(disk: Path) -> int:
    numbers = os.statvfs(disk)
    return numbers.f_bavail * numbers.f_frsize


def test_a_put_on_a_full_disk_says_so_and_changes_nothing(mounted: Mounted, tmp_path: Path) -> None:
    first = files(tmp_path / "first", 3, 1000)
    large = files(tmp_path / "large", 8, 3 << 20)
    with small_disk(mounted.cli.home / ".local/share/artifactfs") as disk:
        assert mounted.put("data", first) == "data:v0"
        failed = mounted.run("put", "data", large)
        assert failed.status == 1
        assert failed.stdout == ""
        assert "no space left" in failed.stderr
        assert mounted("log", "data").stdout.startswith("data:v0")
        assert mounted("verify").status == 0
        # Nothing of the failed put keeps space: a small one fits at once.
        (first / "f9").write_bytes(os.urandom(100_000))
        assert mounted.put("data", first) == "data:v1"
        grow(disk, 64 << 20)
        assert mounted.put("data", large) == "data:v2"
        assert mounted("verify").status == 0


def test_a_staging_write_on_a_full_disk_is_enospc_and_loses_nothing(mounted: Mounted, tmp_path: Path) -> None:
    source = files(tmp_path / "source", 2, 50_000)
    with small_disk(mounted.cli.home / ".local/state/artifactfs") as disk:
        mounted.put("data", source)
        mounted.mount()
        staging = mounted.staging("data")
        (staging / "kept").write_bytes(b"k" * 100_000)
        block = os.urandom(1 << 20)
        fd = os.open(staging / "large", os.O_RDWR | os.O_CREAT)
        written = 0

        def fill() -> None:
            nonlocal written
            for _ in range(2 * SMALL_DISK >> 20):
                written += os.write(fd, block)

        with pytest.raises(OSError) as caught:
            fill()
        assert caught.value.errno == errno.ENOSPC
        # What was acknowledged is there, what was there before too, also in the base file that cannot grow now.
        assert written >= 1 << 20
        for offset in range(0, written - (1 << 20) + 1, 1 << 20):
            assert os.pread(fd, 1 << 20, offset) == block
        assert (staging / "kept").read_bytes() == b"k" * 100_000
        assert (staging / "f0").read_bytes() == (source / "f0").read_bytes()
        os.close(fd)
        # Space can be made by deleting, and then everything goes on.
        (staging / "large").unlink()
        eventually(lambda: room(disk) >= written)  # the kernel says that a file was closed some time after that
        (staging / "after").write_bytes(b"a" * 1_000_000)
        assert mounted.commit("data") == "data:v1"
        assert (mounted.root / "data/latest/kept").read_bytes() == b"k" * 100_000
        assert (mounted.root / "data/latest/after").stat().st_size == 1_000_000
        grow(disk, 64 << 20)
        mounted.unmount()


def test_a_commit_to_a_full_disk_says_so_and_staging_stays(mounted: Mounted, tmp_path: Path) -> None:
    source = files(tmp_path / "source", 2, 50_000)
    with small_disk(mounted.cli.home / ".local/share/artifactfs") as disk:
        mounted.put("data", source)
        mounted.mount()
        staging = mounted.staging("data")
        contents = {f"new{number}": os.urandom(3 << 20) for number in range(8)}
        for name, content in contents.items():
            (staging / name).write_bytes(content)
        (staging / "f0").unlink()
        failed = mounted.run("commit", "data")
        assert failed.status == 1
        assert "no space left" in failed.stderr
        assert mounted("log", "data").stdout.startswith("data:v0")
        assert sorted(os.listdir(staging)) == ["f1", *sorted(contents)]
        assert all((staging / name).read_bytes() == content for name, content in contents.items())
        grow(disk, 64 << 20)
        assert mounted.commit("data") == "data:v1"
        assert all((mounted.root / "data/v1" / name).read_bytes() == content for name, content in contents.items())
        assert mounted("verify").status == 0
        mounted.unmount()

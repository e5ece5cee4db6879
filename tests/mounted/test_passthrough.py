"""Large files that lie whole in a pack are read by the kernel itself, once they were verified: same bytes, no requests."""

from __future__ import annotations

import mmap
import os
import platform
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import eventually
from tests.mounted.living import Mounted, held_open, living

SIZE = 70 << 20  # more than a pack
ATTEMPTS = 4
# Linux 6.9 has passthrough; before it the same reads come from the page cache, or from the daemon once that was dropped.
OFFERED = tuple(int(part) for part in platform.release().split(".")[:2]) >= (6, 9)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    source = tmp_path / "source"
    source.mkdir()
    (source / "large").write_bytes(random.Random(7).randbytes(SIZE))
    (source / "text").write_bytes(b"0123456789abcde\n" * (SIZE // 16))
    return source


@pytest.fixture
def mounted(tmp_path: Path, source: Path) -> Iterator[Mounted]:
    with living(tmp_path / "m", "kernel") as made:
        made.put("data", source)
        made.mount()
        yield made


def read_without_pages(path: Path) -> bytes:
    """Open anew, drop the pages that the mount has of the file, and read all of it."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        return b"".join(iter(lambda: os.read(fd, 1 << 20), b""))
    finally:
        os.close(fd)


def leave_memory(mounted: Mounted) -> None:
    """Have the kernel forget the pages of the packs, so that nothing can be verified without the disk."""
    for pack in (mounted.cli.home / ".local/share/artifactfs/repository/store").rglob("*.pack"):
        fd = os.open(pack, os.O_RDONLY)
        try:
            os.fsync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(fd)


def bring_to_memory(mounted: Mounted) -> None:
    """Have the kernel hold the pages of the packs: on a busy machine it may have given some up since they were written."""
    for pack in (mounted.cli.home / ".local/share/artifactfs/repository/store").rglob("*.pack"):
        pack.read_bytes()


def wait_for_releases(mounted: Mounted, before: int) -> None:
    """The kernel says that a file was closed some time after that; until then an open has the mode of the one before it."""
    eventually(lambda: held_open(mounted.requests()) <= before)


def test_a_large_file_in_memory_is_verified_at_its_first_open(mounted: Mounted, source: Path) -> None:
    path, expected = mounted.root / "data/v0/large", (source / "large").read_bytes()
    for _ in range(ATTEMPTS):
        found: list[bytes] = []
        bring_to_memory(mounted)
        requests = mounted.requests_of(lambda found=found: found.append(path.read_bytes()))
        assert found == [expected]
        assert requests["open"] == 1
        if not requests["read"]:
            break
        # The kernel had given pages up again before they were asked for: another first open.
        mounted.unmount()
        mounted.mount()
    assert (requests["read"] == 0) == OFFERED


def test_a_damaged_file_in_memory_is_not_read_by_the_kernel(mounted: Mounted, source: Path) -> None:
    path = mounted.root / "data/v0/large"
    store = mounted.cli.home / ".local/share/artifactfs/repository/store"
    (pack,) = (each for each in store.rglob("*.pack") if each.stat().st_size == SIZE)
    with pack.open("r+b") as file:
        file.seek(SIZE // 2)
        byte = file.read(1)
        file.seek(SIZE // 2)
        file.write(bytes([byte[0] ^ 1]))
    mounted.complaints = 1000
    with pytest.raises(OSError, match="Input/output error"):
        path.read_bytes()


def test_a_verified_large_file_is_read_by_the_kernel(mounted: Mounted, source: Path) -> None:
    path, expected = mounted.root / "data/v0/large", (source / "large").read_bytes()
    leave_memory(mounted)
    before = held_open(mounted.requests())
    assert path.read_bytes() == expected  # verifies every chunk
    wait_for_releases(mounted, before)
    requests = mounted.requests_of(lambda: read_without_pages(path))
    assert requests["open"] == 1
    assert (requests["read"] == 0) == OFFERED
    assert read_without_pages(path) == expected
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        assert mapped[:] == expected


def test_what_was_not_verified_whole_is_not(mounted: Mounted, source: Path) -> None:
    path, expected = mounted.root / "data/v0/large", (source / "large").read_bytes()
    leave_memory(mounted)
    with path.open("rb", buffering=0) as file:
        file.seek(30 << 20)
        assert file.read(1 << 20) == expected[30 << 20 : 31 << 20]
    leave_memory(mounted)
    requests = mounted.requests_of(lambda: read_without_pages(path))
    assert requests["read"] > 0


def test_a_compressed_file_is_not(mounted: Mounted, source: Path) -> None:
    path, expected = mounted.root / "data/v0/text", (source / "text").read_bytes()
    assert path.read_bytes() == expected
    assert mounted.requests_of(lambda: read_without_pages(path))["read"] > 0
    assert read_without_pages(path) == expected


def test_opens_of_both_modes_never_meet(mounted: Mounted, source: Path) -> None:
    """An open in the other mode than the one before it would fail with EIO."""
    path, expected = mounted.root / "data/v0/large", (source / "large").read_bytes()
    leave_memory(mounted)
    before = held_open(mounted.requests())
    with path.open("rb") as cached:
        assert cached.read() == expected
        # Verified by now, but one cached open is there: these are cached too.
        with path.open("rb") as second, path.open("rb") as third:
            assert second.read() == expected
            third.seek(SIZE - 5)
            assert third.read() == expected[-5:]
    wait_for_releases(mounted, before)
    backed = [os.open(path, os.O_RDONLY) for _ in range(5)]
    try:
        for fd in backed:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        requests = mounted.requests_of(lambda: [os.pread(fd, SIZE, 0) for fd in backed])
        assert (requests["read"] == 0) == OFFERED
        os.close(backed.pop())
        assert path.read_bytes() == expected
    finally:
        for fd in backed:
            os.close(fd)


def test_a_second_mount_and_a_deleted_pack(mounted: Mounted, source: Path) -> None:
    """An open that is backed goes on when the pack is gone, as with any file; a new one says that it is missing."""
    path, expected = mounted.root / "data/v0/large", (source / "large").read_bytes()
    assert path.read_bytes() == expected
    with path.open("rb") as held:
        for pack in (mounted.cli.home / ".local/share/artifactfs/repository/store").rglob("*.pack"):
            pack.unlink()
        assert held.read() == expected
    mounted.complaints = 1000
    mounted.unmount()
    mounted.mount()
    with pytest.raises(OSError, match="Input/output error"):
        path.read_bytes()

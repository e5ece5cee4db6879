from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from artifactfs.content.local import LocalStore
from artifactfs.registry.sql import SQLRegistry


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A directory that is removed at once: some tests store hundreds of megabytes."""
    yield tmp_path
    shutil.rmtree(tmp_path)


@pytest.fixture
def store(place: Path) -> Iterator[LocalStore]:
    store = LocalStore(place / "store", create=True)
    yield store
    store.close()


@pytest.fixture
def registry(place: Path) -> Iterator[SQLRegistry]:
    registry = SQLRegistry(place / "registry.db", create=True)
    yield registry
    registry.close()


@pytest.fixture
def small_disk(place: Path) -> Iterator[Path]:
    """A file system of 8 MiB."""
    point = place / "small"
    point.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(point)], check=True)
    yield point
    subprocess.run(["umount", "--lazy", str(point)], check=True)

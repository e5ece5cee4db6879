from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from artifactfs.content import cachedir, caretaker, catalog, shelf, vault
from artifactfs.content.local import LocalStore
from artifactfs.registry.sql import SQLRegistry

PATIENCE = 60.0  # seconds


@pytest.fixture(autouse=True)
def _unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of this process gives nothing up because the machine is slow, and looks after itself only when a test says so."""
    monkeypatch.setattr(caretaker, "TICK_SECONDS", 3600.0)
    monkeypatch.setattr(caretaker, "WAIT_SECONDS", PATIENCE)
    monkeypatch.setattr(cachedir, "LOCK_SECONDS", PATIENCE)
    for name in ("ROOM_SECONDS", "REMOVE_SECONDS"):
        monkeypatch.setattr(shelf, name, PATIENCE)
    for module in (catalog, vault):
        monkeypatch.setattr(module, "BUSY_SECONDS", PATIENCE)


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

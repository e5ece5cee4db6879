from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from artifactfs.repository import Repository
from tests.transfer.sides import make_tree


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A directory that is removed at once: some tests store hundreds of megabytes."""
    yield tmp_path
    shutil.rmtree(tmp_path)


@pytest.fixture
def source(place: Path) -> Iterator[Repository]:
    with Repository.create(str(place / "source")) as opened:
        yield opened


@pytest.fixture
def destination(place: Path) -> Iterator[Repository]:
    with Repository.create(str(place / "destination")) as opened:
        yield opened


@pytest.fixture
def tree(place: Path) -> Path:
    return make_tree(place / "tree")

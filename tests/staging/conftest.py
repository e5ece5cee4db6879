from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from artifactfs.draft import Draft
from artifactfs.model.records import VersionRecord
from artifactfs.repository import Repository
from tests.staging.driver import Disk

BASE = {
    "README": b"what this is\n",
    "images/cat.png": b"cat" * 1000,
    "images/dog.png": b"dog" * 1000,
    "images/raw/one.bin": b"1" * 5000,
    "scripts/run.sh": b"#!/bin/sh\n",
}


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[Repository]:
    with Repository.create(str(tmp_path / "repository")) as repository:
        yield repository


@pytest.fixture
def base(repository: Repository, tmp_path: Path) -> Repository:
    """The repository with ``data:v0``: BASE, an empty directory, a symlink and a Reference."""
    source = tmp_path / "source"
    for path, content in BASE.items():
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        (source / path).write_bytes(content)
    (source / "scripts/run.sh").chmod(0o755)
    (source / "empty").mkdir()
    (source / "latest.png").symlink_to("images/cat.png")
    draft = Draft(repository)
    draft.add(source)
    draft.add_reference("odd://bucket/raw", "raw")
    draft.commit("data")
    return repository


@pytest.fixture
def disk(base: Repository, tmp_path: Path) -> Iterator[Disk]:
    """Staging that shows ``data:v0``."""
    disk = Disk(base, tmp_path / "workspace")
    yield disk
    disk.staging.close()


@pytest.fixture
def fresh(repository: Repository, tmp_path: Path) -> Iterator[Disk]:
    """Staging of an artifact without versions."""
    disk = Disk(repository, tmp_path / "workspace", "new")
    yield disk
    disk.staging.close()


@pytest.fixture
def put(disk: Disk, tmp_path: Path):
    """Logs a version beside staging: a path's content, or None where it goes."""
    other = Disk(disk.repository, tmp_path / "elsewhere")

    def log(**changes: bytes | None) -> VersionRecord:
        other.staging.follow(other.area, disk.repository.registry.resolve("data", "latest"))
        for path, content in changes.items():
            name = path.replace("__", "/").replace("_png", ".png")
            if content is None:
                other.unlink(name)
                continue
            above = name.rpartition("/")[0]
            if above and not other.exists(above):
                other.mkdir(above)
            other.write(name, content)
        return other.commit()

    yield log
    other.staging.close()

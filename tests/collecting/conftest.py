from __future__ import annotations

import random
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from artifactfs.draft import Draft
from artifactfs.model.records import VersionRecord
from artifactfs.registry.sql import SQLRegistry
from artifactfs.repository import Repository

Put = Callable[..., VersionRecord]


def noise(seed: object, size: int) -> bytes:
    """Bytes that do not compress, always the same."""
    return random.Random(str(seed)).randbytes(size)


def stored(repository: Repository) -> int:
    """Bytes of all objects of the Store, as the disk has them."""
    return sum(path.stat().st_size for path in (Path(repository.location) / "store").rglob("*") if path.is_file())


class Place:
    """A repository, and what tests do to it."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.path = top / "repository"
        Repository.create(str(self.path)).close()
        self.repository = Repository.open(str(self.path))

    def put(self, name: str, files: dict[str, bytes]) -> VersionRecord:
        source = self.top / "source"
        for path, content in files.items():
            (source / path).parent.mkdir(parents=True, exist_ok=True)
            (source / path).write_bytes(content)
        draft = Draft(self.repository)
        draft.add(source)
        try:
            return draft.commit(name).version
        finally:
            shutil.rmtree(source)

    def later(self, seconds: float = 200_000) -> SQLRegistry:
        """The registry at another time, so that sessions of the dead have ended."""
        return SQLRegistry(self.path / "registry.db", clock=lambda: time.time() + seconds)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path)
    yield place
    place.repository.close()

"""A repository in a directory, versions logged in it, and the file system of fsspec over it: as it is, and served."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from artifactfs.draft import Draft
from artifactfs.filesystem.adapter import ArtifactFileSystem
from artifactfs.model.records import VersionRecord
from artifactfs.repository import Repository
from tests.mounted.served import Server, serving


@dataclass
class Logged:
    """A repository, the options with which a program reads it, and its server if there is one."""

    location: Path
    options: dict[str, str]
    server: Server | None = None

    def __call__(self, source: Path, name: str = "data", *, project: str = "default", **options) -> VersionRecord:
        """Log a file, or what a directory has."""
        with Repository.open(str(self.location), project=project) as repository:
            draft = Draft(repository)
            draft.add(source)
            return draft.commit(name, **options).version

    def refer(self, uris: dict[str, str], name: str = "data") -> VersionRecord:
        """Log references."""
        with Repository.open(str(self.location)) as repository:
            draft = Draft(repository)
            for path, uri in uris.items():
                draft.add_reference(uri, path)
            return draft.commit(name).version

    def fs(self, **options) -> ArtifactFileSystem:
        return ArtifactFileSystem(**self.options, **options)


@pytest.fixture
def logged(tmp_path: Path) -> Logged:
    Repository.create(str(tmp_path / "repository")).close()
    return Logged(tmp_path / "repository", {"repository": str(tmp_path / "repository")})


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Logged]:
    with serving(tmp_path / "server") as server:
        options = {"repository": server.url, "cache_dir": str(tmp_path / "cache")}
        yield Logged(server.repository, options, server)


@pytest.fixture(params=["directory", "server"])
def either(request: pytest.FixtureRequest) -> Logged:
    """The same repository seen from its own disk, and over a network."""
    return request.getfixturevalue("logged" if request.param == "directory" else "served")


@pytest.fixture
def guide(tmp_path: Path) -> Path:
    root = tmp_path / "guide"
    (root / "images").mkdir(parents=True)
    (root / "checkpoints").mkdir()
    for name in ("images/cat.png", "images/dog.png", "checkpoints/model.h5", "model.h5"):
        (root / name).write_bytes(name.encode() * 100)
    return root

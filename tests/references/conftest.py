"""A repository with a cache, a web server, and a way to log what was resolved."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from artifactfs.content.cache import CacheSettings
from artifactfs.model.digest import CHUNKS
from artifactfs.model.tree import RefEntry
from artifactfs.references.contract import Resolved
from artifactfs.repository import Repository
from tests.references.site import Site, serving

SECONDS = 30.0

Opening = Callable[..., Repository]


@pytest.fixture
def opening(tmp_path: Path) -> Iterator[Opening]:
    """Opens the test's repository, as often as it is called: every one has the same cache."""
    opened: list[Repository] = []

    def opening(*, cached: bool = True, seconds: float = SECONDS) -> Repository:
        cache = CacheSettings(tmp_path / "cache", reserve=0) if cached else None
        found = Repository.open_or_create(str(tmp_path / "repository"), cache=cache, seconds=seconds)
        opened.append(found)
        return found

    yield opening
    for each in opened:
        each.close()


@pytest.fixture
def repository(opening: Opening) -> Repository:
    return opening()


@pytest.fixture
def site() -> Iterator[Site]:
    with serving() as found:
        yield found


def log(repository: Repository, resolved: Iterable[Resolved]) -> dict[str, RefEntry]:
    """Keep what belongs to the checksums, as a version does; the entries by path."""
    found = list(resolved)
    with repository.writing("put") as writing:
        for each in found:
            for node in each.nodes:
                writing.writer.add_node(CHUNKS, node)
    return {each.path or each.entry.name: each.entry for each in found}


def add(repository: Repository, uri: str, **options: object) -> RefEntry:
    """The entry of a URI that stands for one object."""
    (entry,) = log(repository, repository.references.resolve(uri, **options)).values()  # type: ignore[arg-type]
    return entry


def whole(repository: Repository, entry: RefEntry, step: int = 1 << 20) -> bytes:
    """All of a reference's bytes, read in order."""
    file = repository.open_reference(entry)
    return b"".join(file.read(offset, step) for offset in range(0, file.size, step))

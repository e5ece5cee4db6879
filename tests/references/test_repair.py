"""What is kept of a large outside object, its chunk list, is made anew from its source when it was lost."""

from __future__ import annotations

from artifactfs.checkup import repair
from artifactfs.health.pace import Pace
from artifactfs.repository import Repository
from tests.references.conftest import whole
from tests.references.site import Site
from tests.references.test_artifacts import BIG, commit


def test_a_lost_chunk_list_comes_from_the_source(repository: Repository, site: Site):
    uri = site.put("big.bin", BIG)
    (found,) = repository.references.resolve(uri)
    commit(repository, "lost", {"big.bin": found.entry})  # without the nodes
    result = repair(repository, lambda: Repository.open(repository.location), [], pace=Pace())
    assert result.done == [f"1 lost chunk was restored from {uri}"]
    assert result.left.sound
    with Repository.open(repository.location) as opened:
        assert whole(opened, found.entry) == BIG


def test_a_source_that_changed_is_no_help(repository: Repository, site: Site):
    uri = site.put("big.bin", BIG)
    (found,) = repository.references.resolve(uri)
    commit(repository, "lost", {"big.bin": found.entry})
    site.put("big.bin", BIG[:-1] + b"x")
    result = repair(repository, lambda: Repository.open(repository.location), [], pace=Pace())
    assert result.done == []
    assert [hit.path for hit in result.left.hits] == ["big.bin"]

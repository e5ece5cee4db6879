"""What is looked at when a case is over: two quiet rounds, then nothing alive is lost and nothing dead is left."""

from __future__ import annotations

from artifactfs.collector import _Collector, collect_project
from artifactfs.content import pack as packs
from artifactfs.content.pack import index_key, pack_key
from artifactfs.registry.sql import SQLRegistry
from artifactfs.repository import Repository
from artifactfs.upkeep import verify
from tests.properties.garbage.ground import Ground
from tests.properties.garbage.model import Told, Versions, check_version, replay, version_of
from tests.properties.garbage.workers import LEASE_SECONDS, SMALL_PACK


def judge(ground: Ground) -> dict[str, int]:
    """Judge all projects. AssertionError says what was lost or left."""
    packs.PACK_SIZE = SMALL_PACK
    counts = {"versions": 0, "freed at last": 0}
    for _ in range(2):
        for project in ground.projects:
            before = stored(ground)
            later = ground.later(project)
            with ground.open(project) as repository:
                report = collect_project(later, repository.store, lease_seconds=LEASE_SECONDS)
            later.close()
            after = stored(ground)
            freed = sum(before.pop(project).values()) - sum(after.pop(project).values())
            assert freed == report.freed, f"{report} of {project} freed {freed}"
            assert before == after, f"a collection of {project} touched another project"
            counts["freed at last"] += freed
    for project in ground.projects:
        told = [replay(ground.top, number) for number, (of, _) in enumerate(ground.ways) if of == project]
        # Anew, so that nothing is remembered.
        with ground.open(project) as repository:
            counts["versions"] += judge_project(repository, told)
    return counts


def stored(ground: Ground) -> dict[str, dict[str, int]]:
    """Objects of each project with their sizes."""
    found = {}
    for project in ground.projects:
        with ground.open(project) as repository:
            found[project] = dict(repository.store.list())
    return found


def judge_project(repository: Repository, told: list[Told]) -> int:
    versions = [
        each for artifact in repository.registry.artifacts() for each in repository.registry.versions(artifact.name)
    ]
    wanted = decided([f"{each.artifact}:v{each.number}" for each in versions], told)
    for version, files in wanted.items():
        check_version(repository, version, files)
    report = verify(repository, versions)
    assert report.damages == [], report.damages
    nothing_dead(repository)
    return len(wanted)


def decided(present: list[str], told: list[Told]) -> Versions:
    """What the versions that are present must hold: no other than these may be."""
    living: Versions = {}
    making: Versions = {}
    deleting: Versions = {}
    for each in told:
        living |= each.living
        making |= each.making
        deleting |= each.deleting
    assert living.keys() <= set(present), f"lost: {sorted(living.keys() - set(present))}"
    wanted = {version: living.get(version) or deleting.get(version) for version in present}
    for version in present:
        if wanted[version] is None:
            # At most one of each artifact.
            wanted[version] = making.pop(version_of(version)[0], None)
        assert wanted[version] is not None, f"nobody made {version}, or it was deleted"
    return wanted


def nothing_dead(repository: Repository) -> None:
    """Every object is of a pack that is recorded, and every pack is more than half alive."""
    registry = repository.registry
    named = [digest for digest, _ in registry.packs()]
    objects = sorted(key for digest in named for key in (pack_key(digest), index_key(digest)))
    assert [key for key, _ in repository.store.list()] == objects
    alive: dict[str, int] = dict.fromkeys(named, 0)
    seen: set[bytes] = set()
    assert isinstance(registry, SQLRegistry)
    collector = _Collector(registry, repository.store, None, lambda _: None)
    marked = collector._mark(registry.collection.roots(None), registry.collection.packs())
    for digest in marked.living:
        seen.add(digest)
    for place in registry.locate(seen).values():
        alive[place.pack] += place.length
    sizes = dict(registry.packs())
    sparse = {digest: (size, sizes[digest]) for digest, size in alive.items() if size * 2 < sizes[digest]}
    assert not sparse, f"mostly dead packs are left: {sparse}"
    rows = {digest for digest, _, _ in registry.collection.chunks()}
    assert seen <= rows
    marked.close()

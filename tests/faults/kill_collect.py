"""Run by test_kill_collect.py in a process of its own, without threads: `gc` killed at every step. Prints the steps as JSON."""

from __future__ import annotations

import json
import random
import shutil
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from stepping import killed_at_every_step

from artifactfs.collect import collect
from artifactfs.collector import collect_project
from artifactfs.content.pack import index_key, pack_key
from artifactfs.draft import Draft
from artifactfs.registry.sql import SQLRegistry
from artifactfs.repository import Repository
from artifactfs.upkeep import verify


def noise(seed: object, size: int) -> bytes:
    return random.Random(str(seed)).randbytes(size)


def main(base: Path) -> None:
    pristine, place = base / "pristine", base / "repository"
    Repository.create(str(pristine)).close()
    with Repository.open(str(pristine)) as repository:
        put(repository, base / "source", "data", {"keep": noise(1, 9_000), "dead": noise(2, 40_000)})
        put(repository, base / "source", "data", {"keep": noise(1, 9_000)})
        put(repository, base / "source", "gone", {"gone": noise(3, 30_000)})
        repository.registry.delete("data", 0)
        repository.registry.delete("gone", 0)
        orphan = repository.store.upload()
        orphan.write(b"left by a crash")
        orphan.publish(pack_key("ab" * 32))
    shutil.copytree(pristine, place)
    steps, sizes = [], []
    for step in killed_at_every_step(lambda: run(place)):
        steps.append(step)
        check(place)
        sizes.append(size(place))
        with Repository.open(str(place)) as repository:
            # Who stores what was being deleted has it whole; a pack that was given up is in the way until the next collection.
            if len(steps) % 2:
                collect(repository)
            else:
                # A long time later: nothing of the one that was killed is still there.
                later = SQLRegistry(place / "registry.db", clock=lambda: time.time() + 200_000)
                collect_project(later, repository.store)
                later.close()
            put(repository, base / "source", "again", {"gone": noise(3, 30_000), "dead": noise(2, 40_000)})
        check(place)
        with Repository.open(str(place)) as repository:
            report = collect(repository)
            assert (report.condemned_packs, report.deleted_packs) == (0, 0), (step, report)
            named = [digest for digest, _ in repository.registry.packs()]
            objects = sorted(key for digest in named for key in (pack_key(digest), index_key(digest)))
            assert [key for key, _ in repository.store.list()] == objects, step
        shutil.rmtree(place)
        shutil.copytree(pristine, place)
    json.dump({"steps": steps, "sizes": sizes}, sys.stdout)


def run(place: Path) -> None:
    with Repository.open(str(place)) as repository:
        report = collect(repository)
        assert report.repacked_packs == 1, report
        assert report.deleted_packs == 5, report


def size(place: Path) -> int:
    return sum(path.stat().st_size for path in (place / "store").rglob("*") if path.is_file())


def put(repository: Repository, source: Path, name: str, files: dict[str, bytes]) -> None:
    source.mkdir()
    for path, content in files.items():
        (source / path).write_bytes(content)
    draft = Draft(repository)
    draft.add(source)
    draft.commit(name)
    shutil.rmtree(source)


def check(place: Path) -> None:
    """All that lives is whole."""
    with Repository.open(str(place)) as repository:
        registry = repository.registry
        versions = [each for found in registry.artifacts() for each in registry.versions(found.name)]
        assert "data:v1" in [version.name for version in versions]
        report = verify(repository, versions)
        assert report.damages == [], report.damages


if __name__ == "__main__":
    main(Path(sys.argv[1]))

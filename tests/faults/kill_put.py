"""Run by test_kill_put.py in a process of its own, without threads: `put` killed at every step. Prints the steps as JSON."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from stepping import files_of, killed_at_every_step

from artifactfs.draft import Draft
from artifactfs.export import export
from artifactfs.repository import Repository
from artifactfs.upkeep import verify


def main(base: Path) -> None:
    old, new = base / "old", base / "new"
    pristine, place = base / "pristine", base / "repository"

    def put(where: Path, source: Path) -> None:
        with Repository.open(str(where)) as repository:
            draft = Draft(repository)
            draft.add(source)
            draft.commit("data", aliases=("best",), metadata={"from": source.name})

    Repository.create(str(pristine)).close()
    put(pristine, old)
    shutil.copytree(pristine, place)
    expected = {0: files_of(old), 1: files_of(new)}
    steps, states = [], []
    for step in killed_at_every_step(lambda: put(place, new)):
        steps.append(step)
        states.append(check(place, expected, base / "out"))
        # What was killed is simply run again.
        put(place, new)
        assert check(place, expected, base / "out") == 1, step
        shutil.rmtree(place)
        shutil.copytree(pristine, place)
    json.dump({"steps": steps, "states": states}, sys.stdout)


def check(place: Path, expected: dict[int, dict[str, bytes]], out: Path) -> int:
    """The number of the newest version, after every promise about the state was checked."""
    with Repository.open(str(place)) as repository:
        versions = repository.registry.versions("data")
        numbers = [version.number for version in versions]
        assert numbers in ([0], [0, 1]), numbers
        report = verify(repository, versions)
        assert report.damages == [], report.damages
        newest = versions[-1]
        assert newest.aliases == ("best", "latest"), newest.aliases
        assert newest.metadata == {"from": "new" if newest.number else "old"}
        for version in versions:
            shutil.rmtree(out, ignore_errors=True)
            export(repository, version, "", out)
            assert files_of(out) == expected[version.number], version.name
        return newest.number


if __name__ == "__main__":
    main(Path(sys.argv[1]))

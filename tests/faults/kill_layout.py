"""Run by test_kill_layout.py in a process of its own, without threads: a repository of format 1 is opened, killed at every step.

Prints the steps as JSON.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[2]))

from stepping import killed_at_every_step

from artifactfs.repository import Repository
from artifactfs.upkeep import verify
from tests.repository.formats import in_format_1, store_files


def main(base: Path) -> None:
    pristine, place = base / "pristine", base / "repository"
    packs = in_format_1(pristine, base / "source")
    shutil.copytree(pristine, place)
    steps = []
    for step in killed_at_every_step(lambda: Repository.open(str(place), project="one").close()):
        steps.append(step)
        # What was killed is simply done again, by whoever comes next.
        for project in ("one", "two", "packs"):
            with Repository.open(str(place), project=project) as repository:
                report = verify(repository, repository.registry.versions("data"))
                assert report.damages == [], (step, report.damages)
        assert store_files(place) == packs, step
        shutil.rmtree(place)
        shutil.copytree(pristine, place)
    json.dump(steps, sys.stdout)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

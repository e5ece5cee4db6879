"""Run by test_kill_commit.py in a process of its own, without threads: a commit killed at every step. Prints the steps as JSON."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from stepping import files_of, killed_at_every_step

from artifactfs.draft import Draft
from artifactfs.export import export
from artifactfs.mount.commit import commit_area, settle_all
from artifactfs.repository import Progress, Repository
from artifactfs.upkeep import verify
from tests.staging.driver import Disk

LATER = b"written while the commit ran"


def main(base: Path) -> None:
    pristine, place = base / "pristine", base / "place"
    Repository.create(str(pristine / "repository")).close()
    with Repository.open(str(pristine / "repository")) as repository:
        draft = Draft(repository)
        draft.add(base / "old")
        draft.commit("data")
        disk = Disk(repository, pristine / "workspace")
        edit(disk)
        disk.staging.close()
    shutil.copytree(pristine, place)
    expected = {0: files_of(base / "old"), 1: files_of(base / "new")}
    steps, states = [], []
    for step in killed_at_every_step(lambda: commit(place)):
        steps.append(step)
        newest, _ = check(place, expected, base / "out")
        states.append(newest)
        # What was killed is simply run again; what was written while it ran may need a version of its own.
        commit(place, write=False)
        newest, changed = check(place, expected, base / "out")
        assert newest in {1, 1 + states[-1]}, step
        assert changed == [], step
        shutil.rmtree(place)
        shutil.copytree(pristine, place)
    json.dump({"steps": steps, "states": states}, sys.stdout)


def edit(disk: Disk) -> None:
    """From ``old`` to ``new``: a byte of a large file, names, a directory that moves, and new files."""
    disk.patch("large.bin", 3_000_000, b"changed")
    disk.rename("moved", "sub/here")
    disk.unlink("gone")
    disk.mkdir("made")
    disk.write("made/file", b"made")
    disk.write("same.txt", b"not the same")
    disk.write("later", b"")


def commit(place: Path, *, write: bool = True) -> None:
    """What the daemon does for the command; ``write`` a file while it is at work."""
    with Repository.open(str(place / "repository")) as repository:
        disk = Disk(repository, place / "workspace")
        settle_all(repository, disk.staging)

        def meanwhile(_progress: Progress) -> None:
            if write and disk.read("later") != LATER:
                disk.write("later", LATER)

        commit_area(repository, disk.staging, "data", aliases=("best",), progress=meanwhile)
        disk.workspace.abandon()


def check(place: Path, expected: dict[int, dict[str, bytes]], out: Path) -> tuple[int, list[str]]:
    """The newest version and what is changed in staging, after every promise about repository and staging was checked."""
    with Repository.open(str(place / "repository")) as repository:
        versions = repository.registry.versions("data")
        assert [version.number for version in versions] in ([0], [0, 1], [0, 1, 2])
        report = verify(repository, versions)
        assert report.damages == [], report.damages
        newest = versions[-1]
        assert newest.aliases == (("best", "latest") if newest.number else ("latest",)), newest.aliases
        for version in versions:
            shutil.rmtree(out, ignore_errors=True)
            export(repository, version, "", out)
            committed = files_of(out)
            assert committed | {"later": b""} == expected[min(version.number, 1)] | {"later": b""}, version.name
        disk = Disk(repository, place / "workspace")
        settle_all(repository, disk.staging)
        assert disk.staging.pending(disk.area) is None
        found = {path: entry[1] for path, entry in disk.tree().items() if entry[0] == "file"}
        later = found["later"]
        assert later in {b"", LATER}, later
        assert found | {"later": b""} == expected[1], set(found) ^ set(expected[1])
        # A commit that landed leaves as changed only what was written while it ran; one that did not, all of it.
        changed = [change.path for change in disk.staging.changes(disk.area)]
        if newest.number:
            assert changed == ([] if committed["later"] == later else ["later"]), changed
        else:
            assert {"large.bin", "gone", "moved", "sub/here", "made", "same.txt"} <= set(changed), changed
        assert {path.name for path in (place / "workspace/files").rglob("*") if path.is_file()} == layers(disk)
        disk.workspace.abandon()
        return newest.number, changed


def layers(disk: Disk) -> set[str]:
    """Names of the local files that the tables know of and that exist; more would never be deleted."""
    known = disk.workspace.execute("SELECT id FROM layer UNION SELECT layer FROM garbage").fetchall()
    paths = [Path(disk.workspace.layer_path(layer)) for (layer,) in known]
    return {path.name for path in paths if os.path.exists(path)}


if __name__ == "__main__":
    main(Path(sys.argv[1]))

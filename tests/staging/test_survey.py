"""What `status --all` knows of workspaces: by reading alone, of older and newer formats, and beside who has them."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

from artifactfs.config import load
from artifactfs.mount.survey import WorkspaceFound, look, survey
from artifactfs.mount.workspace import Place, Workspace
from artifactfs.repository import Repository
from tests.staging.driver import Disk
from tests.staging.test_workspace import GOLDEN

PLACE = Place("/mnt/on top", "/data/artifacts on disk", "default")


def named(place: Place) -> str:
    settings = load(environ={"HOME": "/nonexistent", "XDG_STATE_HOME": "/state", "XDG_CONFIG_HOME": "/nonexistent"})
    return settings.workspace_of(Path(place.mountpoint), place.repository, place.project).name


def old(path: Path) -> Path:
    path.mkdir(parents=True)
    database = sqlite3.connect(path / "workspace.db")
    database.executescript((GOLDEN / "workspace-format-1.sql").read_text())
    database.close()
    shutil.copytree(GOLDEN / "workspace-format-1-files", path / "files")
    return path


def areas(found: WorkspaceFound) -> list[tuple[str, int | None, int]]:
    assert found.trouble is None
    return [(area.artifact, area.base, area.changes) for area in found.areas]


def test_a_workspace_of_format_1_is_known_by_its_log(tmp_path: Path):
    path = old(tmp_path / named(PLACE))
    before = (path / "workspace.db").read_bytes()
    (path / "daemon.log").write_text(
        "2026-01-02 03:04:05 INFO artifactfs.mount.daemon: mounted /other on /elsewhere (project default)\n"
        "2026-01-02 03:04:05 INFO artifactfs.mount.daemon: mounted /data/artifacts on disk on /mnt/on top (project default)\n"
    )
    found = look(path, named)
    assert found.place == PLACE
    assert areas(found) == [("data", 0, 8)]
    assert (path / "workspace.db").read_bytes() == before
    (path / "daemon.log").unlink()
    assert look(path, named).place is None


def test_a_newer_workspace_is_named_with_the_release_that_reads_it(tmp_path: Path):
    Workspace(tmp_path / "w", place=PLACE).close()
    with sqlite3.connect(tmp_path / "w/workspace.db") as database:
        database.execute("UPDATE meta SET value = 9 WHERE key = 'format'")
        database.execute("UPDATE about SET value = '7.8.9' WHERE key = 'release'")
    database.close()
    found = look(tmp_path / "w", named)
    assert found.place == PLACE
    assert found.trouble is not None
    assert "format 9" in found.trouble
    assert "artifactfs 7.8.9 or newer" in found.trouble


def test_what_an_owner_does_is_seen_beside_it(disk: Disk, tmp_path: Path):
    (found,) = survey(tmp_path, named)
    assert areas(found) == []
    disk.write("new", b"n" * 9000)
    disk.mkdir("made")
    disk.unlink("README")
    disk.write("images/passing", b"1")
    disk.unlink("images/passing")
    (found,) = survey(tmp_path, named)
    assert areas(found) == [("data", 0, 3)]
    assert found.areas[0].bytes == disk.local_bytes()
    disk.commit()
    assert survey(tmp_path, named)[0].areas == ()
    disk.write("made/below", b"1")
    assert areas(look(disk.path, named)) == [("data", 1, 1)]
    disk.staging.discard(disk.area)
    (area,) = look(disk.path, named).areas
    assert area.changes == 1
    assert area.discarded is not None
    assert area.until == area.discarded + 24 * 3600 * 10**9
    disk.workspace.execute("UPDATE discarded SET at = at - ?", (25 * 3600 * 10**9,))
    assert look(disk.path, named).areas == ()


def test_directories_that_swapped_places_are_changes(disk: Disk):
    disk.rename("images", "scripts", 2)
    (area,) = look(disk.path, named).areas
    assert area.changes == 2
    frozen = disk.staging.freeze(disk.area)
    disk.staging.thaw(frozen, None)
    disk.write("images/x", b"1")
    disk.unlink("images/x")
    assert look(disk.path, named).areas[0].changes >= 1


def test_a_moved_directory_is_a_change_and_what_is_in_it_none(base: Repository, tmp_path: Path):
    disk = Disk(base, tmp_path / "w")
    disk.rename("images", "pictures")
    assert [area.changes for area in look(disk.path, named).areas] == [2]
    disk.staging.close()

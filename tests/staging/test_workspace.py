"""The workspace: one owner, one format, nothing left behind, nothing lost by a kill."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from artifactfs.errors import Conflict, Format, InvalidInput
from artifactfs.mount import workspace as module
from artifactfs.mount.workspace import Workspace
from artifactfs.repository import Repository
from tests.staging.conftest import BASE
from tests.staging.driver import Disk

GOLDEN = Path(__file__).parents[1] / "golden"
WRITER = Path(__file__).with_name("acknowledged.py")


def test_a_second_daemon_is_refused_by_name(tmp_path: Path):
    first = Workspace(tmp_path / "w")
    with pytest.raises(Conflict, match=f"process id {os.getpid()}"):
        Workspace(tmp_path / "w")
    first.close()
    first.close()
    Workspace(tmp_path / "w").close()


def test_a_newer_workspace_is_refused(tmp_path: Path):
    Workspace(tmp_path / "w").close()
    with sqlite3.connect(tmp_path / "w/workspace.db") as database:
        database.execute("UPDATE meta SET value = 3 WHERE key = 'format'")
        database.execute("UPDATE about SET value = '7.8.9' WHERE key = 'release'")
    database.close()
    with pytest.raises(Format, match=r"format 3; this release reads up to format 2: use artifactfs 7\.8\.9 or newer"):
        Workspace(tmp_path / "w")
    with sqlite3.connect(tmp_path / "w/workspace.db") as database:
        database.execute("DROP TABLE about")
    database.close()
    with pytest.raises(Format, match="use a newer artifactfs"):
        Workspace(tmp_path / "w")


def test_a_workspace_of_format_1_goes_on_where_it_was(base: Repository, tmp_path: Path):
    (tmp_path / "w").mkdir()
    database = sqlite3.connect(tmp_path / "w/workspace.db")
    database.executescript((GOLDEN / "workspace-format-1.sql").read_text())
    database.close()
    shutil.copytree(GOLDEN / "workspace-format-1-files", tmp_path / "w/files")
    disk = Disk(base, tmp_path / "w")
    assert disk.changes() == [
        ("removed", "README"),
        ("added", "deep"),
        ("added", "deep/below"),
        ("changed", "images/cat.png"),
        ("removed", "images/raw"),
        ("removed", "images/raw/one.bin"),
        ("added", "notes"),
        ("added", "raw-images"),
        ("added", "raw-images/one.bin"),
        ("changed", "scripts/run.sh"),
    ]
    assert disk.read("notes") == b"written in format 1\n"
    assert disk.read("images/cat.png") == b"catDOG" + BASE["images/cat.png"][6:]
    assert disk.staging.getxattr(disk.at("notes").node, b"user.who") == b"me"
    changed = disk.tree()
    disk.staging.discard(disk.area)
    disk.staging.undo(disk.area)
    disk.remount()
    assert disk.tree() == changed
    assert disk.commit().number == 1
    assert disk.workspace.execute("SELECT value FROM meta WHERE key = 'format'").fetchone() == (2,)
    disk.staging.close()


def test_another_database_is_refused(tmp_path: Path):
    (tmp_path / "w").mkdir()
    with sqlite3.connect(tmp_path / "w/workspace.db") as database:
        database.execute("CREATE TABLE other (id)")
    database.close()
    with pytest.raises(Format):
        Workspace(tmp_path / "w")


def test_a_network_file_system_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(path: Path, *, what: str) -> None:
        raise InvalidInput(f"{what} cannot lie at {path}")

    monkeypatch.setattr(module, "refuse_network_filesystem", refuse)
    with pytest.raises(InvalidInput, match="the workspace of a mount"):
        Workspace(tmp_path / "w")
    assert not (tmp_path / "w").exists()


def test_the_workspace_is_private(tmp_path: Path):
    Workspace(tmp_path / "w").close()
    assert (tmp_path / "w").stat().st_mode & 0o777 == 0o700


def test_numbers_are_never_given_twice(fresh: Disk):
    nodes = set()
    for round_ in range(3):
        for name in ("a", "b"):
            fresh.write(name, b"")
            nodes.add(fresh.at(name).node)
            fresh.unlink(name)
        fresh.kill() if round_ % 2 else fresh.remount()
    assert len(nodes) == 6


def test_local_files_of_removed_files_are_deleted_after_a_kill(fresh: Disk):
    fresh.write("kept", b"1")
    fh = fresh.open_fh("open", os.O_RDWR | os.O_CREAT)
    fresh.staging.write(fh, 0, memoryview(b"x"))
    fresh.unlink("open")
    fresh.staging.write(fh, 0, memoryview(b"y"))
    assert fresh.local_files() == 2
    fresh.kill()
    assert fresh.local_files() == 1
    assert fresh.tree() == {"kept": ("file", b"1", False)}


def test_a_full_disk_of_the_tables_is_an_errno_and_rolls_back(disk: Disk):
    before = disk.tree()
    pages = disk.workspace.execute("PRAGMA page_count").fetchone()[0]
    disk.workspace.execute(f"PRAGMA max_page_count = {pages}")
    made, number = 0, 0
    while not number:
        try:
            disk.mkdir(f"{made:0200}")
            made += 1
        except OSError as error:
            number = error.errno
    assert number == errno.ENOSPC
    disk.workspace.execute("PRAGMA max_page_count = 1073741823")
    assert len(disk.list()) == len(disk.list("")) == made + len([path for path in before if "/" not in path])
    disk.mkdir("again")
    disk.kill()
    assert disk.exists("again")
    assert len(disk.list()) == made + 1 + len([path for path in before if "/" not in path])


@pytest.mark.parametrize("seconds", [0.15, 0.4])
def test_nothing_acknowledged_is_lost_by_sigkill(tmp_path: Path, base: Repository, seconds: float):
    """The writer says what was acknowledged before it asks for more; after the kill all of it is there."""
    said = tmp_path / "said"
    with said.open("wb") as output:
        writer = subprocess.Popen([sys.executable, str(WRITER), base.location, str(tmp_path / "w")], stdout=output)
    with writer:
        while said.read_bytes().count(b"\n") < 30:  # the first says that it is ready
            assert writer.poll() is None
            time.sleep(0.01)
        time.sleep(seconds)
        writer.send_signal(signal.SIGKILL)
    lines = said.read_text().splitlines(keepends=True)[1:]
    acknowledged = [line.split() for line in lines if line.endswith("\n")]
    assert len(acknowledged) > 20
    disk = Disk(base, tmp_path / "w")
    appended, patched, created, removed = 0, 0, [], []
    for kind, value in acknowledged:
        if kind == "append":
            appended = int(value)
        elif kind == "patch":
            patched = int(value)
        elif kind == "create":
            created.append(int(value))
        else:
            removed.append(int(value))
    log = disk.read("log")
    assert disk.at("log").size == len(log) >= 8 * appended
    assert [int(log[offset : offset + 8]) for offset in range(0, 8 * appended, 8)] == list(range(appended))
    picture = disk.read("images/cat.png")
    assert len(picture) >= max(3000, 10 * patched - 9)
    assert all(picture[10 * number] == ord("#") for number in range(patched))
    untouched = (b"cat" * 1000)[10 * patched + 11 :]
    assert picture[3000 - len(untouched) : 3000] == untouched
    for number in created:
        assert number in removed or number + 1 > max(created) or disk.read(f"images/{number}") == b"%d" % number
    for number in removed:
        assert not disk.exists(f"images/{number}")
    disk.staging.close()

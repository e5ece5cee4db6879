"""What was discarded comes back within a day: all of it or nothing, without a copy, and never over newer changes."""

from __future__ import annotations

import os
import random
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from artifactfs.errors import Conflict
from artifactfs.mount import aside
from artifactfs.mount.contract import SET_MTIME, SetAttr
from tests.staging.conftest import BASE
from tests.staging.driver import ME, Disk

ROOT = Path(__file__).parents[2]
DAY = 24 * 3600 * 1_000_000_000


def change(disk: Disk) -> None:
    """One of each kind of change."""
    disk.patch("images/cat.png", 1, b"X")
    disk.write("new", b"new" * 5000)
    disk.mkdir("made")
    disk.write("made/below", b"below")
    disk.rename("images/raw", "raw-images")
    disk.write("raw-images/two.bin", b"2")
    disk.unlink("README")
    disk.symlink("new", "pointer")
    disk.link("new", "made/linked")
    disk.chmod("scripts/run.sh", 0o600)
    disk.staging.setxattr(disk.at("new").node, b"user.who", b"me", 0)
    disk.staging.setxattr(disk.area.root, b"user.root", b"yes", 0)
    disk.utime("new", 1_000_000_007)


def rows(disk: Disk) -> dict[str, int]:
    tables = ("inode", "link", "xattr", "layer", "extent", "origin", "discarded", "garbage")
    return {table: disk.workspace.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in tables}  # noqa: S608


@pytest.mark.parametrize("ending", ["kill", "remount", "stay"])
def test_a_discard_is_undone(disk: Disk, ending: str):
    before = disk.tree()
    change(disk)
    changed, changes, counted = disk.tree(), disk.changes(), rows(disk)
    attributes = {path: disk.at(path) for path in changed}
    taken = disk.local_bytes()
    disk.staging.discard(disk.area)
    assert disk.tree() == before
    assert disk.local_bytes() == taken  # nothing was copied
    if ending != "stay":
        getattr(disk, ending)()
        assert disk.tree() == before
    stale = disk.staging.undo(disk.area)
    assert disk.tree() == changed
    assert disk.changes() == changes
    assert {path: disk.at(path) for path in changed} == attributes
    assert disk.staging.getxattr(disk.at("new").node, b"user.who") == b"me"
    assert disk.staging.getxattr(disk.area.root, b"user.root") == b"yes"
    assert {(disk.area.root, b"new"), (disk.area.root, b"README"), (disk.at("images").node, b"raw")} <= {
        (item.node, item.name) for item in stale
    }
    assert (disk.at("images/cat.png").node, None) in {(item.node, item.name) for item in stale}
    assert {key: count for key, count in rows(disk).items() if key != "garbage"} == {
        key: count for key, count in counted.items() if key != "garbage"
    }
    disk.kill()
    assert disk.tree() == changed
    version = disk.commit()
    assert disk.changes() == []
    disk.remount()
    assert {path: what for path, what in disk.tree().items() if path != "raw"} == {
        path: what for path, what in changed.items() if path != "raw"
    }
    assert version.number == 1


def test_a_discard_with_nothing_in_memory_is_undone(disk: Disk):
    change(disk)
    changed = disk.tree()
    disk.kill()
    disk.staging.discard(disk.area)
    disk.kill()
    disk.staging.undo(disk.area)
    assert disk.tree() == changed


def test_what_was_not_touched_keeps_its_number(disk: Disk):
    node = disk.at("images/dog.png").node
    disk.write("new", b"1")
    made = disk.at("new").node
    disk.staging.discard(disk.area)
    assert disk.at("images/dog.png").node == node
    with pytest.raises(OSError, match="Stale"):
        disk.staging.getattr(made)
    disk.staging.undo(disk.area)
    assert (disk.at("images/dog.png").node, disk.at("new").node) == (node, made)


def test_a_discard_after_a_commit_is_undone(disk: Disk):
    disk.write("first", b"1")
    disk.rename("images", "pictures")
    disk.commit()
    disk.write("second", b"2")
    disk.patch("pictures/cat.png", 0, b"Y")
    disk.unlink("first")
    changed, changes = disk.tree(), disk.changes()
    disk.staging.discard(disk.area)
    assert disk.exists("first")
    assert not disk.exists("second")
    disk.staging.undo(disk.area)
    assert (disk.tree(), disk.changes()) == (changed, changes)
    disk.commit()
    assert disk.changes() == []


def test_a_discard_is_undone_when_staging_has_followed_latest(disk: Disk, put):
    disk.write("mine", b"mine")
    disk.unlink("README")
    changed = disk.tree()
    disk.staging.discard(disk.area)
    latest = put(theirs=b"theirs")
    disk.staging.follow(disk.area, latest)
    assert disk.read("theirs") == b"theirs"
    assert disk.exists("README")
    disk.staging.undo(disk.area)
    assert disk.tree() == changed
    assert disk.area.base_number == 0
    assert not disk.staging.follow(disk.area, latest)
    disk.kill()
    assert disk.tree() == changed


def test_newer_changes_are_not_replaced(disk: Disk):
    disk.write("old", b"old")
    disk.staging.discard(disk.area)
    disk.write("newer", b"newer")
    with pytest.raises(Conflict, match="has changes"):
        disk.staging.undo(disk.area)
    assert disk.read("newer") == b"newer"
    disk.staging.discard(disk.area)
    disk.staging.undo(disk.area)
    assert disk.changes() == [("added", "newer")]
    disk.commit()
    disk.staging.undo(disk.area)
    assert disk.changes() == [("added", "old")]  # what was discarded before that
    with pytest.raises(Conflict, match="has changes"):
        disk.staging.undo(disk.area)


def test_nothing_to_undo_is_said(disk: Disk):
    with pytest.raises(Conflict, match="nothing was discarded"):
        disk.staging.undo(disk.area)
    disk.staging.discard(disk.area)  # without changes
    with pytest.raises(Conflict, match="nothing was discarded"):
        disk.staging.undo(disk.area)
    disk.write("new", b"1")
    disk.staging.discard(disk.area)
    disk.staging.discard(disk.area)
    disk.staging.undo(disk.area)
    assert disk.read("new") == b"1"


def test_beginning_anew_is_undone(disk: Disk):
    disk.write("new", b"1")
    changed = disk.tree()
    disk.staging.reset(disk.area, None, empty=True)
    assert disk.tree() == {}
    disk.staging.undo(disk.area)
    assert disk.tree() == changed
    assert disk.area.base_number == 0
    assert disk.area.following


def test_an_open_file_reads_on_and_leaves_what_is_put_aside(disk: Disk):
    disk.write("new", b"new" * 1000)
    with disk.opened("new") as fh, disk.opened("images/cat.png") as base:
        disk.staging.discard(disk.area)
        assert disk.read_fh(fh) == b"new" * 1000
        # By the descriptor, as futimens(2) does it: of a file that nobody sees any more.
        node = disk.staging._files.handle(fh).file.inode.id
        with pytest.raises(OSError, match="Stale"):
            disk.staging.setattr(node, SetAttr(SET_MTIME, mtime=5), None, ME)
        assert disk.read_fh(base) == BASE["images/cat.png"]
    disk.staging.undo(disk.area)
    assert disk.read("new") == b"new" * 1000


def test_an_open_file_reads_on_when_what_was_put_aside_is_dropped(disk: Disk, monkeypatch: pytest.MonkeyPatch):
    disk.write("new", b"new" * 1000)
    with disk.opened("new") as fh:
        disk.staging.discard(disk.area)
        monkeypatch.setattr(aside, "KEPT_SECONDS", -1)
        assert disk.staging.expire() == 1
        assert disk.local_files() == 0
        assert disk.read_fh(fh) == b"new" * 1000
    monkeypatch.undo()
    with pytest.raises(Conflict, match="nothing was discarded"):
        disk.staging.undo(disk.area)


def test_after_a_day_it_is_gone(disk: Disk):
    change(disk)
    disk.staging.discard(disk.area)
    execute = disk.workspace.execute
    execute("UPDATE discarded SET at = at - ?", (DAY - 60 * 10**9,))
    disk.remount()
    assert rows(disk)["discarded"] == 1
    disk.workspace.execute("UPDATE discarded SET at = at - ?", (120 * 10**9,))
    disk.remount()
    counted = rows(disk)
    assert counted["discarded"] == counted["layer"] == counted["link"] == counted["xattr"] == 0
    assert (counted["inode"], counted["origin"]) == (1, 1)
    assert disk.local_files() == 0


def test_a_clock_that_was_ahead_keeps_nothing_for_ever(disk: Disk):
    disk.write("new", b"1")
    disk.staging.discard(disk.area)
    disk.workspace.execute("UPDATE discarded SET at = at + ?", (1000 * DAY,))
    disk.remount()
    (at,) = disk.workspace.execute("SELECT at FROM discarded").fetchone()
    assert at < os.stat(disk.path).st_mtime_ns + DAY
    disk.staging.undo(disk.area)
    assert disk.read("new") == b"1"


def test_files_open_for_writing_refuse_the_undo(disk: Disk):
    disk.write("new", b"1")
    disk.staging.discard(disk.area)
    with disk.opened("README", os.O_RDWR), pytest.raises(Conflict, match="open for writing"):
        disk.staging.undo(disk.area)
    disk.staging.undo(disk.area)


def test_a_new_artifact_comes_back_after_its_area_went(fresh: Disk):
    fresh.write("only", b"only")
    fresh.staging.discard(fresh.area)
    fresh.staging.drop("new")
    fresh.remount()
    fresh.staging.undo(fresh.area)
    assert fresh.read("only") == b"only"
    assert stat.S_ISDIR(fresh.at("").mode)


@pytest.mark.parametrize("undo", [False, True])
def test_a_failure_at_any_statement_leaves_all_or_nothing(disk: Disk, undo: bool):
    """As a kill would: the transaction is what makes it so, and memory follows the tables."""
    change(disk)
    changed = disk.tree()
    if undo:
        disk.staging.discard(disk.area)
    before = disk.tree()
    act = disk.staging.undo if undo else disk.staging.discard
    real, step = disk.workspace.execute, 0
    while True:
        left = step

        def failing(statement: str, values: tuple[object, ...] = ()) -> object:
            nonlocal left
            if statement.startswith(("UPDATE", "INSERT", "DELETE", "COMMIT")):
                if not left:
                    raise OSError(5, "injected")
                left -= 1
            return real(statement, values)

        disk.workspace.execute = failing  # type: ignore[method-assign, assignment]
        try:
            act(disk.area)
        except OSError as error:
            assert "injected" in str(error)  # noqa: PT017 - the loop ends when nothing fails
        else:
            break
        finally:
            disk.workspace.execute = real  # type: ignore[method-assign]
        assert disk.tree() == before, step
        step += 1
    assert step > 10
    assert disk.tree() != before
    disk.kill()
    assert (disk.tree() == changed) is undo


def test_local_files_of_what_was_dropped_are_deleted_after_a_kill(disk: Disk, monkeypatch: pytest.MonkeyPatch):
    disk.write("new", b"1")
    disk.staging.discard(disk.area)
    monkeypatch.setattr(disk.workspace, "remove", lambda layers: None)
    monkeypatch.setattr(aside, "KEPT_SECONDS", -1)
    assert disk.staging.expire() == 1
    assert disk.local_files() == 1
    disk.kill()
    assert disk.local_files() == 0


def test_an_unlinked_open_file_is_none_of_what_is_put_aside(disk: Disk):
    with disk.opened("gone", os.O_RDWR | os.O_CREAT) as fh:
        disk.staging.write(fh, 0, memoryview(b"gone"))
        disk.unlink("gone")
        disk.write("new", b"1")
        disk.staging.discard(disk.area)
        assert disk.read_fh(fh) == b"gone"
        disk.staging.write(fh, 4, memoryview(b" on"))
        assert disk.read_fh(fh) == b"gone on"
    assert disk.local_files() == 1
    disk.staging.undo(disk.area)
    assert disk.read("new") == b"1"


def test_a_kill_at_any_moment_leaves_one_state_or_the_other(disk: Disk):
    before = disk.tree()
    change(disk)
    for number in range(150):
        disk.write(f"made/{number}", b"%d" % number)
    changed = disk.tree()
    disk.staging.close()
    local = disk.local_files()
    moments = random.Random(7)
    words = [sys.executable, "-m", "tests.staging.discarding", disk.repository.location, disk.path]
    for _ in range(6):
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "begun\n"
            time.sleep(moments.random() / 4)
            process.kill()
        disk.open()
        found = disk.tree()
        assert found in (before, changed)
        if found == before:
            disk.staging.undo(disk.area)
        assert disk.tree() == changed
        assert disk.local_files() == local
        disk.staging.close()
    disk.open()

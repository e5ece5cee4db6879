"""Staging becomes a version: what is in it, what stays, what goes on meanwhile, and what a kill leaves."""

from __future__ import annotations

import errno
import itertools
import os

import pytest

from artifactfs.errors import Conflict, InvalidInput
from artifactfs.mount import freeze
from artifactfs.mount.commit import commit_area
from tests.staging.driver import Disk, committed_tree


def test_a_commit_holds_what_staging_shows_and_leaves_it_clean(disk: Disk):
    disk.patch("images/cat.png", 10, b"MEOW")
    disk.write("images/deep.txt", b"deep")
    disk.mkdir("made")
    disk.mkdir("made/below")
    disk.write("made/below/file", b"below")
    disk.symlink("below/file", "made/link")
    disk.rename("scripts", "tools")
    disk.unlink("README")
    disk.chmod("images/dog.png", 0o755)
    before = disk.tree()
    version = disk.commit()
    assert version.number == 1
    assert committed_tree(disk.repository, version) == before == disk.tree()
    assert disk.changes() == []
    assert disk.area.base_number == 1
    assert disk.local_files() == 0
    disk.kill()
    assert disk.tree() == before
    assert not disk.staging.is_dirty(disk.area)


def test_only_changed_files_and_directories_are_stored(disk: Disk):
    disk.write("images/raw/two.bin", b"two")
    frozen = disk.staging.freeze(disk.area)
    with disk.repository.writing("commit") as writing:
        disk.staging.build(frozen, writing.writer)
        writing.writer.flush()
        assert writing.writer.bytes_read == 3
        assert writing.writer.chunks_new == 4  # the file, and the directories images/raw, images and the root
    disk.staging.thaw(frozen, None)


def test_nothing_changed_gives_the_same_tree(disk: Disk):
    disk.write("temporary", b"x")
    disk.unlink("temporary")
    assert not disk.staging.is_dirty(disk.area)
    assert disk.commit().number == 0


def test_committing_again_and_again(disk: Disk):
    expected = disk.tree()
    for number in range(1, 6):
        disk.write(f"file{number}", b"%d" % number)
        disk.patch("images/cat.png", number, b"!")
        if number > 2:
            disk.unlink(f"file{number - 2}")
        if number == 4:
            disk.rename("images", "moved")
            disk.mkdir("images")
            disk.rename("moved/cat.png", "images/cat.png")
        expected = disk.tree()
        version = disk.commit()
        assert version.number == number
        assert committed_tree(disk.repository, version) == expected
        if number % 2:
            disk.remount()
        assert disk.tree() == expected


def test_a_name_that_was_committed_and_removed_does_not_come_back(disk: Disk):
    disk.write("once", b"1")
    disk.commit()
    disk.unlink("once")
    version = disk.commit()
    assert "once" not in committed_tree(disk.repository, version)
    disk.write("once", b"2")
    disk.unlink("once")
    disk.unlink("README")
    version = disk.commit()
    assert {"once", "README"}.isdisjoint(committed_tree(disk.repository, version))


def test_what_is_written_while_a_commit_runs_is_not_in_it_and_not_lost(disk: Disk):
    disk.write("plain", b"first")
    disk.patch("images/cat.png", 0, b"AAA")
    disk.write("doomed", b"doomed")
    disk.write("moving", b"moving")
    with disk.opened("plain", os.O_RDWR) as fh:
        then = disk.tree()
        frozen = disk.staging.freeze(disk.area)
        disk.staging.write(fh, 1, memoryview(b"ECOND"))
        disk.patch("images/cat.png", 1, b"BBB")
        disk.truncate("images/dog.png", 5)
        disk.unlink("doomed")
        disk.rename("moving", "images/moved")
        disk.write("later", b"later")
        disk.write("short", b"short")
        disk.unlink("short")
        now = disk.tree()
        version = disk.land(frozen)
        assert committed_tree(disk.repository, version) == then
        disk.staging.write(fh, 0, memoryview(b"S"))
        disk.staging.thaw(frozen, version)
        assert disk.read("plain") == b"SECOND"
        assert disk.read_fh(fh) == b"SECOND"
        now["plain"] = ("file", b"SECOND", False)
    assert disk.tree() == now
    changed = [
        ("removed", "doomed"),
        ("changed", "images/cat.png"),
        ("changed", "images/dog.png"),
        ("added", "images/moved"),
        ("added", "later"),
        ("removed", "moving"),
        ("changed", "plain"),
    ]
    assert disk.changes() == changed
    disk.kill()
    assert disk.tree() == now
    assert disk.changes() == changed
    version = disk.commit()
    assert committed_tree(disk.repository, version) == now
    assert disk.local_files() == 0


def test_a_new_file_removed_while_it_is_committed_stays_removed(disk: Disk):
    disk.write("new", b"1")
    frozen = disk.staging.freeze(disk.area)
    version = disk.land(frozen)
    disk.unlink("new")
    disk.staging.thaw(frozen, version)
    assert disk.changes() == [("removed", "new")]
    assert "new" not in committed_tree(disk.repository, disk.commit())


def test_a_directory_swapped_while_it_is_committed(disk: Disk):
    disk.write("images/new", b"new")
    disk.mkdir("other")
    disk.write("other/file", b"other")
    frozen = disk.staging.freeze(disk.area)
    version = disk.land(frozen)
    disk.rename("images", "other", 2)
    disk.write("images/later", b"later")
    now = disk.tree()
    disk.staging.thaw(frozen, version)
    assert disk.tree() == now
    assert committed_tree(disk.repository, disk.commit()) == now


def test_a_failed_commit_leaves_everything_changed(disk: Disk):
    disk.write("plain", b"first")
    disk.patch("images/cat.png", 0, b"AAA")
    for round_ in range(3):
        frozen = disk.staging.freeze(disk.area)
        disk.patch("images/cat.png", 10 + round_, b"x")
        disk.patch("plain", 0, b"%d" % round_)
        disk.staging.thaw(frozen, None)
        assert {path for _, path in disk.changes()} == {"plain", "images/cat.png"}
    expected = disk.tree()
    assert expected["plain"][1] == b"2irst"
    disk.kill()
    assert committed_tree(disk.repository, disk.commit()) == expected == disk.tree()
    assert disk.local_files() == 0


def test_one_commit_at_a_time(disk: Disk):
    frozen = disk.staging.freeze(disk.area)
    with pytest.raises(Conflict):
        disk.staging.freeze(disk.area)
    with pytest.raises(Conflict):
        disk.staging.discard(disk.area)
    disk.staging.thaw(frozen, None)
    disk.staging.thaw(frozen, None)
    disk.staging.thaw(disk.staging.freeze(disk.area), None)


def test_a_file_that_was_half_written_when_it_was_frozen_refuses_the_commit(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
):
    """Also when its writer ends in the moment after: the frozen half is not what anybody meant."""
    fh = disk.open_fh("file", os.O_RDWR | os.O_CREAT)
    disk.staging.write(fh, 0, memoryview(b"half"))
    freeze = disk.staging.freeze

    def frozen_then_finished(area):
        frozen = freeze(area)
        disk.staging.write(fh, 4, memoryview(b"whole"))
        disk.close_fh(fh)
        return frozen

    monkeypatch.setattr(disk.staging, "freeze", frozen_then_finished)
    with pytest.raises(Conflict, match="file"):
        commit_area(disk.repository, disk.staging, disk.name)
    monkeypatch.undo()
    version = commit_area(disk.repository, disk.staging, disk.name).version
    assert committed_tree(disk.repository, version)["file"] == ("file", b"halfwhole", False)


def test_an_unlinked_open_file_survives_a_commit(disk: Disk):
    disk.write("gone", b"still here")
    with disk.opened("gone") as fh:
        frozen = disk.staging.freeze(disk.area)
        disk.unlink("gone")
        version = disk.land(frozen)
        disk.staging.thaw(frozen, version)
        assert disk.read_fh(fh) == b"still here"
    assert committed_tree(disk.repository, version)["gone"][1] == b"still here"
    assert disk.local_files() == 0


def test_a_file_open_for_reading_reads_on_after_its_layer_became_content(disk: Disk):
    disk.write("plain", b"p" * 100_000)
    with disk.opened("plain") as fh:
        assert disk.staging.read(fh, 0, 4) == b"pppp"
        disk.commit()
        assert disk.local_files() == 0
        assert disk.read_fh(fh) == b"p" * 100_000
    with disk.opened("plain", os.O_RDWR) as fh:
        disk.staging.write(fh, 0, memoryview(b"q"))
        assert disk.read_fh(fh) == b"q" + b"p" * 99_999


@pytest.mark.parametrize("step", ["frozen", "built", "landed"])
def test_a_kill_during_a_commit(disk: Disk, step: str):
    disk.write("plain", b"first")
    disk.patch("images/cat.png", 0, b"AAA")
    disk.mkdir("made")
    disk.write("made/file", b"made")
    then = disk.tree()
    frozen = disk.staging.freeze(disk.area)
    version = None
    if step == "built":
        with disk.repository.writing("commit") as writing:
            root = disk.staging.build(frozen, writing.writer)
            disk.staging.prepare(frozen, "id", root.digest)
    elif step == "landed":
        version = disk.land(frozen)
    disk.patch("images/dog.png", 0, b"later")
    disk.unlink("made/file")
    now = disk.tree()
    frozen.snapshot.close()
    disk.kill()
    assert disk.tree() == now
    pending = disk.staging.pending(disk.area)
    assert (pending is None) == (step == "frozen")
    if pending is not None:
        latest = disk.repository.registry.resolve("data", "latest")
        landed = latest if latest.digest == pending.digest else None
        assert landed == version
        disk.staging.recover(disk.area, landed)
        assert disk.staging.pending(disk.area) is None
    if version is not None:
        assert committed_tree(disk.repository, version) == then
        assert disk.changes() == [("changed", "images/dog.png"), ("removed", "made/file")]
        assert disk.local_files() == 1
    assert disk.tree() == now
    assert committed_tree(disk.repository, disk.commit()) == now
    assert disk.tree() == now


def test_recovery_leaves_alone_what_changed_since(disk: Disk):
    disk.mkdir("a")
    disk.mkdir("b")
    disk.write("a/file", b"a")
    disk.write("b/file", b"b")
    frozen = disk.staging.freeze(disk.area)
    version = disk.land(frozen)
    frozen.snapshot.close()
    disk.kill()
    disk.rename("a", "b", 2)
    disk.write("a/more", b"more")
    now = disk.tree()
    disk.staging.recover(disk.area, version)
    assert disk.tree() == now
    assert committed_tree(disk.repository, disk.commit()) == now


def test_what_versions_do_not_keep_is_counted_and_stays_here(disk: Disk):
    disk.link("README", "linked")
    disk.chmod("images/cat.png", 0o600)
    disk.patch("images/cat.png", 0, b"x")
    disk.staging.setxattr(disk.at("images/cat.png").node, b"user.a", b"1", 0)
    frozen = disk.staging.freeze(disk.area)
    version = disk.land(frozen)
    disk.staging.thaw(frozen, version)
    dropped = frozen.dropped
    assert (dropped.modes, dropped.xattrs, dropped.hard_links, dropped.owners) == (1, 1, 1, 0)
    assert disk.at("images/cat.png").mode & 0o777 == 0o600
    assert disk.at("linked").nlink == 2
    assert disk.staging.getxattr(disk.at("images/cat.png").node, b"user.a") == b"1"


def test_symlinks_that_leave_the_artifact_refuse_the_commit(disk: Disk):
    disk.symlink("../../etc/passwd", "images/out")
    disk.symlink("/etc/passwd", "absolute")
    disk.symlink("../README", "images/fine")
    disk.write("images/large", b"x")
    frozen = disk.staging.freeze(disk.area)
    with pytest.raises(InvalidInput) as caught:
        disk.land(frozen)
    disk.staging.thaw(frozen, None)
    assert str(caught.value).splitlines()[1:] == [
        "  absolute points to '/etc/passwd'",
        "  images/out points to '../../etc/passwd'",
    ]
    disk.unlink("images/out")
    disk.unlink("absolute")
    assert disk.commit().number == 1


def test_references_stay_references_wherever_they_move(disk: Disk):
    disk.rename("raw", "images/raw-data")
    version = disk.commit()
    entry = disk.repository.entry(version, "images/raw-data")
    assert (type(entry).__name__, entry.uri) == ("RefEntry", "odd://bucket/raw")


def test_the_first_version_of_a_new_artifact(fresh: Disk):
    assert fresh.tree() == {}
    fresh.mkdir("dir")
    fresh.write("dir/file", b"1")
    version = fresh.commit()
    assert (version.artifact, version.number) == ("new", 0)
    assert committed_tree(fresh.repository, version) == fresh.tree()


def test_a_commit_of_a_large_file_reads_around_the_change_only(fresh: Disk):
    data = os.urandom(24 << 20)
    fresh.write("large", data)
    fresh.commit()
    fresh.patch("large", 12 << 20, b"!")
    frozen = fresh.staging.freeze(fresh.area)
    with fresh.repository.writing("commit") as writing:
        root = fresh.staging.build(frozen, writing.writer)
        assert writing.writer.bytes_read < 12 << 20
        version = writing.commit("new", root, base=0).version
    fresh.staging.thaw(frozen, version)
    changed = bytearray(data)
    changed[12 << 20] = ord("!")
    assert fresh.read("large") == changed
    with fresh.repository.writing("put") as writing:
        whole = writing.writer.add_bytes(bytes(changed))
    assert fresh.repository.entry(version, "large").digest == whole.digest


@pytest.mark.parametrize("steps", range(9))
def test_a_kill_while_the_area_settles_on_its_version(disk: Disk, steps: int, monkeypatch: pytest.MonkeyPatch):
    disk.write("plain", b"first")
    disk.patch("images/cat.png", 0, b"AAA")
    disk.unlink("README")
    disk.mkdir("made")
    disk.write("made/one", b"1")
    disk.write("made/two", b"2")
    frozen = disk.staging.freeze(disk.area)
    version = disk.land(frozen)
    disk.unlink("made/one")
    disk.patch("plain", 0, b"x")
    now = disk.tree()
    real, calls = freeze.Freezer._settle_link, itertools.count()

    def stopping(*arguments, **options) -> bool:
        if next(calls) == steps:
            raise OSError(errno.EIO, "killed")
        return real(*arguments, **options)

    monkeypatch.setattr(freeze, "BATCH", 1)
    monkeypatch.setattr(freeze.Freezer, "_settle_link", stopping)
    try:
        disk.staging.thaw(frozen, version)
    except OSError:
        disk.kill()
    monkeypatch.undo()
    assert disk.tree() == now
    if disk.staging.pending(disk.area) is not None:
        disk.patch("made/two", 0, b"3")
        now = disk.tree()
        disk.staging.recover(disk.area, version)
    assert disk.tree() == now
    assert disk.area.base_number == version.number
    assert {("removed", "made/one"), ("changed", "plain")} <= set(disk.changes())
    assert committed_tree(disk.repository, disk.commit()) == now
    assert disk.changes() == []
    disk.kill()
    assert disk.tree() == now

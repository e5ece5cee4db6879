"""What commands do with staging: choosing a base, following, discarding, rebasing, dropping, comparing."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from artifactfs.draft import Draft
from artifactfs.errors import Conflict
from tests.staging.conftest import BASE
from tests.staging.driver import ME, Disk, committed_tree


def test_clean_staging_follows_and_changed_staging_does_not(disk: Disk, put):
    root = disk.at("").node
    version = put(README=b"new text", added=b"added")
    stale = disk.staging.follow(disk.area, version)
    assert disk.read("README") == b"new text"
    assert disk.at("").node == root == disk.area.root
    assert disk.at("added").mtime == version.created
    names = {item.name for item in stale if item.node == root}
    assert {b"README", b"added", None} <= names
    disk.kill()
    assert disk.read("added") == b"added"
    disk.write("mine", b"mine")
    assert disk.staging.follow(disk.area, put(README=b"newer")) == []
    assert disk.read("README") == b"new text"
    disk.unlink("mine")
    disk.staging.follow(disk.area, disk.repository.registry.resolve("data", "latest"))
    assert disk.read("README") == b"newer"


def test_staging_does_not_follow_while_a_file_is_open_for_writing(disk: Disk, put):
    version = put(added=b"1")
    with disk.opened("README", os.O_RDWR):
        assert disk.staging.follow(disk.area, version) == []
    assert disk.staging.follow(disk.area, version) != []
    assert disk.staging.follow(disk.area, version) == []


def test_an_open_file_reads_on_when_staging_follows(disk: Disk, put):
    node = disk.at("README").node
    with disk.opened("README") as fh:
        disk.staging.follow(disk.area, put(README=b"other"))
        # A kernel whose attributes have run out asks for them before it reads.
        assert disk.staging.getattr(node, fh).size == len(BASE["README"])
        assert disk.read_fh(fh) == BASE["README"]
        with pytest.raises(OSError, match=os.strerror(errno.ESTALE)):
            disk.staging.getattr(node)
        assert disk.read("README") == b"other"


def test_discarding_gives_the_base_back(disk: Disk):
    before = disk.tree()
    node = disk.at("images/cat.png").node
    disk.patch("images/cat.png", 0, b"x")
    disk.write("new", b"new")
    disk.rename("scripts", "images/scripts")
    disk.unlink("README")
    disk.chmod("raw", 0o777)
    with disk.opened("new") as fh:
        stale = disk.staging.discard(disk.area)
        assert disk.read_fh(fh) == b"new"
    assert disk.tree() == before
    assert disk.at("images/cat.png").node == node
    stale_names = {(item.node, item.name) for item in stale}
    assert {
        (node, None),
        (disk.area.root, b"README"),
        (disk.area.root, b"new"),
        (disk.area.root, b"scripts"),
    } <= stale_names
    assert disk.workspace.execute("SELECT count(*) FROM inode WHERE area = ?", (disk.area.id,)).fetchone()[0] == 1
    disk.kill()
    assert disk.tree() == before


def test_discarding_after_a_commit_gives_that_version_back(disk: Disk):
    disk.write("new", b"new")
    disk.unlink("images/raw/one.bin")
    version = disk.commit()
    expected = disk.tree()
    disk.write("images/cat.png", b"changed")
    disk.mkdir("images/raw/deep")
    disk.staging.discard(disk.area)
    assert disk.tree() == expected
    assert disk.at("new").mtime == version.created
    assert not disk.staging.is_dirty(disk.area)


def test_discarding_an_unlinked_open_base_file_shows_it_again(disk: Disk):
    with disk.opened("README", os.O_RDONLY) as fh:
        disk.unlink("README")
        disk.mkdir("empty/x")
        disk.rmdir("empty/x")
        disk.rmdir("empty")
        disk.staging.discard(disk.area)
        assert disk.at("README").nlink == 1
        assert disk.exists("empty")
        assert disk.read("README") == disk.read_fh(fh) == BASE["README"]
    assert disk.read("README") == BASE["README"]


def test_files_open_for_writing_refuse_discard_by_name(disk: Disk):
    with disk.opened("images/cat.png", os.O_RDWR) as fh:
        disk.staging.write(fh, 0, memoryview(b"x"))
        with pytest.raises(Conflict, match=rf"images/cat.png \(process {ME.pid}\)"):
            disk.staging.discard(disk.area)
    assert disk.staging.is_dirty(disk.area)


def test_beginning_from_another_version_or_from_nothing(disk: Disk, put):
    old = disk.tree()
    first = disk.repository.registry.version("data", 0)
    second = put(README=b"second")
    disk.staging.reset(disk.area, first, following=False)
    assert disk.staging.follow(disk.area, second) == []
    assert disk.tree() == old
    disk.staging.reset(disk.area, second, empty=True)
    assert disk.tree() == {}
    assert not disk.staging.is_dirty(disk.area)
    assert disk.area.base_number == second.number
    disk.write("only", b"only")
    disk.kill()
    version = disk.commit()
    assert committed_tree(disk.repository, version) == {"only": ("file", b"only", False)}
    assert disk.area.following


def test_rebasing_carries_changes_over(disk: Disk, put):
    disk.patch("images/cat.png", 0, b"MINE")
    disk.write("images/mine", b"mine")
    disk.unlink("images/dog.png")
    disk.rename("scripts", "tools")
    disk.mkdir("both")
    disk.write("both/mine", b"mine")
    disk.chmod("images/mine", 0o600)
    version = put(README=b"theirs", theirs=b"theirs", images__theirs=b"theirs", both__theirs=b"theirs")
    changes = disk.changes()
    with disk.opened("images/mine") as fh:
        disk.staging.rebase(disk.area, version)
        assert disk.read_fh(fh) == b"mine"
    tree = disk.tree()
    assert tree["README"][1] == tree["theirs"][1] == tree["images/theirs"][1] == tree["both/theirs"][1] == b"theirs"
    assert tree["images/mine"][1] == tree["both/mine"][1] == b"mine"
    assert tree["images/cat.png"][1] == b"MINE" + BASE["images/cat.png"][4:]
    assert tree["tools/run.sh"] == ("file", BASE["scripts/run.sh"], True)
    assert {"scripts", "images/dog.png"}.isdisjoint(tree)
    assert disk.at("images/mine").mode & 0o777 == 0o600
    assert disk.changes() == [change for change in changes if change != ("added", "both")]
    disk.kill()
    assert disk.tree() == tree
    version = disk.commit()
    assert version.number == 2
    assert committed_tree(disk.repository, version) == tree


def test_rebasing_names_what_both_changed_and_changes_nothing(disk: Disk, put):
    disk.patch("README", 0, b"x")
    disk.write("images/raw/mine", b"1")
    disk.unlink("scripts/run.sh")
    disk.rmdir("scripts")
    disk.write("same", b"a")
    version = put(README=b"theirs", scripts__more=b"more", same=b"b", theirs=b"fine")
    before = disk.tree(), disk.changes()
    with pytest.raises(Conflict) as caught:
        disk.staging.rebase(disk.area, version)
    assert str(caught.value).splitlines()[1:] == ["  README", "  same", "  scripts/more"]
    assert (disk.tree(), disk.changes()) == before
    assert disk.area.base_number == 0


def test_rebasing_where_their_removal_hits_our_addition(disk: Disk, put, tmp_path: Path):
    disk.write("images/raw/mine", b"1")
    empty = tmp_path / "small"
    empty.mkdir()
    (empty / "README").write_bytes(BASE["README"])
    draft = Draft(disk.repository)
    draft.add(empty)
    version = draft.commit("data").version
    with pytest.raises(Conflict, match="images/raw/mine"):
        disk.staging.rebase(disk.area, version)
    disk.unlink("images/raw/mine")
    disk.staging.rebase(disk.area, version)
    assert set(disk.tree()) == {"README"}


def test_rebasing_swapped_base_directories(disk: Disk, put):
    disk.rename("images", "scripts", 2)
    version = put(added=b"theirs")
    expected = {**disk.tree(), "added": ("file", b"theirs", False)}
    disk.staging.rebase(disk.area, version)
    assert disk.tree() == expected
    assert committed_tree(disk.repository, disk.commit()) == expected


def test_rebasing_hard_links(disk: Disk, put):
    disk.link("README", "again")
    disk.write("one", b"1")
    disk.link("one", "two")
    disk.staging.rebase(disk.area, put(added=b""))
    assert disk.at("one").nlink == disk.at("two").nlink == 2
    assert disk.at("again").nlink == disk.at("README").nlink == 1
    assert disk.read("again") == BASE["README"]


def test_a_new_artifact_is_dropped_when_it_is_empty(disk: Disk):
    area = disk.staging.area("new-name", None)
    disk.staging.create(area.root, b"file", 0o644, os.O_WRONLY, ME)
    with pytest.raises(OSError) as caught:
        disk.staging.drop("new-name")
    assert caught.value.errno == errno.ENOTEMPTY
    disk.staging.unlink(area.root, b"file")
    disk.staging.drop("new-name")
    assert disk.staging.names() == ["data"]
    with pytest.raises(OSError):
        disk.staging.getattr(area.root)
    disk.kill()
    assert disk.staging.names() == ["data"]


def test_changes_tell_files_directories_and_replacements(disk: Disk):
    disk.unlink("README")
    disk.mkdir("README")
    disk.write("README/inside", b"1")
    disk.rename("images/raw", "moved")
    disk.chmod("images/cat.png", 0o755)
    disk.chmod("images/dog.png", 0o600)
    assert disk.changes() == [
        ("removed", "README"),
        ("added", "README"),
        ("added", "README/inside"),
        ("changed", "images/cat.png"),
        ("removed", "images/raw"),
        ("removed", "images/raw/one.bin"),
        ("added", "moved"),
        ("added", "moved/one.bin"),
    ]
    status = disk.staging.status(disk.area)
    assert (status.name, status.base, status.changed) == ("data", 0, 8)
    assert 0 < status.local_bytes <= 8192

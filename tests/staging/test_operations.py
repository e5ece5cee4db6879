"""What programs do in staging, operation by operation."""

from __future__ import annotations

import errno
import os
import stat
import threading
import time

import pytest

from artifactfs.mount import files
from artifactfs.mount.contract import SET_ATIME, SET_GID, SET_MTIME, SET_MTIME_NOW, SET_UID, SetAttr
from artifactfs.mount.staging import RENAME_EXCHANGE, RENAME_NOREPLACE
from tests.staging.conftest import BASE
from tests.staging.driver import ME, Disk


def raises(number: int, call, *arguments) -> None:
    with pytest.raises(OSError) as caught:
        call(*arguments)
    assert errno.errorcode[caught.value.errno] == errno.errorcode[number]


def test_an_untouched_area_shows_its_base(disk: Disk):
    tree = disk.tree()
    assert {path: value[1] for path, value in tree.items() if value[0] == "file"} == BASE
    assert tree["empty"] == ("directory", "", False)
    assert tree["latest.png"] == ("symlink", "images/cat.png", False)
    assert tree["raw"] == ("symlink", "odd://bucket/raw", False)
    assert tree["scripts/run.sh"][2]
    attr = disk.at("images/cat.png")
    version = disk.repository.registry.resolve("data", "latest")
    assert (attr.mode, attr.mtime, attr.nlink) == (stat.S_IFREG | 0o644, version.created, 1)
    assert not disk.staging.is_dirty(disk.area)
    assert disk.local_files() == 0


def test_written_bytes_are_read_back_at_once_and_after_a_remount(disk: Disk):
    data = os.urandom(300_000)
    disk.write("images/new.bin", data)
    assert disk.read("images/new.bin") == data
    disk.remount()
    assert disk.read("images/new.bin") == data
    assert disk.at("images/new.bin").size == 300_000


def test_a_part_of_a_base_file_is_overwritten(disk: Disk):
    disk.patch("images/cat.png", 1500, b"MEOW")
    expected = bytearray(BASE["images/cat.png"])
    expected[1500:1504] = b"MEOW"
    assert disk.read("images/cat.png") == expected
    disk.remount()
    assert disk.read("images/cat.png") == expected
    assert disk.at("images/cat.png").size == len(expected)


def test_a_base_file_is_cut_and_grown(disk: Disk):
    disk.truncate("images/cat.png", 100)
    disk.truncate("images/cat.png", 200)
    assert disk.read("images/cat.png") == BASE["images/cat.png"][:100] + bytes(100)
    disk.patch("images/cat.png", 300, b"end")
    assert disk.read("images/cat.png") == BASE["images/cat.png"][:100] + bytes(200) + b"end"
    disk.kill()
    assert disk.read("images/cat.png") == BASE["images/cat.png"][:100] + bytes(200) + b"end"


def test_opening_with_truncation_empties_a_base_file(disk: Disk):
    with disk.opened("README", os.O_WRONLY | os.O_TRUNC):
        assert disk.at("README").size == 0
    assert disk.read("README") == b""


def test_exclusive_creation_of_what_is_there_is_refused(disk: Disk):
    parent, name = disk.split("README")
    raises(errno.EEXIST, disk.staging.create, parent, name, 0o644, os.O_WRONLY | os.O_CREAT | os.O_EXCL, ME)
    attr, opened = disk.staging.create(parent, name, 0o644, os.O_RDONLY | os.O_CREAT, ME)
    assert disk.read_fh(opened.fh) == BASE["README"]
    assert attr.size == len(BASE["README"])


@pytest.mark.parametrize(
    ("name", "number"),
    [(b"x" * 256, errno.ENAMETOOLONG), (b"\xff\xfe", errno.EILSEQ), ("ü".encode() * 128, errno.ENAMETOOLONG)],
)
def test_names_that_no_version_could_have_are_refused(disk: Disk, name: bytes, number: int):
    root = disk.area.root
    raises(number, disk.staging.create, root, name, 0o644, os.O_WRONLY, ME)
    raises(number, disk.staging.mkdir, root, name, 0o755, ME)
    raises(number, disk.staging.symlink, root, name, b"README", ME)
    raises(number, disk.staging.link, disk.at("README").node, root, name)
    raises(number, disk.staging.rename, root, b"README", root, name, 0)
    assert disk.tree().keys() == disk.tree().keys()
    disk.mkdir("x" * 255)
    assert disk.exists("x" * 255)


@pytest.mark.parametrize("kind", [stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK])
def test_what_is_no_file_is_refused(disk: Disk, kind: int):
    raises(errno.EPERM, disk.staging.mknod, disk.area.root, b"pipe", kind | 0o644, ME)
    assert not disk.exists("pipe")


def test_mknod_makes_files(disk: Disk):
    attr = disk.staging.mknod(disk.area.root, b"plain", stat.S_IFREG | 0o640, ME)
    assert (attr.mode, attr.size) == (stat.S_IFREG | 0o640, 0)
    assert disk.read("plain") == b""


def test_new_files_have_owner_umask_and_present_time(disk: Disk):
    before = time.time_ns()
    disk.write("new", b"1")
    attr = disk.at("new")
    assert attr.mode == stat.S_IFREG | 0o644
    assert (attr.uid, attr.gid) == (ME.uid, ME.gid)
    assert before <= attr.mtime <= time.time_ns()


def test_writing_moves_mtime_and_listing_does_not(disk: Disk):
    before = disk.at("images/cat.png").mtime
    disk.list("images")
    disk.read("images/cat.png")
    assert disk.at("images/cat.png").mtime == before
    disk.patch("images/cat.png", 0, b"x")
    assert disk.at("images/cat.png").mtime > before
    names = disk.at("images").mtime
    disk.write("images/new", b"")
    assert disk.at("images").mtime > names


def test_times_modes_and_owners_are_set_and_kept(disk: Disk):
    node = disk.at("README").node
    disk.utime("README", 1_234_567_890)
    disk.chmod("README", 0o4711)
    disk.staging.setattr(node, SetAttr(SET_UID | SET_GID | SET_ATIME, uid=5, gid=6, atime=99), None, ME)
    disk.kill()
    attr = disk.at("README")
    assert (attr.mtime, attr.atime, attr.mode, attr.uid, attr.gid) == (1_234_567_890, 99, stat.S_IFREG | 0o4711, 5, 6)
    assert attr.node == node
    before = time.time_ns()
    disk.staging.setattr(node, SetAttr(SET_MTIME | SET_MTIME_NOW, mtime=1), None, ME)
    assert disk.at("README").mtime >= before


def test_a_time_set_while_the_file_is_open_outlives_a_kill(disk: Disk):
    fh = disk.open_fh("log", os.O_WRONLY | os.O_CREAT)
    disk.staging.write(fh, 0, memoryview(b"entry"))
    disk.utime("log", 1_000_000_000)
    disk.kill()
    assert disk.at("log").mtime == 1_000_000_000
    assert disk.read("log") == b"entry"


def test_renaming_replaces_files_and_empty_directories_only(disk: Disk):
    disk.rename("README", "images/cat.png")
    assert disk.read("images/cat.png") == BASE["README"]
    assert not disk.exists("README")
    disk.mkdir("new")
    disk.rename("new", "empty")
    raises(errno.ENOTEMPTY, disk.rename, "empty", "images")
    raises(errno.ENOTDIR, disk.rename, "images", "images/../raw".rpartition("/")[2])
    raises(errno.EISDIR, disk.rename, "raw", "empty")
    raises(errno.EINVAL, disk.rename, "images", "images/raw/inside")
    raises(errno.ENOENT, disk.rename, "missing", "other")


def test_rename_flags(disk: Disk):
    raises(errno.EEXIST, disk.rename, "README", "raw", RENAME_NOREPLACE)
    disk.rename("README", "README.md", RENAME_NOREPLACE)
    disk.rename("images", "README.md", RENAME_EXCHANGE)
    assert disk.read("images") == BASE["README"]
    assert disk.read("README.md/cat.png") == BASE["images/cat.png"]
    raises(errno.ENOENT, disk.rename, "images", "missing", RENAME_EXCHANGE)
    raises(errno.EINVAL, disk.rename, "README.md/raw", "README.md", RENAME_EXCHANGE)
    raises(errno.EINVAL, disk.rename, "images", "other", 4)


def test_a_moved_base_directory_keeps_all_below_and_can_be_changed(disk: Disk):
    node = disk.at("images/raw/one.bin").node
    disk.rename("images", "pictures")
    assert disk.at("pictures/raw/one.bin").node == node
    disk.patch("pictures/raw/one.bin", 0, b"!")
    disk.unlink("pictures/cat.png")
    disk.kill()
    assert set(disk.list("pictures")) == {"dog.png", "raw"}
    assert disk.read("pictures/raw/one.bin") == b"!" + BASE["images/raw/one.bin"][1:]
    assert disk.at("pictures/raw/one.bin").node == node


def test_removing(disk: Disk):
    raises(errno.ENOTEMPTY, disk.rmdir, "images")
    raises(errno.EISDIR, disk.unlink, "images")
    raises(errno.ENOTDIR, disk.rmdir, "README")
    raises(errno.ENOENT, disk.unlink, "missing")
    disk.unlink("images/raw/one.bin")
    disk.rmdir("images/raw")
    disk.unlink("images/cat.png")
    disk.unlink("images/dog.png")
    disk.rmdir("images")
    assert "images" not in disk.list()
    disk.mkdir("images")
    assert disk.list("images") == {}
    rows = disk.workspace.execute("SELECT count(*) FROM link WHERE child IS NULL").fetchone()[0]
    assert rows == 0  # the names in the directory went with it, and its own name stands for the new one


def test_an_unlinked_open_file_is_read_and_written_until_it_is_closed(disk: Disk):
    for path in ("images/cat.png", "fresh"):
        if path == "fresh":
            disk.write(path, BASE["images/cat.png"])
        with disk.opened(path, os.O_RDWR) as fh:
            node = disk.at(path).node
            disk.unlink(path)
            assert not disk.exists(path)
            assert disk.read_fh(fh) == BASE["images/cat.png"]
            disk.staging.write(fh, 0, memoryview(b"DOG"))
            assert disk.read_fh(fh) == b"DOG" + BASE["images/cat.png"][3:]
            assert disk.staging.getattr(node).nlink == 0
            disk.write(path, b"another one")
            assert disk.read(path) == b"another one"
            disk.unlink(path)
        raises(errno.EBADF, disk.staging.read, fh, 0, 1)
    assert disk.local_files() == 0


def test_hard_links_share_bytes_and_count(disk: Disk):
    disk.link("README", "images/again")
    assert disk.at("README").nlink == disk.at("images/again").nlink == 2
    disk.patch("images/again", 0, b"W")
    assert disk.read("README") == b"W" + BASE["README"][1:]
    disk.rename("README", "images/again")  # two names of one file: nothing happens
    assert disk.exists("README")
    disk.unlink("README")
    disk.kill()
    assert disk.at("images/again").nlink == 1
    raises(errno.EPERM, disk.link, "images", "linked")
    raises(errno.EEXIST, disk.link, "images/again", "raw")


def test_symlinks(disk: Disk):
    disk.symlink("../elsewhere", "images/link")
    assert disk.staging.readlink(disk.at("images/link").node) == b"../elsewhere"
    assert disk.at("images/link").size == len("../elsewhere")
    raises(errno.EINVAL, disk.staging.readlink, disk.at("README").node)
    raises(errno.EILSEQ, disk.staging.symlink, disk.area.root, b"bad", b"\xff", ME)
    raises(errno.ELOOP, disk.open_fh, "images/link")
    raises(errno.EISDIR, disk.open_fh, "images")


def test_nothing_moves_between_artifacts(disk: Disk):
    other = disk.staging.area("other", None)
    raises(errno.EXDEV, disk.staging.rename, disk.area.root, b"README", other.root, b"README", 0)
    raises(errno.EXDEV, disk.staging.link, disk.at("README").node, other.root, b"README")


def test_xattrs(disk: Disk):
    node = disk.at("README").node
    raises(errno.ENODATA, disk.staging.getxattr, node, b"user.comment")
    raises(errno.ENODATA, disk.staging.getxattr, node, b"security.capability")
    raises(errno.EOPNOTSUPP, disk.staging.setxattr, node, b"trusted.x", b"1", 0)
    raises(errno.EPERM, disk.staging.setxattr, node, b"user.artifactfs.version", b"v9", 0)
    raises(errno.ENODATA, disk.staging.setxattr, node, b"user.comment", b"1", 2)
    raises(errno.E2BIG, disk.staging.setxattr, node, b"user.comment", bytes(65537), 0)
    disk.staging.setxattr(node, b"user.comment", b"good", 1)
    raises(errno.EEXIST, disk.staging.setxattr, node, b"user.comment", b"1", 1)
    disk.kill()
    assert disk.staging.getxattr(node, b"user.comment") == b"good"
    assert disk.staging.listxattr(node) == [b"user.comment"]
    assert disk.staging.getxattr(node, b"user.artifactfs.artifact") == b"data"
    assert disk.staging.getxattr(disk.at("raw").node, b"user.artifactfs.reference") == b"odd://bucket/raw"
    disk.staging.removexattr(node, b"user.comment")
    raises(errno.ENODATA, disk.staging.removexattr, node, b"user.comment")
    assert not disk.staging.is_dirty(disk.area)  # versions do not keep xattrs


def test_a_directory_is_emptied_while_it_is_listed(disk: Disk):
    for number in range(700):
        disk.write(f"images/{number:04}", b"")
    node = disk.at("images").node
    fh = disk.staging.opendir(node, ME).fh
    seen: list[bytes] = []
    while True:
        batch = []
        for name, _ in disk.staging.readdir(node, fh, len(seen)):
            batch.append(name)
            if len(batch) == 13:
                break
        if not batch:
            break
        seen += batch
        for name in batch:
            if name != b"raw":
                disk.staging.unlink(node, name)
    assert len(seen) == len(set(seen)) == 703
    assert set(disk.list("images")) == {"raw"}


def test_a_listing_goes_on_from_any_offset(disk: Disk):
    for number in range(20):
        disk.write(f"images/{number}", b"")
    disk.unlink("images/cat.png")
    node = disk.at("images").node
    fh = disk.staging.opendir(node, ME).fh
    names = [name for name, _ in disk.staging.readdir(node, fh, 0)]
    for offset in (5, 1, 19, 3, len(names)):
        assert [name for name, _ in disk.staging.readdir(node, fh, offset)] == names[offset:]
    disk.staging.releasedir(fh)
    raises(errno.EBADF, disk.staging.readdir, node, fh, 0)


def test_a_removed_directory_is_empty_to_who_stands_in_it(disk: Disk):
    node = disk.at("empty").node
    fh = disk.staging.opendir(node, ME).fh
    disk.rmdir("empty")
    assert list(disk.staging.readdir(node, fh, 0)) == []
    assert disk.staging.getattr(node).nlink == 0
    raises(errno.ENOENT, disk.staging.mkdir, node, b"below", 0o755, ME)
    disk.staging.forget(node, 1)


@pytest.mark.parametrize("path", ["images/cat.png", "plain"])
def test_holes_and_zeroes(disk: Disk, path: str):
    content = BASE["images/cat.png"]
    disk.write("plain", content)
    with disk.opened(path, os.O_RDWR) as fh:
        disk.staging.fallocate(fh, 3, 100, 50)  # PUNCH_HOLE | KEEP_SIZE
        expected = content[:100] + bytes(50) + content[150:]
        assert disk.read_fh(fh) == expected
        disk.staging.fallocate(fh, 0x10, 2990, 20)  # ZERO_RANGE
        expected = expected[:2990] + bytes(20)
        assert disk.read_fh(fh) == expected
        disk.staging.fallocate(fh, 0, 3000, 100)
        assert disk.read_fh(fh) == expected + bytes(90)
        disk.staging.fallocate(fh, 1, 0, 10_000)  # KEEP_SIZE
        assert disk.at(path).size == 3100
        for mode in (0x08, 0x20, 0x40, 2):
            raises(errno.EOPNOTSUPP, disk.staging.fallocate, fh, mode, 0, 4096)
        disk.staging.fallocate(fh, 3, 3050, 1000)
        assert disk.at(path).size == 3100
    disk.kill()
    assert disk.read(path) == expected + bytes(90)


def test_seeking_for_data_and_holes(disk: Disk):
    with disk.opened("sparse", os.O_RDWR | os.O_CREAT) as fh:
        disk.staging.write(fh, 1 << 20, memoryview(b"x" * 4096))
        disk.staging.fallocate(fh, 3, 0, 4096)
        assert disk.staging.lseek(fh, 0, os.SEEK_DATA) == 1 << 20
        assert disk.staging.lseek(fh, 0, os.SEEK_HOLE) == 0
        assert disk.staging.lseek(fh, 1 << 20, os.SEEK_HOLE) == (1 << 20) + 4096
        raises(errno.ENXIO, disk.staging.lseek, fh, (1 << 20) + 4096, os.SEEK_DATA)
    assert disk.at("sparse").blocks * 512 <= 8192
    with disk.opened("README") as fh:
        assert disk.staging.lseek(fh, 2, os.SEEK_DATA) == 2
        assert disk.staging.lseek(fh, 2, os.SEEK_HOLE) == len(BASE["README"])


def test_only_handles_for_writing_write(disk: Disk):
    with disk.opened("README") as fh:
        raises(errno.EBADF, disk.staging.write, fh, 0, memoryview(b"x"))
    raises(errno.EBADF, disk.staging.write, 12345, 0, memoryview(b"x"))


def test_writers_are_named(disk: Disk):
    with disk.opened("images/cat.png", os.O_RDWR), disk.opened("README"):
        assert disk.writers() == [("images/cat.png", ME.pid)]
    assert disk.writers() == []


def test_a_full_disk_is_said_and_harms_nothing(disk: Disk, monkeypatch: pytest.MonkeyPatch):
    disk.write("plain", b"kept")
    real = os.pwrite

    def full(fd: int, data: memoryview, offset: int) -> int:
        if len(data) > 1:
            return real(fd, data[: len(data) // 2], offset)
        raise OSError(errno.ENOSPC, "disk full")

    with disk.opened("plain", os.O_RDWR) as plain, disk.opened("images/cat.png", os.O_RDWR) as layered:
        monkeypatch.setattr(os, "pwrite", full)
        raises(errno.ENOSPC, disk.staging.write, plain, 4, memoryview(b"more"))
        raises(errno.ENOSPC, disk.staging.write, layered, 10, memoryview(b"more"))
        monkeypatch.undo()
        assert disk.read("plain") == b"kept"
        assert disk.read("images/cat.png") == BASE["images/cat.png"]
    disk.kill()
    assert disk.read("plain") == b"kept"
    assert disk.at("plain").size == 4


def test_durability_is_asked_for_without_harm(disk: Disk):
    with disk.opened("README", os.O_RDWR) as fh:
        disk.staging.write(fh, 0, memoryview(b"W"))
        disk.staging.fsync(fh, datasync=False)
        disk.staging.write(fh, 1, memoryview(b"H"))
        disk.staging.sync()
    disk.staging.fsyncdir(disk.area.root)
    disk.kill()
    assert disk.read("README") == b"WH" + BASE["README"][2:]


def test_a_handle_that_is_being_closed_is_no_writer(disk: Disk, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(files, "CLOSING_SECONDS", 60)
    fh = disk.open_fh("README", os.O_RDWR)
    disk.staging.write(fh, 0, memoryview(b"W"))
    disk.staging.flush(fh)
    closing = threading.Timer(0.05, disk.staging.release, [fh])
    closing.start()
    assert disk.writers() == []
    closing.join()
    monkeypatch.undo()
    fh = disk.open_fh("README", os.O_RDWR)
    disk.staging.flush(fh)  # another descriptor of it was closed, this one stays
    assert disk.writers() == [("README", ME.pid)]
    disk.staging.release(fh)

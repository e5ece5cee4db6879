"""Both bindings, over a tree in memory, do what programs expect of a file system."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import eventually

AT_FDCWD = -100
RENAME_NOREPLACE, RENAME_EXCHANGE = 1, 2
libc = ctypes.CDLL(None, use_errno=True)


def sh(script: str, cwd: Path) -> str:
    return subprocess.run(
        ["bash", "-euc", script], cwd=cwd, check=True, capture_output=True, text=True, timeout=60
    ).stdout


def python(script: str, *args: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script, *map(str, args)], check=True, capture_output=True, text=True, timeout=60
    )


def fails(number: int, action: Callable[..., object], *args: object) -> None:
    with pytest.raises(OSError) as caught:
        action(*args)
    assert caught.value.errno == number, errno.errorcode[caught.value.errno]


def renameat2(old: Path, new: Path, flags: int) -> None:
    if libc.renameat2(AT_FDCWD, os.fsencode(old), AT_FDCWD, os.fsencode(new), flags):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def test_the_mount_shows_what_it_is(mnt):
    line = next(line for line in Path("/proc/self/mountinfo").read_text().splitlines() if f" {mnt} " in line)
    assert " - fuse.artifactfs artifactfs " in line
    assert {"nosuid", "nodev"} <= set(line.split(" ")[5].split(","))
    numbers = os.statvfs(mnt)
    assert (numbers.f_bsize, numbers.f_blocks, numbers.f_bfree, numbers.f_bavail) == (4096, 1000, 600, 500)
    assert (numbers.f_files, numbers.f_ffree, numbers.f_namemax) == (100, 50, 255)


def test_shell_tools(mnt):
    out = sh(
        """
        mkdir -p a/b; echo one > a/one; cp a/one a/b/two; mv a/b/two a/b/three; ln -s ../one a/b/link
        cat a/b/link; readlink a/b/link; ln a/one a/hard; stat -c %h a/one; chmod 600 a/one; stat -c %a a/one
        touch -d '2001-02-03 04:05:06.789' a/one; stat -c %y a/hard | cut -c1-23
        dd if=/dev/zero of=big bs=64k count=20 status=none; truncate -s 100 big; stat -c '%s %b' big
        find . | sort; ls -la a | wc -l; rm -r a; ls
        """,
        mnt,
    )
    assert out.splitlines() == [
        "one", "../one", "2", "600", "2001-02-03 04:05:06.789", "100 1",
        ".", "./a", "./a/b", "./a/b/link", "./a/b/three", "./a/hard", "./a/one", "./big", "6", "big",
    ]  # fmt: skip


def test_a_tree_copied_in_comes_out_the_same(mnt, tmp_path):
    source = tmp_path / "source"
    for number in range(50):
        path = source / f"d{number % 5}" / f"f{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(number * 1000))
    sh(f"cp -a '{source}' . && tar cf - source | tar xf - -C '{tmp_path}' --transform s/source/back/", mnt)
    sh("diff -r source back", tmp_path)


def test_inode_numbers_are_those_of_the_tree(mnt):
    (mnt / "a").write_bytes(b"")
    with os.scandir(mnt) as entries:
        assert [(entry.name, entry.inode()) for entry in entries] == [("a", (mnt / "a").stat().st_ino)]


def test_attributes(mnt):
    path = mnt / "file"
    path.write_bytes(b"x" * 1000)
    path.chmod(0o640)
    os.chown(path, 12, 34)
    os.utime(path, ns=(1_000_000_000_123_456_789, 2_000_000_000_987_654_321))
    found = path.stat()
    assert stat.filemode(found.st_mode) == "-rw-r-----"
    assert (found.st_uid, found.st_gid, found.st_size, found.st_blocks) == (12, 34, 1000, 2)
    assert (found.st_atime_ns, found.st_mtime_ns) == (1_000_000_000_123_456_789, 2_000_000_000_987_654_321)
    os.utime(path, ns=(-1_500_000_000, 5))
    assert path.stat().st_atime_ns == -1_500_000_000
    os.chown(path, -1, 56)
    assert (path.stat().st_uid, path.stat().st_gid) == (12, 56)


def test_touching_one_time_leaves_the_other(mnt):
    path = mnt / "file"
    path.write_bytes(b"")
    os.utime(path, ns=(5, 7))
    sh("touch -a file", mnt)
    assert path.stat().st_mtime_ns == 7
    assert path.stat().st_atime_ns > 5
    sh("touch -m -d @9 file", mnt)
    assert path.stat().st_mtime_ns == 9_000_000_000


def test_large_writes_and_reads(mnt):
    data = os.urandom(5 * 1024 * 1024 + 17)
    (mnt / "big").write_bytes(data)
    assert (mnt / "big").read_bytes() == data
    with (mnt / "big").open("rb", buffering=0) as file:
        assert os.pread(file.fileno(), 100, len(data) - 50) == data[-50:]
        assert os.pread(file.fileno(), 100, len(data) + 50) == b""


def test_mapped_stores_arrive(memory, mnt):
    path = mnt / "mapped"
    path.write_bytes(b"a" * 20_000)
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        mapped[10_000:10_004] = b"here"
        mapped.flush()
        assert os.pread(file.fileno(), 6, 9_999) == b"aherea"
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECT)
    try:
        page = mmap.mmap(-1, 4096)
        os.preadv(descriptor, [page], 8192)
        assert b"here" in page[:]
        page.close()
    finally:
        os.close(descriptor)


def test_open_flags(mnt):
    path = mnt / "file"
    path.write_bytes(b"old content")
    fails(errno.EEXIST, os.open, path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    os.close(os.open(path, os.O_WRONLY | os.O_TRUNC))
    assert path.read_bytes() == b""
    fails(errno.ENOENT, os.open, mnt / "absent", os.O_RDONLY)
    fails(errno.EISDIR, os.open, mnt, os.O_WRONLY)


def test_appends_of_two_processes_are_all_there(mnt):
    script = """
import os, sys
fd = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
for _ in range(100):
    os.write(fd, sys.argv[2].encode() * 10 + b"\\n")
"""
    writers = [subprocess.Popen([sys.executable, "-c", script, str(mnt / "log"), letter]) for letter in "ab"]
    assert [writer.wait(60) for writer in writers] == [0, 0]
    lines = (mnt / "log").read_text().splitlines()
    # Each process's lines are whole; O_APPEND places them by the size that the kernel knows, so none goes beyond it.
    assert set(lines) == {"a" * 10, "b" * 10}
    assert len(lines) == 200


def test_exclusive_creation_has_one_winner(mnt):
    script = """
import os, sys
try:
    os.close(os.open(sys.argv[1], os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    print("won")
except FileExistsError:
    print("lost")
"""
    racers = [
        subprocess.Popen([sys.executable, "-c", script, str(mnt / "lock")], stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    assert sorted(racer.communicate(timeout=60)[0].strip() for racer in racers) == ["lost", "lost", "lost", "won"]


def test_renames(mnt):
    one, two = mnt / "one", mnt / "two"
    one.write_text("1")
    two.write_text("2")
    fails(errno.EEXIST, renameat2, one, two, RENAME_NOREPLACE)
    renameat2(one, two, RENAME_EXCHANGE)
    assert (one.read_text(), two.read_text()) == ("2", "1")
    one.rename(two)
    assert two.read_text() == "2"
    fails(errno.ENOENT, one.stat)
    renameat2(two, mnt / "three", RENAME_NOREPLACE)
    assert os.listdir(mnt) == ["three"]


def test_a_directory_is_renamed_with_open_files_in_it(mnt):
    (mnt / "d/e").mkdir(parents=True)
    with (mnt / "d/e/file").open("w+b", buffering=0) as file:
        (mnt / "d").rename(mnt / "x")
        file.write(b"after")
        assert (mnt / "x/e/file").read_bytes() == b"after"
        os.ftruncate(file.fileno(), 2)
        assert os.fstat(file.fileno()).st_size == 2


def test_an_unlinked_file_goes_on_while_it_is_open(memory, mnt):
    before = memory.call("inodes")
    with (mnt / "file").open("w+b", buffering=0) as file:
        file.write(b"content")
        (mnt / "file").unlink()
        assert os.listdir(mnt) == []
        fails(errno.ENOENT, (mnt / "file").stat)
        file.write(b" and more")
        assert os.pread(file.fileno(), 100, 0) == b"content and more"
        os.ftruncate(file.fileno(), 4)
        found = os.fstat(file.fileno())
        assert (found.st_size, found.st_nlink) == (4, 0)
        os.fchmod(file.fileno(), 0o600)
        os.fsync(file.fileno())
        (mnt / "file").write_bytes(b"another")
        assert os.pread(file.fileno(), 100, 0) == b"cont"
    assert (mnt / "file").read_bytes() == b"another"
    (mnt / "file").unlink()
    assert os.listdir(mnt) == []
    eventually(lambda: memory.call("inodes") == before)  # the kernel releases behind close(2)
    assert memory.call("handles") == 0


def test_temporary_files(mnt):
    with tempfile.TemporaryFile(dir=mnt) as file:
        file.write(b"x" * 100_000)
        file.seek(0)
        assert file.read() == b"x" * 100_000
        assert os.listdir(mnt) == []
    (mnt / "d").mkdir()
    with tempfile.NamedTemporaryFile(dir=mnt / "d"):
        pass
    (mnt / "d").rmdir()


def test_a_file_that_is_replaced_while_open_is_read_to_its_end(mnt):
    (mnt / "file").write_bytes(b"old")
    (mnt / "new").write_bytes(b"new")
    with (mnt / "file").open("rb", buffering=0) as file:
        (mnt / "new").rename(mnt / "file")
        assert (mnt / "file").read_bytes() == b"new"
        assert file.read() == b"old"
        assert os.fstat(file.fileno()).st_nlink == 0
    assert os.listdir(mnt) == ["file"]


def test_hard_links(mnt):
    (mnt / "a").write_bytes(b"1")
    (mnt / "b").hardlink_to(mnt / "a")
    assert (mnt / "a").stat().st_ino == (mnt / "b").stat().st_ino
    assert (mnt / "b").stat().st_nlink == 2
    (mnt / "b").write_bytes(b"22")
    assert (mnt / "a").read_bytes() == b"22"
    (mnt / "a").unlink()
    assert (mnt / "b").stat().st_nlink == 1


def test_xattrs(mnt):
    path = mnt / "file"
    path.write_bytes(b"")
    os.setxattr(path, "user.one", b"1")
    os.setxattr(path, "user.two", b"\0\xff" * 500)
    assert sorted(os.listxattr(path)) == ["user.one", "user.two"]
    assert os.getxattr(path, "user.two") == b"\0\xff" * 500
    fails(errno.EEXIST, os.setxattr, path, "user.one", b"2", os.XATTR_CREATE)
    fails(errno.ENODATA, os.setxattr, path, "user.three", b"2", os.XATTR_REPLACE)
    fails(errno.ENODATA, os.getxattr, path, "user.three")
    os.setxattr(path, "user.empty", b"")
    assert os.getxattr(path, "user.empty") == b""
    os.removexattr(path, "user.one")
    assert sorted(os.listxattr(path)) == ["user.empty", "user.two"]


def test_the_size_of_an_xattr_can_be_asked_first(mnt):
    path = os.fsencode(mnt / "file")
    (mnt / "file").write_bytes(b"")
    os.setxattr(path, "user.a", b"12345")
    assert libc.getxattr(path, b"user.a", None, 0) == 5
    assert libc.listxattr(path, None, 0) == len(b"user.a\0")
    assert libc.getxattr(path, b"user.a", ctypes.create_string_buffer(4), 4) == -1
    assert ctypes.get_errno() == errno.ERANGE


def test_names_of_any_bytes(mnt):
    for name in (b"\xff\xfe", "größe €".encode(), b"new\nline", b"x" * 255):
        path = os.path.join(os.fsencode(mnt), name)
        with open(path, "wb") as file:
            file.write(name)
        with open(path, "rb") as file:
            assert file.read() == name
        os.symlink(name, path[:-1] + b"L")
        assert os.readlink(path[:-1] + b"L") == name
    assert len(os.listdir(mnt)) == 8
    fails(errno.ENAMETOOLONG, os.stat, mnt / ("x" * 256))


class Dirent(ctypes.Structure):
    _fields_ = (
        ("ino", ctypes.c_uint64),
        ("off", ctypes.c_int64),
        ("reclen", ctypes.c_ushort),
        ("type", ctypes.c_ubyte),
        ("name", ctypes.c_char * 256),
    )


def test_a_large_directory(memory, mnt):
    memory.call("add", "d/a-file-%05d.txt", "x", 10_000)
    expected = {f"a-file-{number:05d}.txt" for number in range(10_000)}
    for _ in range(2):
        names = [entry.name for entry in os.scandir(mnt / "d")]
        assert len(names) == 10_000
        assert set(names) == expected
    assert len(sh("find d -type f -size -2", mnt).splitlines()) == 10_000


def test_a_listing_can_be_continued_from_any_place(memory, mnt):
    memory.call("add", "d/%05d", "", 3000)
    libc.opendir.restype = libc.readdir.restype = ctypes.c_void_p
    libc.telldir.restype = ctypes.c_long
    stream = ctypes.c_void_p(libc.opendir(os.fsencode(mnt / "d")))

    def read(count: int) -> list[bytes]:
        found = []
        while len(found) < count and (entry := libc.readdir(stream)):
            found.append(ctypes.cast(entry, ctypes.POINTER(Dirent)).contents.name)
        return found

    try:
        everything = []
        places = []
        for _ in range(31):
            places.append(libc.telldir(stream))
            everything.append(read(100))
        assert len([name for part in everything for name in part]) == 3002
        for index in (17, 3, 30, 0, 16):
            libc.seekdir(stream, ctypes.c_long(places[index]))
            assert read(100) == everything[index]
        libc.rewinddir(stream)
        assert read(3) == everything[0][:3]
    finally:
        libc.closedir(stream)


def test_entries_removed_during_a_listing(memory, mnt):
    memory.call("add", "d/%05d", "", 2000)
    with os.scandir(mnt / "d") as entries:
        for entry in entries:
            os.unlink(entry.path)
    assert os.listdir(mnt / "d") == []


def test_locks_hold_between_processes(mnt):
    path = mnt / "file"
    path.write_bytes(b"x")
    attempt = """
import fcntl, sys
with open(sys.argv[1], "r+b") as file:
    try:
        getattr(fcntl, sys.argv[2])(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        print("free")
    except BlockingIOError:
        print("held")
"""
    for kind in ("flock", "lockf"):
        with path.open("r+b") as file:
            getattr(fcntl, kind)(file, fcntl.LOCK_EX)
            assert python(attempt, path, kind).stdout == "held\n"
        assert python(attempt, path, kind).stdout == "free\n"


def test_holes_and_preallocation(mnt):
    with (mnt / "file").open("w+b", buffering=0) as file:
        os.posix_fallocate(file.fileno(), 0, 10_000)
        assert os.fstat(file.fileno()).st_size == 10_000
        os.pwrite(file.fileno(), b"x" * 10_000, 0)
        assert libc.fallocate(file.fileno(), 3, ctypes.c_long(1000), ctypes.c_long(1000)) == 0
        assert os.pread(file.fileno(), 3, 999) == b"x\0\0"
        assert os.lseek(file.fileno(), 5, os.SEEK_HOLE) == 10_000
        assert os.lseek(file.fileno(), 5, os.SEEK_DATA) == 5
        fails(errno.ENXIO, os.lseek, file.fileno(), 10_000, os.SEEK_DATA)


def test_what_cannot_be_is_refused(memory, mnt):
    (mnt / "file").write_bytes(b"")
    (mnt / "d/e").mkdir(parents=True)
    memory.call("add", "ro")
    memory.call("mode", "ro", stat.S_IFREG | 0o444)
    fails(errno.EPERM, os.mkfifo, mnt / "fifo")
    fails(errno.EPERM, os.mknod, mnt / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    fails(errno.ENOTEMPTY, os.rmdir, mnt / "d")
    fails(errno.ENOTDIR, os.rmdir, mnt / "file")
    fails(errno.ENOTDIR, os.stat, mnt / "file/x")
    fails(errno.EEXIST, os.mkdir, mnt / "d")
    fails(errno.EROFS, os.open, mnt / "ro", os.O_WRONLY)
    fails(errno.EROFS, os.open, mnt / "ro", os.O_RDWR)
    assert (mnt / "ro").read_bytes() == b""
    fails(errno.EINVAL, renameat2, mnt / "file", mnt / "x", 1 << 2)
    with (mnt / "file").open("rb") as file:
        fails(errno.ENOTTY, fcntl.ioctl, file, 0x5401, bytes(64))
    fails(errno.EOPNOTSUPP, os.open, mnt, os.O_TMPFILE | os.O_RDWR)
    os.mknod(mnt / "regular", stat.S_IFREG | 0o644)
    assert (mnt / "regular").stat().st_size == 0


def test_a_read_only_mount_refuses_every_change(memory_mount):
    served = memory_mount(options={"read_only": True})
    served.call("add", "file", "content")
    assert (served.path / "file").read_text() == "content"
    fails(errno.EROFS, os.unlink, served.path / "file")
    fails(errno.EROFS, os.mkdir, served.path / "new")
    fails(errno.EROFS, os.rename, served.path / "file", served.path / "new")
    fails(errno.EROFS, os.setxattr, served.path / "file", "user.a", b"1")
    fails(errno.EROFS, os.open, served.path / "file", os.O_WRONLY)
    fails(errno.EROFS, os.open, served.path / "new", os.O_WRONLY | os.O_CREAT)


def test_modes_of_what_is_made_follow_the_umask(mnt):
    old = os.umask(0o027)
    try:
        (mnt / "d").mkdir()
        (mnt / "d/f").touch()
    finally:
        os.umask(old)
    assert [stat.S_IMODE(path.stat().st_mode) for path in (mnt / "d", mnt / "d/f")] == [0o750, 0o640]


def test_others_see_nothing_without_allow_other(mnt):
    script = """
import os, sys
root = os.open(sys.argv[1], os.O_PATH)
os.setgroups([]); os.setgid(34); os.setuid(12)
try:
    os.stat("file", dir_fd=root)
except PermissionError:
    print("refused")
"""
    mnt.chmod(0o777)
    (mnt / "file").touch()
    assert python(script, mnt).stdout == "refused\n"


def test_others_see_it_with_allow_other_within_their_permissions(memory_mount):
    served = memory_mount(options={"allow_other": True})
    script = """
import os, sys
os.chdir(sys.argv[1])  # as root: the directories above are the test's own
os.setgroups([]); os.setgid(34); os.setuid(12)
print(os.listdir("."))
os.mkdir("open/d")
open("open/d/f", "w").close()
try:
    os.mkdir("closed/d")
except PermissionError:
    print("refused")
"""
    (served.path / "open").mkdir()
    (served.path / "open").chmod(0o777)
    (served.path / "closed").mkdir(0o755)
    assert python(script, served.path).stdout == "['open', 'closed']\nrefused\n"
    made = (served.path / "open/d/f").stat()
    assert (made.st_uid, made.st_gid) == (12, 34)


def test_set_uid_is_lost_by_writing(memory_mount):
    served = memory_mount(options={"allow_other": True})
    path = served.path / "file"
    path.write_bytes(b"x" * 10)
    path.chmod(0o6777)
    os.chown(path, 0, 0)
    assert stat.S_IMODE(path.stat().st_mode) == 0o777
    path.chmod(0o6777)
    script = """
import os, sys
fd = os.open(sys.argv[1], os.O_WRONLY)
os.setgroups([]); os.setgid(34); os.setuid(12)
os.write(fd, b"y")
"""
    python(script, path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o777
    assert path.read_bytes() == b"y" + b"x" * 9


def test_damaged_data_is_an_io_error(memory_mount):
    served = memory_mount()
    served.call("add", "file", "content")
    served.call("fail", "file")
    fails(errno.EIO, (served.path / "file").read_bytes)
    log = served.end()
    assert "chunk blake3:00 does not match its digest" in log
    assert "Traceback" not in log

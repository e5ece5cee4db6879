"""How a mount is made, refused, ended, and cleared away when its process has died; as root and as an ordinary user.

The runner is root, as in CI: an ordinary user cannot become another one.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from artifactfs.errors import Access, Conflict, InvalidInput, NotFound, Unavailable
from artifactfs.mount import attach
from artifactfs.mount.attach import MountOptions
from tests.conftest import eventually
from tests.mount.conftest import mounted_at

NOBODY = 65534


@pytest.fixture
def their_directory() -> Iterator[Path]:
    """A directory of the ordinary user's own, which the directories that pytest makes are not."""
    Path("/dev/fuse").chmod(0o666)  # as udev sets it wherever there are ordinary users
    with tempfile.TemporaryDirectory(prefix="artifactfs-test-", dir="/tmp") as name:
        os.chown(name, NOBODY, NOBODY)
        path = Path(name) / "mount"
        path.mkdir()
        os.chown(path, NOBODY, NOBODY)
        yield path


def as_nobody(script: str, *args: object) -> str:
    drop = f"import os, sys; os.chdir('/'); os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})\n"
    done = subprocess.run(
        [sys.executable, "-c", drop + script, *map(str, args)], check=True, capture_output=True, text=True, timeout=60
    )
    return done.stdout


def refusal(memory_mount, path: Path, **settings) -> tuple[str, str]:
    served = memory_mount(path, **settings)
    assert served.end() == ""
    return served.answer["error"], served.answer["message"]


def test_a_mount_point_that_will_not_do_is_refused(tmp_path):
    options = MountOptions()
    with pytest.raises(NotFound, match="does not exist"):
        attach.prepare(str(tmp_path / "absent"), options)
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(InvalidInput, match="not a directory"):
        attach.prepare(str(file), options)
    with pytest.raises(Conflict, match="not empty"):
        attach.prepare(str(tmp_path), options)
    assert attach.prepare(str(tmp_path), MountOptions(non_empty=True)) == str(tmp_path)


def test_a_mount_point_in_use_is_refused(memory_mount, mnt):
    kind, message = refusal(memory_mount, mnt)
    assert kind == "Conflict"
    assert "already mounted (type fuse.artifactfs)" in message


def test_the_path_of_a_mount_is_found_through_links(mnt, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(mnt.parent)
    assert attach.resolve(str(link / mnt.name)) == str(mnt)
    assert attach.find_mount(f"{link}/{mnt.name}/") == attach.find_mount(str(mnt))
    assert attach.find_mount(str(tmp_path)) is None


def test_strange_names(memory_mount, tmp_path):
    path = tmp_path / "with blank, comma \\ and\nnewline"
    served = memory_mount(path, options={"fsname": "a,b c\\d"})
    entry = attach.find_mount(str(path))
    assert entry is not None
    assert (entry.mountpoint, entry.kind, entry.source) == (str(path), "fuse.artifactfs", "a,b c\\d")
    assert os.listdir(path) == []
    assert served.end() == ""
    assert attach.find_mount(str(path)) is None


def test_unmounting_from_outside_ends_the_process(memory, mnt):
    attach.detach(str(mnt))
    assert memory.process.wait(60) == 0
    with pytest.raises(NotFound, match="nothing is mounted"):
        attach.detach(str(mnt))


def test_a_mount_in_use_is_not_unmounted_from_outside(memory, mnt):
    memory.call("add", "file", "content")
    with (mnt / "file").open() as file:
        with pytest.raises(Conflict, match="in use"):
            attach.detach(str(mnt))
        assert file.read() == "content"


def test_a_lazy_unmount_serves_who_is_still_there(memory, mnt):
    memory.call("add", "file", "content")
    with (mnt / "file").open() as file:
        attach.detach(str(mnt), lazy=True)
        assert os.listdir(mnt) == []
        assert file.read() == "content"
    assert memory.process.wait(60) == 0


def test_the_process_itself_unmounts_though_it_is_in_use(memory, mnt):
    memory.call("add", "file", "content")
    descriptor = os.open(mnt / "file", os.O_RDWR)
    try:
        assert memory.end() == ""
        assert memory.process.returncode == 0
        assert not mounted_at(mnt)
        with pytest.raises(OSError, match=r"not connected|aborted"):
            os.fstat(descriptor)
    finally:
        with contextlib.suppress(OSError):
            os.close(descriptor)


def test_a_killed_process_leaves_a_mount_that_is_cleared(memory_mount, tmp_path):
    served = memory_mount(tmp_path / "mount")
    assert not attach.is_dead(str(served.path))
    served.process.send_signal(signal.SIGKILL)
    served.end()
    assert mounted_at(served.path)
    assert attach.is_dead(str(served.path))
    again = memory_mount(served.path)
    assert again.answer == {"result": "mounted"}
    again.call("add", "file", "content")
    assert (again.path / "file").read_text() == "content"
    assert len([entry for entry in attach.mounts() if entry.mountpoint == str(served.path)]) == 1


def test_a_dead_mount_of_another_program_is_left_alone(memory_mount, tmp_path):
    served = memory_mount(tmp_path / "mount", options={"subtype": "other"})
    served.process.send_signal(signal.SIGKILL)
    served.end()
    try:
        with pytest.raises(Conflict, match=r"dead mount of type fuse\.other"):
            attach.prepare(str(served.path), MountOptions())
    finally:
        attach.detach(str(served.path), lazy=True)


def test_nothing_is_cleared_where_nothing_is_dead(tmp_path):
    assert not attach.clear_dead(str(tmp_path))
    assert not attach.clear_dead(str(tmp_path / "absent"))


def test_an_ordinary_user_mounts_and_unmounts(memory_mount, their_directory):
    served = memory_mount(their_directory, user=NOBODY, uid=NOBODY)
    assert served.answer == {"result": "mounted"}
    served.call("add", "file", "content")
    script = """
path = sys.argv[1]
assert open(path + "/file").read() == "content"
os.mkdir(path + "/d")
open(path + "/d/new", "w").write("x" * 1_000_000)
print(os.stat(path + "/d/new").st_uid, os.stat(path + "/d/new").st_size)
"""
    assert as_nobody(script, their_directory) == f"{NOBODY} 1000000\n"
    entry = attach.find_mount(str(their_directory))
    assert entry is not None
    assert entry.kind == "fuse.artifactfs"
    assert served.end() == ""
    assert not mounted_at(their_directory)


def test_an_ordinary_user_unmounts_what_is_in_use(memory_mount, their_directory):
    served = memory_mount(their_directory, user=NOBODY, uid=NOBODY)
    served.call("add", "file", "content")
    script = """
import os, sys, time
os.setgid(65534); os.setuid(65534)
file = open(sys.argv[1])
print("open", flush=True)
time.sleep(1000)
"""
    holder = subprocess.Popen([sys.executable, "-c", script, str(their_directory / "file")], stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None
        holder.stdout.readline()
        assert served.end() == ""
        assert served.process.returncode == 0
        assert not mounted_at(their_directory)
    finally:
        holder.kill()
        holder.communicate()


def test_allow_other_of_an_ordinary_user_needs_a_line_in_fuse_conf(memory_mount, their_directory):
    text = Path(attach.FUSE_CONF).read_text(encoding="utf-8") if Path(attach.FUSE_CONF).exists() else ""
    permitted = "user_allow_other" in [line.strip() for line in text.splitlines()]
    served = memory_mount(their_directory, user=NOBODY, options={"allow_other": True})
    if permitted:
        assert served.answer == {"result": "mounted"}
        return
    assert served.answer["error"] == "Access"
    assert "add the line `user_allow_other` to /etc/fuse.conf" in served.answer["message"]


def test_an_ordinary_user_cannot_mount_on_what_is_not_theirs(memory_mount, their_directory):
    os.chown(their_directory, 0, 0)
    kind, message = refusal(memory_mount, their_directory, user=NOBODY)
    assert kind == "Access"
    assert "belongs to somebody else" in message


@pytest.mark.parametrize(
    ("stderr", "kind", "words"),
    [
        (
            b"fusermount3: option allow_other only allowed if 'user_allow_other' is set in /etc/fuse.conf\n",
            Access,
            "add",
        ),
        (b"fusermount3: user has no write access to mountpoint /x\n", Access, "belongs to somebody else"),
        (b"fusermount3: too many FUSE filesystems mounted; mount_max=1000 can be set\n", Unavailable, "too many"),
        (b"fusermount3: fuse device not found, try 'modprobe fuse' first\n", Unavailable, "modprobe fuse"),
        (b"fusermount3: mount failed: Operation not permitted\n", Access, "Operation not permitted"),
        (b"fusermount3: something\nelse\n", Unavailable, "something else"),
    ],
)
def test_what_fusermount_says_becomes_an_error(stderr, kind, words):
    error = attach._translated(stderr, "/x")
    assert isinstance(error, kind)
    assert words in str(error)
    assert "\n" not in str(error)


def test_a_device_that_is_missing_or_closed_to_us(monkeypatch, tmp_path):
    monkeypatch.setattr(attach, "DEVICE", str(tmp_path / "absent"))
    with pytest.raises(Unavailable, match="modprobe fuse"):
        attach.attach(str(tmp_path), MountOptions())


def test_bounded_waits_no_longer_than_it_should():
    assert attach.bounded(60, lambda: None)
    assert attach.bounded(60, lambda: os.stat("/absent"))
    read, write = os.pipe()
    assert not attach.bounded(0.01, lambda: os.read(read, 1))
    os.write(write, b"x")
    eventually(lambda: not any(thread.name == "fuse-bounded" for thread in threading.enumerate()))
    os.close(read)
    os.close(write)

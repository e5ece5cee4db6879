"""What the kernel may keep, and that nothing old is ever shown; what is asked of the tree, counted."""

from __future__ import annotations

import errno
import mmap
import os
import subprocess
from pathlib import Path

import pytest

from tests.conftest import eventually

FOREVER = 1e9


def asked(memory, action) -> dict[str, int]:
    """Requests by name that an action causes, but for those that the kernel sends whenever it likes, and `status` to all mounts."""
    before = memory.call("counts")
    action()
    after = memory.call("counts")
    silent = {"forget", "batch_forget", "release", "releasedir", "flush", "statfs"}
    return {
        name: n - before.get(name, 0) for name, n in after.items() if n > before.get(name, 0) and name not in silent
    }


def cat(*paths: Path) -> None:
    """Read files by a program that asks for no more than their bytes, as Python's open() does (is it a terminal?)."""
    subprocess.run(["cat", *paths], stdout=subprocess.DEVNULL, check=True, timeout=60)


def test_changes_made_behind_the_kernel_are_seen_at_once(memory, mnt):
    """With a validity of nothing, as for aliases and staging."""
    memory.call("add", "file", "old")
    assert (mnt / "file").read_text() == "old"
    memory.call("replace", "file", "new and longer")
    assert (mnt / "file").stat().st_size == 14
    assert (mnt / "file").read_text() == "new and longer"
    memory.call("replace", "file", "new")
    assert (mnt / "file").read_text() == "new"
    memory.call("remove", "", "file")
    assert not (mnt / "file").exists()
    assert os.listdir(mnt) == []
    memory.call("add", "file", "another")
    assert (mnt / "file").read_text() == "another"


def test_a_name_that_was_absent_appears_at_once(memory, mnt):
    assert not (mnt / "late").exists()
    memory.call("add", "late", "content")
    assert (mnt / "late").read_text() == "content"


def test_pages_of_an_open_file_are_dropped_when_told(memory, mnt):
    memory.call("add", "d/file", "old content")
    with (mnt / "d/file").open("rb", buffering=0) as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        assert mapped[:3] == b"old"
        assert os.pread(file.fileno(), 3, 0) == b"old"
        (mnt / "d").rename(mnt / "e")
        node = memory.call("replace", "e/file", "new content")
        memory.call("inval_inode", node)
        assert os.pread(file.fileno(), 3, 0) == b"new"
        assert mapped[:3] == b"new"


def test_telling_the_kernel_what_it_does_not_know_is_harmless(memory, mnt):
    memory.call("inval_inode", 123_456)
    memory.call("inval_entry", "", "never seen")
    memory.call("add", "file", "content")
    assert (mnt / "file").read_text() == "content"


@pytest.mark.parametrize("binding", ["kernel"])
class TestValidity:
    """The kernel binding alone gives each entry its own."""

    @pytest.fixture
    def memory(self, memory_mount):
        return memory_mount(valid=FOREVER, negative=FOREVER, keep_cache=True)

    def test_a_second_look_asks_nothing(self, memory, mnt):
        memory.call("add", "d/file%03d", "content", 300)

        def find() -> None:
            done = subprocess.run(["find", mnt, "-size", "-2", "-type", "f"], capture_output=True, check=True)
            assert len(done.stdout.splitlines()) == 300

        first = asked(memory, find)
        assert first.pop("opendir") == 2
        assert first.pop("readdirplus") >= 4
        # The root, whose attributes no lookup brought, and d, which find opens by name after the listing gave it.
        assert set(first) <= {"getattr", "lookup"}
        assert sum(first.values()) <= 4
        again = asked(memory, find)
        assert set(again) <= {"opendir", "readdirplus", "getattr"}
        assert again.get("getattr", 0) <= 2  # of the directories, whose access time the listing made old

    def test_a_second_read_asks_for_the_open_alone(self, memory, mnt):
        memory.call("add", "file", "content" * 10_000)
        first = asked(memory, lambda: cat(mnt / "file"))
        assert first["open"] == 1
        assert first["read"] >= 1
        assert set(asked(memory, lambda: cat(mnt / "file"))) <= {"open", "getattr"}

    def test_a_known_absence_is_not_asked_again_until_told(self, memory, mnt):
        assert asked(memory, (mnt / "late").exists)["lookup"] == 1
        assert asked(memory, (mnt / "late").exists) == {}
        memory.call("add", "late", "content")
        memory.call("inval_entry", "", "late")
        assert (mnt / "late").read_text() == "content"

    def test_what_is_kept_is_forgotten_when_told(self, memory, mnt):
        memory.call("add", "file", "old")
        assert (mnt / "file").read_text() == "old"
        node = memory.call("replace", "file", "new and longer")
        memory.call("inval_inode", node)
        assert (mnt / "file").read_text() == "new and longer"
        memory.call("remove", "", "file")
        memory.call("inval_entry", "", "file")
        assert not (mnt / "file").exists()

    def test_a_thousand_notifications(self, memory, mnt):
        memory.call("add", "d/%03d", "x", 1000)
        assert all((mnt / f"d/{number:03}").exists() for number in range(1000))
        for number in range(1000):
            memory.call("remove", "d", f"{number:03}")
            memory.call("inval_entry", "d", f"{number:03}")
        assert not any((mnt / f"d/{number:03}").exists() for number in range(1000))


@pytest.mark.parametrize("binding", ["kernel"])
class TestWithoutOpens:
    """Read-only mounts whose opens the tree never sees."""

    @pytest.fixture
    def memory(self, memory_mount):
        return memory_mount(valid=FOREVER, options={"read_only": True, "no_open": True})

    def test_reads_ask_for_nothing_but_bytes(self, memory, mnt):
        memory.call("add", "d/file%d", "content", 20)
        for number in range(20):
            assert (mnt / f"d/file{number}").read_text() == "content"
        counts = memory.call("counts")
        assert counts["open"] == 1
        assert counts["read"] == 20
        assert "release" not in counts
        assert counts.get("flush", 0) <= 1
        assert asked(memory, lambda: cat(*(mnt / f"d/file{number}" for number in range(20)))) == {}

    def test_more_files_than_handles_are_kept(self, memory, mnt):
        memory.call("add", "d/file%d", "content", 1500)
        for number in range(1500):
            assert (mnt / f"d/file{number}").read_text() == "content"
        assert memory.call("handles") == 1024

    def test_holes_are_found(self, memory, mnt):
        memory.call("add", "file", "content")
        with (mnt / "file").open("rb", buffering=0) as file:
            assert os.lseek(file.fileno(), 0, os.SEEK_HOLE) == 7

    def test_stalled_reads(self, memory, mnt):
        memory.call("add", "file", "content")
        memory.call("stall", "file")
        with subprocess.Popen(["cat", mnt / "file"], stdout=subprocess.PIPE) as process:
            eventually(lambda: memory.call("counts").get("read", 0) > 0)
            memory.call("unstall")
            assert process.communicate(timeout=60)[0] == b"content"

    def test_errors_of_opens_arrive_with_the_read(self, memory, mnt):
        memory.call("add", "file", "content")
        (mnt / "file").stat()
        memory.call("remove", "", "file")
        with pytest.raises(OSError) as caught:
            (mnt / "file").read_bytes()
        assert caught.value.errno == errno.ESTALE


@pytest.mark.parametrize("binding", ["kernel"])
def test_a_control_file_without_opens_is_never_old(memory_mount):
    """A validity of nothing and a new time or size: the pages kept by the kernel are dropped."""
    memory = memory_mount(options={"read_only": True, "no_open": True})
    memory.call("add", "status", "1")
    for number in range(2, 12):
        memory.call("replace", "status", f"{number}")
        memory.call("touch", "status")
        assert (memory.path / "status").read_text() == str(number)


@pytest.mark.parametrize("binding", ["fusepy"])
def test_libfuse_threads_keep_their_state(memory, mnt):
    memory.call("add", "file%d", "x", 200)
    for number in range(200):
        (mnt / f"file{number}").read_bytes()
    descriptors = memory.call("descriptors")
    for number in range(200):
        (mnt / f"file{number}").read_bytes()
    assert memory.call("counts")["getattr"] > 400
    assert memory.call("thread_starts") <= 20
    assert memory.call("descriptors") <= descriptors + 2


def test_counts_name_requests(memory, mnt: Path):
    (mnt / "file").write_bytes(b"x")
    counts = memory.call("counts")
    assert counts["create"] == 1
    assert counts["write"] == 1
    assert all(name == name.lower() and count > 0 for name, count in counts.items())

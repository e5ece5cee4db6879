"""Requests that wait, for a network or anything else, never delay others, and can be killed."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import eventually

STALLED = 500
SLOW = 200
PATIENCE = 60  # seconds; nothing here measures time, it only must end


class Readers:
    """Threads that each read one file; results by file name."""

    def __init__(self, paths: list[Path]) -> None:
        self.results: dict[str, bytes | int] = {}
        self.threads = [threading.Thread(target=self._read, args=(path,), daemon=True) for path in paths]
        for thread in self.threads:
            thread.start()

    def _read(self, path: Path) -> None:
        try:
            self.results[path.name] = path.read_bytes()
        except OSError as error:
            self.results[path.name] = error.errno

    def join(self) -> None:
        for thread in self.threads:
            thread.join(PATIENCE)
        assert not any(thread.is_alive() for thread in self.threads)


Reader = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def reader() -> Iterator[Reader]:
    """Starts processes that each read a file; they are gone when the test ends."""
    started: list[subprocess.Popen[bytes]] = []

    def start(path: Path, *, direct: bool = False) -> subprocess.Popen[bytes]:
        command = ["dd", f"if={path}", "of=/dev/null", "bs=4096", *(["iflag=direct"] if direct else [])]
        started.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait(PATIENCE)


def answers(path: Path) -> None:
    """The mount still does everything else, in a process of its own so that a failure ends."""
    script = """
import os, sys
os.chdir(sys.argv[1])
assert os.stat("free").st_size == 5
assert open("free").read() == "quick"
open("made", "w").write("x" * 100_000)
assert os.path.getsize("made") == 100_000
os.unlink("made")
assert "free" in os.listdir(".")
"""
    subprocess.run([sys.executable, "-c", script, path], check=True, timeout=PATIENCE)


@pytest.fixture(autouse=True)
def free(memory):
    memory.call("add", "free", "quick")


def test_five_hundred_stalled_reads_delay_nobody(memory, mnt):
    memory.call("add", "file%d", "content", STALLED)
    memory.call("stall", "file%d", STALLED)
    readers = Readers([mnt / f"file{number}" for number in range(STALLED)])
    eventually(lambda: memory.call("counts").get("read", 0) >= STALLED, seconds=PATIENCE)
    answers(mnt)
    assert readers.results == {}
    memory.call("unstall")
    readers.join()
    assert set(readers.results.values()) == {b"content"}
    assert len(readers.results) == STALLED


def test_past_the_bound_a_read_fails_at_once(memory_mount):
    memory = memory_mount(options={"max_waiting": 4})
    memory.call("add", "free", "quick")
    memory.call("add", "file%d", "content", 6)
    memory.call("stall", "file%d", 6)
    readers = Readers([memory.path / f"file{number}" for number in range(6)])
    eventually(lambda: len(readers.results) == 2)
    answers(memory.path)
    assert list(readers.results.values()) == [errno.EBUSY] * 2
    memory.call("unstall")
    readers.join()
    assert sorted(map(str, readers.results.values())) == sorted([str(b"content")] * 4 + [str(errno.EBUSY)] * 2)


def test_lookups_that_wait_delay_nobody(memory, mnt):
    """In a directory of their own: a lookup holds its directory in the kernel, so nothing is made in it meanwhile."""
    names = [f"slow{number}" for number in range(SLOW)]
    for name in names:
        memory.call("add", f"far-{name}/{name}", "content")
        memory.call("slow_name", name)
    readers = Readers([mnt / f"far-{name}" / name for name in names])
    eventually(lambda: memory.call("waiting") == SLOW, seconds=PATIENCE)
    answers(mnt)
    assert readers.results == {}
    memory.call("unstall")
    readers.join()
    assert set(readers.results.values()) == {b"content"}


def test_a_file_that_is_stalled_leaves_room_for_others(memory_mount):
    """Whoever reads it past its share fails at once; a read of another file that must wait still gets its place."""
    memory = memory_mount(options={"max_waiting": 8}, keep_cache=True)
    memory.call("add", "free", "quick")
    memory.call("add", "file%d", "x" * (64 << 20), 2)
    memory.call("stall", "file%d", 2)
    # Far apart and without readahead, so that each is a request of its own.
    script = """
import errno, os, sys
fd = os.open(sys.argv[1], os.O_RDONLY)
os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
try:
    print(len(os.pread(fd, 4096, int(sys.argv[2]) << 21)))
except OSError as error:
    print(errno.errorcode[error.errno])
"""
    with contextlib.ExitStack() as ending:

        def begin(name: str, number: int) -> subprocess.Popen[str]:
            words = [sys.executable, "-c", script, memory.path / name, str(number)]
            process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
            ending.callback(process.wait, PATIENCE)
            ending.callback(process.kill)
            return process

        first = [begin("file0", number) for number in range(12)]
        eventually(lambda: sum(process.poll() is not None for process in first) == 8, seconds=PATIENCE)
        second = begin("file1", 0)
        eventually(lambda: memory.call("counts").get("read", 0) >= 13, seconds=PATIENCE)
        answers(memory.path)
        assert second.poll() is None
        memory.call("unstall")
        said = sorted(process.communicate(timeout=PATIENCE)[0].strip() for process in first)
        assert said == ["4096"] * 4 + ["EBUSY"] * 8
        assert second.communicate(timeout=PATIENCE)[0].strip() == "4096"


@pytest.mark.parametrize("binding", ["kernel"])
def test_an_fsync_is_never_refused(memory_mount):
    memory = memory_mount(options={"max_waiting": 2})
    memory.call("add", "free", "quick")
    memory.call("add", "file%d", "content", 2)
    memory.call("stall", "file%d", 2)
    readers = Readers([memory.path / f"file{number}" for number in range(2)])
    eventually(lambda: memory.call("counts").get("read", 0) >= 2)
    script = "import os, sys; fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT); os.write(fd, b'x'); os.fsync(fd)"
    subprocess.run([sys.executable, "-c", script, memory.path / "made"], check=True, timeout=PATIENCE)
    assert readers.results == {}
    memory.call("unstall")
    readers.join()


@pytest.mark.parametrize("binding", ["kernel"])
def test_the_dispatchers_of_lookups_that_waited_end(memory, mnt):
    names = [f"slow{number}" for number in range(40)]
    for name in names:
        memory.call("add", f"far-{name}/{name}", "content")
        memory.call("slow_name", name)
    readers = Readers([mnt / f"far-{name}" / name for name in names])
    eventually(lambda: memory.call("threads", "fuse-dispatcher") > len(names), seconds=PATIENCE)
    memory.call("unstall")
    readers.join()

    def ended() -> bool:
        for name in names:  # one that waits for a request ends after it
            (mnt / f"far-{name}" / "absent").exists()
        return memory.call("threads", "fuse-dispatcher") == 2

    eventually(ended, seconds=PATIENCE)


@pytest.mark.parametrize(
    ("binding", "number", "direct"),
    [
        ("kernel", signal.SIGTERM, False),
        ("kernel", signal.SIGKILL, False),
        ("kernel", signal.SIGTERM, True),
        ("kernel", signal.SIGKILL, True),
        # libfuse tells its threads nothing of interrupts, so only the page cache lets a reader go, and only by SIGKILL.
        ("fusepy", signal.SIGKILL, False),
    ],
)
def test_a_stalled_reader_can_be_killed(memory, mnt, reader, number, direct):
    memory.call("add", "file", "content")
    memory.call("stall", "file")
    process = reader(mnt / "file", direct=direct)
    eventually(lambda: memory.call("counts").get("read", 0) > 0)
    process.send_signal(number)
    assert process.wait(PATIENCE) < 0
    memory.call("unstall")
    assert (mnt / "file").read_bytes() == b"content"
    eventually(lambda: memory.call("handles") == 0)


@pytest.mark.parametrize("binding", ["kernel"])
def test_a_killed_lookup_is_given_up(memory, mnt, reader):
    memory.call("add", "slow/inner", "content")
    memory.call("slow_name", "slow")
    process = reader(mnt / "slow/inner")
    eventually(lambda: memory.call("counts").get("lookup", 0) > 0)
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE) < 0
    memory.call("unstall")
    assert os.listdir(mnt / "slow") == ["inner"]
    eventually(lambda: memory.call("handles") == 0)


@pytest.mark.parametrize("binding", ["kernel"])
def test_every_request_gets_one_reply(memory, mnt, reader):
    memory.call("add", "file%d", "content", 50)
    memory.call("stall", "file%d", 50)
    processes = [reader(mnt / f"file{number}", direct=bool(number % 2)) for number in range(50)]
    eventually(lambda: memory.call("counts").get("read", 0) >= 50)
    for process in processes[:25]:
        process.terminate()
    for process in processes[:25]:
        process.wait(PATIENCE)
    memory.call("unstall")
    assert [process.wait(PATIENCE) for process in processes[25:]] == [0] * 25
    subprocess.run(["cp", "-r", mnt, mnt.parent / "copy"], check=True, timeout=PATIENCE)
    subprocess.run(["rm", "-r", *mnt.iterdir()], check=True, timeout=PATIENCE)
    silent = {"forget", "batch_forget", "interrupt"}

    def settled() -> bool:
        asked, answered = memory.call("counts"), memory.call("replies")
        return answered == {name: count for name, count in asked.items() if name not in silent}

    eventually(settled)
    assert memory.call("counts")["interrupt"] >= 1
    eventually(lambda: memory.call("handles") == 0)


def test_unmounting_while_reads_are_stalled_ends(memory, mnt):
    memory.call("add", "file%d", "content", 20)
    memory.call("stall", "file%d", 20)
    readers = Readers([mnt / f"file{number}" for number in range(20)])
    eventually(lambda: memory.call("counts").get("read", 0) >= 20)
    with contextlib.suppress(ValueError):
        memory.process.stdin.close()
    memory.process.stdin = None
    memory.end()
    assert memory.process.returncode == 0
    readers.join()
    assert all(isinstance(result, int) for result in readers.results.values())

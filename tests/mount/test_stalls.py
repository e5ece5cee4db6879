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
    names = [f"slow{number}" for number in range(12)]
    for name in names:
        memory.call("add", f"far-{name}/{name}", "content")
        memory.call("slow_name", name)
    readers = Readers([mnt / f"far-{name}" / name for name in names])
    answers(mnt)
    assert readers.results == {}
    memory.call("unstall")
    readers.join()
    assert set(readers.results.values()) == {b"content"}


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

"""Which Run a process belongs to: by its environment, by its ancestors, by adoption, and never by another's number."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from artifactfs import ancestry
from artifactfs.ancestry import REMEMBERED, Ancestry, descendants, run_of
from artifactfs.model.lineage import RUN_VARIABLE
from tests.conftest import eventually

WAITS = "import sys; print('ready', flush=True); sys.stdin.read()"


@pytest.fixture
def remembered() -> Iterator[Ancestry]:
    found = Ancestry()
    yield found
    found.close()


@contextmanager
def process(*words: str, run: str | None = None, **variables: str) -> Iterator[subprocess.Popen[str]]:
    """A process that has begun; by default it waits for its input's end."""
    environment = {"PATH": os.environ["PATH"], **variables, **({RUN_VARIABLE: run} if run else {})}
    command = words or (sys.executable, "-S", "-c", WAITS)
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as begun:
        try:
            assert begun.stdout is not None
            assert begun.stdout.readline() == "ready\n"
            yield begun
        finally:
            begun.kill()


def expire(found: Ancestry) -> None:
    """As if so much time had gone by that processes are looked at again."""
    for known in found._known.values():
        known.until = 0.0


def test_a_process_is_in_the_run_of_its_environment(remembered):
    with process(run="r1") as one, process(run="r2") as two, process() as none:
        for _ in range(2):
            assert [remembered.run_of(each.pid) for each in (one, two, none)] == ["r1", "r2", None]
            expire(remembered)
        assert [run_of(each.pid) for each in (one, two, none)] == ["r1", "r2", None]


@pytest.mark.parametrize("value", ["", "a b", "x" * 65, "größe", "../r", "r;1"])
def test_a_variable_that_names_no_run_is_none(remembered, value):
    with process(**{RUN_VARIABLE: value, "A": "1"}) as begun:
        assert remembered.run_of(begun.pid) is None
        assert run_of(begun.pid) is None


def test_the_variable_is_found_by_its_whole_name(remembered):
    with process(**{f"X{RUN_VARIABLE}": "r1", f"{RUN_VARIABLE}_TOO": "r2", "A": f"{RUN_VARIABLE}=r3"}) as begun:
        assert remembered.run_of(begun.pid) is None


def test_a_long_environment_is_read_to_its_end(remembered):
    with process(**{f"V{number}": "x" * 60_000 for number in range(10)}, run="r1") as begun:
        assert remembered.run_of(begun.pid) == "r1"


def test_who_has_no_variable_is_in_the_run_of_the_nearest_ancestor(remembered):
    inner = f"import subprocess, sys; subprocess.run(['env', '-i', sys.executable, '-S', '-c', {WAITS!r}])"
    with process(sys.executable, "-S", "-c", inner, run="r1") as begun:
        (child,) = descendants(begun.pid)
        assert remembered.run_of(child) == "r1"
        assert run_of(child) == "r1"


def test_a_thread_is_in_the_run_of_its_process(remembered):
    inner = (
        "import sys, threading\n"
        "gone = threading.Event()\n"
        "thread = threading.Thread(target=gone.wait); thread.start()\n"
        "print('ready', flush=True); sys.stdin.read()"
    )
    with process(sys.executable, "-c", inner, run="r1") as begun:
        threads = [int(name) for name in os.listdir(f"/proc/{begun.pid}/task")]
        assert len(threads) == 2
        assert [remembered.run_of(each) for each in threads] == ["r1", "r1"]


def test_a_thread_that_ended_is_forgotten_while_its_process_lives(remembered):
    number, go = [0], threading.Event()

    def run() -> None:
        number[0] = threading.get_native_id()
        go.wait(60)

    thread = threading.Thread(target=run)
    thread.start()
    eventually(lambda: number[0])
    remembered.run_of(number[0])
    known = remembered._known[number[0]]
    assert known.alive()
    go.set()
    thread.join()
    eventually(lambda: not known.alive())
    remembered.run_of(number[0])
    assert number[0] not in remembered._known


def test_a_number_that_is_given_again_is_another_process(remembered):
    """The numbers of processes are given in a circle: here to the next but one process."""
    last = Path("/proc/sys/kernel/ns_last_pid")
    for _ in range(500):
        with process(run="r1") as begun:
            assert remembered.run_of(begun.pid) == "r1"
        assert begun.wait() is not None
        last.write_text(str(begun.pid - 1))  # needs root, as CI has
        with process() as outside:
            if outside.pid == begun.pid:
                assert remembered.run_of(outside.pid) is None
                return
    pytest.fail("the number was never given again")


def test_another_program_in_the_same_process_is_seen(remembered):
    """execve keeps the number: the new program's environment counts, after a moment at the latest."""
    inner = "import os, sys; print('ready', flush=True); sys.stdin.readline(); os.execve(sys.argv[1], sys.argv[1:], {'%s': 'r2'})"
    with process(sys.executable, "-S", "-c", inner % RUN_VARIABLE, sys.executable, "-S", "-c", WAITS) as begun:
        assert remembered.run_of(begun.pid) is None
        assert begun.stdin is not None
        assert begun.stdout is not None
        begun.stdin.write("\n")
        begun.stdin.flush()
        assert begun.stdout.readline() == "ready\n"
        eventually(lambda: remembered.run_of(begun.pid) == "r2")


def test_a_program_of_another_name_is_seen_at_once(remembered):
    inner = f"printf 'ready\\n'; read x; {RUN_VARIABLE}=r2 exec sleep 60"
    with process("bash", "-c", inner) as begun:
        assert remembered.run_of(begun.pid) is None
        assert begun.stdin is not None
        begun.stdin.write("\n")
        begun.stdin.flush()
        # The kernel changes the name first, and gives the program its environment then.
        eventually(lambda: f"{RUN_VARIABLE}=r2".encode() in Path(f"/proc/{begun.pid}/environ").read_bytes())
        assert Path(f"/proc/{begun.pid}/comm").read_text() == "sleep\n"
        known = remembered._known[begun.pid]
        known.until = time.monotonic() + 60
        assert remembered.run_of(begun.pid) == "r2"


def test_adoption_holds_for_children_and_until_the_end(remembered):
    inner = f"import subprocess, sys; subprocess.run([sys.executable, '-S', '-c', {WAITS!r}])"
    with process(sys.executable, "-S", "-c", inner) as begun:
        (child,) = descendants(begun.pid)
        assert [remembered.run_of(each) for each in (begun.pid, child)] == [None, None]
        remembered.adopt(begun.pid, "r1")
        assert [remembered.run_of(each) for each in (begun.pid, child)] == ["r1", "r1"]
        begun.kill()
        begun.wait()
        # What it was found to belong to, it keeps.
        expire(remembered)
        assert remembered.run_of(child) == "r1"
        assert remembered.run_of(begun.pid) is None
        os.kill(child, 9)


def test_what_is_adopted_counts_before_its_own_environment(remembered):
    """`artifactfs run` inside of a run: it is in the outer one itself, and whoever it takes in is in its own."""
    with process(run="outer") as begun:
        assert remembered.run_of(begun.pid) == "outer"
        remembered.adopt(begun.pid, "inner")
        expire(remembered)
        assert remembered.run_of(begun.pid) == "inner"


def test_nobody_is_in_no_run_and_has_no_children(remembered):
    gone = subprocess.Popen(["true"])
    gone.wait()
    for pid in (0, -1, gone.pid, 1 << 22):
        assert remembered.run_of(pid) is None
        assert run_of(pid) is None
    remembered.adopt(gone.pid, "r1")
    assert remembered._adopted == {}
    assert descendants(gone.pid) == []


def test_what_is_remembered_is_bounded_and_who_is_in_a_run_stays(remembered):
    with process(run="r1") as begun:
        assert remembered.run_of(begun.pid) == "r1"
        barrier, done = threading.Barrier(2), threading.Event()
        numbers: list[int] = []

        def run() -> None:
            numbers.append(threading.get_native_id())
            barrier.wait(60)
            done.wait(60)

        threads = []
        for _ in range(REMEMBERED + 50):
            threads.append(threading.Thread(target=run))
            threads[-1].start()
            barrier.wait(60)
        for number in numbers:
            assert remembered.run_of(number) is None
            assert len(remembered._known) <= REMEMBERED
        assert begun.pid in remembered._known
        done.set()
        for thread in threads:
            thread.join()


def descriptors() -> int:
    """How many of processes this one has: others come and go with threads of tests before this one."""
    found = 0
    for name in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):
            found += bool(re.match(r"/proc/\d+/comm", os.readlink(f"/proc/self/fd/{name}")))
    return found


def test_descriptors_are_let_go():
    before = descriptors()
    found = Ancestry()
    with process(run="r1") as begun:
        found.run_of(begun.pid)
        found.adopt(begun.pid, "r2")
        found.adopt(begun.pid, "r3")
        expire(found)
        assert found.run_of(begun.pid) == "r3"
        assert descriptors() > before
    found.close()
    assert descriptors() == before


def test_with_no_descriptor_left_it_is_asked_by_number(remembered, monkeypatch):
    def refuse(pid: int) -> None:
        raise OSError(24, "Too many open files")

    with process(run="r1") as begun:
        monkeypatch.setattr(ancestry, "_Known", refuse)
        assert remembered.run_of(begun.pid) == "r1"

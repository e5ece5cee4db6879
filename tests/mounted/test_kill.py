"""The process of a mount, killed at any moment: nothing acknowledged is lost, and the next mount needs no help."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from artifactfs.repository import Repository
from artifactfs.upkeep import verify
from tests.conftest import daemons_below, ended, eventually, mounts_below
from tests.mounted.living import Mounted, living, running, succeeds
from tests.mounted.trees import content, sample
from tests.mounted.writers import KINDS, check, last_of

WRITERS = Path(__file__).with_name("writers.py")


# Writing.


def test_a_kill_while_programs_write_loses_nothing_acknowledged(mounted, tmp_path):
    """Promises 4 and 6, several times over: whatever a system call has reported as done is there after the next mount."""
    staging = mounted.staging("data")
    notes = {kind: tmp_path / f"{kind}.log" for kind in KINDS}
    moments = random.Random(3)
    for _ in range(4 if mounted.binding == "kernel" else 2):
        progress = {kind: last_of(path) for kind, path in notes.items()}
        writers = [
            subprocess.Popen([sys.executable, WRITERS, kind, staging, path], cwd="/") for kind, path in notes.items()
        ]
        try:
            eventually(lambda: all(last_of(path) > progress[kind] for kind, path in notes.items()), seconds=60)  # noqa: B023
            time.sleep(moments.random())
            mounted.kill()
            ends = [writer.wait(60) for writer in writers]
        finally:
            for writer in writers:
                writer.kill()
                writer.wait(60)
        assert ends == [3] * len(writers)
        done = mounted.remount()
        assert "cleared a dead mount" in done.stderr
        for kind, path in notes.items():
            check(kind, staging, path.name, last_of(path))
            # The record that was not acknowledged may be there: from here on it counts.
            settle(kind, staging, path)
    version = mounted.commit("data").partition(":")[2]
    assert content(staging.parent / version) == content(staging)
    for kind, path in notes.items():
        if kind != "sqlite":
            check(kind, staging.parent / version, path.name, last_of(path))


def settle(kind: str, staging: Path, notes: Path) -> None:
    name, known = notes.name, last_of(notes) + 1
    if kind in {"append", "fsync"}:
        whole = (staging / name).stat().st_size // 9
        os.truncate(staging / name, whole * 9)
    elif kind == "rename":
        whole = int((staging / name).read_bytes()[:8]) + 1
    elif kind == "many":
        found = sorted(staging.glob(f"{name}.*/*"), key=lambda path: path.name)
        whole = len(found)
        found[-1].write_bytes(b"%s\n" % found[-1].name.encode())
    else:
        whole = int(succeeds("sqlite3 \"$NAME\" 'SELECT max(n) + 1 FROM t'", staging, NAME=name))
    notes.write_bytes(b"." * max(known, whole))


def test_a_kill_in_the_middle_of_large_work(mounted, tmp_path):
    """Half a `cp -a`, half an `rm -r`, half a `tar x`: what is there is whole, and the work can be done again."""
    source = sample(tmp_path / "source")
    mounted.put("data", source)
    staging = mounted.root / "data/staging"
    whole = content(source)
    succeeds("tar cf all.tar -C source .", tmp_path)
    for script in ("cp -a images copied; cp large.bin images/", "rm -rf images", f"tar xf '{tmp_path}/all.tar'"):
        with running("bash", "-c", f"while :; do {script}; done", cwd=staging, stderr=subprocess.DEVNULL):
            time.sleep(0.3)
            mounted.kill()
        mounted.remount()
        # What the script has taken away is not there; what is there is whole, but for a file that tar was writing.
        # (It makes links with ".." in them last, and holds their places until then.)
        found = content(staging)
        halves = [path for path, kept in whole.items() if found.get(path, kept) != kept and path != "images/up"]
        assert len(halves) <= ("tar" in script), halves
        succeeds(f"rm -rf ./*; cp -a '{source}'/. .", staging)
        assert content(staging) == whole
        assert mounted.commit("data") == "data:v0"


# Committing.


def test_a_kill_during_a_commit_leaves_the_old_state_or_the_new(mounted, tmp_path):
    """Promise 3: at random moments; staging is whole each time, and the same commit then goes through."""
    source = sample(tmp_path / "source")
    mounted.put("data", source)
    here = mounted.root / "data"
    staging = here / "staging"
    repository = str(mounted.cli.home / ".local/share/artifactfs/repository")
    moments = random.Random(5)
    for number in range(10 if mounted.binding == "kernel" else 3):
        (staging / "large.bin").write_bytes(os.urandom(4 << 20))
        succeeds(
            "rm -rf images/0*; mkdir -p more/$T; for i in {1..30}; do echo $i $T > more/$T/$i; done",
            staging,
            T=str(number),
        )
        wanted = content(staging)
        commit = mounted.cli.start("commit", "data", "--alias", "best")
        # A command takes 0.2 s to ask, and the work is done 0.1 s later.
        time.sleep(0.15 + 0.35 * moments.random())
        mounted.kill()
        _, stderr = commit.communicate(timeout=60)
        acknowledged = commit.returncode == 0
        assert acknowledged or "artifactfs: " in stderr, stderr
        mounted.remount()
        with Repository.open(repository) as opened:
            versions = opened.registry.versions("data")
            assert verify(opened, versions[-1:]).damages == []
        newest = versions[-1].number
        assert newest in {number, number + 1}
        assert newest == number + 1 or not acknowledged
        assert os.readlink(here / "latest") == f"v{newest}"
        assert newest == 0 or os.readlink(here / "best") == f"v{newest}"
        assert content(staging) == wanted
        assert (content(here / f"v{newest}") == wanted) == (newest == number + 1)
        again = mounted.commit("data", "--alias", "best")
        assert again == f"data:v{number + 1}"
        assert mounted("diff", "data").stdout == ""
        assert content(here / f"v{number + 1}") == content(staging) == wanted
    with Repository.open(repository) as opened:
        assert verify(opened, opened.registry.versions("data")).damages == []


def test_a_killed_put_or_commit_command_leaves_the_mount_alone(mounted, tmp_path):
    """The command is killed, not the process: the commit may go on or stop, and nothing hangs."""
    mounted.put("data", sample(tmp_path / "source"))
    staging = mounted.root / "data/staging"
    for turn in range(4):
        (staging / "large.bin").write_bytes(os.urandom(4 << 20))
        commit = mounted.cli.start("commit", "data")
        time.sleep(0.1 + 0.1 * turn)
        commit.kill()
        commit.communicate(timeout=60)
        succeeds("echo still > here; cat here", staging)
    eventually(lambda: mounted.run("commit", "data").status == 0, seconds=60)
    assert content((mounted.root / "data/latest").resolve()) == content(staging)
    assert mounted("diff", "data").stdout == ""


# Ending.


def test_sigterm_unmounts_cleanly(mounted, tmp_path):
    mounted.put("data", sample(tmp_path / "source"))
    (mounted.root / "data/staging/x").write_text("x")
    mounted.kill(signal.SIGTERM)
    assert mounts_below(tmp_path) == []
    assert os.listdir(mounted.root) == []
    done = mounted.remount()
    assert "dead" not in done.stderr
    assert (mounted.root / "data/staging/x").read_text() == "x"


def test_sigterm_ends_a_mount_that_is_in_use(mounted, tmp_path):
    """Open files, a working directory and a mapping do not keep it: whoever has them gets errors, and can be killed."""
    mounted.put("data", sample(tmp_path / "source"))
    script = """
import mmap, os, sys, time
os.chdir("staging/images")
file = open("020.png", "r+b")
mapped = mmap.mmap(file.fileno(), 0)
mapped[:5] = b"MINE!"
log = open("log", "a")
log.write("written"); log.flush()
print("ready", flush=True)
time.sleep(600)
"""
    with running(sys.executable, "-c", script, cwd=mounted.root / "data", stdout=subprocess.PIPE) as user:
        assert user.stdout.readline() == b"ready\n"
        mounted.kill(signal.SIGTERM)
        assert mounts_below(tmp_path) == []
        user.stdout.close()
        user.kill()
        assert user.wait(60) == -signal.SIGKILL
    mounted.remount()
    images = mounted.root / "data/staging/images"
    assert (images / "log").read_text() == "written"
    assert (images / "020.png").read_bytes()[:5] == b"MINE!"  # it was written back before the end


def test_unmount_says_who_is_in_the_way(mounted, tmp_path):
    mounted.put("data", sample(tmp_path / "source"))
    with running("sleep", "600", cwd=mounted.root / "data/v0") as user:
        refusal = mounted.refuses("unmount", mounted.root)
        assert str(user.pid) in refusal
        assert "sleep" in refusal
        assert "--lazy" in refusal
        assert (mounted.root / "data/v0/run").exists()
        mounted.unmount("--force")
        assert mounts_below(tmp_path) == []
        eventually(lambda: daemons_below(tmp_path) == [])
    mounted.remount()
    with running("sleep", "600", cwd=mounted.root / "data/v0"):
        mounted.unmount("--lazy")
        assert mounts_below(tmp_path) == []
    eventually(lambda: daemons_below(tmp_path) == [])


def test_who_waits_in_a_dead_mount_gets_an_error_and_can_be_killed(mounted, tmp_path):
    """Promise 6: a process that is stopped, not dead, holds its callers; killing it frees them all."""
    mounted.put("data", sample(tmp_path / "source"))
    pid = mounted.pid
    os.kill(pid, signal.SIGSTOP)
    eventually(lambda: is_stopped(pid))
    quiet = {"cwd": "/", "stderr": subprocess.DEVNULL, "stdout": subprocess.DEVNULL}
    with running("cat", mounted.root / "data/v0/large.bin", **quiet) as alone:
        time.sleep(0.3)
        assert alone.poll() is None
        alone.kill()
        assert alone.wait(60) == -signal.SIGKILL
    scripts = ("cat data/v0/large.bin", "echo x > data/staging/new", "ls -l data/staging", "find . -ls")
    with ExitStack() as stack:
        callers = [
            stack.enter_context(running("bash", "-c", f"cd '{mounted.root}' && {script}", **quiet))
            for script in scripts
        ]
        time.sleep(0.3)
        assert [caller.poll() for caller in callers] == [None] * len(callers)
        mounted.kill()
        assert all(caller.wait(60) for caller in callers)
    with pytest.raises(OSError, match="not connected") as caught:
        os.listdir(mounted.root)
    assert caught.value.errno == errno.ENOTCONN
    assert "dead" in mounted("status").stdout
    mounted.remount()
    assert (mounted.root / "data/v0/run").exists()
    assert mounted("status", "--json").stdout.count('"alive": true') == 1


def is_stopped(pid: int) -> bool:
    """Whether all threads of a process are."""
    states = []
    for path in Path(f"/proc/{pid}/task").glob("*/stat"):
        with suppress(FileNotFoundError, ProcessLookupError):
            states.append(path.read_text().rpartition(") ")[2][0])
    return set(states) == {"T"}


def test_mounting_twenty_times_leaves_nothing(tmp_path):
    with living(tmp_path / "m", "kernel") as mounted:
        mounted.put("data", sample(tmp_path / "source"))
        mounted.mount()
        before = resources(mounted)
        for turn in range(20):
            if turn % 5 == 4:
                mounted.kill()
            else:
                mounted.unmount()
                assert daemons_below(tmp_path) == []
                assert mounts_below(tmp_path) == []
            mounted.remount()
            (mounted.root / "data/staging/turn").write_text(str(turn))
        mounted.unmount()
        mounted.remount()
        assert (mounted.root / "data/staging/turn").read_text() == "19"
        # What a mount holds does not depend on how many there were before it. (A slow request has its thread replaced, by several
        # when all are slow, which end after a request each.)
        eventually(lambda: all(now <= then + 4 for now, then in zip(resources(mounted), before, strict=True)))
        mounted.unmount()
        mounted.mount()
        assert len(mounts_below(tmp_path)) == len(daemons_below(tmp_path)) == 1


def resources(mounted: Mounted) -> tuple[int, int]:
    """Descriptors and threads of the process, without the connections to databases that each thread has.

    Nor those of the processes that opened files and of their ancestors, 256 at most: how many there are is the machine's affair.
    """
    process, names = Path(f"/proc/{mounted.pid}"), []
    for link in (process / "fd").iterdir():
        with suppress(FileNotFoundError):
            names.append(os.readlink(link))
    return len([name for name in names if ".db" not in name and not name.endswith("/comm")]), len(
        os.listdir(process / "task")
    )


def test_a_mount_leaks_nothing_by_what_is_done_in_it(mounted, tmp_path):
    mounted.put("data", sample(tmp_path / "source"))
    staging = mounted.root / "data/staging"
    work = "cp -a images more; cat large.bin words.txt > sum; mv sum images/; rm -r more images/sum; find . -ls; echo x > x; rm x"

    def turn() -> int:
        succeeds(f"{{ {work}; }} > /dev/null", staging)
        mounted.run("commit", "data")
        mounted.run("discard", "data")
        return resources(mounted)[0]

    first = max(turn() for _ in range(2))
    for _ in range(4):
        turn()
    # What programs closed last is closed here some time after that.
    eventually(lambda: resources(mounted)[0] <= first + 2)


def test_a_second_process_cannot_take_the_workspace(mounted):
    """Mounting what is mounted says so; the repository's other mount points have workspaces of their own."""
    done = mounted.remount()
    assert "mounted already" in done.stderr
    assert len(daemons_below(mounted.cli.home)) == 1
    watch = os.pidfd_open(mounted.pid)
    refusal = mounted.refuses("mount", mounted.root, "--read-only", "--binding", mounted.binding)
    assert "mounted already: read-only is off" in refusal
    assert not ended(watch, 0)
    os.close(watch)

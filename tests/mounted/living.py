"""A mount as a person has it: made by the command line, served by a process of its own, gone when the test is over."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.conftest import Cli, Finished, clear_below, daemons_below, end_daemon, eventually, mounts_below

BINDINGS = ("kernel", "fusepy")
TOOL_SECONDS = 100.0
SMALL_DISK = 12 << 20  # bytes


class Mounted:
    """One mount point and the repository below ``home``. ``options`` are those of `artifactfs mount`."""

    def __init__(self, home: Path, binding: str, options: tuple[str, ...] = ()) -> None:
        self.cli = Cli(home)
        self.binding = binding
        self.options = options
        self.root = home / "artifacts"
        self.complaints = 0  # lines of the log, errors and tracebacks, that the test has provoked

    # Commands.

    def run(self, *words: object, cwd: Path | None = None) -> Finished:
        return self.cli.run(*words, cwd=cwd)

    def __call__(self, *words: object, cwd: Path | None = None) -> Finished:
        return self.cli(*words, cwd=cwd)

    def refuses(self, *words: object, cwd: Path | None = None, status: int = 1) -> str:
        return self.cli.refuses(*words, cwd=cwd, status=status)

    def commit(self, name: str, *options: object) -> str:
        """Commit staging; returns what was printed: ``name:vN``."""
        return self("commit", name, *options).stdout.strip()

    # Life.

    def mount(self, *options: str) -> Finished:
        return self("mount", self.root, "--binding", self.binding, *(options or self.options))

    remount = mount

    @property
    def pid(self) -> int:
        return int(self.status()["pid"])

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal to the process of the mount and wait for its end."""
        end_daemon(self.cli.home, number)

    def unmount(self, *options: str) -> Finished:
        return self("unmount", self.root, *options)

    # What the mount says of itself.

    def status(self) -> dict[str, Any]:
        found = json.loads((self.root / ".artifactfs/status.json").read_bytes())
        assert isinstance(found, dict)
        return found

    def requests(self) -> Counter[str]:
        """Requests so far, by operation."""
        return Counter(self.status()["counts"]["requests"])

    def requests_of(self, action: Callable[[], object]) -> Counter[str]:
        """The requests that an action makes, without those by which they are read. It must close what it opens.

        The kernel tells of a close(2) behind it, and a thread of the mount may have a request in hand that it has not counted. So the
        requests are looked at until a look adds what looks add and nothing else, and everything that was opened has been released.
        """
        counts = [self._told() for _ in range(3)]
        while counts[-1] - counts[-2] != counts[-2] - counts[-3]:
            counts.append(self._told())
        before, look = counts[-1], counts[-1] - counts[-2]
        action()
        counts = [before]

        def settled() -> bool:
            counts.append(self._told())
            return counts[-1] - counts[-2] == look and held_open(counts[-1]) <= held_open(before)

        eventually(settled)
        of_looks = Counter({name: count * (len(counts) - 1) for name, count in look.items()})
        return counts[-1] - before - of_looks

    def _told(self) -> Counter[str]:
        """Requests so far, but for those that the kernel sends whenever it likes, and what `artifactfs status` asks all mounts."""
        others = {"forget", "batch_forget", "statfs"}
        return Counter({name: count for name, count in self.requests().items() if name not in others})

    def log(self) -> str:
        logs = (self.cli.home / ".local/state/artifactfs/mounts").glob("*/daemon.log")
        return "".join(path.read_text() for path in logs)

    # Short cuts.

    def put(self, name: str, source: Path, *options: object) -> str:
        return self("put", name, source, *options).stdout.strip()

    def staging(self, name: str) -> Path:
        """The staging directory of an artifact, which is begun when it is new."""
        if not (self.root / name).is_dir():
            (self.root / name).mkdir()
        return self.root / name / "staging"


@contextmanager
def living(directory: Path, binding: str, *options: str) -> Iterator[Mounted]:
    """A :class:`Mounted` that is not mounted yet; in the end nothing of it is left, and its log holds no error."""
    home = directory / "home"
    home.mkdir(parents=True)
    mounted = Mounted(home, binding, options)
    try:
        yield mounted
    finally:
        clear_below(directory)
        left = mounts_below(directory), daemons_below(directory)
    assert left == ([], []), left
    log = mounted.log()
    assert log.count("Traceback") + log.count(" ERROR ") <= mounted.complaints, log


@contextmanager
def watched(directory: Path, seconds: float) -> Iterator[None]:
    """Kill all mounts below a directory when the time is up, so that whatever waits in one gets its error."""
    fired = threading.Event()

    def fire() -> None:
        fired.set()
        clear_below(directory)

    timer = threading.Timer(seconds, fire)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
    assert not fired.is_set(), f"a mount did not answer within {seconds:.0f} s"


@contextmanager
def running(*words: object, **options: object) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is gone in the end."""
    process = subprocess.Popen([str(word) for word in words], stdin=subprocess.DEVNULL, **options)
    try:
        yield process
    finally:
        process.kill()
        assert process.wait(20) is not None


def shell(script: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a bash script that stops at its first error; also when that error is in a pipe."""
    words = ["bash", "-euo", "pipefail", "-c", script]
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("GIT_", "XDG_"))}
    environment = {
        **clean,
        "HOME": "/nonexistent",
        "LC_ALL": "C.UTF-8",
        "TZ": "UTC",
        "PYTHON": sys.executable,
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_AUTHOR_DATE": "2020-01-01T00:00:00Z",
        "GIT_COMMITTER_DATE": "2020-01-01T00:00:00Z",
        **env,
    }
    return subprocess.run(
        words, cwd=cwd, env=environment, check=False, capture_output=True, text=True, timeout=TOOL_SECONDS,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip


def succeeds(script: str, cwd: Path, **env: str) -> str:
    """Run a bash script that must succeed; returns what it printed."""
    done = shell(script, cwd, **env)
    assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def held_open(requests: Counter[str]) -> int:
    """Files and directories that a mount's process has open for somebody, by the requests that it was sent."""
    opened = sum(requests[name] for name in ("open", "opendir", "create"))
    return opened - requests["release"] - requests["releasedir"]


def followed(path: Path, text: str) -> bool:
    """Whether clean staging has followed `latest` to a file with this text. What was open while it did is stale."""
    try:
        return path.read_text() == text
    except OSError as error:
        if error.errno not in {errno.ESTALE, errno.ENOENT}:
            raise
        return False


@contextmanager
def small_disk(place: Path, size: int = SMALL_DISK) -> Iterator[Path]:
    """A tmpfs on a directory; needs root, as CI has."""
    place.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=0700", "small", place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


def grow(disk: Path, size: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", disk], check=True)

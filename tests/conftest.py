"""What holds for every test, and the command line, repositories and mounts that tests of several floors use.

Hypothesis measures no time. Whatever a test mounts is gone when it ends, also when it
fails, and the session ends with a look for mounts and processes that were left behind.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from artifactfs.repository import Repository
from tests.postgres import empty_database, postgres, postgres_registry, postgres_url
from tests.spawner import Spawner

if TYPE_CHECKING:
    from tests import s3

# The suites are no test modules of their own; their assertions shall explain themselves nevertheless. Before any directory's own
# modules are imported.
pytest.register_assert_rewrite(
    *(f"tests.conformance.{name}" for name in ("collecting", "registry", "retention", "store"))
)

# Fixtures of any test.
__all__ = ["empty_database", "postgres", "postgres_registry", "postgres_url"]

TESTS = Path(__file__).parent
SPAWNER = Spawner()
COMMAND_SECONDS = 120
GONE_SECONDS = 60.0
STOPPED_SECONDS = 90  # a server's own bound for requests that are under way is 30

settings.register_profile("artifactfs", deadline=None)
settings.load_profile("artifactfs")

# A shell that starts this in the background has Ctrl-C ignored, which every command that a test starts and interrupts would inherit.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@dataclass(frozen=True)
class Finished:
    """A command that ended."""

    status: int
    stdout: str
    stderr: str

    @property
    def lines(self) -> list[str]:
        return self.stdout.splitlines()


class Cli:
    """``artifactfs`` as a person runs it: a process of its own, with a home directory that belongs to the test."""

    program = (sys.executable, "-m", "artifactfs")

    def __init__(self, home: Path) -> None:
        self.home = home
        self.cwd = home
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("ARTIFACTFS_", "XDG_"))}
        self.env = {**kept, "HOME": str(home), "PYTHONPATH": str(TESTS.parent), "TZ": "UTC", "COLUMNS": "120"}

    @property
    def mountpoint(self) -> Path:
        """Where fixtures mount."""
        return self.home / "artifacts"

    def start(
        self, *words: object, cwd: Path | None = None, env: dict[str, str] | None = None
    ) -> subprocess.Popen[str]:
        """Begin a command and return at once."""
        return subprocess.Popen(
            [*self.program, *map(str, words)],
            cwd=cwd or self.cwd,
            env={**self.env, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *words: object, cwd: Path | None = None, env: dict[str, str] | None = None) -> Finished:
        """Run a command to its end, whatever its exit status."""
        given, environment = [str(word) for word in words], {**self.env, **(env or {})}
        if self.program == Cli.program and SPAWNER.can(given, environment):
            status, *said = SPAWNER.run(given, cwd=cwd or self.cwd, env=environment, seconds=COMMAND_SECONDS)
            finished = Finished(status, *(io.TextIOWrapper(io.BytesIO(text)).read() for text in said))
        else:
            with self.start(*words, cwd=cwd, env=env) as process:
                try:
                    stdout, stderr = process.communicate(timeout=COMMAND_SECONDS)
                except subprocess.TimeoutExpired:
                    process.kill()
                    raise
            finished = Finished(process.returncode, stdout, stderr)
        assert "Traceback" not in finished.stderr, finished.stderr
        return finished

    def __call__(self, *words: object, cwd: Path | None = None, env: dict[str, str] | None = None) -> Finished:
        """Run a command that must succeed."""
        finished = self.run(*words, cwd=cwd, env=env)
        assert finished.status == 0, finished
        return finished

    def refuses(
        self, *words: object, status: int = 1, cwd: Path | None = None, env: dict[str, str] | None = None
    ) -> str:
        """Run a command that must fail with ``status``, nothing on stdout and one message; returns the message."""
        finished = self.run(*words, cwd=cwd, env=env)
        assert finished.status == status, finished
        assert finished.stdout == ""
        first, *more = finished.stderr.splitlines()
        assert first.startswith("artifactfs: "), finished.stderr
        assert all(line.startswith("  ") for line in more), finished.stderr
        return finished.stderr.removeprefix("artifactfs: ").rstrip("\n")


def eventually(condition: Callable[[], object], *, seconds: float = 60.0) -> None:
    """Return as soon as the condition holds; fail after ``seconds``."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"did not come true within {seconds:.0f} s"
        time.sleep(0.01)


def mounts_below(directory: Path) -> list[str]:
    """Mount points below a directory, innermost first."""
    lines = Path("/proc/self/mountinfo").read_text("utf-8", "surrogateescape").splitlines()
    points = [re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), line.split(" ")[4]) for line in lines]
    return sorted((point for point in points if point.startswith(f"{directory}/")), key=len, reverse=True)


def daemons_below(directory: Path) -> list[int]:
    """Processes of mounts whose home, or whose log, lies below a directory."""
    found = []
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            if (process / "comm").read_text().strip() != "artifactfs":
                continue
            environment = (process / "environ").read_bytes().split(b"\0")
            places = [Path(os.fsdecode(word[5:])) for word in environment if word.startswith(b"HOME=")]
            places.append((process / "fd/1").readlink())  # the environment may be the spawner's
            if any(place.is_relative_to(directory) for place in places):
                found.append(int(process.name))
    return found


@contextlib.contextmanager
def watching(pid: int) -> Iterator[int]:
    """A descriptor that is bound to a process, and not to its number."""
    watch = os.pidfd_open(pid)
    try:
        yield watch
    finally:
        os.close(watch)


def ended(watch: int, seconds: float = GONE_SECONDS) -> bool:
    """Whether the process behind a pidfd ends in time: with all its threads, and all that it held.

    :func:`daemons_below` finds one no more as soon as it begins to end, when its environment and descriptors have gone.
    """
    poll = select.poll()
    poll.register(watch, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


def end_daemon(directory: Path, number: int = signal.SIGKILL) -> None:
    """Send a signal to the process of the only mount below a directory, and return when it has ended."""
    (pid,) = daemons_below(directory)
    with watching(pid) as watch:
        signal.pidfd_send_signal(watch, number)
        assert ended(watch), f"process {pid} did not end within {GONE_SECONDS:.0f} s"


def clear_below(directory: Path) -> None:
    """Remove every mount below a directory and end their processes, without asking them."""
    with contextlib.ExitStack() as stack:
        watches = []
        for pid in daemons_below(directory):
            with contextlib.suppress(ProcessLookupError):
                watches.append(stack.enter_context(watching(pid)))
                signal.pidfd_send_signal(watches[-1], signal.SIGKILL)
        for point in mounts_below(directory):
            tool = ["umount", "-l"] if os.geteuid() == 0 else ["fusermount3", "-uz"]
            subprocess.run([*tool, point], check=False, capture_output=True)
        for watch in watches:
            ended(watch)


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[Cli]:
    home = tmp_path / "home"
    home.mkdir()
    yield Cli(home)
    clear_below(tmp_path)


@pytest.fixture
def repository(cli: Cli) -> Iterator[Repository]:
    """The repository that ``cli`` uses by default, open."""
    with Repository.create(str(cli.home / ".local/share/artifactfs/repository")) as opened:
        yield opened


@contextlib.contextmanager
def serving_commands(host: Cli, log: Path) -> Iterator[Callable[..., str]]:
    """``begin(*options, **environ)`` runs ``artifactfs serve`` on a host until the end, and gives the address of its repository."""
    started: list[subprocess.Popen[str]] = []

    def begin(*options: object, **environ: str) -> str:
        with log.open("a") as errors:
            process = subprocess.Popen(
                [*host.program, "serve", "--port", "0", *map(str, options)],
                env={**host.env, **environ}, cwd=host.home, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, text=True,
            )  # fmt: skip
        started.append(process)
        assert process.stdout is not None
        said = process.stdout.readline().split()
        assert said, log.read_text()
        return said[-1]

    try:
        yield begin
    finally:
        for process in started:
            process.terminate()
            with process:
                process.wait(STOPPED_SECONDS)


@pytest.fixture
def mounted(cli: Cli) -> Iterator[Callable[..., Path]]:
    """Mounts on call: ``mounted("--read-only")`` gives the root of the tree. Unmounted, politely, when the test ends."""
    points: list[Path] = []

    def mount(*options: str, mountpoint: Path | None = None) -> Path:
        point = mountpoint or cli.mountpoint
        cli("mount", point, *options)
        points.append(point)
        return point

    yield mount
    for point in points:
        if str(point) in mounts_below(cli.home.parent):
            cli.run("unmount", "--force", point)


@pytest.fixture(scope="module")
def moto() -> Iterator[s3.Server]:
    """An object store of the module's own."""
    from tests import s3  # noqa: PLC0415 - boto3 takes 0.3 s to import

    with s3.moto() as server:
        yield server


@pytest.fixture(scope="session", autouse=True)
def nothing_left_behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    yield
    base = tmp_path_factory.getbasetemp()
    mounts, daemons = mounts_below(base), daemons_below(base)
    clear_below(base)
    assert not mounts, f"left mounted: {mounts}"
    assert not daemons, f"left running: {daemons}"

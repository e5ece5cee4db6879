"""The place where the work is done: a private directory with inputs, repositories and one mount at a time.

Everything a user would do is done by the command line, in processes of its own, with a home directory in here.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from artifactfs.mount import control
from benchmarks import inputs

UNMOUNT_SECONDS = 30
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Sizes:
    """How much of everything."""

    directories: int  # of the tree of tiny files
    per_directory: int
    large: int  # bytes
    small_directories: int
    small_per_directory: int
    small_bytes: int
    read: int  # small files that are read one by one
    copied: int  # directories of small files that are copied into staging
    random: int  # reads
    pages: int  # writes of 4 KiB
    huge: tuple[int, int]  # directories and files in each, of the version that is only opened
    flat: int  # small files in one directory, that rclone reads as well
    many: int  # artifacts
    versions: int  # that are searched by their metadata
    clients: tuple[int, ...]  # at once, that share the files of a version
    grown: tuple[int, ...]  # versions that upkeep goes through
    marked: tuple[int, ...]  # chunks that nobody stored
    needed: int  # bytes of disk


FULL = Sizes(
    directories=1000,
    per_directory=100,
    large=1 << 30,
    small_directories=200,
    small_per_directory=100,
    small_bytes=20_000,
    read=10_000,
    copied=50,
    random=8192,
    pages=65_536,
    huge=(1000, 1000),
    flat=2000,
    many=300,
    versions=100_000,
    clients=(1, 8, 32),
    grown=(10, 100, 1000),
    marked=(1_000_000, 10_000_000),
    needed=16 << 30,
)
QUICK = Sizes(
    directories=20,
    per_directory=50,
    large=12 << 20,
    small_directories=10,
    small_per_directory=20,
    small_bytes=20_000,
    read=100,
    copied=2,
    random=256,
    pages=512,
    huge=(20, 500),
    flat=40,
    many=20,
    versions=1000,
    clients=(1, 3),
    grown=(2, 20),
    marked=(1_000_000,),
    needed=512 << 20,
)


class Workbench:
    """A context manager; on leaving it, whatever the reason, nothing is mounted and the directory is gone."""

    def __init__(self, parent: Path, sizes: Sizes, *, repeat: int, binding: str) -> None:
        self.sizes = sizes
        self.repeat = repeat
        self.binding = binding
        self.root = Path(tempfile.mkdtemp(prefix="artifactfs-bench-", dir=parent)).resolve()
        self.mountpoint = self.root / "mount"
        self.repository = self.root / "repository"
        self.notes: dict[str, str] = {}  # what is to be said of the run beside its figures
        self._put: set[str] = set()

    def __enter__(self) -> Self:
        for name in ("home", "inputs", "mount", "output", "served"):
            (self.root / name).mkdir()
        return self

    def __exit__(self, *_: object) -> None:
        if self.unmounted():
            shutil.rmtree(self.root)
        else:
            say(f"{self.mountpoint} is still mounted: unmount it, then remove {self.root}")

    # -- programs --------------------------------------------------------------------------------------------------

    @property
    def environment(self) -> dict[str, str]:
        """A user's, whose home and repository are in here."""
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("ARTIFACTFS_", "XDG_", "LC_")) and name not in {"HOME", "LANG"}
        }
        return {
            **kept,
            "HOME": str(self.root / "home"),
            "LC_ALL": "C.UTF-8",
            "ARTIFACTFS_REPOSITORY": str(self.repository),
        }

    def artifactfs(self, *arguments: str | Path) -> list[str]:
        """The command line of a command of the product."""
        return [str(Path(sys.executable).with_name("artifactfs")), *map(str, arguments)]

    def run(self, command: Sequence[str], cwd: Path | None = None) -> str:
        """Run a program that must succeed; returns what it printed."""
        done = subprocess.run(
            command, cwd=cwd or self.root, env=self.environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(map(str, command))}: exit status {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    def timed(self, *pipeline: Sequence[str], cwd: Path | None = None) -> float:
        """Seconds that a program takes, or several joined by pipes; what the last one prints goes nowhere."""
        place, environment, notes = cwd or self.root, self.environment, self.root / "output" / "notes"
        processes: list[subprocess.Popen[bytes]] = []
        with notes.open("wb") as errors:
            begin = time.perf_counter()
            for number, command in enumerate(pipeline, 1):
                before = processes[-1].stdout if processes else None
                into = subprocess.DEVNULL if number == len(pipeline) else subprocess.PIPE
                processes.append(
                    subprocess.Popen(command, cwd=place, env=environment, stdin=before, stdout=into, stderr=errors)
                )
                if before is not None:
                    before.close()
            states = [process.wait() for process in processes]
            seconds = time.perf_counter() - begin
        if any(states):
            shown = " | ".join(" ".join(command) for command in pipeline)
            raise RuntimeError(f"{shown}: exit status {states}: {notes.read_text(errors='replace').strip()}")
        return seconds

    def together(self, commands: Sequence[Sequence[str]]) -> float:
        """Seconds from the start of several programs at once to the end of the last."""
        environment, notes = self.environment, self.root / "output" / "notes"
        with notes.open("wb") as errors:
            begin = time.perf_counter()
            processes = [
                subprocess.Popen(each, cwd=self.root, env=environment, stdout=subprocess.DEVNULL, stderr=errors)
                for each in commands
            ]
            states = [process.wait() for process in processes]
            seconds = time.perf_counter() - begin
        if any(states):
            raise RuntimeError(f"{commands[0][0]}: exit status {states}: {notes.read_text(errors='replace').strip()}")
        return seconds

    def empty(self, name: str) -> Path:
        """A directory of this name with nothing in it; what was there before is removed."""
        place = self.root / "output" / name
        if place.exists():
            shutil.rmtree(place)
        place.mkdir(mode=0o700)
        return place

    # -- inputs ----------------------------------------------------------------------------------------------------

    def large(self, kind: str) -> Path:
        """A directory with one large file, ``large.dat``."""

        def make(path: Path) -> None:
            path.mkdir()
            inputs.large(path / "large.dat", kind, self.sizes.large)

        return self.input(f"large-{kind}", make)

    def small(self, kind: str) -> Path:
        """A directory with directories of small files."""
        sizes = self.sizes
        return self.input(
            f"small-{kind}",
            lambda path: inputs.small(
                path, kind, sizes.small_directories, sizes.small_per_directory, sizes.small_bytes
            ),
        )

    def tiny(self, *, flat: bool) -> Path:
        """A tree of very many tiny files, or all of them in one directory."""
        directories, files = self.sizes.directories, self.sizes.per_directory
        if flat:
            return self.input("tiny-flat", lambda path: inputs.tiny(path, 0, directories * files))
        return self.input("tiny", lambda path: inputs.tiny(path, directories, files))

    def input(self, name: str, make: Callable[[Path], None]) -> Path:
        """A directory of files, made on first use and in the page cache."""
        path = self.root / "inputs" / name
        if not path.exists():
            say(f"making {name}")
            make(path)
            self.run(["sync"])
        inputs.settle(path)
        return path

    def version(self, source: Path) -> str:
        """The artifact that an input was put as, below its own name; its version is v0."""
        if source.name not in self._put:
            say(f"putting {source.name}")
            self.run(self.artifactfs("put", source.name, source))
            inputs.settle(self.repository / "store")
            self._put.add(source.name)
        return source.name

    # -- mounts ----------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def mounted(
        self,
        *,
        read_only: bool = False,
        repository: Path | str | None = None,
        cache: Path | None = None,
        program: Sequence[str] = (),
    ) -> Iterator[Mount]:
        """A fresh mount of a repository: nothing of it is in the kernel's caches or the daemon's memory.

        ``program`` stands in for the command line of the product.
        """
        command = self.mount_command(read_only=read_only, repository=repository, cache=cache)
        self.run([*program, *command[1:]] if program else command)
        try:
            # The one workspace with a socket: each mount of ours removes its own when it ends.
            (socket,) = (self.root / "home" / ".local" / "state" / "artifactfs" / "mounts").glob("*/control.sock")
            yield Mount(self.mountpoint, socket.parent)
        finally:
            self.run(self.artifactfs("unmount", self.mountpoint))

    def mount_command(
        self, *, read_only: bool = False, repository: Path | str | None = None, cache: Path | None = None
    ) -> list[str]:
        """The command line that mounts; ``cache`` is where chunks from a server are kept."""
        return self.artifactfs(
            "--repository",
            repository or self.repository,
            *(["--cache-dir", str(cache)] if cache else []),
            "mount",
            self.mountpoint,
            "--binding",
            self.binding,
            *(["--read-only"] if read_only else []),
        )

    def unmounted(self) -> bool:
        """End every process that mounts here, also one that was only about to; whether nothing is mounted any more."""
        for number in (signal.SIGTERM, signal.SIGKILL):  # at the first a mount ends cleanly
            for process in self._mounting():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, number)
            deadline = time.monotonic() + UNMOUNT_SECONDS
            while self._mounting() and time.monotonic() < deadline:
                time.sleep(0.02)
        for command in (["fusermount3", "-u", "-z"], ["umount", "-l"]):
            if is_mounted(self.mountpoint):
                with contextlib.suppress(OSError):
                    subprocess.run([*command, str(self.mountpoint)], capture_output=True, check=False)
        return not is_mounted(self.mountpoint)

    def _mounting(self) -> list[int]:
        """Processes that were started to mount at our mount point, by their command lines."""
        found = []
        wanted = os.fsencode(self.mountpoint)
        for place in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                words = (place / "cmdline").read_bytes().split(b"\0")
                if b"mount" in words and wanted in words:
                    found.append(int(place.name))
        return found

    def interleaved(self) -> Iterator[int]:
        """The numbers of the repeats."""
        yield from range(self.repeat)


class Mount:
    """A living mount. What it says of itself comes over its control socket, so that asking makes no request of the kernel."""

    def __init__(self, path: Path, workspace: Path) -> None:
        self.path = path
        self._workspace = workspace
        self.pid = int(self._status()["pid"])

    def version(self, name: str) -> Path:
        """The directory of an artifact's first version."""
        return self.path / name / "v0"

    def counts(self) -> dict[str, int]:
        """Requests of the kernel so far, by operation."""
        requests: dict[str, int] = self._status()["counts"]["requests"]
        return requests

    def _status(self) -> dict[str, Any]:
        return control.request(self._workspace, "status")

    def requests(self, work: Callable[[], object]) -> dict[str, int]:
        """Requests by operation that reached the daemon during ``work``."""
        before = self.counts()
        work()
        after = self.counts()
        return {name: after[name] - before.get(name, 0) for name in sorted(after) if after[name] != before.get(name)}

    def memory(self) -> int:
        """Bytes of memory that the daemon occupies (RSS)."""
        status = Path("/proc", str(self.pid), "status").read_text(encoding="ascii", errors="replace")
        return next(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("VmRSS:"))

    def processor(self) -> float:
        """Seconds of processor time that the daemon has used."""
        return processor_of(self.pid)


def processor_of(pid: int) -> float:
    """Seconds of processor time that a process has used, in steps of 10 ms."""
    fields = Path("/proc", str(pid), "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def is_mounted(path: Path) -> bool:
    """Whether something is mounted there, dead or alive; asks nothing of the file system itself."""
    lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    return any(line.split()[4] == str(path) for line in lines)


def say(text: str) -> None:
    """Tell how far it is: on stderr, so that the tables alone are on stdout."""
    print(f"bench: {text}", file=sys.stderr, flush=True)

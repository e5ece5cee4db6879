"""A server as a person runs it, what it serves, and the machines that use it by way of a proxy."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from artifactfs.repository import Repository
from tests.conftest import Cli, Finished
from tests.faults.proxy import Proxy
from tests.mounted.living import Mounted, living

HANG_SECONDS = 60.0
"""A command or a read that takes longer hangs; what these tests allow to the network is a few seconds."""
RECOVERY_SECONDS = 20.0
"""For a moment those who read what has just been waited for in vain are told so at once; and a server is left alone that is down."""

PACK = r"/objects/packs/.*\.pack$"
NODES = r"/(nodes|path)$"
COMMITS = r"/commits$"

LARGE = "large.bin"
ERRNOS = {errno.EIO, errno.ETIMEDOUT}


class Server:
    """`artifactfs serve` on one port, however often it is killed. ``source`` is what ``data:v0`` was made of."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self.cli = Cli(directory)
        self.cli.env["ARTIFACTFS_REPOSITORY"] = str(directory / "repository")
        self.source = directory / "source"
        self.port = 0
        self._log = directory / "log"
        self._process: subprocess.Popen[str] | None = None
        _write(self.source)
        self.cli("put", "data", self.source)

    def start(self) -> None:
        words = [*self.cli.program, "serve", "--port", str(self.port), "--graceful", "1"]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                words, env=self.cli.env, cwd=self.cli.home, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log,
                text=True,
            )  # fmt: skip
        assert self._process.stdout is not None
        said = self._process.stdout.readline().split()
        assert said, self._log.read_text()
        self.port = int(said[-1].rpartition(":")[2])

    def kill(self) -> None:
        """SIGKILL, and wait for its end. Idempotent."""
        process, self._process = self._process, None
        if process is not None:
            with process:
                process.send_signal(signal.SIGKILL)

    def restart(self) -> None:
        self.kill()
        self.start()

    def versions(self, name: str) -> list[str]:
        """Versions of an artifact, oldest first, as the repository on the server's disk has them."""
        with Repository.open(self.cli.env["ARTIFACTFS_REPOSITORY"]) as repository:
            return [version.name for version in repository.registry.versions(name)]

    def packs(self) -> set[str]:
        return {path.name for path in (self.cli.home / "repository/store/default/packs").glob("*/*.pack")}

    def log(self) -> str:
        return self._log.read_text()


def _write(root: Path) -> None:
    chance = random.Random(3)
    (root / "small/deep").mkdir(parents=True)
    for number in range(60):
        directory = root / ("small/deep" if number % 3 == 0 else "small")
        (directory / f"f{number:02}").write_bytes(chance.randbytes(3000 + 100 * number))
    (root / LARGE).write_bytes(chance.randbytes(12 << 20))
    (root / "other.bin").write_bytes(chance.randbytes(3 << 20))


@contextmanager
def machine(directory: Path, proxy: Proxy, *, seconds: float, cache: Path | None = None) -> Iterator[Mounted]:
    """A machine that uses the server behind a proxy; not mounted yet."""
    with living(directory, "kernel") as made:
        settings = {"REPOSITORY": proxy.url, "TIMEOUT": str(seconds), "CACHE_DIR": str(cache or directory / "cache")}
        made.cli.env.update({f"ARTIFACTFS_{name}": value for name, value in settings.items()})
        yield made


def finish(process: subprocess.Popen[str]) -> Finished:
    """The end of a command, which must come; a failure is one line."""
    stdout, stderr = process.communicate(timeout=HANG_SECONDS)
    assert "Traceback" not in stderr, stderr
    assert "unexpected" not in stderr, stderr
    if process.returncode > 0:
        assert stdout == ""
        notes, mark, message = stderr.rpartition("artifactfs: ")
        assert mark, stderr
        assert notes.count("\n") <= 1, stderr  # what was done of it
        assert all(line.startswith("  ") for line in message.splitlines()[1:]), stderr
    return Finished(process.returncode, stdout, stderr)


def read(path: Path) -> bytes | int:
    """A file's bytes, or the errno."""
    try:
        return path.read_bytes()
    except OSError as error:
        return error.errno or 0


def read_all(root: Path) -> dict[str, bytes]:
    """All files below a directory by path."""
    return {
        os.path.relpath(os.path.join(place, name), root): Path(place, name).read_bytes()
        for place, _, names in os.walk(root, onerror=_raise)
        for name in names
    }


def read_again(root: Path) -> dict[str, bytes]:
    """As :func:`read_all`, a moment after a fault was lifted: its error may be told once more, and then everything is there."""
    deadline = time.monotonic() + RECOVERY_SECONDS
    while True:
        try:
            return read_all(root)
        except OSError as error:
            if error.errno not in ERRNOS or time.monotonic() > deadline:
                raise
        time.sleep(0.1)


def _raise(error: OSError) -> None:
    raise error


def no_wrong_bytes(root: Path, source: Path) -> None:
    """What a `get` left that failed or was killed is right as far as it goes; a name that says it is temporary is no file of it."""
    for path in root.rglob("*"):
        whole = source / path.relative_to(root)
        if path.is_file() and not path.name.startswith(".artifactfs-"):
            assert path.read_bytes() == whole.read_bytes(), path


class Reading:
    """A read in a thread of its own."""

    def __init__(self, path: Path) -> None:
        self._result: list[bytes | int] = []
        self._thread = threading.Thread(target=lambda: self._result.append(read(path)), daemon=True)
        self._thread.start()

    def result(self) -> bytes | int:
        self._thread.join(HANG_SECONDS)
        assert self._result, "a read hangs"
        return self._result[0]

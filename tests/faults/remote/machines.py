"""A server as a person runs it, what it serves, and the machines that use it by way of a proxy."""

from __future__ import annotations

import errno
import itertools
import os
import random
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from artifactfs.registry.opening import open_registry
from artifactfs.repository import Repository
from tests import s3
from tests.conftest import Cli, Finished, eventually
from tests.faults.proxy import Act, Fault, Proxy
from tests.mounted.living import Mounted, living
from tests.ports import HeldPort

HANG_SECONDS = 120.0
"""A command or a read that takes longer hangs; what these tests allow to the network is a few seconds, or PATIENCE."""
RECOVERY_SECONDS = 60.0
"""For a moment those who read what has just been waited for in vain are told so at once; and a server is left alone that is down."""
PATIENCE = 60.0
"""Seconds that a machine allows to the network where all ends well."""

PACK = r"/objects/packs/.*\.pack$"
BUCKET_PACK = r"/packs/../[0-9a-f]+\.pack(\?|$)"
NODES = r"/(nodes|path)$"
COMMITS = r"/commits$"

LARGE = "large.bin"
ERRNOS = {errno.EIO, errno.ETIMEDOUT}

DIRECTORY: Final = "directory"
BUCKET: Final = "bucket"
BACK_ENDS: Final = (DIRECTORY, BUCKET)
"""Where a server keeps what it serves: in a directory, or in PostgreSQL and a bucket, from which clients read by signed URLs."""
THROUGH: Final = "bucket through the server"
"""The same without signed URLs."""
STORE_SECONDS: Final = 4
"""What a server allows to its bucket."""

_PREFIXES = itertools.count()
_TOO_LATE = re.compile("does not answer|cannot reach|cannot be reached")

T = TypeVar("T")


@dataclass(frozen=True)
class Way:
    """Where packs travel: the proxy that sees them, and what requests of them look like there."""

    proxy: Proxy
    path: str

    def fault(self, act: Act, *, method: str = "GET", **options: Any) -> AbstractContextManager[Fault]:
        """As :meth:`Proxy.fault`, of packs."""
        return self.proxy.fault(act, self.path, method=method, **options)

    def of(self, packs: set[str]) -> Way:
        """Of these packs alone."""
        return Way(self.proxy, "|".join(f"/packs/../{pack}" for pack in sorted(packs)))

    def received(self) -> int:
        """Bytes of packs that came so far."""
        return self.proxy.received(self.path)


class Server:
    """`artifactfs serve` on one port, however often it is killed. ``source`` is what ``data:v0`` was made of."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self.cli = Cli(directory)
        self.cli.env["ARTIFACTFS_REPOSITORY"] = str(directory / "repository")
        self.source = directory / "source"
        self._held = HeldPort()
        self.port = self._held.number
        self._log = directory / "log"
        self._process: subprocess.Popen[str] | None = None
        self._options: tuple[str, ...] = ()
        self._environ = dict(self.cli.env)
        _write(self.source)

    def fill(self) -> None:
        """Make ``data:v0``."""
        self.cli("put", "data", self.source)

    def way(self, proxy: Proxy) -> Way:
        """Where packs travel, for clients behind a proxy."""
        return Way(proxy, PACK)

    def start(self) -> None:
        words = [*self.cli.program, "serve", "--port", str(self.port), "--graceful", "1", *self._options]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                words, env=self._environ, cwd=self.cli.home, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log,
                text=True,
            )  # fmt: skip
        assert self._process.stdout is not None
        assert self._process.stdout.readline(), self._log.read_text()

    def kill(self) -> None:
        """SIGKILL, and wait for its end. Idempotent."""
        process, self._process = self._process, None
        if process is not None:
            with process:
                process.send_signal(signal.SIGKILL)

    def close(self) -> None:
        """Kill it for good."""
        self.kill()
        self._held.close()

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


class Team(Server):
    """One of any number of servers whose registry is in a database and whose packs are in a bucket, which it and its clients reach by
    way of the proxy ``far``. ``beside``: one that is there, with which it shares both."""

    def __init__(
        self,
        directory: Path,
        database: str,
        bucket: s3.Server,
        far: Proxy,
        *,
        signed: bool = True,
        beside: Team | None = None,
    ) -> None:
        super().__init__(directory)
        self.database = database
        self.bucket = bucket
        self.far = far
        self.prefix = beside.prefix if beside is not None else f"faults/{next(_PREFIXES)}"
        self._options = () if signed else ("--no-signed-urls",)
        settings = {"REGISTRY": database, "STORE": f"s3://{s3.BUCKET}/{self.prefix}", "TIMEOUT": str(STORE_SECONDS)}
        self._environ.update({f"ARTIFACTFS_{name}": value for name, value in settings.items()})
        self._environ.update({**s3.environ_of(far.url), "AWS_ALLOW_HTTP": "true"})

    def fill(self) -> None:
        # Nothing stays in the server's memory of what it has just stored.
        super().fill()
        self.restart()

    def way(self, proxy: Proxy) -> Way:
        return Way(self.far, BUCKET_PACK)

    def start(self) -> None:
        super().start()
        self.cli.env["ARTIFACTFS_REPOSITORY"] = f"http://127.0.0.1:{self.port}"

    def versions(self, name: str) -> list[str]:
        """Versions of an artifact, oldest first, as the database has them."""
        with closing(open_registry(self.database)) as registry:
            return [version.name for version in registry.versions(name)]

    def keys(self) -> dict[str, str]:
        """Keys of the packs in the bucket, by file name."""
        return {key.rpartition("/")[2]: key for key in self.bucket.keys(self.prefix) if key.endswith(".pack")}

    def packs(self) -> set[str]:
        return set(self.keys())


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


PROGRESS = re.compile(r"\w+ \S+: [\d.]+ \w+ of [\d.]+ \w+, ")  # a line of what takes more than ten seconds


def finish(process: subprocess.Popen[str]) -> Finished:
    """The end of a command, which must come; a failure is one line."""
    stdout, stderr = process.communicate(timeout=HANG_SECONDS)
    assert "Traceback" not in stderr, stderr
    assert "unexpected" not in stderr, stderr
    if process.returncode > 0:
        assert stdout == ""
        notes, mark, message = stderr.rpartition("artifactfs: ")
        assert mark, stderr
        done = [line for line in notes.splitlines() if not PROGRESS.match(line)]
        assert len(done) <= 1, stderr  # what was done of it
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


def shown(version: Path) -> Path:
    """The directory of a version that another process has just made, once the mount shows it."""
    eventually(version.is_dir)
    return version


def in_time(call: Callable[[], T]) -> T:
    """What a call gives once it has had time enough: of the second or two that some tests allow to the network a slow machine may need
    more at any request. The call may be made again."""
    deadline = time.monotonic() + RECOVERY_SECONDS
    while True:
        try:
            return call()
        except OSError as error:
            if error.errno not in ERRNOS or time.monotonic() > deadline:
                raise
        except AssertionError as error:  # of a command
            if not _TOO_LATE.search(str(error)) or time.monotonic() > deadline:
                raise
        time.sleep(0.1)


def read_again(root: Path) -> dict[str, bytes]:
    """As :func:`read_all`, a moment after a fault was lifted: its error may be told once more, and then everything is there."""
    return in_time(lambda: read_all(root))


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

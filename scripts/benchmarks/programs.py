"""Programs that run while something is measured: servers, the relay before them, and how they are ended."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Self

READY_SECONDS = 60.0
END_SECONDS = 30.0
ONE_WAY_SECONDS = 0.010
ROUND_TRIP_SECONDS = 2 * ONE_WAY_SECONDS
_RELAY = Path(__file__).with_name("relay.py")


@contextlib.contextmanager
def running(
    command: Sequence[str], notes: Path, environment: Mapping[str, str], directory: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """A program in the background, whose output goes to the file ``notes``; ended by SIGTERM, or SIGKILL after a while."""
    with notes.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=directory, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def awaited(process: subprocess.Popen[bytes], notes: Path, pattern: str) -> re.Match[str]:
    """The first place in a program's output that matches. RuntimeError with that output when it ends or takes too long."""
    deadline = time.monotonic() + READY_SECONDS
    while True:
        ended = process.poll() is not None
        text = notes.read_text(encoding="utf-8", errors="replace")
        if (found := re.search(pattern, text)) is not None:
            return found
        if ended or time.monotonic() > deadline:
            state = f"ended with {process.returncode}" if ended else f"was not ready after {READY_SECONDS:.0f} s"
            raise RuntimeError(f"{process.args!r} {state}: {text.strip()}")
        time.sleep(0.02)


class Relay:
    """A context manager: the relay process before a port of this machine, 10 ms each way or another ``delay`` in seconds."""

    def __init__(self, port: int, *, delay: float = ONE_WAY_SECONDS) -> None:
        command = [sys.executable, "-S", str(_RELAY), "127.0.0.1", str(port), "--delay", str(delay)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> Self:
        self.port = int(self._line())
        return self

    def __exit__(self, *_: object) -> None:
        # Its input's end is its own.
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.communicate(timeout=END_SECONDS)
        self._process.kill()
        self._process.wait()

    def counts(self) -> dict[str, int]:
        """What it has counted so far: connections, bytes up and down."""
        assert self._process.stdin is not None  # noqa: S101 - for the type checker
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        counts: dict[str, int] = json.loads(self._line())
        return counts

    def _line(self) -> str:
        assert self._process.stdout is not None  # noqa: S101 - for the type checker
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the relay has ended with {self._process.wait()}")
        return line

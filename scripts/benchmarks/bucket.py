"""A bucket for the time of a benchmark: moto's server, which speaks S3 and keeps everything in memory, behind a relay that counts.

moto is one process of Python. It takes more of a processor for each byte than the server that is measured before it.
"""

from __future__ import annotations

import contextlib
import http.client
import importlib.util
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.programs import Relay, awaited, running
from benchmarks.workbench import Workbench, processor_of

NAME = "bench"
_ADDRESS = r"http://127\.0\.0\.1:(\d+)"
_ANSWERED = re.compile(r'GET /\S+ HTTP/1\.1(?:\x1b\[0m)?" 20[06] ')  # 206 is coloured
_QUIET_SECONDS = 0.2  # in which the last line of the log has come
_SECONDS = 30.0


@dataclass(frozen=True)
class Passed:
    """What a bucket has answered so far."""

    reads: int  # requests for objects
    sent: int  # bytes, headers and all
    processor: float  # seconds


class Bucket:
    """A running server with one bucket, which is empty at first. ``environment``: what a process must have set to reach it."""

    def __init__(self, pid: int, notes: Path, relay: Relay) -> None:
        self._pid = pid
        self._notes = notes
        self._relay = relay
        self.environment = {
            "AWS_ACCESS_KEY_ID": "bench",
            "AWS_SECRET_ACCESS_KEY": "bench-secret",
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{relay.port}",
        }

    def passed(self) -> Passed:
        """All since it was started."""
        time.sleep(_QUIET_SECONDS)
        reads = len(_ANSWERED.findall(self._notes.read_text(encoding="utf-8", errors="replace")))
        return Passed(reads, self._relay.counts()["down"], processor_of(self._pid))


def trouble() -> str:
    """Why there can be no bucket; empty when there can."""
    for module, extra in (("moto", "dev"), ("obstore", "s3")):
        if importlib.util.find_spec(module) is None:
            return f"not measured: {module} is not installed; pip install 'artifactfs[{extra}]'"
    return ""


@contextlib.contextmanager
def bucket(bench: Workbench) -> Iterator[Bucket]:
    """A running one. Bytes reach it and come from it without delay."""
    notes = bench.root / "output" / "bucket"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]
    with running(command, notes, bench.environment, bench.root) as process:
        port = int(awaited(process, notes, _ADDRESS).group(1))
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_SECONDS)
        with contextlib.closing(connection):
            connection.request("PUT", f"/{NAME}")
            answer = connection.getresponse()
            if answer.status != http.client.OK:
                raise RuntimeError(f"moto makes no bucket: {answer.status} {answer.reason}")
        with Relay(port, delay=0) as relay:
            yield Bucket(process.pid, notes, relay)

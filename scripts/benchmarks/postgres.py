"""A PostgreSQL cluster for the time of a benchmark: its own directory, owned by an ordinary user, reached by a socket in it alone."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_DEBIAN = Path("/usr/lib/postgresql")
_PLACE = "/var/tmp"  # noqa: S108 - the work is done in a new private directory below it
_READY_SECONDS = 30
_USER = "bench"


@dataclass(frozen=True)
class Found:
    """Where the programs are, or why there are none."""

    programs: Path | None
    trouble: str = ""


def find() -> Found:
    """The newest PostgreSQL of this machine that has a server."""
    if importlib.util.find_spec("psycopg") is None:
        return Found(None, "not measured: psycopg is not installed; pip install 'artifactfs[postgres]'")
    places = sorted(_DEBIAN.glob("*/bin"), key=lambda place: float(place.parent.name), reverse=True)
    server = shutil.which("postgres")
    if server is not None:
        places.append(Path(server).resolve().parent)
    for place in places:
        if (place / "postgres").exists() and (place / "initdb").exists():
            return Found(place)
    return Found(None, "not measured: PostgreSQL's server is not installed")


@contextlib.contextmanager
def cluster(programs: Path) -> Iterator[str]:
    """A running cluster; gives the URL of an empty database. Gone at the end, whatever the reason."""
    # Not where the benchmarks work: an ordinary user cannot go there, and a socket's path has at most 107 bytes.
    place = Path(tempfile.mkdtemp(prefix="artifactfs-bench-pg-", dir=_PLACE))
    data = place / "data"
    try:
        owner = {}
        if os.geteuid() == 0:  # which PostgreSQL refuses
            nobody = pwd.getpwnam("nobody")
            os.chown(place, nobody.pw_uid, nobody.pw_gid)
            owner = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        create = [programs / "initdb", "-D", data, "-U", _USER, "-A", "trust", "-E", "UTF8", "--locale=C"]
        subprocess.run(create, cwd=place, capture_output=True, check=True, **owner)
        serve = [programs / "postgres", "-D", data, "-k", place, "-c", "listen_addresses="]
        with (place / "log").open("wb") as log:
            process = subprocess.Popen(serve, cwd=place, stdout=log, stderr=log, **owner)
        try:
            _await(process, programs, place)
            yield f"postgresql+psycopg://{_USER}@/postgres?host={place}"
        finally:
            process.send_signal(signal.SIGINT)  # ends connections, then the server
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_READY_SECONDS)
            process.kill()
            process.wait()
    finally:
        shutil.rmtree(place)


def _await(process: subprocess.Popen[bytes], programs: Path, place: Path) -> None:
    deadline = time.monotonic() + _READY_SECONDS
    asked = [programs / "pg_isready", "-q", "-h", place]
    while subprocess.run(asked, check=False).returncode:
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"PostgreSQL does not start: {(place / 'log').read_text(errors='replace').strip()}")
        time.sleep(0.05)

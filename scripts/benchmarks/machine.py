"""What the figures were taken on."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import artifactfs


def load() -> str:
    """Load averages of 1, 5 and 15 minutes: other work on the machine shows here."""
    return " ".join(f"{value:.2f}" for value in os.getloadavg())


def describe(directory: Path) -> dict[str, str]:
    """Software, processor, memory, and the disk that ``directory`` lies on."""
    return {
        "artifactfs": artifactfs.__version__,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "processor": f"{_field('/proc/cpuinfo', 'model name')}, {len(os.sched_getaffinity(0))} cores",
        "memory": f"{_kib('MemTotal') >> 20} GiB, {_kib('MemAvailable') >> 20} GiB available",
        "disk": _disk(directory),
        "load average at the start": load(),
    }


def _field(path: str, name: str) -> str:
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return "unknown"


def _kib(name: str) -> int:
    return int(_field("/proc/meminfo", name).split()[0])


def _disk(directory: Path) -> str:
    """File system and device; whether it rotates, when the kernel says so of the device or its parent."""
    status = directory.stat()
    device = f"{os.major(status.st_dev)}:{os.minor(status.st_dev)}"
    kind = source = "unknown"
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
        fields = line.split()
        if fields[2] == device:
            separator = fields.index("-")
            kind, source = fields[separator + 1], fields[separator + 2]
    block = Path("/sys/dev/block", device).resolve()
    for place in (block, block.parent):
        rotational = place / "queue" / "rotational"
        if rotational.exists():
            turns = rotational.read_text(encoding="ascii").strip() == "1"
            return f"{kind} on {source} ({'rotating' if turns else 'not rotating'}, says the kernel)"
    return f"{kind} on {source}"

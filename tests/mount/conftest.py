"""Trees in memory, mounted for a test by a process of their own, through either binding."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ANSWER_SECONDS = 60


class MemoryMount:
    """A served tree: its mount point, and the process, whose tree can be changed behind the kernel's back by ``call``."""

    def __init__(self, binding: str, mountpoint: Path, *, user: int = 0, options: dict | None = None, **tree) -> None:
        self.binding, self.path = binding, mountpoint
        settings = {
            "binding": binding,
            "mountpoint": str(mountpoint),
            "user": user,
            "options": options or {},
            "tree": tree,
        }
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("serve_memory.py")), json.dumps(settings)],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.log: str | None = None
        self.answer = json.loads(self.process.stdout.readline())

    def call(self, name: str, *args):
        """Have the process do something; see ``Commands`` in serve_memory.py."""
        self.process.stdin.write(json.dumps([name, args]) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        assert "error" not in answer, answer
        return answer["result"]

    def end(self) -> str:
        """Have it unmount and end; returns what it logged. Once is enough."""
        if self.log is None:
            try:
                _, self.log = self.process.communicate(timeout=ANSWER_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                _, self.log = self.process.communicate()
                self.log += "\nit did not end by itself"
                return self.log
        return self.log


def mounted_at(path: Path) -> bool:
    return any(line.split(" ")[4] == str(path) for line in Path("/proc/self/mountinfo").read_text().splitlines())


@pytest.fixture(params=["kernel", "fusepy"])
def binding(request) -> str:
    return request.param


@pytest.fixture
def memory_mount(binding: str, tmp_path: Path) -> Iterator[Callable[..., MemoryMount]]:
    """Mounts on call. When the test ends, everything is unmounted, and nothing may have been logged."""
    made: list[MemoryMount] = []

    def mount(mountpoint: Path | None = None, **settings) -> MemoryMount:
        path = mountpoint or tmp_path / f"mount{len(made)}"
        with contextlib.suppress(OSError):  # it is there, perhaps as a dead mount
            path.mkdir()
        made.append(MemoryMount(binding, path, **settings))
        return made[-1]

    yield mount
    logs, left = [each.end() for each in made if each.log is None], []
    for each in made:
        if mounted_at(each.path):
            left.append(each.path)
            subprocess.run(["umount", "-l", each.path], check=False)
    assert not left, "left mounted"
    assert not any(logs), "\n".join(logs)


@pytest.fixture
def memory(memory_mount: Callable[..., MemoryMount]) -> MemoryMount:
    """An empty tree, mounted, of which the kernel keeps nothing."""
    served = memory_mount()
    assert served.answer == {"result": "mounted"}
    return served


@pytest.fixture
def mnt(memory: MemoryMount) -> Path:
    """Its mount point."""
    return memory.path

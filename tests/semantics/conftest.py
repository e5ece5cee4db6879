"""A home directory of its own for each document that is followed."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.semantics.printed import SECONDS, environment, mounts_below


@pytest.fixture
def home() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="artifactfs-home-") as directory:
        path = Path(directory).resolve()
        yield path
        for point in mounts_below(path):
            # Ends when the mount's process has, which would otherwise write into a directory that is being deleted.
            unmount = ["artifactfs", "unmount", point]
            subprocess.run(unmount, env=environment(path), capture_output=True, timeout=SECONDS, check=True)

"""Spool: files that a program writes into an Artifact before it is logged (``new_file``).

Used by Artifact. They lie in a directory of their own below the cache's, which is the one place that users point at a disk with room.
It goes when the Artifact is logged or forgotten. One that a killed process left is removed when the next is made: as long as its owner
lives, the directory is locked.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
import weakref
from contextlib import suppress
from pathlib import Path
from typing import Final

from artifactfs.errors import translate_os

DIRECTORY: Final = "drafts"
"""Its name below the cache's directory (known to content/cachedir.py)."""
_ABANDONED_SECONDS: Final = 3600.0
"""How long a directory must have been left alone before it is removed: a new one is not locked yet for an instant."""


class Spool:
    """A private directory for one Artifact's new files. Any thread."""

    def __init__(self, cache: Path) -> None:
        above = cache / DIRECTORY
        try:
            above.mkdir(parents=True, exist_ok=True, mode=0o700)
            _sweep(above)
            self.path = Path(tempfile.mkdtemp(dir=above))
            lock = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise translate_os(error, f"cannot make a directory for new files below {above}") from error
        with suppress(OSError):  # a file system without locks: then nothing is swept either
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._remove = weakref.finalize(self, _remove, self.path, lock, os.getpid())

    def place(self) -> Path:
        """A path for a new file."""
        return self.path / os.urandom(8).hex()

    def close(self) -> None:
        """Remove it. Idempotent."""
        self._remove()


def _remove(path: Path, lock: int, process: int) -> None:
    if process == os.getpid():  # a forked child leaves it to its parent
        shutil.rmtree(path, ignore_errors=True)
        os.close(lock)


def _sweep(above: Path) -> None:
    """Remove what killed processes left."""
    for path in above.iterdir():
        with suppress(OSError):
            if path.lstat().st_mtime > time.time() - _ABANDONED_SECONDS:
                continue
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(lock)

"""Discards and undoes in a loop until it is killed: ``discarding.py REPOSITORY WORKSPACE``. Says when it begins."""

from __future__ import annotations

import sys
from pathlib import Path

from artifactfs.repository import Repository
from tests.staging.driver import Disk

with Repository.open(sys.argv[1]) as repository:
    disk = Disk(repository, Path(sys.argv[2]))
    sys.stdout.write("begun\n")
    sys.stdout.flush()
    while True:
        if disk.staging.is_dirty(disk.area):
            disk.staging.discard(disk.area)
        else:
            disk.staging.undo(disk.area)

"""Writes to staging until it is killed, and prints each step once it was acknowledged: a file appended to and a base file patched by
handles that stay open, files made and closed, and some of them removed."""

from __future__ import annotations

import itertools
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from artifactfs.repository import Repository
from tests.staging.driver import Disk


def say(line: str) -> None:
    os.write(1, f"{line}\n".encode())


with Repository.open(sys.argv[1]) as repository:
    disk = Disk(repository, Path(sys.argv[2]))
    log = disk.open_fh("log", os.O_WRONLY | os.O_CREAT)
    picture = disk.open_fh("images/cat.png", os.O_RDWR)
    say("ready")
    for number in itertools.count():
        disk.staging.write(log, 8 * number, memoryview(b"%08d" % number))
        say(f"append {number + 1}")
        disk.staging.write(picture, 10 * number, memoryview(b"#"))
        say(f"patch {number + 1}")
        disk.write(f"images/{number}", b"%d" % number)
        say(f"create {number}")
        if number % 3 == 2:
            disk.unlink(f"images/{number - 1}")
            say(f"remove {number - 1}")

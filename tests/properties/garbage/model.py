"""What shall be there: the files that versions are made of, and what each worker says that it did.

A worker says what it is about to do and what was done, to a file of its own. What it was about to do when it was killed has happened,
or will yet (its request may be on its way), or never: that is undecided until nothing runs any more. So the one that takes its place
leaves alone what is undecided: the artifact, for which it takes another name, and the version that is being deleted.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from artifactfs.model.tree import FileEntry
from artifactfs.repository import Repository

POOL = 14  # different files

Files = dict[str, str]  # path: SHA-256 of the content
Versions = dict[str, Files]  # "name:vN"


def content(number: int) -> bytes:
    """A file of the pool: some are of several chunks, some compress."""
    chance = random.Random(number)
    size = chance.choice([10, 3_000, 20_000, 50_000] + [5 << 20] * (number % 7 == 0))
    return chance.randbytes(size) if number % 3 else bytes([number + 1]) * size


def named(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def version_of(words: str) -> tuple[str, int]:
    name, _, number = words.partition(":v")
    return name, int(number)


@dataclass
class Told:
    """What a worker's file says."""

    living: Versions = field(default_factory=dict)
    making: Versions = field(default_factory=dict)
    """Versions that may have been made, by artifact: one each at most, as an artifact is left alone then."""
    deleting: Versions = field(default_factory=dict)
    """Versions that may have been deleted."""

    def give_up(self, doing: dict[str, Any]) -> None:
        """The worker was killed before it said what became of this."""
        if "artifact" in doing:
            self.making[doing["artifact"]] = doing["files"]
        else:
            self.deleting[doing["version"]] = self.living.pop(doing["version"])

    def is_left_alone(self, artifact: str) -> bool:
        """Whether something of it is undecided."""
        return artifact in self.making or any(version_of(each)[0] == artifact for each in self.deleting)


def replay(top: Path, number: int) -> Told:
    """What the file of a worker says that does not run any more."""
    told = Told()
    doing: dict[str, Any] | None = None
    path = top / f"journal-{number}"
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            words = json.loads(line)
        except ValueError:
            continue  # killed within a line: it was not begun, or is undecided
        if "began" in words and doing is not None:
            told.give_up(doing)
        elif "made" in words:
            told.living[words["made"]] = words["files"]
        elif "deleted" in words:
            del told.living[words["deleted"]]
        doing = words if "doing" in words else None
    if doing is not None:
        told.give_up(doing)
    return told


class Journal:
    """A worker's file."""

    def __init__(self, top: Path, number: int) -> None:
        self.told = replay(top, number)
        self._file = (top / f"journal-{number}").open("a", encoding="utf-8")
        self._file.write("\n")  # the last line may be half of one
        self._say(began=os.getpid())

    def making(self, artifact: str, files: Files) -> None:
        self._say(doing="make", artifact=artifact, files=files)

    def made(self, version: str, files: Files) -> None:
        self._say(made=version, files=files)

    def deleting(self, version: str) -> None:
        self._say(doing="delete", version=version)

    def deleted(self, version: str) -> None:
        self._say(deleted=version)

    def nothing(self) -> None:
        """What was begun has surely not happened, and will not."""
        self._say(nothing=True)

    def close(self) -> None:
        self._file.close()

    def _say(self, **words: Any) -> None:
        self._file.write(json.dumps(words) + "\n")
        self._file.flush()


def check_version(repository: Repository, version: str, files: Files) -> None:
    """Every byte of a version is what it was."""
    record = repository.registry.version(*version_of(version))
    assert record is not None, f"{version} is lost"
    found = {
        path: named(bytes(repository.open_file(entry).read(0, entry.size)))
        for path, entry in repository.trees.walk(record.digest)
        if isinstance(entry, FileEntry)
    }
    assert found == files, f"{version} has other contents"

"""Position: how far a full verify is, in a small file, so that one that was interrupted goes on where it stood.

Used by verify. One thread. Of a repository in a directory it is a file there, written beside and renamed; of one whose registry is a
database it is a note in that. JSON::

    {"magic": "artifactfs-verify", "format": 1, "project": …, "after": the last pack that was read, in order of digest,
     "packs": …, "chunks": …, "bytes": …, "faults": [{"pack": …, "kind": …, "reason": …, "chunk": base64, "size": …}]}
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Final, Protocol

import msgspec

from artifactfs.errors import ArtifactFSError, Format, InvalidInput, NotFound, translate_os
from artifactfs.health.faults import Fault
from artifactfs.registry.contract import PackIndex

MAGIC: Final = "artifactfs-verify"
FORMAT: Final = 1
TOPIC: Final = "verify"
LONGEST_NOTE: Final = 4 << 20
"""Bytes of a note: with more faults than that it stays as it was, and what came after is read again."""


class Position(msgspec.Struct):
    """Packs are read in order of digest: all up to ``after`` were."""

    project: str
    after: str = ""
    packs: int = 0
    chunks: int = 0
    bytes: int = 0
    faults: list[Fault] = msgspec.field(default_factory=list)
    magic: str = MAGIC
    format: int = FORMAT


class Kept(Protocol):
    """Where a position is kept."""

    seconds: float
    """How often it is worth writing down: so much is read twice after a kill, besides the packs under way."""

    def load(self) -> Position:
        """What stands there. NotFound when nothing does, InvalidInput when it is another project's, Format when it is of no use."""

    def save(self, position: Position) -> None:
        """Write it down."""

    def forget(self) -> None:
        """Remove it, if it is there."""


class InFile:
    """A file in the directory of a repository. Access, NoSpace where it cannot be written."""

    seconds = 2.0

    def __init__(self, path: Path, project: str) -> None:
        self._path = path
        self._project = project

    def load(self) -> Position:
        """As :class:`Kept`."""
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            raise _none(self._project) from None
        except OSError as error:
            raise translate_os(error, f"cannot read {self._path}") from error
        return _decoded(data, self._project, str(self._path))

    def save(self, position: Position) -> None:
        """As :class:`Kept`."""
        beside = self._path.with_name(f"{self._path.name}.{os.getpid()}.new")
        try:
            with beside.open("wb") as file:
                file.write(msgspec.json.encode(position))
                file.flush()
                os.fsync(file.fileno())
            beside.replace(self._path)
        except OSError as error:
            beside.unlink(missing_ok=True)
            raise translate_os(error, f"cannot write {self._path}") from error

    def forget(self) -> None:
        """As :class:`Kept`."""
        try:
            self._path.unlink(missing_ok=True)
        except OSError as error:
            raise translate_os(error, f"cannot remove {self._path}") from error


class InNote:
    """A note in the registry. Where nothing may be written, as in a copy that only follows, verify does without."""

    seconds = 10.0  # each is a durable transaction

    def __init__(self, index: PackIndex) -> None:
        self._index = index
        self._writable = True

    def load(self) -> Position:
        """As :class:`Kept`."""
        text = self._index.note(TOPIC)
        if not text:
            raise _none(self._index.project)
        return _decoded(text.encode(), self._index.project, "the note of the interrupted verify in the registry")

    def save(self, position: Position) -> None:
        """As :class:`Kept`. At the beginning there is nothing to write, and a project that is not there is not made."""
        if not position.after:
            self.forget()
        else:
            text = msgspec.json.encode(position).decode()
            if len(text) <= LONGEST_NOTE:
                self._write(self._index.note(TOPIC), text)

    def forget(self) -> None:
        """As :class:`Kept`."""
        present = self._index.note(TOPIC)
        if present:
            self._write(present, "")

    def _write(self, old: str | None, text: str) -> None:
        if not self._writable:
            return
        self._writable = False
        with suppress(ArtifactFSError):
            self._index.exchange_note(TOPIC, old, text)  # of two verifies at once the last one's stays
            self._writable = True


def _none(project: str) -> NotFound:
    return NotFound(
        f"no verify of the project {project!r} was interrupted here: run `artifactfs verify` without --resume"
    )


def _decoded(data: bytes, project: str, where: str) -> Position:
    try:
        found = msgspec.json.decode(data, type=Position)
    except msgspec.MsgspecError as error:
        raise Format(f"{where} is damaged ({error}): run `artifactfs verify` without --resume") from error
    if found.magic != MAGIC or found.format != FORMAT:
        raise Format(f"{where} has another format: run `artifactfs verify` without --resume")
    if found.project != project:
        raise InvalidInput(f"{where} is of the project {found.project!r}: run `artifactfs verify` without --resume")
    return found

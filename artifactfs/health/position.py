"""Position: how far a full verify is, in a small file, so that one that was interrupted goes on where it stood.

Used by verify, for a repository in a directory. One thread. The file is JSON, written beside and renamed::

    {"magic": "artifactfs-verify", "format": 1, "project": …, "after": the last pack that was read, in order of digest,
     "packs": …, "chunks": …, "bytes": …, "faults": [{"pack": …, "kind": …, "reason": …, "chunk": base64, "size": …}]}
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import msgspec

from artifactfs.errors import Format, InvalidInput, NotFound, translate_os
from artifactfs.health.faults import Fault

MAGIC: Final = "artifactfs-verify"
FORMAT: Final = 1


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


def load(path: Path, project: str) -> Position:
    """What stands in the file. NotFound without it, InvalidInput when it is another project's, Format when it is of no use."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise NotFound(
            f"no verify of the project {project!r} was interrupted here: run `artifactfs verify` without --resume"
        ) from None
    except OSError as error:
        raise translate_os(error, f"cannot read {path}") from error
    try:
        found = msgspec.json.decode(data, type=Position)
    except msgspec.MsgspecError as error:
        raise Format(f"{path} is damaged ({error}): run `artifactfs verify` without --resume") from error
    if found.magic != MAGIC or found.format != FORMAT:
        raise Format(f"{path} has another format: run `artifactfs verify` without --resume")
    if found.project != project:
        raise InvalidInput(f"{path} is of the project {found.project!r}: run `artifactfs verify` without --resume")
    return found


def save(path: Path, position: Position) -> None:
    """Write the file. Access, NoSpace."""
    beside = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        with beside.open("wb") as file:
            file.write(msgspec.json.encode(position))
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise translate_os(error, f"cannot write {path}") from error


def forget(path: Path) -> None:
    """Remove the file, if it is there."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise translate_os(error, f"cannot remove {path}") from error

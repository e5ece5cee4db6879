"""A version's file that is open for reading, as Python's own binary files are.

Made by the file system of fsspec. Any thread may use one; its lock is that of :class:`io.BufferedReader`. It keeps its version when an
alias moves, survives a fork (the child reads through a repository of its own), and can be sent to another process, which opens
it anew.
"""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, Protocol

from artifactfs.errors import (
    Access,
    ArtifactFSError,
    Conflict,
    Format,
    Integrity,
    InvalidInput,
    NoSpace,
    NotFound,
    ReadOnly,
    Unavailable,
)

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

    from artifactfs.filesystem.adapter import ArtifactFileSystem

BUFFER: Final = 128 << 10
"""Bytes that a file reads at a time when a program asks for less, so that lines and small fields come without a call each. What is
fetched ahead over a network is decided below, by the order of reading."""

ERRNOS: Final[dict[type[ArtifactFSError], int]] = {
    NotFound: errno.ENOENT,
    Conflict: errno.EBUSY,
    InvalidInput: errno.EINVAL,
    ReadOnly: errno.EROFS,
    Access: errno.EACCES,
    Integrity: errno.EIO,
    Format: errno.EIO,
    Unavailable: errno.EIO,
    NoSpace: errno.ENOSPC,
}


class Content(Protocol):
    """Bytes by offset: of a file, or of a Reference."""

    @property
    def size(self) -> int:
        """Bytes in all."""

    def read(self, offset: int, length: int) -> bytes | memoryview:
        """``length`` bytes from ``offset`` on; fewer at the end only."""

    def read_parts(self, offset: int, length: int) -> list[bytes | memoryview]:
        """As :meth:`read`, in pieces."""


@contextmanager
def as_oserror(where: str = "") -> Iterator[None]:
    """Our errors as the OSError that users of fsspec expect; ``where`` names the file in the message of one that does not."""
    try:
        yield
    except ArtifactFSError as error:
        number = next((ERRNOS[kind] for kind in type(error).__mro__ if kind in ERRNOS), errno.EIO)
        named = not where or isinstance(error, NotFound | InvalidInput)
        raise OSError(number, str(error) if named else f"{where}: {error}") from error


class _Raw(io.RawIOBase):
    """The unbuffered file. ``connect`` opens its content in the process that reads."""

    mode: Final = "rb"

    def __init__(self, name: str, connect: Callable[[], Content]) -> None:
        self.name = name
        self._connect = connect
        self._content = connect()
        self._process = os.getpid()
        self._position = 0

    @property
    def size(self) -> int:
        return self._content.size

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.size}.get(whence)
        if base is None:
            raise ValueError(f"not a place to seek from: {whence!r}; give 0 (start), 1 (here) or 2 (end)")
        if base + offset < 0:
            raise OSError(errno.EINVAL, f"cannot seek to {base + offset}, before the start of {self.name}")
        self._position = base + offset
        return self._position

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        view = memoryview(buffer).cast("B")
        done = 0
        with as_oserror(self.name):
            for part in self._here().read_parts(self._position, len(view)):
                view[done : done + len(part)] = part
                done += len(part)
        self._position += done
        return done

    def readall(self) -> bytes:
        with as_oserror(self.name):
            data = self._here().read(self._position, max(0, self.size - self._position))
        self._position += len(data)
        return bytes(data)

    def _here(self) -> Content:
        if self._process != os.getpid():
            self._content = self._connect()
            self._process = os.getpid()
        return self._content


class ArtifactFile(io.BufferedReader):
    """What ``open("artifactfs://…", "rb")`` gives. ``path`` names the version by its number; ``details`` is what ``info`` says."""

    def __init__(
        self,
        fs: ArtifactFileSystem,
        path: str,
        details: dict[str, Any],
        connect: Callable[[], Content],
        *,
        buffer: int | None = None,
    ) -> None:
        raw = _Raw(path, connect)
        self.fs = fs
        self.path = path
        self.details = details
        self.size = raw.size
        self.blocksize = buffer or BUFFER
        super().__init__(raw, self.blocksize)

    @property
    def full_name(self) -> str:
        """The URL."""
        return f"artifactfs://{self.path}"

    def info(self) -> dict[str, Any]:
        """What is known of the file."""
        return self.details

    def __reduce__(self) -> tuple[Callable[..., ArtifactFile], tuple[ArtifactFileSystem, str, int, int]]:
        return _open_again, (self.fs, self.path, self.blocksize, self.tell())


def _open_again(fs: ArtifactFileSystem, path: str, blocksize: int, position: int) -> ArtifactFile:
    file: ArtifactFile = fs.open(path, "rb", block_size=blocksize)
    file.seek(position)
    return file

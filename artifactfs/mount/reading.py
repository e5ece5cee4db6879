"""Reading: files that are open in versions and below ``.artifactfs/``, and why the last read of one failed.

Used by the View, which gives it the nodes. Handles are even numbers; odd ones are staging's. Threads: any; the tables are only touched
by single, atomic operations of dictionaries, and no lock is held while content is read.
"""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Callable
from typing import Final

from artifactfs.content.reader import FileReader
from artifactfs.errors import ArtifactFSError
from artifactfs.model.tree import FileEntry, Found, RefEntry
from artifactfs.mount.contract import Opened
from artifactfs.mount.failures import Failures
from artifactfs.mount.sources import Sources
from artifactfs.references.contract import ReferenceFile
from artifactfs.repository import Repository

NEIGHBOURS: Final = 512
"""Files after the opened one, in its directory's node, whose places are asked for in the same query (2.5 µs each)."""


class _OpenFile:
    """An open file or reference of a version."""

    __slots__ = ("node", "reader")

    def __init__(self, node: int, reader: FileReader | ReferenceFile) -> None:
        self.node = node
        self.reader = reader


class Reading:
    """Open files. ``name_of`` says what a node of a version is called."""

    def __init__(self, repository: Repository, sources: Sources, name_of: Callable[[int], str]) -> None:
        self._repository = repository
        self._sources = sources
        self._name_of = name_of
        self._handles: dict[int, _OpenFile | bytes] = {}
        self._failures = Failures()
        self._numbers = itertools.count(2, 2)

    def number(self) -> int:
        """A handle that was never given before."""
        return next(self._numbers)

    def open_file(self, node: int, found: Found, entry: FileEntry) -> Opened:
        """Open a file of a version."""
        number = self.number()
        reader = self._repository.open_file(entry, lambda: _neighbours(found))
        self._handles[number] = _OpenFile(node, reader)
        return Opened(number, keep_cache=True, noflush=True, backing=self._repository.backing(reader))

    def open_reference(self, node: int, entry: RefEntry) -> Opened:
        """Open a reference. Its source is asked for its size, if that was not recorded, and for nothing else yet."""
        number = self.number()
        self._handles[number] = _OpenFile(node, self._open_sized(node, entry))
        return Opened(number, keep_cache=entry.size is not None, direct=entry.size is None, noflush=True)

    def ask_size(self, node: int, entry: RefEntry) -> None:
        """Have the size of a reference of which only the URI was recorded, as its source says it now."""
        self._open_sized(node, entry)

    def _open_sized(self, node: int, entry: RefEntry) -> ReferenceFile:
        try:
            return self._sources.open_sized(node, entry)
        except ArtifactFSError as error:
            self._failures.note(node, self._name_of(node), error)
            raise

    def open_content(self, content: bytes) -> Opened:
        """Open bytes that are what they are at this moment."""
        number = self.number()
        self._handles[number] = content
        return Opened(number, direct=True, noflush=True)

    def _handle(self, fh: int) -> _OpenFile | bytes:
        handle = self._handles.get(fh)
        if handle is None:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        return handle

    def verified_backing(self, fh: int) -> str:
        """As the Tree's."""
        handle = self._handle(fh)
        reader = handle.reader if isinstance(handle, _OpenFile) else None
        return self._repository.verified_backing(reader) if isinstance(reader, FileReader) else ""

    def ready(self, fh: int, offset: int, size: int) -> bool:
        """As the Tree's."""
        handle = self._handle(fh)
        return isinstance(handle, bytes) or handle.reader.ready(offset, size)

    def read(self, fh: int, offset: int, size: int) -> list[bytes | memoryview]:
        """Bytes of an open file, as they lie in memory. An error is remembered and logged with the file's name."""
        handle = self._handle(fh)
        if isinstance(handle, bytes):
            return [handle[offset : offset + size]]
        try:
            return handle.reader.read_parts(offset, size)
        except ArtifactFSError as error:
            self._failures.note(handle.node, self._name_of(handle.node), error)
            raise

    def size(self, fh: int) -> int:
        """Bytes of an open file."""
        handle = self._handle(fh)
        return len(handle) if isinstance(handle, bytes) else handle.reader.size

    def release(self, fh: int) -> None:
        """Close a file."""
        self._handles.pop(fh, None)

    def last_error(self, node: int) -> str | None:
        """Why the last read that failed did so; None when none did."""
        return self._failures.last(node)


def _neighbours(found: Found) -> list[bytes]:
    """Digests of the files from the opened one on: a directory is mostly read in its order."""
    entries = found.leaf.entries[found.position : found.position + NEIGHBOURS]
    return [entry.digest for entry in entries if isinstance(entry, FileEntry)]

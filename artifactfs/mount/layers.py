"""Layers: a staging file's bytes as sparse local files over the content of a version.

Used by files.py (open files) and freeze.py (what is being committed). A layer is a sparse local file in which every
byte lies at the offset that it has in the staging file, over something (*below*): content of a version, a frozen
layer, or nothing. Its *extents* are the ranges that are its own; elsewhere the bytes below show through up to
``limit``, and zeros behind it. A layer over nothing has no extents: the local file is all there is, and its size is
the file's. So changing one byte of a 10 GiB file stores one block.

Threads: a layer's extents are changed and looked at under the lock of its open file; a frozen layer's do not change.
What :meth:`Layer.parts` returns may be read without any lock. A local file is closed when nobody refers to it any
more.
"""

from __future__ import annotations

import ctypes
import errno
import os
from bisect import bisect_left, bisect_right
from contextlib import suppress
from threading import Lock
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from artifactfs.mount.inodes import fail

if TYPE_CHECKING:
    from collections.abc import Callable

    from artifactfs.content.reader import ContentReader, FileReader
    from artifactfs.mount.room import Room
    from artifactfs.mount.workspace import Workspace
    from artifactfs.references.contract import ReferenceFile

FALLOC_KEEP_SIZE: Final = 0x01
FALLOC_PUNCH_HOLE: Final = 0x02
FALLOC_ZERO_RANGE: Final = 0x10

_libc: Final = ctypes.CDLL(None, use_errno=True)
_opening: Final = Lock()
"""So that two threads never open one local file twice and lose a descriptor."""


class Edit(NamedTuple):
    """How a list of extents changes: these starts go, and this range comes."""

    removed: list[int]
    start: int
    end: int


class Extents:
    """Sorted half-open ranges that neither overlap nor touch."""

    __slots__ = ("ends", "starts")

    def __init__(self, ranges: list[tuple[int, int]] | None = None) -> None:
        self.starts = [start for start, _ in ranges or ()]
        self.ends = [end for _, end in ranges or ()]

    def __iter__(self) -> Any:
        return zip(self.starts, self.ends, strict=True)

    def plan(self, start: int, end: int) -> Edit | None:
        """How adding a range would change the list; None when it is in it already. Changes nothing."""
        first = bisect_left(self.ends, start)
        last = bisect_right(self.starts, end)
        if first < last:
            if last - first == 1 and self.starts[first] <= start and end <= self.ends[first]:
                return None
            return Edit(self.starts[first:last], min(start, self.starts[first]), max(end, self.ends[last - 1]))
        return Edit([], start, end)

    def apply(self, edit: Edit) -> None:
        """Carry out what :meth:`plan` said."""
        first = bisect_left(self.starts, edit.removed[0]) if edit.removed else bisect_left(self.starts, edit.start)
        last = first + len(edit.removed)
        self.starts[first:last] = [edit.start]
        self.ends[first:last] = [edit.end]

    def clip(self, size: int) -> None:
        """Forget what lies behind ``size``."""
        keep = bisect_left(self.starts, size)
        del self.starts[keep:], self.ends[keep:]
        if keep and self.ends[-1] > size:
            self.ends[-1] = size

    def within(self, start: int, end: int) -> list[tuple[int, int, bool]]:
        """A range cut into pieces ``(start, end, whether it is in the list)``."""
        pieces: list[tuple[int, int, bool]] = []
        index = bisect_right(self.ends, start)
        while start < end:
            if index == len(self.starts) or self.starts[index] >= end:
                pieces.append((start, end, False))
                break
            if self.starts[index] > start:
                pieces.append((start, self.starts[index], False))
                start = self.starts[index]
            stop = min(end, self.ends[index])
            pieces.append((start, stop, True))
            start = stop
            index += 1
        return pieces


class LocalFile:
    """A sparse file of the workspace. It is made when it is first written to; until then it is empty.

    What it takes is counted in ``room``, which may refuse to let it grow.
    """

    __slots__ = ("_fd", "_room", "durable", "path")

    def __init__(self, path: str, room: Room) -> None:
        self.path = path
        self.durable = False  # whether its directory entry is
        self._fd = -1
        self._room = room

    def __del__(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)

    def opened(self) -> int:
        """Its descriptor, or -1 when it does not exist yet."""
        if self._fd < 0:
            with _opening, suppress(FileNotFoundError):
                if self._fd < 0:
                    self._fd = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        return self._fd

    def made(self) -> int:
        """Its descriptor; makes the file."""
        if self._fd < 0:
            with _opening:
                if self._fd < 0:
                    try:
                        self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                    except FileNotFoundError:
                        os.makedirs(os.path.dirname(self.path), exist_ok=True)  # noqa: PTH103, PTH120 - text, as above
                        self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        return self._fd

    def read(self, offset: int, length: int) -> bytes:
        """Exactly ``length`` bytes: zeros behind the end of the local file."""
        fd = self.opened()
        data = os.pread(fd, length, offset) if fd >= 0 else b""
        while len(data) < length:
            more = os.pread(fd, length - len(data), offset + len(data)) if fd >= 0 else b""
            if not more:
                return data + bytes(length - len(data))
            data += more
        return data

    def write(self, offset: int, data: memoryview) -> None:
        """Write all of ``data``. An error may leave a part of it written."""
        fd = self.made()
        with self._room.growing(fd, offset, len(data)):
            done = os.pwrite(fd, data, offset)
            while done < len(data):
                done += os.pwrite(fd, data[done:], offset + done)

    def truncate(self, size: int) -> None:
        """Cut or grow the local file to ``size``."""
        fd = self.made()
        with self._room.changing(fd):
            os.ftruncate(fd, size)

    def cut(self, size: int) -> None:
        """Free what lies behind ``size``; never grows the file."""
        fd = self.opened()
        if fd >= 0 and os.fstat(fd).st_size > size:
            self.truncate(size)

    def allocate(self, mode: int, offset: int, length: int) -> None:
        """fallocate(2). EOPNOTSUPP where the local file system has it not."""
        fd = self.made()
        with self._room.changing(fd) if mode & FALLOC_PUNCH_HOLE else self._room.growing(fd, offset, length):
            result = _libc.fallocate(fd, mode, ctypes.c_long(offset), ctypes.c_long(length))
            if result:
                raise fail(ctypes.get_errno())

    def zero(self, offset: int, length: int) -> None:
        """Let a range read as zeros, without growing the file; frees its blocks where the file system can."""
        fd = self.opened()
        end = min(offset + length, os.fstat(fd).st_size) if fd >= 0 else 0
        if offset >= end:
            return
        try:
            self.allocate(FALLOC_PUNCH_HOLE | FALLOC_KEEP_SIZE, offset, end - offset)
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
            zeros = memoryview(bytes(1 << 20))
            while offset < end:
                part = min(len(zeros), end - offset)
                self.write(offset, zeros[:part])
                offset += part

    def status(self) -> os.stat_result | None:
        """What the local file system says of it; None when it does not exist."""
        if self._fd >= 0:
            return os.fstat(self._fd)
        try:
            return os.stat(self.path)  # noqa: PTH116 - on the path of getattr
        except FileNotFoundError:
            return None

    def sync(self) -> None:
        """Make its bytes, and that it exists, durable."""
        fd = self.opened()
        if fd < 0:
            return
        os.fsync(fd)
        if not self.durable:
            directory = os.path.dirname(self.path)  # noqa: PTH120 - text, as above
            for each in (directory, os.path.dirname(directory)):  # noqa: PTH120
                fd = os.open(each, os.O_RDONLY | os.O_DIRECTORY)
                try:
                    os.fsync(fd)
                finally:
                    os.close(fd)
            self.durable = True


class VersionContent:
    """The content of a version's file, opened when it is first read."""

    __slots__ = ("_file", "_neighbours", "_reader", "digest", "size")

    def __init__(
        self, reader: ContentReader, digest: bytes, size: int, neighbours: Callable[[], list[bytes]] | None = None
    ) -> None:
        self._reader = reader
        self._neighbours = neighbours
        self._file: FileReader | None = None
        self.digest = digest
        self.size = size

    @property
    def file(self) -> FileReader:
        """Its reader."""
        if self._file is None:
            self._file = self._reader.open(self.digest, self.size, self._neighbours)
        return self._file

    def read(self, offset: int, length: int) -> bytes | memoryview:
        """Bytes of it, within its size."""
        return self.file.read(offset, length)


class ReferenceContent:
    """The content of a reference's source. Never below a layer: a reference is replaced, not changed.

    ``sized``: its size is known, so that it may be read.
    """

    __slots__ = ("file", "sized")

    def __init__(self, file: ReferenceFile, *, sized: bool) -> None:
        self.file = file
        self.sized = sized

    def read(self, offset: int, length: int) -> bytes | memoryview:
        """Bytes of it, within its size."""
        return self.file.read(offset, length)


class Part(NamedTuple):
    """A range of a file and where its bytes are; without a source they are zeros."""

    source: LocalFile | VersionContent | ReferenceContent | None
    offset: int
    length: int


class Layer:
    """A layer. ``generation``: of its area when it was made; a frozen one is never written to."""

    __slots__ = ("below", "extents", "generation", "id", "limit", "local")

    def __init__(
        self,
        number: int,
        generation: int,
        local: LocalFile,
        below: Layer | VersionContent | None = None,
        limit: int = 0,
    ) -> None:
        self.id = number
        self.generation = generation
        self.local = local
        self.below = below
        self.limit = limit
        self.extents = Extents() if below is not None else None

    def parts(self, offset: int, length: int) -> list[Part]:
        """Where the bytes of a range are. Opens the local files, so that they may be unlinked before they are read."""
        if self.extents is None:
            self.local.opened()
            return [Part(self.local, offset, length)]
        found: list[Part] = []
        for start, end, own in self.extents.within(offset, offset + length):
            if own:
                self.local.opened()
                found.append(Part(self.local, start, end - start))
                continue
            shown = min(end, self.limit)
            if start < shown:
                found += parts_of(self.below, start, shown - start)
            if max(start, shown) < end:
                found.append(Part(None, max(start, shown), end - max(start, shown)))
        return found

    def chain(self) -> list[Layer]:
        """This layer and those below it, from the top."""
        found = [self]
        while isinstance(found[-1].below, Layer):
            found.append(found[-1].below)
        return found


def parts_of(source: Layer | VersionContent | ReferenceContent | None, offset: int, length: int) -> list[Part]:
    """Where the bytes of a range of any source are."""
    if isinstance(source, Layer):
        return source.parts(offset, length)
    return [Part(source, offset, length)]


def read_parts(parts: list[Part]) -> bytes | memoryview:
    """The bytes of consecutive parts."""
    if len(parts) == 1 and parts[0].source is not None:
        return parts[0].source.read(parts[0].offset, parts[0].length)
    return b"".join(
        bytes(part.length) if part.source is None else part.source.read(part.offset, part.length) for part in parts
    )


class Flat(NamedTuple):
    """A chain of layers as one: the version's content at the bottom, and the ranges where its bytes do not show."""

    content: VersionContent | None
    changed: list[tuple[int, int]]


def flatten(source: Layer | VersionContent | None, size: int) -> Flat:
    """What of a file of ``size`` bytes differs from the version's content that it began with."""
    if not isinstance(source, Layer):
        return Flat(source, [])
    limit = size
    ranges: list[tuple[int, int]] = []
    layer: Layer = source
    while True:
        ranges += layer.extents or ()
        limit = min(limit, layer.limit)
        if layer.extents is None or layer.below is None:
            return Flat(None, [(0, size)])
        if isinstance(layer.below, VersionContent):
            break
        layer = layer.below
    ranges.append((min(limit, size), size))
    merged = Extents()
    for start, end in sorted(ranges):
        stop = min(end, size)
        if start < stop and (edit := merged.plan(start, stop)) is not None:
            merged.apply(edit)
    return Flat(layer.below, list(merged))


def load_layer(execute: Any, workspace: Workspace, reader: ContentReader, number: int) -> Layer:
    """A layer and those below it, from the tables that ``execute`` reads."""
    row = execute(
        "SELECT generation, below, digest, base_size, base_limit FROM layer WHERE id = ?", (number,)
    ).fetchone()
    if row is None:
        raise fail(errno.EIO)
    generation, below, digest, base_size, limit = row
    source: Layer | VersionContent | None = None
    if below is not None:
        source = load_layer(execute, workspace, reader, below)
    elif digest is not None:
        source = VersionContent(reader, digest, base_size)
    layer = Layer(number, generation, workspace.local_file(number), source, limit)
    if source is not None:
        layer.extents = Extents(
            execute("SELECT start, end FROM extent WHERE layer = ? ORDER BY start", (number,)).fetchall()
        )
    return layer

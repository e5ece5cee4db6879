"""Files: open files of staging: handles, reads, writes, and what makes them last.

Used by staging.py (operations) and freeze.py (which stops writes for a moment and puts layers below open files). A
file's bytes are in its layers (mount/layers.py), its size and times in its inode (mount/inodes.py).

Locks, in this order: the gate (shared by writers, closed by a freeze), the open file's lock, the workspace's lock.
Bytes are written under the first two, and read under none: a read holds the file's lock only while it finds out where
the bytes are.

Invariant *data before extents*: bytes are in the local file before the extent row that shows them is committed, so a
killed write is there or not, never half a page of zeros. Of a file over nothing the local file itself tells size and
time (:meth:`Files.recover`).

Invariant *frozen is final*: a layer of the generation being committed, or of an earlier one, is not written to while
it is frozen; the next write puts a new layer over it.
"""

from __future__ import annotations

import errno
import os
import time
from threading import Condition, Lock
from typing import TYPE_CHECKING, Final

from artifactfs.mount.inodes import Area, Inode, Inodes, fail, reference_of
from artifactfs.mount.layers import (
    FALLOC_KEEP_SIZE,
    FALLOC_PUNCH_HOLE,
    FALLOC_ZERO_RANGE,
    Edit,
    Layer,
    Part,
    ReferenceContent,
    VersionContent,
    load_layer,
    parts_of,
    read_parts,
)

if TYPE_CHECKING:
    from types import TracebackType

    from artifactfs.content.reader import ContentReader
    from artifactfs.mount.sources import Sources
    from artifactfs.mount.workspace import Workspace

MAX_FILE: Final = (1 << 63) - 1  # bytes: off_t
CLOSING_SECONDS: Final = 0.25
"""How long a handle that was flushed may take to be released before it counts as open."""


class Gate:
    """Lets any number of writers in, or one freeze. Not reentrant."""

    def __init__(self) -> None:
        self._condition = Condition(Lock())
        self._inside = 0
        self._closed = False

    def __enter__(self) -> None:
        with self._condition:
            while self._closed:
                self._condition.wait()
            self._inside += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._condition:
            self._inside -= 1
            if self._closed and not self._inside:
                self._condition.notify_all()

    def close(self) -> None:
        """Keep writers out, and wait for those inside: they only write to the local disk."""
        with self._condition:
            while self._closed:
                self._condition.wait()
            self._closed = True
            while self._inside:
                self._condition.wait()

    def reopen(self) -> None:
        """Let writers in again."""
        with self._condition:
            self._closed = False
            self._condition.notify_all()


class OpenFile:
    """A file with open handles. ``prepared``: generation for which rows, marks and a layer to write to are in place.

    ``lent``: its local files belong to what was put aside (mount/aside.py), and stay when it is closed.
    """

    __slots__ = ("area", "inode", "lent", "lock", "prepared", "top", "users", "writers")

    def __init__(self, inode: Inode, area: Area, top: Layer | VersionContent | ReferenceContent | None) -> None:
        self.inode = inode
        self.area = area
        self.top = top
        self.lock = Lock()
        self.users = 0
        self.writers = 0
        self.prepared = 0
        self.lent = False


class Handle:
    """One open(2) of a file. ``flushed``: a descriptor of it was closed and nothing was written since."""

    __slots__ = ("file", "flushed", "pid", "writable")

    def __init__(self, file: OpenFile, *, writable: bool, pid: int) -> None:
        self.file = file
        self.writable = writable
        self.pid = pid
        self.flushed = False


class Files:
    """All open files of a workspace."""

    def __init__(self, workspace: Workspace, inodes: Inodes, reader: ContentReader, sources: Sources) -> None:
        self._workspace = workspace
        self._inodes = inodes
        self._reader = reader
        self._sources = sources
        self.gate = Gate()
        self.open_files: dict[int, OpenFile] = {}
        self._handles: dict[int, Handle] = {}
        self._last = -1

    # -- handles ---------------------------------------------------------------------------------------------------

    def number(self) -> int:
        """A new handle number. Staging's are odd."""
        with self._workspace.lock:
            self._last += 2
            return self._last

    def handle(self, fh: int) -> Handle:
        """An open handle, or EBADF."""
        found = self._handles.get(fh)
        if found is None:
            raise fail(errno.EBADF)
        return found

    def inode(self, fh: int | None, node: int) -> Inode:
        """The inode that is open as ``fh``, whose number must be this. ESTALE otherwise."""
        found = None if fh is None else self._handles.get(fh)
        if found is None or found.file.inode.id != node:
            raise fail(errno.ESTALE)
        return found.file.inode

    def open(self, inode: Inode, flags: int, pid: int) -> int:
        """Open a file; truncates it if the flags say so. Returns the handle's number.

        A reference is written to only by one who empties it, which makes it a file of its own; otherwise EPERM.
        """
        writable = flags & os.O_ACCMODE != os.O_RDONLY
        content = None
        if inode.reference is not None and not flags & os.O_TRUNC:
            if writable:
                raise fail(errno.EPERM)
            # Its source may be asked for the size: before any lock.
            source = self._sources.open_sized(inode.id, reference_of(inode.reference))
            content = ReferenceContent(source, sized=True)
        file = self.hold(inode)
        try:
            if content is not None:
                with file.lock:
                    if isinstance(file.top, ReferenceContent) and not file.top.sized:
                        file.top = content
                        file.inode.size = content.file.size
            if flags & os.O_TRUNC:
                self.truncate(file, 0)
        except BaseException:
            self.let_go(file)
            raise
        fh = self.number()
        with self._workspace.lock:
            file.writers += writable
            self._handles[fh] = Handle(file, writable=writable, pid=pid)
        return fh

    def hold(self, inode: Inode, new: Layer | None = None) -> OpenFile:
        """The open file of an inode, counted as used; pair with :meth:`let_go`. ``new``: the layer of one just made to be written."""
        with self._workspace.lock:
            file = self.open_files.get(inode.id)
            if file is None:
                inode = self._inodes.get(inode.id)
                file = OpenFile(inode, self._inodes.area_of(inode), new or self._top(inode))
                file.prepared = new.generation if new is not None else 0
                self.open_files[inode.id] = file
                self._inodes.pinned[inode.id] = inode
            file.users += 1
            return file

    def _top(self, inode: Inode) -> Layer | VersionContent | ReferenceContent | None:
        if inode.layer is not None:
            return load_layer(self._workspace.execute, self._workspace, self._reader, inode.layer)
        if inode.reference is not None:
            entry = reference_of(inode.reference)
            return ReferenceContent(self._sources.open(entry), sized=entry.size is not None)
        if inode.digest is not None and inode.size:
            return VersionContent(self._reader, inode.digest, inode.size, lambda: self._inodes.neighbours(inode.id))
        return None

    def let_go(self, file: OpenFile) -> None:
        """Undo a :meth:`hold`. The last one of an unlinked file frees its local files."""
        inode = file.inode
        with self._workspace.lock:
            file.users -= 1
            if file.users:
                return
            self.save(file)
            if self.open_files.get(inode.id) is file:
                del self.open_files[inode.id]
                del self._inodes.pinned[inode.id]
                self._inodes.forget(inode.id)
            if inode.row or file.lent or not isinstance(file.top, Layer):
                return
            self._workspace.discard([layer.id for layer in file.top.chain()])
        self._workspace.collect()

    def release(self, fh: int) -> None:
        """Close a handle."""
        with self._workspace.lock:
            handle = self._handles.pop(fh, None)
            if handle is None:
                return
            handle.file.writers -= handle.writable
        self.let_go(handle.file)

    def detach(self, file: OpenFile) -> list[int]:
        """Let a file whose rows were deleted live on for its handles alone. Returns its layers, which it deletes in the end."""
        inode = file.inode
        inode.row = False
        inode.nlink = 0
        del self.open_files[inode.id]
        del self._inodes.pinned[inode.id]
        return [layer.id for layer in file.top.chain()] if isinstance(file.top, Layer) else []

    def lend(self, file: OpenFile) -> None:
        """Let a file whose rows are put aside be read on by its handles: by descriptors, as its local files may go any time."""
        if file.inode.row and isinstance(file.top, Layer):
            file.lent = True
            for layer in file.top.chain():
                layer.local.opened()
        self.detach(file)

    def await_closing(self, area: Area) -> None:
        """Wait a moment for handles that may be closed: close(2) returns before the kernel says so. Without the lock."""
        deadline = time.monotonic() + CLOSING_SECONDS
        while time.monotonic() < deadline:
            with self._workspace.lock:
                writing = self._writing(area)
            if not writing or not all(handle.flushed for handle in writing):
                return
            time.sleep(0.002)

    def writing(self, area: Area) -> list[tuple[str, int]]:
        """Path and process id of each handle that an area's files are open for writing by."""
        with self._workspace.lock:
            return [(self._inodes.path(handle.file.inode), handle.pid) for handle in self._writing(area)]

    def _writing(self, area: Area) -> list[Handle]:
        return [
            handle
            for handle in self._handles.values()
            if handle.writable and handle.file.area is area and handle.file.inode.nlink
        ]

    # -- reading ---------------------------------------------------------------------------------------------------

    def read(self, fh: int, offset: int, size: int) -> bytes | memoryview:
        """Bytes of a file; fewer at its end only."""
        parts = self._parts(self.handle(fh).file, offset, size)
        return read_parts(parts) if parts else b""

    def ready(self, fh: int, offset: int, size: int) -> bool:
        """Whether a read waits for nothing but the local disk."""
        return all(
            not isinstance(part.source, VersionContent | ReferenceContent)
            or part.source.file.ready(part.offset, part.length)
            for part in self._parts(self.handle(fh).file, offset, size)
        )

    def _parts(self, file: OpenFile, offset: int, size: int) -> list[Part]:
        with file.lock:
            length = min(size, file.inode.size - offset)
            if length <= 0:
                return []
            return parts_of(file.top, offset, length)

    def seek(self, fh: int, offset: int, whence: int) -> int:
        """SEEK_DATA and SEEK_HOLE. A file over something counts as data from end to end, which is allowed."""
        file = self.handle(fh).file
        with file.lock:
            size = file.inode.size
            if offset >= size or offset < 0:
                raise fail(errno.ENXIO)
            if isinstance(file.top, Layer) and file.top.extents is None:
                fd = file.top.local.opened()
                if fd >= 0:
                    return os.lseek(fd, offset, whence)
        return size if whence == os.SEEK_HOLE else offset

    # -- writing ---------------------------------------------------------------------------------------------------

    def write(self, fh: int, offset: int, data: memoryview) -> int:
        """Store all of ``data``, or raise; then what was there before is intact."""
        handle = self.handle(fh)
        if not handle.writable:
            raise fail(errno.EBADF)
        file = handle.file
        handle.flushed = False
        end = offset + len(data)
        with self.gate, file.lock:
            inode = file.inode
            layer = self._prepared(file)
            try:
                layer.local.write(offset, data)
            except OSError:
                if layer.extents is None:
                    layer.local.cut(inode.size)
                raise
            if layer.extents is not None:
                edit = layer.extents.plan(offset, end)
                if edit is not None:
                    self._persist(layer, inode, edit, max(end, inode.size))
            inode.size = max(inode.size, end)
            inode.mtime = inode.ctime = time.time_ns()
            inode.unsaved = True
        return len(data)

    def truncate(self, file: OpenFile, size: int) -> None:
        """Cut a file, or grow it by zeros."""
        if size > MAX_FILE:
            raise fail(errno.EFBIG)
        with self.gate, file.lock:
            inode = file.inode
            if size == 0:
                layer = self._fresh(file)
                layer.local.cut(0)
            else:
                layer = self._prepared(file)
                if layer.extents is None:
                    layer.local.truncate(size)
            with self._workspace.transaction:
                if layer.extents is not None:
                    self._clip(layer, inode, size)
                inode.size = size
                inode.mtime = inode.ctime = time.time_ns()
                if inode.row:
                    inode.open = int(file.writers > 0)
                    self._inodes.save(inode)
                    file.prepared = file.prepared if inode.open else 0
            if layer.extents is not None:
                layer.local.cut(size)

    def allocate(self, fh: int, mode: int, offset: int, length: int) -> None:
        """fallocate(2): reserve, punch a hole, or zero a range; anything else is EOPNOTSUPP."""
        handle = self.handle(fh)
        if not handle.writable:
            raise fail(errno.EBADF)
        if offset < 0 or length <= 0:
            raise fail(errno.EINVAL)
        if offset + length > MAX_FILE:
            raise fail(errno.EFBIG)
        keep = bool(mode & FALLOC_KEEP_SIZE)
        kind = mode & ~FALLOC_KEEP_SIZE
        if kind not in {0, FALLOC_PUNCH_HOLE, FALLOC_ZERO_RANGE} or (kind == FALLOC_PUNCH_HOLE and not keep):
            raise fail(errno.EOPNOTSUPP)
        file = handle.file
        with self.gate, file.lock:
            inode = file.inode
            layer = self._prepared(file)
            end = offset + length
            size = inode.size if keep else max(inode.size, end)
            if kind:
                layer.local.zero(offset, length)
                inside = min(end, inode.size)
                if layer.extents is not None and offset < inside:
                    edit = layer.extents.plan(offset, inside)
                    if edit is not None:
                        self._persist(layer, inode, edit, inode.size)
            else:
                # Over something, the reserved blocks are those that a later write of the range needs.
                layer.local.allocate(FALLOC_KEEP_SIZE, offset, length)
            if size > inode.size and layer.extents is None:
                layer.local.truncate(size)
            with self._workspace.transaction:
                inode.size = size
                inode.mtime = inode.ctime = time.time_ns()
                if inode.row:
                    self._inodes.save(inode)

    # -- layers to write to ----------------------------------------------------------------------------------------

    def _prepared(self, file: OpenFile) -> Layer:
        """The layer to write to, with everything recorded that a write needs. Under the file's lock."""
        if file.prepared == file.area.generation and isinstance(file.top, Layer):
            return file.top
        with self._workspace.lock:  # a thaw changes file.top under it
            top = file.top
            if isinstance(top, ReferenceContent):
                raise fail(errno.EPERM)
            usable = isinstance(top, Layer) and not self._final(file, top)
            if not usable and not file.inode.size:
                return self._fresh(file)
            with self._workspace.transaction:
                self._announce(file)
                layer = top if usable and isinstance(top, Layer) else self._add_layer(file, top)
            file.top = layer
            file.prepared = file.area.generation
            return layer

    def _fresh(self, file: OpenFile) -> Layer:
        """As :meth:`_prepared`, for a file that is to lose all its bytes: a layer over nothing."""
        with self._workspace.lock:
            top = file.top
            if isinstance(top, Layer) and top.extents is None and not self._final(file, top):
                return self._prepared(file)
            with self._workspace.transaction:
                self._announce(file)
                layer = self._add_layer(file, None)
                dropped = self._drop_layers(file, top)
            file.top = layer
            file.prepared = file.area.generation
            self._workspace.discard(dropped)
        self._workspace.collect()
        return layer

    def _announce(self, file: OpenFile) -> None:
        """Record that a file changes: rows, marks, and that its local file is to be looked at after a kill."""
        inode = file.inode
        if not inode.nlink:
            return  # nobody will see it again
        self._inodes.own(inode)
        self._inodes.mark(inode)
        if not inode.open:
            self._workspace.execute("UPDATE inode SET open = 1 WHERE id = ?", (inode.id,))
            inode.open = 1

    def _final(self, file: OpenFile, layer: Layer) -> bool:
        """Whether a layer is being committed."""
        return file.area.frozen is not None and layer.generation <= file.area.frozen

    def _add_layer(self, file: OpenFile, below: Layer | VersionContent | None) -> Layer:
        inode = file.inode
        digest = None if below is None else inode.digest
        number = self._workspace.number("layer")
        local = self._workspace.local_file(number)
        limit = inode.size if below is not None else 0
        layer = Layer(number, file.area.generation, local, below, limit)
        if inode.row:
            self.insert_layer(inode, layer)
            inode.layer = number
            self._workspace.execute(
                "UPDATE inode SET layer = ?, digest = ?, target = NULL, reference = NULL WHERE id = ?",
                (number, digest, inode.id),
            )
        else:
            self._workspace.execute("INSERT INTO garbage VALUES (?)", (number,))
        inode.digest, inode.target, inode.reference = digest, None, None
        return layer

    def insert_layer(self, inode: Inode, layer: Layer) -> None:
        """Write a new layer's row; within a transaction."""
        below = layer.below
        content = below if isinstance(below, VersionContent) else None
        self._workspace.execute(
            "INSERT INTO layer VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                layer.id,
                inode.area,
                layer.generation,
                below.id if isinstance(below, Layer) else None,
                content.digest if content is not None else None,
                content.size if content is not None else 0,
                layer.limit,
            ),
        )

    def _drop_layers(self, file: OpenFile, top: Layer | VersionContent | ReferenceContent | None) -> list[int]:
        if not isinstance(top, Layer):
            return []
        # Those of an unlinked file have no rows any more.
        return self.drop_layers(top.id) if file.inode.row else [layer.id for layer in top.chain()]

    def drop_layers(self, top: int | None) -> list[int]:
        """Delete the rows of a layer and of those below it; within a transaction. Returns them for :meth:`Workspace.discard`."""
        dropped: list[int] = []
        execute = self._workspace.execute
        while top is not None:
            row = execute("SELECT below FROM layer WHERE id = ?", (top,)).fetchone()
            execute("DELETE FROM extent WHERE layer = ?", (top,))
            execute("DELETE FROM layer WHERE id = ?", (top,))
            execute("INSERT OR IGNORE INTO garbage VALUES (?)", (top,))
            dropped.append(top)
            top = row[0] if row is not None else None
        return dropped

    def _persist(self, layer: Layer, inode: Inode, edit: Edit, size: int) -> None:
        """Record that a range is the layer's own, and the size that goes with it."""
        assert layer.extents is not None  # noqa: S101 - the caller has planned with it
        if inode.row:
            with self._workspace.transaction:
                execute = self._workspace.execute
                if edit.removed == [edit.start]:
                    execute("UPDATE extent SET end = ? WHERE layer = ? AND start = ?", (edit.end, layer.id, edit.start))
                else:
                    for start in edit.removed:
                        execute("DELETE FROM extent WHERE layer = ? AND start = ?", (layer.id, start))
                    execute("INSERT INTO extent VALUES (?, ?, ?)", (layer.id, edit.start, edit.end))
                if size != inode.size:
                    execute("UPDATE inode SET size = ? WHERE id = ?", (size, inode.id))
        layer.extents.apply(edit)

    def _clip(self, layer: Layer, inode: Inode, size: int) -> None:
        """Let a layer over something end at ``size``: what is behind shows nothing of it, nor of what is below, again."""
        assert layer.extents is not None  # noqa: S101 - the caller has looked
        if size >= inode.size:
            return
        limit = min(layer.limit, size)
        if inode.row:
            execute = self._workspace.execute
            execute("UPDATE layer SET base_limit = ? WHERE id = ?", (limit, layer.id))
            execute("DELETE FROM extent WHERE layer = ? AND start >= ?", (layer.id, size))
            execute("UPDATE extent SET end = ? WHERE layer = ? AND end > ?", (size, layer.id, size))
        layer.limit = limit
        layer.extents.clip(size)

    # -- lasting ---------------------------------------------------------------------------------------------------

    def save(self, file: OpenFile) -> None:
        """Write size and times to the row, and that the local file need not be looked at, until the next write."""
        inode = file.inode
        with self._workspace.lock:
            if inode.row and (inode.unsaved or (inode.open and not file.writers)):
                with self._workspace.transaction:
                    inode.open = 0
                    file.prepared = 0
                    self._inodes.save(inode)

    def flush(self, fh: int) -> None:
        """What close(2) asks for."""
        handle = self.handle(fh)
        file = handle.file
        with file.lock:
            self.save(file)
        handle.flushed = True

    def sync(self, fh: int) -> None:
        """fsync(2)."""
        self.sync_file(self.handle(fh).file)
        self._workspace.sync()

    def sync_file(self, file: OpenFile) -> None:
        """Make a file's bytes durable, and write its row; the tables are the caller's to sync."""
        with file.lock:
            self.save(file)
            top = file.top
            if isinstance(top, Layer):
                for layer in top.chain():
                    layer.local.opened()
        if isinstance(top, Layer):
            for layer in top.chain():
                layer.local.sync()

    def save_all(self, area: Area | None = None) -> None:
        """Write the rows of open files, of one area or of all. Under the workspace's lock, with the gate closed or no writers."""
        for file in list(self.open_files.values()):
            if area is None or file.area is area:
                self.save(file)

    def recover(self) -> None:
        """After a kill: sizes and times of files that were being written to are those of their local files."""
        execute = self._workspace.execute
        with self._workspace.transaction:
            found = execute(
                "SELECT inode.id, inode.size, inode.mtime, layer.id, layer.below, layer.digest "
                "FROM inode JOIN layer ON layer.id = inode.layer WHERE inode.open = 1"
            ).fetchall()
            for node, size, mtime, layer, below, digest in found:
                status = self._workspace.local_file(layer).status()
                if below is None and digest is None:
                    size = status.st_size if status is not None else 0  # noqa: PLW2901 - the better knowledge
                if status is not None:
                    mtime = max(mtime, status.st_mtime_ns)  # noqa: PLW2901
                execute(
                    "UPDATE inode SET size = ?, mtime = ?, ctime = max(ctime, ?), open = 0 WHERE id = ?",
                    (size, mtime, mtime, node),
                )
            execute("UPDATE inode SET open = 0 WHERE open = 1")

"""Staging: the writable areas of a mount, as the nodes below them.

Implements :class:`~artifactfs.mount.contract.Tree` for nodes of the spaces 3 and 4; the View gives it those. What it
is made of::

    staging.py     the operations of the file system (this module)
    areas.py       the operations of commands: diff, discard, stage, rebase, following `latest`
    aside.py       the rows of an area in bulk: what was discarded, until it goes
    freeze.py      commit: freeze a generation, build its tree, thaw
    inodes.py      names, attributes, what changed          files.py    open files
    workspace.py   the tables and their directory           layers.py   the bytes of a file

Semantics are those of a local disk, with these limits: a Reference is read, or replaced, but not written to (EPERM, unless
the open empties it); names and symlink targets are UTF-8 (EILSEQ); devices, FIFOs and sockets are refused (EPERM); xattrs
are ``user.`` only; atime moves by utimens alone; directories have a link count of 1; nothing moves or is linked between two
artifacts (EXDEV). Who may do what is the kernel's to check (``default_permissions``).

The kernel may keep what it learns here for ever: every change comes through it, or is told to it
(:class:`~artifactfs.mount.areas.Invalidation`).

Threads: any. The workspace's lock guards all metadata; a node of a stored tree is waited for before it is taken.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Final

from artifactfs.errors import ArtifactFSError
from artifactfs.model.tree import Entry, Trees
from artifactfs.mount.areas import Areas
from artifactfs.mount.contract import (
    FOREVER,
    SET_ATIME,
    SET_ATIME_NOW,
    SET_CTIME,
    SET_GID,
    SET_MODE,
    SET_MTIME,
    SET_MTIME_NOW,
    SET_SIZE,
    SET_UID,
    Attr,
    Caller,
    Opened,
    SetAttr,
    StatFS,
)
from artifactfs.mount.export import Exporter
from artifactfs.mount.failures import Failures
from artifactfs.mount.files import Files
from artifactfs.mount.freeze import Freezer
from artifactfs.mount.inodes import Inode, Inodes, Origin, Slot, fail, reference_of
from artifactfs.mount.layers import Layer

if TYPE_CHECKING:
    from artifactfs.content.reader import ContentReader
    from artifactfs.mount.sources import Sources
    from artifactfs.mount.workspace import Workspace

MAX_NAME: Final = 255  # bytes
MAX_XATTR_NAME: Final = 255  # bytes, as the kernel's XATTR_NAME_MAX
MAX_XATTR_VALUE: Final = 65536  # bytes, as the kernel's XATTR_SIZE_MAX
BATCH: Final = 512
"""Names of a directory that are looked up together, at most: about as many as the last request took."""
SMALL_BATCH: Final = 16
"""With so many a listing goes on after names changed in between."""

RENAME_NOREPLACE: Final = 1
RENAME_EXCHANGE: Final = 2
XATTR_CREATE: Final = 1
XATTR_REPLACE: Final = 2

_USER: Final = b"user."
_OURS: Final = b"user.artifactfs."

Cursor = tuple[int, bytes]
"""Where a listing stands: a position in the directory's tree and, behind its end (-1), the last added name."""


class _Listing:
    """An open directory, where the entries of its last request end, by offset, and the offset that this began with."""

    __slots__ = ("begin", "cursors", "node")

    def __init__(self, node: int) -> None:
        self.node = node
        self.begin = 0
        self.cursors: dict[int, Cursor] = {}


class Staging:
    """All staging areas of a workspace. ``uid`` and ``gid`` own what comes from versions. ``unseen``: there is no mount of them."""

    def __init__(
        self,
        workspace: Workspace,
        trees: Trees,
        reader: ContentReader,
        sources: Sources,
        *,
        uid: int,
        gid: int,
        unseen: bool = False,
    ) -> None:
        self._workspace = workspace
        self._trees = trees
        self._sources = sources
        self._failures = Failures()
        self._inodes = inodes = Inodes(workspace, trees, sources, uid=uid, gid=gid)
        self._files = files = Files(workspace, inodes, reader, sources)
        files.recover()
        self._areas = areas = Areas(workspace, inodes, files, trees, unseen=unseen)
        self._freezer = freezer = Freezer(workspace, inodes, files, trees, reader, owner=(uid, gid))
        self._listings: dict[int, _Listing] = {}
        # What commands ask for: one door for the View and the daemon.
        self.area = areas.area
        self.names = areas.names
        self.based = areas.based
        self.drop = areas.drop
        self.status = areas.status
        self.is_dirty = areas.is_dirty
        self.changes = areas.changes
        self.follow = areas.follow
        self.discard = areas.discard
        self.undo = areas.undo
        self.room = workspace.room
        self.discarded = areas.discarded
        self.expire = areas.expire
        self.reset = areas.reset
        self.rebase = areas.rebase
        self.freeze = freezer.freeze
        self.build = freezer.build
        self.prepare = freezer.prepare
        self.thaw = freezer.thaw
        self.pending = freezer.pending
        self.recover = freezer.recover
        self.export = Exporter(workspace, inodes, trees, reader, sources).export

    def sync(self) -> None:
        """Make everything durable: all open files, then the tables."""
        with self._workspace.lock:
            files = list(self._files.open_files.values())
        for file in files:
            self._files.sync_file(file)
        self._workspace.sync()

    def close(self) -> None:
        """Make everything durable and let the workspace go."""
        self.sync()
        self._workspace.close()

    # -- attributes ------------------------------------------------------------------------------------------------

    def _attr(self, inode: Inode) -> Attr:
        size = inode.size
        blocks = (size + 511) >> 9 if inode.file else 0
        if inode.layer is not None and size:
            # Of a file over nothing the local one knows; a file over a version counts as if it were whole.
            file = self._files.open_files.get(inode.id)
            top = file.top if file is not None else None
            local = top.local if isinstance(top, Layer) else self._workspace.local_file(inode.layer)
            status = local.status() if inode.digest is None else None
            if status is not None and status.st_size == size:
                blocks = status.st_blocks
        mode, valid = inode.mode, FOREVER
        if inode.reference is not None and inode.file:
            entry = reference_of(inode.reference)
            mode = self._sources.mode(entry, mode)
            if entry.size is None:
                size, valid = self._sources.found_size(inode.id), 0.0
        return Attr(
            inode.id, mode, size, inode.mtime, inode.nlink, inode.uid, inode.gid, FOREVER, valid,
            inode.atime, inode.ctime, blocks,
        )  # fmt: skip

    def _untouched(self, node: int, entry: Entry, origin: Origin) -> Attr:
        return self._attr(Inode(self._inodes.describe(node, entry, origin), row=False))

    def lookup(self, parent: int, name: bytes) -> Attr:
        """The entry of a name; a negative one when there is none."""
        if len(name) > MAX_NAME:
            raise fail(errno.ENAMETOOLONG)
        found = self._inodes.lookup(parent, name)
        if found is None:
            return Attr(0, 0, entry_valid=FOREVER)
        with self._workspace.lock:
            return self._attr(found)

    def getattr(self, node: int, fh: int | None = None) -> Attr:
        """Attributes of a node; also of one that is open as ``fh`` and was unlinked, or is of a tree that is shown no more."""
        with self._workspace.lock:
            try:
                inode = self._inodes.get(node)
            except OSError:
                # The kernel asks before a read, so that to refuse it here would end reading on.
                inode = self._files.inode(fh, node)
            return self._attr(inode)

    def setattr(self, node: int, change: SetAttr, fh: int | None, caller: Caller) -> Attr:
        """chmod, chown, truncate, utimens: any of them at once."""
        with self._workspace.lock:
            inode = self._inodes.get(node)
            if change.valid & SET_SIZE and not inode.file:
                raise fail(errno.EISDIR if inode.directory else errno.EINVAL)
            if not change.valid & SET_SIZE and node not in self._files.open_files:
                self._change(inode, change)
                return self._attr(inode)
        file = self._files.hold(inode)
        try:
            if change.valid & SET_SIZE:
                self._files.truncate(file, change.size)
            with file.lock, self._workspace.lock:
                self._change(file.inode, change)
                return self._attr(file.inode)
        finally:
            self._files.let_go(file)

    def _change(self, inode: Inode, change: SetAttr) -> None:
        valid = change.valid
        if not valid & (
            SET_MODE | SET_UID | SET_GID | SET_ATIME | SET_MTIME | SET_ATIME_NOW | SET_MTIME_NOW | SET_CTIME
        ):
            return
        now = time.time_ns()
        with self._workspace.transaction:
            if inode.nlink:
                self._inodes.own(inode)
            if valid & SET_MODE:
                mode = stat.S_IFMT(inode.mode) | stat.S_IMODE(change.mode)
                if inode.file and inode.nlink and bool(mode & 0o111) != bool(inode.mode & 0o111):
                    self._inodes.mark(inode)  # the one bit that versions have
                inode.mode = mode
            if valid & SET_UID:
                inode.uid = change.uid
            if valid & SET_GID:
                inode.gid = change.gid
            if valid & (SET_ATIME | SET_ATIME_NOW):
                inode.atime = now if valid & SET_ATIME_NOW else change.atime
            if valid & (SET_MTIME | SET_MTIME_NOW):
                inode.mtime = now if valid & SET_MTIME_NOW else change.mtime
                # After a kill the time of the local file must not win over the one just set; the next write says anew.
                inode.open = 0
                if (file := self._files.open_files.get(inode.id)) is not None:
                    file.prepared = 0
            inode.ctime = change.ctime if valid & SET_CTIME else now
            if inode.row:
                self._inodes.save(inode)

    def readlink(self, node: int) -> bytes:
        """Target of a symlink; of a Reference that cannot be read here, its URI."""
        with self._workspace.lock:
            inode = self._inodes.get(node)
        if inode.target is None or inode.file:
            raise fail(errno.EINVAL)
        return inode.target

    # -- directories -----------------------------------------------------------------------------------------------

    def opendir(self, node: int, caller: Caller) -> Opened:
        """Open a directory for listing."""
        with self._workspace.lock:
            self._inodes.directory(node)
            fh = self._files.number()
            self._listings[fh] = _Listing(node)
        return Opened(fh)

    def releasedir(self, fh: int) -> None:
        """Close a listing."""
        self._listings.pop(fh, None)

    def readdir(self, node: int, fh: int, offset: int) -> Iterator[tuple[bytes, Attr]]:
        """Entries from ``offset`` on. Names made or removed meanwhile may be there or not; all others come once.

        A name of the directory's tree keeps its place there, whatever becomes of it; added names follow in order. So nothing
        is skipped or repeated while a directory is emptied. Attributes are those of the moment of ``next()``.
        """
        listing = self._listings.get(fh)
        if listing is None:
            raise fail(errno.EBADF)
        cursor: Cursor | None = (0, b"") if offset == 0 else listing.cursors.get(offset)
        if cursor is None:  # seekdir(3) to a place of an earlier request
            listing.cursors = {}
            return islice(self._entries(listing, (0, b""), 0, BATCH), offset, None)
        taken = offset - listing.begin
        listing.begin = offset
        listing.cursors = {offset: cursor}
        return self._entries(listing, cursor, offset, max(SMALL_BATCH, min(taken + taken // 8 + 2, BATCH)))

    def _entries(self, listing: _Listing, cursor: Cursor, offset: int, size: int) -> Iterator[tuple[bytes, Attr]]:
        inodes = self._inodes
        while True:
            epoch, batch = self._batch(listing.node, cursor, size)
            if not batch:
                return
            size = min(2 * size, BATCH)
            for behind, name, child, entry in batch:
                with self._workspace.lock:
                    if inodes.epoch != epoch:
                        size = SMALL_BATCH
                        break
                    if entry is None:
                        attr = self._attr(inodes.get(child))
                    else:
                        known = inodes.pinned.get(child)
                        origin = inodes.origin_of(child)
                        attr = self._attr(known) if known is not None else self._untouched(child, entry, origin)
                cursor = behind
                offset += 1
                listing.cursors[offset] = cursor
                yield name, attr

    def _batch(self, node: int, cursor: Cursor, size: int) -> tuple[int, list[tuple[Cursor, bytes, int, Entry | None]]]:
        """Names behind a cursor, up to ``size``, each with its number and, if untouched, its entry; and the epoch of that."""
        inodes = self._inodes
        found: list[tuple[Cursor, bytes, int, Entry | None]] = []
        while True:
            with self._workspace.lock:
                directory = inodes.directory(node)
                digest = directory.digest
            position, last = cursor
            scanned: list[tuple[int, int, Entry]] = []
            if position >= 0 and digest is not None:
                scanned = list(islice(self._trees.scan(digest, position), size))
            with self._workspace.lock:
                directory = inodes.directory(node)
                if directory.digest != digest:
                    continue
                if scanned:
                    overlay = inodes.overlay(directory, scanned[0][2].name.encode(), scanned[-1][2].name.encode())
                    for place, offset, entry in scanned:
                        name = entry.name.encode()
                        if name not in overlay:
                            found.append(((place + 1, b""), name, directory.child(offset), entry))
                        elif (child := overlay[name]) is not None:
                            found.append(((place + 1, b""), name, child, None))
                    cursor = (scanned[-1][0] + 1, b"")
                else:
                    found = [((-1, name), name, child, None) for name, child in inodes.added(directory, last, size)]
                    return inodes.epoch, found
                if found:
                    return inodes.epoch, found

    def fsyncdir(self, node: int) -> None:
        """Make names durable: all of them, as they are in one log."""
        self._workspace.sync()

    # -- open files ------------------------------------------------------------------------------------------------

    def open(self, node: int, flags: int, caller: Caller) -> Opened:
        """Open a file; O_TRUNC empties it."""
        with self._workspace.lock:
            inode = self._inodes.get(node)
        if not inode.file:
            raise fail(errno.EISDIR if inode.directory else errno.ELOOP)
        reading = flags & os.O_ACCMODE == os.O_RDONLY
        sized = inode.reference is None or bool(flags & os.O_TRUNC) or reference_of(inode.reference).size is not None
        try:
            number = self._files.open(inode, flags, caller.pid)
        except ArtifactFSError as error:  # of a reference's source
            self._fail(inode, error)
            raise
        return Opened(number, keep_cache=sized, direct=not sized, noflush=reading)

    def _fail(self, inode: Inode, error: ArtifactFSError) -> None:
        """Say which file could not be read and why."""
        with self._workspace.lock:
            name = f"{self._inodes.area_of(inode).name}/staging/{self._inodes.path(inode)}"
        self._failures.note(inode.id, name, error)

    def base_of(self, node: int) -> tuple[str, int] | None:
        """Artifact and number of the version that a file's content still is, at least in part; None when it is of none."""
        with self._workspace.lock:
            inode = self._inodes.get(node)
            area = self._inodes.area_of(inode)
            if inode.digest is None and inode.reference is None:
                return None
            return None if area.base_number is None else (area.name, area.base_number)

    def ready(self, fh: int, offset: int, size: int) -> bool:
        """Whether :meth:`read` would wait for nothing but the local disk."""
        return self._files.ready(fh, offset, size)

    def read(self, fh: int, offset: int, size: int) -> bytes | memoryview:
        """Bytes of an open file."""
        try:
            return self._files.read(fh, offset, size)
        except ArtifactFSError as error:
            self._fail(self._files.handle(fh).file.inode, error)
            raise

    def write(self, fh: int, offset: int, data: memoryview) -> int:
        """Store bytes in an open file."""
        return self._files.write(fh, offset, data)

    def flush(self, fh: int) -> None:
        """Record size and times."""
        self._files.flush(fh)

    def fsync(self, fh: int, datasync: bool) -> None:
        """Make a file's bytes, and all names, durable."""
        self._files.sync(fh)

    def release(self, fh: int) -> None:
        """Close an open file."""
        self._files.release(fh)

    def fallocate(self, fh: int, mode: int, offset: int, length: int) -> None:
        """Reserve space, punch a hole, or zero a range."""
        self._files.allocate(fh, mode, offset, length)

    def lseek(self, fh: int, offset: int, whence: int) -> int:
        """SEEK_DATA and SEEK_HOLE."""
        return self._files.seek(fh, offset, whence)

    # -- names: making ---------------------------------------------------------------------------------------------

    def create(self, parent: int, name: bytes, mode: int, flags: int, caller: Caller) -> tuple[Attr, Opened]:
        """Make a file and open it. One that is there already is opened, unless O_EXCL asks for a new one."""
        _check_name(name)
        self._warm(parent, name)
        with self._workspace.lock:
            slot = self._inodes.slot(self._inodes.directory(parent), name)
            known = slot.child
            if known is not None and flags & os.O_EXCL:
                raise fail(errno.EEXIST)
            if known is None:
                writing = flags & os.O_ACCMODE != os.O_RDONLY
                inode, layer = self._make(slot, stat.S_IFREG | stat.S_IMODE(mode), caller, opened=writing)
                file = self._files.hold(inode, layer if writing else None)
        if known is not None:
            opened = self.open(known.id, flags, caller)
            return self.getattr(known.id), opened
        try:
            fh = self._files.open(inode, flags & ~os.O_TRUNC, caller.pid)
        finally:
            self._files.let_go(file)
        return self._attr(inode), Opened(fh, keep_cache=True, noflush=not writing)

    def mknod(self, parent: int, name: bytes, mode: int, caller: Caller) -> Attr:
        """Make an empty file; anything else is EPERM."""
        if stat.S_IFMT(mode) not in {0, stat.S_IFREG}:
            raise fail(errno.EPERM)
        return self._new(parent, name, stat.S_IFREG | stat.S_IMODE(mode), caller)

    def mkdir(self, parent: int, name: bytes, mode: int, caller: Caller) -> Attr:
        """Make an empty directory."""
        return self._new(parent, name, stat.S_IFDIR | stat.S_IMODE(mode), caller)

    def symlink(self, parent: int, name: bytes, target: bytes, caller: Caller) -> Attr:
        """Make a symlink. One that leaves the artifact is refused by commit, not here."""
        if not target:
            raise fail(errno.ENOENT)
        _check_text(target)
        return self._new(parent, name, stat.S_IFLNK | 0o777, caller, target)

    def _new(self, parent: int, name: bytes, mode: int, caller: Caller, target: bytes | None = None) -> Attr:
        _check_name(name)
        self._warm(parent, name)
        with self._workspace.lock:
            slot = self._inodes.slot(self._inodes.directory(parent), name)
            if slot.child is not None:
                raise fail(errno.EEXIST)
            return self._attr(self._make(slot, mode, caller, target=target)[0])

    def _make(
        self, slot: Slot, mode: int, caller: Caller, *, target: bytes | None = None, opened: bool = False
    ) -> tuple[Inode, Layer | None]:
        """Give a free name an inode; a file also its first layer."""
        directory = slot.parent
        if not directory.nlink:
            raise fail(errno.ENOENT)
        layer = None
        gid = caller.gid
        if not stat.S_ISLNK(mode):
            mode &= ~caller.umask
        if directory.mode & stat.S_ISGID:
            gid = directory.gid
            mode |= stat.S_ISGID if stat.S_ISDIR(mode) else 0
        with self._workspace.transaction:
            self._inodes.own(directory)
            inode = self._inodes.new(mode, directory.area, caller.uid, gid)
            inode.open = int(opened)
            if target is not None:
                inode.target, inode.size = target, len(target)
            if inode.file:
                inode.layer = self._workspace.number("layer")
                local = self._workspace.local_file(inode.layer)
                layer = Layer(inode.layer, self._inodes.area_of(directory).generation, local)
                self._files.insert_layer(inode, layer)
            self._inodes.insert(inode)
            self._inodes.bind(slot, inode)
            inode.marked = directory.marked
            self._inodes.touch(directory)
        return inode, layer

    def link(self, node: int, parent: int, name: bytes) -> Attr:
        """Give a file another name in the same area."""
        _check_name(name)
        self._warm(parent, name)
        with self._workspace.lock:
            inode = self._inodes.get(node)
            directory = self._inodes.directory(parent)
            if inode.area != directory.area:
                raise fail(errno.EXDEV)
            slot = self._inodes.slot(directory, name)
            if slot.child is not None:
                raise fail(errno.EEXIST)
            if inode.directory:
                raise fail(errno.EPERM)
            if not inode.nlink or not directory.nlink:
                raise fail(errno.ENOENT)
            with self._workspace.transaction:
                self._inodes.own(directory)
                self._inodes.own(inode)
                self._inodes.bind(slot, inode)
                inode.nlink += 1
                inode.ctime = time.time_ns()
                self._inodes.save(inode)
                self._inodes.touch(directory)
            return self._attr(inode)

    # -- names: removing and moving --------------------------------------------------------------------------------

    def unlink(self, parent: int, name: bytes) -> None:
        """Remove a name of a file. An open file keeps its bytes until it is closed."""
        self._warm(parent, name)
        with self._workspace.lock:
            directory = self._inodes.directory(parent)
            slot = self._inodes.slot(directory, name)
            if slot.child is None:
                raise fail(errno.ENOENT)
            if slot.child.directory:
                raise fail(errno.EISDIR)
            with self._workspace.transaction:
                self._inodes.own(directory)
                self._inodes.unbind(slot)
                self._inodes.touch(directory)
                layers = self._unname(slot.child)
            self._unnamed(slot.child, layers)
        self._workspace.collect()

    def rmdir(self, parent: int, name: bytes) -> None:
        """Remove an empty directory."""
        self._warm(parent, name)
        with self._workspace.lock:
            directory = self._inodes.directory(parent)
            slot = self._inodes.slot(directory, name)
            if slot.child is None:
                raise fail(errno.ENOENT)
            if not slot.child.directory:
                raise fail(errno.ENOTDIR)
            if not self._inodes.empty(slot.child):
                raise fail(errno.ENOTEMPTY)
            with self._workspace.transaction:
                self._inodes.own(directory)
                self._inodes.unbind(slot)
                self._inodes.touch(directory)
                self._unname(slot.child)
            self._unnamed(slot.child, [])

    def rename(self, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int) -> None:
        """renameat2(2): replaces what is there, refuses to (RENAME_NOREPLACE), or swaps (RENAME_EXCHANGE)."""
        if flags not in {0, RENAME_NOREPLACE, RENAME_EXCHANGE}:
            raise fail(errno.EINVAL)
        _check_name(new_name)
        self._warm(parent, name)
        self._warm(new_parent, new_name)
        inodes = self._inodes
        with self._workspace.lock:
            old_directory, new_directory = inodes.directory(parent), inodes.directory(new_parent)
            if old_directory.area != new_directory.area:
                raise fail(errno.EXDEV)
            source, target = inodes.slot(old_directory, name), inodes.slot(new_directory, new_name)
            moved, other = source.child, target.child
            if moved is None or (other is None and flags == RENAME_EXCHANGE) or not new_directory.nlink:
                raise fail(errno.ENOENT)
            if other is not None and flags == RENAME_NOREPLACE:
                raise fail(errno.EEXIST)
            if moved is other:
                return
            if moved.directory and inodes.below(new_directory, moved):
                raise fail(errno.EINVAL)
            if other is not None and flags != RENAME_EXCHANGE:
                self._check_replaced(moved, other)
            if other is not None and other.directory and inodes.below(old_directory, other):
                # Only a swap comes so far: a directory that holds the source is not empty.
                raise fail(errno.EINVAL)
            layers: list[int] = []
            with self._workspace.transaction:
                for each in (old_directory, new_directory, moved):
                    inodes.own(each)
                moved.ctime = time.time_ns()
                inodes.save(moved)
                if other is not None and flags == RENAME_EXCHANGE:
                    inodes.own(other)
                    other.ctime = moved.ctime
                    inodes.save(other)
                    inodes.bind(source, other)
                else:
                    inodes.unbind(source)
                inodes.bind(target, moved)
                for each in {old_directory.id: old_directory, new_directory.id: new_directory}.values():
                    inodes.touch(each)
                if other is not None and flags != RENAME_EXCHANGE:
                    layers = self._unname(other)
            if other is not None and flags != RENAME_EXCHANGE:
                self._unnamed(other, layers)
        self._workspace.collect()

    def _check_replaced(self, moved: Inode, other: Inode) -> None:
        if moved.directory and not other.directory:
            raise fail(errno.ENOTDIR)
        if other.directory and not moved.directory:
            raise fail(errno.EISDIR)
        if other.directory and not self._inodes.empty(other):
            raise fail(errno.ENOTEMPTY)

    def _unname(self, inode: Inode) -> list[int]:
        """Take one link from an inode, within a transaction; the last one takes its rows. Returns the layers that it leaves."""
        if not inode.row:
            return []
        if inode.nlink > 1:
            inode.nlink -= 1
            inode.ctime = time.time_ns()
            self._inodes.save(inode)
            return []
        inode.nlink = 0
        layers = self._files.drop_layers(inode.layer)
        self._inodes.remove(inode)
        return layers

    def _unnamed(self, inode: Inode, layers: list[int]) -> None:
        """After the transaction of :meth:`_unname`: what becomes of an inode without names."""
        if inode.row:
            return
        self._inodes.forget(inode.id)
        inode.nlink = 0
        if inode.directory:
            # Someone may stand in it; to him it is empty. The kernel's forget ends that.
            inode.digest = None
            self._inodes.pinned[inode.id] = inode
        elif inode.id not in self._files.open_files:
            self._workspace.discard(layers)

    def _warm(self, parent: int, name: bytes) -> None:
        """Wait for the tree's node of a name before the lock is taken for the operation."""
        with self._workspace.lock:
            directory = self._inodes.directory(parent)
        self._inodes.warm(directory, name)

    # -- xattrs ----------------------------------------------------------------------------------------------------

    def getxattr(self, node: int, name: bytes) -> bytes:
        """Value of an xattr, or ENODATA."""
        with self._workspace.lock:
            inode = self._inodes.get(node)
            if name == _OURS + b"artifact":
                return self._inodes.area_of(inode).name.encode()
            if name == _OURS + b"reference" and inode.reference is not None:
                return reference_of(inode.reference).uri.encode()
            if name == _OURS + b"last_error" and (error := self._failures.last(node)) is not None:
                return error.encode()
            if inode.row and name.startswith(_USER):
                found = self._xattr(inode, name)
                if found is not None:
                    return found
        raise fail(errno.ENODATA)

    def setxattr(self, node: int, name: bytes, value: bytes, flags: int) -> None:
        """Set an xattr of the user's; ours are read-only."""
        _check_xattr(name)
        if len(name) > MAX_XATTR_NAME:
            raise fail(errno.ERANGE)
        if len(value) > MAX_XATTR_VALUE:
            raise fail(errno.E2BIG)
        with self._workspace.transaction:
            inode = self._live(node)
            self._inodes.own(inode)
            known = self._xattr(inode, name) is not None
            if known and flags & XATTR_CREATE:
                raise fail(errno.EEXIST)
            if not known and flags & XATTR_REPLACE:
                raise fail(errno.ENODATA)
            self._workspace.execute("INSERT OR REPLACE INTO xattr VALUES (?, ?, ?)", (inode.id, name, value))
            inode.ctime = time.time_ns()
            self._inodes.save(inode)

    def listxattr(self, node: int) -> list[bytes]:
        """Names of the user's xattrs. Ours are not listed, so that no tool tries to copy them."""
        with self._workspace.lock:
            inode = self._inodes.get(node)
            if not inode.row:
                return []
            rows = self._workspace.execute("SELECT name FROM xattr WHERE inode = ? ORDER BY name", (inode.id,))
            return [row[0] for row in rows]

    def removexattr(self, node: int, name: bytes) -> None:
        """Remove an xattr, or ENODATA."""
        _check_xattr(name)
        with self._workspace.transaction:
            inode = self._live(node)
            if not inode.row or self._xattr(inode, name) is None:
                raise fail(errno.ENODATA)
            self._workspace.execute("DELETE FROM xattr WHERE inode = ? AND name = ?", (inode.id, name))
            inode.ctime = time.time_ns()
            self._inodes.save(inode)

    def _xattr(self, inode: Inode, name: bytes) -> bytes | None:
        row = self._workspace.execute(
            "SELECT value FROM xattr WHERE inode = ? AND name = ?", (inode.id, name)
        ).fetchone()
        return row[0] if row is not None else None

    def _live(self, node: int) -> Inode:
        """An inode that has a name: only those have rows to keep anything in."""
        inode = self._inodes.get(node)
        if not inode.nlink:
            raise fail(errno.ENOENT)
        return inode

    # -- the rest --------------------------------------------------------------------------------------------------

    def statfs(self, node: int) -> StatFS:
        """The numbers of the disk that the workspace is on; of staging's limit, where it has one."""
        numbers = os.statvfs(self._workspace.path)
        room = self._workspace.room
        left = room.left() // numbers.f_frsize
        blocks, free = numbers.f_blocks, numbers.f_bfree
        if room.limit is not None:
            blocks, free = min(blocks, room.limit // numbers.f_frsize), min(free, left)
        return StatFS(numbers.f_frsize, blocks, free, min(numbers.f_bavail, left), numbers.f_files, numbers.f_ffree)

    def forget(self, node: int, count: int) -> None:
        """The kernel lost a node: a removed directory ends with that. Nothing else is kept per lookup."""
        with self._workspace.lock:
            inode = self._inodes.pinned.get(node)
            if inode is not None and inode.directory and not inode.nlink:
                del self._inodes.pinned[node]


def _check_name(name: bytes) -> None:
    if len(name) > MAX_NAME:
        raise fail(errno.ENAMETOOLONG)
    _check_text(name)


def _check_text(text: bytes) -> None:
    """What a version could not hold is refused when it is made, not when it is committed."""
    try:
        text.decode()
    except UnicodeDecodeError:
        raise fail(errno.EILSEQ) from None


def _check_xattr(name: bytes) -> None:
    if name.startswith(_OURS):
        raise fail(errno.EPERM)
    if not name.startswith(_USER) or name == _USER:
        raise fail(errno.EOPNOTSUPP)

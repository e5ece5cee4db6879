"""Freeze: how staging becomes a version: freeze a generation, build its tree, settle what was committed.

Used by staging.py for the daemon's commit, which goes::

    frozen = staging.freeze(area)                       # writers wait a moment, then go on in the next generation
    root = staging.build(frozen, writer)                # reads what changed, stores content and directories
    staging.prepare(frozen, commit_id, root.digest)     # remembers what may be about to land
    version = registry.commit(...)                      # the commit point
    staging.thaw(frozen, version)                       # or thaw(frozen, None): it failed, and all is still changed

A frozen generation is a snapshot of the tables (a read transaction of SQLite's write-ahead log) and the rule that
frozen layers are final (mount/files.py), so freezing costs the same whatever has changed. Writes after it carry the
next generation's mark and never touch it.

Killed anywhere, nothing is lost: marks are cleared only after the version is known. When the version landed and the
kill came before the end of :meth:`Freezer.thaw`, the area is still pending: the caller looks whether `latest` has the
pending digest and calls :meth:`Freezer.recover`, which settles what did not change since.

Invariant *committed before unmarked*: a directory's committed tree is set to the version's before any of its marks is
cleared. A mark too many is harmless: the name is stored once more.

Threads: any; one commit an area at a time. Content is read without any lock; settling takes the workspace's lock for
500 names at a time.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

import msgspec

from artifactfs.errors import Conflict, InvalidInput
from artifactfs.model.names import leaves_artifact
from artifactfs.model.records import VersionRecord
from artifactfs.model.tree import DirEntry, Entry, FileEntry, Trees, TreeSummary, edit_tree
from artifactfs.mount.files import Files
from artifactfs.mount.inodes import BASED, SHADOWS, Area, Inode, Inodes, entry_of, load_inode
from artifactfs.mount.layers import Layer, VersionContent, flatten, load_layer, read_parts

if TYPE_CHECKING:
    import sqlite3

    from artifactfs.content.reader import ContentReader
    from artifactfs.content.writer import ContentWriter, FileContent
    from artifactfs.mount.workspace import Workspace

BATCH: Final = 500
"""Names settled in one transaction: 10 to 20 ms, which operations may have to wait for."""
MAX_NAMED: Final = 20
"""Symlinks that an error names; the rest are counted."""


class Dropped(msgspec.Struct):
    """Changed entries that had something which versions do not keep."""

    hard_links: int = 0
    xattrs: int = 0
    modes: int = 0
    owners: int = 0


class Pending(msgspec.Struct, frozen=True):
    """A commit that may have landed: the id and the digest it was asked with."""

    commit_id: str
    digest: bytes


class Frozen:
    """A generation of an area as it was when it was frozen. ``files`` and ``dropped`` are counted while it is built.

    ``writers``: path and process id of each handle that was open for writing; their files may be half of what they shall be.
    """

    def __init__(
        self, area: Area, generation: int, snapshot: sqlite3.Connection, writers: list[tuple[str, int]]
    ) -> None:
        self.area = area
        self.generation = generation
        self.writers = writers
        self.base_number = area.base_number
        self.base_digest = area.base_digest
        self.dropped = Dropped()
        self.files = 0
        self.snapshot: sqlite3.Connection | None = snapshot

    def execute(self, statement: str, values: tuple[Any, ...] = ()) -> sqlite3.Cursor:
        """Ask the tables as they were. Conflict when it was thawed."""
        if self.snapshot is None:
            raise Conflict(f"the commit of {self.area.name} has ended already")
        return self.snapshot.execute(statement, values)


class _Frame:
    """A directory being built: its marked links still to come, and the changes of its names so far."""

    __slots__ = ("changes", "inode", "links", "name", "prefix")

    def __init__(self, inode: Inode, name: str, prefix: str, links: Iterator[tuple[bytes, int | None]]) -> None:
        self.inode = inode
        self.name = name
        self.prefix = prefix
        self.links = links
        self.changes: dict[str, Entry | None] = {}


class Freezer:
    """Commits of all areas of a workspace. ``owner`` is the user and group whose ownership is not worth a mention."""

    def __init__(
        self,
        workspace: Workspace,
        inodes: Inodes,
        files: Files,
        trees: Trees,
        reader: ContentReader,
        *,
        owner: tuple[int, int],
    ) -> None:
        self._workspace = workspace
        self._inodes = inodes
        self._files = files
        self._trees = trees
        self._reader = reader
        self._owner = owner

    # -- freeze ----------------------------------------------------------------------------------------------------

    def freeze(self, area: Area) -> Frozen:
        """Stop writers for a moment and keep what is there now. Pair with :meth:`thaw`. Conflict while one is frozen."""
        self._files.await_closing(area)
        self._files.gate.close()
        try:
            with self._workspace.lock:
                # Now, and not when the gate is open again: by then a half written file may have got its other half, and be closed.
                writers = self._files.writing(area)
                if area.frozen is not None:
                    raise Conflict(f"{area.name} is being committed already; wait for that commit")
                with self._workspace.transaction:
                    self._files.save_all(area)
                    generation = area.generation
                    area.generation += 1
                    self._inodes.save_area(area)
                snapshot = self._workspace.snapshot()
                area.frozen = generation
                self._workspace.holds += 1
        finally:
            self._files.gate.reopen()
        return Frozen(area, generation, snapshot, writers)

    # -- build -----------------------------------------------------------------------------------------------------

    def build(
        self, frozen: Frozen, writer: ContentWriter, *, progress: Callable[[], None] = lambda: None
    ) -> TreeSummary:
        """Store what changed, and return the root of the whole tree. ``progress`` is called after each file.

        Reads changed files alone, of these only what may be stored differently, and directories with changes alone.
        Raises InvalidInput (symlinks that leave the artifact), OSError, Integrity, NoSpace.
        """
        root = load_inode(frozen.execute, frozen.area.root)
        if root is None:
            raise Conflict(f"{frozen.area.name} has no staging any more")
        problems: list[str] = []
        frames = [self._frame(frozen, root, "", "")]
        while True:
            frame = frames[-1]
            below = self._fill(frozen, frame, writer, problems, progress)
            if below is not None:
                frames.append(below)
                continue
            frames.pop()
            if problems and frames:
                continue  # nothing will be committed: go on only to name the others
            if problems:
                raise _refusal(problems)
            summary = self._directory(frame, writer)
            if not frames:
                return summary
            frames[-1].changes[frame.name] = summary.entry(frame.name)

    def _frame(self, frozen: Frozen, inode: Inode, name: str, prefix: str) -> _Frame:
        links = frozen.execute(
            "SELECT name, child FROM link WHERE parent = ? AND changed <> 0 ORDER BY name", (inode.id,)
        )
        return _Frame(inode, name, prefix, links)

    def _fill(
        self, frozen: Frozen, frame: _Frame, writer: ContentWriter, problems: list[str], progress: Callable[[], None]
    ) -> _Frame | None:
        """Go through a directory's changed names, until one is a directory, whose frame is returned."""
        for name, child in frame.links:
            text = name.decode()
            inode = load_inode(frozen.execute, child) if child is not None else None
            if inode is None:
                frame.changes[text] = None
                continue
            self._count_dropped(frozen, inode)
            if inode.directory:
                return self._frame(frozen, inode, text, f"{frame.prefix}{text}/")
            if inode.layer is not None:
                if not problems:
                    content = self._content(frozen, inode, writer)
                    frame.changes[text] = FileEntry(text, content.size, content.digest, bool(inode.mode & 0o111))
                frozen.files += 1
                progress()
                continue
            if inode.target is not None and inode.reference is None:
                target = inode.target.decode()
                if leaves_artifact(frame.prefix, target):
                    problems.append(f"{frame.prefix}{text} points to {target!r}")
            frame.changes[text] = entry_of(inode, text)
        return None

    def _directory(self, frame: _Frame, writer: ContentWriter) -> TreeSummary:
        committed = frame.inode.committed
        if committed is not None and not frame.changes:
            return self._trees.summary(committed)  # it was moved, or what changed in it came and went
        return edit_tree(self._trees, committed, frame.changes, writer.add_node)

    def _content(self, frozen: Frozen, inode: Inode, writer: ContentWriter) -> FileContent:
        assert inode.layer is not None  # noqa: S101 - the caller has looked
        if not inode.size:
            return writer.add_bytes(b"")
        layer = load_layer(frozen.execute, self._workspace, self._reader, inode.layer)

        def read(offset: int, length: int) -> bytes | memoryview:
            length = min(length, inode.size - offset)
            return read_parts(layer.parts(offset, length)) if length > 0 else b""

        flat = flatten(layer, inode.size)
        if flat.content is not None:
            content = writer.rechunk(flat.content.file.pieces(), inode.size, flat.changed, read)
        elif layer.extents is None and (fd := layer.local.opened()) >= 0 and os.fstat(fd).st_size == inode.size:
            content = writer.add_file(fd)
        else:
            # Also a local file that lost its end in a crash of the machine: as on a local disk, that reads as zeros.
            content = writer.add_stream(_stream(read))
        return content

    def _count_dropped(self, frozen: Frozen, inode: Inode) -> None:
        dropped = frozen.dropped
        permissions = stat.S_IMODE(inode.mode)
        if inode.directory:
            dropped.modes += permissions != 0o755
        elif inode.file:
            dropped.modes += permissions not in {0o644, 0o755}
            dropped.hard_links += inode.nlink > 1
        dropped.owners += (inode.uid, inode.gid) != self._owner
        dropped.xattrs += frozen.execute("SELECT 1 FROM xattr WHERE inode = ?", (inode.id,)).fetchone() is not None

    # -- thaw ------------------------------------------------------------------------------------------------------

    def prepare(self, frozen: Frozen, commit_id: str, digest: bytes) -> None:
        """Remember, durably, what is about to be committed: called before the Registry is."""
        area = frozen.area
        with self._workspace.transaction:
            area.pending_commit, area.pending_digest, area.pending_generation = commit_id, digest, frozen.generation
            self._inodes.save_area(area)
        self._workspace.sync()

    def pending(self, area: Area) -> Pending | None:
        """The commit that was prepared and whose end is not known; it landed when `latest` has its digest."""
        with self._workspace.lock:
            if area.frozen is not None or area.pending_commit is None or area.pending_digest is None:
                return None
            return Pending(area.pending_commit, area.pending_digest)

    def thaw(self, frozen: Frozen, version: VersionRecord | None) -> None:
        """End a freeze. With the version that it became, what did not change since is clean; otherwise all stays changed.

        After a failure that may yet have landed, a prepared commit stays pending. Idempotent.
        """
        area = frozen.area
        if frozen.snapshot is None:
            return
        try:
            if version is not None:
                self._settle(area, frozen.generation, version, frozen.execute)
        finally:
            with self._workspace.lock:
                area.frozen = None
                self._workspace.holds -= 1
                frozen.snapshot.close()
                frozen.snapshot = None
            self._workspace.collect()

    def recover(self, area: Area, version: VersionRecord | None) -> None:
        """Finish a pending commit: with the version that it became, or None when it did not land."""
        with self._workspace.lock:
            generation = area.pending_generation
            if area.frozen is not None or generation is None:
                return
            if version is None:
                with self._workspace.transaction:
                    area.pending_commit = area.pending_digest = area.pending_generation = None
                    self._inodes.save_area(area)
                return
        self._settle(area, generation, version, None)
        self._workspace.collect()

    def _settle(
        self, area: Area, generation: int, version: VersionRecord, snapshot: Callable[..., sqlite3.Cursor] | None
    ) -> None:
        """Let an area stand on a version that holds all its changes up to a generation.

        ``snapshot`` asks the tables of that generation; without one (after a kill) the present tables tell, as far as they say that
        a name stands for the same directory as then, and a file was not written to since.
        """
        waiting = [(area.root, version.digest)]
        while waiting:
            node, tree = waiting.pop()
            with self._workspace.transaction:
                self._workspace.execute("UPDATE inode SET committed = ? WHERE id = ?", (tree, node))
                if (known := self._inodes.known(node)) is not None and known.row:
                    known.committed = tree
            after = b""
            while True:
                names = self._marked(node, after, snapshot)
                if not names:
                    break
                after = names[-1][0]
                found = [self._trees.lookup(tree, name.decode()) for name, _, _ in names]
                settled: list[tuple[int, int, FileEntry]] = []
                dropped: list[int] = []
                with self._workspace.lock:
                    with self._workspace.transaction:
                        for (name, child, bound), there in zip(names, found, strict=True):
                            entry = there.entry if there is not None else None
                            changed = self._settle_link(node, name, generation, present=entry is not None)
                            if child is None:
                                continue
                            if isinstance(entry, DirEntry) and bound <= generation:
                                waiting.append((child, entry.digest))
                            elif isinstance(entry, FileEntry) and not (changed and snapshot is None):
                                inode = load_inode(snapshot or self._workspace.execute, child)
                                if inode is not None and inode.layer is not None:
                                    dropped += self._settle_content(child, inode.layer, entry)
                                    settled.append((child, inode.layer, entry))
                    for child, layer, entry in settled:
                        self._settle_open(child, layer, entry)
                    self._workspace.discard(dropped)
        with self._workspace.transaction:
            area.base_number, area.base_digest, area.base_created = version.number, version.digest, version.created
            area.following = True
            area.pending_commit = area.pending_digest = area.pending_generation = None
            self._inodes.save_area(area)

    def _marked(
        self, node: int, after: bytes, snapshot: Callable[..., sqlite3.Cursor] | None
    ) -> list[tuple[bytes, int | None, int]]:
        with self._workspace.lock:
            return (snapshot or self._workspace.execute)(
                "SELECT name, child, bound FROM link WHERE parent = ? AND name > ? AND changed <> 0 ORDER BY name LIMIT ?",
                (node, after, BATCH),
            ).fetchall()

    def _settle_link(self, parent: int, name: bytes, generation: int, *, present: bool) -> bool:
        """Clear the mark of a name that the version has, or has not; returns whether it changed since."""
        execute = self._workspace.execute
        row = execute("SELECT child, flags, changed FROM link WHERE parent = ? AND name = ?", (parent, name)).fetchone()
        if row is None:
            return True
        child, flags, changed = row
        flags = flags | BASED if present else flags & ~BASED
        if changed > generation:
            execute("UPDATE link SET flags = ? WHERE parent = ? AND name = ?", (flags, parent, name))
            return True
        if child is None and not flags & SHADOWS:
            execute("DELETE FROM link WHERE parent = ? AND name = ?", (parent, name))
        else:
            execute("UPDATE link SET flags = ?, changed = 0 WHERE parent = ? AND name = ?", (flags, parent, name))
        return False

    def _settle_content(self, node: int, layer: int, entry: FileEntry) -> list[int]:
        """Let the content that a layer was committed as take its place, under a newer layer or as the file itself.

        Within a transaction. Returns the layers that it replaces.
        """
        execute = self._workspace.execute
        row = execute("SELECT layer FROM inode WHERE id = ?", (node,)).fetchone()
        if row is not None and row[0] == layer:
            execute("UPDATE inode SET layer = NULL, digest = ? WHERE id = ?", (entry.digest, node))
            if (known := self._inodes.known(node)) is not None:
                known.layer, known.digest = None, entry.digest
        else:
            upper = execute("SELECT id FROM layer WHERE below = ?", (layer,)).fetchone()
            if upper is None:
                return []  # the file is gone, or lost all its bytes, and with them the layer
            execute(
                "UPDATE layer SET below = NULL, digest = ?, base_size = ? WHERE id = ?",
                (entry.digest, entry.size, upper[0]),
            )
        return self._files.drop_layers(layer)

    def _settle_open(self, node: int, layer: int, entry: FileEntry) -> None:
        """Do the same with what an open file has in memory. Whoever found out where bytes are may read them afterwards still."""
        file = self._files.open_files.get(node)
        if file is None or not file.inode.row or not isinstance(file.top, Layer):
            return
        chain = file.top.chain()
        for each in chain:
            each.local.opened()
        content = VersionContent(self._reader, entry.digest, entry.size) if entry.size else None
        if file.top.id == layer:
            file.top = content
            file.prepared = 0
        for upper in chain:
            if isinstance(upper.below, Layer) and upper.below.id == layer:
                upper.below = content


def _stream(read: Callable[[int, int], bytes | memoryview]) -> Callable[[int], bytes | memoryview]:
    offset = 0

    def following(length: int) -> bytes | memoryview:
        nonlocal offset
        data = read(offset, length)
        offset += len(data)
        return data

    return following


def _refusal(problems: list[str]) -> InvalidInput:
    more = [f"and {len(problems) - MAX_NAMED} more"] if len(problems) > MAX_NAMED else []
    heading = "symlinks that point outside the artifact cannot be committed; make them relative, or remove them:"
    return InvalidInput("\n  ".join([heading, *problems[:MAX_NAMED], *more]))

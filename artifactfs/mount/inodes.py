"""Inodes: who is who in staging: names, kinds, attributes, and what changed since the base.

Used by the other modules of staging. All methods are called with :attr:`Workspace.lock` held, except those that say
otherwise.

An area shows an immutable tree, its *origin*, overlaid by rows. An entry that nobody touched has no row: its number
is ``3 << 60 | origin << 36 | its preorder number`` (model/tree.py), and it is found again by descending the tree. A
touched one keeps that number and gets rows. What is made in staging is numbered ``4 << 60 | counter``; so is the root
of an area, which therefore stays the same whatever it shows.

A directory with rows keeps pointing at its tree in the origin, wherever it was moved: names without a link row come
from there. So renaming a directory of a million entries writes rows for it and for its ancestors alone.

Invariants:

*rowed-to-the-root*: an inode with a row has all its links as rows, and their parents have rows. So an inode without a
row is where the origin has it, below the nearest ancestor with a row.

*marked-to-the-root*: a link whose ``changed`` is the area's generation has only such links above it. Freezing visits
marked links alone.

*committed plus marks*: the tree ``committed`` of a directory, edited by its links with ``changed`` > 0, is what the
directory holds. A directory that was never committed has marks on all its links.

*flags*: ``SHADOWS`` says that the directory's tree in the origin has the name, for as long as the row exists;
``BASED`` that its committed tree has. A link is removed without leaving a whiteout only when it has neither.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from artifactfs.errors import NotFound
from artifactfs.model.tree import DirEntry, Entry, FileEntry, LinkEntry, RefEntry, Trees

if TYPE_CHECKING:
    from artifactfs.mount.sources import Sources
    from artifactfs.mount.workspace import Workspace

BASE_SPACE: Final = 3
NEW_SPACE: Final = 4
SPACE_SHIFT: Final = 60
ORIGIN_SHIFT: Final = 36
ORIGIN_MASK: Final = (1 << (SPACE_SHIFT - ORIGIN_SHIFT)) - 1
POSITION_MASK: Final = (1 << ORIGIN_SHIFT) - 1

SHADOWS: Final = 1
BASED: Final = 2

CACHED: Final = 50_000
"""Inodes kept in memory, about 500 bytes each."""

NEIGHBOURS: Final = 512
"""Files from one on, in its directory's node, whose places are asked for in the same query (2.5 µs each)."""

_SELECT: Final = (
    "SELECT id, area, mode, uid, gid, atime, mtime, ctime, size, nlink, target, reference, digest, layer, origin, position, "
    "committed, open FROM inode WHERE id = ?"
)
_INSERT: Final = "INSERT INTO inode VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"


def fail(number: int) -> OSError:
    """The error of an operation, by errno."""
    return OSError(number, os.strerror(number))


class Inode:
    """A file, directory, symlink or Reference of staging. One object a number while it is in memory.

    Times in nanoseconds. ``row``: it has rows in the tables. ``parent`` and ``name``: where the origin has it, if it has no row.
    ``marked``: generation for which all its links are known to be marked. ``unsaved``: size and times are newer than the row.
    """

    __slots__ = (
        "area", "atime", "committed", "ctime", "digest", "gid", "id", "layer", "marked", "mode", "mtime", "name", "nlink",
        "open", "origin", "parent", "position", "reference", "row", "size", "target", "uid", "unsaved",
    )  # fmt: skip

    def __init__(self, values: tuple[Any, ...], *, row: bool, parent: int = 0, name: bytes = b"") -> None:
        self.row = row
        self.parent = parent
        self.name = name
        self.marked = 0
        self.unsaved = False
        self.load(values)

    def load(self, values: tuple[Any, ...]) -> None:
        """Take the columns of a row."""
        self.id: int
        self.area: int
        self.mode: int
        self.uid: int
        self.gid: int
        self.atime: int
        self.mtime: int
        self.ctime: int
        self.size: int
        self.nlink: int
        self.target: bytes | None
        self.reference: bytes | None
        self.digest: bytes | None
        self.layer: int | None
        self.origin: int | None
        self.position: int | None
        self.committed: bytes | None
        self.open: int
        (
            self.id, self.area, self.mode, self.uid, self.gid, self.atime, self.mtime, self.ctime, self.size, self.nlink,
            self.target, self.reference, self.digest, self.layer, self.origin, self.position, self.committed, self.open,
        ) = values  # fmt: skip

    def values(self) -> tuple[Any, ...]:
        """The columns of its row."""
        return (
            self.id, self.area, self.mode, self.uid, self.gid, self.atime, self.mtime, self.ctime, self.size, self.nlink,
            self.target, self.reference, self.digest, self.layer, self.origin, self.position, self.committed, self.open,
        )  # fmt: skip

    @property
    def directory(self) -> bool:
        """Whether it is a directory."""
        return self.mode & 0o170000 == stat.S_IFDIR

    @property
    def file(self) -> bool:
        """Whether it is a regular file."""
        return self.mode & 0o170000 == stat.S_IFREG

    def child(self, offset: int) -> int:
        """The number of a child of a directory with an origin, by its offset in the directory's tree."""
        assert self.origin is not None  # noqa: S101 - callers have looked at digest, which goes with it
        assert self.position is not None  # noqa: S101
        return BASE_SPACE << SPACE_SHIFT | self.origin << ORIGIN_SHIFT | (self.position + offset)


class Area:
    """The staging area of an artifact. One object an area; fields change under the lock.

    ``origin``: the tree its root shows, None when it began empty. ``base_number`` and ``base_digest``: the version
    that its changes are counted from. ``generation`` rises with each freeze; ``frozen`` is the one being committed.
    """

    __slots__ = (
        "base_created", "base_digest", "base_number", "following", "frozen", "generation", "id", "name", "origin", "pending_commit",
        "pending_digest", "pending_generation", "root",
    )  # fmt: skip

    def __init__(self, values: tuple[Any, ...]) -> None:
        self.id: int
        self.name: str
        self.root: int
        self.origin: int | None
        self.base_number: int | None
        self.base_digest: bytes | None
        self.base_created: int
        self.following: bool
        self.generation: int
        self.pending_commit: str | None
        self.pending_digest: bytes | None
        self.pending_generation: int | None
        (
            self.id, self.name, self.root, self.origin, self.base_number, self.base_digest, self.base_created, following,
            self.generation, self.pending_commit, self.pending_digest, self.pending_generation,
        ) = values  # fmt: skip
        self.following = bool(following)
        self.frozen: int | None = None

    @property
    def committing(self) -> bool:
        """Whether a commit may land that holds names of the present rows, so that removed ones must leave a whiteout."""
        return self.frozen is not None or self.pending_commit is not None


class Origin(NamedTuple):
    """An immutable tree that an area shows: its root's digest, and the time that its entries bear."""

    id: int
    area: int
    digest: bytes
    created: int


class Slot(NamedTuple):
    """A name in a directory: who bears it (None: nobody), and its link's flags."""

    parent: Inode
    name: bytes
    child: Inode | None
    flags: int


class Inodes:
    """All inodes of a workspace. ``uid`` and ``gid`` own what comes from versions."""

    def __init__(self, workspace: Workspace, trees: Trees, sources: Sources, *, uid: int, gid: int) -> None:
        self._workspace = workspace
        self._sources = sources
        self.trees = trees
        self.owner = (uid, gid)
        self._cache: dict[int, Inode] = {}
        self.pinned: dict[int, Inode] = {}
        """Inodes that must stay the same object: of open files, and unlinked ones that are still in use."""
        self.epoch = 0
        """Rises with every change of a name, so that work done without the lock can tell whether it is still right."""
        self._origins: dict[int, Origin] = {}
        self.areas: dict[int, Area] = {}
        for row in workspace.execute(
            "SELECT id, name, root, origin, base_number, base_digest, base_created, following, generation, "
            "pending_commit, pending_digest, pending_generation FROM area"
        ):
            area = Area(row)
            self.areas[area.id] = area
        workspace.on_rollback = self.reload

    # -- areas and origins -----------------------------------------------------------------------------------------

    def area_of(self, inode: Inode) -> Area:
        """The area of an inode. ESTALE when it was dropped."""
        area = self.areas.get(inode.area)
        if area is None:
            raise fail(errno.ESTALE)
        return area

    def save_area(self, area: Area) -> None:
        """Write an area's row; within a transaction."""
        self._workspace.execute(
            "UPDATE area SET origin = ?, base_number = ?, base_digest = ?, base_created = ?, following = ?, generation = ?, "
            "pending_commit = ?, pending_digest = ?, pending_generation = ? WHERE id = ?",
            (
                area.origin, area.base_number, area.base_digest, area.base_created, int(area.following), area.generation,
                area.pending_commit, area.pending_digest, area.pending_generation, area.id,
            ),
        )  # fmt: skip

    def add_area(self, name: str) -> Area:
        """Make an area with an empty root; within a transaction."""
        root = self.new(stat.S_IFDIR | 0o755, 0, *self.owner)
        cursor = self._workspace.execute(
            "INSERT INTO area (name, root, base_created, following, generation) VALUES (?, ?, 0, 1, 1)", (name, root.id)
        )
        number = cursor.lastrowid
        assert number is not None  # noqa: S101 - an INSERT gives one
        root.area = number
        self.insert(root)
        area = Area((number, name, root.id, None, None, None, 0, 1, 1, None, None, None))
        self.areas[number] = area
        return area

    def add_origin(self, area: Area, digest: bytes, created: int) -> Origin:
        """Number a tree that an area is to show; within a transaction."""
        cursor = self._workspace.execute(
            "INSERT INTO origin (area, digest, created) VALUES (?, ?, ?)", (area.id, digest, created)
        )
        number = cursor.lastrowid
        assert number is not None  # noqa: S101 - an INSERT gives one
        if number > ORIGIN_MASK:
            raise fail(errno.EOVERFLOW)
        return self._origins.setdefault(number, Origin(number, area.id, digest, created))

    def origin(self, number: int) -> Origin:
        """An origin by number. ESTALE when there is none."""
        found = self._origins.get(number)
        if found is None:
            row = self._workspace.execute(
                "SELECT id, area, digest, created FROM origin WHERE id = ?", (number,)
            ).fetchone()
            if row is None:
                raise fail(errno.ESTALE)
            found = self._origins[number] = Origin(*row)
        return found

    def origin_of(self, node: int) -> Origin:
        """The origin of an inode without a row. ESTALE also when that is put aside (mount/aside.py)."""
        found = self.origin(node >> ORIGIN_SHIFT & ORIGIN_MASK)
        if found.area not in self.areas:
            raise fail(errno.ESTALE)
        return found

    def forget_origins(self, area: Area) -> None:
        """Delete an area's origins but the one it shows; within a transaction."""
        kept = area.origin or 0
        self._workspace.execute("DELETE FROM origin WHERE area = ? AND id <> ?", (area.id, kept))
        for number in [origin.id for origin in self._origins.values() if origin.area == area.id and origin.id != kept]:
            del self._origins[number]

    # -- finding ---------------------------------------------------------------------------------------------------

    def get(self, node: int) -> Inode:
        """An inode by number. ESTALE when there is none (any more)."""
        found = self.known(node)
        if found is not None:
            return found
        row = self._row(node)
        if row is not None:
            return self._keep(Inode(row, row=True))
        if node >> SPACE_SHIFT != BASE_SPACE:
            raise fail(errno.ESTALE)
        return self._resolve(node)

    def _row(self, node: int) -> tuple[Any, ...] | None:
        row: tuple[Any, ...] | None = self._workspace.execute(_SELECT, (node,)).fetchone()
        return row

    def _resolve(self, node: int) -> Inode:
        """An inode without a row, from its number alone."""
        origin = self.origin_of(node)
        if not node & POSITION_MASK:
            raise fail(errno.ESTALE)  # an origin's root is its area's root, which has a number of its own
        try:
            trail = self.trees.trail(origin.digest, node & POSITION_MASK)
        except NotFound:
            raise fail(errno.ESTALE) from None
        prefix = node & ~POSITION_MASK
        if len(trail) > 1:
            parent = prefix | trail[-2].offset
        else:
            area = self.areas.get(origin.area)
            if area is None or area.origin != origin.id:
                raise fail(errno.ESTALE)
            parent = area.root
        return self._keep(self._untouched(node, trail[-1].entry, origin, parent))

    def directory(self, node: int) -> Inode:
        """As :meth:`get`, for a directory: else ENOTDIR."""
        found = self.get(node)
        if not found.directory:
            raise fail(errno.ENOTDIR)
        return found

    def neighbours(self, node: int) -> list[bytes]:
        """Digests of an untouched file and of those behind it: a directory is mostly read in its order. Takes the lock itself."""
        if node >> SPACE_SHIFT != BASE_SPACE:
            return []
        try:
            with self._workspace.lock:
                origin = self.origin_of(node)
            found = self.trees.at(origin.digest, node & POSITION_MASK)
        except (OSError, NotFound):
            return []  # the area shows another tree by now, and only who had the file open reads on
        entries = found.leaf.entries[found.position : found.position + NEIGHBOURS]
        return [entry.digest for entry in entries if isinstance(entry, FileEntry)]

    def lookup(self, parent: int, name: bytes) -> Inode | None:
        """Who bears a name in a directory, or None. Takes the lock itself, and waits for a tree's node without it."""
        with self._workspace.lock:
            directory = self.directory(parent)
            if directory.row:
                row = self._link(parent, name)
                if row is not None:
                    return self.get(row[0]) if row[0] is not None else None
            if directory.digest is None:
                return None
            epoch = self.epoch
        self.warm(directory, name)
        with self._workspace.lock:
            if self.epoch != epoch:
                directory = self.directory(parent)
            return self.slot(directory, name).child

    def warm(self, directory: Inode, name: bytes) -> None:
        """Have the tree's node that would hold a name in memory. Called without the lock, as it may wait for a store."""
        if directory.digest is not None and (text := _text(name)) is not None:
            self.trees.lookup(directory.digest, text)

    def slot(self, directory: Inode, name: bytes) -> Slot:
        """A name in a directory."""
        if directory.row:
            row = self._link(directory.id, name)
            if row is not None:
                child = self.get(row[0]) if row[0] is not None else None
                return Slot(directory, name, child, row[1])
        if directory.digest is not None and (text := _text(name)) is not None:
            found = self.trees.lookup(directory.digest, text)
            if found is not None:
                child = self.base_child(directory, found.offset, found.entry)
                return Slot(directory, name, child, SHADOWS | BASED)
        return Slot(directory, name, None, 0)

    def base_child(self, directory: Inode, offset: int, entry: Entry) -> Inode:
        """The untouched child that a directory's tree has at an offset."""
        node = directory.child(offset)
        known = self.known(node)
        if known is not None:
            return known
        assert directory.origin is not None  # noqa: S101 - it has a tree
        return self._keep(self._untouched(node, entry, self.origin(directory.origin), directory.id))

    def _link(self, parent: int, name: bytes) -> tuple[int | None, int] | None:
        row: tuple[int | None, int] | None = self._workspace.execute(
            "SELECT child, flags FROM link WHERE parent = ? AND name = ?", (parent, name)
        ).fetchone()
        return row

    def describe(self, node: int, entry: Entry, origin: Origin) -> tuple[Any, ...]:
        """The columns of an inode that stands for an entry of a version: its modes are normal, its times the version's."""
        target = reference = digest = number = position = committed = None
        size = 0
        if isinstance(entry, FileEntry):
            mode = stat.S_IFREG | (0o755 if entry.executable else 0o644)
            size, digest = entry.size, entry.digest
        elif isinstance(entry, DirEntry):
            mode = stat.S_IFDIR | 0o755
            digest = committed = entry.digest
            number, position = origin.id, node & POSITION_MASK
        elif isinstance(entry, LinkEntry):
            mode = stat.S_IFLNK | 0o777
            target = entry.target.encode()
            size = len(target)
        else:
            target, reference = self._sources.target(entry), msgspec.msgpack.encode(entry)
            if self._sources.readable(entry):
                mode, size = stat.S_IFREG | 0o644, entry.size or 0
            else:
                mode, size = stat.S_IFLNK | 0o777, len(target)
        when = origin.created
        return (
            node, origin.area, mode, *self.owner, when, when, when, size, 1, target, reference, digest, None, number, position,
            committed, 0,
        )  # fmt: skip

    def _untouched(self, node: int, entry: Entry, origin: Origin, parent: int) -> Inode:
        values = self.describe(node, entry, origin)
        return Inode(values, row=False, parent=parent, name=entry.name.encode())

    def _keep(self, inode: Inode) -> Inode:
        cache = self._cache
        if len(cache) >= CACHED:
            # The first in is the first out: cheaper than order of use, and what is in use is pinned.
            del cache[next(iter(cache))]
        cache[inode.id] = inode
        return inode

    # -- listing ---------------------------------------------------------------------------------------------------

    def links(self, inode: Inode) -> list[tuple[int, bytes]]:
        """Where an inode is: directory and name of each of its links."""
        if not inode.row:
            return [(inode.parent, inode.name)]
        return self._workspace.execute("SELECT parent, name FROM link WHERE child = ?", (inode.id,)).fetchall()

    def path(self, inode: Inode) -> str:
        """The path of an inode (one of them) from its area's root; empty for the root."""
        parts: list[str] = []
        root = self.area_of(inode).root
        while inode.id != root:
            links = self.links(inode)
            if not links:
                parts.append("(deleted)")
                break
            parent, name = links[0]
            parts.append(name.decode(errors="replace"))
            inode = self.get(parent)
        return "/".join(reversed(parts))

    def overlay(self, directory: Inode, first: bytes, last: bytes) -> dict[bytes, int | None]:
        """The link rows of a directory for names that its tree in the origin has, between two names."""
        if not directory.row:
            return {}
        return dict(
            self._workspace.execute(
                "SELECT name, child FROM link WHERE parent = ? AND name BETWEEN ? AND ? AND flags & ?",
                (directory.id, first, last, SHADOWS),
            )
        )

    def added(self, directory: Inode, after: bytes, limit: int) -> list[tuple[bytes, int]]:
        """Names that the directory's tree in the origin does not have, in order, from behind ``after`` on."""
        if not directory.row:
            return []
        return self._workspace.execute(
            "SELECT name, child FROM link WHERE parent = ? AND name > ? AND child IS NOT NULL "
            "AND NOT flags & ? ORDER BY name LIMIT ?",
            (directory.id, after, SHADOWS, limit),
        ).fetchall()

    def empty(self, directory: Inode) -> bool:
        """Whether a directory holds nothing."""
        gone: set[bytes] = set()
        if directory.row:
            present = self._workspace.execute(
                "SELECT 1 FROM link WHERE parent = ? AND child IS NOT NULL LIMIT 1", (directory.id,)
            ).fetchone()
            if present is not None:
                return False
            gone = {
                row[0] for row in self._workspace.execute("SELECT name FROM link WHERE parent = ?", (directory.id,))
            }
        if directory.digest is None:
            return True
        return all(entry.name.encode() in gone for _, _, entry in self.trees.scan(directory.digest))

    def below(self, inode: Inode, ancestor: Inode) -> bool:
        """Whether a directory is another one, or lies below it."""
        root = self.area_of(inode).root
        while inode.id != ancestor.id:
            if inode.id == root:
                return False
            links = self.links(inode)
            if not links:
                return False
            inode = self.get(links[0][0])
        return True

    # -- changing; within a transaction ----------------------------------------------------------------------------

    def new(self, mode: int, area: int, uid: int, gid: int) -> Inode:
        """A new inode, of the present time. It has no row yet."""
        now = time.time_ns()
        node = NEW_SPACE << SPACE_SHIFT | self._workspace.number("inode")
        values = (
            node, area, mode, uid, gid, now, now, now, 0, 1, None, None, None, None, None, None, None, 0,
        )  # fmt: skip
        return Inode(values, row=False)

    def insert(self, inode: Inode) -> None:
        """Give an inode its row."""
        self._workspace.execute(_INSERT, inode.values())
        inode.row = True
        if inode.id not in self.pinned:
            self._keep(inode)

    def own(self, inode: Inode) -> None:
        """Give an untouched inode, and its untouched ancestors, their rows. ESTALE when it is not there any more."""
        chain: list[Inode] = []
        while not inode.row:
            chain.append(inode)
            inode = self.get(inode.parent)
        for each in reversed(chain):
            if self._link(each.parent, each.name) is not None:
                raise fail(errno.ESTALE)
            self.insert(each)
            self._workspace.execute(
                "INSERT INTO link VALUES (?, ?, ?, ?, 0, 0)", (each.parent, each.name, each.id, SHADOWS | BASED)
            )
            self.epoch += 1

    def mark(self, inode: Inode) -> None:
        """Say that what an inode stands for changed, up to the root. It has rows."""
        generation = self.area_of(inode).generation
        execute = self._workspace.execute
        waiting = [inode]
        while waiting:
            inode = waiting.pop()
            if inode.marked == generation:
                continue
            inode.marked = generation
            self.epoch += 1
            parents = execute(
                "SELECT DISTINCT parent FROM link WHERE child = ? AND changed <> ?", (inode.id, generation)
            ).fetchall()
            if parents:
                execute("UPDATE link SET changed = ? WHERE child = ?", (generation, inode.id))
                waiting += [self.get(row[0]) for row in parents]

    def bind(self, slot: Slot, child: Inode) -> None:
        """Let a name stand for an inode with a row. The directory has a row; its times are the caller's."""
        generation = self.area_of(slot.parent).generation
        self._workspace.execute(
            "INSERT OR REPLACE INTO link VALUES (?, ?, ?, ?, ?, ?)",
            (slot.parent.id, slot.name, child.id, slot.flags, generation, generation),
        )
        self.epoch += 1
        self.mark(slot.parent)

    def unbind(self, slot: Slot) -> None:
        """Let a name stand for nothing. The directory has a row; its times are the caller's."""
        area = self.area_of(slot.parent)
        if slot.flags or area.committing:
            self._workspace.execute(
                "INSERT OR REPLACE INTO link VALUES (?, ?, NULL, ?, ?, ?)",
                (slot.parent.id, slot.name, slot.flags, area.generation, area.generation),
            )
        else:
            self._workspace.execute("DELETE FROM link WHERE parent = ? AND name = ?", (slot.parent.id, slot.name))
        self.epoch += 1
        self.mark(slot.parent)

    def save(self, inode: Inode) -> None:
        """Write an inode's row."""
        self._workspace.execute(
            "UPDATE inode SET mode = ?, uid = ?, gid = ?, atime = ?, mtime = ?, ctime = ?, size = ?, nlink = ?, "
            "digest = ?, layer = ?, origin = ?, position = ?, committed = ?, open = ? WHERE id = ?",
            (
                inode.mode, inode.uid, inode.gid, inode.atime, inode.mtime, inode.ctime, inode.size, inode.nlink,
                inode.digest, inode.layer, inode.origin, inode.position, inode.committed, inode.open, inode.id,
            ),
        )  # fmt: skip
        inode.unsaved = False

    def touch(self, directory: Inode) -> None:
        """Give a directory with a row, whose names changed, the present time."""
        directory.mtime = directory.ctime = now = time.time_ns()
        self._workspace.execute("UPDATE inode SET mtime = ?, ctime = ? WHERE id = ?", (now, now, directory.id))

    def remove(self, inode: Inode) -> None:
        """Delete an inode's row, its xattrs, and the links in it. Its links from elsewhere and its layers are the caller's."""
        execute = self._workspace.execute
        if inode.row:
            execute("DELETE FROM inode WHERE id = ?", (inode.id,))
            execute("DELETE FROM xattr WHERE inode = ?", (inode.id,))
            if inode.directory:
                execute("DELETE FROM link WHERE parent = ?", (inode.id,))
        inode.row = False
        self._cache.pop(inode.id, None)
        self.epoch += 1

    def known(self, node: int) -> Inode | None:
        """An inode if it is in memory."""
        return self.pinned.get(node) or self._cache.get(node)

    def forget(self, node: int) -> None:
        """Drop an inode from memory, unless it is pinned."""
        self._cache.pop(node, None)

    def clear(self) -> None:
        """Drop from memory all inodes that are not pinned."""
        self._cache.clear()
        self.epoch += 1

    def reload(self) -> None:
        """Take everything in memory from the tables again: after a rollback, or when rows were changed in bulk."""
        self.clear()
        execute = self._workspace.execute
        for inode in self.pinned.values():
            inode.marked = 0
            row = self._row(inode.id)
            if row is None:
                inode.row = False
                continue
            inode.row = True
            if inode.unsaved:
                kept = inode.size, inode.mtime, inode.ctime
                inode.load(row)
                inode.size, inode.mtime, inode.ctime = kept
            else:
                inode.load(row)
        self._origins.clear()
        for row in execute(
            "SELECT id, origin, base_number, base_digest, base_created, following, generation, "
            "pending_commit, pending_digest, pending_generation FROM area"
        ).fetchall():
            area = self.areas[row[0]]
            area.origin, area.base_number, area.base_digest, area.base_created = row[1:5]
            area.following, area.generation = bool(row[5]), row[6]
            area.pending_commit, area.pending_digest, area.pending_generation = row[7:]
        present = {row[0] for row in execute("SELECT id FROM area")}
        for number in [number for number in self.areas if number not in present]:
            del self.areas[number]


def entry_of(inode: Inode, name: str) -> Entry:
    """The entry that an inode other than a directory is in a version. A file with local bytes has the digest ``b""``."""
    if inode.reference is not None:
        return msgspec.structs.replace(reference_of(inode.reference), name=name)
    if inode.target is not None:
        return LinkEntry(name, inode.target.decode())
    known = inode.digest or b""
    return FileEntry(name, inode.size, b"" if inode.layer is not None else known, bool(inode.mode & 0o111))


def reference_of(data: bytes) -> RefEntry:
    """The entry that an inode's ``reference`` keeps."""
    return msgspec.msgpack.decode(data, type=RefEntry)


def _text(name: bytes) -> str | None:
    """A name as versions have it; None when none can have it."""
    try:
        return name.decode()
    except UnicodeDecodeError:
        return None


def load_inode(execute: Any, node: int) -> Inode | None:
    """An inode from the tables that ``execute`` reads (a snapshot's); not the one in memory."""
    row = execute(_SELECT, (node,)).fetchone()
    return Inode(row, row=True) if row is not None else None

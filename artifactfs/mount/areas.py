"""Areas: what commands do with the staging of an artifact: diff, discard, stage, rebase, follow `latest`.

Used by staging.py, which the View and the daemon call. What changes here changes behind the kernel, so these methods
return :class:`Invalidation` values, which the caller sends once no lock is held.

Threads: any. Each method takes the workspace's lock for its tables; trees are compared without it.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Final

import msgspec

from artifactfs.errors import Conflict
from artifactfs.model.records import VersionRecord
from artifactfs.model.tree import Change, DirEntry, Entry, Trees, diff_trees
from artifactfs.mount.files import Files
from artifactfs.mount.inodes import BASE_SPACE, SPACE_SHIFT, Area, Inode, Inodes, entry_of, fail
from artifactfs.mount.layers import LocalFile

if TYPE_CHECKING:
    from artifactfs.mount.workspace import Workspace

MAX_NAMED: Final = 20
"""Paths that an error names; the rest are counted."""
MAX_INVALIDATED: Final = 10_000
"""Names of a root that are invalidated one by one, 18 µs each. Beyond, the caller's invalidation of the root's own name must do,
which makes the kernel drop all names below that nobody uses."""
ATTEMPTS: Final = 3
"""How often a rebase is prepared without the lock before it is prepared with it."""


class Invalidation(msgspec.Struct, frozen=True):
    """What the kernel must forget: a name in directory ``node``, or, without a name, what it knows of ``node`` itself."""

    node: int
    name: bytes | None = None


class AreaStatus(msgspec.Struct, frozen=True):
    """An area at a glance: number of its base (None: there was no version), changed entries, bytes on the local disk."""

    name: str
    base: int | None
    following: bool
    changed: int
    local_bytes: int


class Areas:
    """All areas of a workspace, by name."""

    def __init__(self, workspace: Workspace, inodes: Inodes, files: Files, trees: Trees) -> None:
        self._workspace = workspace
        self._inodes = inodes
        self._files = files
        self._trees = trees

    # -- begin and end ---------------------------------------------------------------------------------------------

    def names(self) -> list[str]:
        """Artifacts that have an area."""
        with self._workspace.lock:
            return [area.name for area in self._inodes.areas.values()]

    def bases(self) -> list[tuple[str, int]]:
        """Artifact and number of the versions that areas build on."""
        with self._workspace.lock:
            areas = list(self._inodes.areas.values())
        return [(area.name, area.base_number) for area in areas if area.base_number is not None]

    def find(self, name: str) -> Area | None:
        """The area of an artifact, or None."""
        with self._workspace.lock:
            return next((area for area in self._inodes.areas.values() if area.name == name), None)

    def area(self, name: str, base: VersionRecord | None) -> Area:
        """The area of an artifact. One that is new shows ``base``, or is empty, and follows `latest`."""
        with self._workspace.lock:
            found = self.find(name)
            if found is None:
                with self._workspace.transaction:
                    found = self._inodes.add_area(name)
                    self._show(found, base)
                    found.base_number = base.number if base is not None else None
                    self._inodes.save_area(found)
            return found

    def drop(self, name: str) -> None:
        """Give up the area of an artifact that has no version yet. ENOTEMPTY when it holds something."""
        with self._workspace.lock:
            area = self.find(name)
            if area is None:
                raise fail(errno.ENOENT)
            if area.base_number is not None or area.committing or not self._inodes.empty(self._root(area)):
                raise fail(errno.ENOTEMPTY)
            with self._workspace.transaction:
                layers = self._clear(area, set())
                self._workspace.execute("DELETE FROM inode WHERE id = ?", (area.root,))
                self._workspace.execute("DELETE FROM area WHERE id = ?", (area.id,))
            self._cleared(area, layers, set())
            self._inodes.areas.pop(area.id, None)

    # -- look ------------------------------------------------------------------------------------------------------

    def is_dirty(self, area: Area) -> bool:
        """Whether anything differs from the base. A name that came and went does not count."""
        with self._workspace.lock:
            marked = self._workspace.execute(
                "SELECT 1 FROM link WHERE parent = ? AND changed <> 0 LIMIT 1", (area.root,)
            ).fetchone()
        return marked is not None and next(self.changes(area), None) is not None

    def changes(self, area: Area) -> Iterator[Change]:
        """What differs from the base, in order of path. A file with local bytes has the digest ``b""`` and counts as changed."""
        return (change for change, _ in self._differences(area))

    def status(self, area: Area) -> AreaStatus:
        """An area at a glance. Reads the row of every changed entry."""
        changed = sum(1 for _ in self.changes(area))
        with self._workspace.lock:
            layers = self._workspace.execute("SELECT id FROM layer WHERE area = ?", (area.id,)).fetchall()
        local = 0
        for (layer,) in layers:
            status = LocalFile(self._workspace.layer_path(layer)).status()
            local += status.st_blocks * 512 if status is not None else 0
        return AreaStatus(area.name, area.base_number, area.following, changed, local)

    def _root(self, area: Area) -> Inode:
        return self._inodes.get(area.root)

    def _differences(self, area: Area) -> Iterator[tuple[Change, int]]:
        """Changes, each with the number of the inode that has the name now (0: none)."""
        return self._compare("", area.base_digest, area.root)

    def _compare(self, prefix: str, old: bytes | None, node: int) -> Iterator[tuple[Change, int]]:
        with self._workspace.lock:
            directory = self._inodes.get(node)
            row, digest, committed = directory.row, directory.digest, directory.committed
            names = self._marked(node) if row and committed == old else None
        if not row:
            for change in diff_trees(self._trees, old, digest, prefix):
                found = self._trees.find(digest, change.path[len(prefix) :]) if change.new and digest else None
                yield change, directory.child(found.offset) if found is not None else 0
            return
        if names is None:
            names = self._all_names(old, directory)
        for name in names:
            text = name.decode()
            found = self._trees.lookup(old, text) if old is not None else None
            with self._workspace.lock:
                child = self._inodes.slot(self._inodes.get(node), name).child
            yield from self._pair(prefix + text, found.entry if found is not None else None, child)

    def _marked(self, node: int) -> list[bytes]:
        rows = self._workspace.execute("SELECT name FROM link WHERE parent = ? AND changed <> 0 ORDER BY name", (node,))
        return [row[0] for row in rows]

    def _all_names(self, old: bytes | None, directory: Inode) -> list[bytes]:
        """Names that a directory, or the tree it is compared with, has; for directories that took another's place."""
        names = {entry.name.encode() for _, _, entry in self._trees.scan(old)} if old is not None else set()
        names |= {name for name, _ in self._shown(directory)}
        return sorted(names)

    def _shown(self, directory: Inode) -> Iterator[tuple[bytes, int]]:
        """Names and inode numbers of a directory."""
        with self._workspace.lock:
            overlay = dict(
                self._workspace.execute("SELECT name, child FROM link WHERE parent = ?", (directory.id,)).fetchall()
            )
        if directory.digest is not None:
            for _, offset, entry in self._trees.scan(directory.digest):
                name = entry.name.encode()
                if name not in overlay:
                    yield name, directory.child(offset)
        for name, child in overlay.items():
            if child is not None:
                yield name, child

    def _pair(self, path: str, old: Entry | None, child: Inode | None) -> Iterator[tuple[Change, int]]:
        if old is not None and (child is None or isinstance(old, DirEntry) != child.directory):
            yield Change("removed", path, old, None), 0
            if isinstance(old, DirEntry):
                for below, entry in self._trees.walk(old.digest, f"{path}/"):
                    yield Change("removed", below, entry, None), 0
            old = None
        if child is None:
            return
        if child.directory:
            if old is None:
                yield Change("added", path, None, DirEntry(path.rpartition("/")[2], b"", 0, 0, 0)), child.id
            yield from self._compare(f"{path}/", old.digest if isinstance(old, DirEntry) else None, child.id)
            return
        new = entry_of(child, path.rpartition("/")[2])
        if old is None:
            yield Change("added", path, None, new), child.id
        elif old != new:
            yield Change("changed", path, old, new), child.id

    # -- change what is shown --------------------------------------------------------------------------------------

    def follow(self, area: Area, version: VersionRecord) -> list[Invalidation]:
        """Let an area without changes show a version, usually `latest`. One with changes keeps its base."""
        if not self._behind(area, version) or self.is_dirty(area):
            return []
        self._warm(area, version.digest)
        with self._workspace.lock:
            if not self._behind(area, version) or self._files.writing(area) or self.is_dirty(area):
                return []
            return self._restart(area, version, version.number)

    def _behind(self, area: Area, version: VersionRecord) -> bool:
        """Whether an area that follows shows another version."""
        with self._workspace.lock:
            if not area.following or area.committing or self._inodes.areas.get(area.id) is not area:
                return False
            return area.base_digest != version.digest or area.base_number != version.number

    def _warm(self, area: Area, digest: bytes | None) -> None:
        """Have the nodes in memory that :meth:`_restart` will read. Called without the lock, as it may wait for a store."""
        with self._workspace.lock:
            shown = self._root(area).digest
        for root in (shown, digest):
            if root is not None:
                deque(islice(self._trees.scan(root), MAX_INVALIDATED), maxlen=0)

    def discard(self, area: Area) -> list[Invalidation]:
        """Back to the base. Conflict while files are open for writing, or a commit runs."""
        self._files.await_closing(area)
        self._warm(area, area.base_digest)
        with self._workspace.lock:
            self._refuse_busy(area, "discard")
            base = _Shown(area.base_digest, area.base_created) if area.base_digest is not None else None
            return self._restart(area, base, area.base_number)

    def reset(
        self, area: Area, version: VersionRecord | None, *, empty: bool = False, following: bool = False
    ) -> list[Invalidation]:
        """Begin anew from a version, giving up all changes; ``empty``: with nothing, though the version is the base.

        Without ``following`` the area stays there when `latest` moves. Conflict as :meth:`discard`.
        """
        self._files.await_closing(area)
        self._warm(area, version.digest if version is not None else None)
        with self._workspace.lock:
            self._refuse_busy(area, "stage")
            area.following = following
            return self._restart(area, None if empty else version, version.number if version is not None else None)

    def _refuse_busy(self, area: Area, word: str) -> None:
        if area.frozen is not None:
            raise Conflict(f"{area.name} is being committed; {word} again when that has ended")
        writers = self._files.writing(area)
        if writers:
            named = [f"{path or '.'} (process {pid})" for path, pid in writers[:MAX_NAMED]]
            raise Conflict("\n  ".join([f"cannot {word}: files of {area.name}/staging are open for writing:", *named]))

    def _restart(self, area: Area, version: VersionRecord | _Shown | None, number: int | None) -> list[Invalidation]:
        """Drop all rows of an area and show a tree."""
        known = self._origin_digest(area)
        same = version is not None and known == version.digest
        stale = self._touched(area) if same else self._top_names(area)
        with self._workspace.transaction:
            layers = self._clear(area, set())
            self._show(area, version)
            area.base_number = number
            area.pending_commit = area.pending_digest = area.pending_generation = None
            self._inodes.save_area(area)
            self._inodes.forget_origins(area)
        self._cleared(area, layers, set())
        if not same:
            stale += self._top_names(area)
        self._workspace.collect()
        return [*dict.fromkeys(stale), Invalidation(area.root)]

    def _origin_digest(self, area: Area) -> bytes | None:
        return self._inodes.origin(area.origin).digest if area.origin is not None else None

    def _show(self, area: Area, version: VersionRecord | _Shown | None) -> None:
        """Let an area's root show a tree, or nothing; within a transaction, with no rows below it."""
        digest = version.digest if version is not None else None
        if version is None:
            area.origin = None
        elif area.origin is None or self._inodes.origin(area.origin).digest != digest:
            area.origin = self._inodes.add_origin(area, version.digest, version.created).id
        area.base_digest = digest
        area.base_created = version.created if version is not None else 0
        root = self._root(area)
        root.digest = root.committed = digest
        root.origin = area.origin
        root.position = 0
        root.marked = 0
        if version is not None:
            root.mtime = root.ctime = root.atime = version.created
        self._inodes.save(root)

    def _touched(self, area: Area) -> list[Invalidation]:
        """What the kernel may know of an area that is not so in its origin."""
        found: list[Invalidation] = []
        rows = self._workspace.execute(
            "SELECT parent, name, child FROM link WHERE parent IN (SELECT id FROM inode WHERE area = ?)", (area.id,)
        )
        for parent, name, child in rows:
            found += [Invalidation(parent, name), Invalidation(parent)]
            if child is not None and child >> SPACE_SHIFT == BASE_SPACE:
                found.append(Invalidation(child))
        return found

    def _top_names(self, area: Area) -> list[Invalidation]:
        names = islice(self._shown(self._root(area)), MAX_INVALIDATED)
        return [Invalidation(area.root, name) for name, _ in names]

    def _clear(self, area: Area, kept: set[int]) -> list[int]:
        """Delete the rows of an area but its root's and those of ``kept``; within a transaction. Returns the layers that go."""
        execute = self._workspace.execute
        execute("CREATE TEMP TABLE IF NOT EXISTS doomed (id INTEGER PRIMARY KEY, layer INTEGER)")
        execute("DELETE FROM doomed")
        execute("INSERT INTO doomed SELECT id, layer FROM inode WHERE area = ?", (area.id,))
        for node in kept:
            execute("DELETE FROM doomed WHERE id = ?", (node,))
        execute("DELETE FROM link WHERE parent IN (SELECT id FROM doomed)")
        execute("DELETE FROM xattr WHERE inode IN (SELECT id FROM doomed)")
        layers: list[int] = []
        for (top,) in execute("SELECT layer FROM doomed WHERE layer IS NOT NULL").fetchall():
            layers += self._files.drop_layers(top)
        execute("DELETE FROM inode WHERE id IN (SELECT id FROM doomed) AND id <> ?", (area.root,))
        execute("DELETE FROM doomed")
        return layers

    def _cleared(self, area: Area, layers: list[int], kept: set[int]) -> None:
        """After the transaction of :meth:`_clear`: let memory follow, and local files go that nobody has open."""
        used: set[int] = set()
        for file in [file for file in self._files.open_files.values() if file.area is area]:
            if file.inode.id not in kept:
                used.update(self._files.detach(file))
        pinned = self._inodes.pinned
        for inode in [inode for inode in pinned.values() if inode.area == area.id and not inode.nlink]:
            del pinned[inode.id]
        self._inodes.reload()
        self._workspace.discard([layer for layer in layers if layer not in used])

    # -- rebase ----------------------------------------------------------------------------------------------------

    def rebase(self, area: Area, version: VersionRecord) -> list[Invalidation]:
        """Carry an area's changes over to another version. Conflict, naming paths, when both changed the same.

        What is no part of a version (modes, times, xattrs) is carried along with what changed, and given up elsewhere.
        """
        self._files.await_closing(area)
        self._warm(area, version.digest)
        for attempt in range(ATTEMPTS + 1):
            if attempt == ATTEMPTS:
                with self._workspace.lock:
                    return self._apply(area, version, self._plan(area, version))
            epoch = self._inodes.epoch
            plan = self._plan(area, version)
            with self._workspace.lock:
                if self._inodes.epoch == epoch:
                    return self._apply(area, version, plan)
        raise AssertionError  # the last attempt returns

    def _plan(self, area: Area, version: VersionRecord) -> list[tuple[str, Entry | None, int]]:
        """Paths that differ from the base, what is there now, and its inode. Raises Conflict."""
        mine = [(change.path, change.new, node) for change, node in self._differences(area)]
        theirs: dict[str, Entry | None] = {
            change.path: change.new for change in diff_trees(self._trees, area.base_digest, version.digest)
        }
        ours: dict[str, Entry | None] = {path: new for path, new, _ in mine}
        clashes = [path for path, new in ours.items() if path in theirs and not _alike(new, theirs[path])]
        clashes += _orphaned(ours, lambda path: path not in ours and path in theirs and not _is_dir(theirs[path]))
        clashes += _orphaned(theirs, lambda path: path in ours and not _is_dir(ours[path]))
        if clashes:
            clashes = sorted(set(clashes))
            more = [f"and {len(clashes) - MAX_NAMED} more"] if len(clashes) > MAX_NAMED else []
            heading = (
                f"{area.name}: staging and v{version.number} changed the same paths; nothing was rebased. Copy yours aside, "
                f"`discard`, and change v{version.number} anew; or `commit --force` for staging as it is:"
            )
            raise Conflict("\n  ".join([heading, *clashes[:MAX_NAMED], *more]))
        return mine

    def _apply(
        self, area: Area, version: VersionRecord, plan: list[tuple[str, Entry | None, int]]
    ) -> list[Invalidation]:
        self._refuse_busy(area, "rebase")
        stale = self._top_names(area)
        # Directories that the version does not have move as they are, with everything in them.
        whole: list[str] = []
        carried: list[tuple[str, int]] = []
        for path, new, node in plan:
            if whole and path.startswith(f"{whole[-1]}/"):
                continue
            if new is None:
                carried.append((path, 0))
            elif not _is_dir(new):
                carried.append((path, node))
            elif not _is_dir(self._entry(version.digest, path)):
                carried.append((path, node))
                whole.append(path)
        with self._workspace.transaction:
            numbers = [node for _, node in carried if node]
            for node in numbers:
                self._inodes.own(self._inodes.get(node))
            kept = self._with_all_below(numbers)
            layers = self._clear(area, kept)
            self._inodes.clear()
            self._show(area, version)
            area.base_number = version.number
            area.pending_commit = area.pending_digest = area.pending_generation = None
            self._inodes.save_area(area)
            for path, node in carried:
                self._carry(area, path, node)
            self._workspace.execute(
                "UPDATE inode SET nlink = (SELECT count(*) FROM link WHERE child = inode.id) "
                "WHERE area = ? AND mode & 61440 <> 16384",  # S_IFMT, S_IFDIR
                (area.id,),
            )
        self._cleared(area, layers, kept)
        self._workspace.collect()
        stale += self._top_names(area)
        return [*dict.fromkeys(stale), Invalidation(area.root)]

    def _carry(self, area: Area, path: str, node: int) -> None:
        """Put an inode at a path of what an area now shows, or let the path's name go."""
        *parents, last = path.split("/")
        directory = self._root(area)
        for part in parents:
            child = self._inodes.slot(directory, part.encode()).child
            if child is None or not child.directory:
                return  # a directory above it went, and it with that
            directory = child
        slot = self._inodes.slot(directory, last.encode())
        if not node and slot.child is None:
            return
        self._inodes.own(directory)
        if node:
            self._inodes.bind(slot, self._inodes.get(node))
        else:
            self._inodes.unbind(slot)
        self._inodes.touch(directory)

    def _with_all_below(self, nodes: list[int]) -> set[int]:
        kept: set[int] = set()
        waiting = list(nodes)
        while waiting:
            node = waiting.pop()
            if node not in kept:
                kept.add(node)
                rows = self._workspace.execute("SELECT child FROM link WHERE parent = ? AND child IS NOT NULL", (node,))
                waiting += [row[0] for row in rows]
        return kept

    def _entry(self, root: bytes, path: str) -> Entry | None:
        found = self._trees.find(root, path)
        return found.entry if found is not None else None


class _Shown(msgspec.Struct, frozen=True):
    """A tree that is not known by its version's record any more."""

    digest: bytes
    created: int


def _is_dir(entry: Entry | None) -> bool:
    return isinstance(entry, DirEntry)


def _alike(one: Entry | None, other: Entry | None) -> bool:
    """Whether two sides did the same to a path. Directories are compared by what is in them."""
    return one == other or (_is_dir(one) and _is_dir(other))


def _orphaned(side: dict[str, Entry | None], gone: Callable[[str], bool]) -> list[str]:
    """Paths that one side made or changed below something that the other side removed or replaced."""
    found: list[str] = []
    for path, new in side.items():
        above = path
        while new is not None and "/" in above:
            above = above.rpartition("/")[0]
            if gone(above):
                found.append(path)
                break
    return found

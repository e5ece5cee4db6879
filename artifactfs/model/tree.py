"""Trees: directories as Sequences of sorted entries, and what is done with them: look up, number, list, change, compare.

A Version is the root of a Tree. Used by the repository, the mount and the draft. Reading goes through :class:`Trees`, which keeps
decoded nodes in a bounded LRU; its methods may be called from any thread.

Every entry has a number: the root is 0, and a directory's children follow it in order, each with its whole subtree (preorder). As
every directory entry carries how many entries are below it, the number of an entry, and the entry of a number, are found by
reading the nodes on its path alone. The mount makes inode numbers of them and so needs no inode table for versions.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import accumulate
from threading import Lock
from typing import Final, Literal

import msgspec

from artifactfs.errors import Integrity, NotFound
from artifactfs.model import sequence
from artifactfs.model.digest import TREE, digest
from artifactfs.model.sequence import SequenceType, StoreNode, mark_of

CACHED_ITEMS: Final = 150_000
"""Items (entries and branches) that decoded nodes in the LRU may hold together: about 40 MB at 250 bytes an entry."""


class FileEntry(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=0):
    """A file: content digest (model/sequence.py says of what), size in bytes, executable bit."""

    name: str
    size: int
    digest: bytes
    executable: bool


class DirEntry(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=1):
    """A directory: digest of its Tree's root; files, entries (files and directories) and bytes below it."""

    name: str
    digest: bytes
    files: int
    entries: int
    size: int


class LinkEntry(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=2):
    """A symlink and its target, relative to its directory."""

    name: str
    target: str


class RefEntry(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=3):
    """A Reference: bytes at an outside URI with what is known of them."""

    name: str
    uri: str
    size: int | None
    checksum: str | None
    etag: str | None
    version: str | None


Entry = FileEntry | DirEntry | LinkEntry | RefEntry


class TreeBranch(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A part of a directory: digest of the node, entries in it, the last one's name; files, entries and bytes with all below."""

    digest: bytes
    count: int
    last: str
    files: int
    entries: int
    size: int


class _TreeSequence(SequenceType[Entry, TreeBranch]):
    kind = TREE

    def __init__(self) -> None:
        super().__init__(Entry, TreeBranch)

    def mark(self, item: Entry) -> int:
        # By name, not by content: a changed file never moves a boundary.
        return mark_of(digest(0, item.name.encode()))

    def summarise(self, digest: bytes, items: Sequence[Entry]) -> TreeBranch:
        files = entries = size = 0
        for entry in items:
            if isinstance(entry, DirEntry):
                files += entry.files
                entries += entry.entries
                size += entry.size
            else:
                files += 1
                size += size_of(entry)
        return TreeBranch(digest, len(items), items[-1].name if items else "", files, entries + len(items), size)

    def merge(self, digest: bytes, branches: Sequence[TreeBranch]) -> TreeBranch:
        return TreeBranch(
            digest,
            sum(b.count for b in branches),
            branches[-1].last,
            sum(b.files for b in branches),
            sum(b.entries for b in branches),
            sum(b.size for b in branches),
        )


TREE_SEQUENCE: Final = _TreeSequence()


class TreeSummary(msgspec.Struct, frozen=True):
    """A directory by its root: digest, and files, entries and bytes below it."""

    digest: bytes
    files: int
    entries: int
    size: int

    def entry(self, name: str) -> DirEntry:
        """The entry for this directory in its parent."""
        return DirEntry(name, self.digest, self.files, self.entries, self.size)


def size_of(entry: Entry) -> int:
    """Bytes of content: a symlink has none, a Reference those that are known."""
    if isinstance(entry, LinkEntry):
        return 0
    return entry.size or 0


def weight_of(entry: Entry) -> int:
    """How many numbers an entry takes: itself, and all below a directory."""
    return 1 + entry.entries if isinstance(entry, DirEntry) else 1


def build_tree(entries: Iterable[Entry], store: StoreNode) -> TreeSummary:
    """Store a directory whose entries come sorted by name (code points, which is UTF-8's order) and without repetition."""
    return _summary(sequence.build(TREE_SEQUENCE, entries, store))


def _summary(branch: TreeBranch) -> TreeSummary:
    return TreeSummary(branch.digest, branch.files, branch.entries, branch.size)


class Leaf:
    """A decoded leaf of a directory: its entries, their names, and their offsets from the first (cumulated weights)."""

    __slots__ = ("entries", "names", "offsets")

    def __init__(self, entries: list[Entry]) -> None:
        self.entries = entries
        self.names = [entry.name for entry in entries]
        self.offsets: Sequence[int]
        if any(isinstance(entry, DirEntry) for entry in entries):
            self.offsets = list(accumulate((weight_of(entry) for entry in entries), initial=0))
        else:
            self.offsets = range(len(entries) + 1)


class Fork:
    """A decoded node of branches, with cumulated counts and offsets."""

    __slots__ = ("branches", "counts", "lasts", "offsets")

    def __init__(self, branches: list[TreeBranch]) -> None:
        self.branches = branches
        self.lasts = [branch.last for branch in branches]
        self.counts = list(accumulate((branch.count for branch in branches), initial=0))
        self.offsets = list(accumulate((branch.entries for branch in branches), initial=0))


class Found(msgspec.Struct, frozen=True, gc=False):
    """An entry, its number relative to the directory that was asked, and the leaf and position where it stands."""

    entry: Entry
    offset: int
    leaf: Leaf
    position: int


ABOVE: Final = 16
"""Nodes with nodes below them that :meth:`Trees.following` looks through: the depth of most trees, and more than once."""


class Trees:
    """Reads directories by digest. ``fetch(digest)`` gives a node's verified bytes."""

    def __init__(self, fetch: Callable[[bytes], bytes], *, cached_items: int = CACHED_ITEMS) -> None:
        self._fetch = fetch
        self._limit = cached_items
        self._lock = Lock()
        self._held = 0
        self._nodes: OrderedDict[bytes, Leaf | Fork] = OrderedDict()
        self._above: deque[Leaf | Fork] = deque(maxlen=ABOVE)  # latest last

    def node(self, digest: bytes) -> Leaf | Fork:
        """A decoded node, from the LRU or fetched."""
        nodes = self._nodes
        found = nodes.get(digest)
        if found is not None:
            with suppress(KeyError):  # another thread may have evicted it just now
                nodes.move_to_end(digest)
            return found
        decoded = TREE_SEQUENCE.decode(self._fetch(digest))
        found = Fork(decoded.branches) if decoded.level else Leaf(decoded.items)
        if isinstance(found, Fork) or not isinstance(found.offsets, range):
            self._above.append(found)
        with self._lock:
            if digest not in nodes:
                nodes[digest] = found
                self._held += _items_in(found)
                while self._held > self._limit and len(nodes) > 1:
                    self._held -= _items_in(nodes.popitem(last=False)[1])
        return found

    def following(self, digest: bytes) -> Iterator[bytes]:
        """Nodes that a walk will ask for after this one: what comes next in the node above it, if that was read lately.

        For a ``fetch`` that can have several at once. Those that are in memory are left out.
        """
        for node in reversed(self._above.copy()):
            if isinstance(node, Fork):
                below = [branch.digest for branch in node.branches]
            else:
                below = [entry.digest for entry in node.entries if isinstance(entry, DirEntry)]
            if digest in below:
                yield from (other for other in below[below.index(digest) + 1 :] if other not in self._nodes)
                return

    def lookup(self, directory: bytes, name: str) -> Found | None:
        """The entry of a name in a directory, or None."""
        base = 1
        node = self.node(directory)
        while isinstance(node, Fork):
            place = bisect_left(node.lasts, name)
            if place == len(node.lasts):
                return None
            base += node.offsets[place]
            node = self.node(node.branches[place].digest)
        place = bisect_left(node.names, name)
        if place == len(node.names) or node.names[place] != name:
            return None
        return Found(node.entries[place], base + node.offsets[place], node, place)

    def at(self, root: bytes, number: int) -> Found:
        """The entry of a number below ``root`` (1 and up). Raises NotFound when there is none."""
        return self.trail(root, number)[-1]

    def trail(self, root: bytes, number: int) -> list[Found]:
        """The entries on the path from below ``root`` to a number, offsets relative to ``root``. Raises NotFound."""
        trail: list[Found] = []
        directory, base = root, 0
        while True:
            relative = number - base
            if relative < 1:
                raise NotFound(f"no entry has the number {number}")
            relative -= 1
            start = base + 1
            node = self.node(directory)
            while isinstance(node, Fork):
                if relative >= node.offsets[-1]:
                    raise NotFound(f"no entry has the number {number}")
                place = bisect_right(node.offsets, relative) - 1
                relative -= node.offsets[place]
                start += node.offsets[place]
                node = self.node(node.branches[place].digest)
            if relative >= node.offsets[-1]:
                raise NotFound(f"no entry has the number {number}")
            place = relative if isinstance(node.offsets, range) else bisect_right(node.offsets, relative) - 1
            entry = node.entries[place]
            base = start + node.offsets[place]
            trail.append(Found(entry, base, node, place))
            if base == number:
                return trail
            if not isinstance(entry, DirEntry):
                raise Integrity("a directory's counts do not match its entries; run `artifactfs verify`")
            directory = entry.digest

    def find(self, root: bytes, path: str) -> Found | None:
        """The entry of a path below ``root`` (not empty), offset relative to ``root``; None when it is not there."""
        directory, base = root, 0
        found: Found | None = None
        for part in path.split("/"):
            if found is not None:
                if not isinstance(found.entry, DirEntry):
                    return None
                directory = found.entry.digest
            found = self.lookup(directory, part)
            if found is None:
                return None
            base += found.offset
        assert found is not None  # noqa: S101 - split gives at least one part
        return Found(found.entry, base, found.leaf, found.position)

    def scan(self, directory: bytes, start: int = 0) -> Iterator[tuple[int, int, Entry]]:
        """``(position, offset, entry)`` of a directory from position ``start`` on; one leaf in memory at a time."""
        return self._scan(self.node(directory), 0, 1, start)

    def _scan(self, node: Leaf | Fork, position: int, offset: int, start: int) -> Iterator[tuple[int, int, Entry]]:
        if isinstance(node, Leaf):
            offsets = node.offsets
            entries = node.entries
            for place in range(max(0, start - position), len(entries)):
                yield position + place, offset + offsets[place], entries[place]
            return
        first = max(0, bisect_right(node.counts, start - position) - 1) if start > position else 0
        for place in range(first, len(node.branches)):
            below = self.node(node.branches[place].digest)
            yield from self._scan(below, position + node.counts[place], offset + node.offsets[place], start)

    def summary(self, directory: bytes) -> TreeSummary:
        """Files, entries and bytes below a directory, from its root node alone."""
        node = self.node(directory)
        if isinstance(node, Leaf):
            return _summary(TREE_SEQUENCE.summarise(directory, node.entries))
        return _summary(TREE_SEQUENCE.merge(directory, node.branches))

    def count(self, directory: bytes) -> int:
        """Entries directly in a directory."""
        node = self.node(directory)
        return len(node.entries) if isinstance(node, Leaf) else node.counts[-1]

    def walk(self, directory: bytes, prefix: str = "") -> Iterator[tuple[str, Entry]]:
        """Every path below a directory with its entry, in preorder."""
        for _, _, entry in self.scan(directory):
            path = f"{prefix}{entry.name}"
            yield path, entry
            if isinstance(entry, DirEntry):
                yield from self.walk(entry.digest, f"{path}/")

    def leaves(self, directory: bytes) -> list[TreeBranch]:
        """The branches to a directory's leaves."""
        node = self.node(directory)
        if isinstance(node, Leaf):
            return [TREE_SEQUENCE.summarise(directory, node.entries)]
        return sequence.leaves(TREE_SEQUENCE, directory, self._fetch_node)

    def _fetch_node(self, _kind: int, digest: bytes) -> bytes:
        return self._fetch(digest)


def _items_in(node: Leaf | Fork) -> int:
    return len(node.entries) if isinstance(node, Leaf) else len(node.branches)


def edit_tree(
    trees: Trees, directory: bytes | None, changes: Mapping[str, Entry | None], store: StoreNode
) -> TreeSummary:
    """Store a directory with changed entries: a name's new entry, or None where it goes (absent names may "go").

    ``directory`` None starts from nothing. Reads and stores only the nodes that the changes touch; the result is the
    same as :func:`build_tree` of the resulting entries.
    """
    if directory is None:
        return build_tree(_present(changes), store)
    old = trees.leaves(directory)
    lasts = [branch.last for branch in old]
    by_leaf: dict[int, dict[str, Entry | None]] = {}
    for name in sorted(changes):
        by_leaf.setdefault(min(bisect_left(lasts, name), len(old) - 1), {})[name] = changes[name]

    def apply(number: int, items: list[Entry]) -> list[Entry]:
        edits = by_leaf[number]
        merged: dict[str, Entry] = {entry.name: entry for entry in items}
        for name, entry in edits.items():
            if entry is None:
                merged.pop(name, None)
            else:
                merged[name] = entry
        return [merged[name] for name in sorted(merged)]

    root = sequence.edit(TREE_SEQUENCE, old, apply, sorted(by_leaf), trees._fetch_node, store)  # noqa: SLF001
    return _summary(root)


def _present(changes: Mapping[str, Entry | None]) -> Iterator[Entry]:
    for name in sorted(changes):
        entry = changes[name]
        if entry is not None:
            yield entry


class Change(msgspec.Struct, frozen=True):
    """One difference: ``old`` is None for what was added, ``new`` is None for what was removed."""

    kind: Literal["added", "removed", "changed"]
    path: str
    old: Entry | None
    new: Entry | None


def difference(change: Change) -> str | None:
    """What changed about a Reference, in words: what is recorded of it, or that a file took its place. None for all else."""
    old, new = change.old, change.new
    if old is None or new is None or not (isinstance(old, RefEntry) or isinstance(new, RefEntry)):
        return None
    if not (isinstance(old, RefEntry) and isinstance(new, RefEntry)):
        return f"{_KINDS[type(old)]} -> {_KINDS[type(new)]}"
    pairs = (
        ("uri", old.uri, new.uri),
        ("size", old.size, new.size),
        ("checksum", old.checksum, new.checksum),
        ("etag", old.etag, new.etag),
        ("version", old.version, new.version),
    )
    return ", ".join(
        f"{word} {'none' if was is None else was} -> {'none' if now is None else now}"
        for word, was, now in pairs
        if was != now
    )


_KINDS: Final[dict[type[Entry], str]] = {
    FileEntry: "file",
    DirEntry: "directory",
    LinkEntry: "symlink",
    RefEntry: "reference",
}


def diff_trees(trees: Trees, old: bytes | None, new: bytes | None, prefix: str = "") -> Iterator[Change]:
    """What differs between two directories, in order of path; None is an empty one. Reads only nodes that differ.

    Directories that were added or removed are listed with all below them; one that merely changed is not.
    """
    if old == new:
        return
    before = _differing(trees, old, new)
    after = _differing(trees, new, old)
    left = next(before, None)
    right = next(after, None)
    while left is not None or right is not None:
        if right is None or (left is not None and left.name < right.name):
            assert left is not None  # noqa: S101 - the loop's condition
            yield from _whole(trees, left, prefix, "removed")
            left = next(before, None)
        elif left is None or right.name < left.name:
            yield from _whole(trees, right, prefix, "added")
            right = next(after, None)
        else:
            path = f"{prefix}{left.name}"
            if isinstance(left, DirEntry) and isinstance(right, DirEntry):
                yield from diff_trees(trees, left.digest, right.digest, f"{path}/")
            elif isinstance(left, DirEntry) or isinstance(right, DirEntry):
                yield from _whole(trees, left, prefix, "removed")
                yield from _whole(trees, right, prefix, "added")
            elif left != right:
                yield Change("changed", path, left, right)
            left, right = next(before, None), next(after, None)


def _differing(trees: Trees, directory: bytes | None, other: bytes | None) -> Iterator[Entry]:
    """Entries of the leaves that the other directory does not have."""
    if directory is None:
        return
    same = {branch.digest for branch in trees.leaves(other)} if other is not None else set()
    for branch in trees.leaves(directory):
        if branch.digest not in same:
            for _, _, entry in trees.scan(branch.digest):
                yield entry


def _whole(trees: Trees, entry: Entry, prefix: str, kind: Literal["added", "removed"]) -> Iterator[Change]:
    path = f"{prefix}{entry.name}"
    yield Change(kind, path, entry, None) if kind == "removed" else Change(kind, path, None, entry)
    if isinstance(entry, DirEntry):
        for _, _, below in trees.scan(entry.digest):
            yield from _whole(trees, below, f"{path}/", kind)

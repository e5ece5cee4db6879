"""Sending: what a project lacks of a tree is found, looked at, or given to its writer.

Used by copies between repositories and by the restoring of deleted versions, which read from the project that lacks it. One thread;
the writer and the reader have their own.

What is sent is what the destination says it lacks, in order of path, so that packs are laid out as by ``put``. It says so each time,
hence what was killed goes on with what was not recorded yet when it is started again.

Memory: the reader's and the writer's, and one question's digests, paths and nodes (20 MB at most), whatever the sizes of versions and
files.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from typing import Final, NoReturn

import msgspec

from artifactfs.content.pack import pack_key
from artifactfs.content.reader import ContentReader
from artifactfs.content.store import Store
from artifactfs.content.writer import ContentWriter
from artifactfs.errors import Integrity, NotFound
from artifactfs.model.digest import CHUNKS, DATA, TREE
from artifactfs.model.sequence import SINGLE_CHUNK, ChunkBranch, Piece
from artifactfs.model.tree import DirEntry, Entry, FileEntry, Fork, Leaf, RefEntry, Trees, TreeSummary, size_of
from artifactfs.references.contract import list_of
from artifactfs.registry.contract import Registry

ASKED_AT_ONCE: Final = 8192
"""Chunks and nodes of one question to the destination: 280 KB to send, so that a version of a million files is 120 questions."""

HELD_NODES: Final = 16 << 20
"""Bytes of nodes that wait for a question at most; they were read on the way and are not read again."""

WINDOW: Final = 32 << 20
"""Plain bytes that a source behind a network brings by wide ranges before they are read, while the writer still stores those before.
Half of the reader's memory, so that they are in it though the cache may keep nothing."""

NAMED: Final = 3
"""Paths that a message about what is gone names."""


class CopyStats(msgspec.Struct):
    """How far it is: all numbers rise, over several versions too."""

    files: int = 0  # that the destination holds or is being sent
    bytes_done: int = 0  # plain, of these files
    bytes_sent: int = 0  # plain, of chunks that were missing there
    bytes_stored: int = 0  # what these and the nodes took in its Store, after compression


Show = Callable[[CopyStats], None]


class Wanted(msgspec.Struct, frozen=True, gc=False):
    """A chunk or node that the destination may lack. ``size`` in plain bytes of a file, ``files`` is 1 where a file ends."""

    digest: bytes
    kind: int
    size: int
    files: int
    file: int  # of a large file, its number at the writer
    path: str
    node: bytes = b""  # the bytes of a node


class Walk(ABC):
    """Finds the chunks and nodes that a project may lack of a tree, in order of path, and asks which it does lack.

    Invariant *skipped-is-held*: what is not asked for lies at the same path in a version that the project holds, so it is there with
    all below it.
    """

    def __init__(self, trees: Trees, reader: ContentReader, registry: Registry) -> None:
        self._trees = trees
        self._reader = reader
        self._registry = registry
        self._wanted: list[Wanted] = []
        self._held_nodes = 0  # bytes of nodes among these

    def _walk(self, root: bytes, base: bytes | None) -> None:
        """All of a tree; ``base`` is the root of one that the project holds."""
        self._directory(root, base, "")
        self._settle()

    # -- what becomes of it ----------------------------------------------------------------------------------------

    @abstractmethod
    def _number(self, size: int) -> int:
        """The number of a large file, 0 for none."""

    @abstractmethod
    def _count(self, files: int, size: int) -> None:
        """So many files and bytes are done with."""

    @abstractmethod
    def _unreadable(self, path: str, digest: bytes, error: Integrity) -> None:
        """A node of what is at a path cannot be read."""

    @abstractmethod
    def _settled(self, wanted: list[Wanted], missing: set[bytes]) -> None:
        """Of these some are missing."""

    # -- what may be missing, in order of path ----------------------------------------------------------------------

    def _directory(self, tree: bytes, base: bytes | None, prefix: str) -> None:
        leaves: set[bytes] = set()
        if base is not None:
            with suppress(Integrity):  # of an older version: its part is asked for
                leaves = {branch.digest for branch in self._trees.leaves(base)}
        self._node(tree, base, leaves, prefix)

    def _node(self, digest: bytes, base: bytes | None, leaves: set[bytes], prefix: str) -> None:
        node: Leaf | Fork
        try:
            node = self._trees.node(digest)
            data = self._reader.node(digest, TREE)
        except Integrity as error:
            self._unreadable(prefix, digest, error)
            return
        if isinstance(node, Fork):
            for branch in node.branches:
                if branch.digest in leaves:
                    self._count(branch.files, branch.size)
                else:
                    self._node(branch.digest, base, leaves, prefix)
        else:
            for entry in node.entries:
                self._entry(entry, base, prefix)
        self._want(Wanted(digest, TREE, 0, 0, 0, prefix, data))

    def _entry(self, entry: Entry, base: bytes | None, prefix: str) -> None:
        held = self._held(base, entry.name)
        if isinstance(entry, DirEntry):
            below = held.digest if isinstance(held, DirEntry) else None
            if below == entry.digest:
                self._count(entry.files, entry.size)
            else:
                self._directory(entry.digest, below, f"{prefix}{entry.name}/")
        elif isinstance(entry, RefEntry) and held != entry and (root := list_of(entry)) is not None:
            self._outside(ChunkBranch(root, 0, entry.size or 0), f"{prefix}{entry.name}")
            self._count(1, size_of(entry))
        elif not isinstance(entry, FileEntry) or entry.size == 0:
            self._count(1, size_of(entry))
        elif isinstance(held, FileEntry) and held.digest == entry.digest:
            self._count(1, entry.size)
        elif entry.size <= SINGLE_CHUNK:
            self._want(Wanted(entry.digest, DATA, entry.size, 1, 0, f"{prefix}{entry.name}"))
        else:
            number = self._number(entry.size)
            self._list(ChunkBranch(entry.digest, 0, entry.size), [], number, f"{prefix}{entry.name}", 1)

    def _held(self, base: bytes | None, name: str) -> Entry | None:
        """What a version that the destination holds has at the same path."""
        if base is None:
            return None
        try:
            found = self._trees.lookup(base, name)
        except Integrity:  # of an older version: this one is asked for
            return None
        return None if found is None else found.entry

    def _outside(self, part: ChunkBranch, path: str) -> None:
        """The nodes of the chunk list of a Reference, whose chunks lie elsewhere."""
        try:
            node = self._reader.list_node(part.digest, ())
            data = self._reader.node(part.digest, CHUNKS)
        except Integrity as error:
            self._unreadable(path, part.digest, error)
            return
        for branch in node.branches:
            self._outside(branch, path)
        self._want(Wanted(part.digest, CHUNKS, 0, 0, 0, path, data))

    def _list(self, part: ChunkBranch, along: list[bytes], number: int, path: str, files: int) -> None:
        """The chunks of a large file, or of a part of it, and the nodes of their list: one node in memory a level."""
        try:
            node = self._reader.list_node(part.digest, along)
            if node.size != part.size:
                raise Integrity(
                    f"a chunk list has {node.size} bytes where {part.size} are recorded; run `artifactfs verify`"
                )
            data = self._reader.node(part.digest, CHUNKS)
        except Integrity as error:
            self._unreadable(path, part.digest, error)
            return
        names = [branch.digest for branch in node.branches]
        for branch in node.branches:
            self._list(branch, names, number, path, 0)
        for piece in node.pieces:
            self._want(Wanted(piece.digest, DATA, piece.size, 0, number, path))
        self._want(Wanted(part.digest, CHUNKS, 0, files, 0, path, data))

    def _want(self, wanted: Wanted) -> None:
        self._wanted.append(wanted)
        self._held_nodes += len(wanted.node)
        if len(self._wanted) >= ASKED_AT_ONCE or self._held_nodes >= HELD_NODES:
            self._settle()

    def _settle(self) -> None:
        """Ask which of those wanted are missing."""
        wanted, self._wanted, self._held_nodes = self._wanted, [], 0
        self._settled(wanted, self._registry.missing({each.digest for each in wanted}))


class Sending(Walk):
    """Gives a writer what its project lacks of a tree. ``name``: of the version, ``done``: what is done with it, both for messages."""

    def __init__(
        self,
        trees: Trees,
        reader: ContentReader,
        registry: Registry,
        writer: ContentWriter,
        *,
        name: str,
        done: str,
        stats: CopyStats,
        progress: Show | None = None,
    ) -> None:
        super().__init__(trees, reader, registry)
        self._writer = writer
        self._name = name
        self._done = done
        self._stats = stats
        self._stored_before = stats.bytes_stored
        self._mixed: set[int] = set()  # numbers of large files of which the destination holds a part
        if progress is not None:
            writer.progress = lambda: progress(self._counted())

    def send(self, root: bytes, base: bytes | None) -> TreeSummary:
        """Give the writer all that its project lacks; ``base`` is the root of a version that it holds."""
        self._walk(root, base)
        return self._trees.summary(root)

    def _counted(self) -> CopyStats:
        self._stats.bytes_stored = self._stored_before + self._writer.bytes_stored
        return self._stats

    def _number(self, size: int) -> int:
        return self._writer.number_file(size)

    def _unreadable(self, path: str, digest: bytes, error: Integrity) -> NoReturn:
        del digest
        raise Integrity(f"{self._name}/{path} cannot be {self._done}, so no version was made of it: {error}") from error

    # -- what is missing --------------------------------------------------------------------------------------------

    def _settled(self, wanted: list[Wanted], missing: set[bytes]) -> None:
        """Send those that are missing."""
        window: list[Wanted] = []
        windows = [window]
        space = WINDOW
        for each in wanted:
            if each.digest not in missing:
                self._count(each.files, each.size)
                self._mixed.add(each.file)
                continue
            missing.remove(each.digest)  # what comes twice is sent once
            space -= each.size
            if space < 0:
                window = []
                windows.append(window)
                space = WINDOW - each.size
            window.append(each)
        for window in windows:
            self._send(window)

    def _send(self, window: list[Wanted]) -> None:
        pieces = [Piece(each.digest, each.size) for each in window if each.kind == DATA]
        with suppress(Integrity):  # told below, with the path
            for _ in self._reader.fetch_all(pieces):
                pass
        digests = [piece.digest for piece in pieces]
        for each in window:
            try:
                data = each.node or self._reader.chunk(each.digest, DATA, each.size, digests)
            except Integrity as error:
                self._unreadable(each.path, each.digest, error)
            # A pack of its own is for a file that comes whole.
            file = 0 if each.file in self._mixed else each.file
            self._writer.add_chunk(each.digest, data, each.kind, file)
            self._stats.bytes_sent += each.size
            self._count(each.files, each.size)

    def _count(self, files: int, size: int) -> None:
        self._stats.files += files
        self._stats.bytes_done += size


class Survey(Walk):
    """Looks what of a tree can be had from its own project, where a collection may have condemned or deleted some of it.

    Only nodes are read: of all else it is asked where it lies, and whether its pack is there. ``name``: of the version, for messages.
    """

    def __init__(self, trees: Trees, reader: ContentReader, registry: Registry, store: Store, *, name: str) -> None:
        super().__init__(trees, reader, registry)
        self._store = store
        self._name = name
        self._packs: dict[str, bool] = {}  # whether they are there
        self.missing = 0
        """Plain bytes of files' chunks that are to be stored anew."""
        self.gone: list[str] = []
        """The first paths of which something cannot be had; a directory's ends with "/", the root is empty."""
        self.more = 0
        """How many others there are."""
        self._last: str | None = None

    def look(self, root: bytes, base: bytes | None) -> None:
        """At all of a tree; ``base`` is the root of a version that the project holds. Integrity when a node is there and damaged."""
        self._walk(root, base)

    def _number(self, size: int) -> int:
        del size
        return 0  # nothing is written

    def _count(self, files: int, size: int) -> None:
        pass  # what is held

    def _unreadable(self, path: str, digest: bytes, error: Integrity) -> None:
        place = self._registry.locate([digest]).get(digest)
        if place is not None and self._has(place.pack):
            raise Integrity(f"{self._name}/{path} cannot be restored: {error}") from error
        self._lose(path)

    def _lose(self, path: str) -> None:
        if path == self._last:
            return  # a large file of many chunks
        self._last = path
        if len(self.gone) < NAMED:
            self.gone.append(path)
        else:
            self.more += 1

    def _settled(self, wanted: list[Wanted], missing: set[bytes]) -> None:
        chunks = {each.digest: each for each in wanted if each.digest in missing and not each.node}
        self.missing += sum(each.size for each in chunks.values())
        places = self._registry.locate(chunks.keys())
        for each in wanted:
            if each.digest not in chunks:
                continue
            place = places.get(each.digest)
            if place is not None and self._has(place.pack):
                continue
            if self._reader.local or not self._reader.ready(each.digest):  # in the cache of a server's contents
                self._lose(each.path)

    def _has(self, pack: str) -> bool:
        if pack not in self._packs:
            try:
                self._packs[pack] = self._store.size(pack_key(pack)) > 0
            except NotFound:
                self._packs[pack] = False
        return self._packs[pack]

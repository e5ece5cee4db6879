"""Transfer: the content of versions to where it is wanted: another repository (``copy``), or this machine's cache (``warm``).

Used by the command line. One thread; the destination's writer and the source's reader have their own. Knows no kind of
repository: both sides are open ones.

What a copy sends is what the destination says it lacks, in order of path, so that packs are laid out as by ``put``. It says so
each time, hence a copy that was killed goes on with what was not recorded yet when it is started again.

Memory: the reader's and the writer's, and one question's digests, paths and nodes (20 MB at most), whatever the sizes of versions and
files.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Final

import msgspec

from artifactfs.content.writer import ContentWriter
from artifactfs.errors import Conflict, Integrity, InvalidInput
from artifactfs.model.digest import CHUNKS, DATA, TREE
from artifactfs.model.names import LATEST
from artifactfs.model.records import VersionRecord
from artifactfs.model.sequence import SINGLE_CHUNK, ChunkBranch, Piece
from artifactfs.model.tree import DirEntry, Entry, FileEntry, Fork, Leaf, RefEntry, TreeSummary, size_of
from artifactfs.references.contract import list_of
from artifactfs.repository import Repository

ASKED_AT_ONCE: Final = 8192
"""Chunks and nodes of one question to the destination: 280 KB to send, so that a version of a million files is 120 questions."""

HELD_NODES: Final = 16 << 20
"""Bytes of nodes that wait for a question at most; they were read on the way and are not read again."""

WINDOW: Final = 32 << 20
"""Plain bytes that a source behind a network brings by wide ranges before they are read, while the writer still stores those before.
Half of the reader's memory, so that they are in it though the cache may keep nothing."""


# -- copy --------------------------------------------------------------------------------------------------------------


class CopyStats(msgspec.Struct):
    """How far a copy is: all numbers rise, over several versions too."""

    files: int = 0  # that the destination holds or is being sent
    bytes_done: int = 0  # plain, of these files
    bytes_sent: int = 0  # plain, of chunks that were missing there
    bytes_stored: int = 0  # what these and the nodes took in its Store, after compression


class Copied(msgspec.Struct, frozen=True):
    """A version as it is at the destination. ``created`` False: its contents were there already, as this version.

    ``latest_before`` is the number that `latest` named there before, None without any.
    """

    version: VersionRecord
    created: bool
    latest_before: int | None


Show = Callable[[CopyStats], None]


def copy(
    source: Repository,
    version: VersionRecord,
    destination: Repository,
    *,
    stats: CopyStats | None = None,
    progress: Show | None = None,
) -> Copied:
    """Make a version at the destination with the contents, description, metadata, type, aliases and tags of one of the source.

    All or nothing. Contents that are there already, as some version of the artifact, are reused: `latest` and the aliases move to it,
    it gets the tags, its description and metadata stay. Runs do not travel: what made and used a version is its repository's own.

    Raises InvalidInput (both are one repository), Conflict (the artifact has another type there), Integrity (what must be sent is
    damaged: names version and path).
    """
    _check_sides(source, destination)
    stats = stats if stats is not None else CopyStats()
    artifact = version.artifact
    stored = stats.bytes_stored  # of the versions before
    with destination.writing("copy") as writing:
        # Asked under the Session: what these versions hold stays until it ends.
        there = destination.registry.versions(artifact)
        _check_type(version, there)
        held = {other.digest: other for other in there}
        same = held.get(version.digest)
        if same is None:
            base = _nearest(source.registry.versions(artifact), version, held)
            job = _Copy(source, version, destination, writing.writer, stats, progress)
            root = job.send(base.digest if base is not None else None)
        else:
            root = TreeSummary(same.digest, same.files, same.entries, same.size)
            stats.files += version.files
            stats.bytes_done += version.size
        result = writing.commit(
            artifact,
            root,
            type=version.type,
            aliases=_aliases_of(version),
            description=version.description,
            metadata=version.metadata,
            tags=version.tags,
        )
        stats.bytes_stored = stored + writing.writer.bytes_stored
    return Copied(result.version, result.created, _latest_of(there))


def copy_all(
    source: Repository,
    artifact: str,
    destination: Repository,
    *,
    stats: CopyStats | None = None,
    progress: Show | None = None,
) -> Iterator[Copied]:
    """As :func:`copy` all living versions of an artifact, the oldest first; gives each once it is there.

    `latest` names the same contents as at the source in the end. Versions that are there already only get their aliases and tags, so
    that `latest` does not run through them anew whenever a copy is brought up to date.
    """
    _check_sides(source, destination)
    stats = stats if stats is not None else CopyStats()
    latest = None
    for version in source.registry.versions(artifact):
        there = destination.registry.versions(artifact)
        held = next((other for other in there if other.digest == version.digest), None)
        if held is None:
            copied = copy(source, version, destination, stats=stats, progress=progress)
        else:
            _check_type(version, there)
            aliases = [alias for alias in _aliases_of(version) if alias not in held.aliases]
            if aliases:
                held = destination.registry.move_aliases(artifact, held.number, aliases)
            if not set(version.tags) <= set(held.tags):
                held = destination.registry.edit(artifact, held.number, tags=sorted({*held.tags, *version.tags}))
            stats.files += version.files
            stats.bytes_done += version.size
            copied = Copied(held, created=False, latest_before=_latest_of(there))
        if LATEST in version.aliases:
            latest = copied.version.number
        yield copied
    if latest is not None and destination.registry.aliases(artifact).get(LATEST) != latest:
        destination.registry.move_aliases(artifact, latest, [LATEST])


def _check_sides(source: Repository, destination: Repository) -> None:
    if source.is_same(destination):
        raise InvalidInput(
            f"cannot copy from {source.location} to itself; give another repository, or another project of it"
        )


def _check_type(version: VersionRecord, there: list[VersionRecord]) -> None:
    if there and there[0].type != version.type:
        # Said before anything is read; the registry's transaction decides in the end.
        raise Conflict(
            f"{version.artifact} has the type {there[0].type!r} at the destination, not {version.type!r}; "
            "copy it into another project"
        )


def _aliases_of(version: VersionRecord) -> tuple[str, ...]:
    """The aliases to move besides `latest`, which every commit moves."""
    return tuple(alias for alias in version.aliases if alias != LATEST)


def _latest_of(versions: list[VersionRecord]) -> int | None:
    return next((version.number for version in versions if LATEST in version.aliases), None)


def _nearest(
    versions: list[VersionRecord], version: VersionRecord, held: dict[bytes, VersionRecord]
) -> VersionRecord | None:
    """The version of the source, nearest by number, whose contents are a version at the destination too."""
    shared = [other for other in versions if other.digest in held]
    return min(shared, key=lambda other: abs(other.number - version.number), default=None)


class _Wanted(msgspec.Struct, frozen=True, gc=False):
    """A chunk or node that the destination may lack. ``size`` in plain bytes of a file, ``files`` is 1 where a file ends."""

    digest: bytes
    kind: int
    size: int
    files: int
    file: int  # of a large file, its number at the writer
    path: str
    node: bytes = b""  # the bytes of a node


class _Copy:
    """Sends one version.

    Invariant *skipped-is-held*: what is not asked for lies at the same path in a version that the destination holds, so it is there
    with all below it.
    """

    def __init__(
        self,
        source: Repository,
        version: VersionRecord,
        destination: Repository,
        writer: ContentWriter,
        stats: CopyStats,
        progress: Show | None,
    ) -> None:
        self._trees = source.trees
        self._reader = source.reader
        self._version = version
        self._registry = destination.registry
        self._writer = writer
        self._stats = stats
        self._stored_before = stats.bytes_stored
        self._wanted: list[_Wanted] = []
        self._held_nodes = 0  # bytes of nodes among these
        self._mixed: set[int] = set()  # numbers of large files of which the destination holds a part
        if progress is not None:
            writer.progress = lambda: progress(self._counted())

    def send(self, base: bytes | None) -> TreeSummary:
        """Give the writer all that the destination lacks; ``base`` is the root of a version that it holds."""
        root = self._version.digest
        self._directory(root, base, "")
        self._settle()
        return self._trees.summary(root)

    def _counted(self) -> CopyStats:
        self._stats.bytes_stored = self._stored_before + self._writer.bytes_stored
        return self._stats

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
            raise self._damaged(prefix, error) from error
        if isinstance(node, Fork):
            for branch in node.branches:
                if branch.digest in leaves:
                    self._count(branch.files, branch.size)
                else:
                    self._node(branch.digest, base, leaves, prefix)
        else:
            for entry in node.entries:
                self._entry(entry, base, prefix)
        self._want(_Wanted(digest, TREE, 0, 0, 0, prefix, data))

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
            self._want(_Wanted(entry.digest, DATA, entry.size, 1, 0, f"{prefix}{entry.name}"))
        else:
            number = self._writer.number_file(entry.size)
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
            raise self._damaged(path, error) from error
        for branch in node.branches:
            self._outside(branch, path)
        self._want(_Wanted(part.digest, CHUNKS, 0, 0, 0, path, data))

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
            raise self._damaged(path, error) from error
        names = [branch.digest for branch in node.branches]
        for branch in node.branches:
            self._list(branch, names, number, path, 0)
        for piece in node.pieces:
            self._want(_Wanted(piece.digest, DATA, piece.size, 0, number, path))
        self._want(_Wanted(part.digest, CHUNKS, 0, files, 0, path, data))

    def _want(self, wanted: _Wanted) -> None:
        self._wanted.append(wanted)
        self._held_nodes += len(wanted.node)
        if len(self._wanted) >= ASKED_AT_ONCE or self._held_nodes >= HELD_NODES:
            self._settle()

    # -- what is missing --------------------------------------------------------------------------------------------

    def _settle(self) -> None:
        """Ask which of those wanted are missing, and send these."""
        wanted, self._wanted, self._held_nodes = self._wanted, [], 0
        missing = self._registry.missing({each.digest for each in wanted})
        window: list[_Wanted] = []
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

    def _send(self, window: list[_Wanted]) -> None:
        pieces = [Piece(each.digest, each.size) for each in window if each.kind == DATA]
        with suppress(Integrity):  # told below, with the path
            for _ in self._reader.fetch_all(pieces):
                pass
        digests = [piece.digest for piece in pieces]
        for each in window:
            try:
                data = each.node or self._reader.chunk(each.digest, DATA, each.size, digests)
            except Integrity as error:
                raise self._damaged(each.path, error) from error
            # A pack of its own is for a file that comes whole.
            file = 0 if each.file in self._mixed else each.file
            self._writer.add_chunk(each.digest, data, each.kind, file)
            self._stats.bytes_sent += each.size
            self._count(each.files, each.size)

    def _count(self, files: int, size: int) -> None:
        self._stats.files += files
        self._stats.bytes_done += size

    def _damaged(self, path: str, error: Integrity) -> Integrity:
        return Integrity(f"{self._version.name}/{path} cannot be copied, so no version was made of it: {error}")


# -- warm --------------------------------------------------------------------------------------------------------------


class WarmStats(msgspec.Struct):
    """How far warming is: files whose chunks were asked for, and plain bytes that are in the cache."""

    files: int = 0
    bytes_done: int = 0


def warm(
    repository: Repository,
    version: VersionRecord,
    path: str,
    *,
    pin: bool = False,
    progress: Callable[[WarmStats], None] | None = None,
) -> WarmStats:
    """Bring all that is at ``path`` of a version ("" is all) into the cache, directories too; ``pin`` keeps it there.

    Raises NotFound (no such path), Integrity, Unavailable.
    """
    stats = WarmStats()
    job = _Warm(repository, stats, pin=pin)
    if path:
        entry = repository.entry(version, path)
        job.way(version.digest, path)
        pieces = job.entry(entry)
    else:
        pieces = job.directory(version.digest)
    for size in repository.reader.fetch_all(pieces, pin=pin):
        stats.bytes_done += size
        if progress is not None:
            progress(stats)
    job.pin_nodes()
    # What a mount without a network begins with.
    repository.registry.revision()
    repository.registry.artifacts()
    repository.registry.versions(version.artifact)
    return stats


class _Warm:
    """Reads nodes, which brings them into the cache, and gives the chunks of data below them."""

    def __init__(self, repository: Repository, stats: WarmStats, *, pin: bool) -> None:
        self._trees = repository.trees
        self._reader = repository.reader
        self._stats = stats
        self._pin = pin
        self._nodes: list[bytes] = []  # read and not pinned yet

    def way(self, tree: bytes, path: str) -> None:
        """Read what leads to a path that is there."""
        for part in path.split("/"):
            node = self._node(tree)
            while isinstance(node, Fork):
                tree = node.branches[bisect_left(node.lasts, part)].digest
                node = self._node(tree)
            entry = node.entries[bisect_left(node.names, part)]
            if isinstance(entry, DirEntry):
                tree = entry.digest

    def directory(self, tree: bytes) -> Iterator[Piece]:
        """The chunks of all files below a directory, or below a part of one."""
        node = self._node(tree)
        if isinstance(node, Fork):
            for branch in node.branches:
                yield from self.directory(branch.digest)
        else:
            for entry in node.entries:
                yield from self.entry(entry)

    def entry(self, entry: Entry) -> Iterator[Piece]:
        """The chunks of a file, or of all files below a directory."""
        if isinstance(entry, DirEntry):
            yield from self.directory(entry.digest)
            return
        if isinstance(entry, FileEntry) and entry.size:
            if entry.size <= SINGLE_CHUNK:
                yield Piece(entry.digest, entry.size)
            else:
                yield from self._list(entry.digest, ())
        self._stats.files += 1

    def _list(self, digest: bytes, along: Iterable[bytes]) -> Iterator[Piece]:
        node = self._reader.list_node(digest, along)
        self._note(digest)
        names = [branch.digest for branch in node.branches]
        for name in names:
            yield from self._list(name, names)
        yield from node.pieces

    def _node(self, digest: bytes) -> Leaf | Fork:
        node = self._trees.node(digest)
        self._note(digest)
        return node

    def _note(self, digest: bytes) -> None:
        if self._pin:
            self._nodes.append(digest)
            if len(self._nodes) >= ASKED_AT_ONCE:
                self.pin_nodes()

    def pin_nodes(self) -> None:
        """Keep the nodes that were read."""
        if self._nodes:
            self._reader.pin(self._nodes)
            self._nodes = []

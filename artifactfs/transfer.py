"""Transfer: the content of versions to where it is wanted: another repository (``copy``), or this machine's cache (``warm``).

Used by the command line. One thread; the destination's writer and the source's reader have their own. Knows no kind of
repository: both sides are open ones. How a copy finds what the destination lacks, and the memory it takes, is in
:mod:`artifactfs.sending`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator

import msgspec

from artifactfs.errors import Conflict, InvalidInput
from artifactfs.model.names import LATEST
from artifactfs.model.records import VersionRecord
from artifactfs.model.sequence import SINGLE_CHUNK, Piece
from artifactfs.model.tree import DirEntry, Entry, FileEntry, Fork, Leaf, TreeSummary
from artifactfs.repository import Repository
from artifactfs.sending import ASKED_AT_ONCE, CopyStats, Sending, Show

# -- copy --------------------------------------------------------------------------------------------------------------


class Copied(msgspec.Struct, frozen=True):
    """A version as it is at the destination. ``created`` False: its contents were there already, as this version.

    ``latest_before`` is the number that `latest` named there before, None without any.
    """

    version: VersionRecord
    created: bool
    latest_before: int | None


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
            job = Sending(
                source.trees,
                source.reader,
                destination.registry,
                writing.writer,
                name=version.name,
                done="copied",
                stats=stats,
                progress=progress,
            )
            root = job.send(version.digest, base.digest if base is not None else None)
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


__all__ = ["ASKED_AT_ONCE", "Copied", "CopyStats", "WarmStats", "copy", "copy_all", "warm"]

"""Reachability: which stored bytes versions hold, which they share, and which nobody would hold without them.

Used by ``delete``, ``prune`` and ``stats``, and by whatever collects garbage. Each function works on one thread; what it notes lies in
a temporary file of SQLite, so that memory stays below :data:`MEMORY` and the nodes of one directory, however large the repository is.

A version is a tree of nodes and chunks, each of which may be in many versions. A node that was walked is not walked again, so that the
cost is one look at every *different* node: of 1,000 versions that differ by a file each, that of one version and 1,000 changes.

What is counted are stored bytes: of each chunk and node as it lies in its pack. They come free once a collection has deleted or
rewritten the packs. It is an upper bound where something else holds a chunk that no version does: a commit or a draft under way.
Chunks of References are not stored and not counted; their lists are.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from typing import Final

import msgspec

from artifactfs.content.reader import ContentReader
from artifactfs.model.digest import CHUNKS, DATA, TREE
from artifactfs.model.records import VersionRecord
from artifactfs.model.sequence import CHUNK_LIST, SINGLE_CHUNK
from artifactfs.model.tree import TREE_SEQUENCE, DirEntry, FileEntry, RefEntry
from artifactfs.references.contract import list_of
from artifactfs.registry.contract import Registry

MEMORY: Final = 64 << 20
"""Bytes of pages of the temporary file that are kept in memory."""
BATCH: Final = 10_000
"""Chunks whose places are asked for at a time."""

OUTSIDE: Final = 3
"""Beside DATA, TREE and CHUNKS: a node of the chunk list of a Reference, whose chunks are not stored."""

_MANY: Final = 0  # stands for a version or an artifact where there are several; ids begin at 1

Reach = tuple[bytes, int]
"""What a node leads to: a digest and its kind."""


class Freed(msgspec.Struct, frozen=True):
    """What nothing else holds: stored bytes, and the chunks and nodes that they are of."""

    size: int
    chunks: int


class VersionSpace(msgspec.Struct, frozen=True):
    """Stored bytes of a version. ``own``: of what no other version holds; ``added``: of what no older one held."""

    version: VersionRecord
    own: int
    added: int


class ArtifactSpace(msgspec.Struct, frozen=True):
    """Stored bytes of an artifact. ``own``: of what no other artifact holds; ``logical``: of its files, each version for itself."""

    artifact: str
    versions: int
    logical: int
    own: int


class Space(msgspec.Struct, frozen=True):
    """What takes the space of a project: stored bytes that versions hold, and those of them that several artifacts hold."""

    held: int
    shared: int
    artifacts: list[ArtifactSpace]
    versions: list[VersionSpace]  # in the order they were made


class Contents:
    """What nodes lead to. ``progress`` is called for each node that was read."""

    def __init__(self, reader: ContentReader, progress: Callable[[], None] | None = None) -> None:
        self._reader = reader
        self._progress = progress

    def below(self, digest: bytes, kind: int) -> list[Reach]:
        """The digests that a node names, in its order; of a chunk of data none."""
        if kind == DATA:
            return []
        data = self._reader.node(digest, TREE if kind == TREE else CHUNKS)
        if self._progress is not None:
            self._progress()
        if kind == TREE:
            tree = TREE_SEQUENCE.decode(data)
            if tree.level:
                return [(branch.digest, TREE) for branch in tree.branches]
            return [found for entry in tree.items if (found := _content(entry)) is not None]
        chunks = CHUNK_LIST.decode(data)
        if chunks.level:
            return [(branch.digest, kind) for branch in chunks.branches]
        return [] if kind == OUTSIDE else [(piece.digest, DATA) for piece in chunks.items]


def _content(entry: object) -> Reach | None:
    """The digest that an entry names, if something is stored under it."""
    if isinstance(entry, DirEntry):
        return entry.digest, TREE
    if isinstance(entry, FileEntry):
        if entry.size == 0:
            return None
        return entry.digest, DATA if entry.size <= SINGLE_CHUNK else CHUNKS
    if isinstance(entry, RefEntry) and (root := list_of(entry)) is not None:
        return root, OUTSIDE
    return None


def freed(
    registry: Registry,
    contents: Contents,
    gone: Iterable[VersionRecord],
    living: Iterable[VersionRecord],
) -> Freed:
    """What only the versions of ``gone`` hold, when all others of the project are ``living``. Reads every node of both.

    Noted are all digests of ``gone``, and of ``living`` the nodes alone: 60 bytes each. Raises as reading does.
    """
    with closing(_scratch()) as notes:
        notes.execute("CREATE TABLE dead (digest BLOB PRIMARY KEY) WITHOUT ROWID")
        notes.execute("CREATE TABLE walked (digest BLOB, kind INTEGER, PRIMARY KEY (digest, kind)) WITHOUT ROWID")

        def kill(found: list[Reach]) -> None:
            notes.executemany("INSERT OR IGNORE INTO dead VALUES (?)", [(digest,) for digest, _ in found])

        def revive(found: list[Reach]) -> None:
            notes.executemany("DELETE FROM dead WHERE digest = ?", [(digest,) for digest, _ in found])

        for versions, note in ((gone, kill), (living, revive)):
            notes.execute("DELETE FROM walked")
            for version in versions:
                root = (version.digest, TREE)
                note([root])
                _walk(contents, root, note, lambda reach: _is_new(notes, reach))
        return _stored(registry, (row[0] for row in notes.execute("SELECT digest FROM dead ORDER BY digest")))


def _walk(contents: Contents, root: Reach, note: Callable[[list[Reach]], None], enter: Callable[[Reach], bool]) -> None:
    """Note what each node below a root names, entering those that ``enter`` says."""
    pending = [root] if enter(root) else []
    while pending:
        found = contents.below(*pending.pop())
        note(found)
        # The first of them next, as it is stored first.
        pending += [reach for reach in reversed(found) if reach[1] != DATA and enter(reach)]


def _is_new(notes: sqlite3.Connection, reach: Reach) -> bool:
    return notes.execute("INSERT OR IGNORE INTO walked VALUES (?, ?)", reach).rowcount > 0


def _stored(registry: Registry, digests: Iterator[bytes]) -> Freed:
    size = chunks = 0
    while batch := [digest for digest, _ in zip(digests, range(BATCH), strict=False)]:
        places = registry.locate(batch)
        size += sum(place.length for place in places.values())
        chunks += len(places)
    return Freed(size, chunks)


# -- what takes the space ------------------------------------------------------------------------------------------


def space(registry: Registry, contents: Contents, versions: Iterable[VersionRecord]) -> Space:
    """Who holds what, of all living versions of a project. Reads every node once, or twice or thrice where it is shared.

    Every chunk is noted, 80 bytes each, with the version that first held it and with the one version and the one artifact that hold
    it, if it is one: a node's holders are among those of all below it, so that it is walked again only when its own change.
    """
    ordered = sorted(versions, key=lambda version: version.id)
    artifacts = {name: number for number, name in enumerate(dict.fromkeys(each.artifact for each in ordered), 1)}
    with closing(_scratch()) as notes:
        notes.execute(
            "CREATE TABLE held (digest BLOB, outside INTEGER, first INTEGER, version INTEGER, artifact INTEGER, length INTEGER, "
            "PRIMARY KEY (digest, outside)) WITHOUT ROWID"
        )
        for version in ordered:
            _hold(notes, contents, version, artifacts[version.artifact])
        _measure(notes, registry)
        own = dict(notes.execute("SELECT version, sum(length) FROM held GROUP BY version").fetchall())
        added = dict(notes.execute("SELECT first, sum(length) FROM held GROUP BY first").fetchall())
        by_artifact = dict(notes.execute("SELECT artifact, sum(length) FROM held GROUP BY artifact").fetchall())
    return Space(
        sum(by_artifact.values()),
        by_artifact.get(_MANY, 0),
        [
            ArtifactSpace(
                name,
                sum(each.artifact == name for each in ordered),
                sum(each.size for each in ordered if each.artifact == name),
                by_artifact.get(number, 0),
            )
            for name, number in artifacts.items()
        ],
        [VersionSpace(each, own.get(each.id, 0), added.get(each.id, 0)) for each in ordered],
    )


def _hold(notes: sqlite3.Connection, contents: Contents, version: VersionRecord, artifact: int) -> None:
    def enter(reach: Reach) -> bool:
        """Add a holder; whether that changes who holds it."""
        digest, kind = reach
        outside = int(kind == OUTSIDE)
        added = notes.execute(
            "INSERT OR IGNORE INTO held VALUES (?, ?, ?, ?, ?, 0)", (digest, outside, version.id, version.id, artifact)
        )
        if added.rowcount:
            return True
        changed = notes.execute(
            "UPDATE held SET version = 0, artifact = CASE artifact WHEN ? THEN artifact ELSE 0 END "
            "WHERE digest = ? AND outside = ? AND ((version <> ? AND version <> 0) OR (artifact <> ? AND artifact <> 0))",
            (artifact, digest, outside, version.id, artifact),
        )
        return changed.rowcount > 0

    def note(found: list[Reach]) -> None:
        for reach in found:
            if reach[1] == DATA:
                enter(reach)

    _walk(contents, (version.digest, TREE), note, enter)


def _measure(notes: sqlite3.Connection, registry: Registry) -> None:
    """Note how many bytes each digest is stored as; once where a list belongs to a file and to a Reference."""
    last = b""
    while batch := notes.execute(
        "SELECT DISTINCT digest FROM held WHERE digest > ? ORDER BY digest LIMIT ?", (last, BATCH)
    ).fetchall():
        last = batch[-1][0]
        places = registry.locate([row[0] for row in batch])
        notes.executemany(
            "UPDATE held SET length = ? WHERE digest = ? AND outside = (SELECT min(outside) FROM held WHERE digest = ?)",
            [(place.length, digest, digest) for digest, place in places.items()],
        )


def _scratch() -> sqlite3.Connection:
    """A database in a file that has no name and goes with its connection (https://sqlite.org/inmemorydb.html)."""
    notes = sqlite3.connect("", isolation_level=None)
    for setting in (f"cache_size=-{MEMORY >> 10}", "journal_mode=OFF", "synchronous=OFF", "locking_mode=EXCLUSIVE"):
        notes.execute(f"PRAGMA {setting}").close()
    return notes

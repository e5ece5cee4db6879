"""Nodes of Sequences for one answer: asked for, below them, or along a path, with the places of the chunks that they list.

Used by the routes of content, on a thread. Nodes are sent as they are stored. Nothing is verified here, as the client verifies all of
it; what cannot be decoded is sent too, and nothing below it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Final

from artifactfs.content.pack import pack_key, unseal
from artifactfs.errors import Format, Integrity, NotFound
from artifactfs.model.digest import CHUNKS, TREE, format_digest, kind_of_flags
from artifactfs.model.records import Location
from artifactfs.model.sequence import CHUNK_LIST, SINGLE_CHUNK
from artifactfs.model.tree import TREE_SEQUENCE, DirEntry, FileEntry, Trees
from artifactfs.registry.contract import Registry
from artifactfs.remote.wire import Node, Nodes, NodesWanted, PathWanted, to_places
from artifactfs.server.blocks import Readable

ANSWER: Final = 8 << 20
"""Bytes of nodes of one answer; with the places it stays within MESSAGE_LIMIT. One node always comes."""
LISTED: Final = 50_000
"""Chunks whose places come along: of some 50 GiB of a large file, 3.5 MB."""
LIST_AHEAD: Final = 256 << 10
"""Bytes of a file's chunk list that come with its path: of some 6 GiB from its beginning on, and then it costs as much as a chunk."""
ASKED_AT_ONCE: Final = 2048
"""Places asked for in one question: 4 ms."""

_DAMAGE: Final = (NotFound, Integrity, Format)
"""A node that is missing, or cannot be decoded."""


def with_nodes_below(store: Readable, registry: Registry, wanted: NodesWanted) -> Nodes:
    """The nodes that are wanted, as far as they are held and fit, then nodes below the directories among them, nearest first."""
    gathered = _Gathered(store, registry)
    below = gathered.add(wanted.digests, ANSWER)
    gathered.descend(TREE, below, min(wanted.ahead, ANSWER - gathered.size))
    return gathered.answer()


def along_path(store: Readable, registry: Registry, wanted: PathWanted) -> Nodes:
    """Nodes from a directory's root along a path, as far as it exists, that of a directory at its end included.

    Of a large file the beginning of its chunk list, with places; of a small one its own place.
    """
    gathered = _Gathered(store, registry)
    trees = Trees(gathered.fetch_tree)
    # What is not there ends the path, what is damaged or too much ends the answer: the client meets the same.
    with suppress(*_DAMAGE, _Full):
        end = _walk(trees, wanted)
        if isinstance(end, FileEntry) and end.size > SINGLE_CHUNK:
            below = gathered.add([end.digest], ANSWER - gathered.size)
            gathered.descend(CHUNKS, below, LIST_AHEAD)
        elif isinstance(end, FileEntry) and end.size:
            gathered.list([end.digest])
    return gathered.answer()


def _walk(trees: Trees, wanted: PathWanted) -> object:
    """What is at the end of a path, having fetched every node on it; None when that is not there."""
    directory = wanted.digest
    parts = wanted.path.split("/") if wanted.path else []
    for position, part in enumerate(parts):
        found = trees.lookup(directory, part)
        if found is None:
            return None
        if not isinstance(found.entry, DirEntry):
            return found.entry if position == len(parts) - 1 else None
        directory = found.entry.digest
    trees.node(directory)
    return None


class _Full(Exception):
    """The answer has as many nodes as it may have."""


class _Below:
    """Digests of nodes below those that were added, by kind, in order; ``whole`` unless some did not fit."""

    def __init__(self) -> None:
        self.of: dict[int, list[bytes]] = {TREE: [], CHUNKS: []}
        self.whole = True


class _Gathered:
    """Nodes and listed chunks of an answer."""

    def __init__(self, store: Readable, registry: Registry) -> None:
        self._store = store
        self._registry = registry
        self._nodes: dict[bytes, Node] = {}
        self._listed: dict[bytes, None] = {}
        self.size = 0  # bytes of nodes

    def answer(self) -> Nodes:
        return Nodes(list(self._nodes.values()), to_places(self._registry.locate(list(self._listed))))

    def list(self, digests: Iterable[bytes]) -> None:
        """Chunks whose places are to come along."""
        for digest in digests:
            if len(self._listed) >= LISTED:
                return
            self._listed[digest] = None

    def add(self, digests: Sequence[bytes], limit: int, *, first: bool = True) -> _Below:
        """Take these nodes, in order, as long as they are no more bytes than ``limit``; ``first``: one in any case.

        Chunk lists among them have their chunks' places asked for. Returns what is below them.
        """
        below = _Below()
        used = 0
        for start in range(0, len(digests), ASKED_AT_ONCE):
            batch = digests[start : start + ASKED_AT_ONCE]
            places = self._registry.locate(batch)
            for digest in batch:
                place = places.get(digest)
                if place is None or digest in self._nodes or kind_of_flags(place.flags) not in below.of:
                    continue
                if used + place.length > limit and not (first and not self._nodes):
                    below.whole = False
                    return below
                used += place.length
                with suppress(*_DAMAGE):
                    self._open(below, self._take(digest, place), kind_of_flags(place.flags))
        return below

    def descend(self, kind: int, below: _Below, limit: int) -> None:
        """Take nodes of a kind below others, level by level, as long as they are no more bytes than ``limit``."""
        end = self.size + limit
        while below.whole and below.of[kind]:
            below = self.add(below.of[kind], end - self.size, first=False)

    def fetch_tree(self, digest: bytes) -> bytes:
        """The plain bytes of a directory's node, which is taken into the answer."""
        if self.size >= ANSWER:
            raise _Full
        place = self._registry.locate([digest]).get(digest)
        if place is None or kind_of_flags(place.flags) != TREE:
            raise NotFound(f"there is no node {format_digest(digest)}")
        return self._take(digest, place)

    def _take(self, digest: bytes, place: Location) -> bytes:
        stored = self._store.read(pack_key(place.pack), place.offset, place.length)
        self._nodes[digest] = Node(digest, place.size, place.flags, stored)
        self.size += len(stored)
        return unseal(stored, place)

    def _open(self, below: _Below, plain: bytes, kind: int) -> None:
        if kind == CHUNKS:
            node = CHUNK_LIST.decode(plain)
            below.of[CHUNKS] += [branch.digest for branch in node.branches]
            self.list(member.digest for member in (node.items or node.branches))
        else:
            tree = TREE_SEQUENCE.decode(plain)
            below.of[TREE] += [branch.digest for branch in tree.branches]
            below.of[TREE] += [entry.digest for entry in tree.items if isinstance(entry, DirEntry)]

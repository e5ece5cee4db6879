"""Marking: every chunk and node that living trees are made of, and what of each pack is alive.

Used by collections (``artifactfs/collector.py``). One thread; reads only. Nodes are read by the verified path, each once as long as it
is remembered. Whatever cannot be read ends it: nothing may be deleted on incomplete knowledge.

Memory: 50 MB for nodes that were visited and 55 MB for digests on their way to a sorted file, whatever the number of chunks; besides
200 bytes a pack. Of 10^8 chunks of 1 MiB that is 1.5 million packs, 300 MB; of small files far less.
"""

from __future__ import annotations

import struct
import tempfile
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import IO, Final, Protocol

import msgspec

from artifactfs.content.digests import DigestSorter, SortedDigests
from artifactfs.content.reader import ContentReader, ListNode
from artifactfs.content.recent import Recent
from artifactfs.errors import Access, ArtifactFSError, Integrity, NoSpace, Unavailable, translate_os
from artifactfs.model.digest import CHUNKS, DIGEST_SIZE, TREE
from artifactfs.model.sequence import SINGLE_CHUNK
from artifactfs.model.tree import TREE_SEQUENCE, DirEntry, FileEntry, RefEntry
from artifactfs.references.contract import list_of
from artifactfs.registry.contract import Registry

VISITED: Final = 500_000
"""Nodes remembered as visited, 100 bytes each. Beyond, the oldest are walked again where they are met again."""
_DEAD: Final = struct.Struct(f"<{DIGEST_SIZE}sQ")
_BLOCK: Final = 4096  # dead rows read at a time


class Root(Protocol):
    """A tree to walk, and what to call it."""

    @property
    def name(self) -> str:
        """What to call it."""

    @property
    def digest(self) -> bytes:
        """Its root node."""


class Held(msgspec.Struct):
    """What of a pack is alive: chunks and their stored bytes."""

    chunks: int = 0
    size: int = 0


class Marked:
    """What a marking found. ``held`` has packs (ids) with something alive; :meth:`dead` are the rows of all else."""

    def __init__(self, living: SortedDigests, held: dict[int, Held], dead: IO[bytes]) -> None:
        self.living = living
        self.held = held
        self._dead = dead

    def dead(self, packs: Iterable[int]) -> Iterator[tuple[bytes, int]]:
        """Digest and pack of the chunks in these packs that are not alive."""
        wanted = set(packs)
        self._dead.seek(0)
        while block := self._dead.read(_BLOCK * _DEAD.size):
            for digest, number in _DEAD.iter_unpack(block):
                if number in wanted:
                    yield digest, number

    def close(self) -> None:
        """Let the files go. Idempotent."""
        self.living.close()
        self._dead.close()


def mark(
    reader: ContentReader,
    roots: Iterable[Root],
    chunks: Iterator[tuple[bytes, int, int]],
    lost: set[int],
    *,
    directory: Path | None = None,
    progress: Callable[[int], None] | None = None,
) -> Marked:
    """Walk ``roots``, then compare with all ``chunks`` (digest, pack, stored bytes; in order of digest).

    ``lost``: packs whose chunks are as good as absent. Integrity names the root that cannot be walked, or says how many chunks lie
    nowhere. ``progress`` gets the number of nodes so far.
    """
    sorter = DigestSorter(directory)
    try:
        walk = _Walk(reader, sorter, progress)
        for root in roots:
            walk.root(root)
        living = sorter.sorted()
    except BaseException:
        sorter.close()
        raise
    dead: IO[bytes] | None = None
    try:
        dead = tempfile.TemporaryFile(dir=directory)  # noqa: SIM115 - given on
        held = _compare(living, chunks, lost, dead)
        dead.flush()
    except OSError as error:
        living.close()
        raise translate_os(error, "cannot write what is dead to the temporary directory") from error
    except BaseException:
        living.close()
        if dead is not None:
            dead.close()
        raise
    return Marked(living, held, dead)


class _Named(msgspec.Struct, frozen=True):
    name: str
    digest: bytes


def missing_of(
    reader: ContentReader, registry: Registry, name: str, tree: bytes, *, directory: Path | None = None
) -> int:
    """How many chunks and nodes of a tree, called ``name``, the project does not hold, or is about to give up.

    0: all of it stays until the sessions that lived before have ended. Integrity when a node cannot be read.
    """
    sorter = DigestSorter(directory)
    try:
        _Walk(reader, sorter, None).root(_Named(name, tree))
        needed = sorter.sorted()
    finally:
        sorter.close()
    lacking = 0
    digests = iter(needed)
    while batch := list(islice(digests, _BLOCK)):
        lacking += len(registry.missing(batch))
    needed.close()
    return lacking


def _compare(
    living: SortedDigests, chunks: Iterator[tuple[bytes, int, int]], lost: set[int], dead: IO[bytes]
) -> dict[int, Held]:
    held: dict[int, Held] = {}
    absent = 0
    wanted = iter(living)
    next_living = next(wanted, None)
    for digest, number, length in chunks:
        while next_living is not None and next_living < digest:
            absent += 1
            next_living = next(wanted, None)
        if digest == next_living:
            next_living = next(wanted, None)
            if number in lost:
                absent += 1
            else:
                found = held.get(number)
                if found is None:
                    found = held[number] = Held()
                found.chunks += 1
                found.size += length
        else:
            dead.write(_DEAD.pack(digest, number))
    absent += (next_living is not None) + sum(1 for _ in wanted)
    if absent:
        raise Integrity(
            f"{absent} chunks of living versions are in no pack, so nothing is collected: they may be found in what would be deleted; "
            "run `artifactfs verify`"
        )
    return held


class _Walk:
    def __init__(self, reader: ContentReader, living: DigestSorter, progress: Callable[[int], None] | None) -> None:
        self._reader = reader
        self._living = living
        self._progress = progress
        self._visited: Recent[bool] = Recent(VISITED)
        self._nodes = 0

    def root(self, root: Root) -> None:
        """Walk one tree. Integrity names it."""
        waiting = [(root.digest, TREE)]
        try:
            while waiting:
                digest, kind = waiting.pop()
                if self._visited.get(digest):
                    continue
                self._living.add(digest)
                found = self._tree(digest) if kind == TREE else self._list(digest)
                waiting += reversed([node for node in found if not self._visited.get(node[0])])
                # Only once it was read whole.
                self._visited.update([(digest, True)])
                self._nodes += 1
                if self._progress is not None:
                    self._progress(self._nodes)
        except (Unavailable, NoSpace, Access):
            raise
        except ArtifactFSError as error:
            advice = "" if "artifactfs verify" in str(error) else "; `artifactfs verify` says what is damaged"
            raise Integrity(f"{root.name} cannot be read, so nothing is collected: {error}{advice}") from error

    def _tree(self, digest: bytes) -> list[tuple[bytes, int]]:
        """Nodes below a node of a directory; its files' chunks are alive."""
        node = TREE_SEQUENCE.decode(self._reader.chunk(digest, TREE))
        if node.level:
            return [(branch.digest, TREE) for branch in node.branches]
        below: list[tuple[bytes, int]] = []
        for entry in node.items:
            if isinstance(entry, FileEntry):
                if entry.size > SINGLE_CHUNK:
                    below.append((entry.digest, CHUNKS))
                elif entry.size:
                    self._living.add(entry.digest)
            elif isinstance(entry, DirEntry):
                below.append((entry.digest, TREE))
            elif isinstance(entry, RefEntry) and (outside := list_of(entry)) is not None:
                self._outside(outside)
        return below

    def _list(self, digest: bytes) -> list[tuple[bytes, int]]:
        """Nodes below a node of a chunk list; its chunks are alive."""
        node = ListNode(self._reader.chunk(digest, CHUNKS))
        self._living.update(piece.digest for piece in node.pieces)
        return [(branch.digest, CHUNKS) for branch in node.branches]

    def _outside(self, root: bytes) -> None:
        """The chunk list of a Reference: its nodes are here, its chunks are not."""
        waiting = [root]
        while waiting:
            digest = waiting.pop()
            node = ListNode(self._reader.chunk(digest, CHUNKS))
            self._living.add(digest)
            waiting += [branch.digest for branch in node.branches]

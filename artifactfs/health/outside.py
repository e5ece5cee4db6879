"""Outside: which References of which versions have lost chunks, as far as trees and chunk lists tell.

Used by repair. One thread; asks no source. A small Reference whose digest is recorded is one chunk of that digest; of a large one the
chunk list is kept with the version, and says at which offset each chunk lies. One that is recorded by an etag alone tells nothing.

Each directory and each chunk list without such a chunk is looked at once. Memory: about 100 bytes for each of them, of at most a
million, past which all are forgotten and looked at anew; and the chunks of one Reference that are lost.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from artifactfs.content.reader import ContentReader
from artifactfs.errors import ArtifactFSError
from artifactfs.health.hits import REMEMBERED
from artifactfs.model.sequence import SINGLE_CHUNK
from artifactfs.model.tree import DirEntry, Fork, RefEntry, Trees
from artifactfs.references.contract import Part, digest_of, is_artifact


def parts_outside(
    trees: Trees, reader: ContentReader, roots: Iterable[bytes], wanted: Collection[bytes]
) -> Iterator[tuple[RefEntry, list[Part]]]:
    """Each Reference below these directories that has some of ``wanted``, with these parts of it in order of offset.

    ``wanted`` may shrink meanwhile. Nodes that cannot be read are passed over. A source comes again for each directory that has it.
    """
    seen: set[bytes] = set()

    def is_new(name: bytes) -> bool:
        if name in seen:
            return False
        if len(seen) >= REMEMBERED:
            seen.clear()
        seen.add(name)
        return True

    for root in roots:
        if not wanted:
            return
        nodes = [root]
        while nodes and wanted:
            name = nodes.pop()
            if not is_new(name):
                continue
            try:
                node = trees.node(name)
            except ArtifactFSError:
                continue
            if isinstance(node, Fork):
                nodes += [branch.digest for branch in node.branches]
                continue
            for entry in node.entries:
                if isinstance(entry, DirEntry):
                    nodes.append(entry.digest)
                elif isinstance(entry, RefEntry) and (listed := _digest(entry)) is not None and listed not in seen:
                    parts = _parts(reader, listed, entry.size or 0, wanted)
                    if parts:
                        yield entry, parts
                    elif (entry.size or 0) > SINGLE_CHUNK:
                        is_new(listed)


def _digest(entry: RefEntry) -> bytes | None:
    """The recorded digest, if the source is one outside: another artifact's chunks are stored as these are."""
    return digest_of(entry) if entry.size and not is_artifact(entry.uri) else None


def _parts(reader: ContentReader, name: bytes, size: int, wanted: Collection[bytes]) -> list[Part]:
    if size <= SINGLE_CHUNK:
        return [Part(name, 0, size)] if name in wanted else []
    found: dict[bytes, Part] = {}
    nodes = [(name, 0)]
    while nodes:
        digest, begin = nodes.pop()
        try:
            node = reader.list_node(digest, ())
        except ArtifactFSError:
            continue
        starts = [begin + start for start in node.starts]
        nodes += reversed([(branch.digest, start) for branch, start in zip(node.branches, starts, strict=False)])
        for piece, start in zip(node.pieces, starts, strict=False):
            if piece.digest in wanted:
                found.setdefault(piece.digest, Part(piece.digest, start, piece.size))
    return list(found.values())

"""Hits: which files of which versions a damage reaches, found by walking trees from their roots.

Used by verify and repair. One thread.

What versions share is walked once: a sound directory or chunk list is passed over when it is met again, and the names below a
damaged one are remembered. Memory: about 100 bytes a sound one, of at most a million of them, past which all are forgotten and walked
anew; what is damaged, in full, since all of it is told.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Final

import msgspec

from artifactfs.content.reader import ContentReader
from artifactfs.errors import ArtifactFSError, Integrity
from artifactfs.model.digest import CHUNKS, DATA, TREE
from artifactfs.model.records import VersionRecord
from artifactfs.model.sequence import SINGLE_CHUNK
from artifactfs.model.tree import DirEntry, Entry, FileEntry, Leaf, RefEntry, Trees

REMEMBERED: Final = 1_000_000
"""Sound directories and chunk lists that are remembered."""

_OUTSIDE: Final = b"outside"  # before the digest of a list that is a Reference's

Judge = Callable[[Collection[bytes]], Mapping[bytes, str]]
"""Which of these chunks of data cannot be read, and why."""
Below = tuple[tuple[str, str], ...]
"""Path below a directory, and what is wrong there; the path is empty for the directory itself."""
ListOf = Callable[[RefEntry], bytes | None]
"""The root of the chunk list that is kept of a Reference, if one is."""


class Hit(msgspec.Struct, frozen=True):
    """One thing that cannot be read: the version, the path in it, and why."""

    version: str
    path: str
    reason: str


class Walk:
    """Walks versions. ``judge`` is asked about all chunks of data that they name, many at a time; nodes are read by ``trees``."""

    def __init__(self, trees: Trees, reader: ContentReader, judge: Judge, list_of: ListOf) -> None:
        self._trees = trees
        self._reader = reader
        self._judge = judge
        self._list_of = list_of
        self._sound: set[bytes] = set()
        self._hurt: dict[bytes, Below] = {}
        self.files = 0
        self.lost: dict[bytes, int] = {}
        """Nodes that could not be read and chunks that were judged, each with its kind."""
        self.outside: list[RefEntry] = []
        """References of whose chunk list a node could not be read."""
        self.step: Callable[[], None] = lambda: None
        """Called for every directory."""

    def version(self, version: VersionRecord) -> Iterator[Hit]:
        """What cannot be read of a version."""
        wrong = False
        for path, reason in self._directory(version.digest):
            wrong = True
            yield Hit(version.name, path or "/", reason)
        if not wrong and (contradiction := self._summary(version)) is not None:
            yield Hit(version.name, "/", contradiction)

    def _summary(self, version: VersionRecord) -> str | None:
        try:
            root = self._trees.summary(version.digest)
        except ArtifactFSError as error:
            return f"the directory cannot be read: {error}"
        if (root.size, root.files, root.entries) != (version.size, version.files, version.entries):
            return (
                f"the registry records {version.files} files of {version.size} bytes, its tree has {root.files} of {root.size}: "
                "the version's digest or its counts were changed"
            )
        return None

    def _directory(self, tree: bytes) -> Below:
        if tree in self._sound:
            return ()
        if (known := self._hurt.get(tree)) is not None:
            return known
        self.step()
        found = tuple(self._node(tree, "the directory"))
        self._remember(tree, found)
        return found

    def _node(self, name: bytes, what: str) -> Iterator[tuple[str, str]]:
        try:
            node = self._trees.node(name)
        except ArtifactFSError as error:
            if isinstance(error, Integrity):
                self.lost[name] = TREE
            yield "", f"{what} cannot be read: {error}"
            return
        if isinstance(node, Leaf):
            yield from self._entries(node.entries)
            return
        after = ""
        for branch in node.branches:
            span = f"{f'after {after!r} ' if after else ''}up to {branch.last!r}"
            yield from self._node(branch.digest, f"the part of the directory {span}")
            after = branch.last

    def _entries(self, entries: list[Entry]) -> Iterator[tuple[str, str]]:
        small = [entry.digest for entry in entries if isinstance(entry, FileEntry) and 0 < entry.size <= SINGLE_CHUNK]
        bad = self._judged(small)
        for entry in entries:
            if isinstance(entry, FileEntry):
                self.files += 1
                if entry.size > SINGLE_CHUNK:
                    yield from ((entry.name, reason) for reason in self._large(entry.digest, entry.size, outside=False))
                elif entry.size and (reason := bad.get(entry.digest)) is not None:
                    yield entry.name, reason
            elif isinstance(entry, DirEntry):
                for path, reason in self._directory(entry.digest):
                    yield f"{entry.name}/{path}", reason
            elif isinstance(entry, RefEntry) and (root := self._list_of(entry)) is not None:
                # Of a Reference the chunk list is here, though the chunks are not.
                for reason in self._large(root, entry.size or 0, outside=True):
                    self.outside.append(entry)
                    yield entry.name, reason

    def _large(self, name: bytes, size: int, *, outside: bool) -> Iterator[str]:
        """Why a file of several chunks cannot be read: the first reason alone."""
        # What a Reference needs of a list, which may be a file's as well, is the list alone.
        key = _OUTSIDE + name if outside else name
        if name in self._sound or key in self._sound:
            return
        known = self._hurt.get(key)
        if known is None:
            known = tuple(("", reason) for reason in self._list(name, size, outside=outside))[:1]
            self._remember(key, known)
        yield from (reason for _, reason in known)

    def _list(self, name: bytes, size: int, *, outside: bool) -> Iterator[str]:
        # A node that fails hides the part that it lists alone; the other parts are looked at too, so that all that is lost is known.
        nodes = [(name, size)]
        while nodes:
            digest, expected = nodes.pop()
            try:
                node = self._reader.list_node(digest, ())
            except ArtifactFSError as error:
                if isinstance(error, Integrity):
                    self.lost[digest] = CHUNKS
                yield str(error)
                continue
            if node.size != expected:
                yield f"its chunk list has {node.size} bytes where {expected} are recorded"
            nodes += [(branch.digest, branch.size) for branch in reversed(node.branches)]
            if not outside:
                yield from self._judged([piece.digest for piece in node.pieces]).values()

    def _judged(self, digests: list[bytes]) -> Mapping[bytes, str]:
        bad = self._judge(digests) if digests else {}
        for digest in bad:
            self.lost[digest] = DATA
        return bad

    def _remember(self, name: bytes, found: Below) -> None:
        if found:
            self._hurt[name] = found
            return
        if len(self._sound) >= REMEMBERED:
            self._sound.clear()
        self._sound.add(name)

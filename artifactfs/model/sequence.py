"""Sequence: an ordered list split by its content into nodes, each named by digest, nodes over nodes until one root.

Directories (``model/tree.py``) and the chunk lists of large files (:data:`CHUNK_LIST`) are Sequences. Pure: bytes come from and go to
callables. Safe from any thread.

A node ends after an item whose *mark* (the first 8 bytes of the BLAKE3 of its key, or of its digest, as a big-endian integer) is a
multiple of 896, no earlier than its 128th and no later than its 4,096th item: about 1,000 items a node. Whether a node ends depends on
the items since the last end alone, so the same items give the same nodes in whatever order they came, and after a change the
boundaries soon meet the old ones again. This is the prolly tree of Noms and Dolt with bounds as in FastCDC.

Canonical bytes of a node: msgpack ``[level, [item, …]]``; level 0 holds items, level n holds branches to nodes of level n-1. A list
that fits into one node is that node; the empty list is the leaf without items.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, ClassVar, Final, Generic, Protocol, TypeVar

import msgspec

from artifactfs.errors import Integrity
from artifactfs.model.digest import CHUNKS

# Constants of format 1: another value gives other digests.
MIN_ITEMS: Final = 128
MAX_ITEMS: Final = 4096
DIVISOR: Final = 896
SINGLE_CHUNK: Final = 4 << 20  # bytes: a file up to this size is one chunk, without a chunk list

StoreNode = Callable[[int, bytes], bytes]
"""Takes a node's kind and bytes, returns its digest; keeping it is the callable's business."""

FetchNode = Callable[[int, bytes], bytes]
"""Takes a node's kind and digest, returns its verified bytes."""


class Branch(Protocol):
    """What every branch carries: the digest of the node below and the number of items below it."""

    @property
    def digest(self) -> bytes:
        """Names the node below."""

    @property
    def count(self) -> int:
        """Items below, over all levels."""


I = TypeVar("I")  # noqa: E741 - the item type of a Sequence
B = TypeVar("B", bound=Branch)


class Node(Generic[I, B]):
    """A decoded node: ``level`` 0 has ``items``, higher levels ``branches``."""

    __slots__ = ("branches", "items", "level")

    def __init__(self, level: int, items: list[I], branches: list[B]) -> None:
        self.level = level
        self.items = items
        self.branches = branches


class SequenceType(ABC, Generic[I, B]):
    """How one kind of Sequence marks, summarises and encodes its items."""

    kind: ClassVar[int]

    def __init__(self, item: Any, branch: type[B]) -> None:
        self._leaf = msgspec.msgpack.Decoder(tuple[int, list[item]])
        self._branch = msgspec.msgpack.Decoder(tuple[int, list[branch]])  # type: ignore[valid-type]
        self._encode = msgspec.msgpack.Encoder().encode

    @abstractmethod
    def mark(self, item: I) -> int:
        """The number that decides whether a node may end after this item."""

    @abstractmethod
    def summarise(self, digest: bytes, items: Sequence[I]) -> B:
        """The branch to a leaf."""

    @abstractmethod
    def merge(self, digest: bytes, branches: Sequence[B]) -> B:
        """The branch to a node of branches."""

    def encode(self, level: int, members: Sequence[I] | Sequence[B]) -> bytes:
        """Canonical bytes of a node."""
        return self._encode((level, members))

    def decode(self, data: bytes) -> Node[I, B]:
        """A node from its bytes. Raises Integrity when they are no node of this type."""
        try:
            # msgpack: 0x92 is an array of two, the level follows; a positive fixint is its own byte.
            if data[:2] == b"\x92\x00":
                return Node(0, self._leaf.decode(data)[1], [])
            level, branches = self._branch.decode(data)
        except (msgspec.MsgspecError, IndexError) as error:
            raise Integrity(f"a stored node cannot be read: {error}; run `artifactfs verify`") from error
        if not 0 < level < 16 or not branches:
            raise Integrity("a stored node has an impossible shape; run `artifactfs verify`")
        return Node(level, [], branches)


def mark_of(digest: bytes) -> int:
    """The mark of anything that has a digest: its first 8 bytes."""
    return int.from_bytes(digest[:8], "big")


def _split(marks: Iterable[int], members: Sequence[Any], start: int) -> Iterator[tuple[int, int]]:
    """Cut ``members`` from ``start`` into half-open ranges by their marks."""
    begin = start
    for position, mark in enumerate(marks, start):
        length = position + 1 - begin
        if length >= MAX_ITEMS or (length >= MIN_ITEMS and mark % DIVISOR == 0):
            yield begin, position + 1
            begin = position + 1
    if begin < len(members):
        yield begin, len(members)


def build(kind: SequenceType[I, B], items: Iterable[I], store: StoreNode) -> B:
    """Store all nodes of a list and return the branch to its root. Holds one node's items and the branches."""
    branches: list[B] = []
    pending: list[I] = []
    mark = kind.mark
    for item in items:
        pending.append(item)
        length = len(pending)
        if length >= MIN_ITEMS and (length >= MAX_ITEMS or mark(item) % DIVISOR == 0):
            branches.append(_leaf(kind, pending, store))
            pending = []
    if pending or not branches:
        branches.append(_leaf(kind, pending, store))
    return root_of(kind, branches, store)


def _leaf(kind: SequenceType[I, B], items: Sequence[I], store: StoreNode) -> B:
    return kind.summarise(store(kind.kind, kind.encode(0, items)), items)


def root_of(kind: SequenceType[I, B], leaves: list[B], store: StoreNode) -> B:
    """Store the levels over these leaves and return the branch to the root."""
    level = 0
    branches = leaves
    while len(branches) > 1:
        level += 1
        marks = (mark_of(branch.digest) for branch in branches)
        branches = [
            kind.merge(store(kind.kind, kind.encode(level, branches[a:b])), branches[a:b])
            for a, b in _split(marks, branches, 0)
        ]
    return branches[0]


def leaves(kind: SequenceType[I, B], root: bytes, fetch: FetchNode) -> list[B]:
    """The branches to all leaves, in order; reads no leaf unless the root is one."""
    node = kind.decode(fetch(kind.kind, root))
    if node.level == 0:
        return [kind.summarise(root, node.items)]
    branches = node.branches
    for _ in range(node.level - 1):
        branches = [below for branch in branches for below in kind.decode(fetch(kind.kind, branch.digest)).branches]
    return branches


def items(kind: SequenceType[I, B], root: bytes, fetch: FetchNode) -> Iterator[I]:
    """All items in order; one leaf in memory at a time."""
    node = kind.decode(fetch(kind.kind, root))
    if node.level == 0:
        yield from node.items
    else:
        for branch in node.branches:
            yield from items(kind, branch.digest, fetch)


def edit(
    kind: SequenceType[I, B],
    old: Sequence[B],
    apply: Callable[[int, list[I]], list[I]],
    touched: Sequence[int],
    fetch: FetchNode,
    store: StoreNode,
) -> B:
    """The root of a list of which only the leaves numbered in ``touched`` (rising) change.

    ``apply(number, items)`` gives the new items of a touched leaf. Cutting goes on from a touched leaf until a boundary meets an old
    one; all else is kept by digest. The result equals :func:`build` of the new items.
    """
    result: list[B] = []
    position = 0
    waiting = iter(touched)
    next_touched = next(waiting, None)
    pending: list[I] = []
    while position < len(old) or pending:
        # Between two leaves with nothing pending: an untouched leaf is kept as it is. The last leaf ends by the end of the list,
        # not by a mark, so it may only be kept where nothing was cut into it: exactly here.
        if not pending and position != next_touched:
            result.append(old[position])
            position += 1
            continue
        if position < len(old):
            found = list(kind.decode(fetch(kind.kind, old[position].digest)).items)
            if position == next_touched:
                found = apply(position, found)
                next_touched = next(waiting, None)
            position += 1
            begin = len(pending)
            pending += found
        else:
            begin = len(pending)
        last = position >= len(old)
        cut = 0
        for index in range(begin, len(pending)):
            length = index + 1 - cut
            if length >= MIN_ITEMS and (length >= MAX_ITEMS or kind.mark(pending[index]) % DIVISOR == 0):
                result.append(_leaf(kind, pending[cut : index + 1], store))
                cut = index + 1
        pending = pending[cut:]
        if last and pending:
            result.append(_leaf(kind, pending, store))
            pending = []
    if not result:
        result.append(_leaf(kind, [], store))
    return root_of(kind, result, store)


class Piece(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One chunk of a large file: its digest and size in bytes."""

    digest: bytes
    size: int


class ChunkBranch(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A part of a chunk list: digest of the node, chunks below it, their bytes."""

    digest: bytes
    count: int
    size: int


class ChunkList(SequenceType[Piece, ChunkBranch]):
    """The Sequence of a large file's chunks."""

    kind = CHUNKS

    def __init__(self) -> None:
        super().__init__(Piece, ChunkBranch)

    def mark(self, item: Piece) -> int:
        """The chunk's digest is as good as random already."""
        return mark_of(item.digest)

    def summarise(self, digest: bytes, items: Sequence[Piece]) -> ChunkBranch:
        """Chunks and bytes of a leaf."""
        return ChunkBranch(digest, len(items), sum(piece.size for piece in items))

    def merge(self, digest: bytes, branches: Sequence[ChunkBranch]) -> ChunkBranch:
        """Chunks and bytes of a node of branches."""
        return ChunkBranch(digest, sum(b.count for b in branches), sum(b.size for b in branches))


CHUNK_LIST: Final = ChunkList()

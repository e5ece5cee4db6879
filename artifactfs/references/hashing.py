"""Hashing: the digest that a file of these bytes has in a version, without storing them.

Used where References to sources without etags are added and checked. Pure but for what ``read`` does; any thread.

Memory: one buffer of 12 MiB, and the nodes of the chunk list, 40 KB a GiB.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

import msgspec

from artifactfs.content.chunks import Cutter
from artifactfs.model import sequence
from artifactfs.model.digest import DATA, digest
from artifactfs.model.sequence import CHUNK_LIST, SINGLE_CHUNK, Piece

_BUFFER: Final = 12 << 20  # bytes: three chunks of the largest size, so that a quarter is moved at most


class Hashed(msgspec.Struct, frozen=True):
    """A file's digest and size, and the nodes of its chunk list (none for a file of one chunk), each after those below it."""

    digest: bytes
    size: int
    nodes: tuple[bytes, ...]


def hash_stream(read: Callable[[int], bytes]) -> Hashed:
    """Hash what ``read(length)`` gives, at most ``length`` bytes a call, until it gives none."""
    buffer = bytearray(_BUFFER)
    view = memoryview(buffer)
    filled = _fill(view, 0, read)
    if filled <= SINGLE_CHUNK:
        return Hashed(digest(DATA, view[:filled]), filled, ())
    nodes: list[bytes] = []

    def keep(kind: int, data: bytes) -> bytes:
        nodes.append(data)
        return digest(kind, data)

    root = sequence.build(CHUNK_LIST, _pieces(view, filled, read), keep)
    return Hashed(root.digest, root.size, tuple(nodes))


def _pieces(view: memoryview, filled: int, read: Callable[[int], bytes]) -> Iterator[Piece]:
    cutter = Cutter()
    while True:
        final = filled < len(view)  # a buffer that could not be filled ends with the file
        done = 0
        for begin, done in cutter.cut(view[:filled], final=final):
            yield Piece(digest(DATA, view[begin:done]), done - begin)
        if final:
            return
        rest = filled - done
        view[:rest] = bytes(view[done:filled])
        filled = _fill(view, rest, read)


def _fill(view: memoryview, filled: int, read: Callable[[int], bytes]) -> int:
    while filled < len(view) and (data := read(min(len(view) - filled, 1 << 20))):
        view[filled : filled + len(data)] = data
        filled += len(data)
    return filled

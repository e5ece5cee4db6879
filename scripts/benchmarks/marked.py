"""The marking of a collection over so many chunks that nobody stored: `python scripts/benchmarks/marked.py 100000000`.

Trees, chunk lists and the table of chunks are made up as they are read, so that what is measured is the marking alone. Nine chunks of
ten are alive, 64 of them lie in a pack (64 MiB of chunks of 1 MiB). Prints JSON: seconds, and bytes of anonymous memory at most, less
what this program took before it began. The temporary directory needs 68 bytes a chunk (TMPDIR).
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).parents[2]))

from artifactfs.content.reader import ContentReader
from artifactfs.marking import mark
from artifactfs.model.digest import TREE
from artifactfs.model.sequence import CHUNK_LIST, Piece
from artifactfs.model.tree import TREE_SEQUENCE, FileEntry

PIECES: Final = 1000
"""Chunks of a node of a chunk list, as many as such a node has on average; nodes of a tree."""
IN_A_PACK: Final = 64
SPREAD: Final = 7_368_787
"""A prime: its multiples, modulo the number of chunks, visit them in an order that has nothing to do with theirs."""
SAMPLE_SECONDS: Final = 0.2
_MEBI: Final = 1 << 20


class Root:
    """One of the made-up trees."""

    def __init__(self, name: str, digest: bytes) -> None:
        self.name = name
        self.digest = digest


class MadeUp(ContentReader):
    """``count`` chunks, a multiple of :data:`PIECES` squared.

    A digest is a number times the step, plus 0 for a chunk, 1 for the list that begins there, 2 for the tree.
    """

    def __init__(self, count: int) -> None:
        if count < PIECES**2 or count % PIECES**2:
            raise SystemExit(f"the number of chunks must be a multiple of {PIECES**2:,}")
        self.count = count
        self._step = (1 << 64) // count

    def roots(self) -> Iterator[Root]:
        """A tree of 1,000 files for each million chunks."""
        for number in range(0, self.count, PIECES**2):
            yield Root(f"made-up:v{number // PIECES**2}", self._named(number, 2))

    def chunk(self, name: bytes, kind: int, along: object = None) -> bytes:
        """A node of a tree or a list."""
        del along
        first = int.from_bytes(name[:8], "big") // self._step
        if kind == TREE:
            files = range(first, first + PIECES**2, PIECES)
            entries = [
                FileEntry(f"f{file:012}", PIECES * _MEBI, self._named(file, 1), executable=False) for file in files
            ]
            return TREE_SEQUENCE.encode(0, entries)
        numbers = (number * SPREAD % self.count for number in range(first, first + PIECES))
        return CHUNK_LIST.encode(0, [Piece(self._named(number, 0), _MEBI) for number in numbers if number % 10])

    def table(self) -> Iterator[tuple[bytes, int, int]]:
        """Digest, pack and stored bytes of everything, in order."""
        packs = self.count // IN_A_PACK
        for number in range(self.count):
            pack = number * SPREAD % packs
            yield self._named(number, 0), pack, _MEBI
            if number % PIECES == 0:
                yield self._named(number, 1), pack, 40_000
            if number % PIECES**2 == 0:
                yield self._named(number, 2), pack, 60_000

    def _named(self, number: int, kind: int) -> bytes:
        return (number * self._step + kind).to_bytes(8, "big") + bytes(24)


class Memory:
    """The most anonymous memory that this process had, in bytes."""

    def __init__(self) -> None:
        self.most = 0
        threading.Thread(target=self._sample, daemon=True).start()

    def _sample(self) -> None:
        while True:
            self.most = max(self.most, anonymous())
            time.sleep(SAMPLE_SECONDS)


def anonymous() -> int:
    """Bytes; what is mapped of files can be given up at any time and does not count."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) << 10
    raise AssertionError


def main() -> None:
    made_up = MadeUp(int(sys.argv[1]))
    before = anonymous()
    memory = Memory()
    began = time.perf_counter()
    marked = mark(made_up, made_up.roots(), made_up.table(), set())
    seconds = time.perf_counter() - began
    living = sum(held.chunks for held in marked.held.values())
    # Nine of ten chunks, and all nodes.
    expected = made_up.count // 10 * 9 + made_up.count // PIECES + made_up.count // PIECES**2
    if living != expected or len(marked.living) != expected:
        raise SystemExit(f"{living:,} of {expected:,} are alive")
    packs = len(marked.held)
    marked.close()
    print(json.dumps({"seconds": seconds, "memory": memory.most - before, "packs": packs, "living": living}))


if __name__ == "__main__":
    main()

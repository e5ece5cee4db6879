"""The files that are measured on: a large one, many small ones, very many tiny ones.

Compressible data is CSV of generated numbers, every row another, so that zstd gains and deduplication does not.
"""

from __future__ import annotations

import os
import random
from array import array
from collections.abc import Iterator
from pathlib import Path

COMPRESSIBLE = "compressible"
INCOMPRESSIBLE = "incompressible"
KINDS = (INCOMPRESSIBLE, COMPRESSIBLE)

BLOCK = 1 << 20
_ROW = b"%d,%d,%d.%d,%d,sensor-%d,ok\n"
_COLUMNS = 6
_ROWS = 4096  # rows formatted at once: about 140 KB


def stream(kind: str, seed: int = 0) -> Iterator[bytes]:
    """Endless data in blocks of 1 MiB."""
    if kind == INCOMPRESSIBLE:
        while True:
            yield os.urandom(BLOCK)
    generator = random.Random(seed)
    template = _ROW * _ROWS
    pending = bytearray()
    while True:
        while len(pending) < BLOCK:
            numbers = array("H", generator.randbytes(_ROWS * _COLUMNS * 2))
            pending += template % tuple(numbers)
        yield bytes(pending[:BLOCK])
        del pending[:BLOCK]


def large(path: Path, kind: str, size: int) -> None:
    """One file of ``size`` bytes."""
    with path.open("wb") as file:
        for block in stream(kind):
            file.write(block[: size - file.tell()])
            if file.tell() >= size:
                return


def small(root: Path, kind: str, directories: int, files: int, size: int) -> None:
    """``directories`` directories of ``files`` files of ``size`` bytes."""
    blocks = stream(kind, seed=1)
    pending = b""
    for directory in range(directories):
        place = root / f"d{directory:04}"
        place.mkdir(parents=True)
        for file in range(files):
            while len(pending) < size:
                pending += next(blocks)
            (place / f"f{file:04}.dat").write_bytes(pending[:size])
            pending = pending[size:]


def tiny(root: Path, directories: int, files: int) -> None:
    """``directories`` directories of ``files`` files of some hundred bytes; 0 directories: all in the root."""
    for directory in range(max(1, directories)):
        place = root / f"d{directory:04}" if directories else root
        place.mkdir(parents=True)
        for file in range(files):
            (place / f"f{file:06}.txt").write_bytes(b"%d,%d\n" % (directory, file) * 40)


def settle(path: Path) -> None:
    """Read everything below once, so that both sides find it in the page cache."""
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file():
            with file.open("rb", buffering=0) as opened:
                while opened.read(BLOCK):
                    pass


def size_of(path: Path) -> int:
    """Bytes in all files below."""
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def spelled(size: int) -> str:
    """A size in whole binary units."""
    return f"{size >> 30} GiB" if size >= 1 << 30 else f"{size >> 20} MiB"

"""A program that reads 4 KiB at random places of a file and prints the seconds that the reads took.

python random_reads.py FILE COUNT
"""

from __future__ import annotations

import os
import random
import sys
import time

PAGE = 4096


def places(size: int, count: int) -> list[int]:
    """The offsets that are read of a file of ``size`` bytes: always the same."""
    generator = random.Random(7)
    return [generator.randrange(size // PAGE) * PAGE for _ in range(count)]


def main() -> None:
    path, count = sys.argv[1], int(sys.argv[2])
    descriptor = os.open(path, os.O_RDONLY)
    offsets = places(os.fstat(descriptor).st_size, count)
    begin = time.perf_counter()
    for offset in offsets:
        os.pread(descriptor, PAGE, offset)
    print(time.perf_counter() - begin)


if __name__ == "__main__":
    main()

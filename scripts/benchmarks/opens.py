"""A program that opens, reads and closes files, and prints the seconds that the fastest of three passes took.

python opens.py DIRECTORY COUNT
"""

from __future__ import annotations

import os
import sys
import time

PASSES = 3


def main() -> None:
    directory, count = sys.argv[1], int(sys.argv[2])
    files = sorted(f"{parent}/{name}" for parent, _, names in os.walk(directory) for name in names)[:count]
    fastest = float("inf")
    for number in range(PASSES + 1):
        begin = time.perf_counter()
        for file in files:
            descriptor = os.open(file, os.O_RDONLY)
            os.read(descriptor, 4096)
            os.close(descriptor)
        if number:  # in the first pass chunks are verified, and pages get into memory
            fastest = min(fastest, time.perf_counter() - begin)
    print(fastest)


if __name__ == "__main__":
    main()

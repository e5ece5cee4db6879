"""A program that is one client of a server: opens the repository, says so, and at a line on its input reads files of a version.

python bucket_reader.py URL CACHE ARTIFACT direct|server FILE...

Starting Python and opening the repository are over when it says `ready`; at the end it prints the bytes that it has read.
"""

from __future__ import annotations

import sys
from pathlib import Path

from artifactfs.content.cache import CacheSettings
from artifactfs.credentials import Credentials
from artifactfs.model.names import parse_address
from artifactfs.model.tree import FileEntry
from artifactfs.repository import Repository

_PIECE = 1 << 20


def main() -> None:
    url, cache, artifact, way, *files = sys.argv[1:]
    credentials = Credentials(direct=way == "direct")
    with Repository.open(url, cache=CacheSettings(Path(cache)), credentials=credentials) as repository:
        version = repository.resolve(parse_address(f"{artifact}:v0"))
        print("ready", flush=True)
        sys.stdin.readline()
        total = 0
        for name in files:
            entry = repository.entry(version, name)
            if not isinstance(entry, FileEntry):
                raise TypeError(f"{name} is no file")
            opened = repository.open_file(entry)
            for offset in range(0, entry.size, _PIECE):
                total += len(opened.read(offset, _PIECE))
    print(total, flush=True)


if __name__ == "__main__":
    main()

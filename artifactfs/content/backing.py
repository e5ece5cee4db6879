"""Files that lie whole on the local disk: verified at once, then read by the kernel itself (passthrough).

Used by the repository. Any thread. A file qualifies when all its chunks lie raw, in order, in one object that holds nothing else.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Final

from artifactfs.content.chunks import MAXIMUM
from artifactfs.content.pack import PACK_SIZE
from artifactfs.content.stored import CODED
from artifactfs.errors import ArtifactFSError
from artifactfs.model.digest import DATA, digest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from artifactfs.content.local import LocalStore
    from artifactfs.content.places import Place
    from artifactfs.content.reader import FileReader
    from artifactfs.content.stored import StoredSource

VERIFY_BYTES: Final = 2 << 30
"""Size up to which a large file is verified at its open, as far as it lies in memory, so that the kernel can read it by itself
from the start. 1 GiB takes about 0.15 s, and then 0.07 s to read instead of 0.5 s and more through the daemon."""
VERIFY_SECONDS: Final = 0.5
"""Processor time that such an open may take at most."""
VERIFIERS: Final = 4
"""Threads that verify a file at its open: hashing runs beside hashing, from the second core on limited by memory."""


class Backing:
    """Finds the local paths of files."""

    def __init__(self, store: LocalStore, source: StoredSource) -> None:
        self._store = store
        self._places = source.places
        self._whole: dict[bytes, str] = {}  # chunk lists that are objects of their own; few, as these are large

    def path(self, file: FileReader) -> str | None:
        """The path whose bytes are exactly this file's, once all were verified; "" while they may become so; else None."""
        if file.size <= PACK_SIZE:
            return None
        key = self._whole.get(file.digest) or self._find(file)
        return "" if key is None else str(self._store.path(key))

    def verified_path(self, file: FileReader) -> str:
        """As :meth:`path`, after verifying what lies in the kernel's memory: no disk is waited for."""
        if file.size <= VERIFY_BYTES:
            try:
                self._verify(file)
            except ArtifactFSError:
                return ""  # whoever reads it is told
        return self.path(file) or ""

    def _find(self, file: FileReader) -> str | None:
        """The key of the object that is this file; stops at the first chunk that was not verified."""
        key = ""
        end = 0
        for _, leaf in file.leaves_in_memory():
            for piece in leaf.pieces:
                place = self._places.get(piece.digest)
                if place is None or not place.verified or place.location.flags & CODED or place.location.offset != end:
                    return None
                if place.key != (key or place.key):
                    return None
                key = place.key
                end += piece.size
        if end != file.size or self._store.size(key) != end:
            return None
        self._whole[file.digest] = key
        return key

    def _verify(self, file: FileReader) -> None:
        """Verify the chunks of a file that may be an object of its own, as far as they can be read at once."""
        waiting: list[tuple[bytes, Place]] = []
        for first, leaf in file.leaves():
            for piece, start in zip(leaf.pieces, leaf.starts, strict=False):
                place = self._places.find(piece.digest, (other.digest for other in leaf.pieces))
                if place is None or place.location.flags & CODED or place.location.offset != first + start:
                    return
                if not place.verified:
                    waiting.append((piece.digest, place))
        if waiting:
            count = min(VERIFIERS, len(os.sched_getaffinity(0)))
            arguments = (iter(waiting), VERIFY_SECONDS / count)
            threads = [threading.Thread(target=self._verify_some, args=arguments) for _ in range(count - 1)]
            for thread in threads:
                thread.start()
            self._verify_some(*arguments)
            for thread in threads:
                thread.join()

    def _verify_some(self, work: Iterator[tuple[bytes, Place]], seconds: float) -> None:
        """Verify raw chunks, each taken by one of the threads that share ``work``, until one cannot be."""
        buffer = memoryview(bytearray(MAXIMUM))
        deadline = time.thread_time() + seconds
        for name, place in work:
            location = place.location
            space = buffer[: location.length]
            read = time.thread_time() <= deadline and self._store.read_cached(place.key, location.offset, space)
            if not read or digest(DATA, space) != name:
                deque(work, maxlen=0)  # leaves nothing to the others
                return
            place.verified = True

"""Blocks of packs in memory: nodes of an object store are read again and again, and beside each other.

Used by the service when the Store is not local. Any thread. Each request to an object store takes 20 ms and more, and a listing needs
hundreds of nodes, which lie beside each other in packs of their own: they come by blocks, and stay as long as there is room.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from concurrent.futures import Future
from typing import Final, Protocol

from artifactfs.content.recent import Recent
from artifactfs.content.store import Store
from artifactfs.errors import Integrity

BLOCK: Final = 256 << 10
"""Bytes that are fetched for a node at least, as far as the pack goes: some hundred small directories."""
MEMORY: Final = 64 << 20
"""Bytes of blocks that are kept."""
PACKS: Final = 20_000
"""Packs whose size is remembered."""

_Key = tuple[str, str, int]  # project, key, number of the block


class Readable(Protocol):
    """Where stored bytes are read: a Store, or memory before one."""

    def read(self, key: str, offset: int, length: int) -> bytes:
        """As :meth:`artifactfs.content.store.Store.read`."""


class PackBlocks:
    """Blocks of all projects' packs, the latest ``limit`` bytes; one fetch for many readers. No project sees another's."""

    def __init__(self, limit: int = MEMORY) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._blocks: OrderedDict[_Key, bytes] = OrderedDict()
        self._size = 0
        self._coming: dict[tuple[_Key, int], Future[None]] = {}
        self._sizes: Recent[int] = Recent(PACKS)

    def of(self, project: str, store: Store) -> Readable:
        """A project's Store, by way of this memory."""
        return _Through(self, project, store)

    def read(self, project: str, store: Store, key: str, offset: int, length: int) -> bytes:
        """As the Store's own."""
        end = offset + length
        total = self._total(project, store, key)
        if not 0 <= offset <= end <= total:
            raise Integrity(f"{key}: ends at {total} before {end}; run `artifactfs verify`")
        first, last = offset // BLOCK, max(offset, end - 1) // BLOCK
        found: dict[int, bytes] = {}
        while len(found) <= last - first:
            missing = self._take(project, key, first, last, found)
            if missing:
                self._fetch(project, store, key, missing, total, found)
        data = b"".join(found[number] for number in range(first, last + 1))
        return data[offset - first * BLOCK : end - first * BLOCK]

    def _total(self, project: str, store: Store, key: str) -> int:
        name = f"{project}/{key}".encode()
        total = self._sizes.get(name)
        if total is None:
            total = store.size(key)
            self._sizes.update([(name, total)])
        return total

    def _take(self, project: str, key: str, first: int, last: int, found: dict[int, bytes]) -> range:
        """What is here, into ``found``; returns the first run of blocks that are not."""
        with self._lock:
            absent = []
            for number in range(first, last + 1):
                if number in found:
                    continue
                block = self._blocks.get((project, key, number))
                if block is None:
                    absent.append(number)
                else:
                    self._blocks.move_to_end((project, key, number))
                    found[number] = block
        if not absent:
            return range(0)
        end = absent[0]
        while end in absent:
            end += 1
        return range(absent[0], end)

    def _fetch(self, project: str, store: Store, key: str, missing: range, total: int, found: dict[int, bytes]) -> None:
        """Fetch blocks that lie beside each other by one request, or wait for who fetches the same."""
        flight = ((project, key, missing.start), missing.stop)
        with self._lock:
            coming = self._coming.get(flight)
            mine = coming is None
            if coming is None:
                coming = self._coming[flight] = Future()
        if not mine:
            coming.result()  # then they are here, or it raises what the other met
            return
        begin, end = missing.start * BLOCK, min(missing.stop * BLOCK, total)
        try:
            data = store.read(key, begin, end - begin)
            for number in missing:
                found[number] = data[number * BLOCK - begin : (number + 1) * BLOCK - begin]
            self._keep(project, key, {number: found[number] for number in missing})
        except BaseException as error:
            self._sizes.forget(f"{project}/{key}".encode())
            coming.set_exception(error)
            raise
        else:
            coming.set_result(None)
        finally:
            with self._lock:
                self._coming.pop(flight, None)

    def _keep(self, project: str, key: str, blocks: dict[int, bytes]) -> None:
        with self._lock:
            for number, block in blocks.items():
                before = self._blocks.pop((project, key, number), b"")
                self._blocks[project, key, number] = block
                self._size += len(block) - len(before)
            while self._size > self._limit and self._blocks:
                _, oldest = self._blocks.popitem(last=False)
                self._size -= len(oldest)


class _Through:
    """A project's packs, by way of memory."""

    __slots__ = ("_blocks", "_project", "_store")

    def __init__(self, blocks: PackBlocks, project: str, store: Store) -> None:
        self._blocks = blocks
        self._project = project
        self._store = store

    def read(self, key: str, offset: int, length: int) -> bytes:
        """As the Store's own."""
        return self._blocks.read(self._project, self._store, key, offset, length)

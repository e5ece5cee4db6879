"""Shelf: the parts of an open cache directory and every change of them: keeping, evicting, pinning, dropping, clearing, mending.

Used by the cache: the changes from one thread, which owns the connections; :attr:`Shelf.catalog` and :meth:`Shelf.path` are for asking
and reading, from any. Several processes have the directory open.

Two parts, each a vault: chunks of files, and nodes of directories and chunk lists. Nodes take at most a tenth of the limit and go
only for newer nodes; chunks take the rest, and go for whatever comes. So reading much data never costs the listings.

Invariant *within-limit*: room is made, and counted as taken, in one transaction before an extent is written, and what is evicted is
deleted before its bytes are counted as free. So what is on the disk is within the limit whoever writes, but for the growth of tables
by a few rows. A process that is killed between leaves a row without a file, which is a miss, or one that is not complete, which
:meth:`Shelf.reclaim` removes once its writer's claim is gone.

Sizes count as what they take on the disk: whole blocks of 4 KiB.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from artifactfs.content.cachedir import CATALOG, CHUNK_PART, CLAIMS, NODE_PART, CacheDirectory
from artifactfs.content.catalog import Catalog, Extent, make_key
from artifactfs.content.claims import NUMBER_BITS, Claims
from artifactfs.content.vault import Buffer, Vault, size_of
from artifactfs.errors import ArtifactFSError, Integrity, NoSpace, Unavailable, translate_os
from artifactfs.model.digest import DATA, kind_of_flags
from artifactfs.model.records import ChunkRow

CHUNKS: Final = 0
NODES: Final = 1

DEFAULT_LIMIT: Final = 50_000_000_000
"""Bytes, or a tenth of the disk where that is less."""
DEFAULT_RESERVE: Final = 1 << 30
"""Bytes of the disk that stay free, or its 50th part where that is less."""

NODE_SHARE: Final = 10
"""Nodes take at most this part of the limit: of 50 GB 5, the listings of about 50 million files."""
ANSWER_SHARE: Final = 50
ANSWERS: Final = 64 << 20
"""Bytes of registries' answers at most, and at most the 50th part of the limit. They are few, and of some KB."""

EVICTED_AT_ONCE: Final = 64
REMOVE_SECONDS: Final = 0.25
"""How many extents, and how long, are deleted in one transaction: no other process changes the catalog meanwhile, nor waits for it
longer than a second. One of 8 MiB takes about 1 ms; beside a thread that computes 5 ms."""
ROOM_SECONDS: Final = 2.0
"""How long making room may take, as when the limit became smaller; the next extent goes on with it."""
LOGS: Final = 1 << 20
"""Bytes by which the tables' logs may grow while an extent is kept, and a little more."""
SMALL: Final = 2000
"""Extents up to which a check of everything, at 32 µs each, holds nobody up."""

_BLOCK: Final = 4096
_BOOT: Final = Path("/proc/sys/kernel/random/boot_id")


class Shelf:
    """The parts in a directory.

    ``limit``: bytes that they take at most, all told; ``reserve``: bytes of the disk that stay free; None: the defaults of the disk.
    ``removed`` is told the number of each extent that goes.

    Raises as :class:`CacheDirectory` does. Its calls raise NoSpace, Unavailable, NotFound, Access when the disk or another process
    stands in the way, and Integrity when a table is damaged, so that :meth:`discard` is called for.
    """

    def __init__(self, path: Path, *, limit: int | None, reserve: int | None, removed: Callable[[int], None]) -> None:
        self._removed = removed
        self._path = path
        self._directory = CacheDirectory(path)
        self._vaults = {CHUNKS: Vault(path / CHUNK_PART), NODES: Vault(path / NODE_PART)}
        try:
            try:
                disk = os.statvfs(path)
                total = disk.f_blocks * disk.f_frsize
                self.limit = min(total // 10, DEFAULT_LIMIT) if limit is None else limit
                self.reserve = min(total // 50, DEFAULT_RESERVE) if reserve is None else reserve
                self.claims = Claims(path / CLAIMS)
                self.catalog = self._open_catalog()
            except OSError as error:
                raise translate_os(error, f"cannot use the cache {path}") from error
        except BaseException:
            self._directory.close()
            raise

    def gone(self) -> bool:
        """Whether the directory was deleted, or its parts were replaced by another process. From any thread; 2 µs."""
        return self.catalog.gone()

    def path(self, part: int, extent: int) -> str:
        """The file of an extent. From any thread."""
        return self._vaults[part].path(extent)

    def close(self) -> None:
        """Let everything go. Idempotent."""
        for vault in self._vaults.values():
            vault.close()
        self.catalog.close()
        self.claims.close()
        self._directory.close()

    # -- keeping ---------------------------------------------------------------------------------------------------

    def keep(self, rows: Sequence[ChunkRow], data: Sequence[Buffer], *, pin: bool) -> bool:
        """Keep stored chunks of one part as one extent, without those that are there; whether all of them are there now."""
        part = part_of(kind_of_flags(rows[0].flags))
        with self._directory.shared():
            wanted = {make_key(row.digest, kind_of_flags(row.flags)): at for at, row in enumerate(rows)}
            there = {row[0]: row[1] for row in self.catalog.known(list(wanted))}
            if pin and there:
                with self.catalog.changing():
                    self.catalog.pin(set(there.values()))
            new = {key: at for key, at in wanted.items() if key not in there}
            if not new:
                return True
            parts = [rows[at] for at in new.values()], [data[at] for at in new.values()], list(new)
            try:
                return self._keep_new(part, *parts, pin=pin)
            except NoSpace:
                # A quota, or somebody else was faster. What the cache has can go.
                with self.catalog.changing():
                    self._evict(CHUNKS, sum(row.length for row in parts[0]) + LOGS)
                return self._keep_new(part, *parts, pin=pin)

    def _keep_new(
        self, part: int, rows: Sequence[ChunkRow], data: Sequence[Buffer], keys: Sequence[bytes], *, pin: bool
    ) -> bool:
        extent = Extent(secrets.randbits(NUMBER_BITS), part, _taken(rows), pin, b"".join(keys))
        try:
            self.claims.take(extent.id)
        except OSError as error:
            raise translate_os(error, f"cannot use the cache {self._path}") from error
        try:
            return self._make_room(extent) and self._write(extent, rows, data, keys)
        finally:
            with suppress(OSError):
                self.claims.give(extent.id)

    def _write(self, extent: Extent, rows: Sequence[ChunkRow], data: Sequence[Buffer], keys: Sequence[bytes]) -> bool:
        try:
            self._vaults[extent.part].put(extent.id, data)
            with self.catalog.changing():
                recorded = self.catalog.record(extent.id, rows, keys)
        except ArtifactFSError:
            with suppress(ArtifactFSError):  # a row that stays is reclaimed
                self._withdraw(extent)
            raise
        if not recorded:
            # None: a repair by somebody took the row away. 0: others have kept the same chunks meanwhile.
            self._withdraw(extent)
        return recorded is not None

    def _withdraw(self, extent: Extent) -> None:
        self._vaults[extent.part].remove(extent.id)
        with self.catalog.changing():
            self.catalog.remove(self.catalog.extents([extent.id]))

    def _make_room(self, extent: Extent) -> bool:
        """Count an extent's bytes as taken, evicting what must go; False when it cannot be had."""
        deadline = time.monotonic() + ROOM_SECONDS
        while True:
            with self.catalog.changing():
                part, missing = self._missing(extent)
                if not missing:
                    self.catalog.reserve(extent, time.time())
                    return True
                if part is None:
                    return False
                if not self._evict(part, missing):
                    raise Integrity(f"the cache {self._path} is damaged: it counts bytes that no extent takes")
            if time.monotonic() > deadline:
                return False

    def _missing(self, extent: Extent) -> tuple[int | None, int]:
        """Bytes that must go first, and of which part; None when there is no such part."""
        chunks, nodes = self.catalog.sums(CHUNKS), self.catalog.sums(NODES)
        unfinished = self.catalog.unfinished_bytes()
        if extent.part == NODES:
            over = nodes.taken + extent.taken - self.limit // NODE_SHARE
            if over > 0:
                return NODES if nodes.taken - nodes.pinned - unfinished >= over else None, over
        over = chunks.taken + nodes.taken + self.overhead() + extent.taken - self.limit
        # What others are writing will take its space yet.
        lack = self.reserve + unfinished + extent.taken - self.free()
        missing = max(over, lack, 0)
        evictable = chunks.taken - chunks.pinned - unfinished
        if missing and (over > evictable or evictable <= 0):
            return None, missing
        return CHUNKS, min(missing, evictable) if missing else 0

    def _evict(self, part: int, missing: int) -> int:
        """Delete extents of a part, the least recently used first, inside a transaction; bytes, up to ``missing`` and more."""
        victims: list[Extent] = []
        for extent in self.catalog.oldest(part, EVICTED_AT_ONCE):
            if sum(victim.taken for victim in victims) >= missing:
                break
            victims.append(extent)
        return self._remove(victims)

    def _remove(self, extents: Sequence[Extent]) -> int:
        """Delete extents inside of a transaction, at least one if there is one, and as many as are soon done; their bytes."""
        deadline = time.monotonic() + REMOVE_SECONDS
        removed: list[Extent] = []
        for extent in extents:
            # Files first: on a full disk they make the room for the rows' change.
            vault = self._vaults.get(extent.part)
            if vault is None:
                raise Integrity(f"the cache {self._path} is damaged: it has no part {extent.part}")
            vault.remove(extent.id)
            self._removed(extent.id)
            removed.append(extent)
            if time.monotonic() > deadline:
                break
        self.catalog.remove(removed)
        return sum(extent.taken for extent in removed)

    # -- changes of what is kept -----------------------------------------------------------------------------------

    def drop(self, keys: Sequence[bytes]) -> None:
        """Forget chunks; an extent of which none is left goes."""
        with self._directory.shared(), self.catalog.changing():
            self._remove(self.catalog.drop(self.catalog.known(keys)))  # what takes too long is evicted in time

    def forget(self, extent: int) -> None:
        """Forget an extent whose file is gone or too short."""
        with self._directory.shared(), self.catalog.changing():
            self._remove(self.catalog.extents([extent]))

    def pin(self, keys: Sequence[bytes]) -> None:
        """Keep the extents that hold these chunks from eviction."""
        with self.catalog.changing():
            self.catalog.pin({row[1] for row in self.catalog.known(keys)})

    def record_use(self, used: Iterable[tuple[int, float]], counts: Iterable[tuple[str, int]]) -> None:
        """Record when extents were last used, and add to the counters."""
        with self.catalog.changing():
            self.catalog.touch(list(used))
            self.catalog.add(counts)

    def remember(self, key: str, value: bytes) -> None:
        """Keep an answer of a registry, unless it is large."""
        limit = min(ANSWERS, self.limit // ANSWER_SHARE)
        if len(value) <= limit // 4:
            with self.catalog.changing():
                self.catalog.remember(key, value, now=time.time(), limit=limit)

    def clear_some(self, *, pinned: bool) -> int:
        """Delete some extents, with the pinned ones or without; their bytes, 0 when none is left."""
        with self._directory.shared(), self.catalog.changing():
            return self._remove(self.catalog.all_extents(EVICTED_AT_ONCE, pinned=pinned))

    def clear_rest(self) -> int:
        """Forget the answers, and give the space of the tables back; how many bytes that was."""
        with self._directory.shared():
            before = self.overhead()
            with self.catalog.changing():
                self.catalog.forget_answers()
            self.catalog.shrink()
            for vault in self._vaults.values():
                vault.tidy()
            return max(0, before - self.overhead())

    # -- space -----------------------------------------------------------------------------------------------------

    def overhead(self) -> int:
        """Bytes of all that is no extent."""
        return sum(map(size_of, self.catalog.files())) + sum(vault.overhead() for vault in self._vaults.values())

    def free(self) -> int:
        """Bytes that this user may still write to the disk."""
        try:
            found = os.statvfs(self._path)
        except OSError as error:
            raise translate_os(error, f"cannot use the cache {self._path}") from error
        return found.f_bavail * found.f_frsize

    # -- mending ---------------------------------------------------------------------------------------------------

    def reclaim(self) -> int:
        """Remove what killed processes were writing; how many extents that was."""
        found = 0
        for extent in self.catalog.unfinished():
            try:
                if not self.claims.take(extent.id):
                    continue  # its writer lives
            except OSError:
                break  # nobody can tell
            try:
                with self._directory.shared(), self.catalog.changing():
                    # It may have been finished before the claim was free.
                    if any(other.id == extent.id for other in self.catalog.unfinished()):
                        self._remove([extent])
                        found += 1
            finally:
                with suppress(OSError):
                    self.claims.give(extent.id)
        return found

    def look_after(self) -> None:
        """What is to be done now and then."""
        self.reclaim()
        self.sweep()
        for vault in self._vaults.values():
            vault.tidy()
        self._directory.empty()

    def small(self) -> bool:
        """Whether :meth:`sweep` takes no time to speak of."""
        return sum(part.extents for part in self.catalog.parts().values()) <= SMALL

    def sweep(self) -> None:
        """Bring tables and files into agreement, once in a life of the machine: its crash may have cost either their ends.

        What is killed while the machine goes on needs none of this. Meanwhile no process keeps anything; while one does, it is left to
        the next time.
        """
        boot = _boot()
        if self.catalog.boot() == boot:
            return
        with suppress(Unavailable), self._directory.exclusive():
            if self.catalog.boot() == boot:
                return  # another process did it
            for part, vault in self._vaults.items():
                vault.check()
                files, rows = vault.extents(), self.catalog.numbers(part)
                for number in files - rows:
                    vault.remove(number)
                lost = list(rows - files)
                with self.catalog.changing():
                    for first in range(0, len(lost), EVICTED_AT_ONCE):
                        self.catalog.remove(self.catalog.extents(lost[first : first + EVICTED_AT_ONCE]))
            with self.catalog.changing():
                self.catalog.recount()
                self.catalog.set_boot(boot)

    def discard(self) -> None:
        """Put everything away after a table turned out to be damaged, unless another process did already. Then :meth:`close`."""
        with self._directory.exclusive():
            if not self.gone():
                try:
                    self._directory.discard()
                except OSError as error:
                    raise translate_os(error, f"cannot mend the cache {self._path}") from error

    def _open_catalog(self) -> Catalog:
        path = self._path / CATALOG
        if self._whole():
            with suppress(Integrity), self._directory.shared():
                return Catalog(path)
        with self._directory.exclusive():
            if self._whole():
                with suppress(Integrity):
                    return Catalog(path)
            # Tables and files belong together: what is left without the other is nothing.
            self._directory.discard()
            for vault in self._vaults.values():
                vault.directory.mkdir(mode=0o700)
            catalog = Catalog(path, create=True)
            try:
                with catalog.changing():
                    for part in self._vaults:
                        catalog.add_part(part)
                    catalog.set_boot(_boot())
            except BaseException:
                catalog.close()
                raise
            return catalog

    def _whole(self) -> bool:
        return (self._path / CATALOG).exists() and all(vault.directory.is_dir() for vault in self._vaults.values())


def part_of(kind: int) -> int:
    """The part that chunks of a kind belong to."""
    return CHUNKS if kind == DATA else NODES


def keys_of(digests: Collection[bytes], kinds: Iterable[int]) -> list[bytes]:
    """What chunks of some kinds are called in the catalog."""
    return [make_key(digest, kind) for kind in kinds for digest in digests]


def _taken(rows: Iterable[ChunkRow]) -> int:
    return -(-sum(row.length for row in rows) // _BLOCK) * _BLOCK


def _boot() -> str:
    try:
        return _BOOT.read_text("ascii").strip()
    except OSError:
        return ""

"""The background half of the write path: from hashed chunks to durable, recorded packs.

Used by the writer alone. Two threads: the *packer* asks which chunks are new (one question a batch), compresses them
and appends them to open packs; the *publisher* makes closed packs durable and then records them. A :class:`Pipeline`
itself is used by one thread.

Invariant *durable-before-recorded*: a chunk's row is added only after its pack and the pack's table of contents were
published. So a crash at any moment leaves at most packs that no row names, which ``gc`` finds.

Invariant *expected-before-published*: the Registry is told of a pack before it is published, so that no collection deletes an object
of the same name meanwhile.

Invariant *first-error-stays*: the first error of either thread stops all work, removes what was begun, and is raised
by every later call.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from typing import TYPE_CHECKING, Final

import msgspec

from artifactfs.content.pack import PackUpload, seal
from artifactfs.model.digest import DATA
from artifactfs.model.records import KIND_SHIFT

if TYPE_CHECKING:
    from collections.abc import Callable

    from artifactfs.content.store import Store
    from artifactfs.registry.contract import Registry


class BatchLimits(msgspec.Struct, frozen=True):
    """A batch is handed over at so many chunks or ``size`` bytes; ``waiting`` are between caller and packer at most.

    Besides these one is packed, one is being handed over and one filled, each up to a chunk of 4 MiB larger.
    """

    chunks: int
    size: int
    waiting: int


LOCAL_BATCH: Final = BatchLimits(512, 8 << 20, 3)
"""One question to the registry for all chunks of a batch costs 2.5 µs a chunk; one question each costs 20 µs and more.
With the three others six buffers of 12 MiB at most."""
REMOTE_BATCH: Final = BatchLimits(4096, 16 << 20, 1)
"""Over a network a question costs a round trip, 20 ms and more: 400 MB of small files are 25 questions. Four buffers of 20 MiB
at most."""
WAITING_PACKS: Final = 2
"""Packs between packer and publisher: they lie in the Store already, but each is 64 MiB that a disk or a network may still
have to take."""


class Item(msgspec.Struct, frozen=True, gc=False):
    """A hashed chunk on its way. ``file`` numbers a file that may get a pack of its own; for others it is 0."""

    digest: bytes
    data: bytes | bytearray | memoryview
    kind: int
    file: int


class Batch(msgspec.Struct, frozen=True):
    """Chunks that are packed together, and the buffer that is free for reuse once they are."""

    items: list[Item]
    buffer: bytearray | None


class _Flush:
    """Passes through both threads behind everything handed over before it."""

    def __init__(self, *, stop: bool) -> None:
        self.stop = stop
        self.done = threading.Event()


class Pipeline:
    """Takes batches, gives back durable and recorded packs. Counters are exact after :meth:`flush`."""

    def __init__(
        self, store: Store, registry: Registry, session: int | None, admit: Callable[[int], None] | None = None
    ) -> None:
        self._admit = admit
        self._store = store
        self._registry = registry
        self._session = session
        self.limits = LOCAL_BATCH if store.local else REMOTE_BATCH
        self.error: BaseException | None = None
        self.bytes_stored = 0  # in packs, after compression
        self.chunks_new = 0
        self.chunks_known = 0
        self.buffers: list[bytearray] = []  # free for reuse
        self._batches: queue.Queue[Batch | _Flush] = queue.Queue(self.limits.waiting)
        self._packs: queue.Queue[PackUpload | _Flush] = queue.Queue(WAITING_PACKS)
        self._discarding = threading.Event()
        # Chunks that are in a pack but not recorded yet. The packer adds and asks, the publisher removes; single set
        # operations on bytes are atomic. The packer looks here before it asks the registry: between the two a chunk
        # may only become known.
        self._pending: set[bytes] = set()
        self._open = _OpenPacks(self._store, registry, self._packs)
        self._threads = [
            threading.Thread(target=self._run_packer, name="content-packer", daemon=True),
            threading.Thread(target=self._run_publisher, name="content-publisher", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def check(self) -> None:
        """Raise the error that stopped the work, if one did."""
        if self.error is not None:
            raise self.error

    def put(self, batch: Batch) -> None:
        """Hand a batch over; waits while too many are under way."""
        self.check()
        self._batches.put(batch)

    def flush(self) -> None:
        """Wait until everything handed over is durable and recorded."""
        self._pass(stop=False)
        self.check()

    def stop(self, *, discard: bool) -> None:
        """End both threads. ``discard`` forgets what is not published; otherwise everything is flushed first."""
        if discard:
            self._discarding.set()
        if self._threads:
            self._pass(stop=True)
            for thread in self._threads:
                thread.join()
            self._threads.clear()

    def _pass(self, *, stop: bool) -> None:
        flush = _Flush(stop=stop)
        self._batches.put(flush)
        flush.done.wait()

    # -- threads ---------------------------------------------------------------------------------------------------

    def _run_packer(self) -> None:
        while True:
            work = self._batches.get()
            try:
                # After an error work is only taken from the queue, so that the caller is never left waiting.
                if self.error is not None or self._discarding.is_set():
                    self._open.abort()
                elif isinstance(work, Batch):
                    self._pack(work)
                else:
                    self._open.close()
            except BaseException as error:  # whatever it is, the caller must hear of it
                self._fail(error)
                self._open.abort()
            if isinstance(work, Batch):
                if work.buffer is not None:
                    self.buffers.append(work.buffer)
            else:
                self._packs.put(work)
                if work.stop:
                    return
            del work  # its chunks would stay in memory until the next batch

    def _run_publisher(self) -> None:
        while True:
            work = self._packs.get()
            if isinstance(work, _Flush):
                work.done.set()
                if work.stop:
                    return
                continue
            try:
                if self.error is not None or self._discarding.is_set():
                    work.abort()
                else:
                    pack = work.publish(self._registry.expect_pack)
                    self._registry.add_packs([pack], session=self._session)
                    self._pending.difference_update([row.digest for row in pack.chunks])
            except BaseException as error:  # whatever it is, the caller must hear of it
                self._fail(error)
                work.abort()

    def _fail(self, error: BaseException) -> None:
        if self.error is None:
            self.error = error

    def _pack(self, batch: Batch) -> None:
        pending = self._pending
        asked = {item.digest for item in batch.items} - pending
        missing = self._registry.missing(asked) if asked else set()
        for item in batch.items:
            if item.digest in missing:
                missing.remove(item.digest)
                pending.add(item.digest)
                self.bytes_stored += self._open.append(item)
                self.chunks_new += 1
                if self._admit is not None:
                    self._admit(self.bytes_stored)
            else:
                self._open.known(item)
                self.chunks_known += 1


class _OpenPacks:
    """The packs being filled: one of data, one of nodes, and the own pack of a file that is larger than a pack.

    On a local disk such a file is read by ranges and handed to the kernel whole, if it lies in one piece. That needs
    every chunk of it stored here, raw, in order. Whether it comes so is only known at its end, so its chunks go to a
    pack of its own until the first one that is known or gains from compression; from there on the file is like any
    other, and the shorter of the two packs stays open. Sealed chunks no kernel can read, so that an encrypted project has none.
    """

    def __init__(self, store: Store, registry: Registry, closed: queue.Queue[PackUpload | _Flush]) -> None:
        self._store = store
        self._registry = registry
        self._sealed: bool | None = None  # not asked for before something is stored
        self._closed = closed
        self._data: PackUpload | None = None
        self._nodes: PackUpload | None = None
        self._own: PackUpload | None = None
        self._own_file = 0  # the file that _own belongs to
        self._mixed_file = 0  # the last file that lost the right to an own pack

    def append(self, item: Item) -> int:
        """Store a chunk; returns the bytes it takes."""
        stored, flags = seal(item.data)
        raw = flags == 0 and not self._seals()
        flags |= item.kind << KIND_SHIFT
        size = len(item.data)
        if item.kind != DATA:
            if self._nodes is None:
                self._nodes = self._begin()
            taken = self._nodes.append(item.digest, size, stored, flags)
            self._nodes = self._close_full(self._nodes)
        elif raw and item.file and item.file != self._mixed_file:
            if item.file != self._own_file:
                self._close_own()
                self._own_file = item.file
            if self._own is None:
                self._own = self._begin()
            taken = self._own.append(item.digest, size, stored, flags)
        else:
            self.known(item)
            if self._data is None:
                self._data = self._begin()
            taken = self._data.append(item.digest, size, stored, flags)
            self._data = self._close_full(self._data)
        return taken

    def known(self, item: Item) -> None:
        """A chunk that is not stored in an own pack: its file, if it had one, goes on without."""
        if item.kind != DATA:
            return
        if item.file != self._own_file:
            self._close_own()
        if item.file:
            self._mixed_file = item.file
            if self._own is not None:
                own, self._own = self._own, None
                if self._data is not None:
                    if self._data.size < own.size:
                        own, self._data = self._data, own
                    self._closed.put(self._data)
                self._data = own

    def close(self) -> None:
        """Close all packs."""
        self._close_own()
        for pack in (self._data, self._nodes):
            if pack is not None:
                self._closed.put(pack)
        self._data = self._nodes = None

    def abort(self) -> None:
        """Forget all packs that are not closed."""
        for pack in (self._own, self._data, self._nodes):
            if pack is not None:
                # The error that is told is the first one; what cannot be removed now goes when the store is opened
                # next.
                with contextlib.suppress(Exception):
                    pack.abort()
        self._own = self._data = self._nodes = None

    def _begin(self) -> PackUpload:
        return PackUpload(self._store, sealed=self._seals())

    def _seals(self) -> bool:
        if self._sealed is None:
            self._sealed = self._registry.key_id() != ""
        return self._sealed

    def _close_own(self) -> None:
        if self._own is not None:
            self._closed.put(self._own)
        self._own = None
        self._own_file = 0

    def _close_full(self, pack: PackUpload) -> PackUpload | None:
        if not pack.full:
            return pack
        self._closed.put(pack)
        return None

"""Collecting garbage: what no living version needs is condemned, found dead once more, and deleted; mostly dead packs are repacked.

Used by ``collect.py`` and by the server. One thread collects, another one renews its lease and session. It runs beside everything
else: see "Garbage" in ``docs/concurrency.md`` for the invariants and why they suffice.

A collection that is killed leaves nothing wrong: condemned packs, which the next one judges anew; packs that were given up, whose
objects and rows the next one removes; or packs of a repacking that nobody names, which are garbage themselves.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import socket
import threading
import time
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Final, Self

from artifactfs.content.pack import PackUpload, bare, index_key, pack_key, rebuild_rows
from artifactfs.content.reader import ContentReader
from artifactfs.content.store import Store
from artifactfs.content.stored import StoredSource, opened
from artifactfs.errors import ArtifactFSError, Conflict, Integrity, InvalidInput, NoSpace, NotFound
from artifactfs.marking import Marked, mark
from artifactfs.model.collecting import Collected, Waiting
from artifactfs.model.digest import DATA, kind_of_flags
from artifactfs.registry.checks import LARGEST
from artifactfs.registry.collection import (
    PACK_ALIVE,
    PACK_CONDEMNED,
    PACK_DELETING,
    Lease,
    Pack,
    Roots,
)
from artifactfs.registry.sessions import COLLECTING
from artifactfs.registry.sql import SQLRegistry

SESSION_SECONDS: Final = 600.0
"""How long the sessions of a collection that was killed live."""
BEAT_SECONDS: Final = 2.0
"""How often the holder of the lease says that it lives."""
LEASE_SECONDS: Final = 60.0
"""Silence after which the lease may be taken over: watched by who wants it, so that no clock matters."""
STALE_SECONDS: Final = 15.0
"""Time since the last beat after which nothing is deleted before another one: what is left is longer than a Store's request takes."""
REPACK_BELOW: Final = 0.5
"""The part of a pack that is alive below which its living chunks move to another pack."""
GIVEN_AT_ONCE: Final = 5_000
"""Packs given up in one transaction: who stores the same pack again waits until they are deleted."""
LOOK_SECONDS: Final = 0.5
"""How often is looked whether those waited for have ended."""

_OBJECT: Final = re.compile(r"packs/[0-9a-f]{2}/([0-9a-f]{64})\.(?:pack|idx)")

Show = Callable[[str], None]
"""Gets what is being done, in words."""


def collect_project(
    registry: SQLRegistry,
    store: Store,
    *,
    dry_run: bool = False,
    wait: float = 0.0,
    directory: Path | None = None,
    progress: Show | None = None,
    lease_seconds: float = LEASE_SECONDS,
) -> Collected:
    """Collect the garbage of a project, or say what would be done. Registry and Store stay open.

    ``wait``: seconds to wait for sessions that began before something was condemned.
    ``directory``: for what does not fit into memory. ``lease_seconds``: silence of another collection that ends its lease.

    Raises InvalidInput (the packs here are another registry's), Conflict (somebody else collects: says who), Integrity (a version
    cannot be read: nothing is deleted), NoSpace, Unavailable; and what ``progress`` raises.
    """
    if other := registry.other_registry():
        raise InvalidInput(
            f"the packs beside {registry} are those of {other}, which a server serves; ask that: artifactfs --repository URL gc"
        )
    collector = _Collector(registry, store, directory, progress or _silent)
    try:
        if dry_run:
            return collector.foresee()
        with _Holding(registry, lease_seconds) as holding:
            return collector.run(holding, wait)
    finally:
        collector.close()


def _silent(_: str) -> None:
    pass


class _Holding:
    """The lease, and a session, kept up by a thread."""

    def __init__(self, registry: SQLRegistry, seconds: float) -> None:
        self._registry = registry
        self._table = registry.collection
        self._seconds = seconds
        self._sessions: list[int] = []
        self._stop = threading.Event()
        self._beaten = 0.0
        self.token = _token()

    def __enter__(self) -> Self:
        self._take()
        self._beaten = _uptime()
        self._thread = threading.Thread(target=self._beat, name="collection-beat", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        with contextlib.suppress(ArtifactFSError):  # both end by themselves
            for session in self._sessions:
                self._registry.close_session(session)
            self._table.release(self.token)

    def open_session(self) -> int:
        """A session of the collection's own."""
        session = self._registry.open_session(COLLECTING, seconds=SESSION_SECONDS)
        self._sessions.append(session)
        return session

    def require(self) -> None:
        """Return while the lease is surely ours. Conflict when another has taken it."""
        if _uptime() - self._beaten > STALE_SECONDS:
            now = _uptime()
            self._table.beat(self.token)
            self._beaten = now

    def _take(self) -> None:
        holder = f"process {os.getpid()} on {socket.gethostname()}"[:255]
        seen = self._table.lease()
        while seen.token and not _has_ended(seen.token):
            self._watch(seen)
            now = self._table.lease()
            if now == seen:
                break
            seen = now
        if not self._table.take(self.token, holder, after=seen):
            raise _held(self._table.lease())

    def _watch(self, seen: Lease) -> None:
        """Return when the holder was silent for so long; Conflict at its first sign of life."""
        end = time.monotonic() + self._seconds
        while (left := end - time.monotonic()) > 0:
            time.sleep(min(LOOK_SECONDS, left))
            now = self._table.lease()
            if now.token != seen.token:
                if now.token:
                    raise _held(now)
                return
            if now.beat != seen.beat:
                raise _held(now)

    def _beat(self) -> None:
        while not self._stop.wait(BEAT_SECONDS):
            try:
                now = _uptime()
                self._table.beat(self.token)
                self._beaten = now
                for session in self._sessions[-1:]:
                    self._registry.renew_session(session, seconds=SESSION_SECONDS)
            except Conflict:
                return  # whoever deletes next is told
            except ArtifactFSError:
                continue  # the registry is busy: `require` asks itself


def _held(lease: Lease) -> Conflict:
    return Conflict(
        f"garbage is being collected already, by {lease.holder or 'another process'}; wait until that has ended"
    )


class _Collector:
    def __init__(self, registry: SQLRegistry, store: Store, directory: Path | None, show: Show) -> None:
        self._registry = registry
        self._table = registry.collection
        self._store = store
        self._source = StoredSource(store, registry)
        self._directory = directory
        self._show = show
        self._report = Collected()
        self._token = ""  # of the lease; a dry run has none
        self._objects: dict[str, int] = {}  # bytes of a pack and its table of contents, by the pack's digest

    def close(self) -> None:
        """Release what a marking holds."""
        self._source.close()

    # -- the whole -------------------------------------------------------------------------------------------------

    def run(self, holding: _Holding, wait: float) -> Collected:
        """Both markings, as far as sessions allow."""
        self._holding = holding
        self._token = token = holding.token
        self._show("listing the store")
        self._table.end_expired(token)
        self._list()
        self._table.adopt(token, self._orphans())
        self._table.set_barrier(token)
        roots = self._roots()
        packs = self._table.packs()
        left = [pack for pack in packs if pack.state == PACK_DELETING]
        self._delete_objects(left)  # of a collection that was killed
        marked = self._mark(roots, packs)
        try:
            self._finish(left, marked)
            self._judge(roots, packs, marked, emptied=set())
            emptied = self._repack(packs, marked)
            dead = [pack.id for pack in packs if _is_dead(pack, marked)]
            self._table.condemn(token, [*dead, *emptied])
            self._table.set_barrier(token)
            self._second(roots, marked, emptied, wait)
            self._count(marked)
        finally:
            marked.close()
        return self._report

    def _second(self, before: Roots, marked: Marked, emptied: set[int], wait: float) -> None:
        """Judge what is condemned now, once those who might rely on it have ended."""
        condemned = self._condemned()
        if not condemned:
            return
        barrier = max(pack.barrier or 0 for pack in condemned)
        self._wait(barrier, wait)
        roots = self._roots()
        condemned = self._condemned()
        if any(pack.barrier is not None and pack.barrier < roots.bound for pack in condemned):
            # What is alive now was marked: nothing that was dead can have come to life.
            if before.covers(roots):
                self._judge(roots, condemned, marked, emptied=emptied)
            else:
                again = self._mark(roots, self._table.packs())
                try:
                    self._judge(roots, condemned, again, emptied=set())
                finally:
                    again.close()
        self._tell_waiting()

    def _wait(self, barrier: int, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0 and (writers := self._table.writers(barrier)):
            self._show(f"waiting for {len(writers)} sessions")
            time.sleep(min(LOOK_SECONDS, left))

    def _tell_waiting(self) -> None:
        left = self._condemned()
        self._report.condemned_packs = len(left)
        self._report.condemned = sum(map(self._size, left))
        if left:
            self._report.waiting_for = self._waiting(max(pack.barrier or 0 for pack in left))

    def foresee(self) -> Collected:
        """What :meth:`run` would do now, by one marking. Changes nothing."""
        report = self._report
        report.dry_run = True
        self._show("listing the store")
        self._list()
        roots = self._table.roots(None)
        packs = self._table.packs()
        marked = self._mark(roots, packs)
        try:
            dead = [pack for pack in packs if pack.state == PACK_CONDEMNED and pack.id not in marked.held]
            gone = [pack for pack in dead if pack.barrier is not None and pack.barrier < roots.bound]
            gone += [pack for pack in packs if pack.state == PACK_DELETING]
            later = [pack for pack in dead if pack not in gone] + [pack for pack in packs if _is_dead(pack, marked)]
            sparse = [pack for pack in packs if _is_sparse(pack, marked)]
            known = {pack.digest for pack in packs}
            orphans = sum(size for digest, size in self._objects.items() if digest not in known)
            count = len(self._objects.keys() - known)
            waiting = self._waiting(LARGEST)
            table = 104 if self._registry.key_id() else 88  # bytes of one without its entries
            report.written = sum(
                table + marked.held[pack.id].size + 52 * marked.held[pack.id].chunks for pack in sparse
            )
            report.repacked_packs = len(sparse)
            later += sparse
            if waiting:
                report.condemned_packs = len(later) + count
                report.condemned = sum(map(self._size, later)) + orphans
                report.waiting_for = waiting
            else:
                gone += later
                report.deleted_packs, report.deleted = count, orphans
            report.deleted_packs += len(gone)
            report.deleted += sum(map(self._size, gone))
            self._count(marked)
        finally:
            marked.close()
        return report

    # -- looking ---------------------------------------------------------------------------------------------------

    def _list(self) -> None:
        """What lies in the Store. An object store may list late: what it leaves out is not taken to be absent."""
        for key, size in self._store.list("packs/"):
            found = _OBJECT.fullmatch(key)
            if found is not None:
                self._objects[found[1]] = self._objects.get(found[1], 0) + size

    def _orphans(self) -> list[tuple[str, int]]:
        """Packs in the Store without a row. Asked after the listing, so that one recorded meanwhile is none."""
        known = {pack.digest for pack in self._table.packs()}
        return [(digest, size) for digest, size in self._objects.items() if digest not in known]

    def _roots(self) -> Roots:
        self._table.end_expired(self._holding.token)
        return self._table.roots(self._holding.open_session())

    def _mark(self, roots: Roots, packs: Sequence[Pack]) -> Marked:
        self._report.versions = roots.versions
        lost = {pack.id for pack in packs if pack.state == PACK_DELETING}
        try:
            return mark(
                ContentReader(self._source),
                roots.roots,
                self._table.chunks(),
                lost,
                directory=self._directory,
                progress=lambda nodes: None if nodes % 1000 else self._show(f"marking: {nodes} nodes"),
            )
        except Integrity:
            self._require_undisturbed(roots)
            raise

    def _require_undisturbed(self, roots: Roots) -> None:
        """Conflict when what cannot be read may be what somebody else has collected since the roots were read, and no damage.

        That is after a collection was stopped for so long that another one took its lease, and in a dry run, which has none.
        """
        if self._token:
            self._table.beat(self._token)
        elif not self._table.roots(None).covers(roots):
            raise Conflict("versions were deleted and collected while their contents were looked at; repeat this")

    def _condemned(self) -> list[Pack]:
        return [pack for pack in self._table.packs() if pack.state == PACK_CONDEMNED]

    def _waiting(self, barrier: int) -> list[Waiting]:
        return [Waiting(writer.id, writer.kind, writer.expires / 1e9) for writer in self._table.writers(barrier)]

    def _size(self, pack: Pack) -> int:
        """Bytes of its objects; none of one that was only said to come."""
        return self._objects.get(pack.digest, 0)

    def _count(self, marked: Marked) -> None:
        report = self._report
        report.chunks = len(marked.living)
        alive = [pack for pack in self._table.packs() if pack.state == PACK_ALIVE]
        report.packs = len(alive)
        report.size = sum(self._objects.get(pack.digest, pack.size) for pack in alive)

    # -- deleting --------------------------------------------------------------------------------------------------

    def _judge(self, roots: Roots, packs: Sequence[Pack], marked: Marked, *, emptied: set[int]) -> None:
        """Acquit condemned packs that a marking found alive, and delete the dead ones that nobody can rely on."""
        condemned = [pack for pack in packs if pack.state == PACK_CONDEMNED]
        dead = [pack for pack in condemned if pack.id in emptied or pack.id not in marked.held]
        spared = {pack.id for pack in condemned} - {pack.id for pack in dead}
        if spared:
            self._table.acquit(self._holding.token, spared)
        for start in range(0, len(dead), GIVEN_AT_ONCE):
            given = self._table.give_up(self._holding.token, dead[start : start + GIVEN_AT_ONCE], roots)
            self._delete_objects(given)
            self._finish(given, marked)

    def _delete_objects(self, packs: Sequence[Pack]) -> None:
        for number, pack in enumerate(packs):
            self._holding.require()
            if number % 100 == 0:
                self._show(f"deleting: {number} of {len(packs)} packs")
            self._store.delete(pack_key(pack.digest))
            self._store.delete(index_key(pack.digest))
            self._report.deleted_packs += 1
            self._report.deleted += self._size(pack)

    def _finish(self, packs: Sequence[Pack], marked: Marked) -> None:
        if packs:
            numbers = [pack.id for pack in packs]
            self._table.remove_rows(self._holding.token, marked.dead(numbers))
            self._table.finish(self._holding.token, numbers)

    # -- repacking -------------------------------------------------------------------------------------------------

    def _repack(self, packs: Sequence[Pack], marked: Marked) -> set[int]:
        """Move what is alive in mostly dead packs to new ones; returns the packs that hold nothing alive any more."""
        sparse = [pack for pack in packs if _is_sparse(pack, marked)]
        if not sparse:
            return set()
        mover = _Mover(self._registry, self._store, self._holding)
        try:
            for number, pack in enumerate(sparse):
                self._show(f"repacking: {number} of {len(sparse)} packs")
                try:
                    mover.take(pack, marked)
                except (Integrity, NotFound) as error:
                    self._report.notes.append(f"pack {pack.digest} stays as it is: {error}")
            mover.end()
        except NoSpace as error:
            self._report.notes.append(f"repacking stopped, as there is no space for it: {error}")
        finally:
            mover.abort()
            self._report.written += sum(mover.written.values())
            self._objects |= mover.written
        self._report.repacked_packs += len(mover.emptied)
        return mover.emptied


class _Mover:
    """Copies living chunks as they are stored, each verified, into new packs: one open for data, one for nodes.

    A sealed one is unsealed, as a seal is of one place in one pack, and sealed again with the key of the new pack.
    """

    def __init__(self, registry: SQLRegistry, store: Store, holding: _Holding) -> None:
        self._registry = registry
        self._store = store
        self._holding = holding
        self._session = holding.open_session()
        self._open: dict[bool, PackUpload] = {}
        self._sources: dict[bool, dict[bytes, int]] = {False: {}, True: {}}  # of the chunks in the open packs
        self._under_way: dict[int, int] = {}  # chunks of a source that lie in open packs
        self._taken: set[int] = set()
        self.written: dict[str, int] = {}
        """Bytes of new packs with their tables of contents, by digest."""

    @property
    def emptied(self) -> set[int]:
        """Packs of which everything alive is found elsewhere now."""
        return {number for number in self._taken if not self._under_way.get(number)}

    def take(self, pack: Pack, marked: Marked) -> None:
        """Copy what is alive in a pack. Integrity, NotFound when it cannot all be read: then it stays."""
        key = self._registry.data_key(pack.digest)
        table = rebuild_rows(self._store, pack.digest, key)
        rows = [row for row in table.chunks if row.digest in marked.living]
        places = self._registry.locate([row.digest for row in rows])
        for row in rows:
            place = places.get(row.digest)
            if place is None or (place.pack, place.offset) != (pack.digest, row.offset):
                continue  # it is found elsewhere
            kind = kind_of_flags(place.flags)
            stored = self._store.read(pack_key(pack.digest), place.offset, place.length)
            opened(stored, place, row.digest, kind)
            shown, place = bare(stored, place, row.digest)
            which = kind != DATA
            upload = self._open.get(which)
            if upload is None:
                upload = self._open[which] = PackUpload(self._store, sealed=bool(key))
            upload.append(row.digest, place.size, shown, place.flags)
            self._sources[which][row.digest] = pack.id
            self._under_way[pack.id] = self._under_way.get(pack.id, 0) + 1
            if upload.full:
                self._close(which)
        self._taken.add(pack.id)

    def end(self) -> None:
        """Have all that was taken found in its new packs."""
        for which in list(self._open):
            self._close(which)

    def abort(self) -> None:
        """Forget packs that are open."""
        for upload in self._open.values():
            upload.abort()
        self._open.clear()

    def _close(self, which: bool) -> None:
        self._holding.require()
        row = self._open[which].publish(self._registry.expect_pack)
        del self._open[which]
        sources, self._sources[which] = self._sources[which], {}
        self._registry.collection.move(self._holding.token, row, sources, session=self._session)
        self.written[row.digest] = row.size + self._store.size(index_key(row.digest))
        for number in sources.values():
            self._under_way[number] -= 1


def _is_dead(pack: Pack, marked: Marked) -> bool:
    """Whether a pack that counts as alive is to be condemned."""
    return pack.state == PACK_ALIVE and not pack.fresh and pack.id not in marked.held


def _is_sparse(pack: Pack, marked: Marked) -> bool:
    """Whether a pack is worth to be repacked."""
    held = marked.held.get(pack.id)
    return pack.state == PACK_ALIVE and not pack.fresh and held is not None and held.size < REPACK_BELOW * pack.size


# -- who holds the lease -----------------------------------------------------------------------------------------------


def _uptime() -> float:
    """Seconds that no clock's change touches and no suspension of the machine stops."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _token() -> str:
    return f"{_machine()}-{os.getpid()}-{_started(os.getpid())}-{secrets.token_hex(8)}"


def _has_ended(token: str) -> bool:
    """Whether the process that made a token was of this machine and is no more. False when nobody can tell."""
    machine, *rest = token.split("-")
    if machine != _machine() or len(rest) != 3 or not rest[0].isdigit():
        return False
    return _started(int(rest[0])) != rest[1]


def _machine() -> str:
    """What no other machine, boot or container has."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
    return sha256(f"{boot}{Path('/proc/self/ns/pid').readlink()}".encode()).hexdigest()[:12]


def _started(process: int) -> str:
    """When a process began, in ticks since the boot; "" when there is none."""
    try:
        status = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    state, *fields = status.rpartition(")")[2].split()
    return "" if state in {"Z", "X"} else fields[18]

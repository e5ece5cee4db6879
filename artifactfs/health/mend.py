"""Mending: a damaged pack gives up what is sound in it, and lost chunks are looked for in the packs that are left.

Used by repair, under a Session: what is written or found is recorded while no collection may delete it. One thread.

A pack that lost bytes is not written to. What is sound in it goes to a new pack; one transaction has these chunks there, and forgets
the lost ones, so that they may be stored anew; then the old pack is set aside, below ``quarantine/`` in the Store. Killed

- before the transaction: the index is as it was, and the new pack is one that nothing names;
- before it is set aside: the old pack is one that nothing names, and :func:`set_aside_wrong` finds it by its bytes.

A pack of which nothing is left is set aside before the transaction: who stores the same bytes meanwhile makes the same pack, which
must not be taken for one that is there already. Killed in between it is a missing one.

A reader that has the old place in mind asks once more where the chunk is when it meets the damage.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Final

import msgspec
from blake3 import blake3

from artifactfs.content.local import LocalStore
from artifactfs.content.pack import PackUpload, bare, encode_index, index_key, pack_key, read_table
from artifactfs.content.store import Store
from artifactfs.content.stored import opened
from artifactfs.errors import Access, Format, Integrity, NotFound
from artifactfs.health import faults
from artifactfs.health.examine import ASKED, READ, Examined, check_places, examine, runs, whole_row
from artifactfs.health.pace import Pace
from artifactfs.model.digest import kind_of_flags
from artifactfs.model.records import ChunkRow, Location, PackRow
from artifactfs.registry.contract import PackIndex

QUARANTINE: Final = "quarantine/"
"""Before the keys of packs that were set aside."""
TABLES_AHEAD: Final = 8
"""Tables of contents that are asked for at a time over a network; some of 2.6 MB, most far less."""


class Mended(msgspec.Struct, frozen=True):
    """What was done about a pack, in words, and how many of its chunks were kept and lost."""

    pack: str
    done: str
    kept: int = 0
    lost: int = 0


def mend_pack(store: Store, index: PackIndex, pack: str, size: int, pace: Pace) -> Mended | None:
    """Mend a pack of ``size`` bytes, as the registry has it, as far as what is left of it allows. None when nothing is wrong."""
    found = examine(store, index, pack, size, content=True, pace=pace, keep_rows=True)
    kinds = {fault.kind for fault in found.faults} - {faults.UNRECORDED}
    if not kinds:
        return None
    if kinds <= {faults.ROW, faults.TABLE}:
        whole = whole_row(pack, size, index.data_key(pack), found.rows)
        if whole is not None:
            return _mend_index(store, index, found, whole, kinds)
    return _replace(store, index, found)


def _mend_index(store: Store, index: PackIndex, found: Examined, whole: PackRow, kinds: set[str]) -> Mended:
    """Nothing was lost: the table of contents and the rows of the index are made anew from one another."""
    done = []
    if faults.TABLE in kinds:
        # A key that exists is left as it is, so it goes first. Killed in between it is missing, and made when this is repeated.
        store.delete(index_key(whole.digest))
        upload = store.upload()
        try:
            upload.write(encode_index(whole))
            upload.publish(index_key(whole.digest))
        except BaseException:
            upload.abort()
            raise
        done.append("its table of contents was written anew")
    wrong = {fault.chunk for fault in found.faults if fault.kind == faults.ROW}
    if wrong:
        rows = tuple(row for row in whole.chunks if row.digest in wrong)
        index.settle_packs([msgspec.structs.replace(whole, chunks=rows)])
        done.append(
            f"{len(rows)} {'place' if len(rows) == 1 else 'places'} in the index {'was' if len(rows) == 1 else 'were'} corrected"
        )
    return Mended(whole.digest, " and ".join(done), len(whole.chunks))


def _replace(store: Store, index: PackIndex, found: Examined) -> Mended:
    pack = found.pack
    good = [row for row in found.rows if row.digest not in found.bad]
    key = index.data_key(pack)
    upload = PackUpload(store, sealed=bool(key)) if good else None
    try:
        if upload is None:
            set_aside(store, pack)
            index.settle_packs([], lost=found.bad, without=[pack])
        else:
            _copy_chunks(store, [(row.digest, _place(pack, row, key)) for row in good], upload)
            if upload.digest == pack:
                # Nothing was lost, and the same bytes have the same key.
                _make_way(store, pack)
                index.settle_packs([upload.publish(index.expect_pack)])
            else:
                index.settle_packs([upload.publish(index.expect_pack)], lost=found.bad, without=[pack])
                set_aside(store, pack)
    except BaseException:
        if upload is not None:
            upload.abort()
        raise
    words = "sound chunk was" if len(good) == 1 else "sound chunks were"
    done = f"its {len(good)} {words} written anew" if good else "nothing of it is left"
    if not any(fault.kind == faults.MISSING for fault in found.faults):
        done += f", and it was set aside as {QUARANTINE}{pack_key(pack)}"
    return Mended(pack, done, len(good), len(found.bad))


def _copy_chunks(store: Store, places: Sequence[tuple[bytes, Location]], upload: PackUpload) -> None:
    """Append chunks of one pack, given in order of offset, to another. Neighbours are read at once."""
    for run in runs(places):
        first, last = run[0][1], run[-1][1]
        data = store.read(pack_key(first.pack), first.offset, last.offset + last.length - first.offset)
        for name, place in run:
            begin = place.offset - first.offset
            stored = data[begin : begin + place.length]
            opened(stored, place, name, kind_of_flags(place.flags))  # as it is written it is right
            # A seal is of one place in one pack.
            shown, bare_place = bare(stored, place, name)
            upload.append(name, place.size, shown, bare_place.flags)


def _make_way(store: Store, pack: str) -> None:
    """Have a pack that is longer than it should be replaced by the next publication under its name, with a copy set aside.

    A bucket replaces the object at once, so that who reads it never finds it gone; on a disk it is away for a moment.
    """
    if isinstance(store, LocalStore):
        set_aside(store, pack)
        return
    with suppress(NotFound):
        _copy(store, pack_key(pack), QUARANTINE + pack_key(pack))
    store.delete(index_key(pack))  # which readers do not ask for


def _place(pack: str, row: ChunkRow, key: bytes) -> Location:
    return Location(pack, row.offset, row.length, row.size, row.flags, key)


def set_aside(store: Store, pack: str) -> None:
    """Move a pack and its table out of the way. Idempotent; what is not there is no error."""
    for key in (index_key(pack), pack_key(pack)):
        with suppress(NotFound):
            if isinstance(store, LocalStore):
                store.move(key, QUARANTINE + key)
            else:
                _copy(store, key, QUARANTINE + key)
                store.delete(key)


def _copy(store: Store, key: str, to: str) -> None:
    size = store.size(key)
    upload = store.upload()
    try:
        for begin in range(0, size, READ):
            upload.write(store.read(key, begin, min(READ, size - begin)))
        upload.publish(to)
    except BaseException:
        upload.abort()
        raise


def set_aside_wrong(store: Store, index: PackIndex, pace: Pace) -> list[str]:
    """Set aside packs that no row names and whose bytes are not those that their names say, so that they can be stored again.

    A pack that somebody just uploaded has the right ones.
    """
    known = {digest for digest, _ in index.packs()}
    aside = []
    for key, _ in list(store.list("packs/")):
        pack = key.rpartition("/")[2].removesuffix(".pack")
        if not key.endswith(".pack") or pack in known or key != pack_key(pack):
            continue
        with suppress(NotFound):
            if not _has_its_bytes(store, pack, pace):
                set_aside(store, pack)
                aside.append(pack)
    return aside


def adopt(store: Store, index: PackIndex, wanted: Mapping[bytes, int], pace: Pace) -> set[bytes]:
    """Have the index name chunks that it lacks where a pack still has them, by any table in the Store. Returns those found.

    ``wanted``: each with its kind. Reads every table, and of the packs these chunks alone.
    """
    found: set[bytes] = set()
    for table in _tables(store, index):
        rows = [
            row
            for row in table.chunks
            if row.digest not in found and wanted.get(row.digest) == kind_of_flags(row.flags)
        ]
        found.update(row.digest for row in _record(store, index, table, rows, pace))
        if len(found) == len(wanted):
            break
    return found


def adopt_all(store: Store, index: PackIndex, pace: Pace, *, sound: Collection[str] = ()) -> int:
    """Have the index name every chunk that it lacks and that a pack has, by all tables in the Store. Returns how many.

    For an index that lost rows: what no version needs comes back too, until the next collection. Packs of ``sound`` were read just
    now and every chunk of them was right; of other ones these chunks are read.
    """
    count = 0
    for table in _tables(store, index):
        for start in range(0, len(table.chunks), ASKED):
            batch = table.chunks[start : start + ASKED]
            places = index.locate([row.digest for row in batch])
            rows = [row for row in batch if row.digest not in places]
            count += len(_record(store, index, table, rows, pace, sound=table.digest in sound))
    return count


def _record(
    store: Store, index: PackIndex, table: PackRow, rows: Sequence[ChunkRow], pace: Pace, *, sound: bool = False
) -> Sequence[ChunkRow]:
    """Have the index name these chunks of a pack, after they were read unless they are ``sound``. Returns those that are right."""
    if not rows:
        return ()
    index.expect_pack(table.digest, table.size)  # before it is read: nothing alive may have been found in it
    if not sound:
        read = Examined(table.digest)
        places = [(row.digest, _place(table.digest, row, table.key)) for row in rows]
        check_places(store, places, read, pace)
        rows = [row for row in rows if row.digest not in read.bad]
    if rows:
        index.settle_packs([msgspec.structs.replace(table, chunks=tuple(rows))])
    return rows


def _has_its_bytes(store: Store, pack: str, pace: Pace) -> bool:
    """Whether a pack has the bytes that its name says. NotFound without it."""
    key = pack_key(pack)
    size = store.size(key)
    whole = blake3()
    for begin in range(0, size, READ):
        length = min(READ, size - begin)
        pace.take(length)
        try:
            whole.update(store.read(key, begin, length))
        except Integrity:
            return False  # it got shorter meanwhile
    return whole.hexdigest() == pack


def _tables(store: Store, index: PackIndex) -> Iterator[PackRow]:
    """All tables that can be read; one that is sealed is where the index still has its pack, with the key."""
    keys: Sequence[str] = [key for key, _ in store.list("packs/") if key.endswith(".idx")]

    def read(key: str) -> PackRow | None:
        pack = key.rpartition("/")[2].removesuffix(".idx")
        with suppress(NotFound, Integrity, Format, Access):
            return read_table(store, pack, index.data_key(pack))
        return None

    ahead = 1 if store.local else TABLES_AHEAD
    pool = ThreadPoolExecutor(ahead, thread_name_prefix="repair-tables")
    waiting: deque[Future[PackRow | None]] = deque()
    try:
        for key in keys:
            waiting.append(pool.submit(read, key))
            if len(waiting) > ahead and (table := waiting.popleft().result()) is not None:
                yield table
        while waiting:
            if (table := waiting.popleft().result()) is not None:
                yield table
    finally:
        pool.shutdown(wait=True, cancel_futures=True)

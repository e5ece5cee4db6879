"""Byte layouts against the kernel's header, and what bindings remember of handles; no mount."""

from __future__ import annotations

import errno
import itertools
import logging
import re
import struct
import threading
from pathlib import Path

import pytest

from artifactfs import errors
from artifactfs.mount import protocol
from artifactfs.mount.connection import Tally
from artifactfs.mount.contract import FOREVER, Attr, Opened, StatFS
from artifactfs.mount.errnos import ERRNOS, errno_of
from artifactfs.mount.handles import Cursor, InUse
from artifactfs.mount.waiting import WaitingPool, WaitingRoom
from tests.conftest import eventually


def attr(node: int = 7, **fields) -> Attr:
    return Attr(
        node, 0o100644, **{"size": 10, "mtime": 3_000_000_004, "entry_valid": FOREVER, "attr_valid": 1.5, **fields}
    )


@pytest.mark.parametrize(
    ("layout", "size"),
    [
        (protocol.IN_HEADER, 40),
        (protocol.OUT_HEADER, 16),
        (protocol.ENTRY_OUT, 128),
        (protocol.ATTR_OUT, 104),
        (protocol.DIRENT, 24),
        (protocol.DIRENTPLUS, 152),
        (protocol.INIT_OUT, 64),
        (protocol.SETATTR_IN, 88),
        (protocol.OPEN_OUT, 16),
        (protocol.STATFS_OUT, 80),
    ],
)
def test_sizes_are_those_of_the_header(layout, size):
    assert layout.size == size


def test_an_entry_field_by_field():
    fields = struct.unpack(
        "=QQQQII QQQqqqIIIIIIIIII", protocol.pack_entry(attr(atime=-1, ctime=5, blocks=8, uid=1, gid=2))
    )
    assert fields[:6] == (7, 0, 1_000_000_000, 1, 0, 500_000_000)
    assert fields[6:] == (7, 10, 8, -1, 3, 0, 999_999_999, 4, 5, 0o100644, 1, 1, 2, 0, 4096, 0)
    assert protocol.pack_attr(attr())[16:] == protocol.pack_entry(attr())[40:]


def test_open_flags():
    assert struct.unpack("=QII", protocol.pack_open(Opened(5))) == (5, 0, 0)
    everything = Opened(5, keep_cache=True, direct=True, cache_dir=True, noflush=True)
    assert struct.unpack("=QII", protocol.pack_open(everything)) == (5, 1 | 2 | 8 | 32, 0)


def test_statfs():
    packed = protocol.pack_statfs(StatFS(4096, 1, 2, 3, 4, 5))
    assert struct.unpack("=QQQQQIIII", packed[:56]) == (1, 2, 3, 4, 5, 4096, 255, 4096, 0)


def parse(data: bytes, *, plus: bool) -> list[tuple[bytes, int, int, int]]:
    """name, inode, offset and type of each record."""
    found, position = [], 0
    while position < len(data):
        if plus:
            position += 128
        ino, offset, length, kind = struct.unpack_from("=QQII", data, position)
        found.append((data[position + 24 : position + 24 + length], ino, offset, kind))
        position += (24 + length + 7) & ~7
    return found


@pytest.mark.parametrize("plus", [False, True])
def test_a_listing_is_cut_where_the_buffer_ends_and_goes_on(plus):
    pack = protocol.pack_listing_plus if plus else protocol.pack_listing
    entries = [(b"n" * (number % 20 + 1), attr(number + 10, mtime=number)) for number in range(100)]
    buffer, limit = bytearray(4096), 1000
    got, reached, cursor = [], 2, Cursor(1, 0, iter(entries))
    while True:
        used, after, left = pack(buffer, 0, limit, reached, cursor)
        assert used <= limit
        part = parse(bytes(buffer[:used]), plus=plus)
        assert [record[2] for record in part] == list(range(reached + 1, after + 1))
        got += part
        reached = after
        if left is None:
            break
        cursor.push_back(left)
    assert [(name, ino) for name, ino, _, _ in got] == [(name, each.node) for name, each in entries]
    assert {kind for *_, kind in got} == {8}


def test_entries_of_a_listing_are_packed_as_by_lookup():
    """Also where times and validity change from one entry to the next, or come back."""
    times = [0, 5, 5, 7, 0, -3]
    entries = [
        (b"%d" % number, attr(number + 10, mtime=mtime, atime=atime, ctime=mtime, entry_valid=valid, attr_valid=valid))
        for number, (mtime, atime, valid) in enumerate(itertools.product(times, times, (0.0, FOREVER, 2.25, 0.0)))
    ]
    buffer = bytearray(1 << 20)
    protocol.pack_listing_plus(buffer, 0, len(buffer), 0, entries)
    position = 0
    for name, each in entries:
        assert buffer[position : position + 128] == protocol.pack_entry(each)
        position += (152 + len(name) + 7) & ~7


@pytest.mark.parametrize("plus", [False, True])
def test_dots_come_first_and_carry_no_lookup(plus):
    buffer = bytearray(4096)
    used = protocol.pack_dots(buffer, 4096, 9, 0, plus=plus)
    assert parse(bytes(buffer[:used]), plus=plus) == [(b".", 9, 1, 4), (b"..", protocol.UNKNOWN_INO, 2, 4)]
    if plus:
        assert buffer[:128] == bytes(128)
    used = protocol.pack_dots(buffer, 4096, 9, 1, plus=plus)
    assert [record[0] for record in parse(bytes(buffer[:used]), plus=plus)] == [b".."]
    assert protocol.pack_dots(buffer, 4096, 9, 2, plus=plus) == 0


def test_opcodes_are_those_of_the_header():
    header = Path("/usr/include/linux/fuse.h")
    known = dict(re.findall(r"FUSE_(\w+)\s*=\s*(\d+),", header.read_text())) if header.exists() else {"LOOKUP": "1"}
    ours = {op.name: int(op) for op in protocol.Op}
    assert {name: int(number) for name, number in known.items() if name in ours and int(number) < 64} == {
        name: ours[name] for name in known if name in ours and int(known[name]) < 64
    }


def test_every_error_has_an_errno(caplog):
    kinds = [
        kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.ArtifactFSError)
    ]
    assert set(ERRNOS) == set(kinds) - {errors.ArtifactFSError}
    with caplog.at_level(logging.ERROR):
        assert {kind.__name__: errno_of(kind("x")) for kind in ERRNOS} == {
            "NotFound": errno.ENOENT,
            "Conflict": errno.EBUSY,
            "InvalidInput": errno.EINVAL,
            "ReadOnly": errno.EROFS,
            "Access": errno.EACCES,
            "Integrity": errno.EIO,
            "Format": errno.EIO,
            "Unavailable": errno.EIO,
            "NoSpace": errno.ENOSPC,
        }
    assert not any(record.exc_info for record in caplog.records)


def test_an_error_below_one_of_ours_has_its_errno():
    class Special(errors.NotFound):
        pass

    assert errno_of(Special("x")) == errno.ENOENT
    assert errno_of(OSError(errno.ENOTEMPTY, "x")) == errno.ENOTEMPTY


def test_a_timeout_is_told_apart():
    late = errors.Unavailable("x")
    late.__cause__ = TimeoutError()
    assert errno_of(late) == errno.ETIMEDOUT
    wrapped = errors.Unavailable("x")
    wrapped.__cause__ = OSError("a library's")
    wrapped.__cause__.__context__ = late
    assert errno_of(wrapped) == errno.ETIMEDOUT
    refused = errors.Unavailable("x")
    refused.__cause__ = ConnectionRefusedError()
    refused.__cause__.__cause__ = refused
    assert errno_of(refused) == errno.EIO


@pytest.mark.parametrize("exception", [ValueError("x"), OSError("no number"), SystemExit(1)])
def test_the_unexpected_is_an_io_error_and_logged(exception, caplog):
    assert errno_of(exception) == errno.EIO
    assert [record.exc_info is not None for record in caplog.records] == [True]


def test_a_release_waits_for_the_last_user():
    in_use = InUse()
    assert in_use.release(1)
    in_use.enter(1)
    in_use.enter(1)
    assert not in_use.release(1)
    assert not in_use.leave(1)
    assert in_use.leave(1)
    in_use.enter(1)
    assert not in_use.leave(1)
    assert in_use.release(1)


def test_a_cursor_gives_back_what_found_no_room():
    cursor = Cursor(1, 0, iter([(b"a", attr()), (b"b", attr())]))
    assert cursor.peek() == cursor.peek()
    first = cursor.peek()
    assert first is not None
    assert next(iter(cursor)) == first
    cursor.push_back(first)
    assert [name for name, _ in cursor] == [b"a", b"b"]
    assert cursor.peek() is None


def test_counts_of_many_threads_are_exact():
    tally = Tally()

    def work(retire: bool) -> None:
        for _ in range(1000):
            tally.mine()[protocol.Op.READ] += 1
        if retire:
            tally.retire()

    threads = [threading.Thread(target=work, args=(number % 2 == 0,)) for number in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    tally.mine()[protocol.OP_SLOTS - 1] += 1
    assert tally.total() == {"read": 10_000, "unknown": 1}


def test_the_pool_runs_so_many_at_once_and_no_more():
    retired: list[int] = []
    pool = WaitingPool(3, lambda: retired.append(1))
    go, ran = threading.Event(), []

    def job() -> None:
        go.wait()
        ran.append(1)

    assert [pool.submit(job, node) for node in range(5)] == [True, True, True, False, False]
    assert not pool.drain(0.01)
    go.set()
    assert pool.drain(60)
    assert ran == [1, 1, 1]
    eventually(lambda: len(retired) == 3)
    assert not pool.submit(job, 9)


def test_a_file_leaves_room_for_others():
    room = WaitingRoom(512)
    taken = {node: sum(room.enter(node) for _ in range(1000)) for node in range(6)}
    assert taken == {0: 256, 1: 128, 2: 64, 3: 32, 4: 16, 5: 8}
    assert [room.enter(node) for node in range(100, 109)] == [True] * 8 + [False]
    room.leave(0)
    assert not room.enter(0)
    assert room.enter(9)
    assert not room.enter(10)
    for node, count in ({**taken, 0: 255, 9: 1} | dict.fromkeys(range(100, 108), 1)).items():
        for _ in range(count):
            room.leave(node)
    assert sum(room.enter(0) for _ in range(1000)) == 256


def test_an_idle_thread_of_the_pool_is_used_again():
    pool = WaitingPool(1, lambda: None)
    for _ in range(50):
        done = threading.Event()
        eventually(lambda done=done: pool.submit(done.set, 1))
        assert done.wait(60)
    assert pool.drain(60)

"""A RemoteStore against a server that fails on script: right bytes or an error, and no byte asked for twice."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from blake3 import blake3

from artifactfs.errors import Access, Format, Integrity, InvalidInput, NoSpace, NotFound, Unavailable
from artifactfs.remote import wire
from artifactfs.remote.store import BLOCK, RemoteStore
from tests.conftest import eventually
from tests.remote.scripted import (
    Line,
    ScriptedServer,
    drop,
    failure,
    head,
    message,
    object_range,
    reply,
    reset,
    stall,
    trickle,
)

KEY = "packs/ab/one.pack"
DATA = blake3(b"an object").digest(length=3 * BLOCK + 12_345)
SIZE = len(DATA)
WHOLE = object_range(DATA)


@pytest.fixture
def store(connection) -> RemoteStore:
    return RemoteStore(connection, "default", spool=None)


@pytest.fixture
def hurried(connect) -> RemoteStore:
    """With bounds that a test can wait for."""
    return RemoteStore(connect(seconds=0.25, silence=0.1), "default", spool=None)


def parts_of(lengths: list[int], offset: int = 0) -> list[bytes]:
    found = []
    for length in lengths:
        found.append(DATA[offset : offset + length])
        offset += length
    return found


# -- reading -----------------------------------------------------------------------------------------------------------


def test_a_read_is_one_request_of_exactly_its_bytes(server, store):
    server.otherwise = WHOLE
    assert store.read(KEY, 1000, 20_000) == DATA[1000:21_000]
    assert server.ranges == ["1000-20999"]
    assert server.paths == [f"GET objects/{KEY}"]
    assert not store.local


@pytest.mark.parametrize(
    "lengths",
    [
        [SIZE - 11],
        [1] * 100,
        [20_000] * 100,
        [BLOCK, BLOCK, 5, BLOCK],
        [0, 7, 0, 0, 2 * BLOCK, 0],
        [BLOCK - 1, 2, BLOCK - 1, BLOCK],
    ],
    ids=len,
)
def test_parts_come_by_one_request(server, store, lengths):
    server.otherwise = WHOLE
    assert list(store.read_parts(KEY, 11, lengths)) == parts_of(lengths, 11)
    assert server.ranges == [f"11-{10 + sum(lengths)}"]
    assert list(store.read_parts(KEY, 11, lengths)) == parts_of(lengths, 11)
    assert server.connections == 1


def test_nothing_costs_nothing(server, store):
    assert store.read(KEY, 5, 0) == b""
    assert list(store.read_parts(KEY, 5, [])) == []
    assert list(store.read_parts(KEY, 5, [0, 0])) == [b"", b""]
    assert server.asked == []


def test_parts_are_handed_out_before_the_last_has_come(server, store):
    lengths = [BLOCK, BLOCK, BLOCK]
    server.script.append(object_range(DATA, cut=BLOCK + 10, then=Line.stall))
    parts = store.read_parts(KEY, 0, lengths)
    assert next(parts) == DATA[:BLOCK]
    parts.close()
    server.otherwise = WHOLE
    assert store.read(KEY, 0, 10) == DATA[:10]  # by a connection of its own: the other one was dropped
    assert server.connections == 2


@pytest.mark.parametrize("cut", [0, 1, 5000, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 777])
@pytest.mark.parametrize("then", [None, Line.reset], ids=["end", "reset"])
def test_after_a_cut_only_the_rest_is_asked_for(server, store, cut, then):
    server.otherwise = WHOLE
    server.script.append(object_range(DATA, cut=cut, then=then))
    lengths = [100_000] * 30
    assert list(store.read_parts(KEY, 0, lengths)) == parts_of(lengths)
    end = sum(lengths) - 1
    first, second = server.ranges
    assert first == f"0-{end}"
    if then is None:
        assert second == f"{cut}-{end}"
    else:  # a reset takes along what had come but was not read yet
        assert 0 <= int(second.removesuffix(f"-{end}")) <= cut


def test_every_cut_brings_the_read_further(server, store):
    step = 300_000
    server.script += [object_range(DATA, cut=step, then=None) for _ in range(SIZE // step)]
    server.otherwise = WHOLE
    assert store.read(KEY, 0, SIZE) == DATA
    assert server.ranges == [f"{begin}-{SIZE - 1}" for begin in range(0, SIZE, step)]


def test_a_server_may_give_less_than_asked_for_if_it_says_so(server, store):
    def half(asked, line: Line):
        begin, end = map(int, asked.range.removeprefix("bytes=").split("-"))
        asked.headers["range"] = f"bytes={begin}-{begin + (end - begin) // 2}"
        return WHOLE(asked, line)

    server.script += [half, half]
    server.otherwise = WHOLE
    assert store.read(KEY, 0, 1000) == DATA[:1000]
    assert server.asked[-1].range == "bytes=750-999"
    assert server.connections == 1


@pytest.mark.parametrize(
    "step",
    [
        drop,
        reset,
        stall,
        reply(503, b"soon", protocol=None),
        reply(500, b"soon", protocol=None),
        reply(429, b"soon", {"Retry-After": "0"}, protocol=None),
        failure(503, "unavailable", "busy", **{"Retry-After": "0"}),
        object_range(DATA, cut=10, then=Line.stall),
    ],
    ids=["drop", "reset", "stall", "503", "500", "429", "own 503", "stall in the body"],
)
def test_what_passes_is_waited_out(server, connect, step):
    store = RemoteStore(connect(seconds=30.0, silence=1.0), "default", spool=None)
    server.otherwise = WHOLE
    server.script += [step, step]
    assert store.read(KEY, 7, 100_000) == DATA[7:100_007]
    assert len(server.asked) == 3


@pytest.mark.parametrize(
    "step",
    [
        drop,
        stall,
        reply(503, b"soon", protocol=None),
        object_range(DATA, cut=10, then=Line.stall),
        object_range(DATA, cut=10, then=trickle),
        object_range(DATA, cut=0, then=None),
    ],
    ids=["drop", "stall", "503", "stall in the body", "trickle", "cut"],
)
def test_what_does_not_pass_is_unavailable(server, hurried, step):
    server.otherwise = step
    with pytest.raises(Unavailable):
        hurried.read(KEY, 0, SIZE)
    eventually(lambda: server.asked)  # it may read what was given up meanwhile
    assert len(server.asked) <= 6


def test_a_failed_object_says_nothing_of_others(server, connect):
    connection = connect(seconds=0.5, silence=0.2)
    store = RemoteStore(connection, "default", spool=None)
    server.otherwise = stall
    with pytest.raises(Unavailable):
        store.read(KEY, 0, SIZE)
    assert connection.online
    connection.seconds = connection.silence = 30.0
    server.otherwise = WHOLE
    assert store.read(KEY, 0, 10) == DATA[:10]


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (206, "bytes 0-99/1000000"),  # from elsewhere
        (206, "bytes 11-110/1000000"),
        (206, "bytes 10-108/1000000"),  # another length than the body's
        (206, "bytes 10-200/1000000"),  # more than was asked for
        (206, "bytes 10-9/1000000"),
        (206, "bytes ten-109/1000000"),
        (206, "pages 10-109/1000000"),
        (206, "bytes */1000000"),
        (206, ""),
        (200, "bytes 0-99/1000000"),
        (203, "bytes 10-109/1000000"),
    ],
)
def test_another_range_than_was_asked_for_is_never_served(server, store, monkeypatch, status, said):
    server.otherwise = reply(status, b"x" * 100, {"Content-Range": said} if said else {})
    with monkeypatch.context() as patch:
        patch.setattr("artifactfs.remote.client.FIRST_DELAY", 3600.0)  # there is no time for a second attempt
        with pytest.raises(Unavailable, match="another range"):
            store.read(KEY, 10, 100)
    assert len(server.asked) == 1
    server.script.append(server.otherwise)
    server.otherwise = WHOLE
    assert store.read(KEY, 10, 100) == DATA[10:110]


def test_a_status_of_200_is_taken_with_the_right_range_only(server, store):
    server.script.append(object_range(DATA, status=200))
    assert store.read(KEY, 10, 100) == DATA[10:110]
    server.otherwise = reply(200, DATA)
    with pytest.raises(Format, match="sends whole objects for ranges"):
        store.read(KEY, 0, SIZE)
    assert len(server.asked) == 2


@pytest.mark.parametrize(
    "step",
    [
        reply(416, b"", {"Content-Range": f"bytes */{SIZE}"}),
        failure(416, "integrity", "no such range"),
        object_range(DATA),
        failure(500, "integrity", f"{KEY}: ends before"),
    ],
    ids=["416", "416 with words", "shorter", "told"],
)
def test_an_object_that_is_too_short_is_damaged(server, store, step):
    server.otherwise = step
    with pytest.raises(Integrity, match=KEY):
        store.read(KEY, SIZE - 10, 11)
    assert len(server.asked) == 1


def test_a_missing_object_is_told_by_the_server(server, store):
    server.otherwise = failure(404, "not-found", f"there is no {KEY}")
    with pytest.raises(NotFound, match=f"there is no {KEY}"):
        store.read(KEY, 0, 1)
    with pytest.raises(NotFound, match=KEY):
        store.size(KEY)
    assert len(server.asked) == 2


def test_wrong_keys_and_numbers_are_refused_here(server, store):
    for key in ("", "../x", "a b", "/a", "ä"):
        for call in (
            lambda key=key: store.read(key, 0, 1),
            lambda key=key: list(store.read_parts(key, 0, [1])),
            lambda key=key: store.size(key),
            lambda key=key: store.delete(key),
        ):
            with pytest.raises(InvalidInput):
                call()
    for offset, lengths in ((-1, [1]), (0, [-1]), (0, [3, -1])):
        with pytest.raises(InvalidInput):
            list(store.read_parts(KEY, offset, lengths))
    assert server.asked == []


# -- sizes, lists, deletion --------------------------------------------------------------------------------------------


def test_a_size_is_asked_for_without_the_bytes(server, store):
    server.otherwise = reply(200, DATA)
    assert store.size(KEY) == SIZE
    assert store.size(KEY) == SIZE
    assert server.paths == [f"HEAD objects/{KEY}"] * 2
    assert server.connections == 1


def test_a_size_is_asked_for_again(server, store):
    server.script += [drop, reply(503, b"soon")]
    server.otherwise = reply(200, DATA)
    assert store.size(KEY) == SIZE
    assert len(server.asked) == 3


def test_a_list_is_asked_for_page_by_page(server, store):
    keys = [(f"packs/{number:02}", number) for number in range(25)]

    def page(asked, line: Line):
        after = asked.words.get("after", "")
        left = [pair for pair in keys if pair[0] > after]
        return message(wire.Objects(left[:10], len(left) > 10))(asked, line)

    server.otherwise = page
    assert list(store.list("packs/")) == keys
    assert [asked.words for asked in server.asked] == [
        {"prefix": "packs/"},
        {"prefix": "packs/", "after": "packs/09"},
        {"prefix": "packs/", "after": "packs/19"},
    ]


def test_a_deletion_is_repeated_until_it_is_answered(server, store):
    server.script += [drop, reply(204)]
    store.delete(KEY)
    assert server.paths == [f"DELETE objects/{KEY}"] * 2


# -- writing -----------------------------------------------------------------------------------------------------------


def put(store: RemoteStore, data: bytes = DATA, key: str = KEY) -> None:
    upload = store.upload()
    try:
        view = memoryview(data)
        for begin in range(0, len(data), 1_000_000):
            upload.write(view[begin : begin + 1_000_000])
        upload.publish(key)
    finally:
        upload.abort()


@pytest.mark.parametrize("size", [0, 1, BLOCK, SIZE])
def test_an_object_is_sent_whole_with_its_length(server, store, size):
    server.otherwise = reply(204)
    put(store, DATA[:size])
    (asked,) = server.asked
    assert (asked.method, asked.path, asked.body) == ("PUT", f"objects/{KEY}", DATA[:size])
    assert asked.headers["content-length"] == str(size)
    assert "transfer-encoding" not in asked.headers


def test_nothing_is_sent_before_publish_and_nothing_after_abort(server, store):
    upload = store.upload()
    upload.write(DATA)
    upload.abort()
    upload.abort()
    assert server.asked == []


def test_a_wrong_key_is_refused_and_the_upload_may_still_be_published(server, store):
    server.otherwise = reply(204)
    upload = store.upload()
    upload.write(b"x")
    with pytest.raises(InvalidInput):
        upload.publish("../x")
    upload.publish(KEY)
    upload.abort()
    assert server.paths == [f"PUT objects/{KEY}"]


@pytest.mark.parametrize("step", [drop, reset, reply(503, b"soon", protocol=None), reply(429, b"", protocol=None)])
def test_an_object_is_sent_again_from_the_first_byte(server, store, step):
    server.script += [step, step]
    server.otherwise = reply(204)
    put(store)
    assert [asked.body == DATA for asked in server.asked] == [True] * 3


def test_an_object_that_is_cut_on_its_way_is_sent_again(server, store):
    def cut(line: Line) -> bool:
        line.file.read(BLOCK)
        return False

    server.cut = cut
    server.otherwise = reply(204)
    put(store)
    assert [asked.body == DATA for asked in server.asked] == [True]
    assert server.connections == 2


def test_a_server_that_takes_nothing_more_is_unavailable(server, hurried):
    def cut(line: Line) -> None:
        server.cut = cut
        line.stall()

    server.cut = cut
    with pytest.raises(Unavailable):
        put(hurried, DATA * 4)  # more than the kernel takes on both sides
    assert server.asked == []


@pytest.mark.parametrize(("status", "kind"), [(422, Integrity), (507, NoSpace), (413, InvalidInput), (403, Access)])
def test_what_the_server_refuses_is_not_sent_again(server, store, status, kind):
    server.otherwise = failure(status, kind.code, "refused: reason")
    with pytest.raises(kind, match="refused: reason"):
        put(store)
    assert len(server.asked) == 1


def test_a_larger_object_than_any_server_takes_is_refused_here(server, store, monkeypatch):
    monkeypatch.setattr("artifactfs.remote.store.OBJECT_LIMIT", 1000)
    upload = store.upload()
    upload.write(bytes(1000))
    with pytest.raises(InvalidInput, match="1000 bytes"):
        upload.write(b"x")
    upload.abort()
    assert server.asked == []


def test_what_waits_to_be_sent_has_no_name(server, connect, tmp_path: Path):
    spool = tmp_path / "new" / "spool"
    store = RemoteStore(connect(), "default", spool=spool)
    server.otherwise = reply(204)
    upload = store.upload()
    upload.write(DATA)
    assert list(spool.iterdir()) == []
    assert spool.stat().st_mode & 0o777 == 0o700
    upload.publish(KEY)
    assert server.asked[0].body == DATA


def test_a_spool_that_cannot_be_written_is_told(server, connect, tmp_path: Path, monkeypatch):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(NotFound, match="cannot spool an upload in"):
        RemoteStore(connect(), "default", spool=tmp_path / "file" / "x").upload()
    upload = RemoteStore(connect(), "default", spool=tmp_path).upload()

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(NoSpace, match="cannot spool an upload in"):
            upload.write(b"x")
    upload.abort()


def test_close_closes_the_connection(server: ScriptedServer, store):
    store.close()
    store.close()
    with pytest.raises(Unavailable, match="is closed"):
        store.read(KEY, 0, 1)


def test_a_head_that_says_no_size_is_an_error(server, store):
    server.otherwise = lambda _asked, line: line.send(head(200, {"Connection": "close"}))
    with pytest.raises(Format, match="does not say how large"):
        store.size(KEY)

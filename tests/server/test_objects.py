"""Objects over HTTP: ranges, limits, slow clients, what a name promises."""

from __future__ import annotations

import random
import socket
import threading
from contextlib import ExitStack, closing
from urllib.parse import urlsplit

import pytest

from artifactfs.content.pack import pack_key
from artifactfs.errors import NotFound
from artifactfs.remote import wire
from artifactfs.server.objects import SENT, TAKEN
from tests.conformance.packs import packed
from tests.conformance.store import put
from tests.conftest import eventually
from tests.server.conftest import PROJECT, Served, answer_of, connect

TEN = b"0123456789"


def line_to(served: Served) -> socket.socket:
    """A connection that is spoken to byte by byte, with small buffers."""
    parts = urlsplit(served.url)
    line = socket.socket()
    line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    line.settimeout(30)
    line.connect((parts.hostname, parts.port))
    return line


@pytest.mark.parametrize(
    ("asked", "begin", "end"),
    [
        ("bytes=0-9", 0, 10),
        ("bytes=0-0", 0, 1),
        ("bytes=9-9", 9, 10),
        ("bytes=3-5", 3, 6),
        ("bytes=3-", 3, 10),
        ("bytes=-3", 7, 10),
        ("bytes=-100", 0, 10),
        ("bytes=5-1000000", 5, 10),
        ("bytes= 3-5", 3, 6),
    ],
)
def test_a_range_is_sent(served, asked, begin, end):
    put(served.store, "a/b", TEN)
    answer = served.ask("GET", "objects/a/b", headers={"Range": asked})
    assert answer.status == 206
    assert answer.body == TEN[begin:end]
    assert answer.headers["content-range"] == f"bytes {begin}-{end - 1}/10"
    assert answer.headers["content-length"] == str(end - begin)
    assert answer.headers["content-type"] == wire.BYTES


@pytest.mark.parametrize(
    "asked", ["bytes=10-", "bytes=10-20", "bytes=-0", "bytes=5-3", "bytes=0-1,3-4", "bytes=x-", "bytes=", "bytes=--1"]
)
def test_a_range_that_cannot_be_sent_is_refused(served, asked):
    put(served.store, "a/b", TEN)
    answer = served.ask("GET", "objects/a/b", headers={"Range": asked})
    assert (answer.status, answer.code) == (416, "integrity")
    assert answer.headers["content-range"] == "bytes */10"


@pytest.mark.parametrize("headers", [{}, {"Range": "lines=1-2"}])
def test_without_a_range_all_is_sent(served, headers):
    put(served.store, "a/b", TEN)
    answer = served.ask("GET", "objects/a/b", headers=headers)
    assert (answer.status, answer.body) == (200, TEN)
    assert answer.headers["accept-ranges"] == "bytes"
    assert "content-range" not in answer.headers


def test_objects_of_many_blocks_and_of_none_are_whole(served):
    data = random.Random(1).randbytes(5 * SENT + 17)
    put(served.store, "large", data)
    put(served.store, "empty")
    assert served.ask("GET", "objects/large").body == data
    assert served.ask("GET", "objects/large", headers={"Range": f"bytes={SENT - 1}-"}).body == data[SENT - 1 :]
    assert served.ask("GET", "objects/empty").body == b""
    assert served.ask("GET", "objects/empty", headers={"Range": "bytes=0-"}).status == 416


def test_blocks_that_are_not_in_the_kernel_s_memory_come_too(served, monkeypatch):
    data = random.Random(1).randbytes(2 * SENT + 17)
    put(served.store, "large", data)
    monkeypatch.setattr(served.store, "read_cached", lambda key, offset, buffer: False)
    assert served.ask("GET", "objects/large").body == data


def test_head_tells_the_size_and_sends_nothing(served):
    put(served.store, "a/b", TEN)
    answer = served.ask("HEAD", "objects/a/b")
    assert (answer.status, answer.headers["content-length"], answer.body) == (200, "10", b"")
    assert served.ask("HEAD", "objects/absent").status == 404
    assert served.metric("artifactfs_sent_bytes_total") < 1000


def test_what_is_not_there_is_not_found(served):
    put(served.store, "a/b", TEN)
    for key in ("absent", "a/absent", "a/b/c"):
        assert served.ask("GET", f"objects/{key}").code == "not-found"
        assert served.ask("GET", f"objects/{key}", headers={"Range": "bytes=0-1"}).status == 404
    served.store.path("a/b").unlink()
    assert served.ask("GET", "objects/a/b").status == 404


def test_an_object_that_vanishes_while_it_is_sent_breaks_the_answer_off(served, monkeypatch):
    put(served.store, "large", bytes(3 * SENT))
    read = served.store.read

    def vanishing(key: str, offset: int, length: int) -> bytes:
        if offset >= SENT:
            raise NotFound("it is gone")
        return read(key, offset, length)

    monkeypatch.setattr(served.store, "read_cached", lambda key, offset, buffer: False)
    monkeypatch.setattr(served.store, "read", vanishing)
    with closing(line_to(served)) as line:
        line.sendall(f"GET {PROJECT}/objects/large HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        came = b""
        while part := line.recv(1 << 20):
            came += part
    head, _, body = came.partition(b"\r\n\r\n")
    assert b"200 OK" in head
    assert len(body) == SENT  # of three that were announced: the connection ended
    assert served.ask("GET", "artifacts").status == 200


@pytest.mark.parametrize("key", ["tmp/x", "a//b", "a/%2e%2e/b", "a%20b", "%C3%A4", "", "a/"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE"])
def test_a_wrong_key_is_refused(served, method, key):
    answer = served.ask(method, f"objects/{key}", body=b"x" if method == "PUT" else None)
    assert answer.status == 400
    assert list(served.store.list()) == []
    assert not any((served.store.root / "tmp").glob("*"))


def test_an_object_is_stored_and_one_that_is_there_stays(served):
    data = random.Random(2).randbytes(2 * TAKEN + 5)
    assert served.ask("PUT", "objects/x/y", body=data).status == 204
    assert served.store.read("x/y", 0, len(data)) == data
    assert served.ask("PUT", "objects/x/y", body=b"other").status == 204
    assert served.store.size("x/y") == len(data)
    assert served.ask("PUT", "objects/empty", body=b"").status == 204
    assert served.store.size("empty") == 0
    assert served.ask("DELETE", "objects/x/y").status == 204
    assert served.ask("DELETE", "objects/x/y").status == 204
    assert [key for key, _ in served.store.list()] == ["empty"]


def test_a_pack_must_be_what_its_name_says(served):
    pack, data = packed("a", "b")
    wrong = bytes([data[0] ^ 1]) + data[1:]
    answer = served.ask("PUT", f"objects/{pack_key(pack.digest)}", body=wrong)
    assert (answer.status, answer.code) == (422, "integrity")
    assert list(served.store.list()) == []
    assert list((served.store.root / "tmp").iterdir()) == []
    assert served.ask("PUT", f"objects/{pack_key(pack.digest)}", body=data).status == 204
    assert list(served.store.list()) == [(pack_key(pack.digest), len(data))]


def test_the_length_of_an_object_must_be_stated(served):
    with closing(connect(served.url)) as connection:
        connection.request("PUT", f"{PROJECT}/objects/a", (part for part in [b"x"]), {}, encode_chunked=True)
        answer = answer_of(connection)
    assert (answer.status, answer.code) == (411, "invalid-input")
    assert list(served.store.list()) == []


def test_an_object_that_is_too_large_is_refused_unread(served):
    with closing(connect(served.url)) as connection:
        connection.putrequest("PUT", f"{PROJECT}/objects/a")
        connection.putheader("Content-Length", str(wire.OBJECT_LIMIT + 1))
        connection.putheader("Expect", "100-continue")
        connection.endheaders()
        answer = answer_of(connection)
    assert (answer.status, answer.code) == (413, "invalid-input")
    assert list(served.store.list()) == []


def test_keys_are_listed_page_by_page(served, monkeypatch):
    monkeypatch.setattr(wire, "BATCH", 3)
    keys = ["a-b/x", "a.b", "a/b/c", "a0", "packs/00/1", "z"]
    for number, key in enumerate(keys):
        put(served.store, key, b"x" * number)
    first = served.ask("GET", "objects").message(wire.Objects)
    assert (first.objects, first.more) == ([("a-b/x", 0), ("a.b", 1), ("a/b/c", 2)], True)
    second = served.ask("GET", "objects?after=a/b/c").message(wire.Objects)
    assert (second.objects, second.more) == ([("a0", 3), ("packs/00/1", 4), ("z", 5)], False)
    assert served.ask("GET", "objects?prefix=a/&after=a").json == {"objects": [["a/b/c", 2]], "more": False}
    assert served.ask("GET", "objects?prefix=nothing").json == {"objects": [], "more": False}


# -- slow clients ------------------------------------------------------------------------------------------------------


def test_stalled_downloads_take_no_threads_and_nobody_waits_for_them(served):
    put(served.store, "large", bytes(8 << 20))
    put(served.store, "small", TEN)
    served.ask("GET", "objects/small")
    before = threading.active_count()
    with ExitStack() as open_lines:
        lines = [open_lines.enter_context(closing(line_to(served))) for _ in range(200)]
        for line in lines:
            line.sendall(f"GET {PROJECT}/objects/large HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        for line in lines:
            assert line.recv(8) == b"HTTP/1.1"
        assert threading.active_count() <= before + 8  # the threads that read, all of which may have begun
        for _ in range(20):
            assert served.ask("GET", "objects/small").body == TEN
        assert served.ask("GET", "artifacts").status == 200
        # Each was sent what the kernel takes, and two blocks.
        assert served.metric("artifactfs_sent_bytes_total") < 200 * (4 << 20)


def test_a_download_whose_client_has_gone_is_not_read_to_its_end(served, monkeypatch):
    put(served.store, "large", bytes(64 << 20))
    reads = []
    read_cached = served.store.read_cached

    def counted(key: str, offset: int, buffer: memoryview) -> bool:
        reads.append(offset)
        return read_cached(key, offset, buffer)

    monkeypatch.setattr(served.store, "read_cached", counted)
    with closing(line_to(served)) as line:
        line.sendall(f"GET {PROJECT}/objects/large HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert line.recv(8) == b"HTTP/1.1"
    served.stop()
    assert [entry["path"] for entry in served.log if "path" in entry] == [f"{PROJECT}/objects/large"]
    assert len(reads) < 128  # of 256


def test_a_client_that_takes_nothing_is_cut_off(served, monkeypatch):
    monkeypatch.setattr("artifactfs.server.connections.STALL_SECONDS", 0.2)
    put(served.store, "large", bytes(8 << 20))
    with closing(line_to(served)) as line:
        line.sendall(f"GET {PROJECT}/objects/large HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        eventually(lambda: [entry for entry in served.log if entry.get("path") == f"{PROJECT}/objects/large"])


def test_a_head_that_does_not_come_is_not_waited_for(served, monkeypatch):
    monkeypatch.setattr("artifactfs.server.connections.HEAD_SECONDS", 0.2)
    for begun in (b"", b"GET /v1 HTTP/1.1\r\nHost"):
        with closing(line_to(served)) as line:
            line.sendall(begun)
            assert ended(line)


def test_a_head_without_end_is_cut_off(served):
    with closing(line_to(served)) as line:
        try:
            line.sendall(b"GET /v1 HTTP/1.1\r\n" + b"X-A: b\r\n" * 20_000)
        except ConnectionError:
            return
        assert ended(line)


def ended(line: socket.socket) -> bool:
    try:
        return line.recv(100) == b""
    except ConnectionError:
        return True

"""A Connection against a server that fails on script: what is repeated, what is told, how often it asks, and that it ends."""

from __future__ import annotations

import os
import socket
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import closing

import pytest
from urllib3.connection import HTTPConnection

from artifactfs.errors import (
    Access,
    ArtifactFSError,
    Conflict,
    Format,
    Integrity,
    InvalidInput,
    NoSpace,
    NotFound,
    Unavailable,
)
from artifactfs.remote import wire
from artifactfs.remote.client import FAILURE_LIMIT, Connection
from artifactfs.remote.wire import Digests, Hello, Revision
from tests.conftest import eventually
from tests.ports import HeldPort
from tests.remote.conftest import hurry
from tests.remote.scripted import Line, drop, failure, head, message, reply, reset, stall, trickle

HELLO = Hello("artifactfs", "1.0", 1, 1)
ANSWER = message(HELLO)


def fails(connection: Connection) -> None:
    with pytest.raises(Unavailable):
        hello(connection)


def hello(connection: Connection, **options) -> Hello:
    return connection.read(connection.ask("GET", "/v1", **options), Hello)


# -- addresses ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("http://host:8000", "http://host:8000"),
        ("http://host:8000/", "http://host:8000"),
        ("HTTPS://Host/Artifacts/", "https://host/Artifacts"),
        ("http://[::1]:80/a/b//", "http://[::1]:80/a/b"),
    ],
)
def test_an_address_is_kept_without_its_last_slash(connect, given, kept):
    assert connect(given).url == kept


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        "host:8000",
        "ftp://host",
        "http://",
        "http:///path",
        "http://host:port",
        "http://host:0",
        "http://host:99999",
        "http://host?x=1",
        "http://host/#x",
        "http://host/a b",
        "http://hö.st",
        "http://host/a/../b",
        "http://host/a\nb",
        "http://[::1",
    ],
)
def test_an_address_that_cannot_be_one_is_refused(wrong):
    with pytest.raises(InvalidInput, match=r"not a server's address.*expected http"):
        Connection(wrong)


@pytest.mark.parametrize("secret", ["http://user:geheim@host", "https://geheim@host/path"])
def test_credentials_in_an_address_are_refused_and_not_shown(secret):
    with pytest.raises(InvalidInput, match="user or password") as raised:
        Connection(secret)
    assert "geheim" not in str(raised.value)


def test_a_path_before_the_server_s_own_is_kept(server, connect):
    server.otherwise = ANSWER
    assert hello(connect(f"{server.url}/artifacts/")) == HELLO
    assert server.asked[0].target == "/artifacts/v1"


# -- what is sent and taken --------------------------------------------------------------------------------------------


def test_nothing_is_asked_before_the_first_call(server, connection):
    assert connection.online
    assert connection.reason == ""
    assert (connection.requests, connection.bytes_sent, server.connections) == (0, 0, 0)


def test_both_sides_say_what_they_speak(server, connection):
    server.otherwise = message(Digests([b"1" * 32]))
    answer = connection.call(Digests, "POST", "/v1/x", Digests([b"1" * 32, b"2" * 32]))
    assert answer.digests == [b"1" * 32]
    (asked,) = server.asked
    assert asked.headers[wire.PROTOCOL_HEADER.lower()] == str(wire.PROTOCOL)
    assert asked.headers["content-type"] == asked.headers["accept"] == wire.MSGPACK
    assert asked.headers["accept-encoding"] == "identity"
    assert asked.headers["user-agent"].startswith("artifactfs/")
    assert asked.message(Digests).digests == [b"1" * 32, b"2" * 32]
    assert connection.requests == 1
    assert connection.bytes_sent > len(asked.body)
    assert connection.bytes_received > 34


def test_one_connection_serves_calls_that_follow_each_other(server, connection):
    server.otherwise = ANSWER
    server.script += [ANSWER, reply(204), failure(404, "not-found", "no"), failure(409, "conflict", "no")]
    hello(connection)
    connection.tell("DELETE", "/v1/x")
    for error in (NotFound, Conflict):
        with pytest.raises(error):
            hello(connection)
    hello(connection)
    assert server.connections == 1


def test_threads_use_connections_of_their_own(server, connection):
    met = threading.Barrier(4)

    def together(asked, line: Line):
        met.wait(60)
        return ANSWER(asked, line)

    server.otherwise = together
    threads = [threading.Thread(target=hello, args=(connection,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (connection.requests, server.connections) == (4, 4)


def test_an_answer_in_json_is_taken_too(server, connection):
    server.otherwise = reply(200, wire.encode(HELLO, wire.JSON), {"Content-Type": "application/json; charset=utf-8"})
    assert hello(connection) == HELLO


def test_an_answer_without_a_length_is_taken_to_its_end(server, connection):
    def step(_asked, line: Line):
        line.send(head(200, {"Content-Type": wire.MSGPACK, "Connection": "close"}) + wire.encode(HELLO))

    server.otherwise = step
    assert hello(connection) == HELLO


def test_an_answer_in_chunks_is_taken(server, connection):
    def step(_asked, line: Line):
        data = wire.encode(HELLO)
        line.send(head(200, {"Content-Type": wire.MSGPACK, "Transfer-Encoding": "chunked"}))
        for part in (data[:5], data[5:], b""):
            line.send(b"%x\r\n%b\r\n" % (len(part), part))
        return True

    server.otherwise = step
    assert hello(connection) == HELLO
    assert hello(connection) == HELLO
    assert server.connections == 1


def test_a_message_that_no_format_can_hold_is_refused_here(server, connection):
    for wrong in ({"x": object()}, {"x": 2**70}, {"x": "\udcff"}):
        with pytest.raises(InvalidInput):
            connection.tell("POST", "/v1/x", wire.Edit(metadata=wrong))
    assert server.asked == []


# -- errors that the server reports ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (404, NotFound),
        (409, Conflict),
        (400, InvalidInput),
        (413, InvalidInput),
        (403, Access),
        (422, Integrity),
        (500, Integrity),
        (426, Format),
        (507, NoSpace),
    ],
)
def test_what_the_server_reports_is_raised_and_not_asked_again(server, connection, status, kind):
    server.otherwise = failure(status, kind.code, "in words: what to do")
    with pytest.raises(kind, match=r"^in words: what to do$"):
        hello(connection)
    assert len(server.asked) == 1
    assert connection.online


def test_the_server_s_own_fault_is_told_and_not_asked_again(server, connection):
    server.otherwise = failure(500, "error", "the server failed; see its log")
    with pytest.raises(ArtifactFSError, match="see its log") as raised:
        hello(connection)
    assert type(raised.value) is ArtifactFSError
    assert len(server.asked) == 1


@pytest.mark.parametrize("kind", ["not", "newer"])
def test_an_answer_that_is_another_message_is_an_error_of_format(server, connection, kind):
    server.otherwise = message(Revision(3)) if kind == "not" else reply(200, b"\xc1", {"Content-Type": wire.MSGPACK})
    with pytest.raises(Format, match="cannot read the answer of http"):
        hello(connection)
    assert len(server.asked) == 1


def test_an_answer_without_bounds_is_not_read(server, connection):
    server.otherwise = reply(200, b"", {"Content-Type": wire.MSGPACK}, length=wire.MESSAGE_LIMIT + 1)
    with pytest.raises((Format, Unavailable)):
        hello(connection, seconds=0.2)

    def endless(_asked, line: Line):
        line.send(head(200, {"Content-Type": wire.MSGPACK, "Connection": "close"}))
        while True:
            line.send(bytes(1 << 20))

    server.otherwise = endless
    with pytest.raises(Format, match="larger than"):
        hello(connection)


def test_an_error_without_end_is_not_read(server, connect):
    def endless(_asked, line: Line):
        line.send(head(404, {"Content-Type": wire.MSGPACK, "Connection": "close"}))
        while True:
            line.send(bytes(FAILURE_LIMIT))

    server.otherwise = endless
    connection = connect()
    with pytest.raises(NotFound, match="status 404"):
        hello(connection)
    assert connection.bytes_received < 1 << 20


# -- who else answers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 404, 405, 501])
def test_another_server_is_told_by_its_silence_about_the_protocol(server, connection, status):
    server.otherwise = reply(status, b"<html>hello</html>", {"Content-Type": "text/html"}, protocol=None)
    with pytest.raises(Format, match=r"does not speak the ArtifactFS protocol; is the address right\?") as raised:
        hello(connection)
    assert server.url in str(raised.value)
    assert len(server.asked) == 1
    assert not connection.online
    assert connection.reason == str(raised.value)


def test_what_speaks_no_http_is_unavailable(server, connect):
    def step(_asked, line: Line):
        line.send(b"220 mail.example.org ESMTP\r\n")

    server.otherwise = step
    with pytest.raises(Unavailable, match="does not speak HTTP"):
        hello(connect(), once=True)


@pytest.mark.parametrize("protocol", ["0", "-1", "x", ""])
def test_a_protocol_of_no_use_is_an_error_of_format(server, connection, protocol):
    server.otherwise = reply(200, wire.encode(HELLO), {"Content-Type": wire.MSGPACK}, protocol=protocol)
    with pytest.raises(Format):
        hello(connection)
    assert len(server.asked) == 1


def test_a_newer_server_that_still_takes_this_client_is_used(server, connection):
    server.otherwise = reply(200, wire.encode(HELLO), {"Content-Type": wire.MSGPACK}, protocol=99)
    assert hello(connection) == HELLO


def test_no_redirect_is_followed(server, connection):
    server.otherwise = reply(302, b"", {"Location": "https://user:geheim@login.example.org/x?token=y"}, protocol=None)
    with pytest.raises(InvalidInput, match=r"sends on to https://login\.example\.org/x; use the address") as raised:
        hello(connection)
    assert "geheim" not in str(raised.value)
    assert "token" not in str(raised.value)
    assert len(server.asked) == 1


@pytest.mark.parametrize(("status", "kind"), [(401, Access), (403, Access), (407, Access), (413, InvalidInput)])
def test_what_stands_before_the_server_and_refuses_is_named(server, connection, status, kind):
    server.otherwise = reply(status, b"<html>no</html>", protocol=None)
    with pytest.raises(kind, match="what stands before http"):
        hello(connection)
    assert len(server.asked) == 1


def test_an_answer_that_was_compressed_on_the_way_is_refused(server, connection):
    server.otherwise = reply(200, b"\x1f\x8b", {"Content-Type": wire.MSGPACK, "Content-Encoding": "gzip"})
    with pytest.raises(Format, match="compresses"):
        hello(connection)


# -- what passes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504, 520])
def test_what_a_proxy_says_for_a_while_is_waited_out(server, connection, status):
    server.otherwise = ANSWER
    server.script += [reply(status, b"<html>soon</html>", protocol=None)] * 2
    assert hello(connection) == HELLO
    assert len(server.asked) == 3
    assert connection.online


def test_the_server_s_own_wish_to_be_asked_later_is_followed(server, connection):
    server.otherwise = ANSWER
    server.script += [failure(503, "unavailable", "busy", **{"Retry-After": "0"})] * 3
    assert hello(connection) == HELLO
    assert len(server.asked) == 4
    assert server.connections == 1


@pytest.mark.parametrize("status", [503, 429])
def test_a_later_than_the_bound_is_told_at_once(server, connection, status):
    server.otherwise = failure(status, "unavailable", "the registry is busy; try again", **{"Retry-After": "60"})
    with pytest.raises(Unavailable, match=r"^the registry is busy; try again$"):
        hello(connection)
    assert len(server.asked) == 1
    assert not connection.online
    assert "busy" in connection.reason


def test_a_server_that_stays_busy_is_unavailable_in_its_own_words(server, connection):
    server.script += [failure(503, "unavailable", "the registry is busy; try again")] * 3
    # So that the end does not depend on how long the machine takes for each attempt.
    server.otherwise = failure(503, "unavailable", "the registry is busy; try again", **{"Retry-After": "60"})
    with pytest.raises(Unavailable, match=r"^the registry is busy; try again$"):
        hello(connection)
    assert len(server.asked) == 4


@pytest.mark.parametrize("step", [drop, reset], ids=["drop", "reset"])
def test_a_lost_answer_is_asked_for_again(server, connection, step):
    server.otherwise = ANSWER
    server.script += [step, step]
    assert hello(connection) == HELLO
    assert len(server.asked) == 3


def test_a_body_that_is_cut_is_asked_for_again(server, connection):
    server.otherwise = ANSWER
    whole = wire.encode(HELLO)
    server.script.append(reply(200, whole[:-1], {"Content-Type": wire.MSGPACK}, length=len(whole)))
    assert hello(connection) == HELLO
    assert len(server.asked) == 2


def test_a_chunked_body_that_is_cut_is_asked_for_again(server, connection):
    def step(_asked, line: Line):
        line.send(head(200, {"Content-Type": wire.MSGPACK, "Transfer-Encoding": "chunked"}))
        line.send(b"5\r\n" + wire.encode(HELLO)[:5] + b"\r\n")

    server.otherwise = ANSWER
    server.script.append(step)
    assert hello(connection) == HELLO
    assert len(server.asked) == 2


def test_a_kept_connection_that_the_server_closed_costs_nothing(server, connect):
    """Neither time, nor one failure for each connection that was kept."""
    connection = connect()
    met = threading.Barrier(4)

    def together(asked, line: Line):
        met.wait(60)
        return ANSWER(asked, line)

    server.otherwise = together
    threads = [threading.Thread(target=hello, args=(connection,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    server.otherwise = ANSWER
    server.script.append(drop)  # as if closed while the request was on its way
    assert hello(connection, probe=True) == HELLO
    assert connection.requests == 6
    assert server.connections == 5


@pytest.mark.parametrize("seconds", [0, -1.0, float("nan")])
def test_a_bound_of_no_time_is_refused(seconds):
    with pytest.raises(InvalidInput, match="more than 0"):
        Connection("http://host", seconds=seconds)


# -- bounds ------------------------------------------------------------------------------------------------------------


def test_a_server_that_never_answers_is_unavailable(server, connect):
    server.otherwise = stall
    connection = connect(seconds=0.3, silence=0.1)
    with pytest.raises(Unavailable, match=r"does not answer: no answer in time; try again later"):
        hello(connection)
    eventually(lambda: server.asked)  # it may read what was given up meanwhile
    assert len(server.asked) <= 3
    assert not connection.online


def test_a_question_that_is_work_for_the_server_is_waited_for_and_not_asked_twice(server, connect):
    server.otherwise = stall
    with pytest.raises(Unavailable):
        connect(seconds=0.2, silence=0.05).call(Digests, "POST", "/v1/x", Digests([]))
    eventually(lambda: server.asked)
    assert len(server.asked) == 1


@pytest.mark.parametrize("where", ["head", "body", "failure"])
def test_a_byte_now_and_then_does_not_go_on_for_ever(server, connect, where):
    def step(_asked, line: Line):
        if where != "head":
            line.send(head(200 if where == "body" else 404, {"Content-Type": wire.MSGPACK, "Content-Length": 10_000}))
        trickle(line)

    server.otherwise = step
    with pytest.raises((Unavailable, NotFound)):
        hello(connect(seconds=0.2))
    eventually(lambda: server.asked)
    assert len(server.asked) == 1


def test_a_body_that_stops_is_noticed_before_the_whole_time_is_over(server, connect):
    def step(_asked, line: Line):
        line.send(head(200, {"Content-Type": wire.MSGPACK, "Content-Length": 100}) + b"x")
        line.stall()

    server.script.append(step)
    server.otherwise = ANSWER
    assert hello(connect(seconds=30.0, silence=1.0)) == HELLO
    assert len(server.asked) == 2


def test_who_takes_no_connection_is_unavailable(connect):
    """A full backlog: the kernel lets further connections wait."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        address = listener.getsockname()
        waiting = [socket.socket() for _ in range(4)]
        try:
            for one in waiting:
                one.setblocking(False)
                one.connect_ex(address)
            connection = connect(f"http://127.0.0.1:{address[1]}", seconds=5.0, connect=0.1)
            with pytest.raises(Unavailable, match=r"no connection within 0\.1 s"):
                hello(connection)
            assert connection.requests == 1
        finally:
            for one in waiting:
                one.close()


def test_a_lookup_that_does_not_end_is_unavailable(connect, monkeypatch):
    done = threading.Event()

    def look_up(*_: object):
        done.wait(20)
        raise socket.gaierror(socket.EAI_AGAIN, "later")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    try:
        with pytest.raises(Unavailable, match=r"no connection within 0\.1 s"):
            hello(connect("http://server.example", seconds=5.0, connect=0.1))
    finally:
        done.set()


@pytest.mark.parametrize("error", [socket.gaierror(socket.EAI_NONAME, "no"), UnicodeError("label too long")])
def test_a_name_that_is_not_known_is_told(connect, monkeypatch, error):
    def look_up(*_: object):
        raise error

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    with pytest.raises(Unavailable, match=r"cannot reach http://server\.example: the host's name is not known"):
        hello(connect("http://server.example"))


def test_every_address_of_a_name_is_tried(server, connect, monkeypatch):
    other = ("127.0.0.1", 1)  # nobody is there
    rows = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", address) for address in (other, ("127.0.0.1", server.port))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: rows)
    server.otherwise = ANSWER
    assert hello(connect(f"http://server.example:{server.port}")) == HELLO
    assert server.asked[0].headers["host"] == f"server.example:{server.port}"


def test_a_certificate_is_expected_of_https(server, connect):
    with pytest.raises(Unavailable, match=r"cannot reach https://127"):
        hello(connect(server.url.replace("http:", "https:")))


# -- a server that cannot be reached -----------------------------------------------------------------------------------


@pytest.fixture
def nobody(connect, long_rests) -> Iterator[Connection]:
    """A connection to an address where nobody listens, nor can begin to."""
    with closing(HeldPort()) as port:
        yield connect(f"http://127.0.0.1:{port.number}", seconds=600.0)


def test_who_never_answered_is_not_waited_for(nobody):
    with pytest.raises(
        Unavailable,
        match=r"cannot reach http://127.*: connection refused; check that the server is running and the address is right",
    ):
        hello(nobody)
    assert nobody.requests == 1
    assert not nobody.online
    assert nobody.reason == "connection refused"


def test_who_cannot_be_reached_is_left_alone_for_a_while(nobody):
    for _ in range(10):
        with pytest.raises(Unavailable, match="connection refused"):
            hello(nobody)
    assert nobody.requests == 1


def test_a_probe_asks_in_any_case_and_closes_the_gap_for_all(server, connect):
    server.deafen()
    connection = connect()
    for probe in (False, True, True):
        with pytest.raises(Unavailable):
            hello(connection, probe=probe)
    assert connection.requests == 3
    server.listen()
    server.otherwise = ANSWER
    with pytest.raises(Unavailable):
        hello(connection)
    assert connection.requests == 3
    assert hello(connection, probe=True) == HELLO
    assert connection.online
    assert hello(connection) == HELLO


def test_a_restart_of_the_server_is_waited_for(server, connect):
    connection = connect(seconds=30.0)
    connection._shortest_rest = 0.03
    server.otherwise = ANSWER
    hello(connection)
    server.deafen()

    def restart() -> None:
        eventually(lambda: connection.requests >= 3)
        server.listen()

    thread = threading.Thread(target=restart)
    thread.start()
    assert hello(connection) == HELLO
    thread.join()
    assert connection.online


def test_who_has_another_answer_does_not_wait_for_a_restart(server, connect, long_rests):
    connection = connect(seconds=600.0)
    server.otherwise = ANSWER
    hello(connection)
    server.deafen()
    requests = connection.requests
    for _ in range(10):
        with pytest.raises(Unavailable):
            hello(connection, hasty=True)
    assert connection.requests <= requests + 2  # the kept connection, and a new one


def test_after_a_long_outage_nobody_is_kept_waiting(server, connect):
    connection = connect(seconds=30.0)
    server.otherwise = ANSWER
    hello(connection)
    server.deafen()
    hurry(connection)
    with pytest.raises(Unavailable):
        hello(connection, seconds=3600)
    connection._shortest_rest = 60.0  # from the next attempt on
    requests = connection.requests
    for _ in range(5):
        with pytest.raises(Unavailable):
            hello(connection, seconds=3600)
    assert connection.requests <= requests + 1


def test_what_may_have_been_carried_out_is_not_repeated_on_demand(server, connection):
    server.otherwise = ANSWER
    hello(connection)
    for step in (drop, reset, reply(504, protocol=None)):
        server.script.append(step)
        before = len(server.asked)
        with pytest.raises(Unavailable):
            hello(connection, once=True)
        assert len(server.asked) == before + 1


# -- life --------------------------------------------------------------------------------------------------------------


def test_close_ends_what_waits_and_refuses_what_comes(server, connection):
    server.otherwise = stall
    failed: list[str] = []

    def wait() -> None:
        try:
            hello(connection, answer=60.0, seconds=60.0)
        except Unavailable as error:
            failed.append(str(error))

    threads = [threading.Thread(target=wait) for _ in range(3)]
    for thread in threads:
        thread.start()
    eventually(lambda: len(server.asked) == 3)
    connection.close()
    for thread in threads:
        thread.join(60)
    connection.close()
    with pytest.raises(Unavailable, match="is closed"):
        hello(connection)
    assert len(failed) == 3
    assert all("is closed" in text for text in failed)
    assert len(server.asked) == 3
    assert connection.closed


def test_close_ends_a_pause_between_attempts(server, connect):
    connection = connect(seconds=60.0)
    server.otherwise = failure(503, "unavailable", "busy", **{"Retry-After": "50"})
    thread = threading.Thread(target=fails, args=(connection,))
    thread.start()
    eventually(lambda: server.asked)
    connection.close()
    thread.join(60)
    assert not thread.is_alive()


def test_a_forked_child_uses_connections_of_its_own(server, connection):
    server.otherwise = ANSWER
    hello(connection)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            status = 0 if hello(connection) == HELLO and connection.requests == 1 else 2
            connection.close()
        finally:
            os.write(writer, bytes([status]))
            os._exit(status)
    os.close(writer)
    assert os.read(reader, 1) == b"\0"
    os.close(reader)
    os.waitpid(child, 0)
    assert hello(connection) == HELLO
    assert [asked.connection for asked in server.asked] == [1, 2, 1]


def test_bytes_count_across_threads(server, connection):
    server.otherwise = ANSWER
    threads = [threading.Thread(target=lambda: deque((hello(connection) for _ in range(25)), 0)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert connection.requests == 100
    sent = connection.bytes_sent
    hello(connection)
    assert sent == 100 * (connection.bytes_sent - sent)


def test_an_idle_connection_that_another_thread_closes_at_its_reuse_is_replaced(server, connection, monkeypatch):
    """urllib3 looks at the socket of the connection that it took, which is gone by then."""
    server.otherwise = message(Revision(3))
    assert connection.call(Revision, "GET", "/v1/x").revision == 3
    taken = HTTPConnection.getresponse
    lost = []

    def getresponse(self):
        if not lost:
            lost.append(self)
            self.sock.close()
            self.sock = None
        return taken(self)

    monkeypatch.setattr(HTTPConnection, "getresponse", getresponse)
    assert connection.call(Revision, "GET", "/v1/x").revision == 3
    assert len(lost) == 1
    assert connection.online

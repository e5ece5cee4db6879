"""Messages: two media types, limits, and what is said to whoever breaks the rules."""

from __future__ import annotations

import json
import socket
from contextlib import closing
from urllib.parse import urlsplit

import msgspec
import pytest

from artifactfs.errors import (
    Access,
    Conflict,
    Format,
    Integrity,
    InvalidInput,
    NoSpace,
    NotFound,
    ReadOnly,
    Unavailable,
)
from artifactfs.model.records import ArtifactRecord, CommitResult, VersionRecord
from artifactfs.remote import wire
from tests.conformance.packs import chunk, packed
from tests.conformance.registry import NAME, digest, request
from tests.conftest import eventually
from tests.server.conftest import PROJECT, answer_of, connect

MEDIA = [wire.JSON, wire.MSGPACK]


@pytest.mark.parametrize("media", MEDIA)
def test_a_message_is_the_same_in_both_media_types(served, media):
    made = served.ask("POST", "commits", request("a", metadata={"rows": 3, "ü": [1.5, None]}), media=media)
    assert made.headers["content-type"] == media
    version = made.message(CommitResult).version
    assert version.digest == digest("a")
    assert served.ask("GET", f"artifacts/{NAME}/versions/0", media=media).message(VersionRecord) == version
    assert served.ask("GET", f"artifacts/{NAME}", media=media).message(ArtifactRecord).versions == 1
    asked = wire.Digests([chunk("there"), chunk("absent")])
    assert set(served.ask("POST", "chunks/missing", asked, media=media).message(wire.Digests).digests) == {
        chunk("there"),
        chunk("absent"),
    }
    absent = served.ask("GET", "artifacts/absent", media=media)
    assert (absent.status, absent.headers["content-type"], absent.code) == (404, media, "not-found")


@pytest.mark.parametrize("accept", ["*/*", "text/html", "", "application/json"])
def test_everybody_else_is_answered_in_json(served, accept):
    answer = served.ask("GET", "artifacts", headers={"Accept": accept})
    assert answer.headers["content-type"] == wire.JSON
    assert answer.json == {"artifacts": []}


def test_what_is_sent_and_what_is_asked_for_may_differ(served):
    body = wire.encode(wire.NewSession("put", 60), wire.JSON)
    headers = {"Content-Type": "application/json; charset=utf-8", "Accept": wire.MSGPACK}
    answer = served.ask("POST", "sessions", body=body, headers=headers)
    assert answer.headers["content-type"] == wire.MSGPACK
    assert answer.message(wire.Session).session > 0


@pytest.mark.parametrize("media", ["text/plain", "application/x-www-form-urlencoded", "application/jsonp", None])
def test_another_media_type_is_refused(served, media):
    headers = {} if media is None else {"Content-Type": media}
    answer = served.ask("POST", "sessions", body=b"{}", headers=headers)
    assert (answer.status, answer.code) == (415, "invalid-input")
    assert "send application/msgpack or application/json" in answer.json["message"]


@pytest.mark.parametrize(
    ("media", "body"),
    [
        (wire.MSGPACK, b""),
        (wire.MSGPACK, b"\xc1"),
        (wire.MSGPACK, wire.encode(wire.NewSession("put", 60))[:-1]),
        (wire.MSGPACK, msgspec.msgpack.encode({"kind": 1, "seconds": 60})),
        (wire.MSGPACK, msgspec.msgpack.encode({"kind": "put"})),
        (wire.MSGPACK, b"\x91" * 5000),
        (wire.JSON, b"{"),
        (wire.JSON, b'{"kind": "\xff", "seconds": 60}'),
        (wire.JSON, b"[" * 50_000),
        (wire.JSON, b'{"kind": "put", "seconds": "x"}'),
    ],
)
def test_what_is_no_message_is_refused(served, media, body):
    answer = served.ask("POST", "sessions", body=body, headers={"Content-Type": media})
    assert (answer.status, answer.code) == (400, "invalid-input")
    assert "NewSession" in answer.json["message"]
    assert served.ask("GET", "artifacts").status == 200


def test_fields_of_later_releases_are_ignored(served):
    body = msgspec.msgpack.encode({"kind": "put", "seconds": 60, "mood": "good"})
    assert served.ask("POST", "sessions", body=body, headers={"Content-Type": wire.MSGPACK}).status == 200


@pytest.mark.parametrize("path", ["sessions", "commits", "chunks/missing"])
def test_a_message_that_says_it_is_too_large_is_refused_unread(served, path):
    with closing(connect(served.url)) as connection:
        connection.putrequest("POST", f"{PROJECT}/{path}")
        connection.putheader("Content-Type", wire.MSGPACK)
        connection.putheader("Content-Length", str(wire.MESSAGE_LIMIT + 1))
        connection.endheaders()
        answer = answer_of(connection)
    assert (answer.status, answer.code) == (413, "invalid-input")
    assert served.metric("artifactfs_received_bytes_total") == 0


def test_a_message_that_turns_out_too_large_is_refused(served, monkeypatch):
    monkeypatch.setattr("artifactfs.server.calls.MESSAGE_LIMIT", 100_000)
    blocks = (b"x" * 1000 for _ in range(200))
    with closing(connect(served.url)) as connection:
        connection.request(
            "POST", f"{PROJECT}/sessions", blocks, {"Content-Type": wire.MSGPACK}, encode_chunked=True
        )  # http.client adds Transfer-Encoding: chunked
        answer = answer_of(connection)
    assert (answer.status, answer.code) == (413, "invalid-input")


def test_a_connection_goes_on_after_a_body_that_was_refused(served):
    with closing(connect(served.url)) as connection:
        for headers, status in (({"Content-Type": wire.JSON}, 413), ({"Content-Type": "text/plain"}, 415)):
            connection.request("POST", f"{PROJECT}/sessions", bytes(wire.MESSAGE_LIMIT + 1), headers)
            assert answer_of(connection).status == status
        connection.request("GET", f"{PROJECT}/artifacts")
        assert answer_of(connection).json == {"artifacts": []}


def test_a_refused_body_is_not_taken_for_ever(served, monkeypatch):
    monkeypatch.setattr("artifactfs.server.connections.IGNORED_LIMIT", 1 << 20)
    with closing(connect(served.url)) as connection:
        connection.putrequest("PUT", f"{PROJECT}/objects/a")
        connection.putheader("Content-Length", str(1 << 40))
        connection.endheaders()
        with pytest.raises(ConnectionError):
            connection.send(bytes(1 << 20) for _ in range(1000))


def test_a_message_of_the_largest_size_is_taken(served):
    padding = "x" * (wire.MESSAGE_LIMIT - 45)
    body = msgspec.json.encode({"kind": "put", "seconds": 60, "padding": padding})
    assert wire.MESSAGE_LIMIT - 20 < len(body) <= wire.MESSAGE_LIMIT
    assert served.ask("POST", "sessions", body=body, headers={"Content-Type": wire.JSON}).status == 200


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("chunks/missing", wire.Digests([bytes(32)] * (wire.BATCH + 1))),
        ("chunks/locate", wire.Digests([bytes(32)] * (wire.BATCH + 1))),
        ("nodes", wire.NodesWanted([bytes(32)] * (wire.BATCH + 1))),
    ],
)
def test_too_many_digests_are_refused(served, path, message):
    answer = served.ask("POST", path, message)
    assert (answer.status, answer.code) == (400, "invalid-input")
    assert "ask for 50000 at a time" in answer.json["message"]


def test_a_body_that_stops_coming_is_not_waited_for_for_ever(served, monkeypatch):
    monkeypatch.setattr("artifactfs.server.calls.IDLE_SECONDS", 0.1)
    for path, head in (("sessions", {"Content-Type": wire.JSON}), ("objects/a", {})):
        with closing(connect(served.url)) as connection:
            connection.putrequest("PUT" if path.startswith("objects") else "POST", f"{PROJECT}/{path}")
            for name, value in head.items():
                connection.putheader(name, value)
            connection.putheader("Content-Length", "100")
            connection.endheaders(b"x" * 10)
            answer = answer_of(connection)
        assert (answer.status, answer.code) == (408, "unavailable"), path
        assert answer.headers["connection"] == "close"
    assert list(served.store.list()) == []
    assert list((served.store.root / "tmp").iterdir()) == []


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "artifacts/x/versions/one"),
        ("GET", "artifacts/x/digests/short"),
        ("GET", "artifacts/x/digests/" + "Z" * 64),
        ("DELETE", "sessions/none"),
        ("GET", "/v1/projects/.artifactfs/artifacts"),
        ("GET", "/v1/projects/a%20b/artifacts"),
        ("GET", "/v1/projects/a%00b/objects"),
    ],
)
def test_wrong_words_in_a_path_are_refused(served, method, path):
    answer = served.ask(method, path)
    assert (answer.status, answer.code) == (400, "invalid-input")


@pytest.mark.parametrize("number", [-1, 2**63, 10**30])
def test_numbers_that_cannot_be_are_not_there(served, number):
    assert served.ask("GET", f"artifacts/x/versions/{number}").code == "not-found"


@pytest.mark.parametrize("number", [-1, 2**63, 10**30])
def test_a_session_that_cannot_be_has_ended(served, number):
    at = f"sessions/{number}"
    assert served.ask("DELETE", at).status == 204
    assert served.ask("PUT", at, wire.SessionLife(60)).code == "conflict"
    body = json.dumps({"draft": "a", "digest": "A" * 43 + "=", "session": number}).encode()
    assert served.ask("POST", "artifacts/x/parts", body=body, headers={"Content-Type": wire.JSON}).code == "conflict"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (NotFound("x"), 404),
        (Conflict("x"), 409),
        (InvalidInput("x"), 400),
        (ReadOnly("x"), 403),
        (Access("x"), 403),
        (Integrity("x"), 500),
        (Format("x"), 426),
        (Unavailable("x"), 503),
        (NoSpace("x"), 507),
    ],
)
@pytest.mark.parametrize("media", MEDIA)
def test_every_error_has_its_status_and_comes_back_as_itself(served, monkeypatch, error, status, media):
    def fail(self: object) -> None:
        raise error

    monkeypatch.setattr(type(served.registry), "artifacts", fail)
    answer = served.ask("GET", "artifacts", media=media)
    assert answer.status == status
    told = wire.from_failure(answer.message(wire.Failure))
    assert (type(told), str(told)) == (type(error), "x")
    assert answer.headers["artifactfs-revision"] == "0"
    assert answer.headers.get("retry-after") == ("1" if status == 503 else None)


def test_an_unexpected_failure_is_one_line_and_the_server_goes_on(served, monkeypatch):
    def fail(self: object) -> None:
        raise ZeroDivisionError("secret of the house")

    monkeypatch.setattr(type(served.registry), "artifacts", fail)
    answer = served.ask("GET", "artifacts", headers={"X-Request-ID": "mine-1"})
    assert (answer.status, answer.code) == (500, "error")
    assert "mine-1" in answer.json["message"]
    assert b"secret" not in answer.body
    assert served.ask("GET", "revision").status == 200
    served.stop()
    failures = [line for line in served.log if line.get("level") == "error"]
    assert [(line["request"], line["message"]) for line in failures] == [
        ("mine-1", "ZeroDivisionError: secret of the house")
    ]
    assert "Traceback" in failures[0]["traceback"]


def test_a_client_that_goes_away_while_it_sends_leaves_nothing(served):
    pack, data = packed(*range(200))
    with closing(socket.create_connection((urlsplit(served.url).hostname, urlsplit(served.url).port))) as line:
        head = f"PUT {PROJECT}/objects/packs/00/{pack.digest}.pack HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n\r\n"
        line.sendall(head.encode() + data[:-1])
        # It has come as far as the server's file: a server that stops before takes no connection any more.
        eventually(lambda: list(served.store.root.glob("tmp/*")))
    served.stop()
    assert list(served.store.list()) == []
    assert list((served.store.root / "tmp").iterdir()) == []
    assert [line["status"] for line in served.log if "status" in line] == [499]

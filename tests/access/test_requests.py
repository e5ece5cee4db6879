"""Requests made up to be understood as something else: two lengths, odd keys, tokens in wrong places, pages of the web."""

from __future__ import annotations

import socket
from contextlib import closing, suppress
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest

from artifactfs.remote import wire
from tests.access.conftest import Guarded, document_of
from tests.access.test_routes import operations
from tests.server.conftest import PROJECT, Served, serving

ARTIFACTS = f"{PROJECT}/artifacts"


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory):
    """A server that asks nobody for a token, on its own machine."""
    with serving(tmp_path_factory.mktemp("plain")) as running:
        yield running


def send(served: Served, head: str, body: bytes = b"") -> bytes:
    """What comes back until the connection is closed by the server, or nothing comes any more."""
    parts = urlsplit(served.url)
    with closing(socket.create_connection((parts.hostname, parts.port), timeout=60)) as line:
        line.sendall(head.replace("\n", "\r\n").encode("latin-1") + body)
        line.shutdown(socket.SHUT_WR)
        found = b""
        while data := line.recv(65536):
            found += data
        return found


SECOND = f"GET {ARTIFACTS} HTTP/1.1\r\nHost: x\r\n\r\n".encode()


@pytest.mark.parametrize(
    "lengths",
    [
        f"Content-Length: {len(SECOND)}\nTransfer-Encoding: chunked\n",
        f"Transfer-Encoding: chunked\nContent-Length: {len(SECOND)}\n",
        f"Content-Length: 0\nContent-Length: {len(SECOND)}\n",
        f"Content-Length: {len(SECOND)}, 0\n",
        "Content-Length: +5\n",
        "Content-Length: 0x5\n",
        f"Content-Length: {'9' * 30}\n",
        "Transfer-Encoding: identity, chunked, x\n",
        "Transfer-Encoding: xchunked\n",
        "Content-Length : 5\n",
    ],
)
def test_a_request_of_two_lengths_or_none_that_is_sure_is_refused(plain: Served, lengths: str):
    """What follows it is never taken for a request of its own, as a proxy may have taken it for the body."""
    answer = send(
        plain, f"POST {PROJECT}/sessions HTTP/1.1\nHost: x\nContent-Type: application/json\n{lengths}\n", SECOND
    )
    assert answer.count(b"HTTP/1.1 ") == 1, answer
    assert answer.startswith(b"HTTP/1.1 4"), answer
    assert b'"artifacts"' not in answer


@pytest.mark.parametrize("head", ["X: a\n b\n", "X\n", "X: a\0b\n", ": a\n"])
def test_headers_that_are_none_are_refused(plain: Served, head: str):
    answer = send(plain, f"GET {ARTIFACTS} HTTP/1.1\nHost: x\n{head}\n")
    assert not answer or answer.startswith(b"HTTP/1.1 400 "), answer


def test_a_head_is_bounded(plain: Served):
    with suppress(OSError):  # cut while it was sent, or read
        assert send(plain, f"GET {ARTIFACTS} HTTP/1.1\nHost: x\nX: {'a' * (1 << 20)}\n") == b""
    assert plain.ask("GET", "artifacts").status == 200


KEYS = (
    "../registry.db", "packs/../../registry.db", "..", ".", "/etc/passwd", "//etc/passwd", "a//b", "a/./b", "tmp/x", "a\0b", "a\nb",
    "a\\..\\b", "%2e%2e/registry.db", "..%2fregistry.db", "%252e%252e/registry.db", "a/", "é", "a;b", "x" * 300, "/".join("x" * 3000),
)  # fmt: skip


def files(served: Served) -> set[Path]:
    """Those of the store and beside it."""
    return {path for path in served.store.root.parent.rglob("*") if path.is_file() and path.suffix != ".db-wal"}


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("spelling", [lambda key: quote(key, safe="/"), lambda key: quote(key, safe="")])
def test_no_key_leads_out_of_the_store(plain: Served, key: str, spelling):
    at = f"objects/{spelling(key)}"
    before = files(plain)
    for method in ("GET", "HEAD", "DELETE"):
        answer = plain.ask(method, at)
        assert answer.status in {400, 404}, (method, answer)
        assert b"SQLite" not in answer.body
    assert plain.ask("PUT", at, body=b"x").status in {400, 404, 405}
    assert files(plain) == before


@pytest.mark.parametrize("name", ["..", ".", ".artifactfs", "a b", "a\0b", "%2e%2e", "x" * 129, "é", "a\nb"])
def test_no_project_leads_elsewhere(plain: Served, name: str):
    for method, below in (("GET", "artifacts"), ("GET", "objects"), ("PUT", "objects/a")):
        answer = plain.ask(
            method, f"/v1/projects/{quote(name, safe='')}/{below}", body=b"x" if method == "PUT" else None
        )
        assert answer.status in {400, 404}, answer
    assert not (plain.store.root / "a").exists()


def test_a_page_of_the_web_changes_nothing(plain: Served, shared: Guarded):
    """A browser sends what changes anything only after it was told that it may: by another method, or with a media type of its own."""
    for each in operations(document_of(shared)):
        path = each.path()
        answer = plain.ask(
            "OPTIONS", path, headers={"Origin": "http://evil.example", "Access-Control-Request-Method": "PUT"}
        )
        assert answer.status == 405
        assert not {name for name in answer.headers if name.startswith("access-control")}
        if each.method != "post":
            continue
        for media in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""):
            headers = {"Origin": "http://evil.example", **({"Content-Type": media} if media else {})}
            assert plain.ask("POST", path, body=b"{}", headers=headers).status == 415, path
    assert plain.registry.revision() == 0


def test_a_token_in_a_wrong_place_is_none_and_is_not_logged(shared: Guarded):
    token = shared.token("admin", "")
    for path in (
        f"{ARTIFACTS}?token={token}",
        f"{ARTIFACTS}?access_token={token}",
        f"{PROJECT}/tokens/{token}",
        f"/{token}",
    ):
        assert shared.ask("DELETE" if "/tokens/" in path else "GET", path).status in {401, 404}
    for headers in (
        {"Authorization": token},
        {"Authorization": f"Basic {token}"},
        {"Authorization": f"Bearer {token} {token}"},
        {"Authorization": f"Bearer {token},"},
        {"Authorization": f"Bearer {token}\u00a0x"},
        {"Proxy-Authorization": f"Bearer {token}"},
        {"X-Authorization": f"Bearer {token}"},
        {"Cookie": f"token={token}"},
        {"X-Request-ID": token, "X-Forwarded-For": token},
    ):
        assert shared.ask("GET", ARTIFACTS, headers=headers).status == 401, headers.keys()
    # Who deletes by the token instead of its id is told so, and the log has the id alone.
    answer = shared.ask("DELETE", f"{PROJECT}/tokens/{token}", token=token)
    assert answer.status == 404
    log = shared.logged()
    assert token[13:] not in log
    assert f"{token[:13]}…" in log


def test_scheme_and_spaces_are_as_http_has_them(shared: Guarded):
    token = shared.token("read")
    for text in (f"Bearer {token}", f"bearer {token}", f"BEARER  {token}"):
        assert shared.ask("GET", ARTIFACTS, headers={"Authorization": text}).status == 200
    assert shared.ask("GET", ARTIFACTS, token=token).headers["content-type"] == wire.JSON

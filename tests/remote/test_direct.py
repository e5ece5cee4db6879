"""Packs read straight from the object store, by URLs that the server signed: who is asked what, and what if one is not there."""

from __future__ import annotations

import itertools
import logging
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from artifactfs.content.cache import CacheSettings
from artifactfs.content.pack import pack_key
from artifactfs.content.stores import ObjectStores
from artifactfs.credentials import Credentials
from artifactfs.draft import Draft
from artifactfs.errors import ArtifactFSError, Integrity, Unavailable
from artifactfs.export import export
from artifactfs.model.names import parse_address
from artifactfs.remote import direct, wire
from artifactfs.repository import Repository
from tests import s3
from tests.content.test_objects import setenv
from tests.faults.proxy import (
    Act,
    Exchange,
    Proxy,
    answering,
    cut_response,
    relay,
    short_response,
    silence,
    trickle_response,
)
from tests.faults.stepping import files_of
from tests.server.conftest import Served, serving

PACK = r"/packs/.*\.pack"
SIGNED = "X-Amz-Signature="
NUMBERS = itertools.count()


class Team:
    """A server on a bucket, both behind a proxy each; clients by :meth:`client`."""

    def __init__(self, place: Path, served: Served, bucket: s3.Server, near: Proxy, far: Proxy, prefix: str) -> None:
        self.place = place
        self.served = served
        self.bucket = bucket
        self.near = near  # before the server
        self.far = far  # before the object store
        self.prefix = prefix
        self.source = place / "source"
        self.source.mkdir()
        chance = random.Random(5)
        for number in range(40):
            (self.source / f"f{number:02}").write_bytes(chance.randbytes(4000))
        (self.source / "large").write_bytes(chance.randbytes(9 << 20))
        with self.client("writer", direct=False) as client:
            draft = Draft(client)
            draft.add(self.source)
            draft.commit("data")
        served.stores.of_project("default")._kept.clear()
        self.forget()

    @contextmanager
    def client(self, name: str = "reader", *, seconds: float = 60.0, **credentials: Any) -> Iterator[Repository]:
        with Repository.open(
            self.near.url,
            cache=CacheSettings(self.place / name, limit=None),
            seconds=seconds,
            credentials=Credentials(**credentials),
        ) as opened:
            yield opened

    def get(self, client: Repository, name: str = "out") -> dict[str, bytes]:
        export(client, client.resolve(parse_address("data")), "", self.place / name)
        return files_of(self.place / name)

    def expected(self) -> dict[str, bytes]:
        return files_of(self.source)

    def forget(self) -> None:
        """What was asked so far is not looked at."""
        self.near.seen.clear()
        self.far.seen.clear()

    def straight(self) -> list[Any]:
        """Requests of clients to the object store."""
        return self.far.requests(SIGNED)

    def packs(self) -> list[str]:
        return [key for key in self.bucket.keys(self.prefix) if key.endswith(".pack")]


@pytest.fixture(scope="module")
def rclone() -> Iterator[s3.Server]:
    with s3.rclone() as server:
        yield server


@contextmanager
def teamed(
    tmp_path: Path, bucket: s3.Server, monkeypatch: pytest.MonkeyPatch, *, signed: float | None = 900, act: Act = relay
) -> Iterator[Team]:
    """``act``: what happens to what the server asks of the object store."""
    far = Proxy(bucket.port)
    prefix = f"direct/{next(NUMBERS)}"
    setenv(monkeypatch, far.url)
    stores = ObjectStores(f"s3://{s3.BUCKET}/{prefix}", spool=tmp_path / "spool", seconds=60.0)
    try:
        with far.fault(act, f"^(?!.*{SIGNED})"), serving(tmp_path, stores=stores, signed=signed) as served:
            near = Proxy(int(served.url.rpartition(":")[2]))
            try:
                yield Team(tmp_path, served, bucket, near, far, prefix)
            finally:
                near.close()
    finally:
        far.close()


@pytest.fixture
def team(tmp_path: Path, moto: s3.Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Team]:
    with teamed(tmp_path, moto, monkeypatch) as made:
        yield made


def read(client: Repository, path: str) -> bytes:
    version = client.resolve(parse_address("data"))
    entry = client.entry(version, path)
    return bytes(client.open_file(entry).read(0, entry.size))


# -- who is asked what -----------------------------------------------------------------------------------------------


def test_content_comes_from_the_object_store_and_the_token_does_not_go_there(team):
    token = team.served.registry.tokens.create(project="", role="read", name="", seconds=None).token
    with team.client(token=token) as client:
        assert team.get(client) == team.expected()
    assert team.straight()
    assert sum(seen.received for seen in team.straight()) >= 9 << 20
    assert team.near.received(PACK) == 0
    assert team.near.requests("/sign") == []
    for seen in team.straight():
        assert token not in str(seen.fields) + seen.path
        assert "authorization" not in seen.fields
        assert "cookie" not in seen.fields
    assert all("authorization" in seen.fields for seen in team.near.seen)


def test_a_store_of_another_make_checks_what_was_signed(tmp_path, rclone, monkeypatch):
    """It answers ranges with status 200 and a Content-Range, which counts when it is the right one."""
    with teamed(tmp_path, rclone, monkeypatch, act=s3.partial) as team:
        with team.client() as client:
            assert team.get(client) == team.expected()
        assert team.straight()
        assert team.near.received(PACK) == 0


def test_a_first_byte_costs_no_request_for_a_url(team):
    with team.client() as client:
        assert read(client, "f07") == (team.source / "f07").read_bytes()
    assert [seen.path.rpartition("/")[2] for seen in team.near.requests("/(sign|locate|path|nodes)$")] in (
        ["path"],
        ["nodes", "path"],
    )
    assert len(team.straight()) == 1


@pytest.mark.parametrize("how", ["client", "server"])
def test_it_is_switched_off(tmp_path, moto, monkeypatch, how):
    with (
        teamed(tmp_path, moto, monkeypatch, signed=None if how == "server" else 900) as team,
        team.client(direct=how == "server") as client,
    ):
        assert team.get(client) == team.expected()
        assert team.straight() == []
        assert team.near.received(PACK) >= 9 << 20


def test_urls_are_of_the_project_alone(team):
    key = pack_key("0" * 64)
    answer = team.served.ask("POST", "/v1/projects/other/objects/sign", wire.Keys([key])).message(wire.SignedUrls)
    assert urlsplit(answer.urls[0]).path == f"/{s3.BUCKET}/{team.prefix}/other/{key}"
    assert 0 < answer.seconds <= 900
    assert team.served.ask("POST", "objects/sign", wire.Keys(["../other/x"])).status == 400
    assert team.served.ask("POST", "objects/sign", wire.Keys([key] * (wire.SIGNED + 1))).status == 400


def test_a_url_is_given_again_while_half_of_its_life_is_left(team):
    signing = team.served.service.signing
    first, second = (signing.urls("default", [pack_key("0" * 64)]) for _ in range(2))
    assert first.urls == second.urls
    assert second.seconds <= first.seconds
    signing._given.update([(f"default/{pack_key('0' * 64)}".encode(), ("old", time.monotonic() + 449))])
    assert signing.urls("default", [pack_key("0" * 64)]).urls != ["old"]


# -- lives of URLs ---------------------------------------------------------------------------------------------------


def test_urls_that_have_ended_are_renewed_by_one_request(tmp_path, rclone, monkeypatch):
    monkeypatch.setattr(direct, "MARGIN", 0.0)
    with (
        teamed(tmp_path, rclone, monkeypatch, signed=2, act=s3.partial) as team,
        team.client() as client,
    ):
        assert read(client, "f00") == (team.source / "f00").read_bytes()
        client.reader.close()
        time.sleep(2.1)
        # Those that come now last for as long as it takes to use them.
        monkeypatch.setattr(team.served.service.signing, "_seconds", 900.0)
        team.forget()
        assert read(client, "large") == (team.source / "large").read_bytes()
        assert team.near.received(PACK) == 0
        assert len(team.near.requests("/sign$")) <= 2


def test_a_store_that_says_a_url_has_ended_has_it_renewed_once(team):
    with team.client() as client, team.far.fault(answering(403), SIGNED, times=1) as fault:
        assert read(client, "f00") == (team.source / "f00").read_bytes()
        assert fault.met == 1
    assert len(team.near.requests("/sign$")) == 1
    assert team.near.received(PACK) == 0


def test_a_long_read_goes_on_when_its_url_ends_meanwhile(team):
    old: set[str] = set()

    def ends(exchange: Exchange) -> None:
        """The first URL is good for the beginning of one answer."""
        signature = parse_qs(urlsplit(exchange.path).query)["X-Amz-Signature"][0]
        if old:
            (answering(403) if signature in old else relay)(exchange)
            return
        old.add(signature)
        time.sleep(1.1)  # what is signed from now on is another URL
        cut_response(300_000)(exchange)

    with team.client() as client, team.far.fault(ends, SIGNED):
        assert read(client, "large") == (team.source / "large").read_bytes()
    assert old
    assert team.near.requests("/sign$")
    assert team.near.received(PACK) == 0


# -- an object store that is not what it was -------------------------------------------------------------------------


def test_a_deleted_pack_is_an_integrity_error_that_names_it(team):
    for key in team.packs():
        team.bucket.client.delete_object(Bucket=s3.BUCKET, Key=key)
    with team.client() as client, pytest.raises(Integrity, match=r"pack [0-9a-f]{64} is missing"):
        read(client, "large")


@pytest.mark.parametrize("how", ["other bytes", "shorter"])
def test_a_replaced_pack_is_an_integrity_error_that_names_it(team, how):
    with team.client() as client:
        version = client.resolve(parse_address("data"))
        client.entry(version, "large")
        for key in team.packs():
            body = team.bucket.client.get_object(Bucket=s3.BUCKET, Key=key)["Body"].read()
            other = bytes(len(body)) if how == "other bytes" else body[:10]
            team.bucket.client.put_object(Bucket=s3.BUCKET, Key=key, Body=other)
        with pytest.raises(Integrity, match=r"pack [0-9a-f]{64} at offset"):
            read(client, "large")
        assert team.straight()


# -- an object store that cannot be reached from here -------------------------------------------------------------------


def redirecting(exchange: Exchange) -> None:
    answering(302, "Location: http://127.0.0.1:1/elsewhere")(exchange)


def whole(exchange: Exchange) -> None:
    """Ranges are ignored, as by some caches."""
    for _ in exchange.body():
        pass
    exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\ntrouble\n")


@pytest.mark.parametrize(
    "act",
    [
        silence,
        answering(403),
        answering(404),
        answering(500),
        answering(503),
        redirecting,
        whole,
        cut_response(0),
        short_response(10),
        trickle_response(1000),
    ],
    ids=["silent", "403", "404", "500", "503", "redirect", "no ranges", "cut", "short", "trickling"],
)
def test_what_the_object_store_does_not_give_comes_through_the_server(team, act):
    with team.client(seconds=8.0) as client:  # of which the store has half
        with team.far.fault(act, SIGNED):
            assert read(client, "f03") == (team.source / "f03").read_bytes()
            assert read(client, "large") == (team.source / "large").read_bytes()
        if act is not answering(404):
            assert len(team.straight()) <= 30
    assert team.near.received(PACK) > 0


def test_a_bucket_out_of_reach_is_left_alone_for_a_while(team, monkeypatch):
    urls = team.served.service.signing.urls

    def elsewhere(project: str, keys: list[str], **options: bool) -> wire.SignedUrls:
        found = urls(project, keys, **options)
        return wire.SignedUrls([url.replace(f":{team.far.port}/", ":1/") for url in found.urls], found.seconds)

    monkeypatch.setattr(team.served.service.signing, "urls", elsewhere)
    with team.client() as client:
        assert team.get(client) == team.expected()
        straight = client.store._direct
        assert straight.requests <= 24  # those that were under way
        assert not straight.wanted
        before = straight.requests
        client.registry.locate([bytes(32)])
        assert straight.requests == before
        straight._rest_until -= direct.REST_SECONDS
        assert straight.wanted
        # Of a place that came meanwhile the URL is asked for.
        monkeypatch.setattr(team.served.service.signing, "urls", urls)
        straight._signed.clear()
        team.forget()
        assert client.store.read(team.packs()[0].partition("/default/")[2], 0, 10)
        assert len(team.straight()) == len(team.near.requests("/sign$")) == 1


def test_when_server_and_store_give_nothing_it_is_an_error_within_the_bound(team):
    with team.client(seconds=2.0) as client:
        version = client.resolve(parse_address("data"))
        entry = client.entry(version, "large")
        before = time.monotonic()
        with (
            team.far.fault(silence, SIGNED),
            team.near.fault(silence, PACK),
            pytest.raises((Unavailable, ArtifactFSError)),
        ):
            client.open_file(entry).read(0, entry.size)
        assert time.monotonic() - before < 20


def test_without_tls_nothing_goes_that_came_by_tls(monkeypatch):
    class Secure:
        url = "https://data.example.org"
        seconds = 5.0
        silence = 5.0

    def taken(url: str, **credentials: Any) -> bool:
        made = direct.Direct(Secure(), "p", Credentials(**credentials), connect=1.0)
        made.learn(wire.Places(["0" * 64], [], urls=[url], seconds=900.0))
        return bool(made._signed)

    assert taken("https://bucket.example.org/x?y")
    assert taken("http://127.0.0.1:9/x?y")
    assert not taken("http://bucket.example.org/x?y")
    assert taken("http://bucket.example.org/x?y", plain_http=True)
    assert not taken("file:///etc/passwd")
    assert not taken("https://bucket.example.org/x?y\r\nz")
    assert not taken("https://bucket.example.org/x?y", direct=False)


def test_a_url_is_nowhere_but_in_memory(team, caplog):
    with caplog.at_level(logging.DEBUG), team.client() as client:
        assert team.get(client) == team.expected()
        with team.far.fault(answering(403), SIGNED):
            client.store._direct._signed.clear()
            read(client, "f01")
        shown = repr(client.store._direct._signed)
    assert team.straight()
    for text in (caplog.text, "".join(team.served.lines), shown):
        assert "Signature" not in text
    for path in team.place.rglob("*"):
        if path.is_file() and path.parent != team.source:
            assert b"X-Amz-Signature" not in path.read_bytes(), path

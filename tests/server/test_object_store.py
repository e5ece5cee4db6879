"""A server whose packs are in a bucket: what it asks of the object store, and what it does without an answer of it."""

from __future__ import annotations

import http.client
import itertools
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from artifactfs.content.pack import encode_index, index_key, pack_key
from artifactfs.content.stores import ObjectStores
from artifactfs.model.digest import DATA, TREE
from artifactfs.model.records import PackRow
from artifactfs.remote import wire
from artifactfs.server import service
from artifactfs.server.blocks import BLOCK, PackBlocks
from tests import s3
from tests.conformance.packs import chunk, packed, packed_bytes
from tests.conftest import eventually
from tests.content.stores import noise
from tests.content.test_objects import setenv
from tests.faults.proxy import Exchange, Proxy, cut_response, silence
from tests.server.conftest import Answer, Served, serving

NUMBERS = itertools.count()
PACK = r"\.pack"


@pytest.fixture
def proxy(moto: s3.Server) -> Iterator[Proxy]:
    proxy = Proxy(moto.port)
    yield proxy
    proxy.close()


@pytest.fixture
def prefix() -> str:
    return f"team/{next(NUMBERS)}"


@pytest.fixture
def far(proxy: Proxy, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    """A server on the bucket, which it reaches by way of the proxy."""
    setenv(monkeypatch, proxy.url)
    stores = ObjectStores(f"s3://{s3.BUCKET}/{prefix}", spool=tmp_path / "spool", seconds=60.0)
    stores.check()
    with serving(tmp_path, stores=stores) as served:
        yield served


def upload(served: Served, pack: PackRow, data: bytes) -> None:
    served.put(pack_key(pack.digest), data)
    served.put(index_key(pack.digest), encode_index(pack))
    assert served.ask("POST", "packs", wire.NewPacks([pack]), media=wire.MSGPACK).status == 204


def test_packs_go_to_the_bucket_and_are_checked_without_fetching_them_again(far, proxy, moto, prefix):
    pack, data = packed("a", "b")
    upload(far, pack, data)
    keys = [f"{prefix}/default/{key}" for key in (index_key(pack.digest), pack_key(pack.digest))]
    assert moto.keys(prefix) == sorted(keys)
    assert proxy.requests(PACK, "GET") == []
    answer = far.ask("GET", f"objects/{pack_key(pack.digest)}", headers={"Range": "bytes=3-9"})
    assert (answer.status, answer.body) == (206, data[3:10])
    assert answer.headers["content-range"] == f"bytes 3-9/{len(data)}"
    assert far.ask("GET", f"objects/{pack_key(pack.digest)}").body == data
    assert far.ask("HEAD", f"objects/{pack_key(pack.digest)}").headers["content-length"] == str(len(data))
    assert [key for key, _ in far.ask("GET", "objects").message(wire.Objects).objects] == sorted(
        [index_key(pack.digest), pack_key(pack.digest)]
    )


def test_a_large_pack_goes_in_parts_and_a_download_of_it_is_one_request(far, proxy, moto):
    data = noise(1, 16 << 20)
    pack, data = packed_bytes(*((DATA, data[start : start + (4 << 20)]) for start in range(0, len(data), 4 << 20)))
    upload(far, pack, data)
    assert proxy.requests("uploadId=", "PUT")
    assert moto.unfinished() == []
    far.service.stores.of_project("default")._kept.clear()
    before = len(proxy.requests(PACK))
    assert far.ask("GET", f"objects/{pack_key(pack.digest)}").body == data
    assert (
        far.ask("GET", f"objects/{pack_key(pack.digest)}", headers={"Range": "bytes=1000000-9000000"}).body
        == (data[1000000:9000001])
    )
    asked = proxy.requests(PACK)[before:]
    assert [each.method for each in asked] == ["HEAD", "GET", "GET"]


def test_an_upload_that_is_not_what_it_says_reaches_the_bucket_not_at_all(far, proxy, moto, prefix):
    pack, data = packed("a")
    assert far.ask("PUT", f"objects/{pack_key(pack.digest)}", body=data[:-1] + b"x").status == 422
    assert moto.keys(prefix) == []
    assert proxy.requests(PACK, "PUT") == []


def test_nodes_come_by_blocks_and_stay_in_memory(far, proxy):
    texts = [f"node {number} " + "x" * 900 for number in range(500)]
    pack, data = packed(*texts, kind=TREE)
    upload(far, pack, data)
    far.service.stores.of_project("default")._kept.clear()
    before = len(proxy.requests(""))
    wanted = wire.NodesWanted([chunk(text, TREE) for text in texts])
    for _ in range(3):
        answer = far.ask("POST", "nodes", wanted, media=wire.MSGPACK)
        assert len(answer.message(wire.Nodes).nodes) == 500
    asked = proxy.requests("")[before:]
    assert len(asked) <= 1 + -(-len(data) // BLOCK)


def test_memory_of_blocks_is_bounded_and_gives_what_the_store_has():
    data = noise(1, 5 * BLOCK + 100)

    class Counted:
        reads = 0

        def size(self, key: str) -> int:
            return len(data)

        def read(self, key: str, offset: int, length: int) -> bytes:
            self.reads += 1
            return data[offset : offset + length]

    store, blocks = Counted(), PackBlocks(limit=3 * BLOCK)
    for offset, length in ((0, 1), (BLOCK - 1, 2), (0, len(data)), (len(data) - 1, 1), (5 * BLOCK, 100), (7, 0)):
        assert blocks.of("p", store).read("k", offset, length) == data[offset : offset + length]
    assert blocks._size <= 3 * BLOCK
    reads = store.reads
    blocks.of("p", store).read("k", 5 * BLOCK, 100)
    assert store.reads == reads
    blocks.of("other", store).read("k", 5 * BLOCK, 100)
    assert store.reads == reads + 1, "nothing is told to one project of what another has read"


def test_what_was_deleted_behind_the_registry_is_an_error_before_the_head(far, moto, prefix):
    pack, data = packed("a")
    upload(far, pack, data)
    assert far.ask("GET", f"objects/{pack_key(pack.digest)}").body == data
    far.service.stores.of_project("default")._kept.clear()
    far.ask("GET", f"objects/{pack_key(pack.digest)}")
    moto.client.delete_object(Bucket=s3.BUCKET, Key=f"{prefix}/default/{pack_key(pack.digest)}")
    answer = far.ask("GET", f"objects/{pack_key(pack.digest)}")
    assert (answer.status, answer.code) == (404, "not-found")


def test_projects_are_apart_in_one_bucket(far, moto, prefix):
    pack, data = packed("a")
    upload(far, pack, data)
    other = f"/v1/projects/other/objects/{pack_key(pack.digest)}"
    assert far.ask("GET", other).status == far.ask("HEAD", other).status == 404
    assert far.ask("PUT", other, body=data).status == 204
    assert f"{prefix}/other/{pack_key(pack.digest)}" in moto.keys(prefix)
    assert far.ask("DELETE", f"objects/{pack_key(pack.digest)}").status == 204
    assert far.ask("GET", other).body == data


# -- an object store that does not answer ----------------------------------------------------------------------------


def test_an_object_store_that_stalls_stops_nobody_else_and_holds_a_bounded_number(proxy, prefix, tmp_path, monkeypatch):
    monkeypatch.setattr(service, "FETCHERS", 2)
    monkeypatch.setattr(service, "FETCHES_WAITING", 2)
    monkeypatch.setattr(service, "READY_SECONDS", 0.5)
    monkeypatch.setattr(service, "READY_FRESH", 0.0)
    setenv(monkeypatch, proxy.url)
    stores = ObjectStores(f"s3://{s3.BUCKET}/{prefix}", spool=tmp_path / "spool", seconds=4.0)
    with serving(tmp_path, stores=stores) as served, proxy.fault(silence, "."):
        answers: list[Answer] = []
        ask = f"objects/packs/00/{'0' * 64}.pack"
        threads = [threading.Thread(target=lambda: answers.append(served.ask("GET", ask))) for _ in range(8)]
        for thread in threads:
            thread.start()
        eventually(lambda: len(answers) >= 4)
        first = answers[:4]
        assert {answer.status for answer in first} == {503}
        assert {answer.headers["retry-after"] for answer in first} == {"1"}
        assert all("2 requests wait for a thread" in answer.json["message"] for answer in first)
        assert served.ask("GET", "/healthz").status == 200
        assert served.ask("GET", "artifacts").status == 200
        assert served.ask("GET", "revision").status == 200
        assert served.ask("POST", "chunks/missing", wire.Digests([bytes(32)])).status == 200
        assert served.ask("GET", "/readyz").status == 503
        for thread in threads:
            thread.join(60)
        assert len(answers) == 8
        assert {answer.status for answer in answers} == {503}


def test_an_answer_that_has_begun_breaks_off_with_a_line_in_the_log(far, proxy):
    """It is the bucket's fault: no traceback."""
    data = noise(1, 6 << 20)
    pack, data = packed_bytes((DATA, data[: 3 << 20]), (DATA, data[3 << 20 :]))
    upload(far, pack, data)
    far.service.stores.of_project("default")._kept.clear()
    lengths = iter([5 << 20])  # of the first answer, whose head is sent by then; of its repetitions nothing comes

    def cut(exchange: Exchange) -> None:
        cut_response(next(lengths, 0))(exchange)

    with proxy.fault(cut, PACK, method="GET"), pytest.raises(http.client.IncompleteRead):
        far.ask("GET", f"objects/{pack_key(pack.digest)}")
    eventually(lambda: any("broke off: cannot read s3://" in line.get("message", "") for line in far.log))
    assert not any("traceback" in line for line in far.log)


def test_readiness_tells_of_an_object_store_that_refuses(far, proxy, monkeypatch):
    monkeypatch.setattr(service, "READY_FRESH", 0.0)
    assert far.ask("GET", "/readyz").status == 200
    with proxy.refusing():
        assert far.ask("GET", "/readyz").status == 503
        assert far.ask("GET", "/healthz").status == 200

"""What goes wrong with the bucket behind a server: bytes are right or there is an error, and what is sent is there once, whole."""

from __future__ import annotations

import os
import re

import pytest

from tests import s3
from tests.faults.proxy import (
    Exchange,
    answering,
    cut_request,
    cut_response,
    flipped,
    flipped_response,
    lost_reply,
    silence,
    trickle_request,
)
from tests.faults.remote.machines import (
    BUCKET,
    COMMITS,
    ERRNOS,
    LARGE,
    PACK,
    PATIENCE,
    THROUGH,
    finish,
    in_time,
    no_wrong_bytes,
    read,
    read_again,
    read_all,
    shown,
)

BOTH = pytest.mark.parametrize("running", [BUCKET, THROUGH], indirect=True)
BACK_END = BUCKET

LISTING = r"list-type=2"
NO_ANSWER = {
    "cut": cut_response(0),
    "silence": silence,
    "503": answering(503, "Retry-After: 60"),
    "403": answering(403),
    "wrong-bytes": flipped_response,
}
SENDING = {
    "cut": cut_request(100_000),
    "silence": silence,
    "trickle": trickle_request(1000),
    "500": answering(500),
    "503": answering(503, "Retry-After: 60"),
    "403": answering(403),
    "507": answering(507),
}
PARTS = {
    "begun": ("POST", r"\?uploads"),
    "part": ("PUT", "partNumber=2"),
    "completed": ("POST", "uploadId="),
}


def answer(code: str, status: int):
    """An answer as S3 has it."""

    def act(exchange: Exchange) -> None:
        for _ in exchange.body():
            pass
        body = f"<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode()
        head = f"HTTP/1.1 {status} Trouble\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        exchange.send(head if exchange.method == "HEAD" else head + body)

    return act


def empty_listing(exchange: Exchange) -> None:
    """Of a bucket whose listings lag behind."""
    body = (
        b'<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>bucket</Name><Prefix></Prefix>'
        b"<KeyCount>0</KeyCount><MaxKeys>1000</MaxKeys><IsTruncated>false</IsTruncated></ListBucketResult>"
    )
    for _ in exchange.body():
        pass
    exchange.send(b"HTTP/1.1 200 OK\r\nContent-Type: application/xml\r\nContent-Length: %d\r\n\r\n" % len(body) + body)


@pytest.fixture
def fresh(tmp_path):
    """A directory with files that no server has; two megabytes."""
    (tmp_path / "fresh").mkdir()
    for name, size in (("large", 2 << 20), ("small", 1000)):
        (tmp_path / "fresh" / name).write_bytes(os.urandom(size))
    return tmp_path / "fresh"


@pytest.fixture
def lone(server, fresh):
    """An artifact whose files have a pack of their own: its name, its files, and the pack's key."""
    before = server.packs()
    name = f"lone-{len(before)}"
    server.cli("put", name, fresh)
    server.restart()  # nothing of it is in memory
    keys = [key for pack, key in server.keys().items() if pack not in before]
    sizes = {key: server.bucket.client.head_object(Bucket=s3.BUCKET, Key=key)["ContentLength"] for key in keys}
    return name, read_all(fresh), max(sizes, key=sizes.__getitem__)


# -- reading -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("running", [THROUGH], indirect=True)
@pytest.mark.parametrize("fault", NO_ANSWER)
def test_through_the_server_a_lasting_fault_is_an_error_and_is_forgotten(
    server, proxy, packs, new_machine, begin, tmp_path, fault
):
    here, there = new_machine("get", seconds=2), new_machine("mount", seconds=2)
    there.complaints = 100 if fault in {"wrong-bytes", "403"} else 0
    in_time(there.mount)
    assert len(in_time(lambda: os.listdir(there.root / "data/v0"))) == 3
    with packs.fault(NO_ANSWER[fault]) as happened:
        getting = begin(here, "get", "data", tmp_path / "out")
        assert read(there.root / "data/v0" / LARGE) in {*ERRNOS, 13}
        assert finish(getting).status == 1
        # What needs no pack is answered meanwhile.
        assert in_time(lambda: there("ls", "data")).status == 0
    assert happened.met >= 1  # by the mount; `get` may have had too little time to come so far
    no_wrong_bytes(tmp_path / "out", server.source)
    assert read_again(there.root / "data/v0") == read_all(server.source)
    here.cli.env["ARTIFACTFS_TIMEOUT"] = str(PATIENCE)
    assert finish(begin(here, "get", "data", tmp_path / "again")).status == 0
    assert proxy.requests(PACK, "GET")
    there.unmount()


@pytest.mark.parametrize("running", [THROUGH], indirect=True)
def test_an_answer_that_the_bucket_breaks_off_again_and_again_is_an_error_or_right(
    server, packs, new_machine, begin, tmp_path
):
    """Also when it has begun; in the server's log there is no traceback, which the server's end looks for."""
    here = new_machine(seconds=4)
    with packs.fault(cut_response(300_000)) as happened:
        finish(begin(here, "get", "data", tmp_path / "out"))
    assert happened.met >= 3
    no_wrong_bytes(tmp_path / "out", server.source)
    here.cli.env["ARTIFACTFS_TIMEOUT"] = str(PATIENCE)
    assert finish(begin(here, "get", "data", tmp_path / "again")).status == 0
    assert read_all(tmp_path / "again") == read_all(server.source)


@BOTH
def test_a_pack_that_is_gone_is_named_and_the_rest_is_read(server, new_machine, begin, lone, tmp_path):
    name, files, key = lone
    there = new_machine(seconds=5)
    there.complaints = 100
    there.mount()
    kept = server.bucket.client.get_object(Bucket=s3.BUCKET, Key=key)["Body"].read()
    server.bucket.client.delete_object(Bucket=s3.BUCKET, Key=key)
    got = finish(begin(there, "get", name, tmp_path / "out"))
    assert got.status == 1
    assert re.search(r"pack [0-9a-f]{64} is missing; run `artifactfs verify`", got.stderr), got
    assert read(there.root / name / "v0/large") in ERRNOS
    assert read_all(there.root / "data/v0") == read_all(server.source)
    # It comes back, as from another region.
    server.bucket.client.put_object(Bucket=s3.BUCKET, Key=key, Body=kept)
    assert read_again(there.root / name / "v0") == files
    there.unmount()


@BOTH
@pytest.mark.parametrize("how", ["same length", "shorter", "longer"])
def test_a_pack_of_other_bytes_gives_none_of_them(server, new_machine, begin, lone, tmp_path, how):
    name, files, key = lone
    there = new_machine(seconds=5)
    there.complaints = 100
    there.mount()
    whole = server.bucket.client.get_object(Bucket=s3.BUCKET, Key=key)["Body"].read()
    other = {"same length": bytes(len(whole)), "shorter": whole[:1000], "longer": flipped(whole) + b"more"}[how]
    server.bucket.client.put_object(Bucket=s3.BUCKET, Key=key, Body=other)
    got = finish(begin(there, "get", name, tmp_path / "out"))
    assert got.status == 1
    assert re.search(r"pack|\.pack", got.stderr), got
    assert "artifactfs verify" in got.stderr
    for path, data in files.items():
        assert read(there.root / name / "v0" / path) in {*ERRNOS, *([data] if how == "longer" else [])}, path
    server.bucket.client.put_object(Bucket=s3.BUCKET, Key=key, Body=whole)
    assert read_again(there.root / name / "v0") == files
    there.unmount()


def test_keys_that_are_no_longer_good_are_one_line_and_good_again_later(server, new_machine, begin, fresh, tmp_path):
    here = new_machine(seconds=2)
    with server.far.fault(answer("InvalidAccessKeyId", 403), "."):
        got = finish(begin(here, "get", "data", tmp_path / "out"))
        put = finish(begin(here, "put", "revoked", fresh))
        assert (got.status, put.status) == (1, 1)
        for told in (got.stderr, put.stderr):
            assert re.search(r"may not be (read|written) \(.*set AWS_PROFILE", told), told
            assert s3.SECRET not in told
            assert "Signature=" not in told
        assert server.versions("revoked") == []
    here.cli.env["ARTIFACTFS_TIMEOUT"] = str(PATIENCE)
    assert finish(begin(here, "put", "revoked", fresh)).stdout == "revoked:v0\n"
    assert finish(begin(here, "get", "data", tmp_path / "again")).status == 0
    assert read_all(tmp_path / "again") == read_all(server.source)


def test_a_bucket_that_asks_to_slow_down_is_asked_again(server, packs, new_machine, begin, fresh, tmp_path):
    here = new_machine(seconds=PATIENCE)
    with packs.fault(answer("SlowDown", 503), method="", times=6) as happened:
        assert finish(begin(here, "put", "slower", fresh)).stdout == "slower:v0\n"
        assert finish(begin(here, "get", "data", tmp_path / "out")).status == 0
    assert happened.met == 6
    assert read_all(tmp_path / "out") == read_all(server.source)


def test_nothing_that_is_read_or_written_depends_on_a_listing(server, new_machine, begin, fresh, tmp_path):
    """It may lag behind, or fail."""
    here = new_machine(seconds=PATIENCE)
    for number, act in enumerate((empty_listing, answering(500), silence)):
        (fresh / "number").write_bytes(bytes([number]))
        with server.far.fault(act, LISTING):
            assert finish(begin(here, "put", "listed", fresh)).stdout == f"listed:v{number}\n"
            assert finish(begin(here, "get", f"listed:v{number}", tmp_path / f"{number}")).status == 0
        assert read_all(tmp_path / f"{number}") == read_all(fresh)
    with server.far.fault(empty_listing, LISTING):
        assert server.cli("verify").status == 0


# -- writing -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", SENDING)
def test_what_the_bucket_does_not_take_is_an_error_and_the_work_is_not_lost(
    server, proxy, packs, new_machine, begin, fresh, fault
):
    name = f"refused-{fault}"
    here, there = new_machine("put", seconds=2), new_machine("commit", seconds=2)
    in_time(there.mount)
    for path, data in read_all(fresh).items():
        in_time(lambda path=path, data=data: (there.staging(f"{name}-staged") / path).write_bytes(data))
    before = len(proxy.requests(COMMITS))
    with packs.fault(SENDING[fault], method="PUT") as happened:
        put, commit = begin(here, "put", name, fresh), begin(there, "commit", f"{name}-staged")
        assert (finish(put).status, finish(commit).status) == (1, 1)
        assert read_all(there.root / f"{name}-staged/staging") == read_all(fresh)
    assert happened.met >= 1
    assert len(proxy.requests(COMMITS)) == before, "what is not stored is not told of"
    assert server.versions(name) == server.versions(f"{name}-staged") == []
    there.cli.env["ARTIFACTFS_TIMEOUT"] = str(PATIENCE)  # an upload that was given up may be under way still
    assert finish(begin(there, "put", name, fresh)).stdout == f"{name}:v0\n"
    assert in_time(lambda: there.commit(f"{name}-staged")) == f"{name}-staged:v0"
    assert (
        read_again(shown(there.root / name / "v0")) == read_again(there.root / f"{name}-staged/v0") == read_all(fresh)
    )
    there.unmount()


@pytest.mark.parametrize("where", PARTS)
@pytest.mark.parametrize("fault", ["500", "silence", "lost-reply"])
def test_an_upload_in_parts_is_whole_in_the_end(server, new_machine, begin, tmp_path, where, fault):
    """What passes is not noticed; a bucket that has done what it was asked and did not say so does no harm."""
    act = {"500": answering(500), "silence": silence, "lost-reply": lost_reply}[fault]
    method, path = PARTS[where]
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts/file").write_bytes(os.urandom(10 << 20))
    here = new_machine(seconds=PATIENCE)
    name = f"parts-{where}-{fault}"
    with server.far.fault(act, path, method=method, times=1) as happened:
        assert finish(begin(here, "put", name, tmp_path / "parts")).stdout == f"{name}:v0\n"
    assert happened.met == 1
    assert server.versions(name) == [f"{name}:v0"]
    server.restart()  # it keeps in memory what it has just sent
    assert finish(begin(here, "get", name, tmp_path / "out")).status == 0
    assert read_all(tmp_path / "out") == read_all(tmp_path / "parts")


def test_an_upload_that_has_ended_and_is_forgotten_since_is_found(server, new_machine, begin, tmp_path):
    """The answer that said so got lost, and the store, asked again, knows of no such upload, as MinIO and Ceph do."""
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts/file").write_bytes(os.urandom(10 << 20))
    here = new_machine(seconds=PATIENCE)
    method, path = PARTS["completed"]
    with (
        server.far.fault(lost_reply, path, method=method, times=1) as lost,
        server.far.fault(answer("NoSuchUpload", 404), path, method=method, skip=1) as forgotten,
    ):
        assert finish(begin(here, "put", "forgotten", tmp_path / "parts")).stdout == "forgotten:v0\n"
    assert (lost.met, forgotten.met) == (1, 1)
    server.restart()
    assert finish(begin(here, "get", "forgotten", tmp_path / "out")).status == 0
    assert read_all(tmp_path / "out") == read_all(tmp_path / "parts")


@pytest.mark.parametrize("where", PARTS)
def test_an_upload_in_parts_that_cannot_end_is_an_error_and_may_be_repeated(
    server, new_machine, begin, tmp_path, where
):
    method, path = PARTS[where]
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts/file").write_bytes(os.urandom(10 << 20))
    here = new_machine(seconds=3)
    name = f"unended-{where}"
    with server.far.fault(silence if where == "part" else answering(503), path, method=method) as happened:
        assert finish(begin(here, "put", name, tmp_path / "parts")).status == 1
    assert happened.met >= 1
    assert server.versions(name) == []
    here.cli.env["ARTIFACTFS_TIMEOUT"] = str(PATIENCE)
    assert finish(begin(here, "put", name, tmp_path / "parts")).stdout == f"{name}:v0\n"
    server.restart()
    assert finish(begin(here, "get", name, tmp_path / "out")).status == 0
    assert read_all(tmp_path / "out") == read_all(tmp_path / "parts")

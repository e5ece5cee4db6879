"""ObjectStore against real servers: the contract, its bounds, and what goes wrong at the other side."""

from __future__ import annotations

import itertools
import os
import stat
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from artifactfs.buckets import bucket as buckets
from artifactfs.content.objects import ObjectStore
from artifactfs.content.spool import Kept, Spool
from artifactfs.content.stores import LocalStores, ObjectStores
from artifactfs.errors import (
    Access,
    ArtifactFSError,
    Format,
    Integrity,
    InvalidInput,
    NoSpace,
    NotFound,
    Unavailable,
)
from tests import s3
from tests.conformance.store import StoreConformance, get, put
from tests.conftest import eventually
from tests.content.stores import noise
from tests.faults.proxy import (
    Act,
    Proxy,
    answering,
    cut_request,
    cut_response,
    lost_reply,
    relay,
    short_response,
    silence,
    then,
    trickle_response,
)

MEBI = 1 << 20
SECONDS = 20.0
HASTY = 2.0
"""For what never answers, or too slowly. A request has half of it, which a machine in trouble may exceed at any request."""
PACK = "packs/ab/one.pack"
NUMBERS = itertools.count()


@pytest.fixture(scope="module")
def rclone() -> Iterator[s3.Server]:
    with s3.rclone() as server:
        yield server


@pytest.fixture
def prefix() -> str:
    return f"team/{next(NUMBERS)}"


@pytest.fixture
def proxy(moto: s3.Server) -> Iterator[Proxy]:
    proxy = Proxy(moto.port)
    yield proxy
    proxy.close()


def opened(prefix: str, spool: Path, *, bucket: str = s3.BUCKET, seconds: float = SECONDS) -> ObjectStores:
    return ObjectStores(f"s3://{bucket}/{prefix}", spool=spool, seconds=seconds)


def setenv(monkeypatch: pytest.MonkeyPatch, endpoint: str, **options: str) -> None:
    for name in os.environ:
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    for name, value in s3.environ_of(endpoint, **options).items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def stores(proxy: Proxy, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStores]:
    setenv(monkeypatch, proxy.url)
    stores = opened(prefix, tmp_path / "spool")
    yield stores
    stores.close()


@pytest.fixture
def store(stores: ObjectStores) -> ObjectStore:
    return stores.of_project("p")


@pytest.fixture
def hasty(proxy: Proxy, prefix: str, stores: ObjectStores, tmp_path: Path) -> Iterator[ObjectStore]:
    """The same objects as ``store`` has, with little time."""
    stores = opened(prefix, tmp_path / "spool", seconds=HASTY)
    yield stores.of_project("p")
    stores.close()


def again(call: Callable[[], object], *, hurry: bool) -> None:
    """Do what has failed, with success: in a ``hurry`` it may take a slow machine some attempts."""

    def succeeds() -> bool:
        try:
            call()
        except Unavailable:
            return False
        return True

    if hurry:
        eventually(succeeds)
    else:
        call()


class TestMoto(StoreConformance):
    @pytest.fixture
    def store(
        self, moto: s3.Server, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> Iterator[ObjectStore]:
        setenv(monkeypatch, moto.endpoint)
        stores = opened(prefix, tmp_path / "spool", seconds=20)
        yield stores.of_project("p")
        stores.close()


class TestRclone(StoreConformance):
    """Of another make, with signatures that count; behind something that mends its status."""

    replaces_at_once = False  # while an object is stored again, it says NoSuchKey to who reads it

    @pytest.fixture
    def store(
        self, rclone: s3.Server, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> Iterator[ObjectStore]:
        proxy = Proxy(rclone.port)
        setenv(monkeypatch, proxy.url)
        stores = opened(prefix, tmp_path / "spool", seconds=20)
        with proxy.fault(s3.partial, ""):
            yield stores.of_project("p")
        stores.close()
        proxy.close()


class TestGoogle(StoreConformance):
    """As Google Cloud Storage is spoken with, to a server of S3: the two have one XML API."""

    @pytest.fixture
    def store(
        self, moto: s3.Server, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> Iterator[ObjectStore]:
        proxy = Proxy(moto.port)
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", proxy.url)
        stores = ObjectStores(f"gs://{s3.BUCKET}/{prefix}", spool=tmp_path / "spool", seconds=20)
        with proxy.fault(s3.google, ""):
            yield stores.of_project("p")
        stores.close()
        proxy.close()


# -- where things are --------------------------------------------------------------------------------------------------


def test_each_project_has_keys_of_its_own_below_the_prefix(stores: ObjectStores, moto: s3.Server, prefix: str):
    one, two = stores.of_project("one"), stores.of_project("two")
    put(one, PACK, b"1")
    assert list(two.list()) == []
    with pytest.raises(NotFound):
        two.size(PACK)
    put(two, PACK, b"22")
    assert moto.keys(prefix) == [f"{prefix}/one/{PACK}", f"{prefix}/two/{PACK}"]
    assert list(one.list()) == [(PACK, 1)]
    assert stores.of_project("one") is one


def test_without_a_prefix_projects_lie_in_the_bucket_itself(stores: ObjectStores, moto: s3.Server, tmp_path: Path):
    whole = ObjectStores(f"s3://{s3.BUCKET}", spool=tmp_path, seconds=SECONDS)
    put(whole.of_project("alone"), "a", b"x")
    assert moto.keys("alone") == ["alone/a"]
    assert list(whole.of_project("alone").list()) == [("a", 1)]
    whole.close()


def test_what_is_no_key_of_a_store_is_not_listed(store: ObjectStore, moto: s3.Server, prefix: str):
    put(store, "a-b/c", b"x")
    for foreign in ("", "a/", "a/c d", "a/b:c"):
        moto.client.put_object(Bucket=s3.BUCKET, Key=f"{prefix}/p/{foreign}", Body=b"")
    assert list(store.list()) == [("a-b/c", 1)]
    assert list(store.list("a/")) == []


def test_a_listing_of_several_pages_is_in_order(store: ObjectStore, moto: s3.Server, prefix: str, proxy: Proxy):
    keys = [f"packs/{number:04}" for number in range(s3.PAGE + 5)]
    for key in keys:
        moto.client.put_object(Bucket=s3.BUCKET, Key=f"{prefix}/p/{key}", Body=b"x")
    assert [key for key, _ in store.list("packs/")] == keys
    assert len(proxy.requests("list-type=2")) == 2


@pytest.mark.parametrize(
    ("url", "word"),
    [
        ("/srv/store", "looks like"),
        ("http://host/store", "looks like"),
        ("s3:///prefix", "bucket"),
        ("s3://bucket/a b", "key"),
        ("s3://bucket/a/../b", "key"),
        ("s3://name:hunter2@bucket/a", "credentials"),
        ("https://account.blob.core.windows.net/c/a?sig=hunter2", "credentials"),
        ("s3://bucket/a?versionId=hunter2", "credentials"),
    ],
)
def test_what_names_no_object_store_is_refused_without_repeating_secrets(url: str, word: str, tmp_path: Path):
    with pytest.raises(InvalidInput, match=word) as raised:
        ObjectStores(url, spool=tmp_path, seconds=SECONDS)
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize("name", ["..", "a/b", "", ".artifactfs"])
def test_what_is_no_project_has_no_store(stores: ObjectStores, name: str, tmp_path: Path):
    for each in (stores, LocalStores(tmp_path / "store")):
        with pytest.raises(InvalidInput):
            each.of_project(name)


def test_a_directory_holds_projects_too_and_is_made_by_an_upload(tmp_path: Path):
    stores = LocalStores(tmp_path / "deep" / "store")
    stores.check()
    store = stores.of_project("one")
    assert list(store.list()) == []
    with pytest.raises(NotFound):
        store.size("a")
    assert not (tmp_path / "deep").exists()
    put(store, "a", b"x")
    assert (tmp_path / "deep" / "store" / "one" / "a").read_bytes() == b"x"
    assert get(stores.of_project("one"), "a") == b"x"
    assert list(stores.of_project("two").list()) == []
    stores.check()
    stores.close()
    assert stores.local
    assert not store.signs
    with pytest.raises(InvalidInput, match="signed"):
        store.sign(["a"], seconds=60)


# -- requests ----------------------------------------------------------------------------------------------------------


def test_an_object_of_several_parts_is_sent_in_parts_and_read_by_one_request(
    store: ObjectStore, proxy: Proxy, moto: s3.Server, prefix: str
):
    data = noise(1, 20 * MEBI)
    put(store, PACK, data[:MEBI], data[MEBI:])
    assert len(proxy.requests("partNumber=", "PUT")) == 3
    store._kept.clear()
    proxy.seen.clear()
    lengths = [1000, 3 * MEBI, 0, 5, 16 * MEBI]
    parts = list(store.read_parts(PACK, 7, lengths))
    assert [len(part) for part in parts] == lengths
    assert b"".join(parts) == data[7 : 7 + sum(lengths)]
    assert [(seen.method, seen.fields["range"]) for seen in proxy.seen] == [("GET", f"bytes=7-{6 + sum(lengths)}")]
    assert moto.unfinished() == []


def test_a_small_object_is_sent_at_once(store: ObjectStore, proxy: Proxy):
    put(store, PACK, noise(1, 8 * MEBI))
    assert [seen.method for seen in proxy.seen] == ["HEAD", "PUT"]


def test_what_is_there_with_this_size_is_not_sent_again(store: ObjectStore, proxy: Proxy):
    put(store, PACK, b"hello")
    proxy.seen.clear()
    put(store, PACK, b"hello")
    assert [seen.method for seen in proxy.seen] == ["HEAD"]


def test_what_is_there_with_another_size_is_mended(store: ObjectStore, moto: s3.Server, prefix: str):
    moto.client.put_object(Bucket=s3.BUCKET, Key=f"{prefix}/p/{PACK}", Body=b"hel")
    put(store, PACK, b"hello")
    store._kept.clear()
    assert get(store, PACK) == b"hello"


def test_memory_does_not_grow_with_the_object(moto: s3.Server, prefix: str, tmp_path: Path, monkeypatch):
    setenv(monkeypatch, moto.endpoint)
    code = (
        "import pathlib, re, sys\n"
        "from artifactfs.content.stores import ObjectStores\n"
        "def most():\n"
        "    return int(re.search(r'VmHWM:\\s+(\\d+) kB', pathlib.Path('/proc/self/status').read_text())[1]) >> 10\n"
        "stores = ObjectStores(sys.argv[1], spool=pathlib.Path(sys.argv[2]), seconds=60)\n"
        "store = stores.of_project('p')\n"
        "upload = store.upload(); upload.write(b'x'); upload.publish('small'); list(store.list())\n"
        "before = most()\n"
        "upload = store.upload()\n"
        "for number in range(192): upload.write(bytes([number]) * (1 << 20))\n"
        "upload.publish('big')\n"
        "written = most()\n"
        "store._kept.clear()\n"
        "parts = store.read_parts('big', 0, [1 << 20] * 192)\n"
        "assert all(part == bytes([number]) * (1 << 20) for number, part in enumerate(parts))\n"
        "stores.close()\n"
        "print(written - before, most() - written)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, f"s3://{s3.BUCKET}/{prefix}", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    written, read = map(int, done.stdout.split())
    assert written < 96
    assert read < 32


# -- what was just sent ------------------------------------------------------------------------------------------------


def test_what_was_just_sent_is_read_once_from_here(store: ObjectStore, proxy: Proxy):
    put(store, PACK, b"hello", b"world")
    proxy.seen.clear()
    assert store.size(PACK) == 10
    assert list(store.read_parts(PACK, 0, [3, 4])) == [b"hel", b"lowo"]
    assert b"".join(store.read_parts(PACK, 0, [4, 6])) == b"helloworld"
    assert proxy.seen == []
    assert get(store, PACK) == b"helloworld"
    assert [seen.method for seen in proxy.seen] == ["HEAD", "GET"]


def test_what_was_just_sent_and_ends_before_is_asked_for(store: ObjectStore):
    put(store, PACK, b"hello")
    with pytest.raises(Integrity, match="ends at 5 before 6"):
        store.read(PACK, 0, 6)


def test_what_others_sent_is_checked_where_it_lies(store: ObjectStore, moto: s3.Server, prefix: str):
    moto.client.put_object(Bucket=s3.BUCKET, Key=f"{prefix}/p/{PACK}", Body=b"wrong")
    put(store, PACK, b"right")
    assert get(store, PACK) == b"wrong"


def test_what_was_deleted_is_not_read_from_here(store: ObjectStore):
    put(store, PACK, b"hello")
    store.delete(PACK)
    with pytest.raises(NotFound):
        store.read(PACK, 0, 1)


def test_what_is_kept_is_bounded(tmp_path: Path):
    kept = Kept(10)
    for name in ("a", "b", "c"):
        spool = Spool(tmp_path)
        spool.write(b"x" * 4)
        kept.keep(name, spool)
    kept.keep("c", spool)
    assert [kept.find(name) is not None for name in ("a", "b", "c")] == [False, True, True]
    large = Spool(tmp_path)
    large.write(b"x" * 11)
    kept.keep("d", large)
    assert not any(kept.find(name) for name in "abcd")


def test_spools_have_no_names_and_are_closed(store: ObjectStore, tmp_path: Path):
    def held() -> int:
        links = (os.path.realpath(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd"))
        return sum(link.startswith(f"{tmp_path}/") for link in links)

    upload = store.upload()
    upload.write(b"secret")
    spool = tmp_path / "spool"
    assert stat.S_IMODE(spool.stat().st_mode) == 0o700
    assert list(spool.iterdir()) == []
    assert held() == 1
    upload.abort()
    assert held() == 0
    put(store, "a", b"x")
    assert get(store, "a") == b"x"
    assert held() == 0
    with pytest.raises(InvalidInput, match="ended"):
        upload.write(b"x")


def test_a_full_disk_is_no_space(moto: s3.Server, prefix: str, small_disk: Path, monkeypatch: pytest.MonkeyPatch):
    setenv(monkeypatch, moto.endpoint)
    stores = opened(prefix, small_disk / "spool")
    upload = stores.of_project("p").upload()
    with pytest.raises(NoSpace, match="spool"):
        upload.write(b"x" * 20 * MEBI)
    upload.abort()
    put(stores.of_project("p"), "a", b"x" * 4 * MEBI)
    assert moto.keys(prefix) == [f"{prefix}/p/a"]
    stores.close()


def test_a_directory_that_cannot_be_made_is_said(moto: s3.Server, prefix: str, tmp_path: Path, monkeypatch):
    setenv(monkeypatch, moto.endpoint)
    (tmp_path / "file").write_bytes(b"")
    stores = opened(prefix, tmp_path / "file")
    with pytest.raises(ArtifactFSError, match="cannot spool an upload"):
        stores.of_project("p").upload()
    stores.close()


# -- trouble -----------------------------------------------------------------------------------------------------------

CALLS = {
    "read": lambda store: store.read("a", 1, 2),
    "size": lambda store: store.size("a"),
    "list": lambda store: list(store.list()),
    "delete": lambda store: store.delete("a"),
    "publish": lambda store: put(store, "b", b"x"),
}


@pytest.fixture
def filled(store: ObjectStore) -> ObjectStore:
    put(store, "a", b"hello")
    assert get(store, "a") == b"hello"
    return store


@pytest.mark.parametrize("call", CALLS)
def test_a_store_that_nobody_listens_at_is_unavailable_and_asked_again_later(
    filled: ObjectStore, proxy: Proxy, call: str
):
    with proxy.refusing(), pytest.raises(Unavailable, match=r"s3://bucket/"):
        CALLS[call](filled)
    CALLS[call](filled)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("act", [silence, answering(503)], ids=["silent", "busy"])
def test_a_store_that_does_not_answer_is_unavailable_after_a_few_requests(
    filled: ObjectStore, hasty: ObjectStore, proxy: Proxy, act: Act, call: str
):
    asked = hasty if act is silence else filled
    with proxy.fault(act, "") as fault, pytest.raises(Unavailable) as raised:
        CALLS[call](asked)
    assert 1 <= fault.met <= buckets.ATTEMPTS
    assert "\n" not in str(raised.value)
    again(lambda: CALLS[call](asked), hurry=asked is hasty)


@pytest.mark.parametrize("call", CALLS)
def test_a_store_that_is_busy_for_a_moment_is_asked_again(filled: ObjectStore, proxy: Proxy, call: str):
    with proxy.fault(answering(503), "", times=1) as fault:
        CALLS[call](filled)
    assert fault.met == 1


@pytest.fixture
def large(store: ObjectStore) -> bytes:
    data = noise(2, 12 * MEBI)
    put(store, PACK, data)
    store._kept.clear()
    return data


@pytest.mark.parametrize("act", [cut_response(3 * MEBI), cut_response(1000), short_response(3 * MEBI)])
def test_what_breaks_off_is_gone_on_with(store: ObjectStore, proxy: Proxy, large: bytes, act: Act):
    proxy.seen.clear()
    with proxy.fault(act, PACK, times=1):
        assert b"".join(store.read_parts(PACK, 0, [5 * MEBI, 7 * MEBI])) == large
    first, second = (seen.fields["range"] for seen in proxy.seen)
    assert first == f"bytes=0-{12 * MEBI - 1}"
    assert second != first


def test_what_breaks_off_again_and_again_is_read_as_long_as_something_comes(
    store: ObjectStore, proxy: Proxy, large: bytes
):
    with proxy.fault(short_response(2 * MEBI), PACK) as fault:
        assert store.read(PACK, 0, len(large)) == large
    assert fault.met >= 5


def test_what_never_comes_far_is_unavailable_after_a_few_requests(store: ObjectStore, proxy: Proxy, large: bytes):
    with proxy.fault(cut_response(1000), PACK) as fault, pytest.raises(Unavailable, match=PACK):
        store.read(PACK, 0, len(large))
    assert fault.met <= buckets.ATTEMPTS


def test_what_trickles_is_asked_for_anew_after_the_bound_and_given_up_when_nothing_comes(
    hasty: ObjectStore, proxy: Proxy, large: bytes
):
    with proxy.fault(trickle_response(3 * MEBI), PACK, times=1):
        assert hasty.read(PACK, 0, len(large)) == large
    with proxy.fault(trickle_response(1000), PACK) as fault, pytest.raises(Unavailable, match=PACK):
        hasty.read(PACK, 0, len(large))
    assert fault.met <= buckets.ATTEMPTS


def test_a_read_that_is_left_lets_go(store: ObjectStore, proxy: Proxy, large: bytes):
    parts = store.read_parts(PACK, 0, [MEBI] * 12)
    assert next(parts) == large[:MEBI]
    parts.close()
    assert store.read(PACK, 5, 5) == large[5:10]


@pytest.mark.parametrize("act", [silence, cut_request(1000), answering(503)], ids=["silent", "cut", "busy"])
def test_an_upload_whose_parts_do_not_arrive_is_unavailable_and_may_be_repeated(
    store: ObjectStore, hasty: ObjectStore, proxy: Proxy, moto: s3.Server, prefix: str, act: Act
):
    data = noise(3, 9 * MEBI)
    upload = (hasty if act is silence else store).upload()
    upload.write(data)
    with proxy.fault(act, "partNumber=2", method="PUT"), pytest.raises(Unavailable, match=r"cannot write .*one\.pack"):
        upload.publish(PACK)
    assert moto.keys(prefix) == []
    eventually(lambda: moto.unfinished() == [])  # it is told so, within the bound or a little later
    again(lambda: upload.publish(PACK), hurry=act is silence)
    store._kept.clear()
    assert get(store, PACK) == data


def test_an_answer_that_is_lost_does_no_harm(store: ObjectStore, proxy: Proxy):
    with proxy.fault(lost_reply, PACK, method="PUT", times=1) as fault:
        put(store, PACK, b"hello")
    assert fault.met == 1
    store._kept.clear()
    assert get(store, PACK) == b"hello"


def test_a_store_without_room_is_no_space(store: ObjectStore, proxy: Proxy):
    with proxy.fault(answering(507), PACK, method="PUT"), pytest.raises(NoSpace, match=r"cannot be written.*free"):
        put(store, PACK, b"hello")


def test_an_object_that_is_gone_is_not_found_by_name(
    store: ObjectStore, proxy: Proxy, moto: s3.Server, prefix: str, large
):
    name = f"{prefix}/p/{PACK}"
    parts = store.read_parts(PACK, 0, [MEBI] * 12)

    def forget() -> None:
        moto.client.delete_object(Bucket=s3.BUCKET, Key=name)

    with (
        proxy.fault(cut_response(2 * MEBI), PACK, times=1),
        proxy.fault(then(forget, relay), PACK, skip=1, times=1),
        pytest.raises(NotFound, match=f"s3://bucket/{name} is not there"),
    ):
        list(parts)
    with pytest.raises(NotFound, match=name):
        store.size(PACK)


@pytest.mark.parametrize("act", [short_response, trickle_response], ids=["short", "trickling"])
def test_an_object_that_is_replaced_while_it_is_read_is_an_integrity_error(
    store: ObjectStore, hasty: ObjectStore, proxy: Proxy, moto: s3.Server, prefix: str, large: bytes,
    act: Callable[[int, Callable[[], object]], Act],
):  # fmt: skip
    name = f"{prefix}/p/{PACK}"

    def replace() -> None:
        moto.client.put_object(Bucket=s3.BUCKET, Key=name, Body=noise(9, len(large)))

    asked = hasty if act is trickle_response else store
    with (
        proxy.fault(act(2 * MEBI, replace), PACK, times=1),
        pytest.raises(Integrity, match=f"{name} was replaced"),
    ):
        asked.read(PACK, 0, len(large))


def test_an_object_that_became_shorter_is_an_integrity_error(
    store: ObjectStore, moto: s3.Server, prefix: str, large: bytes
):
    moto.client.put_object(Bucket=s3.BUCKET, Key=f"{prefix}/p/{PACK}", Body=large[:MEBI])
    with pytest.raises(Integrity, match=rf"{PACK}: ends at {MEBI} before {2 * MEBI}"):
        store.read(PACK, 0, 2 * MEBI)
    with pytest.raises(Integrity, match=PACK):
        store.read(PACK, 2 * MEBI, 1)


def test_a_bucket_that_is_not_there_is_said(moto: s3.Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    setenv(monkeypatch, moto.endpoint)
    stores = opened("team", tmp_path / "spool", bucket="nowhere")
    store = stores.of_project("p")
    for call in (
        stores.check,
        lambda: store.read("a", 0, 1),
        lambda: list(store.list()),
        lambda: put(store, "a", b"x"),
    ):
        with pytest.raises(NotFound, match="there is no bucket s3://nowhere"):
            call()
    stores.close()


def test_without_the_extra_it_is_said_which(store: ObjectStore, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(InvalidInput, match=r"pip install 'artifactfs\[s3\]'"):
        store.size("a")


# -- who may -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("key", "secret"), [("nobody", s3.SECRET), (s3.KEY, "hunter2")])
@pytest.mark.parametrize("call", CALLS)
def test_wrong_credentials_are_access_and_are_not_shown(
    rclone: s3.Server, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, secret: str, call: str
):
    setenv(monkeypatch, rclone.endpoint, key=key, secret=secret)
    stores = opened(prefix, tmp_path / "spool")
    with pytest.raises(Access, match="AWS_PROFILE") as raised:
        CALLS[call](stores.of_project("p"))
    assert secret not in str(raised.value)
    with pytest.raises(Access, match="may not be listed"):
        stores.check()
    stores.close()


def test_keys_of_a_profile_may_be_renewed_while_it_is_open(
    rclone: s3.Server, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    setenv(monkeypatch, rclone.endpoint)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    profile = tmp_path / "credentials"
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(profile))
    monkeypatch.setenv("AWS_PROFILE", "team")
    stores = opened(prefix, tmp_path / "spool")
    profile.write_text(f"[team]\naws_access_key_id = {s3.KEY}\naws_secret_access_key = old\n")
    with pytest.raises(Access):
        stores.check()
    profile.write_text(f"[team]\naws_access_key_id = {s3.KEY}\naws_secret_access_key = {s3.SECRET}\n")
    stores.check()
    put(stores.of_project("p"), "a", b"x")
    assert list(stores.of_project("p").list()) == [("a", 1)]
    stores.close()


def fetch(url: str, **fields: str) -> bytes:
    with urllib.request.urlopen(urllib.request.Request(url, headers=fields), timeout=20) as answer:  # noqa: S310 - of the test's server
        return answer.read()


def test_signed_urls_read_these_objects_and_no_others(
    rclone: s3.Server, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    setenv(monkeypatch, rclone.endpoint)
    stores = opened(prefix, tmp_path / "spool")
    store = stores.of_project("p")
    put(store, "packs/a", b"hello")
    put(store, "packs/b", b"world")
    assert store.signs
    first, second = store.sign(["packs/a", "packs/b"], seconds=900)
    assert fetch(first) == b"hello"
    assert fetch(second, Range="bytes=1-3") == b"orl"
    assert "X-Amz-Expires=900&" in first
    assert s3.SECRET not in first
    for wrong in (first.partition("?")[0], first.replace("packs/a", "packs/b"), first.replace("=900", "=9000")):
        with pytest.raises(urllib.error.HTTPError, match=r"40[03]") as raised:
            fetch(wrong)
        raised.value.close()
    stores.close()


@pytest.mark.parametrize("seconds", [0, 7 * 86400 + 1])
def test_signed_urls_live_for_a_week_at_most(store: ObjectStore, seconds: int):
    with pytest.raises(InvalidInput, match="604800"):
        store.sign(["a"], seconds=seconds)
    with pytest.raises(InvalidInput, match="key"):
        store.sign(["../a"], seconds=60)


# -- other makes -------------------------------------------------------------------------------------------------------


def test_a_server_that_answers_ranges_with_status_200_is_refused(
    rclone: s3.Server, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    setenv(monkeypatch, rclone.endpoint)
    stores = opened(prefix, tmp_path / "spool")
    store = stores.of_project("p")
    put(store, "a", b"hello")
    store._kept.clear()
    with pytest.raises(Format, match="status 200 instead of 206"):
        store.read("a", 1, 2)
    stores.close()

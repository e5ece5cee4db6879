"""References to S3: objects, versions, prefixes, credentials and errors, against a server that speaks S3."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from artifactfs.errors import Access, Integrity, InvalidInput, NotFound, Unavailable
from artifactfs.references.references import resolve
from artifactfs.repository import Repository
from tests.content.stores import noise
from tests.references.conftest import Opening, add, log, whole
from tests.references.store import Store, storing

MEBI = 1 << 20


@pytest.fixture(scope="module")
def server() -> Iterator[Store]:
    with storing() as store:
        yield store


@pytest.fixture
def store(server: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Store:
    for name, value in {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": server.endpoint,
        "HOME": str(tmp_path),
    }.items():
        monkeypatch.setenv(name, value)
    server.asked.clear()
    server.refusing = 0
    return server


@pytest.fixture
def bucket(store: Store) -> str:
    name = f"plain-{uuid.uuid4().hex}"
    store.bucket(name)
    return name


@pytest.fixture
def versioned(store: Store) -> str:
    name = f"versions-{uuid.uuid4().hex}"
    store.bucket(name, versions=True)
    return name


def test_an_object_is_recorded_without_being_read_and_read_by_ranges(repository: Repository, store: Store, bucket: str):
    data = noise(1, 9 * MEBI)
    store.put(bucket, "raw/day one.parquet", data)
    entry = add(repository, f"s3://{bucket}/raw/day one.parquet")
    assert (entry.name, entry.size, entry.checksum, entry.version) == ("day one.parquet", len(data), None, None)
    assert entry.etag
    assert [method for method, _, _ in store.asked] == ["HEAD"]
    store.asked.clear()
    assert repository.open_reference(entry).read(5 * MEBI + 1, 100) == data[5 * MEBI + 1 : 5 * MEBI + 101]
    assert repository.references.bytes_fetched == MEBI
    assert len(store.asked) == 1
    assert whole(repository, entry) == data
    assert repository.references.bytes_fetched == len(data)


def test_what_was_read_is_there_without_the_store(opening: Opening, store: Store, bucket: str):
    data = noise(2, 3 * MEBI)
    store.put(bucket, "a", data)
    first = opening()
    entry = add(first, f"s3://{bucket}/a")
    whole(first, entry)
    first.close()
    store.asked.clear()
    assert whole(opening(), entry) == data
    assert not store.asked


def test_the_recorded_version_is_read_whatever_was_written_since(repository: Repository, store: Store, versioned: str):
    version = store.put(versioned, "a.csv", b"first")
    entry = add(repository, f"s3://{versioned}/a.csv")
    assert (entry.uri, entry.version) == (f"s3://{versioned}/a.csv", version)
    store.put(versioned, "a.csv", b"second!")
    assert whole(repository, entry) == b"first"
    repository.references.check(entry)
    now = add(repository, f"s3://{versioned}/a.csv")
    assert whole(repository, now) == b"second!"
    named = add(repository, f"s3://{versioned}/a.csv?versionId={version}")
    assert named == entry
    store.client.delete_object(Bucket=versioned, Key="a.csv", VersionId=version)
    with pytest.raises(NotFound, match=f"in its version {version}"):
        repository.references.check(entry)


def test_a_version_that_is_not_there_is_not_found(store: Store, versioned: str):
    store.put(versioned, "a.csv", b"first")
    with pytest.raises(NotFound, match="in its version nonesuch"):
        list(resolve(f"s3://{versioned}/a.csv?versionId=nonesuch"))


def test_a_prefix_is_all_objects_below_it_in_order(repository: Repository, store: Store, bucket: str):
    for key in ("raw/b.csv", "raw/a/2.csv", "raw/a/1.csv", "raw/a-b.csv", "raw-2/no.csv", "rawer"):
        store.put(bucket, key, key.encode())
    store.put(bucket, "raw/", b"")
    store.put(bucket, "raw/a/", b"")
    store.put(bucket, "raw/empty/", b"")
    store.put(bucket, "raw/nothing.csv", b"")
    for uri in (f"s3://{bucket}/raw", f"s3://{bucket}/raw/"):
        seen: list[int] = []
        found = log(repository, repository.references.resolve(uri, progress=seen.append))
        assert list(found) == ["a/1.csv", "a/2.csv", "a-b.csv", "b.csv", "nothing.csv"]
        assert seen
    assert found["a/1.csv"].uri == f"s3://{bucket}/raw/a/1.csv"
    assert whole(repository, found["a/1.csv"]) == b"raw/a/1.csv"
    assert whole(repository, found["nothing.csv"]) == b""
    assert len(list(resolve(f"s3://{bucket}"))) == 7


def test_a_prefix_without_versions_is_listed_and_hardly_asked_for(store: Store, bucket: str):
    for number in range(25):
        store.put(bucket, f"raw/{number}", b"x")
    store.asked.clear()
    assert len(list(resolve(f"s3://{bucket}/raw/"))) == 25
    assert [method for method, _, _ in store.asked] == ["GET", "HEAD"]


def test_a_prefix_with_versions_records_each(repository: Repository, store: Store, versioned: str):
    versions = {f"{number}.csv": store.put(versioned, f"raw/{number}.csv", b"old") for number in range(5)}
    found = log(repository, repository.references.resolve(f"s3://{versioned}/raw/"))
    assert {path: entry.version for path, entry in found.items()} == versions
    store.put(versioned, "raw/3.csv", b"new")
    assert whole(repository, found["3.csv"]) == b"old"


def test_too_many_objects_are_refused(store: Store, bucket: str):
    for number in range(5):
        store.put(bucket, f"raw/{number}", b"x")
    assert len(list(resolve(f"s3://{bucket}/raw", limit=5))) == 5
    with pytest.raises(InvalidInput, match=r"has more than 4 objects; raise max_objects \(--max-objects\)"):
        list(resolve(f"s3://{bucket}/raw", limit=4))


def test_nothing_is_not_found(store: Store, bucket: str):
    with pytest.raises(NotFound, match="neither an object nor any below it"):
        list(resolve(f"s3://{bucket}/nope"))
    with pytest.raises(NotFound, match="there is no bucket"):
        list(resolve("s3://no-such-bucket-anywhere/"))
    with pytest.raises(InvalidInput, match="names no bucket"):
        list(resolve("s3:///key"))
    store.put(bucket, "marked/", b"")
    with pytest.raises(NotFound):
        list(resolve(f"s3://{bucket}/marked"))


def test_a_key_that_cannot_be_a_path_is_refused(store: Store, bucket: str):
    store.put(bucket, "raw/a//b", b"x")
    with pytest.raises(InvalidInput, match="cannot be a path"):
        list(resolve(f"s3://{bucket}/raw"))


@pytest.mark.parametrize("key", ["a%20b", "a?b=c", "a#1", "~é+&", "a;b'"])
def test_keys_are_taken_as_they_are(repository: Repository, store: Store, bucket: str, key: str):
    store.put(bucket, f"raw/{key}", key.encode())
    (found,) = repository.references.resolve(f"s3://{bucket}/raw")
    assert found.path == key
    assert whole(repository, found.entry) == key.encode()
    assert whole(repository, add(repository, f"s3://{bucket}/raw/{key}")) == key.encode()


def test_a_changed_object_is_an_error_that_names_both_etags(repository: Repository, store: Store, bucket: str):
    store.put(bucket, "a", b"hello")
    store.put(bucket, "b", b"other")
    entry, other = add(repository, f"s3://{bucket}/a"), add(repository, f"s3://{bucket}/b")
    for now in (b"HELLO", b"", b"longer than before"):
        store.put(bucket, "a", now)
        etag = store.client.head_object(Bucket=bucket, Key="a")["ETag"]
        for read in (lambda: repository.open_reference(entry).read(0, 5), lambda: repository.references.check(entry)):
            with pytest.raises(Integrity) as caught:
                read()
            assert f"s3://{bucket}/a has changed: recorded etag {entry.etag}, found {etag}" in str(caught.value)
    assert whole(repository, other) == b"other"
    store.client.delete_object(Bucket=bucket, Key="a")
    with pytest.raises(NotFound):
        repository.open_reference(entry).read(0, 5)


def test_an_object_that_became_shorter_has_changed(repository: Repository, store: Store, bucket: str):
    store.put(bucket, "a", noise(3, 3 * MEBI))
    entry = add(repository, f"s3://{bucket}/a")
    store.put(bucket, "a", b"short")
    with pytest.raises(Integrity, match="has changed: recorded etag"):
        repository.open_reference(entry).read(2 * MEBI, 5)


def test_without_checksum_nobody_is_asked_before_it_is_read(repository: Repository, store: Store, bucket: str):
    store.put(bucket, "a", b"hello")
    entry = add(repository, f"s3://{bucket}/a", checksum=False)
    assert not store.asked
    assert (entry.size, entry.etag) == (None, None)
    assert repository.references.size(entry) == 5
    assert whole(repository, entry) == b"hello"
    repository.references.check(entry, content=True)
    store.client.delete_object(Bucket=bucket, Key="a")
    with pytest.raises(NotFound):
        repository.references.check(entry)


def test_everything_is_read_when_the_content_is_checked(repository: Repository, store: Store, bucket: str):
    store.put(bucket, "a", noise(4, 20 * MEBI))
    entry = add(repository, f"s3://{bucket}/a")
    store.asked.clear()
    repository.references.check(entry)
    assert [method for method, _, _ in store.asked] == ["HEAD"]
    store.asked.clear()
    repository.references.check(entry, content=True)
    assert [method for method, _, _ in store.asked] == ["HEAD", "GET", "GET", "GET"]


def test_a_store_that_is_busy_is_asked_again_and_not_for_ever(opening: Opening, store: Store, bucket: str):
    repository = opening()
    store.put(bucket, "a", b"hello")
    entry = add(repository, f"s3://{bucket}/a")
    store.refusing = 1
    assert whole(repository, entry) == b"hello"
    store.put(bucket, "b", b"hello")
    other = add(repository, f"s3://{bucket}/b")
    store.refusing = 100
    store.asked.clear()
    with pytest.raises(Unavailable) as caught:
        whole(repository, other)
    assert "503" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(store.asked) == 3


def test_a_store_that_cannot_be_reached_is_unavailable(
    opening: Opening, store: Store, bucket: str, monkeypatch: pytest.MonkeyPatch
):
    store.put(bucket, "a", b"hello")
    entry = add(opening(), f"s3://{bucket}/a")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(Unavailable, match="cannot read s3://"):
        whole(opening(seconds=1.0), entry)


def test_keys_come_from_a_profile(
    store: Store, bucket: str, repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    store.put(bucket, "a", b"hello")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_PROFILE", "team")
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws" / "credentials").write_text("[team]\naws_access_key_id = key\naws_secret_access_key = secret\n")
    (tmp_path / ".aws" / "config").write_text(f"[profile team]\nregion = us-east-1\nendpoint_url = {store.endpoint}\n")
    assert whole(repository, add(repository, f"s3://{bucket}/a")) == b"hello"


def test_without_the_extra_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "obstore", None)
    for uri, extra in (("s3://b/k", "s3"), ("gs://b/k", "gcs"), ("az://b/k", "azure")):
        with pytest.raises(InvalidInput, match=rf"pip install 'artifactfs\[{extra}\]'"):
            list(resolve(uri))


def test_a_refusal_says_where_credentials_belong(site_refusing: str, monkeypatch: pytest.MonkeyPatch, store: Store):
    monkeypatch.setenv("AWS_ENDPOINT_URL", site_refusing)
    with pytest.raises(Access, match="AWS_PROFILE") as caught:
        list(resolve("s3://bucket/key"))
    assert "\n" not in str(caught.value)


@pytest.fixture
def site_refusing(site) -> str:
    site.put("bucket/key", b"", head=403, status=403)
    return site.url

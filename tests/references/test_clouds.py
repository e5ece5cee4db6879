"""References to Google Cloud Storage and Azure, against scripted answers; and what is found of credentials."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import quote

import pytest

from artifactfs.buckets import credentials
from artifactfs.buckets.bucket import Bucket
from artifactfs.buckets.places import is_bucket, place_of
from artifactfs.errors import Integrity, InvalidInput
from artifactfs.references.references import resolve
from artifactfs.repository import Repository
from tests.references.conftest import add, log, whole
from tests.references.site import Site

AZURE_LIST = (
    """<?xml version="1.0" encoding="utf-8"?><EnumerationResults><Blobs>{}</Blobs><NextMarker/></EnumerationResults>"""
)
AZURE_BLOB = """<Blob><Name>{}</Name><Properties><Last-Modified>Sun, 09 Sep 2001 01:46:40 GMT</Last-Modified><Etag>{}</Etag>
<Content-Length>{}</Content-Length><Content-Type>text/csv</Content-Type></Properties></Blob>"""
GOOGLE_LIST = (
    """<?xml version="1.0" encoding="utf-8"?><ListBucketResult><IsTruncated>false</IsTruncated>{}</ListBucketResult>"""
)
GOOGLE_OBJECT = """<Contents><Key>{}</Key><LastModified>2001-09-09T01:46:40Z</LastModified><ETag>{}</ETag><Size>{}</Size></Contents>"""


@pytest.fixture
def google(site: Site, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", site.url)
    return site


@pytest.fixture
def azure(site: Site, monkeypatch: pytest.MonkeyPatch) -> Site:
    key = "AccountName=team;AccountKey=c2VjcmV0"
    monkeypatch.setenv(
        "AZURE_STORAGE_CONNECTION_STRING", f"DefaultEndpointsProtocol=http;{key};BlobEndpoint={site.url}"
    )
    return site


def place_google(site: Site, key: str, data: bytes, generation: int) -> None:
    coded = quote(key, safe="").replace(".", "%2E")
    for query in ("", f"?generation={generation}"):
        site.put(
            f"bucket/{coded}{query}",
            data,
            etag=f'"{generation}"',
            modified=1e9,
            headers={"x-goog-generation": str(generation)},
        )


def test_google_records_etag_and_generation_and_reads_that_one(repository: Repository, google: Site):
    place_google(google, "raw/a.csv", b"hello", 7)
    entry = add(repository, "gs://bucket/raw/a.csv")
    assert (entry.name, entry.uri, entry.size, entry.etag, entry.version) == (
        "a.csv",
        "gs://bucket/raw/a.csv",
        5,
        '"7"',
        "7",
    )
    assert add(repository, "gs://bucket/raw/a.csv#7") == entry
    google.put("bucket/raw%2Fa%2Ecsv", b"newer", etag='"8"', modified=1e9, headers={"x-goog-generation": "8"})
    assert whole(repository, entry) == b"hello"
    repository.references.check(entry)


def test_a_prefix_of_google_has_the_generations_of_its_objects(repository: Repository, google: Site):
    place_google(google, "raw/a.csv", b"hello", 7)
    place_google(google, "raw/b/c.csv", b"other", 8)
    listed = GOOGLE_OBJECT.format("raw/b/c.csv", '"8"', 5) + GOOGLE_OBJECT.format("raw/a.csv", '"7"', 5)
    google.put("bucket?list-type=2&prefix=raw%2F", GOOGLE_LIST.format(listed).encode())
    found = log(repository, repository.references.resolve("gs://bucket/raw"))
    assert {path: entry.version for path, entry in found.items()} == {"a.csv": "7", "b/c.csv": "8"}
    assert whole(repository, found["b/c.csv"]) == b"other"


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("az://box/raw/a.csv", "az://box/raw/a.csv"),
        ("abfss://box@team.dfs.core.windows.net/raw/a.csv", "abfss://box@team.dfs.core.windows.net/raw/a.csv"),
        ("https://team.blob.core.windows.net/box/raw/a.csv", "https://team.blob.core.windows.net/box/raw/a.csv"),
    ],
)
def test_azure_records_the_etag_and_notices_a_change(repository: Repository, azure: Site, uri: str, shown: str):
    azure.put("box/raw/a.csv", b"hello", etag='"0x1"', modified=1e9)
    entry = add(repository, uri)
    assert (entry.uri, entry.name, entry.size, entry.etag) == (shown, "a.csv", 5, '"0x1"')
    assert whole(repository, entry) == b"hello"
    azure.put("box/raw/a.csv", b"HELLO", etag='"0x2"', modified=1e9)
    with pytest.raises(Integrity, match='recorded etag "0x1", found "0x2"'):
        repository.references.check(entry)


def test_a_prefix_of_azure_has_etags_as_its_objects_have(repository: Repository, azure: Site):
    azure.put("box/raw/a.csv", b"hello", etag='"0x1"', modified=1e9)
    listed = AZURE_LIST.format(AZURE_BLOB.format("raw/a.csv", "0x1", 5))
    azure.put("box?restype=container&comp=list&prefix=raw%2F", listed.encode())
    found = log(repository, repository.references.resolve("az://box/raw/"))
    assert [entry.etag for entry in found.values()] == ['"0x1"']
    assert whole(repository, found["a.csv"]) == b"hello"


def test_a_version_of_azure_is_read_by_its_name(repository: Repository, azure: Site):
    version = "2026-01-01T00:00:00.1234567Z"
    azure.put(f"box/a.csv?versionid={quote(version, safe='')}", b"old", etag='"0x1"', modified=1e9)
    azure.put("box/a.csv", b"new", etag='"0x2"', modified=1e9)
    entry = add(repository, f"https://team.blob.core.windows.net/box/a.csv?versionId={version}")
    assert (entry.uri, entry.version) == ("https://team.blob.core.windows.net/box/a.csv", version)
    assert whole(repository, entry) == b"old"


def test_no_account_is_an_error_that_says_what_to_set(monkeypatch: pytest.MonkeyPatch):
    for name in ("AZURE_STORAGE_CONNECTION_STRING", "AZURE_STORAGE_ACCOUNT", "AZURE_STORAGE_ACCOUNT_NAME"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(InvalidInput, match="set AZURE_STORAGE_CONNECTION_STRING"):
        list(resolve("az://box/a"))


# -- pure --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("uri", "bucket", "key", "account", "version"),
    [
        ("s3://b/k/l?versionId=x%2F1", "b", "k/l", "", "x%2F1"),
        ("s3://b/k?other=1", "b", "k?other=1", "", None),
        ("gs://b/k#12", "b", "k", "", "12"),
        ("gs://b/k#part", "b", "k#part", "", None),
        ("az://b", "b", "", "", None),
        ("abfs://b@acc.dfs.core.windows.net/k", "b", "k", "acc", None),
        ("https://acc.blob.core.windows.net/b/k%20l", "b", "k l", "acc", None),
    ],
)
def test_uris_of_buckets_are_taken_apart(uri: str, bucket: str, key: str, account: str, version: str | None):
    assert is_bucket(uri)
    place = place_of(uri)
    assert (place.bucket, place.key, place.account, place.version) == (bucket, key, account, version)
    assert place_of(place.uri(place.key)).key == key


def test_other_uris_are_of_no_bucket():
    for uri in ("https://host/b/k", "file:///b", "artifact://a:v0/b", "https://[bad/b", "s3"):
        assert not is_bucket(uri)


def test_keys_of_another_account_are_not_used(monkeypatch: pytest.MonkeyPatch, site: Site):
    monkeypatch.setenv(
        "AZURE_STORAGE_CONNECTION_STRING", f"AccountName=team;AccountKey=c2VjcmV0;BlobEndpoint={site.url}"
    )
    opened = Bucket(place_of("https://other.blob.core.windows.net/b/k"), seconds=1)._open()
    assert opened.config == {"account_name": "other", "container_name": "b"}


def test_what_the_tools_of_the_stores_find(tmp_path: Path):
    environ = {"HOME": str(tmp_path)}
    assert credentials.of_s3(environ) == {}
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws" / "credentials").write_text(
        "[default]\naws_access_key_id = a\naws_secret_access_key = b%c\naws_session_token = t\n[other]\naws_access_key_id = o\n"
    )
    (tmp_path / ".aws" / "config").write_text("[default]\nregion = eu-west-1\n[profile other]\nrole_arn = arn\n")
    assert credentials.of_s3(environ) == {
        "access_key_id": "a",
        "secret_access_key": "b%c",
        "session_token": "t",
        "region": "eu-west-1",
    }
    given = {**environ, "AWS_ACCESS_KEY_ID": "x", "AWS_REGION": "us-east-2", "AWS_ENDPOINT_URL_S3": "http://h"}
    assert credentials.of_s3(given) == {"endpoint": "http://h"}
    assert credentials.of_s3({**environ, "AWS_PROFILE": "other"}) == {"access_key_id": "o"}
    assert credentials.of_s3({**environ, "AWS_PROFILE": "nonesuch"}) == {}
    (tmp_path / ".aws" / "credentials").write_text("no section at all")
    assert credentials.of_s3(environ) == {"region": "eu-west-1"}
    emulator = json.loads(credentials.of_google({"STORAGE_EMULATOR_HOST": "localhost:9"})["service_account_key"])
    assert (emulator["gcs_base_url"], emulator["disable_oauth"]) == ("http://localhost:9", True)
    assert credentials.of_google({}) == {}
    assert credentials.of_azure({"AZURE_STORAGE_ACCOUNT": "a", "AZURE_STORAGE_KEY": "k"}) == {
        "account_name": "a",
        "account_key": "k",
    }

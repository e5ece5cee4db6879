"""What a registry remembers of itself: where its packs are, and whose packs lie beside it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from artifactfs import placing
from artifactfs.errors import Conflict
from artifactfs.placing import Ground, open_stores_at
from artifactfs.registry.postgresql import PostgresDatabase
from artifactfs.registry.sql import SQLRegistry


@pytest.fixture(params=["sqlite", "postgresql"])
def registry(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SQLRegistry]:
    if request.param == "sqlite":
        opened = SQLRegistry(tmp_path / "registry.db", create=True)
    else:
        opened = SQLRegistry(PostgresDatabase(request.getfixturevalue("postgres_url")))
    yield opened
    opened.close()


def test_a_bucket_is_remembered_instead_of_the_one_that_was_known(registry):
    assert registry.store_url() == ""
    assert registry.record_store("s3://b/one", instead_of="") == "s3://b/one"
    assert registry.record_store("s3://b/two", instead_of="") == "s3://b/one"
    assert registry.store_url() == "s3://b/one"
    assert registry.record_store("s3://b/two", instead_of="s3://b/one") == "s3://b/two"
    assert registry.record_store("", instead_of="s3://b/two") == ""  # back beside the registry
    assert registry.record_store("s3://b/three", instead_of="") == "s3://b/three"
    assert registry.store_url() == "s3://b/three"


def test_the_last_word_on_what_lies_beside_it_counts(registry):
    assert registry.other_registry() == ""
    for words in ("the registry postgresql://db/one", "the registry postgresql://db/two"):
        registry.record_other_registry(words)
        assert registry.other_registry() == words
    assert registry.store_url() == ""


def test_a_server_that_was_told_another_bucket_meanwhile_does_not_start(registry, tmp_path, monkeypatch):
    """Two that start on a new registry, each with a bucket of its own: one of them must not store where nobody else looks."""

    class Empty:
        """A bucket that can be asked, while another server comes first."""

        def check(self) -> None:
            registry.record_store("s3://b/theirs", instead_of="")

        def close(self) -> None:
            self.closed = True

    bucket = Empty()
    monkeypatch.setattr(placing, "_open", lambda _url, _ground: bucket)
    with pytest.raises(Conflict, match=r"are in s3://b/theirs, not in s3://b/ours; copy them"):
        open_stores_at(registry, "s3://b/ours", Ground(None, tmp_path, 1), moved=False)
    assert bucket.closed
    assert registry.store_url() == "s3://b/theirs"

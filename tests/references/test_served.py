"""References of a repository on a server: content comes from its source, never through the server."""

from __future__ import annotations

from pathlib import Path

from artifactfs.content.cache import CacheSettings
from artifactfs.draft import Draft
from artifactfs.repository import Repository
from tests.content.stores import noise
from tests.mounted.served import serving
from tests.references.conftest import whole
from tests.references.site import Site

BIG = noise(1, 9 << 20)


def test_content_comes_from_the_source_and_then_from_the_cache(tmp_path: Path, site: Site):
    uris = {"big.bin": site.put("big.bin", BIG), "small.csv": site.put("small.csv", b"small", etag='"1"')}
    with serving(tmp_path / "server") as server:

        def opened() -> Repository:
            return Repository.open(server.url, cache=CacheSettings(tmp_path / "cache", reserve=0), seconds=5.0)

        with opened() as repository:
            draft = Draft(repository)
            for name, uri in uris.items():
                draft.add_reference(uri, name)
            version = draft.commit("refs").version
            stored = sum(path.stat().st_size for path in server.repository.rglob("*.pack"))
            assert stored < 1 << 20
        site.forget()
        with opened() as repository:
            assert whole(repository, repository.entry(version, "big.bin")) == BIG  # type: ignore[arg-type]
            assert whole(repository, repository.entry(version, "small.csv")) == b"small"  # type: ignore[arg-type]
            assert repository.reader.bytes_fetched < 1 << 20
            assert site.bytes_sent == len(BIG) + 5
        site.close()
        server.stop()
        with opened() as repository:
            assert whole(repository, repository.entry(version, "big.bin")) == BIG  # type: ignore[arg-type]
            assert whole(repository, repository.entry(version, "small.csv")) == b"small"  # type: ignore[arg-type]

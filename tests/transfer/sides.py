"""What the tests of this directory share: repositories to copy between, files to copy, and a look at what crosses."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path

from artifactfs.content.cache import Cache, CacheSettings
from artifactfs.content.fetch import FetchedSource
from artifactfs.content.local import LocalStore
from artifactfs.content.pack import pack_key
from artifactfs.content.store import NodesFound, Upload
from artifactfs.draft import Draft
from artifactfs.errors import Unavailable
from artifactfs.export import export
from artifactfs.model.digest import DATA, kind_of_flags
from artifactfs.model.records import ChunkRow, PackRow, VersionRecord
from artifactfs.registry.sql import SQLRegistry
from artifactfs.repository import Repository
from tests.content.stores import noise

MIB = 1 << 20


def put(repository: Repository, source: Path, name: str = "data", references: Iterable[str] = (), **options):
    draft = Draft(repository)
    draft.add(source)
    for uri in references:
        draft.add_reference(uri, checksum=False)
    return draft.commit(name, **options).version


def make_tree(root: Path) -> Path:
    """A bit of everything: nested, empty and large, executable, linked."""
    (root / "sub/deep").mkdir(parents=True)
    (root / "hollow").mkdir()
    for number in range(60):
        (root / f"sub/f{number:02d}").write_bytes(noise(number, 3000))
    (root / "sub/deep/large").write_bytes(noise(100, 9 * MIB))
    (root / "sub/empty").touch()
    (root / "run").write_text("#!/bin/sh\n")
    (root / "run").chmod(0o755)
    (root / "link").symlink_to("sub/f00")
    return root


def contents(repository: Repository, version: VersionRecord, out: Path) -> dict[str, object]:
    """All paths of a version, exported, with what is there."""
    result = export(repository, version, "", out)
    assert result.failures == []
    found: dict[str, object] = {}
    for path in sorted(out.rglob("*")):
        name = str(path.relative_to(out))
        if path.is_symlink():
            found[name] = os.readlink(path)
        elif path.is_dir():
            found[name] = None
        else:
            found[name] = (path.read_bytes(), bool(path.stat().st_mode & 0o111))
    return found


def packs_of(repository: Repository) -> dict[str, int]:
    return dict(repository.registry.packs())


def damage(repository: Repository, digest: bytes) -> None:
    """Turn a bit of a stored chunk."""
    place = repository.registry.locate([digest])[digest]
    path = Path(repository.location, "store", repository.project, pack_key(place.pack))
    data = bytearray(path.read_bytes())
    data[place.offset + place.length // 2] ^= 1
    path.write_bytes(data)


class Asked:
    """How often a registry was asked for missing chunks, and for how many at a time."""

    def __init__(self, repository: Repository, monkeypatch) -> None:
        self.counts: list[int] = []
        missing = repository.registry.missing

        def counted(digests: Collection[bytes]) -> set[bytes]:
            self.counts.append(len(digests))
            return missing(digests)

        monkeypatch.setattr(repository.registry, "missing", counted)


class FarStore(LocalStore):
    """A store with a network before it, as far as its users can tell: notes each request, and may be cut off."""

    def __init__(self, root: Path) -> None:
        super().__init__(root, absent=True)
        self.requests: list[str] = []
        self.away = False

    @property
    def local(self) -> bool:
        return False

    def reach(self, request: str) -> None:
        self.requests.append(request)
        if self.away:
            raise Unavailable("the store is away")

    def read(self, key: str, offset: int, length: int) -> bytes:
        self.reach("read")
        return super().read(key, offset, length)

    def read_parts(self, key: str, offset: int, lengths: Sequence[int]) -> Iterator[bytes]:
        self.reach("read")
        for length in lengths:
            yield super().read(key, offset, length)
            offset += length

    def upload(self) -> Upload:
        return FarUpload(self, super().upload())


class FarUpload:
    def __init__(self, store: FarStore, upload: Upload) -> None:
        self.store = store
        self.upload = upload
        self.write = upload.write
        self.abort = upload.abort

    def publish(self, key: str) -> None:
        self.store.reach("upload")
        self.upload.publish(key)


class FarRegistry(SQLRegistry):
    """A registry with a network before it: notes each question of the chunk index."""

    def __init__(self, path: Path, store: FarStore) -> None:
        super().__init__(path)
        self.store = store

    def missing(self, digests: Collection[bytes]) -> set[bytes]:
        self.store.reach("missing")
        return super().missing(digests)

    def locate(self, digests: Collection[bytes]):
        self.store.reach("locate")
        return super().locate(digests)

    def add_packs(self, packs: Iterable[PackRow], *, session: int | None = None) -> None:
        self.store.reach("record")
        super().add_packs(packs, session=session)


class FarNodes:
    """Nodes, one request for all that are asked for."""

    def __init__(self, store: FarStore, registry: FarRegistry) -> None:
        self.store = store
        self.registry = registry

    def nodes(self, digests: Sequence[bytes], *, ahead: int) -> NodesFound:
        self.store.reach("nodes")
        found = []
        for digest, place in SQLRegistry.locate(self.registry, digests).items():
            assert kind_of_flags(place.flags) != DATA
            stored = LocalStore.read(self.store, pack_key(place.pack), place.offset, place.length)
            found.append((ChunkRow(digest, 0, place.length, place.size, place.flags), stored))
        return found, {}

    def path(self, digest: bytes, path: str) -> NodesFound:
        return self.nodes([digest], ahead=0)


def far(directory: Path, cache: Path, *, limit: int | None = None) -> Repository:
    """The repository in a directory as if it were behind a network, with a cache before it."""
    store = FarStore(directory / "store/default")
    registry = FarRegistry(directory / "registry.db", store)
    kept = Cache(CacheSettings(cache, limit=limit, reserve=0))
    source = FetchedSource(store, registry, FarNodes(store, registry), kept)
    return Repository(f"far://{directory}", registry=registry, store=store, source=source, disk=cache, cache=kept)

"""A repository whose registry is in PostgreSQL, and its objects, wherever they are, to be damaged behind its back."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from artifactfs.checkup import check_whole
from artifactfs.content.cache import CacheSettings
from artifactfs.content.pack import decode_index
from artifactfs.credentials import NONE, Credentials
from artifactfs.draft import Draft
from artifactfs.errors import ArtifactFSError
from artifactfs.health.pace import Pace
from artifactfs.keys import ProjectKeys
from artifactfs.model.digest import DATA, kind_of_flags
from artifactfs.model.records import ChunkRow
from artifactfs.model.tree import FileEntry
from artifactfs.registry.opening import open_registry
from artifactfs.repository import Repository
from tests import s3
from tests.conftest import Cli, Finished

NAME = "data"
LARGE = random.Random("large").randbytes(6_000_000)
FILES = {
    "a.txt": b"contents of a\n" * 50,
    "sub/b.txt": b"contents of b\n" * 50,
    "sub/deep/c.txt": b"contents of c\n" * 50,
    "large.bin": LARGE,
}
LATER = {"new.txt": b"new in v1\n" * 50, "noise.bin": random.Random("noise").randbytes(40_000)}


class InBucket:
    """Objects below a prefix of a bucket."""

    def __init__(self, server: s3.Server, prefix: str) -> None:
        self._client = server.client
        self._server = server
        self._prefix = prefix
        self.url = f"s3://{s3.BUCKET}/{prefix}"
        self.beside: Path | None = None

    def names(self) -> list[str]:
        return [key.removeprefix(f"{self._prefix}/") for key in self._server.keys(f"{self._prefix}/")]

    def read(self, key: str) -> bytes:
        data: bytes = self._client.get_object(Bucket=s3.BUCKET, Key=f"{self._prefix}/{key}")["Body"].read()
        return data

    def write(self, key: str, data: bytes) -> None:
        self._client.put_object(Bucket=s3.BUCKET, Key=f"{self._prefix}/{key}", Body=data)

    def delete(self, key: str) -> None:
        self._client.delete_object(Bucket=s3.BUCKET, Key=f"{self._prefix}/{key}")


class InDirectory:
    """Files of the store in a directory."""

    def __init__(self, place: Path) -> None:
        Repository.create(str(place)).close()
        self._store = place / "store"
        self.url = ""
        self.beside: Path | None = place

    def names(self) -> list[str]:
        return sorted(str(path.relative_to(self._store)) for path in self._store.rglob("*") if path.is_file())

    def read(self, key: str) -> bytes:
        return (self._store / key).read_bytes()

    def write(self, key: str, data: bytes) -> None:
        (self._store / key).write_bytes(data)

    def delete(self, key: str) -> None:
        (self._store / key).unlink()


def reach(server: s3.Server, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this process, and commands, find the buckets of a server."""
    for name, value in {**server.environ, "AWS_ALLOW_HTTP": "true"}.items():
        monkeypatch.setenv(name, value)
        cli.env[name] = value


class Deployed:
    """The database, the objects, and commands on the machine of a server. ``sql`` runs a statement in the database."""

    def __init__(
        self,
        cli: Cli,
        objects: InBucket | InDirectory,
        url: str,
        sql: Callable[[str], list[tuple[Any, ...]]],
        *,
        credentials: Credentials = NONE,
    ) -> None:
        self.cli = cli
        self.objects = objects
        self.url = url
        self.sql = sql
        self._credentials = credentials
        self.words = () if objects.beside is None else ("--repository", objects.beside)

    def open(self) -> Repository:
        registry = open_registry(self.url, create=True, keys=ProjectKeys(self._credentials))
        if self.objects.url and not registry.store_url():
            registry.record_store(self.objects.url, instead_of="")
        beside = self.objects.beside
        return Repository.over(
            registry,
            beside=None if beside is None else beside / "store",
            disk=self.cli.home,
            credentials=self._credentials,
        )

    def put(self) -> None:
        """Versions v0 and v1, of FILES and with LATER; the packs of the second have what is new alone."""
        with self.open() as repository:
            put(repository, self.cli.home.parent / "originals")

    def verify(self, *words: object, **options: Any) -> Finished:
        return self.cli.run(*self.words, "verify", "--registry", self.url, *words, **options)

    def repair(self, *words: object) -> Finished:
        return self.verify("--repair", *words)

    def found(self, *, content: bool = True) -> set[str]:
        """Places that a verify names."""
        with self.open() as repository:
            checked = check_whole(repository, content=content, pace=Pace())
        places = {"/registry"} if checked.registry else set()
        places |= {"/store"} if checked.faults else set()
        return places | {f"{hit.version}/{hit.path}" for hit in checked.hits}

    def packs(self) -> list[str]:
        return [key for key in self.objects.names() if key.endswith(".pack") and "/quarantine/" not in key]

    def aside(self) -> list[str]:
        return [key for key in self.objects.names() if key.endswith(".pack") and "/quarantine/" in key]

    def chunks(self, key: str) -> tuple[ChunkRow, ...]:
        return decode_index(self.objects.read(table_of(key))).chunks

    def holding(self, data: bytes) -> tuple[str, ChunkRow]:
        """The pack of a small file, and the row of its chunk."""
        with self.open() as repository:
            for path, content in (FILES | LATER).items():
                if content == data:
                    return self._place(repository, path)
        raise AssertionError

    def _place(self, repository: Repository, path: str) -> tuple[str, ChunkRow]:
        version = repository.registry.versions(NAME)[-1]
        entry = repository.entry(version, path)
        assert isinstance(entry, FileEntry)
        place = repository.registry.locate([entry.digest])[entry.digest]
        (key,) = [key for key in self.packs() if key.endswith(f"{place.pack}.pack")]
        return key, ChunkRow(entry.digest, place.offset, place.length, place.size, place.flags)

    def large(self) -> tuple[str, ChunkRow]:
        """The pack of the large file, and its largest chunk."""
        found = [(key, row) for key in self.packs() for row in self.chunks(key) if kind_of_flags(row.flags) == DATA]
        return max(found, key=lambda item: item[1].size)

    def flip(self, key: str, row: ChunkRow) -> None:
        data = bytearray(self.objects.read(key))
        data[row.offset + row.length // 2] ^= 0x40
        self.objects.write(key, bytes(data))

    def all_is_well(self) -> None:
        assert self.found() == set()
        assert self.found(content=False) == set()
        with self.open() as repository:
            assert readable(repository, 0) == set(FILES)
            assert readable(repository, 1) == set(FILES | LATER)


def put(repository: Repository, place: Path) -> None:
    """Store the versions; their files are made below a directory."""
    for files in (FILES, LATER):
        for name, data in files.items():
            path = place / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        draft = Draft(repository)
        draft.add(place)
        draft.commit(NAME)


def readable(repository: Repository, number: int) -> set[str]:
    """Files of a version that can be read; what is read is right."""
    found = set()
    version = repository.registry.version(NAME, number)
    assert version is not None
    for name, data in (FILES if number == 0 else FILES | LATER).items():
        with suppress(ArtifactFSError):
            entry = repository.entry(version, name)
            assert isinstance(entry, FileEntry)
            assert bytes(repository.open_file(entry).read(0, entry.size)) == data
            found.add(name)
    return found


def client(url: str, place: Path) -> Repository:
    """A client of a server, whose cache keeps nothing."""
    return Repository.open(url, cache=CacheSettings(place, limit=0, reserve=0), seconds=60)


def table_of(key: str) -> str:
    return key.removesuffix(".pack") + ".idx"

"""Encrypted repositories in directories of a test, and what is stored in them: words that are easily found elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import zstandard
from blake3 import blake3

from artifactfs import keys
from artifactfs.credentials import Credentials
from artifactfs.repository import Repository
from tests.conftest import Cli

KEY = bytes(range(32))
NAME = "name-of-a-patient"
TEXT = b"the diagnosis is marked-plaintext-48213. " * 400
NOISE = blake3(b"incompressible").digest(length=300_000)
LARGE = blake3(b"incompressible and large").digest(length=9 << 20)


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "project.key"
    keys.write_key(path, KEY)
    return path


def credentials(key: bytes | None = KEY) -> Credentials:
    return Credentials(key="" if key is None else key.hex())


def encrypted(place: Path, *, project: str = "default") -> Repository:
    """A new encrypted repository. To be closed."""
    repository = Repository.create(str(place), project=project, credentials=credentials())
    repository.registry.encrypt(KEY)
    return repository


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[Repository]:
    with encrypted(tmp_path / "repository") as made:
        yield made


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A directory to put: a text, noise, a large file, names."""
    place = tmp_path / "files"
    (place / "ward").mkdir(parents=True)
    (place / "ward" / f"{NAME}.txt").write_bytes(TEXT)
    (place / "noise.bin").write_bytes(NOISE)
    (place / "large.bin").write_bytes(LARGE)
    return place


def traces() -> dict[str, bytes]:
    """What must be found in no file that others see: pieces of the plain bytes, of their frames, and the name in a node."""
    frame = zstandard.ZstdCompressor(level=1).compress(TEXT)
    return {
        "text": b"marked-plaintext-48213",
        "its frame": frame[20:60],
        "noise": NOISE[1000:1032],
        "the end of a large file": LARGE[-40:-8],
        "a name in a node": NAME.encode(),
        "the digest of a chunk": blake3(TEXT).digest(),
        "the key": KEY,
    }


def found_below(*places: Path) -> list[str]:
    """Which of the traces are in any file below, with the file's name."""
    wanted = traces()
    return [
        f"{what} in {path}"
        for place in places
        for path in sorted(place.rglob("*"))
        if path.is_file() and not path.is_symlink()
        for data in [path.read_bytes()]
        for what, trace in wanted.items()
        if trace in data
    ]


@pytest.fixture
def sealed_cli(tmp_path: Path, key_file: Path) -> Cli:
    """The command line on an encrypted repository, whose key a file has."""
    home = tmp_path / "home"
    home.mkdir()
    cli = Cli(home)
    cli.env |= {"ARTIFACTFS_REPOSITORY": str(tmp_path / "sealed"), "ARTIFACTFS_KEY_FILE": str(key_file)}
    cli("init", "--encrypt")
    return cli

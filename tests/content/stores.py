"""What the tests of this directory share: deterministic bytes, and a Store that counts, fails or waits on script."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from blake3 import blake3

from artifactfs.content.memory import MEMORY
from artifactfs.content.reader import ContentReader
from artifactfs.content.store import Store, Upload
from artifactfs.content.stored import StoredSource
from artifactfs.registry.contract import Registry


def noise(seed: int, size: int) -> bytes:
    """Bytes that look random and are the same everywhere."""
    return blake3(seed.to_bytes(8, "big")).digest(length=size)


def reader_of(store: Store, registry: Registry, *, memory: int = MEMORY) -> ContentReader:
    """A reader of a store at hand."""
    return ContentReader(StoredSource(store, registry, memory=memory))


class ScriptedStore:
    """Passes on to a Store, noting every read, and calls ``on(operation, key)`` before each operation."""

    def __init__(self, store: Store, *, local: bool = True) -> None:
        self.store = store
        self.local = local
        self.reads: list[tuple[str, int, int]] = []
        self.on: Callable[[str, str], None] = lambda _operation, _key: None

    def upload(self) -> Upload:
        self.on("upload", "")
        return ScriptedUpload(self, self.store.upload())

    def read(self, key: str, offset: int, length: int) -> bytes:
        self.on("read", key)
        self.reads.append((key, offset, length))
        return self.store.read(key, offset, length)

    def read_parts(self, key: str, offset: int, lengths: Sequence[int]) -> Iterator[bytes]:
        self.on("read", key)
        self.reads.append((key, offset, sum(lengths)))
        return self.store.read_parts(key, offset, lengths)

    def size(self, key: str) -> int:
        return self.store.size(key)

    def list(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        return self.store.list(prefix)

    def delete(self, key: str) -> None:
        self.store.delete(key)

    def close(self) -> None:
        self.store.close()


class ScriptedUpload:
    def __init__(self, script: ScriptedStore, upload: Upload) -> None:
        self.script = script
        self.upload = upload

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.script.on("write", "")
        self.upload.write(data)

    def publish(self, key: str) -> None:
        self.script.on("publish", key)
        self.upload.publish(key)
        self.script.on("published", key)

    def abort(self) -> None:
        self.upload.abort()

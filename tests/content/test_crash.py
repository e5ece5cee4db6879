"""A writer is killed (SIGKILL) at every step: what is recorded is whole, and the next writer goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from blake3 import blake3

from artifactfs.content import pack
from artifactfs.content.local import LocalStore
from artifactfs.content.pack import pack_key, rebuild_rows
from artifactfs.content.writer import ContentWriter
from artifactfs.model.digest import kind_of_flags
from artifactfs.registry.sql import SQLRegistry
from tests.content.stores import ScriptedStore, noise, reader_of

FILES = 6
SIZE = 5 << 20  # each a chunk list; with packs of 12 MiB two or three of data and one of nodes


def write_and_die(root: Path, moment: str, turn: int) -> None:
    """Runs in the process that is killed: at the ``turn``-th happening of ``moment``."""
    count = 0

    def reach(happening: str, _key: str = "") -> None:
        nonlocal count
        count += happening == moment
        if count == turn:
            os.kill(os.getpid(), signal.SIGKILL)

    class DyingRegistry(SQLRegistry):
        def add_packs(self, *args, **kwargs) -> None:
            reach("record")
            super().add_packs(*args, **kwargs)
            reach("recorded")

    pack.PACK_SIZE = 12 << 20
    store = ScriptedStore(LocalStore(root / "store"))
    store.on = reach
    with ContentWriter(store, DyingRegistry(root / "registry.db"), session=None) as writer:
        for seed in range(FILES):
            writer.add_bytes(noise(seed, SIZE))


MOMENTS = [
    ("upload", 1),
    ("upload", 4),
    ("write", 1),
    ("write", 20),
    ("publish", 1),
    ("published", 1),
    ("publish", 2),
    ("published", 2),
    ("publish", 4),
    ("published", 6),
    ("record", 1),
    ("recorded", 1),
    ("record", 3),
    ("recorded", 3),
    ("never", 1),
]


@pytest.mark.parametrize(("moment", "turn"), MOMENTS)
def test_a_killed_writer_leaves_no_recorded_chunk_that_is_not_stored(place, moment, turn):
    LocalStore(place / "store", create=True)
    SQLRegistry(place / "registry.db", create=True).close()
    code = f"from tests.content.test_crash import *; write_and_die(Path({str(place)!r}), {moment!r}, {turn})"
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        check=False,
    )
    assert result.returncode == (0 if moment == "never" else -signal.SIGKILL), result.stderr.decode()

    store = LocalStore(place / "store")
    registry = SQLRegistry(place / "registry.db")
    assert list((place / "store").glob("tmp/*")) == [], "opening removes what the dead process left"
    reader = reader_of(store, registry)
    for name, size in registry.packs():
        assert store.size(pack_key(name)) == size
        for row in rebuild_rows(store, name).chunks:
            assert len(reader.chunk(row.digest, kind_of_flags(row.flags))) == row.size
    for key, _ in store.list("packs/"):
        if key.endswith(".pack"):
            data = store.read(key, 0, store.size(key))
            assert pack_key(blake3(data).hexdigest()) == key, "what has a name is whole"

    recorded = sum(size for _, size in registry.packs())
    with ContentWriter(store, registry, session=None) as writer:
        contents = [writer.add_bytes(noise(seed, SIZE)) for seed in range(FILES)]
    assert sum(size for _, size in registry.packs()) == recorded + writer.bytes_stored
    for seed, content in enumerate(contents):
        assert reader.open(content.digest, content.size).read(0, SIZE) == noise(seed, SIZE)
    registry.close()

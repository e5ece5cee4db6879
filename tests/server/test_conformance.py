"""The contracts hold over the wire: every suite against a server process, through the clients."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from artifactfs.content.pack import pack_key
from artifactfs.content.store import Store
from artifactfs.model.records import PackRow
from artifactfs.registry.contract import Registry
from artifactfs.remote.client import Connection
from artifactfs.remote.registry import RemoteRegistry
from artifactfs.remote.store import RemoteStore
from tests.conformance.collecting import CollectingConformance
from tests.conformance.lineage import LineageConformance
from tests.conformance.registry import Clock, RegistryConformance, StorePack
from tests.conformance.retention import RetentionConformance
from tests.conformance.store import StoreConformance, put


class FileClock(Clock):
    """A clock that the server's process reads."""

    def __init__(self, file: Path) -> None:
        self._file = file
        super().__init__()

    @property
    def now(self) -> float:
        return float(self._file.read_text())

    @now.setter
    def now(self, value: float) -> None:
        beside = self._file.with_name("clock.new")
        beside.write_text(repr(value))
        beside.replace(self._file)


@pytest.fixture
def clock(tmp_path: Path) -> Clock:
    return FileClock(tmp_path / "clock")


@pytest.fixture
def url(host: Callable[[Path], str], clock: Clock, tmp_path: Path) -> str:
    return host(tmp_path)


class TestRemoteStore(StoreConformance):
    @pytest.fixture
    def store(self, url: str, connections: Callable[[str], Connection], tmp_path: Path) -> Store:
        return RemoteStore(connections(url), "default", spool=tmp_path / "spool")


class Remote:
    @pytest.fixture
    def clock(self, clock: Clock) -> Clock:
        return clock

    @pytest.fixture
    def open_registry(self, url: str, connections: Callable[[str], Connection]) -> Callable[..., Registry]:
        def open_registry(*, project: str = "default") -> Registry:
            return RemoteRegistry(connections(url), project=project, memory=None)

        return open_registry

    @pytest.fixture
    def store_pack(self, url: str, connections: Callable[[str], Connection], tmp_path: Path) -> StorePack:
        # Of the projects that the suite uses, as packs belong to one.
        stores = [RemoteStore(connections(url), project, spool=tmp_path / "spool") for project in ("default", "cars")]

        def store_pack(pack: PackRow, data: bytes) -> None:
            for store in stores:
                put(store, pack_key(pack.digest), data)

        return store_pack


class TestRemoteRegistry(Remote, RegistryConformance):
    pass


class TestRemoteLineage(Remote, LineageConformance):
    pass


class TestRemoteRetention(Remote, RetentionConformance):
    pass


class TestRemoteCollecting(Remote, CollectingConformance):
    pass

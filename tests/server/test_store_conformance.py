"""The Store contract over the wire, by a server whose objects are in a bucket; of two makes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from artifactfs.content.stores import ObjectStores
from artifactfs.credentials import NONE
from artifactfs.remote.client import Connection
from artifactfs.remote.direct import Direct
from artifactfs.remote.store import RemoteStore
from tests import s3
from tests.conformance.store import StoreConformance
from tests.content.test_objects import setenv
from tests.faults.proxy import Proxy
from tests.server.conftest import serving

NUMBERS = itertools.count()


@contextmanager
def remote(place: Path, endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[RemoteStore]:
    setenv(monkeypatch, endpoint)
    stores = ObjectStores(f"s3://{s3.BUCKET}/wire/{next(NUMBERS)}", spool=place / "sent", seconds=20)
    with serving(place, stores=stores) as served:
        connection = Connection(served.url)
        store = RemoteStore(connection, "p", spool=place / "spool", direct=Direct(connection, "p", NONE, connect=5.0))
        try:
            yield store
        finally:
            store.close()


@pytest.fixture(scope="module")
def rclone() -> Iterator[s3.Server]:
    with s3.rclone() as server:
        yield server


class TestOnMoto(StoreConformance):
    @pytest.fixture
    def store(self, moto: s3.Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RemoteStore]:
        with remote(tmp_path, moto.endpoint, monkeypatch) as store:
            yield store


class TestOnRclone(StoreConformance):
    """Behind something that mends its status."""

    @pytest.fixture
    def store(self, rclone: s3.Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RemoteStore]:
        proxy = Proxy(rclone.port)
        try:
            with proxy.fault(s3.partial, "."), remote(tmp_path, proxy.url, monkeypatch) as store:
                yield store
        finally:
            proxy.close()

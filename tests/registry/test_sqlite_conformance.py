from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from artifactfs.registry.contract import Registry
from artifactfs.registry.sql import SQLRegistry
from tests.conformance.collecting import CollectingConformance
from tests.conformance.lineage import LineageConformance
from tests.conformance.registry import Clock, RegistryConformance
from tests.conformance.retention import RetentionConformance


class SQLite:
    @pytest.fixture
    def open_registry(self, tmp_path: Path, clock: Clock) -> Iterator[Callable[..., Registry]]:
        opened: list[SQLRegistry] = []

        def open_registry(*, project: str = "default") -> Registry:
            opened.append(SQLRegistry(tmp_path / "registry.db", project=project, create=True, clock=clock))
            return opened[-1]

        yield open_registry
        for registry in opened:
            registry.close()


class TestSQLite(SQLite, RegistryConformance):
    pass


class TestSQLiteLineage(SQLite, LineageConformance):
    pass


class TestSQLiteRetention(SQLite, RetentionConformance):
    pass


class TestSQLiteCollecting(SQLite, CollectingConformance):
    pass

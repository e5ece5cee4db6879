from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from artifactfs.registry.contract import Registry
from artifactfs.registry.postgresql import PostgresDatabase
from artifactfs.registry.sql import SQLRegistry
from tests.conformance.collecting import CollectingConformance
from tests.conformance.lineage import LineageConformance
from tests.conformance.registry import Clock, RegistryConformance
from tests.conformance.retention import RetentionConformance


class PostgreSQL:
    @pytest.fixture
    def open_registry(self, postgres_url: str, clock: Clock) -> Iterator[Callable[..., Registry]]:
        opened: list[SQLRegistry] = []

        def open_registry(*, project: str = "default") -> Registry:
            opened.append(SQLRegistry(PostgresDatabase(postgres_url), project=project, clock=clock))
            return opened[-1]

        yield open_registry
        for registry in opened:
            registry.close()


class TestPostgreSQL(PostgreSQL, RegistryConformance):
    pass


class TestPostgreSQLLineage(PostgreSQL, LineageConformance):
    pass


class TestPostgreSQLRetention(PostgreSQL, RetentionConformance):
    pass


class TestPostgreSQLCollecting(PostgreSQL, CollectingConformance):
    pass

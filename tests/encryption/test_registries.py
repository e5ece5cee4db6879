"""Encrypted projects in both databases."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from artifactfs.registry.opening import open_registry as opened
from artifactfs.registry.sql import SQLRegistry
from tests.conformance.sealed import OLD, Opener, SealedConformance, keys_of


class Located:
    """Opens clients of the registry at the fixture ``location``."""

    @pytest.fixture
    def open_registry(self, location: str) -> Iterator[Opener]:
        with ExitStack() as stack:

            def open_registry(*, project: str = "default", key: bytes | None = OLD, keys=None) -> SQLRegistry:
                held = keys_of(key) if keys is None else keys
                return stack.enter_context(closing(opened(location, project=project, create=True, keys=held)))

            yield open_registry


class TestSQLite(Located, SealedConformance):
    @pytest.fixture
    def location(self, tmp_path: Path) -> str:
        return str(tmp_path / "registry.db")


class TestPostgreSQL(Located, SealedConformance):
    @pytest.fixture
    def location(self, postgres_url: str) -> str:
        return postgres_url

"""Repositories of servers on PostgreSQL, with packs in a bucket or in a directory, whose parts can be damaged."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import s3
from tests.conftest import Cli
from tests.health.deployed import Deployed, InBucket, InDirectory, reach
from tests.postgres import Server


@pytest.fixture(scope="session")
def bucket() -> Iterator[s3.Server]:
    with s3.moto() as server:
        yield server


@pytest.fixture(params=["bucket", "directory"])
def deployed(
    request: pytest.FixtureRequest,
    cli: Cli,
    postgres: Server,
    postgres_registry: str,
    postgres_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Deployed:
    """A repository of two versions, and the commands of its host."""
    if request.param == "directory":
        objects: InBucket | InDirectory = InDirectory(tmp_path / "host")
    else:
        server = request.getfixturevalue("bucket")
        objects = InBucket(server, tmp_path.name)
        reach(server, cli, monkeypatch)
    made = Deployed(cli, objects, postgres_url, lambda statement: postgres.sql(statement, database=postgres_registry))
    made.put()
    return made

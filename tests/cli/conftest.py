"""An artifact of five versions, for commands that take some of them away."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from artifactfs.draft import Draft
from artifactfs.repository import Repository
from tests.conftest import Cli


@pytest.fixture
def bikes(cli: Cli) -> Path:
    """bike-dataset:v0 to v4: `common` is in all, `own` in one each."""
    return five_versions(cli)


def five_versions(cli: Cli, *, first: tuple[str, ...] = ()) -> Path:
    """Log them; v0 has the aliases ``first``. Returns the directory whose files v4 has."""
    data = cli.home / "data"
    data.mkdir()
    (data / "common").write_bytes(os.urandom(50_000))
    with Repository.open_or_create(str(cli.home / ".local/share/artifactfs/repository")) as repository:
        for number in range(5):
            (data / "own").write_bytes(os.urandom(10_000 + number))
            draft = Draft(repository)
            draft.add(data)
            draft.commit("bike-dataset", aliases=first if number == 0 else ())
    return data


def versions(cli: Cli, name: str = "bike-dataset") -> list[str]:
    return [version["version"] for version in json.loads(cli("ls", name, "--json").stdout)]

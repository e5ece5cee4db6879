"""A user who never configured anything, and a repository: a directory, or a server."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import artifactfs
from artifactfs import Api, Artifact, Run
from artifactfs.repository import Repository
from tests.mounted.served import Server, serving

_projects = itertools.count()


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    for name in [name for name in os.environ if name.startswith(("ARTIFACTFS_", "XDG_"))]:
        monkeypatch.delenv(name)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(home)
    yield home
    artifactfs.finish()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("served")) as server:
        yield server


@pytest.fixture
def project() -> str:
    """One of its own: a server is shared by the tests of a module."""
    return f"p{next(_projects)}"


@pytest.fixture(params=["directory", "server"])
def location(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "directory":
        return str(tmp_path / "repository")
    return request.getfixturevalue("server").url


@pytest.fixture
def start(location: str, project: str) -> Callable[..., Run]:
    """``init`` in the test's project."""

    def begin(**words) -> Run:
        return artifactfs.init(repository=location, **{"project": project, **words})

    return begin


@pytest.fixture
def run(start) -> Run:
    return start(job_type="train")


@pytest.fixture
def api(location: str, project: str) -> Iterator[Api]:
    with Api(repository=location, project=project) as api:
        yield api


@pytest.fixture
def directory(tmp_path: Path, project: str) -> Iterator[Repository]:
    """The repository in a directory, looked at from below."""
    with Repository.open_or_create(str(tmp_path / "repository"), project=project) as repository:
        yield repository


def write(root: Path, **files: str) -> Path:
    """Files below a directory; ``__`` stands for a slash, ``_`` at the end of a name for ``.txt``."""
    for name, text in files.items():
        path = root / f"{name.replace('__', '/')}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def made(name: str = "data", *, type: str = "dataset", **files: str) -> Artifact:  # noqa: A002
    """An Artifact with these files, not logged."""
    artifact = Artifact(name, type=type)
    for path, text in (files or {"a": "1"}).items():
        with artifact.new_file(f"{path.replace('__', '/')}.txt") as stream:
            stream.write(text)
    return artifact


def contents(root: Path) -> dict[str, str]:
    return {str(path.relative_to(root)): path.read_text() for path in sorted(root.rglob("*")) if path.is_file()}


def program(text: str, *arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run a Python program in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", text, *arguments],
        env={**os.environ, **(env or {})}, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip

"""The directory of a repository: a Store for each project, and how one of format 1 comes to it."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from artifactfs.directory import holder
from artifactfs.errors import Format, Unavailable
from artifactfs.repository import Repository
from artifactfs.upkeep import verify
from tests.repository.formats import PROJECTS, in_format_1, store_files


@pytest.fixture
def source(tmp_path: Path) -> Path:
    source = tmp_path / "source"
    source.mkdir()
    for number in range(20):
        (source / f"f{number}").write_bytes(os.urandom(2000))
    return source


def sound(place: Path, project: str) -> bool:
    with Repository.open(str(place), project=project) as repository:
        versions = repository.registry.versions("data")
        return bool(versions) and verify(repository, versions).damages == []


def test_each_project_has_its_packs_once_the_repository_is_opened(tmp_path, source):
    place = tmp_path / "repository"
    expected = in_format_1(place, source)
    assert all(sound(place, project) for project in PROJECTS)
    assert store_files(place) == expected
    assert json.loads((place / "repository.json").read_text()) == {"magic": "artifactfs-repository", "format": 2}
    assert sorted(path.name for path in (place / "store").iterdir()) == sorted(PROJECTS)
    assert sound(place, "one")


def test_what_no_project_names_is_the_only_ones(tmp_path, source):
    place = tmp_path / "repository"
    expected = in_format_1(place, source, ("only",))
    assert sound(place, "only")
    assert store_files(place) == expected
    assert sorted(path.name for path in (place / "store").iterdir()) == ["only"]


def test_where_files_have_one_name_packs_are_copied(tmp_path, source, monkeypatch):
    place = tmp_path / "repository"
    expected = in_format_1(place, source)

    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    assert all(sound(place, project) for project in PROJECTS)
    assert store_files(place) == expected


def test_many_processes_open_it_at_once(tmp_path, source):
    place = tmp_path / "repository"
    expected = in_format_1(place, source)
    code = "import sys; from artifactfs.repository import Repository; Repository.open(sys.argv[1]).close()"
    workers = [subprocess.Popen([sys.executable, "-c", code, str(place)]) for _ in range(3)]
    # Whoever comes late finds it done, or the registry open by one who has done it.
    assert [worker.wait(60) for worker in workers] == [0, 0, 0]
    assert store_files(place) == expected


def test_it_stays_as_it_is_while_a_process_of_an_older_release_has_it_open(tmp_path, source):
    place = tmp_path / "repository"
    in_format_1(place, source)
    before = store_files(place)
    with closing(sqlite3.connect(place / "registry.db")) as connection:
        connection.execute("SELECT count(*) FROM project").fetchall()
        with pytest.raises(Unavailable, match=f"the process {os.getpid()} has the repository .* open"):
            Repository.open(str(place))
        assert store_files(place) == before
        assert '"format":1' in (place / "repository.json").read_text()
    assert holder(place / "registry.db") is None
    assert sound(place, "one")


def test_a_newer_format_is_refused(tmp_path):
    Repository.create(str(tmp_path / "repository")).close()
    marker = tmp_path / "repository" / "repository.json"
    marker.write_text(json.dumps({"magic": "artifactfs-repository", "format": 3}))
    with pytest.raises(Format, match="has format 3; this release reads format 2: use a newer artifactfs"):
        Repository.open(str(tmp_path / "repository"))

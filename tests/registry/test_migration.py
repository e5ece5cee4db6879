"""A registry's file of format 1 becomes one of this release's format when it is opened."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from artifactfs.errors import Format, Integrity, Unavailable
from artifactfs.model.lineage import NewRun
from artifactfs.model.query import Query
from artifactfs.registry import facts
from artifactfs.registry.schema import FORMAT
from artifactfs.registry.sql import SQLRegistry
from tests.conformance.registry import NAME, commit, digest, request

OLD = Path(__file__).parents[1] / "golden" / "registry-format-1.sql"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file as a release of format 1 left it."""
    path = tmp_path / "registry.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(OLD.read_text("utf-8"))
    return path


@pytest.fixture
def registry(path: Path) -> Iterator[SQLRegistry]:
    with closing(SQLRegistry(path)) as registry:
        yield registry


def format_of(path: Path) -> str:
    with closing(sqlite3.connect(path)) as connection:
        return str(connection.execute("SELECT value FROM meta WHERE key = 'format'").fetchone()[0])


def shape_of(path: Path) -> dict[str, object]:
    """All tables with their columns, keys and indexes, told without the text that made them."""
    with closing(sqlite3.connect(path)) as connection:
        shape: dict[str, object] = {}
        for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            indexes = {
                (index, unique, partial): connection.execute(f"PRAGMA index_xinfo('{index}')").fetchall()
                for _, index, unique, _, partial in connection.execute(f"PRAGMA index_list({name})")
            }
            columns = connection.execute(f"PRAGMA table_xinfo({name})").fetchall()
            shape[name] = (columns, sorted(connection.execute(f"PRAGMA foreign_key_list({name})")), indexes)
        return shape


def names(registry: SQLRegistry, **query) -> list[str]:
    return [version.name for version in registry.find(Query(**query))]


def test_what_was_there_is_there(registry):
    assert [artifact.name for artifact in registry.artifacts()] == [NAME, "bike-model"]
    versions = registry.versions(NAME)
    assert [version.number for version in versions] == [0, 1, 3]
    assert [version.id for version in versions] == [1, 2, 4]
    assert versions[0].digest == digest("a")
    assert versions[0].metadata == {
        "rows": 100,
        "source": {"name": "bikes", "tags": ["red", "blue"]},
        "clean": True,
        "nothing": None,
    }
    assert versions[2].description == "Zeilen\n'🚲'"
    assert {(version.tags, version.updated, version.run) for version in versions} == {((), 0, "")}
    assert registry.aliases(NAME) == {"best": 1, "latest": 3}
    assert registry.missing([digest("chunk 1"), digest("chunk 3")]) == {digest("chunk 3")}
    assert registry.revision() == 1_700_000_005_000
    assert registry.check() == []


def test_it_does_all_that_a_new_one_does(registry):
    registry.start_run(NewRun(id="r1", name="one"))
    assert registry.edit(NAME, 0, tags=["old"]).tags == ("old",)
    registry.add_inputs("r1", [1])
    assert commit(registry, "new", run="r1").version.number == 4
    registry.delete(NAME, 4)
    assert registry.aliases(NAME) == {"best": 1, "latest": 3}
    registry.add_part(NAME, "draft", digest("part"), session=registry.open_session("writer", seconds=60))
    assert registry.commit(request("a", commit_id="bike-dataset-a")).created, "ids of commits are kept"
    assert registry.check() == []


def test_metadata_is_found(registry):
    assert names(registry, where="metadata.rows >= 100") == [f"{NAME}:v0", f"{NAME}:v1"]
    assert names(registry, where='metadata.source.tags contains "red"') == [f"{NAME}:v0"]
    assert names(registry, where='metadata.note = "größer"') == [f"{NAME}:v1"]
    assert names(registry, where="metadata.accuracy < 1") == ["bike-model:v0"]
    assert names(registry, where="metadata.rows = 1") == [], "deleted"
    assert names(registry.of_project("cars"), where="metadata.rows > 0") == [f"{NAME}:v0"]


def test_the_file_has_the_shape_of_a_new_one(registry, path, tmp_path):
    SQLRegistry(tmp_path / "new.db", create=True).close()
    assert shape_of(path) == shape_of(tmp_path / "new.db")
    assert format_of(path) == format_of(tmp_path / "new.db") == str(FORMAT)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_opening_it_again_changes_nothing(registry, path):
    before = [version.id for version in registry.find(Query())]
    with closing(sqlite3.connect(path)) as connection:
        changes = connection.execute("SELECT count(*), max(rowid) FROM sqlite_master").fetchone()
    with closing(SQLRegistry(path)) as again:
        assert [version.id for version in again.find(Query())] == before
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*), max(rowid) FROM sqlite_master").fetchone() == changes


def test_many_who_open_it_at_once_bring_it_there_once(path, monkeypatch):
    taken: list[int] = []
    replace = facts.replace

    def counted(connection, project, version, metadata) -> None:
        taken.append(version)
        replace(connection, project, version, metadata)

    monkeypatch.setattr(facts, "replace", counted)
    with ThreadPoolExecutor(8) as threads:
        opened = list(threads.map(lambda _: SQLRegistry(path), range(8)))
    for registry in opened:
        assert len(registry.versions(NAME)) == 3
        registry.close()
    assert sorted(taken) == [1, 2, 4, 5, 6]


def test_what_stops_in_the_middle_leaves_the_old_file(path, monkeypatch):
    def stop(connection, project, version, metadata) -> None:
        if version == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(facts, "replace", stop)
    before = shape_of(path)
    with pytest.raises(KeyboardInterrupt):
        SQLRegistry(path)
    assert format_of(path) == "1"
    assert shape_of(path) == before
    monkeypatch.undo()
    with closing(SQLRegistry(path)) as registry:
        assert registry.check() == []


def test_a_file_that_another_writer_holds_is_unavailable_and_stays(path):
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(Unavailable, match="held by another process"):
            SQLRegistry(path, seconds=0.1)
        other.execute("ROLLBACK")
    assert format_of(path) == "1"
    SQLRegistry(path).close()
    assert format_of(path) == str(FORMAT)


def test_metadata_that_is_damaged_does_not_keep_the_rest_away(path):
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE version SET metadata = '{' WHERE id = 1")
        connection.execute("UPDATE version SET metadata = '[1]' WHERE id = 2")
    with closing(SQLRegistry(path)) as registry:
        for number in (0, 1):
            with pytest.raises(Integrity, match="artifactfs verify"):
                registry.version(NAME, number)
        assert registry.version(NAME, 3).metadata == {}
        assert names(registry, where="metadata.accuracy = 0.75") == ["bike-model:v0"]


@pytest.mark.parametrize("found", ["0", str(FORMAT + 1), "none", "-1", "1.0", " 1"])
def test_formats_that_never_were_or_are_not_yet_are_refused(path, found):
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE meta SET value = ?", (found,))
    with pytest.raises(Format, match=f"format {found}, this release reads format {FORMAT}; use a newer release"):
        SQLRegistry(path)
    assert format_of(path) == found

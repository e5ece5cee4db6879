"""What is SQLite's own: the file, its locks, its errors, its damages."""

from __future__ import annotations

import re
import shutil
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import event

from artifactfs.errors import (
    Access,
    ArtifactFSError,
    Format,
    Integrity,
    InvalidInput,
    NoSpace,
    NotFound,
    Unavailable,
)
from artifactfs.model.lineage import NewRun
from artifactfs.model.query import Query
from artifactfs.model.records import CommitRequest
from artifactfs.registry.sql import SQLRegistry
from artifactfs.registry.sqlite import APPLICATION_ID
from tests.conformance.registry import NAME, commit, digest
from tests.registry.invented import pack_of

PAGE = 8192  # bytes


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "registry.db"


@pytest.fixture
def registry(path: Path) -> Iterator[SQLRegistry]:
    with closing(SQLRegistry(path, create=True, seconds=0.2)) as registry:
        yield registry


def run_sql(path: Path, statement: str, *values: object) -> None:
    """As somebody with the sqlite3 program would."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(statement, values)


# -- opening -----------------------------------------------------------------------------------------------------------


def test_without_a_file_there_is_no_registry(path):
    with pytest.raises(NotFound, match="no registry at") as raised:
        SQLRegistry(path)
    assert str(path) in str(raised.value)
    assert not path.exists()


def test_a_registry_is_not_made_in_a_directory_that_is_not_there(tmp_path):
    with pytest.raises(NotFound, match="make it first"):
        SQLRegistry(tmp_path / "not" / "there.db", create=True)


def test_a_directory_is_no_registry(tmp_path):
    with pytest.raises(NotFound):
        SQLRegistry(tmp_path)


def test_creating_leaves_one_file_that_says_what_it_is(path):
    SQLRegistry(path, create=True).close()
    assert [file.name for file in path.parent.iterdir()] == ["registry.db"]
    assert path.read_bytes()[:16] == b"SQLite format 3\0"
    assert int.from_bytes(path.read_bytes()[68:72], "big") == APPLICATION_ID
    with closing(SQLRegistry(path, create=True)) as again:
        assert again.artifacts() == []


def test_reading_makes_no_project(path, registry):
    assert registry.artifacts() == []
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM project").fetchone() == (0,)


def test_names_of_files_are_not_read_as_addresses(tmp_path):
    odd = tmp_path / "a?mode=memory&b#c%41 d"
    odd.mkdir()
    with closing(SQLRegistry(odd / "x?y.db", create=True)) as registry:
        commit(registry, "a")
    assert (odd / "x?y.db").stat().st_size > 0


def test_a_newer_format_is_refused_by_both_numbers(path):
    SQLRegistry(path, create=True).close()
    run_sql(path, "UPDATE meta SET value = '7' WHERE key = 'format'")
    with pytest.raises(Format, match="format 7, this release reads format 3"):
        SQLRegistry(path)


def test_another_program_s_database_is_refused(path):
    run_sql(path, "CREATE TABLE notes(text)")
    with pytest.raises(Format, match="no ArtifactFS registry"):
        SQLRegistry(path)


def test_a_file_that_is_no_database_is_refused(path):
    path.write_bytes(b"not a database at all" * 100)
    with pytest.raises(Integrity, match="restore the file from a backup") as raised:
        SQLRegistry(path)
    assert str(path) in str(raised.value)
    assert isinstance(raised.value.__cause__, sqlite3.Error)


def test_a_network_file_system_is_refused(path, monkeypatch):
    monkeypatch.setattr("artifactfs.registry.netfs.filesystem_of", lambda path, mountinfo: "nfs4")
    with pytest.raises(ArtifactFSError, match=r"the registry cannot lie on a network file system \(NFS\)"):
        SQLRegistry(path, create=True)
    assert not path.exists()


# -- locks, space, permission ------------------------------------------------------------------------------------------


def test_a_writer_that_another_process_holds_up_is_unavailable_and_readers_go_on(path, registry):
    version = commit(registry, "a").version
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        revision = registry.revision()
        for write in (
            lambda: commit(registry, "b"),
            lambda: registry.add_packs([pack_of("p", digest(1))]),
            lambda: registry.open_session("writer", seconds=10),
        ):
            with pytest.raises(Unavailable, match="held by another process") as raised:
                write()
            assert str(path) in str(raised.value)
        assert registry.version(NAME, 0) == version
        assert registry.revision() == revision
        other.execute("ROLLBACK")
    assert commit(registry, "b").version.number == 1


def test_a_writer_that_another_thread_holds_up_is_unavailable(registry):
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with registry._database.writing(durable=False):
            held.set()
            done.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        assert held.wait(60)
        with pytest.raises(Unavailable, match="another thread"):
            commit(registry, "a")
    finally:
        done.set()
        thread.join()
    assert commit(registry, "a").created


def test_more_readers_than_connections_are_unavailable(registry):
    readers = [registry._database.reading() for _ in range(8)]
    for reader in readers:
        reader.__enter__()
    try:
        with pytest.raises(Unavailable, match="no connection became free"):
            registry.artifacts()
        assert registry.revision() == 0
    finally:
        for reader in readers:
            reader.__exit__(None, None, None)
    assert registry.artifacts() == []


def test_a_full_disk_leaves_the_state_that_was(registry):
    version = commit(registry, "a").version
    packs = [pack_of("large", *[digest(number) for number in range(5000)])]
    with registry._database.reading() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        connection.exec_driver_sql(f"PRAGMA max_page_count={pages + 2}")
    with pytest.raises(NoSpace, match="disk is full"):
        registry.add_packs(packs)
    assert registry.packs() == []
    assert registry.versions(NAME) == [version]
    assert registry.check() == []
    with registry._database.reading() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count=1000000")
    registry.add_packs(packs)
    assert len(registry.packs()) == 1


def test_a_write_that_is_not_permitted_is_an_access_error(registry):
    commit(registry, "a")
    with registry._database.reading() as connection:
        connection.exec_driver_sql("PRAGMA query_only=ON")
    with pytest.raises(Access, match="check the permissions"):
        commit(registry, "b")
    assert registry.artifact(NAME).latest == 0


def test_a_registry_that_is_deleted_while_open_says_so(path, registry):
    commit(registry, "a")
    path.rename(path.with_name("moved.db"))
    with pytest.raises(NotFound, match="moved, deleted or replaced"):
        commit(registry, "b")
    SQLRegistry(path, create=True).close()
    with pytest.raises(NotFound, match="moved, deleted or replaced"):
        registry.add_packs([pack_of("p", digest(1))])


def test_a_closed_registry_is_unavailable(registry):
    registry.close()
    for use in (registry.revision, registry.artifacts, lambda: commit(registry, "a"), registry.check):
        with pytest.raises(Unavailable, match="was closed"):
            use()


# -- durability --------------------------------------------------------------------------------------------------------


def test_commits_are_synced_and_the_rows_of_packs_wait_for_them(registry):
    statements: list[str] = []
    event.listen(
        registry._database._engine, "before_cursor_execute", lambda *args: statements.append(args[2]), named=False
    )

    def synchronous(write) -> list[str]:
        statements.clear()
        write()
        return [text for text in statements if "synchronous" in text or text.startswith("BEGIN")]

    immediate = "BEGIN IMMEDIATE"
    assert synchronous(lambda: commit(registry, "a")) == ["PRAGMA synchronous=FULL", immediate]
    assert synchronous(lambda: registry.add_packs([pack_of("p", digest(1))])) == [
        "PRAGMA synchronous=NORMAL",
        immediate,
    ]
    assert synchronous(lambda: registry.move_aliases(NAME, 0, ["best"])) == ["PRAGMA synchronous=FULL", immediate]
    with registry._database.reading() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1


def test_a_revision_is_not_given_again_after_a_backup_was_restored(tmp_path):
    now = 1_700_000_000.0
    with closing(SQLRegistry(tmp_path / "a.db", create=True, clock=lambda: now)) as registry:
        commit(registry, "a")
        with (
            closing(sqlite3.connect(tmp_path / "a.db")) as source,
            closing(sqlite3.connect(tmp_path / "b.db")) as backup,
        ):
            source.backup(backup)
        given = [registry.revision()]
        for name in "bcd":
            commit(registry, name)
            given.append(registry.revision())
    assert given == sorted(set(given))
    now += 1
    with closing(SQLRegistry(tmp_path / "b.db", clock=lambda: now)) as restored:
        assert restored.revision() == given[0]
        commit(restored, "e")
        assert restored.revision() not in given


def test_a_backup_made_by_vacuum_is_written_ahead_again(tmp_path, path, registry):
    commit(registry, "a")
    with closing(sqlite3.connect(path)) as source:
        source.execute("VACUUM INTO ?", (str(tmp_path / "backup.db"),))
    with closing(sqlite3.connect(tmp_path / "backup.db")) as backup:
        assert backup.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    with closing(SQLRegistry(tmp_path / "backup.db")) as restored:
        assert restored.versions(NAME) == registry.versions(NAME)
    with closing(sqlite3.connect(tmp_path / "backup.db")) as backup:
        assert backup.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_asking_for_the_revision_holds_up_no_checkpoint(path, registry):
    commit(registry, "a")
    first = registry.revision()
    commit(registry, "b")
    with closing(sqlite3.connect(path, timeout=0)) as other:
        busy, _, _ = other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    assert busy == 0
    assert path.with_name("registry.db-wal").stat().st_size == 0
    assert registry.revision() > first


# -- damage ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def filled(path: Path) -> Path:
    """A closed registry of some thirty pages."""
    with closing(SQLRegistry(path, create=True)) as registry:
        registry.start_run(NewRun(id="r1", name="one"))
        for number in range(30):
            commit(registry, number, aliases=("best",), description="word " * 100, metadata={"number": number})
            registry.add_packs([pack_of(number, *[digest((number, part)) for part in range(100)])])
        registry.edit(NAME, 3, tags=["tried"])
        registry.add_inputs("r1", [registry.version(NAME, 3).id])
        commit(registry, 29, run="r1")
        registry.add_part(NAME, "draft", digest("part"), session=registry.open_session("writer", seconds=1e6))
        assert registry.check() == []
    return path


def every_reading(registry: SQLRegistry) -> Iterator:
    yield registry.revision
    yield registry.artifacts
    yield lambda: registry.versions(NAME)
    yield lambda: registry.resolve(NAME, "best")
    yield lambda: registry.aliases(NAME)
    yield registry.packs
    chunks = [digest((number, part)) for number in range(30) for part in range(100)]
    yield lambda: registry.missing(chunks)
    yield lambda: registry.locate(chunks)
    yield lambda: registry.find(Query(where="metadata.number > 3", sort=("-metadata.number",)))
    yield lambda: registry.find(Query(tag="tried"))
    yield registry.runs
    yield lambda: registry.links(runs=["r1"])
    yield lambda: registry.parts(NAME, "draft")
    yield lambda: registry.renew_run("r1", seconds=10)
    yield lambda: registry.edit(NAME, 3, metadata={"number": 7})
    yield lambda: registry.delete(NAME, 4)
    yield lambda: commit(registry, "more")


@pytest.mark.parametrize("damage", [b"\0", b"\xff", b"\x0d\x00\x07"], ids=["zeros", "ones", "nonsense"])
def test_every_damaged_page_is_found_and_none_ends_in_a_traceback(filled, tmp_path, damage):
    pages = filled.stat().st_size // PAGE
    assert pages > 20
    for page in range(1, pages):
        copy = tmp_path / f"page{page}.db"
        shutil.copy(filled, copy)
        with copy.open("r+b") as file:
            file.seek(page * PAGE)
            file.write((damage * PAGE)[:PAGE])
        try:
            registry = SQLRegistry(copy, seconds=1)
        except Integrity as error:
            assert str(copy) in str(error)  # noqa: PT017 - many pages prevent opening, not all of them
            continue
        with closing(registry):
            findings = registry.check()
            assert findings, f"page {page}"
            for finding in findings:
                assert finding.startswith(f"the registry {copy}")
                assert "\n" not in finding
            for reading in every_reading(registry):
                try:
                    reading()
                except ArtifactFSError as error:
                    assert isinstance(error, Integrity), error  # noqa: PT017 - pages that a reading does not touch do no harm


def test_a_truncated_file_is_damaged(filled):
    with filled.open("r+b") as file:
        file.truncate(5 * PAGE)
    with pytest.raises(Integrity):
        SQLRegistry(filled)


@pytest.mark.parametrize(
    ("statement", "finding"),
    [
        ("UPDATE version SET deleted = 1 WHERE number = 29", f"the alias {NAME}:best names no living version"),
        ("UPDATE alias SET version = 999 WHERE name = 'best'", "a row of alias .* names a missing version"),
        ("DELETE FROM alias", f"{NAME} has versions, but no alias latest"),
        ("UPDATE artifact SET next_number = 29", f"{NAME} has v29, but would give the number 29 next"),
        ("UPDATE version SET digest = x'00' WHERE number = 3", f"the digest of {NAME}:v3 has a wrong length"),
        ("UPDATE pack SET size = 9999", "the chunk [0-9a-f]{64} does not lie in its pack [0-9a-f]{64}"),
        ('UPDATE chunk SET "offset" = -1', "and more of these"),
        ("DELETE FROM pack WHERE id = 1", "a row of chunk .* names a missing pack"),
        ("UPDATE version SET deleted = 1 WHERE number = 3", f"{NAME}:v3 is deleted, but has tags"),
        ("UPDATE version SET deleted = 1 WHERE number = 4", f"{NAME}:v4 is deleted, but has facts"),
        ("UPDATE version SET run = 'r2' WHERE number = 3", f"{NAME}:v3 was made by the run 'r2', of which"),
        ("UPDATE artifact SET project = 2", f"the run r1 is linked with {NAME}:v3 of another project"),
        ("DELETE FROM run", "a row of run_input .* names a missing run"),
        ("DROP TABLE alias", "lacks tables of its format"),
    ],
)
def test_what_contradicts_itself_is_found(filled, statement, finding):
    run_sql(filled, statement)
    with closing(SQLRegistry(filled)) as registry:
        assert re.search(finding, "\n".join(registry.check()))


def test_a_chunk_in_a_pack_that_is_gone_is_damage_and_not_absence(filled):
    run_sql(filled, "DELETE FROM pack WHERE id = 1")
    with closing(SQLRegistry(filled)) as registry:
        with pytest.raises(Integrity, match="packs that it lacks"):
            registry.locate([digest((0, 0))])
        assert registry.locate([digest((1, 0))]).keys() == {digest((1, 0))}


def test_metadata_that_is_no_json_is_damage(filled):
    run_sql(filled, "UPDATE version SET metadata = '{' WHERE number = 3")
    with closing(SQLRegistry(filled)) as registry:
        with pytest.raises(Integrity, match="damaged metadata"):
            registry.version(NAME, 3)
        assert registry.version(NAME, 4).metadata == {"number": 4}


# -- the clock ---------------------------------------------------------------------------------------------------------


def test_versions_bear_the_time_of_their_commit(registry):
    before = time.time_ns()
    created = registry.commit(
        CommitRequest(
            commit_id="now", artifact=NAME, type=None, digest=digest("a"), size=0, files=0, entries=0, metadata=None
        )
    ).version.created
    # The clock counts in floats, which are exact to half a microsecond today.
    assert before - 1000 <= created <= time.time_ns() + 1000


# -- several projects --------------------------------------------------------------------------------------------------


def test_projects_of_one_registry_share_its_connections(registry, path):
    cars = registry.of_project("cars")
    assert cars.project == "cars"
    assert cars.artifacts() == []
    commit(registry, "a")
    assert (cars.artifacts(), cars.revision()) == ([], 0)
    commit(cars, "b")
    assert [version.digest for version in cars.versions(NAME)] == [digest("b")]
    assert [version.digest for version in registry.versions(NAME)] == [digest("a")]
    with closing(SQLRegistry(path, project="cars")) as other:
        assert other.versions(NAME) == cars.versions(NAME)
    with pytest.raises(InvalidInput):
        registry.of_project("a/b")
    registry.close()
    with pytest.raises(Unavailable, match="was closed"):
        cars.artifacts()


def test_what_a_server_tells_is_on_the_disk_before(path: Path):
    with closing(SQLRegistry(path, create=True)) as registry:

        def levels() -> list[str]:
            found: list[str] = []

            def note(_connection, _cursor, statement, *_):
                if statement.startswith("PRAGMA synchronous="):
                    found.append(statement.partition("=")[2])

            engine = registry._database._engine
            event.listen(engine, "before_cursor_execute", note)
            try:
                other = registry.of_project("other")
                session = other.open_session("put", seconds=60)
                other.expect_pack("0" * 64, 10)
                other.add_packs([pack_of("a")], session=session)
            finally:
                event.remove(engine, "before_cursor_execute", note)
            return found

        # Who opens the file ends with its machine; a server's clients do not.
        assert levels() == ["NORMAL"] * 3
        registry.outlive()
        assert levels() == ["FULL"] * 3

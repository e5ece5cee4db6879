"""What is PostgreSQL's own: opening, formats, locks, lost connections, durability, errors. All on a real server."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import event
from sqlalchemy.exc import ProgrammingError

from artifactfs.errors import (
    Access,
    ArtifactFSError,
    Conflict,
    Format,
    Integrity,
    InvalidInput,
    NoSpace,
    NotFound,
    Unavailable,
)
from artifactfs.model.query import Query
from artifactfs.model.retention import RetentionRule
from artifactfs.registry import postgresql, retention
from artifactfs.registry.opening import open_registry
from artifactfs.registry.postgresql import WRITERS, PostgresDatabase, parameters_of
from artifactfs.registry.postgresql_errors import translated
from artifactfs.registry.schema import FORMAT, STORE_KEY, TABLES, meta
from artifactfs.registry.sql import SQLRegistry
from tests.conformance.registry import NAME, commit, digest, request
from tests.conftest import TESTS, eventually
from tests.postgres import Server, running
from tests.registry.invented import pack_of

GOLDEN = TESTS / "golden" / "registry-format-2.postgresql.sql"
SECRET = "very-secret-word"  # noqa: S105


@pytest.fixture
def open_again(postgres_url: str) -> Iterator[Callable[..., SQLRegistry]]:
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(closing(open_registry(postgres_url, **options)))


@pytest.fixture
def registry(open_again: Callable[..., SQLRegistry]) -> SQLRegistry:
    return open_again()


@pytest.fixture
def hurried(open_again: Callable[..., SQLRegistry]) -> SQLRegistry:
    """One that waits no longer than a test can."""
    return open_again(seconds=0.5)


def engine_of(registry: SQLRegistry):
    return registry._database._engine


def refused(url: str, kind: type[ArtifactFSError], **options) -> str:
    """The one line that opening ends with."""
    with pytest.raises(ArtifactFSError) as raised:
        open_registry(url, **options)
    assert type(raised.value) is kind, raised.value
    assert "\n" not in str(raised.value)
    assert SECRET not in str(raised.value)
    return str(raised.value)


# -- where it is -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://me:{SECRET}@db.example.com/a",
        f"postgresql://me@db.example.com/a?password={SECRET}",
        f"postgres://me@db.example.com/a?sslpassword={SECRET}",
    ],
)
def test_a_url_with_a_secret_is_refused_and_not_repeated(url):
    words = refused(url, InvalidInput)
    assert "leave it out" in words
    assert "PGPASSFILE" in words


@pytest.mark.parametrize(
    "url", [f"postgresql://me:{SECRET}@[::1/a", f"postgresql://h/a?no-such={SECRET}", "postgres://h:1/%zz"]
)
def test_what_is_no_url_is_refused_and_not_repeated(url):
    assert "not a URL of PostgreSQL" in refused(url, InvalidInput)


def test_what_the_url_says_counts_more_than_what_is_usual():
    found = parameters_of(
        "postgresql://me@h1,h2:5433/a?connect_timeout=3&target_session_attrs=read-write&sslmode=verify-full"
    )
    assert found["connect_timeout"] == "3"
    assert found["sslmode"] == "verify-full"
    assert found["host"] == "h1,h2"
    assert found["keepalives_idle"] == 10


def test_its_name_tells_where_it_is_but_not_who_asks(postgres, postgres_registry):
    with closing(PostgresDatabase(postgres.url(postgres_registry))) as database:
        assert str(database) == f"the registry postgresql://[{postgres.place}]:{postgres.port}/{postgres_registry}"


# -- opening -----------------------------------------------------------------------------------------------------------


def test_a_database_without_tables_is_no_registry_until_they_are_made(postgres, empty_database):
    url = postgres.url(empty_database)
    assert "`artifactfs serve` makes them" in refused(url, NotFound)
    with closing(open_registry(url, create=True)) as registry:
        assert commit(registry, "a").version.number == 0
    with closing(open_registry(url)) as registry:
        assert registry.artifact(NAME).versions == 1


def test_replicas_that_start_at_once_make_the_tables_once(postgres, empty_database):
    with ThreadPoolExecutor(6) as threads:
        opened = list(threads.map(lambda _: open_registry(postgres.url(empty_database), create=True), range(6)))
    for number, registry in enumerate(opened):
        assert commit(registry, number).version.number == number
    for registry in opened:
        registry.close()


def test_another_program_s_tables_are_left_alone(postgres, empty_database):
    postgres.sql("CREATE TABLE meta (name text)", database=empty_database)
    assert "a database of its own" in refused(postgres.url(empty_database), Format, create=True)
    postgres.sql("DROP TABLE meta; CREATE TABLE project (name text)", database=empty_database)
    refused(postgres.url(empty_database), Format, create=True)
    assert postgres.sql("SELECT tablename FROM pg_tables WHERE schemaname = 'public'", database=empty_database) == [
        ("project",)
    ]


def test_a_newer_format_is_refused(postgres, empty_database):
    url = postgres.url(empty_database)
    open_registry(url, create=True).close()
    postgres.sql("UPDATE meta SET value = '99' WHERE key = 'format'", database=empty_database)
    for create in (False, True):
        assert f"has format 99, this release reads format {FORMAT}; use a newer release" in refused(
            url, Format, create=create
        )


def test_another_encoding_than_utf8_is_refused(postgres):
    postgres.sql("CREATE DATABASE latin TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C' LOCALE_PROVIDER libc")
    try:
        assert "make a database with ENCODING 'UTF8'" in refused(postgres.url("latin"), Format, create=True)
    finally:
        postgres.drop_database("latin")


def test_without_the_driver_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    monkeypatch.delitem(sys.modules, "artifactfs.registry.postgresql")
    monkeypatch.delattr("artifactfs.registry.postgresql")
    assert "pip install 'artifactfs[postgres]'" in refused("postgresql://h/a", InvalidInput)


# -- formats -----------------------------------------------------------------------------------------------------------


def differences(postgres: Server, database: str) -> list:
    with closing(PostgresDatabase(postgres.url(database))) as opened, opened.reading() as connection:
        return compare_metadata(MigrationContext.configure(connection), TABLES)


def load_golden(postgres: Server, database: str) -> None:
    command = [postgres.programs / "psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-f", GOLDEN, postgres.url(database)]
    subprocess.run(command, check=True, capture_output=True)


def test_new_tables_are_those_of_this_release(postgres, empty_database):
    open_registry(postgres.url(empty_database), create=True).close()
    assert differences(postgres, empty_database) == []


def test_a_registry_of_format_2_is_migrated_with_all_that_is_in_it(postgres, empty_database):
    url = postgres.url(empty_database)
    load_golden(postgres, empty_database)
    assert f"has format 2; `artifactfs serve` brings it to format {FORMAT}" in refused(url, Format)
    with closing(open_registry(url, create=True)) as registry:
        assert [record.name for record in registry.artifacts()] == ["Zebra", "bike-dataset"]
        assert [record.number for record in registry.versions(NAME)] == [0, 2]
        assert registry.aliases(NAME) == {"best": 0, "latest": 2}
        latest = registry.resolve(NAME, "latest")
        assert latest.metadata == {"z": 1, "accuracy": 0.5, "name": "ü ∑", "whole": 1.0}
        assert list(latest.metadata) == ["z", "accuracy", "name", "whole"]
        assert latest.tags == ("tried",)
        assert [found.number for found in registry.find(Query(where="metadata.accuracy = 0.5"))] == [2]
        assert [run.id for run in registry.runs()] == ["r1"]
        assert registry.links(runs=["r1"]).links != []
        assert registry.missing([digest("chunk-0"), digest("absent")]) == {digest("absent")}
        assert registry.check() == []
        registry.tokens.create(project="default", role="read")
        assert commit(registry, "new").version.number == 3
    assert differences(postgres, empty_database) == []
    assert postgres.sql("SELECT version_num FROM alembic_version", database=empty_database) == [(str(FORMAT),)]


def test_of_replicas_that_start_at_once_one_migrates(postgres, empty_database):
    load_golden(postgres, empty_database)
    with ThreadPoolExecutor(5) as threads:
        opened = list(threads.map(lambda _: open_registry(postgres.url(empty_database), create=True), range(5)))
    assert len({registry.revision() for registry in opened}) == 1
    for registry in opened:
        registry.close()
    assert differences(postgres, empty_database) == []


# -- who is let in -----------------------------------------------------------------------------------------------------


@pytest.fixture
def role(postgres: Server, postgres_registry: str, postgres_url: str) -> Iterator[str]:
    """A role with a password and the right to work in the registry, but not to make tables."""
    name = "worker"
    database = postgres_registry
    postgres.sql(f"CREATE ROLE {name} LOGIN PASSWORD '{SECRET}'")
    postgres.sql(f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {name}", database=database)
    postgres.sql(f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO {name}", database=database)
    yield name
    postgres.sql(f"DROP OWNED BY {name}", database=database)
    postgres.sql(f"DROP ROLE {name}")


@pytest.fixture
def password_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "pgpass"
    path.write_text(f"*:*:*:*:{SECRET}\n")
    path.chmod(0o600)
    monkeypatch.setenv("PGPASSFILE", str(path))
    return path


def test_a_password_comes_from_its_file_and_a_role_needs_no_more_than_rows(
    postgres, postgres_registry, role, password_file
):
    with closing(open_registry(postgres.url(postgres_registry, tcp=True, user=role))) as registry:
        assert commit(registry, "a", aliases=("best",)).created
        registry.add_packs([pack_of("p", digest(1))])
        assert registry.check() == []


def test_a_role_that_owns_its_database_needs_no_more(postgres, password_file):
    postgres.sql(f"CREATE ROLE artifactfs LOGIN PASSWORD '{SECRET}'")
    postgres.sql("CREATE DATABASE artifactfs OWNER artifactfs ENCODING 'UTF8' TEMPLATE template0")
    postgres.sql("REVOKE CONNECT ON DATABASE artifactfs FROM PUBLIC")
    try:
        url = postgres.url("artifactfs", tcp=True, user="artifactfs")
        with closing(open_registry(url, create=True)) as registry:
            assert commit(registry, "a").created
        dump = [postgres.programs / "pg_dump", "--format=custom", f"--file={password_file.parent / 'dump'}", url]
        subprocess.run(dump, check=True, capture_output=True)
    finally:
        postgres.drop_database("artifactfs")
        postgres.sql("DROP ROLE artifactfs")


def test_who_is_not_let_in_is_told_what_to_do(postgres, postgres_registry, role, password_file):
    url = postgres.url(postgres_registry, tcp=True, user=role)
    password_file.write_text("*:*:*:*:wrong\n")
    assert "PGPASSFILE" in refused(url, Access)
    password_file.write_text("")
    assert "PGPASSFILE" in refused(url, Access)
    assert "PGPASSFILE" in refused(postgres.url(postgres_registry, user="nobody_there"), Access)
    assert "has no such database" in refused(postgres.url("not_there"), NotFound)
    postgres.sql(f"REVOKE CONNECT ON DATABASE {postgres_registry} FROM PUBLIC")
    password_file.write_text(f"*:*:*:*:{SECRET}\n")
    try:
        assert "CONNECT" in refused(url, Access)
    finally:
        postgres.sql(f"GRANT CONNECT ON DATABASE {postgres_registry} TO PUBLIC")


def test_a_right_that_is_missing_is_an_access_error_and_changes_nothing(
    postgres, postgres_registry, role, password_file
):
    with closing(open_registry(postgres.url(postgres_registry, tcp=True, user=role))) as registry:
        commit(registry, "a")
        postgres.sql(f"REVOKE INSERT ON commit_made FROM {role}", database=postgres_registry)
        with pytest.raises(Access, match=r"own the database.*42501") as raised:
            commit(registry, "b")
        assert "\n" not in str(raised.value)
        assert registry.artifact(NAME).latest == 0


def test_too_many_connections_are_unavailable(postgres, postgres_registry, role, password_file):
    postgres.sql(f"ALTER ROLE {role} CONNECTION LIMIT 1")
    url = postgres.url(postgres_registry, tcp=True, user=role)
    with closing(open_registry(url)) as registry, registry._database.reading():
        assert "max_connections" in refused(url, Unavailable)


def test_a_server_that_is_not_there_is_unavailable(postgres, tmp_path):
    assert "cannot be reached" in refused(
        f"postgresql://me@127.0.0.1:{postgres.port}1/a".replace(f":{postgres.port}1", ":1"), Unavailable
    )
    assert "cannot be reached" in refused(f"postgresql://me@/a?host={tmp_path}", Unavailable)


@pytest.mark.parametrize(
    ("code", "kind", "words"),
    [
        ("40P01", Unavailable, "wait for each other"),
        ("40001", Unavailable, "repeat"),
        ("53100", NoSpace, "nothing was changed; free some space"),
        ("25006", Unavailable, "standby"),
        ("57P03", Unavailable, "is starting or stopping"),
        ("08006", Unavailable, "lost the connection"),
        ("28P01", Access, "PGPASSFILE"),
        ("23505", Integrity, "artifactfs verify"),
        ("XX001", Integrity, "backup"),
        ("58030", Unavailable, "system"),
        ("0Z001", Unavailable, "does not answer"),
    ],
)
def test_an_error_of_the_server_is_one_of_ours_in_one_line(code, kind, words):
    error = (
        psycopg.errors.lookup(code)("could not extend file\nDETAIL:  nobody\n")
        if code != "0Z001"
        else psycopg.Error("odd\nline")
    )
    if code == "0Z001":
        error.sqlstate = code
    told = translated("the registry x", error, opening=False)
    assert type(told) is kind
    assert words in str(told)
    assert "\n" not in str(told)


# -- lost connections --------------------------------------------------------------------------------------------------


def test_idle_connections_that_the_server_ended_are_replaced_unseen(postgres, postgres_registry, registry):
    commit(registry, "a")
    for number in range(3):
        postgres.end_connections(postgres_registry)
        assert registry.artifact(NAME).latest == number
        postgres.end_connections(postgres_registry)
        assert commit(registry, number).version.number == number + 1


def test_a_connection_that_is_lost_in_the_middle_changes_nothing(postgres, postgres_registry, registry):
    commit(registry, "a")

    def lose(connection, cursor, statement, *_):
        if statement.startswith("INSERT INTO commit_made"):
            postgres.end_connections(postgres_registry)

    event.listen(engine_of(registry), "before_cursor_execute", lose)
    again = request("b")
    with pytest.raises(Unavailable, match="repeat") as raised:
        registry.commit(again)
    assert "\n" not in str(raised.value)
    event.remove(engine_of(registry), "before_cursor_execute", lose)
    assert registry.artifact(NAME).latest == 0
    assert registry.commit(again).version.number == 1


@pytest.mark.parametrize("made", [False, True])
def test_a_commit_whose_outcome_is_not_known_is_unavailable_and_its_repeat_is_made_once(
    postgres, postgres_registry, registry, made, monkeypatch
):
    commit(registry, "a")
    usual = postgresql._Bounded.commit

    def lost(connection: psycopg.Connection) -> None:
        if made:
            usual(connection)
        postgres.end_connections(postgres_registry)
        usual(connection)
        connection.execute("SELECT 1")  # as a COMMIT of nothing is not sent

    monkeypatch.setattr(postgresql._Bounded, "commit", lost)
    again = request("b")
    with pytest.raises(Unavailable, match="made or not"):
        registry.commit(again)
    monkeypatch.undo()
    assert registry.artifact(NAME).latest == int(made)
    repeated = registry.commit(again)
    assert (repeated.version.number, repeated.created) == (1, True)
    assert [record.number for record in registry.versions(NAME)] == [0, 1]


def test_a_part_that_failed_and_was_passed_over_is_not_taken_for_a_change(registry):
    def pass_over() -> None:
        with registry._database.writing(durable=True) as connection:
            connection.exec_driver_sql("UPDATE meta SET value = value")
            with suppress(ProgrammingError):
                connection.exec_driver_sql("SELECT 1 FROM nowhere")

    with pytest.raises(Unavailable, match="undid the work"):
        pass_over()


def test_a_server_that_stops_to_answer_is_given_up(postgres, postgres_registry, hurried, monkeypatch):
    monkeypatch.setattr(postgresql, "_SLACK_SECONDS", 0.5)
    engine_of(hurried).dispose()
    with hurried._database.reading() as connection:
        pid = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar()
    os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(Unavailable, match="no answer within"):
            hurried.artifacts()
    finally:
        os.kill(pid, signal.SIGCONT)
    assert hurried.artifacts() == []


def test_after_a_crash_of_the_server_what_was_durable_is_there_with_all_before_it(tmp_path):
    with running(fsync="on") as server, closing(open_registry(server.url("postgres"), create=True)) as registry:
        for number in range(20):
            registry.add_packs([pack_of(number, digest((number, 0)), digest((number, 1)))])
        version = commit(registry, "a").version
        server.stop(signal.SIGQUIT)
        with pytest.raises(Unavailable):
            registry.artifacts()
        server.start()
        assert registry.versions(NAME) == [version]
        assert len(registry.packs()) == 20
        assert not registry.missing([digest((number, part)) for number in range(20) for part in range(2)])
        assert registry.check() == []


def test_what_a_client_was_told_before_a_crash_is_there_after_it(tmp_path):
    """Clients go on, and commit: without the rows of its packs that would be a version that cannot be read."""
    # Nothing is written but by who waits for it.
    with (
        running(fsync="on", wal_writer_delay="10s") as server,
        closing(open_registry(server.url("postgres"), create=True)) as registry,
    ):
        session = registry.open_session("put", seconds=60)
        registry.add_packs([pack_of("p", digest(1), digest(2))], session=session)
        server.stop(signal.SIGQUIT)
        server.start()
        assert registry.missing([digest(1), digest(2)]) == set()
        registry.renew_session(session, seconds=60)
        assert registry.open_session("put", seconds=60) > session


def test_commits_and_rows_of_packs_wait_for_the_disk_and_ends_of_sessions_do_not(
    postgres, postgres_registry, registry, open_again
):
    postgres.sql(f"ALTER DATABASE {postgres_registry} SET synchronous_commit = off")
    try:
        other = open_again()
        seen = []

        def note(connection: psycopg.Connection) -> None:
            seen.append(connection.execute("SHOW synchronous_commit").fetchone()[0])
            psycopg.Connection.commit(connection)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(postgresql._Bounded, "commit", note)
            commit(other, "a")
            other.add_packs([pack_of("p", digest(1))])
            other.move_aliases(NAME, 0, ["best"])
            other.close_session(other.open_session("put", seconds=60))
        assert seen == ["on", "on", "on", "on", "off"]
    finally:
        postgres.sql(f"ALTER DATABASE {postgres_registry} RESET synchronous_commit")


# -- others at work ----------------------------------------------------------------------------------------------------


def test_an_artifact_that_another_client_holds_is_unavailable_and_readers_and_other_artifacts_go_on(
    postgres_url, registry, hurried
):
    version = commit(registry, "a").version
    commit(registry, "a", artifact="other")
    with psycopg.connect(postgres_url) as other:
        other.execute("SELECT id FROM artifact WHERE name = %s FOR UPDATE", (NAME,))
        with pytest.raises(Unavailable, match="held by another client") as raised:
            commit(hurried, "b")
        assert "\n" not in str(raised.value)
        assert registry.version(NAME, 0) == version
        assert commit(registry, "b", artifact="other").version.number == 1
    assert commit(registry, "b").version.number == 1


def test_what_takes_too_long_is_told_to_stop(hurried):
    with pytest.raises(Unavailable, match="took too long"), hurried._database.reading() as connection:
        connection.exec_driver_sql("SELECT pg_sleep(60)")
    with hurried._database.reading(seconds=60) as connection:
        assert connection.exec_driver_sql("SELECT pg_sleep(1.5)").all()
    with pytest.raises(Unavailable, match="took too long"), hurried._database.reading() as connection:
        connection.exec_driver_sql("SELECT pg_sleep(60)")


def test_a_client_that_stops_in_the_middle_holds_nobody_up(open_again):
    stopped, registry = open_again(seconds=0.2), open_again()
    commit(registry, "a")

    def stop() -> None:
        with stopped._database.writing(durable=True) as connection:
            connection.exec_driver_sql("SELECT id FROM artifact FOR UPDATE")
            assert commit(registry, "b").version.number == 1
            connection.exec_driver_sql("SELECT 1")

    with pytest.raises(Unavailable):
        stop()


def test_more_writers_than_there_may_be_are_unavailable(registry, monkeypatch):
    with ExitStack() as stack:
        for _ in range(WRITERS):
            stack.enter_context(registry._database.writing(durable=False))
        # After they have begun: the server ends those that are idle for twice as long.
        monkeypatch.setattr(registry._database, "_seconds", 0.5)
        with pytest.raises(Unavailable, match="other threads have been writing"):
            commit(registry, "a")
        assert registry.artifacts() == []
    assert commit(registry, "a").created


def test_a_closed_registry_is_unavailable(registry):
    registry.close()
    for use in (registry.revision, registry.artifacts, lambda: commit(registry, "a"), registry.check):
        with pytest.raises(Unavailable, match="was closed"):
            use()


def test_clients_that_add_the_same_chunks_in_any_order_wait_for_nobody_for_ever(open_again):
    registries = [open_again(seconds=20) for _ in range(4)]
    chunks = [digest(number) for number in range(400)]

    def add(number: int) -> None:
        turned = chunks[number * 50 :] + chunks[: number * 50]
        packs = [pack_of((number, part), *turned[part * 100 : part * 100 + 100]) for part in range(4)]
        if number % 2:
            packs.reverse()
        registries[number % 4].add_packs(packs)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(add, range(8)))
    assert not registries[0].missing(chunks)
    assert registries[0].check() == []


def test_who_ends_a_session_and_who_finishes_its_draft_wait_for_nobody_for_ever(open_again):
    registries = [open_again(seconds=20) for _ in range(2)]
    for turn in range(10):
        sessions = [registries[0].open_session("writer", seconds=100) for _ in range(4)]
        for session in sessions:
            for part in range(5):
                registries[0].add_part(NAME, f"d{turn}", digest((turn, session, part)), session=session)

        def finish(turn: int = turn, session: int = sessions[-1]) -> None:
            registries[0].commit(request(turn, draft=f"d{turn}", session=session))

        def end(sessions: list[int] = sessions) -> None:
            for session in sessions[:-1]:
                registries[1].close_session(session)

        with ThreadPoolExecutor(2) as threads:
            for work in (threads.submit(finish), threads.submit(end)):
                work.result()
    assert [record.number for record in registries[1].versions(NAME)] == list(range(10))


def test_transactions_under_one_session_go_on_side_by_side_and_keep_it(registry, hurried, postgres_url):
    session = registry.open_session("writer", seconds=100)
    with psycopg.connect(postgres_url) as other:
        other.execute("SELECT id FROM session FOR KEY SHARE")  # as another transaction under it does
        registry.add_packs([pack_of("p", digest(1))], session=session)
        registry.renew_session(session, seconds=200)
        with pytest.raises(Unavailable, match="held by another client"):
            hurried.close_session(session)
    registry.close_session(session)
    with pytest.raises(Conflict):
        registry.renew_session(session, seconds=10)


def test_two_that_begin_a_project_and_an_artifact_at_once_begin_one(open_again):
    registries = [open_again(project="fresh", seconds=20) for _ in range(8)]
    with ThreadPoolExecutor(8) as threads:
        made = list(threads.map(lambda number: commit(registries[number], number).version.number, range(8)))
    assert sorted(made) == list(range(8))
    assert len(registries[0].artifacts()) == 1


def test_revisions_rise_with_every_change_and_no_follower_misses_one(open_again):
    writers, follower = [open_again(seconds=20) for _ in range(3)], open_again()
    seen: list[tuple[int, int]] = []
    done = threading.Event()

    def follow() -> None:
        revision = 0
        while True:
            ended = done.is_set()
            if (present := follower.revision()) != revision:
                assert present > revision
                seen.append((present, len(follower.versions(NAME))))
                revision = present
            elif ended:
                return

    thread = threading.Thread(target=follow)
    thread.start()
    try:
        with ThreadPoolExecutor(3) as threads:
            list(threads.map(lambda number: commit(writers[number % 3], number), range(30)))
    finally:
        done.set()
        thread.join()
    assert seen[-1][1] == 30
    counts = [count for _, count in seen]
    assert counts == sorted(counts)


def waiting(registry: SQLRegistry) -> int:
    """How many clients wait for another one. Asked apart: one transaction is told the same again and again."""
    with registry._database.reading() as connection:
        return connection.exec_driver_sql(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        ).scalar_one()


def test_servers_that_start_side_by_side_agree_on_the_bucket(registry, open_again):
    """Who comes second waits for the first, whose transaction it cannot see."""
    other = open_again()
    with ThreadPoolExecutor(2) as threads:
        with registry._database.writing(durable=True) as connection:
            registry._database.insert_absent(connection, meta, ("key", "value"), [(STORE_KEY, "s3://bucket/a")])
            same, another = (
                threads.submit(other.record_store, f"s3://bucket/{name}", instead_of="") for name in ("a", "b")
            )
            eventually(lambda: waiting(registry) == 2)
        assert same.result(60) == another.result(60) == "s3://bucket/a"
    assert registry.store_url() == "s3://bucket/a"


@pytest.mark.parametrize("artifact", ["", NAME])
def test_of_two_that_set_one_retention_rule_at_once_the_second_one_counts(registry, open_again, monkeypatch, artifact):
    commit(registry, "a")
    other = open_again()
    second = []

    def read_when_another_waits(connection, of):
        """Called in the transaction of each, when it has set its rule."""
        if not second:
            second.append(threads.submit(other.retention.set_rule, RetentionRule(artifact=artifact, keep_last=2)))
            eventually(lambda: waiting(registry) == 1)
        return rules(connection, of)

    rules = retention._rules
    monkeypatch.setattr(retention, "_rules", read_when_another_waits)
    with ThreadPoolExecutor(1) as threads:
        assert registry.retention.set_rule(RetentionRule(artifact=artifact, keep_last=1)).keep_last == 1
        assert second[0].result(60).keep_last == 2
    assert [rule.keep_last for rule in registry.retention.rules()] == [2]


# -- values ------------------------------------------------------------------------------------------------------------


def test_json_comes_back_with_its_numbers_and_in_its_order(registry):
    metadata = {
        "z": 1,
        "a": 1.0,
        "big": 2**60,
        "small": 5e-324,
        "text": "NUL \0 and ü",
        "list": [True, None, {"b": 1, "a": 2}],
    }
    commit(registry, "a", metadata=metadata)
    found = registry.version(NAME, 0).metadata
    assert repr(found) == repr(metadata)


def test_names_are_in_the_order_of_their_characters(registry):
    names = ["B", "a", "Z-1", "z_1", "a.b", "A", "_x"]
    for name in names:
        commit(registry, name, artifact=name)
    assert [record.artifact for record in registry.find(Query(sort=("name",)))] == sorted(names)


def test_what_contradicts_itself_is_found(postgres, postgres_registry, registry):
    commit(registry, "a", aliases=("best",), tags=("tried",))
    registry.add_packs([pack_of("p", digest(1))])
    assert registry.check() == []
    postgres.sql("UPDATE version SET deleted = 1; UPDATE chunk SET length = 1 << 30", database=postgres_registry)
    lines = registry.check()
    assert any(f"the alias {NAME}:best names no living version" in line for line in lines)
    assert any("does not lie in its pack" in line for line in lines)
    assert all(line.startswith("the registry postgresql://") for line in lines)


# -- forks -------------------------------------------------------------------------------------------------------------

FORKING = """
import os, sys, warnings
warnings.simplefilter("ignore", DeprecationWarning)
from artifactfs.registry.opening import open_registry
from tests.conformance.registry import NAME, commit

registry = open_registry(sys.argv[1])
assert commit(registry, "before").version.number == 0
child = os.fork()
if not child:
    assert commit(registry, "child", commit_id="child").created
    os._exit(0)
assert commit(registry, "parent").created
assert os.waitpid(child, 0)[1] == 0
assert [record.number for record in registry.versions(NAME)] == [0, 1, 2]
registry.close()
"""


def test_a_process_that_forks_goes_on_in_both_halves(postgres_url):
    ran = subprocess.run(
        [sys.executable, "-c", FORKING, postgres_url],
        cwd=TESTS.parent,
        capture_output=True,
        check=False,
        text=True,
        timeout=120,
    )
    assert ran.returncode == 0, ran.stderr
    assert not re.search(r"Traceback|Error", ran.stderr)

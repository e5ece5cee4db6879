"""Search by metadata over very many versions, in SQLite and in PostgreSQL."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, func, insert, select

from artifactfs.model.query import Query
from artifactfs.registry import facts, search
from artifactfs.registry.schema import TABLES, alias, artifact, fact, project, version
from artifactfs.repository import Repository
from benchmarks import postgres
from benchmarks.results import SECONDS, Fact, Result, Row
from benchmarks.workbench import Workbench, say

PROJECT = "default"
GOAL = 0.2  # seconds
ARTIFACTS = 100
WORDS = ("bikes", "cars", "trains", "ships")
BEST = 'metadata.accuracy > 0.9 and metadata.dataset.name = "bikes"'
FEW = 12  # versions that the rare conditions find


def queries(count: int) -> dict[str, Query]:
    """What is asked of so many versions."""
    rare = f"metadata.accuracy > {1 - FEW / count}"
    return {
        "best": Query(type="model", where=BEST, sort=("-metadata.accuracy",), limit=20),
        "all": Query(sort=("-metadata.accuracy",), limit=20),
        "one": Query(where='metadata.note = "run 77 of the night"'),
        "none": Query(where='metadata.note contains "another" and metadata.accuracy > 0.9', limit=20),
        "contains": Query(where='metadata.note contains "7 of" and not metadata.converged = true', limit=20),
        "few": Query(where=rare, sort=("metadata.loss",), limit=20),
        "few-of-two": Query(where=f"{rare} or metadata.loss > 10", sort=("-metadata.epoch",), limit=20),
        "created": Query(where="metadata.accuracy > 0.1", sort=("-created",), limit=20),
        "rare-word": Query(where='metadata.note contains "777 of"', sort=("-metadata.loss",), limit=20),
    }


WORK = {
    "best": "the 20 best that fulfil two conditions",
    "all": "the 20 best of all",
    "one": "the one with a text",
    "none": "nothing is found",
    "contains": "texts that contain a word, and a negation",
    "few": "a limit and an order, where few fulfil the condition",
    "few-of-two": "the same with two conditions of which one must hold",
    "created": "the 20 last made of nine tenths",
    "rare-word": "one text that contains a word, a limit and an order",
}


def find_metadata(bench: Workbench) -> Iterator[Result]:
    """find --where over 100,000 versions: the registry's answer on SQLite and PostgreSQL, and the whole command"""
    place = bench.root / "output" / "searched"
    count = bench.sizes.versions
    Repository.create(str(place), project=PROJECT).close()
    found = postgres.find()
    bench.notes["PostgreSQL"] = found.trouble or bench.run([str(found.programs / "postgres"), "--version"]).strip()
    file = place / "registry.db"
    engine = create_engine(f"sqlite:///{file}")
    try:
        say(f"making {count:,} versions in SQLite")
        _fill(engine, count)
        yield Fact("find-metadata/rows", "values of metadata that are looked through", _facts(engine), "rows")
        yield Fact("find-metadata/bytes", f"registry of {count:,} versions with them", file.stat().st_size, "bytes")
        answers, rows = _measure(bench, engine, "SQLite")
        yield from rows
    finally:
        engine.dispose()
    yield _command(bench, place)
    if found.programs is not None:
        with postgres.cluster(found.programs) as url:
            engine = create_engine(url)
            try:
                say(f"making {count:,} versions in PostgreSQL")
                TABLES.create_all(engine)
                _fill(engine, count)
                others, rows = _measure(bench, engine, "PostgreSQL")
            finally:
                engine.dispose()
        if others != answers:
            raise RuntimeError("the two databases find different versions")
        yield from rows


def _measure(bench: Workbench, engine: Engine, name: str) -> tuple[dict[str, list[str]], list[Row]]:
    """What each query finds, and its time: the connection is there, as a server's and an embedded registry's is."""
    answers: dict[str, list[str]] = {}
    asked = queries(bench.sizes.versions)
    rows = {
        query: Row(
            f"find-metadata/{query}/{name.lower()}",
            f"find in {bench.sizes.versions:,} versions, {WORK[query]}",
            name,
            goal=GOAL,
            measure=SECONDS,
        )
        for query in asked
    }
    with engine.connect() as connection:
        number = connection.execute(select(project.c.id).where(project.c.name == PROJECT)).scalar_one()
        for query in asked.values():
            search.find(connection, number, query)
        for _ in bench.interleaved():
            for key, query in asked.items():
                begin = time.perf_counter()
                found = search.find(connection, number, query)
                rows[key].add(None, time.perf_counter() - begin)
                answers[key] = [record.name for record in found]
    if wrong := [key for key, found in answers.items() if bool(found) == (key == "none")]:
        raise RuntimeError(f"wrong answers in {name}: {wrong}")
    return answers, list(rows.values())


def _command(bench: Workbench, repository: Path) -> Row:
    row = Row("find-metadata/command", f"the command find in {bench.sizes.versions:,} versions", measure=SECONDS)
    command = bench.artifactfs("--repository", repository, "find", "--type", "model", "--where", BEST)
    command += ["--sort", "-metadata.accuracy", "--limit", "20"]
    for _ in bench.interleaved():
        row.add(None, bench.timed(command))
    return row


def _fill(engine: Engine, count: int) -> None:
    """Versions of a hundred artifacts, with what training runs say of themselves; no content."""
    with engine.begin() as connection:
        number = connection.execute(select(project.c.id).where(project.c.name == PROJECT)).scalar()
        if number is None:
            added = insert(project).values(name=PROJECT, revision=1, created=0).returning(project.c.id)
            number = connection.execute(added).scalar_one()
        kinds = ("model", "dataset")
        artifacts = [
            {"id": each + 1, "name": f"artifact-{each:03}", "type": kinds[each % 2], "project": number}
            for each in range(ARTIFACTS)
        ]
        connection.execute(insert(artifact), [{**each, "created": 0, "next_number": count} for each in artifacts])
        chance = random.Random(4)
        for start in range(0, count, 10_000):
            _add(connection, number, [_version(each, chance) for each in range(start, min(start + 10_000, count))])
        latest = [{"artifact": each % ARTIFACTS + 1, "name": "latest", "version": each + 1} for each in range(count)]
        connection.execute(insert(alias), latest[-ARTIFACTS:])
    # What PostgreSQL does by itself within a minute, and SQLite's planner can do without; and all of SQLite into its file.
    after = "VACUUM ANALYZE" if engine.dialect.name == "postgresql" else "PRAGMA wal_checkpoint(TRUNCATE)"
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql(after)


def _add(connection: Connection, of: int, versions: list[dict[str, Any]]) -> None:
    connection.execute(insert(version), versions)
    for each in versions:
        facts.replace(connection, of, each["id"], each["metadata"])


def _version(number: int, chance: random.Random) -> dict[str, Any]:
    return {
        "id": number + 1,
        "artifact": number % ARTIFACTS + 1,
        "number": number // ARTIFACTS,
        "digest": number.to_bytes(32, "big"),
        "size": chance.randrange(10**9),
        "files": 1,
        "entries": 1,
        "created": number * 10**9,
        "description": "",
        "metadata": {
            "accuracy": chance.random(),
            "loss": chance.expovariate(1),
            "epoch": chance.randrange(100),
            "dataset": {"name": chance.choice(WORDS), "rows": chance.randrange(10**6)},
            "converged": chance.random() < 0.5,
            "labels": chance.sample(WORDS, 2),
            "note": f"run {number} of the night",
            "host": f"host-{chance.randrange(20)}",
        },
    }


def _facts(engine: Engine) -> int:
    with engine.connect() as connection:
        return int(connection.execute(select(func.count()).select_from(fact)).scalar_one())

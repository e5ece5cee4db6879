"""What the registry answers on SQLite and on PostgreSQL: a commit, a question about chunks, the recording of new ones."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator

from artifactfs.model.digest import DATA, TREE, digest
from artifactfs.model.records import ChunkRow, CommitRequest, PackRow
from artifactfs.registry.opening import open_registry
from artifactfs.registry.sql import SQLRegistry
from artifactfs.repository import new_commit_id
from benchmarks import postgres
from benchmarks.results import SECONDS, Result, Row
from benchmarks.workbench import Workbench, say

COMMITS = 20
ASKED = 500
ADDED = 5000
_CHUNK = 1 << 16
_HELD_PACKS = 20  # of ADDED chunks each, before anything is measured
WORK = {
    "commit": "a commit",
    "missing": f"which of {ASKED} chunks are missing",
    "add-packs": f"a pack of {ADDED:,} chunks is recorded, and a commit",
}


def registry(bench: Workbench) -> Iterator[Result]:
    """A commit, missing() of 500 chunks, add_packs() of 5,000: the registry on SQLite and on PostgreSQL"""
    yield from _measure(bench, str(bench.root / "output" / "measured.db"), "SQLite")
    found = postgres.find()
    bench.notes["PostgreSQL"] = found.trouble or bench.run([str(found.programs / "postgres"), "--version"]).strip()
    if found.programs is not None:
        with postgres.cluster(found.programs) as url:
            yield from _measure(bench, url.replace("+psycopg", ""), "PostgreSQL")


def _measure(bench: Workbench, location: str, name: str) -> list[Row]:
    held = 1 if bench.sizes.versions < COMMITS * 100 else _HELD_PACKS
    start = f"the registry with {held * ADDED:,} chunks"
    rows = {
        key: Row(f"registry/{key}/{name.lower()}", f"{start}: {what}", name, measure=SECONDS)
        for key, what in WORK.items()
    }
    with contextlib.closing(open_registry(location, create=True)) as registry:
        say(f"recording {held * ADDED:,} chunks in {name}")
        numbers = itertools.count()
        for _ in range(held):
            registry.add_packs([_pack(next(numbers))])
        _commit(registry)
        asked = [_name(0, chunk) for chunk in range(ASKED // 2)]
        asked += [_name(-1, chunk) for chunk in range(ASKED // 2)]
        for _ in bench.interleaved():
            rows["commit"].add(None, _seconds(lambda: [_commit(registry) for _ in range(COMMITS)]) / COMMITS)
            rows["missing"].add(None, _seconds(lambda: _ask(registry, asked)))
            rows["add-packs"].add(None, _seconds(lambda: _add(registry, next(numbers))))
    return list(rows.values())


def _seconds(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def _ask(registry: SQLRegistry, asked: list[bytes]) -> None:
    missing = registry.missing(asked)
    if len(missing) != ASKED // 2:
        raise RuntimeError(f"{len(missing)} chunks are missing, not {ASKED // 2}")


def _add(registry: SQLRegistry, number: int) -> None:
    """A pack is durable with the next commit, so that one belongs to it."""
    registry.add_packs([_pack(number)])
    _commit(registry)


def _commit(registry: SQLRegistry) -> None:
    name = new_commit_id()
    registry.commit(
        CommitRequest(
            commit_id=name,
            artifact="measured",
            type=None,
            digest=digest(TREE, name.encode()),
            size=1,
            files=1,
            entries=1,
        )
    )


def _name(pack: int, chunk: int) -> bytes:
    return digest(DATA, b"%d %d" % (pack, chunk))


def _pack(number: int) -> PackRow:
    rows = tuple(ChunkRow(_name(number, chunk), chunk * _CHUNK, _CHUNK, _CHUNK, 0) for chunk in range(ADDED))
    return PackRow(digest(DATA, b"pack %d" % number).hex(), ADDED * _CHUNK, rows)

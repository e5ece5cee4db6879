"""scripts/bench with small sizes: everything that it claims to measure is there, and what it counts is right."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import mounts_below

BENCH = Path(__file__).parents[2] / "scripts" / "bench"
SECONDS = 900  # for a run of everything: a busy machine has needed more than 240
pytestmark = pytest.mark.timeout(SECONDS + 60)

QUERIES = ("best", "all", "one", "none", "contains", "few", "few-of-two", "created", "rare-word")
KINDS = ("incompressible", "compressible")
REGISTRY = ("commit", "missing", "add-packs")
CLIENTS = (1, 3)
GROWN = (2, 20)
SPLIT = 3 << 20  # bytes of the files that clients share
ROWS = {
    "find-directories/fresh": 4,
    "find-directories/again": 1.5,
    "find-one/fresh": 4,
    "find-one/again": 1.5,
    "commit": 1,
    "write-large": None,
    "write-pages": None,
    "write-small": None,
    "first-listing": 1,
    **{f"sequential/cold/{kind}": 5 for kind in KINDS},
    **{f"sequential/warm/{kind}": 1.2 for kind in KINDS},
    **{f"random/cold/{kind}": None for kind in KINDS},
    **{f"random/warm/{kind}": None for kind in KINDS},
    **{f"cat/default/fresh/{kind}": 8 for kind in KINDS},
    **{f"cat/default/again/{kind}": 6 for kind in KINDS},
    **{f"cat/read-only/fresh/{kind}": None for kind in KINDS},
    **{f"cat/read-only/again/{kind}": 1.5 for kind in KINDS},
    **{f"tar/fresh/{kind}": None for kind in KINDS},
    **{f"tar/again/{kind}": None for kind in KINDS},
    **{f"put-small/{kind}": 3 for kind in KINDS},
    "put-large/incompressible": 3,
    "put-large/compressible": None,
    "find-metadata/command": None,
    "lineage/in-a-run": 1.05,
    "lineage/in-no-run": 1.05,
    **{f"find-metadata/{query}/sqlite": 0.2 for query in QUERIES},
    **{f"registry/{what}/sqlite": None for what in REGISTRY},
    **{f"encryption/put/{kind}": None for kind in KINDS},
    **{f"encryption/cat/{kind}": None for kind in KINDS},
    **{f"verify/memory/{kind}": None for kind in KINDS},
    **{f"verify/disk/{kind}": None for kind in KINDS},
    **{f"verify/quick/{kind}": None for kind in KINDS},
    **{f"verify/full/{count}": None for count in GROWN},
    **{f"verify/quick/{count}": None for count in GROWN},
    **{f"gc/half/{count}": None for count in GROWN},
    **{f"gc/again/{count}": None for count in GROWN},
}
POSTGRESQL_ROWS = {
    **{f"find-metadata/{query}/postgresql": 0.2 for query in QUERIES},
    **{f"registry/{what}/postgresql": None for what in REGISTRY},
}
BUCKET_ROWS = {f"signed-urls/{count}": None for count in CLIENTS}
NETWORK_ROWS = {
    "network-sequential/cold": 1.25,
    "network-sequential/again": None,
    "network-sequential/cached": None,
    "network-tar/directories": 6,
    "network-tar/flat": 6,
    "network-tar/fewer": None,
    "network-tar/fewer/again": None,
    "network-tar/fewer/cached": None,
    "network-put": 8,
    "network-first/one": None,
    "network-first/random": None,
    "network-again/get-first": None,
    "network-again/get": None,
    "network-again/open": 0.5,
    "network-change": None,
}
RCLONE_ROWS = {
    "network-sequential/cold",
    "network-sequential/again",
    "network-tar/fewer",
    "network-tar/fewer/again",
    "network-first/one",
    "network-first/random",
}
LIMITS = {
    "network-tar/directories/requests": 200,
    "network-tar/flat/requests": 200,
    "network-put/requests": 60,
    "network-first/turns": 5,
    "network-first/one/received": 4 << 20,
    "network-first/random/requests": 100,
    "network-first/random/beyond": 0,
    "network-again/get/requests": 1,
    "network-again/get/content": 0,
    "network-again/open/requests": 0,
    "network-change/sent": 8 << 20,
}


def bench(*arguments: str | Path) -> str:
    done = subprocess.run(
        [sys.executable, BENCH, *arguments], capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """One run of everything: what it printed, what it wrote, and what it left where it worked."""
    place, file = tmp_path_factory.mktemp("bench"), tmp_path_factory.mktemp("output") / "bench.json"
    printed = bench("--quick", "--json", file, "--dir", place)
    left = [*place.iterdir(), *mounts_below(place)]
    return {"printed": printed, "document": json.loads(file.read_text()), "left": left}


def lacks(run: dict[str, Any], program: str) -> bool:
    """Whether a program could not be had, which is then said."""
    said = run["document"]["machine"][program]
    assert said in run["printed"]
    return said.startswith("not measured: ")


@pytest.fixture
def facts(run: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {fact["id"]: fact for fact in run["document"]["facts"]}


def test_every_row_is_measured_on_both_sides_and_held_against_its_goal(run):
    rows = {row["id"]: row for row in run["document"]["rows"]}
    wanted = ROWS | NETWORK_ROWS | ({} if lacks(run, "PostgreSQL") else POSTGRESQL_ROWS)
    wanted |= {} if lacks(run, "S3 server") else BUCKET_ROWS
    assert {name: row["goal"] for name, row in rows.items()} == wanted
    for name, row in rows.items():
        assert len(row["ours"]) == 1, name
        assert len(row["local"]) == (0 if row["measure"] == "seconds" else 1), name
        assert row["met"] == (None if row["goal"] is None else row["value"] <= row["goal"]), name
        assert row["work"] in run["printed"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_warm_read_makes_no_read_request(facts, kind):
    assert facts[f"sequential/warm-reads/{kind}"]["value"] == 0
    assert facts[f"sequential/warm-reads/{kind}"]["met"] is True


@pytest.mark.parametrize("kind", KINDS)
def test_small_files_are_read_by_few_requests(facts, kind):
    assert facts[f"cat/default/fresh-requests/{kind}"]["value"] <= 4
    assert "read " not in facts[f"cat/default/again-requests/{kind}"]["note"]
    silent = facts[f"cat/read-only/again-requests/{kind}"]
    assert not {"lookup", "open", "read", "release"} & set(silent["note"].replace(",", "").split())
    assert silent["value"] <= 0.1  # of all files together; the mount's root is asked for its attributes once a second


def test_bytes_are_stored_once_and_compressed_where_that_gains(facts):
    for name, size in (("put-small", 200 * 20_000), ("put-large", 12 << 20)):
        for kind in KINDS:
            assert facts[f"{name}/read/{kind}"]["value"] == size
        assert size <= facts[f"{name}/stored/incompressible"]["value"] <= 1.01 * size
        assert facts[f"{name}/stored/compressible"]["value"] <= 0.8 * size
    assert facts["commit/stored"]["value"] <= 10_000


def test_a_version_is_opened_without_its_listing_in_memory(facts):
    assert facts["first-listing/memory"]["met"] is True


def test_what_the_network_carried_is_within_its_bounds(facts):
    assert {name: fact["limit"] for name, fact in facts.items() if name in LIMITS} == LIMITS
    for name in LIMITS:
        assert facts[name]["met"] is True, facts[name]
    assert facts["network-sequential/cold/received"]["value"] >= 12 << 20
    for place in ("directories", "flat"):
        assert facts[f"network-tar/{place}/received"]["value"] >= 200 * 20_000
    assert facts["network-put/sent"]["value"] >= 200 * 20_000
    for name in ("network-sequential/cached", "network-tar/fewer/cached"):
        assert facts[f"{name}/requests"]["value"] == 0, facts[f"{name}/requests"]


def test_a_run_has_the_version_that_it_read_and_no_other(facts):
    assert facts["lineage/inputs"]["value"] == 1


def test_rclone_is_measured_where_it_can_be_had(run):
    measured = {row["id"] for row in run["document"]["rows"] if row["peer"]}
    assert measured == (set() if lacks(run, "rclone") else RCLONE_ROWS)


@pytest.mark.parametrize("count", CLIENTS)
def test_what_signed_urls_read_does_not_come_from_the_server(run, facts, count):
    assert not lacks(run, "S3 server")
    direct, server = facts[f"signed-urls/{count}/direct/sent"], facts[f"signed-urls/{count}/server/sent"]
    assert direct["value"] < SPLIT // 10
    assert server["value"] >= SPLIT
    for way in ("direct", "server"):
        assert facts[f"signed-urls/{count}/{way}/fetched"]["value"] >= SPLIT
        assert facts[f"signed-urls/{count}/{way}/reads"]["value"] >= 1


def test_garbage_of_half_the_versions_comes_free(facts):
    for count in GROWN:
        assert facts[f"gc/half/{count}/freed"]["value"] >= 0.9 * 100_000 * (count // 2)


def test_memory_of_a_marking_is_bounded(facts):
    # More than the nodes and digests of one run, less than the 110 bytes a chunk that a set of them all would take.
    assert 20_000_000 < facts["gc/memory/1000000"]["value"] < 110_000_000
    assert facts["gc/marking/1000000"]["value"] > 0


def test_nothing_is_left(run):
    assert run["left"] == []


def test_one_benchmark_alone_and_its_tables_as_markdown(tmp_path):
    printed = bench("--quick", "--only", "find-one", "--markdown", "--dir", tmp_path)
    rows = [line for line in printed.splitlines() if line.startswith("| find -ls")]
    assert [line.split(" | ")[0] for line in rows] == [
        "| find -ls, 1,000 files in one directory, fresh mount",
        "| find -ls, 1,000 files in one directory, again",
        "| find -ls, 1,000 files in one directory, again: requests",
    ]


def test_the_benchmarks_are_listed():
    names = [line.split()[0] for line in bench("--list").splitlines()]
    # The one is all facts.
    assert {row.partition("/")[0] for row in ROWS | NETWORK_ROWS | BUCKET_ROWS} | {"gc-memory"} == set(names)

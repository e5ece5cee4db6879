"""The pages retention, garbage and repair, followed in a repository of 1,000 versions: what they promise holds at that size.

Ten artifacts of a hundred versions each. What they share: `vocabulary` is in all versions of both models and `weights` of one number
are the same in both; `dataset` and `train` have the same trees, and all of them and of `test` but one file in common.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from artifactfs.draft import Draft
from artifactfs.model.lineage import NewRun
from artifactfs.repository import Repository
from tests.conftest import Cli, eventually
from tests.mounted.living import grow, small_disk
from tests.mounted.served import Server

VERSIONS = 100
MODELS = ("model", "model-small")
DATASETS = ("dataset", "train", "test")
OTHERS = ("raw", "results", "forecast", "config", "notes")
ARTIFACTS = (*MODELS, *DATASETS, *OTHERS)
RELEASES = (20, 40, 60)
"""Numbers that have an alias in every artifact; `best` is model:v50, which is protected."""
FILES = 12
PER_ARTIFACT = len(RELEASES) + 2
"""Lines that an artifact may take in what a person reads of all: one for what goes, one for each that is kept."""


def random(seed: str, size: int) -> bytes:
    return Random(seed).randbytes(size)


def contents(name: str, number: int) -> dict[str, bytes]:
    """The files of a version."""
    if name in MODELS:
        return {"vocabulary": random("vocabulary", 9000), "weights": random(f"weights {number}", 3000)}
    if name in DATASETS:
        kind = "test" if name == "test" else "dataset"
        files = {f"day-{day:02}.csv": random(f"day {day}", 1000) for day in range(FILES)}
        return {**files, "today.csv": random(f"{kind} {number}", 1000)}
    return {f"{name}.txt": random(f"{name} {number}", 800)}


def fill(repository: Repository, beside: Path) -> None:
    """All versions, by number: as a pipeline that runs a hundred times would make them."""
    for number in range(VERSIONS):
        run = repository.registry.start_run(NewRun(id=f"night-{number}", name=f"night-{number}", job_type="train")).id
        for name in ARTIFACTS:
            directory = beside / name
            directory.mkdir(exist_ok=True)
            for path, data in contents(name, number).items():
                (directory / path).write_bytes(data)
            draft = Draft(repository)
            draft.add(directory)
            if name == "raw":
                source = beside / f"source-{number}"
                source.write_bytes(random(f"source {number}", 500))
                draft.add_reference(source.as_uri(), "source")
            aliases = [f"release-{number}"] if number in RELEASES else []
            aliases += ["best"] if (name, number) == ("model", 50) else []
            metadata = {"step": number, "accuracy": number / VERSIONS}
            draft.commit(name, aliases=tuple(aliases), metadata=metadata, run=run)
        repository.registry.update_run(run, state="finished", exit_status=0)
    repository.registry.retention.protect("best")


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository that each test has a copy of."""
    place = tmp_path_factory.mktemp("thousand")
    (place / "beside").mkdir()
    with Repository.create(str(place / "repository")) as repository:
        fill(repository, place / "beside")
    return place / "repository"


def copied(pristine: Path, place: Path) -> Path:
    place.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["cp", "-a", "--reflink=auto", "-T", pristine, place], check=True)
    return place


@pytest.fixture
def thousand(cli: Cli, pristine: Path) -> Path:
    """A repository of 1,000 versions, which is the one that ``cli`` uses."""
    return copied(pristine, cli.home / ".local/share/artifactfs/repository")


@pytest.fixture
def backup(cli: Cli, pristine: Path) -> Path:
    return copied(pristine, cli.home / "backup")


def told(cli: Cli, *words: object, status: int = 0) -> Any:
    """What a command says as JSON."""
    finished = cli.run(*words, "--json")
    assert finished.status == status, finished
    return json.loads(finished.stdout)


def living(cli: Cli) -> set[str]:
    return {version["name"] for version in told(cli, "find")}


def named(numbers: Any, *artifacts: str) -> set[str]:
    return {f"{name}:v{number}" for name in artifacts for number in numbers}


def freed(text: str) -> str:
    """The bytes that a collection, or its dry run, says."""
    found = re.search(r"^(?:freed|would become free): (.*)$", text, re.MULTILINE)
    assert found is not None, text
    return found[1]


def packs(repository: Path) -> list[Path]:
    return sorted((repository / "store/default/packs").rglob("*.pack"))


def pack_with(repository: Path, data: bytes) -> Path:
    """The pack that begins with these bytes, stored raw."""
    return next(pack for pack in packs(repository) if pack.read_bytes().startswith(data))


def overwrite(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def assert_sound(cli: Cli) -> None:
    finished = cli("verify")
    assert finished.stdout == ""
    assert finished.stderr.endswith("everything is sound\n")


# -- versions pile up ----------------------------------------------------------------------------------------------


def test_stats_add_up_and_the_chart_fits_a_terminal(cli, thousand):
    numbers = told(cli, "stats")
    assert sum(each["versions"] for each in numbers["artifacts"]) == len(ARTIFACTS) * VERSIONS
    own = sum(each["own"] for each in numbers["artifacts"])
    assert numbers["stored"] == numbers["held"] + numbers["unheld"] == own + numbers["shared"] + numbers["unheld"]
    assert numbers["stored"] == sum(each["added"] for each in numbers["versions"]) + numbers["unheld"]
    # The same trees are in both: neither would free anything alone.
    assert {each["name"]: each["own"] for each in numbers["artifacts"]}["train"] == 0
    assert len(cli("stats").lines) == 1 + len(ARTIFACTS) + 3
    assert len(cli("stats", "model").lines) == 1 + VERSIONS
    chart = cli("stats", "--plot").lines
    assert len(chart) <= 20
    assert max(map(len, chart)) <= 120
    cli("stats", "model", "--plot", "--output", "growth.svg")
    picture = (cli.home / "growth.svg").read_text()
    assert "<!-- v0 -->" in picture
    assert "<!-- model:v0 -->" not in picture, "the title names the artifact"


def test_a_prune_keeps_what_is_needed_and_what_it_frees_is_what_was_said(cli, thousand, mounted):
    staging = mounted() / "dataset/staging"
    cli("stage", "dataset:v10")
    (staging / "more.csv").write_text("more")
    before = living(cli)
    # A mount says within some seconds what its staging is based on.
    eventually(lambda: "in use: staging at" in cli("prune", "--keep-last", 5, "--dry-run").stdout)
    dry = cli("prune", "--keep-last", 5, "--dry-run")
    promised = told(cli, "prune", "--keep-last", 5, "--dry-run")
    assert living(cli) == before
    kept = named(range(VERSIONS - 5, VERSIONS), *ARTIFACTS) | named(RELEASES, *ARTIFACTS) | {"model:v50", "dataset:v10"}
    assert {each["name"] for each in promised["versions"]} == before - kept
    assert {each["name"] for each in promised["kept"]} == kept - named(range(VERSIONS - 5, VERSIONS), *ARTIFACTS)
    # A person can read it.
    assert len(dry.lines) <= len(ARTIFACTS) * PER_ARTIFACT
    assert "would delete config: 92 versions (v0 to v19, v21 to v39, v41 to v59, v61 to v94)" in dry.stdout
    assert "keep model:v50  protected alias best (--delete-aliases --protected)" in dry.stdout
    assert re.search(r"^keep dataset:v10  in use: staging at .*\(--in-use\)$", dry.stdout, re.MULTILINE)

    done = cli("prune", "--keep-last", 5)
    assert done.stdout == dry.stdout.replace("would delete", "delete")
    assert done.stderr.endswith(f"deleted {len(before - kept)} versions\n")
    assert living(cli) == kept
    # What nobody holds any more is what was said would come free.
    stats = told(cli, "stats")
    assert stats["unheld"] == promised["frees"]["bytes"]
    assert f"(all)  {len(kept)}" in re.sub(r" {2,}", "  ", cli("stats").stdout)

    promise = cli("gc", "--dry-run").stdout
    collected = cli("gc").stdout
    assert freed(collected) == freed(promise)
    assert collected.startswith(f"alive: {len(kept)} versions, ")
    after = told(cli, "stats")
    assert after["held"] == stats["held"]
    assert after["stored"] < stats["stored"]
    assert after["unheld"] <= after["held"], "packs of which less than half is alive are repacked"
    assert freed(cli("gc", "--dry-run").stdout) == "0 B"
    assert (staging / "today.csv").read_bytes() == contents("dataset", 10)["today.csv"]
    assert_sound(cli)


def test_a_kept_rule_is_applied_and_tombstones_stay(cli, thousand):
    cli("retention", "set", "--keep-last", 30, "--where", "metadata.accuracy < 0.5")
    cli("retention", "set", "model", "--keep-last", 1)
    cli("prune")
    others = {name for name in ARTIFACTS if name != "model"}
    kept = named(range(50, VERSIONS), *others) | named(RELEASES, *ARTIFACTS) | {"model:v50", f"model:v{VERSIONS - 1}"}
    assert living(cli) == kept
    again = cli("prune")
    assert len(again.lines) <= len(ARTIFACTS) * PER_ARTIFACT
    assert again.stderr.endswith("deleted 0 versions\n")
    assert len(cli("log", "model", "--deleted").lines) == 1 + VERSIONS - 5
    message = cli.refuses("delete", "model:v50", "--delete-aliases")
    assert message.startswith("model:v50 has the protected alias best: ")
    assert "was deleted at" in cli.refuses("get", "model:v3", "out")
    assert "night-3" in cli("lineage", "model:v3").stdout


def test_of_an_artifact_all_go_or_none_and_the_dry_run_says_which(cli, thousand):
    dry = cli("delete", "config", "--all-versions", "--dry-run")
    assert [line.split("  ")[0] for line in dry.lines] == [f"keep config:v{number}" for number in RELEASES]
    assert dry.stderr.startswith("0 versions, 3 kept; 0 B would come free")
    assert dry.stderr.endswith("nothing of config would be deleted: all 100 versions go, or none\n")
    assert cli.refuses("delete", "config", "--all-versions").startswith("nothing of config was deleted:\n")
    dry = cli("delete", "config", "notes", "--all-versions", "--delete-aliases", "--dry-run")
    assert dry.stderr.startswith("200 versions; ")
    gone = cli("delete", "config", "notes", "--all-versions", "--delete-aliases")
    assert gone.lines == [f"deleted {name}: 100 versions (v0 to v99)" for name in ("config", "notes")]
    assert living(cli) == named(range(VERSIONS), *(name for name in ARTIFACTS if name not in {"config", "notes"}))


def test_a_quota_refuses_and_a_renamed_artifact_is_found_by_its_old_name(cli, thousand):
    stored = told(cli, "quota", "show")["stored"]
    cli("quota", "set", stored + 1000)
    (cli.home / "more").write_bytes(os.urandom(50_000))
    message = cli.refuses("put", "more", "more")
    assert f"its quota is {stored + 1000:,} bytes stored, {stored:,} are used, and this takes at least " in message
    cli("quota", "set", "any")
    cli("rename", "model", "net")
    assert len(told(cli, "log", "model")) == len(told(cli, "find", "model")) == VERSIONS
    cli("prune", "model", "--keep-last", 90)
    assert len(told(cli, "log", "model", "--deleted")) == 10
    assert "v99" in cli("plot", "model", "metadata.step").stdout
    assert cli("retention", "set", "model", "--keep-last", 3).stdout.startswith("net: ")


def test_through_a_server_a_prune_is_few_requests(pristine, tmp_path):
    server = Server(tmp_path / "served")
    shutil.rmtree(server.repository)
    copied(pristine, server.repository)
    client = Cli(tmp_path / "served/home")
    server.start()
    try:
        client.env["ARTIFACTFS_REPOSITORY"] = server.url
        promised = told(client, "prune", "--keep-last", 5, "--dry-run")
        asked = server.requests_of(lambda: client("prune", "--keep-last", 5))
        deletions = [each for each in asked.elements() if each.endswith("/delete")]
        # An artifact has 92 that go, of which 50 go together; nothing is asked about each.
        assert len(deletions) == 2 * len(ARTIFACTS)
        assert sum(asked.values()) <= len(deletions) + 4 * len(ARTIFACTS)
        assert told(client, "stats")["unheld"] == promised["frees"]["bytes"]
        assert freed(client("gc", "--dry-run").stdout) == freed(client("gc").stdout)
        assert_sound(client)
        assert "is a server's" in client.refuses("verify", "--quick", status=2)
    finally:
        server.close()
    assert_sound(server.cli)


# -- a file is damaged ---------------------------------------------------------------------------------------------


def test_a_damaged_chunk_is_named_for_every_version_that_shares_it(cli, thousand, backup):
    overwrite(pack_with(thousand, contents("model", 0)["vocabulary"]), 10, b"XXXX")
    hit = named(range(VERSIONS), *MODELS)
    assert "model:v7/vocabulary" in cli.run("get", "model:v7", "out").stderr
    damages = told(cli, "verify", status=1)["damages"]
    assert {each["version"] for each in damages} == hit
    assert {each["path"] for each in damages} == {"vocabulary"}
    finished = cli.run("verify")
    assert [line.split(": ")[1] for line in finished.lines] == [
        f"{name}/vocabulary in 100 versions (v0 to v99)" for name in MODELS
    ]
    assert "200 places in versions cannot be read" in finished.stderr
    repaired = cli("verify", "--repair", "--from", backup)
    assert "1 lost chunk was restored from" in repaired.stdout
    assert repaired.stderr == "everything is sound\n"
    assert_sound(cli)
    shutil.rmtree(thousand / "store/default/quarantine")
    assert_sound(cli)


def test_lost_packs_and_truncated_tables_are_told_in_bounds_and_mended(cli, thousand, backup):
    everything = packs(thousand)
    for pack in everything[::10]:
        pack.unlink()
    tables = [pack.with_suffix(".idx") for number, pack in enumerate(everything) if number % 10 == 1]
    for table in tables:
        os.truncate(table, 20)
    found = told(cli, "verify", "--quick", status=1)["damages"]
    store = [each for each in found if each["path"] == "store"]
    assert len(store) == len(everything[::10]) + len(tables)
    lost = {each["version"] for each in found} - {""}
    finished = cli.run("verify", "--quick")
    assert finished.status == 1
    assert sum(line.startswith("damaged: store: ") for line in finished.lines) == 51
    assert finished.lines[50] == f"damaged: store: {len(store) - 50} more like these, which --json lists"
    # Some versions cannot be read, and nothing is collected while that is so.
    assert lost
    cli("delete", f"config:v{VERSIONS - 1}")
    refused = cli.refuses("gc")
    assert "so nothing is collected" in refused
    assert refused.count("artifactfs verify") == 1
    assert len(packs(thousand)) == len(everything) - len(everything[::10])
    repaired = cli("verify", "--repair", "--from", backup)
    assert repaired.stderr.endswith("everything is sound\n")
    assert len(repaired.lines) <= 51
    assert_sound(cli)


def page_of(registry: Path, table: str) -> int:
    """A leaf of a table: where it begins in the file."""
    with sqlite3.connect(registry) as connection:
        size = connection.execute("PRAGMA page_size").fetchone()[0]
        number = connection.execute(
            "SELECT pageno FROM dbstat WHERE name = ? AND pagetype = 'leaf' LIMIT 1 OFFSET 1", (table,)
        ).fetchone()[0]
    connection.close()
    return (number - 1) * size


def test_a_damaged_page_of_the_chunk_index_is_one_damage_and_mended(cli, thousand):
    offset = page_of(thousand / "registry.db", "chunk")
    overwrite(thousand / "registry.db", offset, os.urandom(4096))
    finished = cli.run("verify")
    assert finished.status == 1
    assert len(finished.lines) == 2, "it is the reason for thousands of places"
    assert finished.lines[0].startswith("damaged: registry: ")
    assert re.fullmatch(
        r"damaged: [\d,]+ places in [\d,]+ versions cannot be read for that reason; --json lists them",
        finished.lines[1],
    )
    repaired = cli("verify", "--repair")
    assert repaired.stderr == "everything is sound\n"
    assert_sound(cli)


@pytest.mark.parametrize("command", [("ls",), ("verify",), ("gc",), ("put", "new", "/etc/hostname")])
def test_a_lost_registry_is_said_and_no_other_one_is_made(cli, thousand, pristine, command):
    (thousand / "registry.db").unlink()
    assert "has lost its registry.db: restore that file from a backup" in cli.refuses(*command)
    assert "is a repository already" in cli.refuses("init", thousand)
    assert len(packs(thousand)) == len(packs(pristine))
    shutil.copy(pristine / "registry.db", thousand)
    assert cli("verify", "--quick").stderr.endswith("everything is sound\n")


# -- the disk is full, the wrong version was deleted ---------------------------------------------------------------


@pytest.fixture
def small(cli: Cli, pristine: Path) -> Iterator[Path]:
    """A disk of its own on which the repository has 10 MiB left."""
    taken = int(
        subprocess.run(["du", "-s", "--block-size=1", pristine], check=True, capture_output=True).stdout.split()[0]
    )
    with small_disk(cli.home / ".local/share/artifactfs", size=2 * taken) as disk:
        copied(pristine, disk / "repository")
        used = os.statvfs(disk)
        grow(disk, (used.f_blocks - used.f_bfree) * used.f_frsize + (10 << 20))
        yield disk


def free(disk: Path) -> int:
    found = os.statvfs(disk)
    return found.f_bavail * found.f_frsize


def take(disk: Path, *, leave: int) -> Path:
    """A file of somebody else that leaves so many bytes."""
    filler = disk / "filler"
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, free(disk) - leave)
    return filler


def test_a_full_disk_refuses_whole_is_verified_and_room_is_made(cli, small):
    (cli.home / "more").write_bytes(os.urandom(16 << 20))
    assert "no space left" in cli.refuses("put", "more", "more")
    assert len(living(cli)) == len(ARTIFACTS) * VERSIONS
    # Not a byte is left: even opening takes a few KiB.
    filler = take(small, leave=0)
    assert "the disk is full" in cli.refuses("delete", "config:v0")
    assert "the disk is full" in cli.refuses("ls")
    # Where another process has it open, all can be read and verified.
    filler.unlink()
    with Repository.open(str(small / "repository")) as opened:
        assert opened.registry.artifacts()
        filler = take(small, leave=0)
        assert "the disk is full" in cli.refuses("delete", "config:v0")
        assert len(living(cli)) == len(ARTIFACTS) * VERSIONS
        assert_sound(cli)
    # As the page says: too little room stops a prune, with some more it goes on.
    filler.unlink()
    filler = take(small, leave=600_000)
    stopped = cli.run("prune", "--keep-last", 5)
    assert stopped.status == 1
    found = re.search(r"^deleted (\d+) versions, then stopped: the rest goes", stopped.stderr, re.MULTILINE)
    assert found is not None, stopped.stderr
    assert len(living(cli)) == len(ARTIFACTS) * VERSIONS - int(found[1]) < len(ARTIFACTS) * VERSIONS
    filler.unlink()
    filler = take(small, leave=7 << 20)
    before = free(small)
    cli("prune", "--keep-last", 5)
    cli("gc")
    assert living(cli) == named(range(VERSIONS - 5, VERSIONS), *ARTIFACTS) | named(RELEASES, *ARTIFACTS) | {"model:v50"}
    assert free(small) > before + (1 << 20)
    assert_sound(cli)


def test_the_files_of_a_deleted_version_take_no_room_when_they_are_stored_again(cli, thousand, backup):
    stored = told(cli, "stats")["stored"]
    digest = told(cli, "show", "results:v33")["digest"]
    cli("delete", "results:v33")
    put = cli("--repository", backup, "copy", "results:v33", "--to", thousand)
    assert put.stdout == f"results:v{VERSIONS}\n"
    assert told(cli, "show", f"results:v{VERSIONS}")["digest"] == digest
    assert told(cli, "stats")["stored"] == stored
    assert_sound(cli)

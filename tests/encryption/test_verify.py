"""verify, repair and scrubbing of an encrypted project without its key: told in one line, nothing is listed, nothing changes."""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from artifactfs import keys, sealing
from artifactfs.content.stores import LocalStores
from artifactfs.errors import Access
from artifactfs.keys import ProjectKeys
from artifactfs.registry.sql import SQLRegistry
from artifactfs.repository import Repository
from artifactfs.server.log import Log
from artifactfs.server.metrics import Metrics
from artifactfs.server.scrubbing import Scrubbing
from artifactfs.upkeep import verify
from tests.conftest import Cli
from tests.encryption.conftest import KEY, NOISE, credentials
from tests.transfer.sides import put

ID = sealing.key_id(KEY)
OTHER = bytes(range(1, 33))
WORDS = {
    "lost": re.escape(
        f"project 'default' is encrypted with the key {ID}, which is not here; name the file that holds it: "
        "ARTIFACTFS_KEY_FILE, or key_file in config.toml"
    ),
    "wrong": rf"project 'default' is encrypted with the key {ID}, but \S+ has the key {sealing.key_id(OTHER)}; give the right one",
}


@pytest.fixture(params=["lost", "wrong"])
def keyless(request: pytest.FixtureRequest, sealed_cli: Cli, files: Path, tmp_path: Path) -> tuple[Cli, str]:
    """An encrypted repository with a version, and a command line that has no key of it, or another one; and what is said then."""
    sealed_cli("put", "ward", files)
    if request.param == "lost":
        del sealed_cli.env["ARTIFACTFS_KEY_FILE"]
    else:
        keys.write_key(tmp_path / "other.key", OTHER)
        sealed_cli.env["ARTIFACTFS_KEY_FILE"] = str(tmp_path / "other.key")
    return sealed_cli, WORDS[request.param]


def state(place: Path) -> dict[str, bytes]:
    """All files but the database's shared memory, which says who reads it."""
    return {
        str(path.relative_to(place)): path.read_bytes()
        for path in place.rglob("*")
        if path.is_file() and not path.name.endswith(("-shm", "-wal"))
    }


@pytest.mark.parametrize(
    "words",
    [(), ("--quick",), ("--resume",), ("--repair",), ("ward:v0",), ("--json",)],
    ids=["all", "quick", "resume", "repair", "one version", "json"],
)
def test_without_the_key_nothing_is_damaged(keyless, words, tmp_path):
    cli, expected = keyless
    before = state(tmp_path / "sealed")
    assert re.fullmatch(expected, cli.refuses("verify", *words))
    assert state(tmp_path / "sealed") == before
    cli.env["ARTIFACTFS_KEY_FILE"] = str(tmp_path / "project.key")
    assert cli("verify").status == 0


def test_a_damaged_registry_is_not_replaced_without_the_key(keyless, tmp_path):
    cli, expected = keyless
    place = tmp_path / "sealed"
    with closing(sqlite3.connect(place / "registry.db")) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        (page,) = database.execute("SELECT rootpage FROM sqlite_master WHERE name = 'chunk'").fetchone()
        (size,) = database.execute("PRAGMA page_size").fetchone()
    with (place / "registry.db").open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(os.urandom(size))
    before = state(place)
    assert re.fullmatch(expected, cli.refuses("verify", "--repair"))
    assert state(place) == before
    cli.env["ARTIFACTFS_KEY_FILE"] = str(tmp_path / "project.key")
    assert "was made anew" in cli("verify", "--repair").stdout
    cli("get", "ward", "out")
    assert (cli.home / "out/noise.bin").read_bytes() == NOISE


def test_what_a_client_verifies_is_not_damaged_when_the_key_is_not_there(repository, files):
    version = put(repository, files)
    for key, words in ((None, WORDS["lost"]), (OTHER, WORDS["wrong"])):
        with (
            Repository.open(repository.location, credentials=credentials(key)) as without,
            pytest.raises(Access, match=words),
        ):
            verify(without, [version])


@pytest.mark.parametrize("key", [None, OTHER], ids=["lost", "wrong"])
def test_a_scrub_goes_on_with_other_projects(repository, files, key):
    put(repository, files)
    with Repository.open(repository.location, project="open") as unsealed:
        put(unsealed, files)
        packs = len(unsealed.registry.packs())
    place = Path(repository.location)
    lines: list[str] = []
    log = Log(lines.append)
    metrics = Metrics(lambda: (0, 0), lambda: 0)

    def scrub(key: bytes | None) -> None:
        with (
            closing(SQLRegistry(place / "registry.db", keys=ProjectKeys(credentials(key)))) as registry,
            closing(LocalStores(place / "store")) as stores,
        ):
            Scrubbing(registry, stores, days=30, rate=0, log=log, metrics=metrics).look()

    def counted(name: str) -> float:
        return float(re.search(rf"^artifactfs_scrub_{name} (\S+)$", metrics.text().decode(), re.MULTILINE)[1])

    scrub(key)
    assert packs > 0
    read = counted("chunks_total")
    assert read > 0  # of the project that is not encrypted
    assert counted("damaged_total") == 0
    assert counted("finished_timestamp_seconds") == 0  # of all projects
    scrub(KEY)
    log.close()
    assert counted("chunks_total") > read
    assert counted("damaged_total") == 0
    assert counted("finished_timestamp_seconds") > 0
    (line,) = [json.loads(line) for line in lines]
    assert re.fullmatch(
        rf"scrub of project default: {WORDS['lost' if key is None else 'wrong']}; it is tried again", line["message"]
    )
    assert line["level"] == "warning"


def test_a_backup_is_registry_packs_and_key(sealed_cli, files, key_file, tmp_path):
    """As the page says: the registry first, then the packs, and the key from where it is kept; restored elsewhere."""
    sealed_cli("put", "ward", files)
    with closing(sqlite3.connect(tmp_path / "sealed/registry.db")) as database:
        database.execute("VACUUM INTO ?", (str(tmp_path / "registry.db"),))
    shutil.copytree(tmp_path / "sealed/store", tmp_path / "packs")
    shutil.copy2(tmp_path / "sealed/repository.json", tmp_path / "repository.json")
    safe = tmp_path / "safe.key"
    shutil.copy2(key_file, safe)
    sealed_cli("put", "ward", tmp_path / "project.key")  # after the backup
    shutil.rmtree(tmp_path / "sealed")
    key_file.unlink()

    home = tmp_path / "elsewhere"
    place = home / "data"
    place.mkdir(parents=True)
    for name in ("registry.db", "repository.json"):
        shutil.copy2(tmp_path / name, place / name)
    shutil.copytree(tmp_path / "packs", place / "store")
    restored = Cli(home)
    restored.env["ARTIFACTFS_REPOSITORY"] = str(place)
    assert re.fullmatch(WORDS["lost"], restored.refuses("verify"))
    restored.env["ARTIFACTFS_KEY_FILE"] = str(safe)
    assert "everything is sound" in restored("verify").stderr
    restored("get", "ward:v0", "out")
    assert (home / "out/noise.bin").read_bytes() == NOISE
    # Packs and key without the registry are a repository that holds nothing.
    (place / "registry.db").unlink()
    assert "ward" not in restored.run("ls").stdout

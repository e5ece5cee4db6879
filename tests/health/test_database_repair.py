"""Damage of every kind where the registry is in PostgreSQL: ``verify --registry --repair`` mends it, beside servers that go on."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from artifactfs import keys
from artifactfs.credentials import Credentials
from artifactfs.registry.sql import SQLRegistry
from artifactfs.repository import Repository
from tests import s3
from tests.conftest import Cli
from tests.encryption.conftest import KEY
from tests.health.deployed import FILES, LARGE, LATER, Deployed, InBucket, client, put, reach, readable, table_of
from tests.health.test_outside import refer
from tests.postgres import Server
from tests.server.test_replicas import Replica

IN_BUCKET = pytest.mark.parametrize("deployed", ["bucket"], indirect=True)
B = FILES["sub/b.txt"]
OF_B = {"data:v0/sub/b.txt", "data:v1/sub/b.txt"}


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Another repository, in a directory, that has the versions."""
    place = tmp_path / "copy"
    with Repository.create(str(place)) as made:
        put(made, tmp_path / "originals")
    return place


def missing(deployed: Deployed) -> None:
    key, _ = deployed.holding(B)
    deployed.objects.delete(key)


def truncated(deployed: Deployed) -> None:
    key, row = deployed.holding(B)
    deployed.objects.write(key, deployed.objects.read(key)[: row.offset + 1])


def longer(deployed: Deployed) -> None:
    key, _ = deployed.holding(B)
    deployed.objects.write(key, deployed.objects.read(key) + b"more")


def flipped(deployed: Deployed) -> None:
    deployed.flip(*deployed.holding(B))


def flipped_in_a_large_file(deployed: Deployed) -> None:
    deployed.flip(*deployed.large())


def flipped_everywhere(deployed: Deployed) -> None:
    key, _ = deployed.holding(LATER["noise.bin"])
    for row in deployed.chunks(key):
        deployed.flip(key, row)


def no_table(deployed: Deployed) -> None:
    key, _ = deployed.holding(B)
    deployed.objects.delete(table_of(key))


def damaged_table(deployed: Deployed) -> None:
    table = table_of(deployed.holding(B)[0])
    data = deployed.objects.read(table)
    deployed.objects.write(table, data[:60] + bytes([data[60] ^ 1]) + data[61:])


def table_of_another(deployed: Deployed) -> None:
    table = table_of(deployed.holding(B)[0])
    other = next(table_of(key) for key in deployed.packs() if table_of(key) != table)
    deployed.objects.write(table, deployed.objects.read(other))


def wrong_place(deployed: Deployed) -> None:
    _, row = deployed.holding(B)
    deployed.sql(f"""UPDATE chunk SET "offset" = "offset" + 1 WHERE digest = '\\x{row.digest.hex()}'""")  # noqa: S608


def wrong_pack(deployed: Deployed) -> None:
    key, row = deployed.holding(B)
    other = next(found for found in deployed.packs() if found != key).rpartition("/")[2].removesuffix(".pack")
    deployed.sql(
        f"UPDATE chunk SET pack = (SELECT id FROM pack WHERE digest = '{other}') WHERE digest = '\\x{row.digest.hex()}'"  # noqa: S608
    )


def no_row(deployed: Deployed) -> None:
    _, row = deployed.holding(B)
    deployed.sql(f"DELETE FROM chunk WHERE digest = '\\x{row.digest.hex()}'")  # noqa: S608


def no_rows(deployed: Deployed) -> None:
    deployed.sql("DELETE FROM chunk")


def no_packs(deployed: Deployed) -> None:
    deployed.sql("DELETE FROM chunk")
    deployed.sql("DELETE FROM pack")


def everything(deployed: Deployed) -> None:
    flipped_in_a_large_file(deployed)
    damaged_table(deployed)
    flipped_everywhere(deployed)
    no_row(deployed)


WITH_BYTES = [missing, truncated, flipped, flipped_in_a_large_file, flipped_everywhere, everything]
"""Of these bytes are lost, so that somebody else must have them."""
WITHOUT = [longer, no_table, damaged_table, table_of_another, wrong_place, wrong_pack, no_row, no_rows, no_packs]
IN_DIRECTORY = [longer, everything, no_packs]
"""What a repository in a directory has been tried with as well, in test_verify.py, is enough by these."""


@pytest.mark.parametrize(
    ("deployed", "damage"),
    [*(("bucket", damage) for damage in (*WITH_BYTES, *WITHOUT)), *(("directory", damage) for damage in IN_DIRECTORY)],
    indirect=["deployed"],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_what_is_damaged_is_mended(deployed: Deployed, copy: Path, damage: Callable[[Deployed], None]):
    damage(deployed)
    assert deployed.found() != set()
    words = ("--from", copy) if damage in WITH_BYTES else ()
    finished = deployed.repair(*words)
    assert finished.status == 0, finished
    assert all(line.startswith("repaired: ") for line in finished.lines)
    assert finished.lines
    assert finished.stderr == "everything is sound\n"
    deployed.all_is_well()
    assert bool(deployed.aside()) == (damage in {truncated, longer, *WITH_BYTES} - {missing})
    if damage is everything:
        again = deployed.repair()
        assert (again.status, again.stdout, again.stderr) == (0, "", "nothing was damaged\n")


@IN_BUCKET
def test_an_index_without_rows_is_made_anew_from_tables_alone(deployed: Deployed):
    before = set(deployed.sql("SELECT digest, length, size, flags FROM chunk"))
    no_rows(deployed)
    finished = deployed.repair()
    assert finished.lines == [f"repaired: {len(before)} chunks that the index lacked were found in packs"]
    assert set(deployed.sql("SELECT digest, length, size, flags FROM chunk")) == before
    deployed.all_is_well()


@IN_BUCKET
def test_what_nobody_has_stays_listed_and_may_be_stored_again(deployed: Deployed, tmp_path: Path):
    flipped(deployed)
    finished = deployed.verify()
    assert finished.status == 1
    assert [line.split(": ")[1] for line in finished.lines] == sorted(OF_B)
    assert f"mend what can be mended with: artifactfs verify --registry {deployed.url!r} --repair" in finished.stderr
    finished = deployed.repair("--json")
    assert finished.status == 1
    told = json.loads(finished.stdout)
    assert [item["path"] for item in told["left"]["damages"]] == ["sub/b.txt"] * 2
    assert told["unused"] == []
    with deployed.open() as repository:
        assert readable(repository, 1) == set(FILES | LATER) - {"sub/b.txt"}
        put(repository, tmp_path / "originals")
    deployed.all_is_well()


@pytest.fixture
def served(deployed: Deployed):
    """The address of a server over this database and these objects."""
    process = deployed.cli.start(
        *deployed.words, "serve", "--port", 0, "--no-access-log", env={"ARTIFACTFS_REGISTRY": deployed.url}
    )
    try:
        replica = Replica(process)
        yield replica.url
        replica.stop()
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def test_clients_read_through_a_running_server_meanwhile(deployed: Deployed, served: str, copy: Path, tmp_path: Path):
    everything(deployed)
    hit = {"sub/b.txt", "large.bin", *LATER}
    sound = set(FILES) - hit
    done = threading.Event()
    begun = threading.Event()
    seen: list[set[str]] = []

    def read() -> None:
        """By one client that stays, and by new ones."""
        with client(served, tmp_path / "stays") as stays:
            while True:
                last = done.is_set()
                with client(served, tmp_path / "comes") as comes:
                    seen.append(readable(comes, 1))
                seen.append(readable(stays, 1))
                begun.set()
                if last:
                    return

    thread = threading.Thread(target=read)
    thread.start()
    try:
        assert begun.wait(60)
        finished = deployed.repair("--from", copy, "--rate", "5MB")
    finally:
        done.set()
        thread.join()
    assert finished.status == 0, finished
    assert seen[0] == seen[1] == set(FILES | LATER) - hit
    assert [found for found in seen if not found >= sound] == []
    assert seen[-1] == seen[-2] == set(FILES | LATER)
    deployed.all_is_well()
    # What is written through the server afterwards is whole too.
    with ExitStack() as stack:
        writer = stack.enter_context(client(served, tmp_path / "writes"))
        put(writer, tmp_path / "originals")
        assert readable(writer, 1) == set(FILES | LATER)


@IN_BUCKET
def test_a_server_of_the_repository_is_no_help_to_itself(deployed: Deployed, served: str):
    flipped(deployed)
    finished = deployed.repair("--from", served)
    assert finished.status == 1
    assert [line for line in finished.lines if line.startswith("damaged: ")] != []
    assert "left: 2 places in versions cannot be read" in finished.stderr


@IN_BUCKET
def test_a_project_without_anything_is_not_made(deployed: Deployed):
    finished = deployed.cli("--project", "none", *deployed.words, "verify", "--registry", deployed.url, "--repair")
    assert (finished.stdout, finished.stderr) == ("", "nothing was damaged\n")
    assert deployed.sql("SELECT name FROM project") == [("default",)]


def test_nothing_is_changed_while_no_pack_is_there(deployed: Deployed):
    kept = {key: deployed.objects.read(key) for key in deployed.objects.names()}
    for key in kept:
        deployed.objects.delete(key)
    before = deployed.sql("SELECT * FROM chunk")
    finished = deployed.repair()
    assert finished.status == 1
    assert f"the store has none of the {len(kept) // 2} packs of project 'default'" in finished.stderr
    assert deployed.sql("SELECT * FROM chunk") == before
    for key, data in kept.items():
        deployed.objects.write(key, data)
    deployed.all_is_well()


@IN_BUCKET
def test_bytes_come_from_the_source_of_a_reference(deployed: Deployed, tmp_path: Path):
    (tmp_path / "far").write_bytes(LARGE)
    with deployed.open() as repository:
        refer(repository, "far", f"file://{tmp_path}/far")
    deployed.flip(*deployed.large())
    (tmp_path / "far").write_bytes(LARGE + b"changed")
    finished = deployed.repair()
    assert finished.status == 1
    assert f"not taken from a reference: the source file://{tmp_path}/far has changed: " in finished.stderr
    (tmp_path / "far").write_bytes(LARGE)
    finished = deployed.repair()
    assert finished.status == 0, finished
    assert finished.lines == [f"repaired: 1 lost chunk was restored from file://{tmp_path}/far"]
    deployed.all_is_well()


# -- an encrypted project ----------------------------------------------------------------------------------------------


@pytest.fixture
def sealed(
    cli: Cli,
    bucket: s3.Server,
    postgres: Server,
    postgres_registry: str,
    postgres_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Deployed:
    """An encrypted repository in a bucket, and its host, which has the key."""
    reach(bucket, cli, monkeypatch)
    keys.write_key(tmp_path / "project.key", KEY)
    cli.env["ARTIFACTFS_KEY_FILE"] = str(tmp_path / "project.key")
    made = Deployed(
        cli,
        InBucket(bucket, tmp_path.name),
        postgres_url,
        lambda statement: postgres.sql(statement, database=postgres_registry),
        credentials=Credentials(key=KEY.hex()),
    )
    with made.open() as repository:
        assert isinstance(repository.registry, SQLRegistry)
        repository.registry.encrypt(KEY)
    made.put()
    return made


@pytest.mark.parametrize("damage", [missing, truncated, flipped, no_table, damaged_table, wrong_place, no_rows, longer])
def test_an_encrypted_project_is_mended_too(sealed: Deployed, copy: Path, damage: Callable[[Deployed], None]):
    damage(sealed)
    kept = {name: sealed.objects.read(name) for name in sealed.objects.names()}
    key_file = sealed.cli.env.pop("ARTIFACTFS_KEY_FILE")
    for words in ((), ("--quick",), ("--repair",)):
        finished = sealed.verify(*words)
        assert (finished.status, finished.stdout) == (1, "")
        assert "is encrypted with the key" in finished.stderr
        assert len(finished.stderr.splitlines()) == 1
    assert {name: sealed.objects.read(name) for name in sealed.objects.names()} == kept
    sealed.cli.env["ARTIFACTFS_KEY_FILE"] = key_file
    finished = sealed.repair(*(("--from", copy) if damage in WITH_BYTES else ()))
    assert finished.status == 0, finished
    assert finished.lines
    sealed.all_is_well()
    # What was written anew is sealed as well.
    for name in sealed.objects.names():
        data = sealed.objects.read(name)
        assert not any(content[:14] in data for content in (FILES | LATER).values())


def test_a_sealed_pack_whose_row_was_lost_has_no_key(sealed: Deployed):
    no_packs(sealed)
    finished = sealed.repair()
    assert finished.status == 1
    assert "what is still damaged is nowhere here" in finished.stderr

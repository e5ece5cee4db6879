"""``verify --registry``: a database and the packs that it names, looked at without a server; nothing is made and nothing is left."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from artifactfs.checkup import Checked, check_whole
from artifactfs.errors import Format, NotFound
from artifactfs.health.pace import Pace
from artifactfs.health.position import TOPIC
from tests import s3
from tests.conftest import Cli
from tests.health.deployed import FILES, LATER, Deployed, InBucket, table_of
from tests.ports import HeldPort
from tests.postgres import Server

IN_BUCKET = pytest.mark.parametrize("deployed", ["bucket"], indirect=True)
BYTES = sum(map(len, (FILES | LATER).values()))


def test_a_sound_one(deployed: Deployed, tmp_path: Path):
    before = set(deployed.objects.names())
    rows = deployed.sql("SELECT * FROM meta ORDER BY key")
    finished = deployed.verify(env={"TMPDIR": str(tmp_path)})
    assert (finished.status, finished.stdout) == (0, "")
    packs = len(deployed.packs())
    # What both have in common, the directory sub, is looked at once.
    assert f"checked 2 versions, 8 files, {packs} packs, " in finished.stderr
    assert finished.stderr.endswith(": everything is sound\n")
    finished = deployed.verify("--quick")
    assert (finished.status, finished.stdout) == (0, "")
    assert finished.stderr == f"looked at 2 versions, {packs} packs: everything is sound\n"
    finished = deployed.verify("--json")
    told = json.loads(finished.stdout)
    assert (told["bytes"], told["damages"]) == (BYTES, [])
    # Nothing was made, neither there nor here.
    assert set(deployed.objects.names()) == before
    assert deployed.sql("SELECT * FROM meta ORDER BY key") == rows
    assert deployed.sql("SELECT count(*) FROM session") == [(0,)]
    assert list(tmp_path.glob("artifactfs-*")) == []


def test_the_variable_says_which_database(deployed: Deployed):
    deployed.flip(*deployed.holding(FILES["a.txt"]))
    finished = deployed.cli.run(*deployed.words, "verify", env={"ARTIFACTFS_REGISTRY": deployed.url})
    assert finished.status == 1
    assert [line.split(": ")[1] for line in finished.lines] == ["data:v0/a.txt", "data:v1/a.txt"]
    assert "mend what can be mended with: artifactfs verify --repair; see" in finished.stderr


@IN_BUCKET
def test_a_quick_one_finds_what_no_content_tells(deployed: Deployed):
    key, row = deployed.holding(LATER["noise.bin"])
    deployed.flip(key, row)
    assert deployed.verify("--quick").status == 0  # as no content is read
    finished = deployed.verify("--rate", "1GB")
    assert finished.status == 1
    assert [line.partition(": chunk ")[0] for line in finished.lines] == ["damaged: data:v1/noise.bin"]
    deployed.objects.delete(key)
    finished = deployed.verify("--quick")
    assert finished.status == 1
    pack = key.rpartition("/")[2].removesuffix(".pack")
    assert f"damaged: store: pack {pack} is missing" in finished.lines
    assert f"damaged: data:v1/noise.bin: pack {pack} is missing" in finished.lines
    deployed.objects.delete(table_of(key))
    assert (
        f"damaged: store: the table of contents of pack {pack} is missing"
        in deployed.verify("--quick").stdout.splitlines()
    )


@IN_BUCKET
def test_one_version_or_all_of_an_artifact(deployed: Deployed):
    deployed.flip(*deployed.holding(LATER["noise.bin"]))
    assert deployed.verify("data:v0").status == 0
    finished = deployed.verify("data:latest", "--json")
    assert finished.status == 1
    assert [(item["version"], item["path"]) for item in json.loads(finished.stdout)["damages"]] == [
        ("data:v1", "noise.bin")
    ]
    finished = deployed.verify("data")
    assert finished.status == 1
    assert "checked 2 versions" in finished.stderr
    refuses = deployed.cli.refuses
    assert refuses("verify", "--registry", deployed.url, "data:v7").startswith("data has no version or alias 'v7'")
    assert refuses("verify", "--registry", deployed.url, "dota").startswith(
        "no artifact 'dota' in project 'default'; did you mean data?"
    )


@IN_BUCKET
def test_rows_of_the_database_that_contradict_each_other(deployed: Deployed):
    deployed.sql("UPDATE version SET files = files + 1 WHERE number = 1")
    (line,) = deployed.verify("--quick").lines or deployed.verify().lines
    assert "the version's digest or its counts were changed" in line
    deployed.sql("UPDATE version SET files = files - 1 WHERE number = 1")
    deployed.sql("UPDATE alias SET version = (SELECT id FROM version WHERE number = 0), artifact = artifact")
    deployed.sql("UPDATE artifact SET next_number = 1")
    finished = deployed.verify("--quick")
    assert finished.status == 1
    assert [line.partition(": ")[2].partition(":")[0] for line in finished.lines] == ["registry"]
    assert "data has v1, but would give the number 1 next" in finished.stdout
    finished = deployed.repair()
    assert finished.status == 1
    assert "restore the rest from a backup of it" in finished.stderr


def test_a_database_without_versions_or_without_tables(
    cli: Cli, postgres_url: str, postgres: Server, empty_database: str
):
    place = cli.home / "place"
    cli("init", place)
    for words in ((), ("--quick",), ("--repair",)):
        finished = cli("--repository", place, "verify", "--registry", postgres_url, *words)
        assert finished.stdout == ""
        assert ("nothing was damaged" if words == ("--repair",) else "everything is sound") in finished.stderr
        said = cli.refuses("--repository", place, "verify", "--registry", postgres.url(empty_database), *words)
        assert "has no tables yet; `artifactfs serve` makes them" in said


@pytest.fixture
def deaf() -> Iterator[int]:
    """A port at which nobody listens, nor will: it is taken."""
    with closing(HeldPort()) as port:
        yield port.number


def test_what_cannot_be_reached_is_one_line(deployed: Deployed, cli: Cli, deaf: int):
    for words in ((), ("--quick",), ("--repair",), ("data:v0",)):
        said = cli.refuses("verify", "--registry", f"postgresql://somebody@127.0.0.1:{deaf}/d", *words)
        assert said.startswith(f"cannot reach postgresql://127.0.0.1:{deaf}/d") or "127.0.0.1" in said
        assert "\n" not in said
    said = cli.refuses("verify", "--registry", deployed.url.replace("/test_", "/none_"))
    assert "\n" not in said
    if deployed.objects.beside is None:
        env = s3.environ_of(f"http://127.0.0.1:{deaf}")
        said = cli.refuses("--timeout", "3", "verify", "--registry", deployed.url, env=env)
        assert said.startswith(f"cannot list {deployed.objects.url.rpartition('/')[0]}")
        assert "\n" not in said
    else:
        assert "does not know where its packs are" in cli.refuses("verify", "--registry", deployed.url, status=2)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--registry", "https://db.example.com/d"), "--registry takes the URL of a database: postgresql://USER@HOST"),
        (("--registry", "registry.db"), "--registry takes the URL of a database: postgresql://USER@HOST"),
        (("--registry", "postgresql://u:very-secret@127.0.0.1/d"), "the URL of the registry has a password"),
        (("--registry", "postgresql://u@127.0.0.1:port/d"), ""),
        (
            ("--registry", "postgresql://u@127.0.0.1/d", "--references"),
            "--references is not for a database (--registry)",
        ),
        (
            ("--registry", "postgresql://u@127.0.0.1/d", "--quick", "--repair"),
            "--quick and --repair exclude each other",
        ),
        (("--registry", "postgresql://u@127.0.0.1/d", "--repair", "data:v0"), "--repair is about the whole repository"),
        (("--registry", "postgresql://u@127.0.0.1/d", "data:v0/a"), "names a path; verify checks versions"),
        (("--registry", "postgresql://u@127.0.0.1/d", "--from", "/backup"), "give --repair too"),
    ],
)
def test_what_is_asked_wrongly_is_refused(cli: Cli, words: tuple[str, ...], said: str):
    told = cli.run("verify", *words)
    assert told.status in ({1, 2} if not said else {2})
    assert told.stdout == ""
    assert told.stderr.startswith("artifactfs: ")
    assert said in told.stderr
    assert len(told.stderr.splitlines()) == 1
    assert "very-secret" not in told.stderr


@IN_BUCKET
def test_repair_takes_from_another_repository_that_is_there(deployed: Deployed):
    words = ("verify", "--registry", deployed.url, "--repair", "--from")
    assert "no repository at" in deployed.cli.refuses(*words, deployed.cli.home / "nowhere")
    assert "the very repository" in deployed.cli.refuses(*words, deployed.url, status=2)


@IN_BUCKET
def test_repair_takes_from_a_restored_copy(
    deployed: Deployed, bucket: s3.Server, postgres: Server, empty_database: str
):
    copy = Deployed(
        deployed.cli, InBucket(bucket, "copy-of-it"), postgres.url(empty_database), lambda statement: [(statement,)]
    )
    copy.put()
    deployed.flip(*deployed.large())
    finished = deployed.repair("--from", copy.url)
    assert finished.status == 0, finished
    assert re.fullmatch(r"repaired: 1 lost chunk was restored from the registry postgresql://\S+", finished.lines[-1])
    deployed.all_is_well()


# -- interrupted -------------------------------------------------------------------------------------------------------


def interrupt_after(count: int):
    def progress(checked: Checked) -> None:
        if checked.packs == count:
            raise KeyboardInterrupt

    return progress


@IN_BUCKET
def test_it_goes_on_after_the_packs_that_were_read(deployed: Deployed):
    deployed.flip(*deployed.holding(FILES["a.txt"]))
    with deployed.open() as repository:
        packs = repository.registry.packs()
        with pytest.raises(KeyboardInterrupt):
            check_whole(repository, content=True, pace=Pace(), progress=interrupt_after(len(packs) - 1))
    copied = deployed.sql("SELECT key, value FROM meta WHERE key LIKE 'verify:%'")
    with deployed.open() as repository:
        seen: list[int] = []
        checked = check_whole(
            repository, content=True, resume=True, pace=Pace(), progress=lambda checked: seen.append(checked.packs)
        )
        assert seen[0] == checked.packs == len(packs)
        assert {hit.path for hit in checked.hits} == {"a.txt"}  # also what was found before
        with pytest.raises(NotFound, match="without --resume"):
            check_whole(repository, content=True, resume=True, pace=Pace())
    ((key, value),) = copied
    deployed.sql(f"UPDATE meta SET value = '{value}' WHERE key = '{key}'")  # noqa: S608
    told = json.loads(deployed.verify("--resume", "--json").stdout)
    assert [item["path"] for item in told["damages"]] == ["a.txt"] * 2
    assert told["bytes"] == BYTES - len(FILES["a.txt"])
    assert "was interrupted here" in deployed.cli.refuses("verify", "--registry", deployed.url, "--resume")


@IN_BUCKET
def test_a_note_that_is_of_no_use_is_refused(deployed: Deployed):
    with deployed.open() as repository:
        assert repository.registry.exchange_note(TOPIC, None, "{}")
        with pytest.raises(Format, match="without --resume"):
            check_whole(repository, content=True, resume=True, pace=Pace())
        assert check_whole(repository, content=True, pace=Pace()).sound
        assert repository.registry.note(TOPIC) == ""


@IN_BUCKET
def test_where_nothing_may_be_written_it_is_verified_nevertheless(deployed: Deployed, postgres: Server):
    postgres.sql("CREATE ROLE reader LOGIN")
    try:
        deployed.sql("GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader")
        url = deployed.url.replace("tests@", "reader@")
        finished = deployed.cli("verify", "--registry", url)
        assert finished.stderr.endswith("everything is sound\n")
        said = deployed.cli.refuses("verify", "--registry", url, "--repair")
        assert "\n" not in said
        assert "permission" in said
    finally:
        deployed.sql("DROP OWNED BY reader")
        postgres.sql("DROP ROLE reader")

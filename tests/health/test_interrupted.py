"""A full verify that was interrupted goes on where it stood, and tells what it had found before."""

from __future__ import annotations

import json
import random
import signal
from pathlib import Path

import pytest

from artifactfs.checkup import Checked, all_versions, check_versions, check_whole, position_file
from artifactfs.errors import ArtifactFSError, Format, InvalidInput, NotFound
from artifactfs.health.pace import Pace, Stopped
from artifactfs.model.tree import FileEntry, build_tree
from artifactfs.repository import Repository
from tests.conftest import Cli, eventually


def put_packs(repository: Repository, count: int) -> None:
    """So many versions, each with a pack of data and one of nodes."""
    for number in range(count):
        with repository.writing("put") as writing:
            content = writing.writer.add_bytes(random.Random(number).randbytes(5000))
            root = build_tree([FileEntry("file", content.size, content.digest, False)], writing.writer.add_node)
            writing.commit("data", root)


def damage(repository: Repository, pack: str) -> None:
    path = next(Path(repository.location).glob(f"store/**/{pack}.pack"))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def interrupt_after(count: int):
    def progress(checked: Checked) -> None:
        if checked.packs == count:
            raise KeyboardInterrupt

    return progress


def test_it_goes_on_after_the_packs_that_were_read(repository: Repository):
    put_packs(repository, 4)
    packs = repository.registry.packs()
    assert len(packs) == 8
    damage(repository, packs[0][0])
    with pytest.raises(KeyboardInterrupt):
        check_whole(repository, content=True, pace=Pace(), progress=interrupt_after(3))
    assert position_file(repository).exists()
    # What was read already is not read again: this damage came too late.
    damage(repository, packs[1][0])
    with Repository.open(repository.location) as opened:
        seen: list[int] = []
        checked = check_whole(
            opened, content=True, resume=True, pace=Pace(), progress=lambda checked: seen.append(checked.packs)
        )
    assert seen[0] == 4
    assert checked.packs == 8
    assert [hit.version for hit in checked.hits][:1] != []
    assert not position_file(repository).exists()
    with Repository.open(repository.location) as opened:
        again = check_whole(opened, content=True, pace=Pace())
        assert len(again.hits) == 2 == len({hit.version for hit in again.hits})
        with pytest.raises(NotFound, match="without --resume"):
            check_whole(opened, content=True, resume=True, pace=Pace())


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", Format),
        ("{}", Format),
        ('{"project": "default", "format": 2}', Format),
        ('{"project": "others"}', InvalidInput),
    ],
)
def test_a_position_that_is_of_no_use_is_refused(repository: Repository, text: str, error: type[ArtifactFSError]):
    put_packs(repository, 1)
    position_file(repository).write_text(text)
    with pytest.raises(error, match="without --resume"):
        check_whole(repository, content=True, resume=True, pace=Pace())
    assert check_whole(repository, content=True, pace=Pace()).sound


def test_chosen_versions_read_their_own_chunks_alone(repository: Repository):
    put_packs(repository, 3)
    versions = list(all_versions(repository))
    checked = check_versions(repository, versions[:1], pace=Pace())
    assert (checked.sound, checked.versions, checked.files, checked.bytes) == (True, 1, 1, 5000)
    assert check_versions(repository, versions, pace=Pace()).bytes == 15000


def test_a_pace_that_was_told_to_stop_lets_nobody_read():
    pace = Pace(1)
    pace.take(1 << 30)  # the next one would wait for 34 years
    pace.stop()
    with pytest.raises(Stopped):
        pace.take(1)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_command_that_was_stopped_is_gone_on_with(cli: Cli, number: signal.Signals):
    place = cli.home / ".local/share/artifactfs/repository"
    for name in ("one", "two"):
        (cli.home / name).write_bytes(random.Random(name).randbytes(3_000_000))
        cli("put", name, name)
    with cli.start("verify", "--rate", "100kB") as process:
        eventually((place / "verify-default.json").exists, seconds=60)
        process.send_signal(number)
        _, stderr = process.communicate(timeout=60)
    if number == signal.SIGINT:
        assert process.returncode == 130
        assert stderr == "interrupted; what was read need not be read again: artifactfs verify --resume\n"
    told = json.loads(cli("verify", "--resume", "--json").stdout)
    assert told["damages"] == []
    assert told["bytes"] == 6_000_000
    assert not (place / "verify-default.json").exists()
    assert "no verify of the project 'default' was interrupted here" in cli.refuses("verify", "--resume")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--quick", "--repair"], "--quick and --repair exclude each other"),
        (["--quick", "x:v0"], "--quick is about the whole repository"),
        (["--repair", "x:v0"], "--repair is about the whole repository"),
        (["--resume", "x:v0"], "--resume is about the whole repository"),
        (["--resume", "--quick"], "--resume goes on with reading everything"),
        (["--from", "/x"], "give --repair too"),
        (["--rate", "0"], "--rate is the bytes"),
        (["--rate", "fast"], "not a size"),
        (["--references", "--rate", "1MB"], "leave it out"),
    ],
)
def test_options_that_contradict_are_refused(cli: Cli, words: list[str], said: str):
    assert said in cli.refuses("verify", *words, status=2)


def test_repair_takes_from_another_repository_that_is_there(cli: Cli):
    (cli.home / "file").write_text("x")
    cli("put", "data", "file")
    place = cli.home / ".local/share/artifactfs/repository"
    assert "no repository at" in cli.refuses("verify", "--repair", "--from", cli.home / "nowhere")
    assert not (cli.home / "nowhere").exists()
    assert "the very repository" in cli.refuses("verify", "--repair", "--from", place, status=2)

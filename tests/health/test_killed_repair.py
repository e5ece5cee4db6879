"""A repair that is killed at any step: everything that could be read before it still can be, and the next repair ends it."""

from __future__ import annotations

import random
from contextlib import suppress
from pathlib import Path

import pytest

from artifactfs.checkup import RepositoryHolder, check_whole, repair
from artifactfs.content.local import LocalStore, LocalUpload
from artifactfs.errors import ArtifactFSError
from artifactfs.health.pace import Pace
from artifactfs.model.tree import FileEntry, build_tree
from artifactfs.registry.sql import SQLRegistry
from artifactfs.repository import Repository

NAMES = [f"file-{number}" for number in range(6)]


class Killed(BaseException):
    """Here the process ended."""


def put(repository: Repository) -> None:
    with repository.writing("put") as writing:
        entries = []
        for number, name in enumerate(NAMES):
            content = writing.writer.add_bytes(random.Random(number).randbytes(3000))
            entries.append(FileEntry(name, content.size, content.digest, False))
        writing.commit("data", build_tree(entries, writing.writer.add_node))


def readable(place: str) -> set[str]:
    """Files that can be read; what is read is right."""
    found = set()
    with Repository.open(place) as opened:
        version = opened.registry.versions("data")[0]
        for number, name in enumerate(NAMES):
            with suppress(ArtifactFSError):
                entry = opened.entry(version, name)
                assert isinstance(entry, FileEntry)
                data = bytes(opened.open_file(entry).read(0, entry.size))
                assert data == random.Random(number).randbytes(3000)
                found.add(name)
    return found


def damage(repository: Repository, name: str) -> None:
    entry = repository.entry(repository.registry.versions("data")[0], name)
    assert isinstance(entry, FileEntry)
    location = repository.registry.locate([entry.digest])[entry.digest]
    path = next(Path(repository.location).glob(f"store/**/packs/*/{location.pack}.pack"))
    with path.open("r+b") as file:
        file.seek(location.offset + 100)
        file.write(b"damaged")


class Steps:
    """Counts the steps that change something, and kills before one of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, kill: int) -> None:
        self.count = 0
        self.kill = kill
        for owner, name in (
            (LocalUpload, "publish"),
            (LocalStore, "move"),
            (LocalStore, "delete"),
            (SQLRegistry, "settle_packs"),
            (SQLRegistry, "add_packs"),
        ):
            self._watch(monkeypatch, owner, name)

    def _watch(self, monkeypatch: pytest.MonkeyPatch, owner: type, name: str) -> None:
        original = getattr(owner, name)

        def step(*arguments: object, **named: object) -> object:
            self.count += 1
            if self.count >= self.kill:
                raise Killed
            return original(*arguments, **named)

        monkeypatch.setattr(owner, name, step)


def mend(place: str, copy: str) -> None:
    with Repository.open(place) as opened, Repository.open(copy) as other:
        repair(opened, lambda: Repository.open(place), [RepositoryHolder(other)], pace=Pace())


@pytest.mark.parametrize("hit", [NAMES[2:3], NAMES], ids=["a chunk", "a whole pack"])
@pytest.mark.parametrize("kill", range(1, 12))
def test_a_killed_repair_loses_nothing_and_the_next_one_ends_it(
    repository: Repository, tmp_path: Path, kill: int, hit: list[str], monkeypatch: pytest.MonkeyPatch
):
    put(repository)
    copy = str(tmp_path / "copy")
    with Repository.create(copy) as other:
        put(other)
    for name in hit:
        damage(repository, name)
    place = repository.location
    sound = set(NAMES) - set(hit)
    assert readable(place) == sound
    with monkeypatch.context() as patched:
        steps = Steps(patched, kill)
        try:
            mend(place, copy)
        except Killed:
            pass
        else:
            assert steps.count < kill  # all steps were seen
    assert readable(place) >= sound
    mend(place, copy)
    assert readable(place) == set(NAMES)
    with Repository.open(place) as opened:
        assert check_whole(opened, content=True, pace=Pace()).sound


def test_what_is_stored_again_meanwhile_is_not_set_aside_with_the_damaged_pack(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
):
    """The same chunks make the same pack, whose name the damaged one has."""
    put(repository)
    for name in NAMES:
        damage(repository, name)
    place = repository.location
    settle = SQLRegistry.settle_packs

    def then_put(*arguments: object, **named: object) -> None:
        monkeypatch.undo()
        settle(*arguments, **named)  # type: ignore[arg-type]
        with Repository.open(place) as other:
            put(other)

    monkeypatch.setattr(SQLRegistry, "settle_packs", then_put)
    with Repository.open(place) as opened:
        result = repair(opened, lambda: Repository.open(place), [], pace=Pace())
    assert result.left.sound
    assert readable(place) == set(NAMES)
    with Repository.open(place) as opened:
        assert check_whole(opened, content=True, pace=Pace()).sound


def test_a_reader_that_is_open_finds_what_was_moved(repository: Repository, tmp_path: Path):
    put(repository)
    copy = str(tmp_path / "copy")
    with Repository.create(copy) as other:
        put(other)
    damage(repository, NAMES[2])
    place = repository.location
    with Repository.open(place) as opened:
        version = opened.registry.versions("data")[0]
        entries = [opened.entry(version, name) for name in NAMES]
        with pytest.raises(Exception, match="is damaged"):
            opened.open_file(entries[2]).read(0, 10)  # type: ignore[arg-type]
        mend(place, copy)
        for number, entry in enumerate(entries):
            assert isinstance(entry, FileEntry)
            assert bytes(opened.open_file(entry).read(0, entry.size)) == random.Random(number).randbytes(3000)

"""Damage of every kind: verify names it with the files that it hits, repair does what it can, and nothing wrong is ever served."""

from __future__ import annotations

import json
import os
import random
import shutil
import sqlite3
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from artifactfs.checkup import Checked, RepositoryHolder, check_versions, check_whole, repair, rescue_registry
from artifactfs.content.pack import decode_index
from artifactfs.errors import ArtifactFSError, Conflict
from artifactfs.health.pace import Pace
from artifactfs.model.digest import CHUNKS, DATA, TREE, kind_of_flags
from artifactfs.model.names import parse_address
from artifactfs.model.records import ChunkRow
from artifactfs.model.tree import FileEntry
from artifactfs.repository import Repository
from tests.conftest import Cli

LARGE = 7_000_000
SMALL = ("a.txt", "sub/b.txt", "sub/deep/c.txt")


class Stored:
    """A repository of three versions that share chunks, and its parts to be damaged."""

    def __init__(self, cli: Cli) -> None:
        self.cli = cli
        self.place = cli.home / ".local/share/artifactfs/repository"
        self.tree = cli.home / "tree"
        self.registry = self.place / "registry.db"

    def packs(self) -> list[Path]:
        return sorted(self.place.glob("store/**/packs/*/*.pack"))

    def chunks(self, kind: int) -> list[tuple[Path, ChunkRow]]:
        return [
            (pack, row)
            for pack in self.packs()
            for row in decode_index(pack.with_suffix(".idx").read_bytes()).chunks
            if kind_of_flags(row.flags) == kind
        ]

    def holding(self, text: bytes) -> tuple[Path, ChunkRow]:
        """The pack and row of the chunk that begins with a text."""
        for pack, row in self.chunks(DATA):
            if pack.read_bytes()[row.offset : row.offset + len(text)] == text:
                return pack, row
        raise AssertionError(text)

    def flip(self, pack: Path, row: ChunkRow) -> None:
        with pack.open("r+b") as file:
            file.seek(row.offset + row.length // 2)
            byte = file.read(1)[0]
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([byte ^ 0x40]))

    def sql(self, statement: str, *values: object) -> None:
        with closing(sqlite3.connect(self.registry)) as connection:
            assert connection.execute(statement, values).rowcount > 0
            connection.commit()

    def query(self, statement: str) -> list[tuple[bytes]]:
        with closing(sqlite3.connect(self.registry)) as connection:
            return connection.execute(statement).fetchall()

    def open(self) -> Repository:
        return Repository.open(str(self.place))

    def verify(self, *words: str) -> dict[str, str]:
        """Places and reasons of what a verify finds; ``words`` as on the command line."""
        with self.open() as opened:
            if words and not words[0].startswith("-"):
                versions = [opened.resolve(parse_address(word)) for word in words]
                return _places(check_versions(opened, versions, pace=Pace()))
            return _places(check_whole(opened, content="--quick" not in words, pace=Pace()))

    def repair(self, *others: Path) -> tuple[list[str], list[str]]:
        """What was done, and the places left. Bytes are also taken from ``others``."""
        rescued = rescue_registry(self.place, "default")
        with ExitStack() as stack:
            opened = stack.enter_context(self.open())
            holders = [RepositoryHolder(stack.enter_context(Repository.open(str(other)))) for other in others]
            result = repair(opened, self.open, holders, pace=Pace())
            return [*rescued, *result.done], list(_places(result.left))

    def files(self, version: str) -> dict[str, bytes | None]:
        """What is served of a version's files: bytes that are checked against the originals, None for an error."""
        served: dict[str, bytes | None] = {}
        with self.open() as opened:
            for path in (p for p in self.original(version).rglob("*") if p.is_file()):
                name = str(path.relative_to(self.original(version)))
                try:
                    entry = opened.entry(opened.resolve(parse_address(version)), name)
                    assert isinstance(entry, FileEntry)
                    served[name] = bytes(opened.open_file(entry).read(0, entry.size))
                except ArtifactFSError:
                    served[name] = None
                assert served[name] in {None, path.read_bytes()}, name
        return served

    def original(self, version: str) -> Path:
        return self.cli.home / "originals" / version.rpartition(":")[2]

    def all_is_well(self) -> None:
        assert self.verify() == {}
        assert self.verify("--quick") == {}
        for version in ("data:v0", "data:v1", "data:v2"):
            assert None not in self.files(version).values()


def put(stored: Stored, number: int) -> None:
    stored.cli("put", "data", stored.tree)
    shutil.copytree(stored.tree, stored.original(f"data:v{number}"))


def _places(checked: Checked) -> dict[str, str]:
    found = dict.fromkeys(["/registry"] if checked.registry else [], " ".join(checked.registry))
    found |= dict.fromkeys(["/store"] if checked.faults else [], " ".join(checked.faults))
    return found | {f"{hit.version}/{hit.path.lstrip('/')}": hit.reason for hit in checked.hits}


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with such a repository, and with another one, `copy`, that has its versions: made once, copied for each test."""
    home = tmp_path_factory.mktemp("template") / "home"
    home.mkdir()
    made = Stored(Cli(home))
    for name in SMALL:
        path = made.tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(f"contents of {name}\n".encode())
    (made.tree / "large.bin").write_bytes(random.Random(1).randbytes(LARGE))
    put(made, 0)
    (made.tree / "new.txt").write_bytes(b"new in v1\n")
    put(made, 1)
    (made.tree / "a.txt").write_bytes(b"another a\n")
    put(made, 2)
    for number in range(3):
        made.cli("copy", f"data:v{number}", "--to", home / "copy")
    return home


@pytest.fixture
def stored(cli: Cli, template: Path) -> Stored:
    shutil.copytree(template, cli.home, dirs_exist_ok=True)
    return Stored(cli)


@pytest.fixture
def copy(stored: Stored) -> Path:
    """Another repository that has the versions."""
    return stored.cli.home / "copy"


def test_a_sound_repository_is_read_once_and_stays_as_it_is(stored: Stored):
    unique = {path.read_bytes() for path in (stored.cli.home / "originals").rglob("*") if path.is_file()}
    with stored.open() as opened:
        checked = check_whole(opened, content=True, pace=Pace())
    assert (checked.sound, checked.versions, checked.packs) == (True, 3, len(stored.packs()))
    assert checked.bytes == sum(map(len, unique))
    before = sorted(path.name for path in stored.place.rglob("*.*") if not path.name.startswith("registry"))
    assert stored.repair() == ([], [])
    assert sorted(path.name for path in stored.place.rglob("*.*") if not path.name.startswith("registry")) == before


def test_what_a_person_sees(stored: Stored, copy: Path):
    assert "everything is sound" in stored.cli("verify", "--quick").stderr
    stored.flip(*stored.holding(b"contents of sub/b.txt"))
    finished = stored.cli.run("verify", "--rate", "1GB")
    assert finished.status == 1
    assert [line.split(": ")[1] for line in finished.lines] == [f"data:v{number}/sub/b.txt" for number in range(3)]
    assert "verify --repair" in finished.stderr
    finished = stored.cli.run("verify", "--repair", "--json")
    assert finished.status == 1
    assert [item["path"] for item in json.loads(finished.stdout)["left"]["damages"]] == ["sub/b.txt"] * 3
    finished = stored.cli("verify", "--repair", "--from", copy)
    assert finished.stdout == f"repaired: 1 lost chunk was restored from {copy}\n"
    assert finished.stderr == "everything is sound\n"


def test_a_flipped_bit_in_a_chunk(stored: Stored, copy: Path):
    stored.flip(*stored.holding(b"contents of sub/b.txt"))
    assert list(stored.verify()) == ["data:v0/sub/b.txt", "data:v1/sub/b.txt", "data:v2/sub/b.txt"]
    assert list(stored.verify("data:v1")) == ["data:v1/sub/b.txt"]
    assert stored.files("data:v1")["sub/b.txt"] is None
    done, left = stored.repair()
    assert left == (["data:v0/sub/b.txt", "data:v1/sub/b.txt", "data:v2/sub/b.txt"])
    assert "1 is lost" in done[0]
    assert len(list(stored.place.glob("store/**/quarantine/**/*.pack"))) == 1
    assert stored.files("data:v1")["a.txt"] == b"contents of a.txt\n"  # moved to a new pack
    done, left = stored.repair(copy)
    assert left == []
    assert done == [f"1 lost chunk was restored from {copy}"]
    stored.all_is_well()


def test_what_was_lost_may_be_stored_again(stored: Stored):
    stored.flip(*stored.holding(b"contents of sub/b.txt"))
    assert stored.repair()[1]
    shutil.rmtree(stored.tree)
    shutil.copytree(stored.original("data:v0"), stored.tree)
    stored.cli("put", "data", stored.tree)
    stored.all_is_well()


@pytest.mark.parametrize("kind", [TREE, CHUNKS], ids=["of a directory", "of a chunk list"])
def test_a_flipped_bit_in_a_node(stored: Stored, copy: Path, kind: int):
    stored.flip(*stored.chunks(kind)[0])
    found = stored.verify()
    assert found
    assert all(name.startswith("data:v") for name in found)
    if kind == CHUNKS:
        assert list(found) == [f"data:v{number}/large.bin" for number in range(3)]
    for version in ("data:v0", "data:v1", "data:v2"):
        stored.files(version)
    assert stored.repair()[1]
    assert stored.repair(copy)[1] == []
    stored.all_is_well()


def test_a_chunk_of_a_large_file(stored: Stored, copy: Path):
    pack, row = max(stored.chunks(DATA), key=lambda item: item[1].length)
    stored.flip(pack, row)
    assert list(stored.verify()) == [f"data:v{number}/large.bin" for number in range(3)]
    done, left = stored.repair(copy)
    assert left == []
    assert any("1 lost chunk was restored" in line for line in done)
    stored.all_is_well()


@pytest.mark.parametrize("cut", ["begin", "middle", "missing", "longer"])
def test_a_pack_that_is_short_or_missing_or_longer(stored: Stored, copy: Path, cut: str):
    pack, row = stored.holding(b"contents of sub/b.txt")
    size = pack.stat().st_size
    if cut == "missing":
        pack.unlink()
    elif cut == "longer":
        with pack.open("ab") as file:
            file.write(b"more")
    else:
        os.truncate(pack, 0 if cut == "begin" else row.offset + 1)
    quick = stored.verify("--quick")
    assert pack.stem in quick["/store"]
    files = {"data:v0/sub/b.txt", "data:v1/sub/b.txt", "data:v2/sub/b.txt"}
    if cut == "longer":
        assert set(quick) == {"/store"}
    else:
        assert files <= set(quick)
    assert set(stored.verify()) == set(quick)
    stored.files("data:v0")
    done, left = stored.repair(copy)
    assert left == [], done
    assert stored.repair() == ([], [])
    assert size > 0
    stored.all_is_well()


@pytest.mark.parametrize("how", ["missing", "damaged", "of another"])
def test_a_table_of_contents_is_made_anew_from_the_index(stored: Stored, how: str):
    first, second = (pack.with_suffix(".idx") for pack in stored.packs()[:2])
    whole = first.read_bytes()
    if how == "missing":
        first.unlink()
    else:
        first.write_bytes(second.read_bytes() if how == "of another" else whole[:60] + b"x" + whole[61:])
    assert first.stem in stored.verify("--quick")["/store"]
    assert None not in stored.files("data:v0").values()
    assert stored.repair()[1] == []
    assert first.read_bytes() == whole
    stored.all_is_well()


def test_a_chunk_that_the_index_lacks_is_found_by_a_table_of_contents(stored: Stored):
    _, row = stored.holding(b"contents of sub/b.txt")
    stored.sql("DELETE FROM chunk WHERE digest = ?", row.digest)
    files = ["data:v0/sub/b.txt", "data:v1/sub/b.txt", "data:v2/sub/b.txt"]
    assert list(stored.verify("--quick")) == files
    assert list(stored.verify()) == files
    assert stored.files("data:v0")["sub/b.txt"] is None
    assert stored.repair() == (["1 chunk that the index lacked was found in a pack"], [])
    stored.all_is_well()


def test_an_empty_index_is_rebuilt_from_packs(stored: Stored):
    stored.sql("DELETE FROM chunk")
    assert {name.partition("/")[0] for name in stored.verify("--quick")} == {"data:v0", "data:v1", "data:v2"}
    assert stored.repair()[1] == []
    stored.sql("DELETE FROM chunk")
    stored.sql("DELETE FROM pack")
    assert stored.repair()[1] == []
    stored.all_is_well()


@pytest.mark.parametrize("column", ["offset = offset + 1", "length = length - 1", "size = size + 1", "flags = 16"])
def test_a_wrong_row_of_the_index_is_corrected(stored: Stored, column: str):
    _, row = stored.holding(b"contents of sub/b.txt")
    stored.sql(f"UPDATE chunk SET {column} WHERE digest = ?", row.digest)  # noqa: S608 - from the list above
    found = stored.verify("--quick")
    assert row.digest.hex() in found["/store"]
    assert "data:v1/sub/b.txt" in found
    assert set(stored.verify()) == set(found)
    assert stored.files("data:v0")["sub/b.txt"] is None
    done, left = stored.repair()
    assert left == []
    assert "1 place in the index was corrected" in done[0]
    stored.all_is_well()


def test_a_row_that_leads_to_another_pack(stored: Stored):
    pack, row = stored.holding(b"contents of sub/b.txt")
    other = next(path for path in stored.packs() if path != pack)
    stored.sql(
        "UPDATE chunk SET pack = (SELECT id FROM pack WHERE digest = ?) WHERE digest = ?", other.stem, row.digest
    )
    assert "data:v1/sub/b.txt" in stored.verify("--quick")
    assert stored.files("data:v0")["sub/b.txt"] is None
    assert stored.repair()[1] == []
    stored.all_is_well()


def test_a_wrong_digest_of_a_version_is_named_and_cannot_be_mended(stored: Stored):
    stored.sql("UPDATE version SET digest = zeroblob(32) WHERE number = 1")
    assert list(stored.verify("--quick")) == ["data:v1/"]
    assert list(stored.verify()) == ["data:v1/"]
    assert stored.repair()[1] == ["data:v1/"]
    # Of a directory that is there, but another one: its counts tell.
    roots = {digest for (digest,) in stored.query("SELECT digest FROM version")}
    other = next(row.digest for _, row in stored.chunks(TREE) if row.digest not in roots)
    stored.sql("UPDATE version SET digest = ? WHERE number = 1", other)
    assert "the version's digest or its counts were changed" in stored.verify()["data:v1/"]


def test_counts_that_contradict_the_tree(stored: Stored):
    stored.sql("UPDATE version SET files = files + 1 WHERE number = 1")
    assert "counts were changed" in stored.verify()["data:v1/"]


def break_table(stored: Stored, name: str) -> None:
    with closing(sqlite3.connect(stored.registry)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        page = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (name,)).fetchone()[0]
    with stored.registry.open("r+b") as file:
        file.seek((page - 1) * 8192)
        file.write(b"\xff" * 8192)


@pytest.mark.parametrize("name", ["chunk", "fact", "fact_value"])
def test_a_damaged_page_of_what_can_be_made_anew(stored: Stored, name: str):
    stored.cli("edit", "data:v1", "--metadata", "rows=5")
    identities = stored.query("SELECT id FROM version")
    break_table(stored, name)
    for words in (("--quick",), ()):
        assert "damaged" in stored.verify(*words)["/registry"] or "malformed" in stored.verify(*words)["/registry"]
    stored.files("data:v0")
    finished = stored.cli("verify", "--repair")
    assert "registry.db was made anew of all that could be read" in finished.stdout
    assert ("the chunk index of project default was made anew" in finished.stdout) == (name == "chunk")
    assert list(stored.place.glob("registry.db.damaged-*"))
    assert stored.query("SELECT id FROM version") == identities
    assert stored.cli("find", "--where", "metadata.rows = 5").lines[1].startswith("data:v1")
    stored.all_is_well()
    stored.cli("put", "more", stored.tree)
    assert len(set(stored.query("SELECT id FROM version"))) == 4


def test_a_damaged_page_of_what_only_a_backup_has(stored: Stored):
    break_table(stored, "alias")
    before = stored.registry.read_bytes()
    assert "/registry" in stored.verify()
    assert "restore the file from a backup" in stored.cli.refuses("verify", "--repair")
    assert stored.registry.read_bytes() == before
    stored.files("data:v0")


def test_a_registry_that_is_in_use_is_not_replaced(stored: Stored):
    break_table(stored, "chunk")
    with closing(sqlite3.connect(stored.registry)) as connection:
        connection.execute("SELECT count(*) FROM version").fetchall()
        assert f"process {os.getpid()} has" in stored.cli.refuses("verify", "--repair")


def test_nothing_is_changed_while_the_whole_store_is_away(stored: Stored):
    away = stored.place / "away"
    (stored.place / "store").rename(away)
    (stored.place / "store").mkdir()
    with pytest.raises(Conflict, match="is its disk mounted"):
        stored.repair()
    (stored.place / "store").rmdir()
    away.rename(stored.place / "store")
    stored.all_is_well()

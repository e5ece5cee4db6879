"""References to other artifacts: what an alias becomes, chains, symlinks, projects."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from artifactfs.content.cache import CacheSettings
from artifactfs.errors import Integrity, InvalidInput, NotFound
from artifactfs.model.digest import CHUNKS
from artifactfs.model.tree import Entry, FileEntry, LinkEntry, RefEntry, build_tree
from artifactfs.references.references import resolve
from artifactfs.repository import Repository
from artifactfs.transfer import copy
from artifactfs.upkeep import verify
from tests.content.stores import noise
from tests.references.conftest import add, log, whole
from tests.references.site import Site

BIG = noise(1, 6 << 20)

Tree = dict[str, "bytes | str | RefEntry | Tree"]  # bytes of a file, target of a symlink, a reference, a directory


def commit(repository: Repository, name: str, tree: Tree) -> None:
    with repository.writing("put") as writing:
        writer = writing.writer

        def entry_of(part: str, member: bytes | str | RefEntry | Tree) -> Entry:
            if isinstance(member, bytes):
                content = writer.add_bytes(member)
                return FileEntry(part, content.size, content.digest, executable=False)
            if isinstance(member, str):
                return LinkEntry(part, member)
            if isinstance(member, RefEntry):
                return msgspec.structs.replace(member, name=part)
            return built(member).entry(part)

        def built(members: Tree):
            return build_tree([entry_of(part, members[part]) for part in sorted(members)], writer.add_node)

        writing.commit(name, built(tree))


@pytest.fixture
def bikes(repository: Repository) -> Repository:
    commit(
        repository,
        "bikes",
        {"big.bin": BIG, "day.csv": b"day", "raw": {"a.csv": b"a", "link.csv": "../day.csv", "z": {"b.csv": b"b"}}},
    )
    return repository


def test_an_alias_becomes_the_version_that_it_names_now(bikes: Repository):
    entry = add(bikes, "artifact://default/bikes:latest/day.csv")
    assert (entry.name, entry.uri, entry.size) == ("day.csv", "artifact://default/bikes:v0/day.csv", 3)
    commit(bikes, "bikes", {"day.csv": b"another"})
    assert whole(bikes, entry) == b"day"
    bikes.references.check(entry, content=True)
    assert add(bikes, "artifact://bikes:latest/day.csv").uri == "artifact://default/bikes:v1/day.csv"


def test_a_large_file_is_read_in_ranges(bikes: Repository):
    entry = add(bikes, "artifact://default/bikes:v0/big.bin")
    file = bikes.open_reference(entry)
    assert file.size == len(BIG)
    assert file.read(5 << 20, 100) == BIG[5 << 20 : (5 << 20) + 100]
    assert whole(bikes, entry) == BIG


def test_a_directory_and_a_whole_version_are_expanded(bikes: Repository):
    found = log(bikes, bikes.references.resolve("artifact://default/bikes:v0/raw"))
    assert list(found) == ["a.csv", "link.csv", "z/b.csv"]
    assert found["z/b.csv"].uri == "artifact://default/bikes:v0/raw/z/b.csv"
    assert whole(bikes, found["link.csv"]) == b"day"
    found = log(bikes, bikes.references.resolve("artifact://default/bikes:v0"))
    assert list(found) == ["big.bin", "day.csv", "raw/a.csv", "raw/link.csv", "raw/z/b.csv"]
    with pytest.raises(InvalidInput, match="more than 4 objects"):
        list(bikes.references.resolve("artifact://default/bikes:v0", limit=4))


def test_an_entry_that_is_a_reference_is_taken_over_as_that_one(bikes: Repository, site: Site):
    outside = add(bikes, site.put("x.csv", b"outside", etag='"1"'))
    commit(bikes, "refs", {"a": outside, "b": add(bikes, "artifact://bikes:v0/day.csv")})
    entry = add(bikes, "artifact://refs:latest/a", name="mine.csv")
    assert (entry.name, entry.uri, entry.etag) == ("mine.csv", outside.uri, '"1"')
    assert whole(bikes, entry) == b"outside"
    assert add(bikes, "artifact://refs:latest/b").uri == "artifact://default/bikes:v0/day.csv"


def test_without_checksum_what_it_names_is_looked_for_when_it_is_read(bikes: Repository):
    entry = add(bikes, "artifact://default/bikes:latest/day.csv", checksum=False)
    assert entry.size is None
    commit(bikes, "bikes", {"day.csv": b"another"})
    assert whole(bikes, entry) == b"another"
    assert bikes.references.size(entry) == 7
    bikes.references.check(entry)
    commit(bikes, "chain", {"day.csv": entry})
    chained = add(bikes, "artifact://chain:latest/day.csv", checksum=False)
    assert whole(bikes, chained) == b"another"


def test_unresolved_references_that_go_in_circles_end(bikes: Repository):
    circle = add(bikes, "artifact://circle:latest/a", checksum=False)
    commit(bikes, "circle", {"a": circle})
    with pytest.raises(InvalidInput, match="one unresolved reference to the next"):
        bikes.open_reference(circle)


def test_another_project_of_the_repository_is_opened_for_it(tmp_path: Path):
    location = str(tmp_path / "repository")
    with Repository.create(location, project="team") as team:
        commit(team, "bikes", {"day.csv": b"of the team", "big.bin": BIG})
    with Repository.open_or_create(location, project="mine", cache=CacheSettings(tmp_path / "cache")) as mine:
        found = log(mine, mine.references.resolve("artifact://team/bikes:latest"))
        assert found["day.csv"].uri == "artifact://team/bikes:v0/day.csv"
        assert whole(mine, found["day.csv"]) == b"of the team"
        assert whole(mine, found["big.bin"]) == BIG


def test_what_an_artifact_does_not_have_is_named(bikes: Repository):
    for uri, kind, words in (
        ("artifact://default/bikes:v7/day.csv", NotFound, "v7"),
        ("artifact://default/nope:v0/day.csv", NotFound, "nope"),
        ("artifact://default/bikes:v0/nope.csv", NotFound, "nope.csv"),
        ("artifact://default/bikes", InvalidInput, "names no version"),
        ("artifact://default/bi kes:v0/a", InvalidInput, "not the URI of an artifact"),
    ):
        with pytest.raises(kind, match=words):
            list(bikes.references.resolve(uri))
    with pytest.raises(InvalidInput, match="needs a repository"):
        list(resolve("artifact://default/bikes:v0/day.csv"))


def test_symlinks_that_lead_nowhere_are_refused(bikes: Repository):
    commit(bikes, "links", {"loop": "loop", "dir": "real", "real": {"f": b"x"}, "gone": "none"})
    for name, kind, words in (
        ("loop", InvalidInput, "leads nowhere"),
        ("gone", NotFound, "none"),
    ):
        with pytest.raises(kind, match=words):
            list(bikes.references.resolve(f"artifact://links:v0/{name}"))
    assert add(bikes, "artifact://links:v0/dir/f").size == 1


def test_a_record_of_something_else_is_noticed(bikes: Repository):
    entry = add(bikes, "artifact://bikes:v0/day.csv")
    wrong = RefEntry(entry.name, "artifact://default/bikes:v0/raw/a.csv", 3, entry.checksum, None, None)
    with pytest.raises(Integrity, match="recorded checksum"):
        bikes.references.check(wrong)
    with pytest.raises(InvalidInput, match="names no file"):
        bikes.references.check(RefEntry("a", "artifact://default/bikes:v0", None, None, None, None))
    with pytest.raises(InvalidInput, match="is a directory"):
        bikes.references.check(RefEntry("a", "artifact://default/bikes:v0/raw", None, None, None, None))


def test_the_nodes_of_a_checksum_are_chunk_lists(repository: Repository, site: Site):
    (found,) = repository.references.resolve(site.put("big", BIG))
    with repository.writing("put") as writing:
        stored = [writing.writer.add_node(CHUNKS, node) for node in found.nodes]
    assert stored[-1].hex() in str(found.entry.checksum)


def test_a_large_outside_object_of_another_project_brings_its_chunk_list(tmp_path: Path, site: Site):
    location = str(tmp_path / "repository")
    uri = site.put("big.bin", BIG)
    with Repository.create(location, project="team") as team:
        commit(team, "refs", {"big.bin": add(team, uri)})
    with Repository.open_or_create(location, project="mine") as mine:
        entry = add(mine, "artifact://team/refs:latest/big.bin")
        assert entry.uri == uri
    with Repository.open(location, project="mine") as mine:
        assert whole(mine, entry) == BIG


def test_copy_and_verify_know_the_chunk_list_of_a_large_outside_object(
    repository: Repository, site: Site, tmp_path: Path
):
    (found,) = repository.references.resolve(site.put("big.bin", BIG))
    commit(repository, "lost", {"big.bin": found.entry})
    (lost,) = repository.registry.versions("lost")
    assert [damage.path for damage in verify(repository, [lost]).damages] == ["big.bin"]
    with Repository.create(str(tmp_path / "copy")) as destination:
        with pytest.raises(Integrity, match=r"lost:v0/big\.bin"):
            copy(repository, lost, destination)
        log(repository, [found])
        commit(repository, "refs", {"big.bin": found.entry, "day.csv": b"day"})
        (version,) = repository.registry.versions("refs")
        assert not verify(repository, [version]).damages
        there = copy(repository, version, destination).version
        assert not verify(destination, [there]).damages
        entry = destination.entry(there, "big.bin")
        assert isinstance(entry, RefEntry)
        assert whole(destination, entry) == BIG

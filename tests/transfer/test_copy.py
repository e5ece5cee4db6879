"""Versions between two repositories: what arrives, what crosses, and what is refused."""

from __future__ import annotations

import shutil

import pytest

from artifactfs.content import pipeline
from artifactfs.errors import Conflict, Integrity, InvalidInput
from artifactfs.model.lineage import NewRun
from artifactfs.repository import Repository
from artifactfs.transfer import ASKED_AT_ONCE, CopyStats, copy, copy_all
from artifactfs.upkeep import verify
from tests.transfer.sides import MIB, Asked, contents, damage, far, noise, packs_of, put

# -- what arrives --------------------------------------------------------------------------------------------------------


def test_a_version_arrives_with_all_that_belongs_to_it(source, destination, tree, place):
    version = put(
        source, tree, references=["odd://bucket/raw"], type="model", aliases=("best", "prod"),
        description="first\nsecond", metadata={"rows": 17, "list": [1, None]},
    )  # fmt: skip
    copied = copy(source, version, destination)
    there = copied.version
    assert (copied.created, copied.latest_before, there.name) == (True, None, "data:v0")
    assert there.aliases == ("best", "latest", "prod")
    for field in ("type", "description", "metadata", "digest", "size", "files", "entries"):
        assert getattr(there, field) == getattr(version, field)
    assert contents(destination, there, place / "there") == contents(source, version, place / "here")
    assert destination.entry(there, "raw").uri == "odd://bucket/raw"
    assert verify(destination, [there]).damages == []


def test_tags_travel_and_runs_do_not(source, destination, tree):
    source.registry.start_run(NewRun(id="one", name="one"))
    number = put(source, tree, run="one").number
    version = source.registry.edit("data", number, tags=["checked", "for release"])
    assert version.run == "one"
    there = copy(source, version, destination).version
    assert (there.tags, there.updated, there.run) == (("checked", "for release"), 0, "")
    assert destination.registry.runs() == []
    assert destination.registry.links(versions=[there.id]).links == []


def test_contents_that_are_there_keep_their_tags_and_get_the_source_s(source, destination, tree):
    put(destination, tree)
    destination.registry.edit("data", 0, tags=["theirs"])
    put(source, tree)
    version = source.registry.edit("data", 0, tags=["ours"])
    assert copy(source, version, destination).version.tags == ("ours", "theirs")
    assert next(copy_all(source, "data", destination)).version.tags == ("ours", "theirs")
    assert source.registry.version("data", 0).tags == ("ours",)


def test_an_empty_version_can_be_copied(source, destination, place):
    (place / "nothing").mkdir()
    version = put(source, place / "nothing")
    assert copy(source, version, destination).version.digest == version.digest
    assert contents(destination, destination.registry.version("data", 0), place / "there") == {}


def test_packs_are_laid_out_as_by_put(source, destination, place):
    root = place / "files"
    for index, directory in enumerate(("a", "b/c", "d")):
        (root / directory).mkdir(parents=True)
        for number in range(40):
            (root / directory / f"{number:02d}").write_bytes(noise(100 * index + number, 700_000))
    (root / "b/large").write_bytes(noise(1000, 66 * MIB))
    (root / "b/lines").write_text("".join(f"line {number}\n" for number in range(900_000)))
    version = put(source, root)
    copy(source, version, destination)
    assert len(packs_of(source)) >= 4
    assert packs_of(destination) == packs_of(source)


def test_the_number_is_the_destination_s_own(source, destination, tree, place):
    for number in range(3):
        (place / "other").mkdir(exist_ok=True)
        (place / "other/file").write_text(str(number))
        put(destination, place / "other")
    version = put(source, tree)
    copied = copy(source, version, destination)
    assert (version.name, copied.version.name, copied.latest_before) == ("data:v0", "data:v3", 2)
    assert destination.registry.resolve("data", "latest") == copied.version


def test_progress_rises_to_all_files_and_bytes(source, destination, tree):
    version = put(source, tree)
    seen = []
    stats = CopyStats()
    copy(
        source, version, destination, stats=stats,
        progress=lambda now: seen.append((now.files, now.bytes_done, now.bytes_sent, now.bytes_stored)),
    )  # fmt: skip
    assert seen == sorted(seen)
    assert len(seen) > 1
    assert (stats.files, stats.bytes_done, stats.bytes_sent) == (version.files, version.size, version.size)
    assert stats.bytes_stored == sum(packs_of(destination).values())


# -- what crosses --------------------------------------------------------------------------------------------------------


def test_only_what_is_missing_there_is_sent(source, destination, tree, monkeypatch):
    copy(source, put(source, tree), destination)
    (tree / "sub/f07").write_bytes(noise(1000, 2000))
    (tree / "run").unlink()
    version = put(source, tree)
    stats = CopyStats()
    asked = Asked(destination, monkeypatch)
    read_before = source.reader.bytes_fetched
    copied = copy(source, version, destination, stats=stats)
    assert copied.version.name == "data:v1"
    assert (stats.files, stats.bytes_done, stats.bytes_sent) == (version.files, version.size, 2000)
    # The file, `sub` and the root; `sub/deep` with the large file was not looked at.
    assert asked.counts == [3, 3]
    assert source.reader.bytes_fetched - read_before < 30_000


def test_of_a_large_directory_only_the_changed_part_is_looked_at(source, destination, place, monkeypatch):
    root = place / "wide"
    root.mkdir()
    for number in range(6000):
        (root / f"{number:05d}").write_bytes(b"%d" % number)
    copy(source, put(source, root), destination)
    (root / "03000").write_bytes(b"changed")
    (root / "sub").mkdir()
    version = put(source, root)
    asked = Asked(destination, monkeypatch)
    copy(source, version, destination)
    # The file, leaves that differ (the changed one and the last), the fork, and an empty directory; not 6,000.
    assert max(asked.counts) <= 6
    assert verify(destination, [destination.registry.version("data", 1)]).damages == []


def test_questions_are_asked_by_the_thousand(source, destination, place, monkeypatch):
    root = place / "many"
    for directory in range(20):
        (root / str(directory)).mkdir(parents=True)
        for number in range(1000):
            (root / str(directory) / str(number)).write_bytes(b"%d %d" % (directory, number))
    version = put(source, root)
    asked = Asked(destination, monkeypatch)
    copy(source, version, destination)
    assert max(asked.counts) == ASKED_AT_ONCE
    # What is missing is asked for three times; the writer asks for each 512 chunks that it is given.
    assert len(asked.counts) <= 3 + 20_100 // pipeline.LOCAL_BATCH.chunks + 1


def test_moved_files_are_known_by_their_contents(source, destination, tree):
    copy(source, put(source, tree), destination)
    (tree / "sub").rename(tree / "moved")
    (tree / "link").unlink()
    stats = CopyStats()
    copied = copy(source, put(source, tree), destination, stats=stats)
    assert stats.bytes_sent == 0
    assert 0 < stats.bytes_stored < 2000  # the root
    assert verify(destination, [copied.version]).damages == []


def test_what_another_artifact_holds_is_not_sent(source, destination, tree):
    put(destination, tree, "elsewhere")
    stats = CopyStats()
    copied = copy(source, put(source, tree), destination, stats=stats)
    assert copied.created
    assert (stats.bytes_sent, stats.bytes_stored) == (0, 0)


def test_what_comes_twice_is_sent_once(source, destination, place):
    root = place / "twins"
    root.mkdir()
    for name in "abc":
        (root / name).write_bytes(noise(1, 50_000))
        (root / f"{name}.large").write_bytes(noise(2, 6 * MIB))
    version = put(source, root)
    stats = CopyStats()
    copied = copy(source, version, destination, stats=stats)
    assert stats.bytes_sent == 50_000 + 6 * MIB
    assert (stats.files, stats.bytes_done) == (version.files, version.size)
    assert verify(destination, [copied.version]).damages == []


def test_a_large_file_that_is_partly_there_goes_to_ordinary_packs(source, destination, place):
    (place / "one").mkdir()
    (place / "two").mkdir()
    first = noise(1, 70 * MIB)
    (place / "one/file").write_bytes(noise(2, 5 * MIB))
    (place / "two/file").write_bytes(first + noise(2, 5 * MIB))
    put(destination, place / "one")
    version = put(source, place / "two", "large")
    stats = CopyStats()
    copied = copy(source, version, destination, stats=stats)
    assert 70 * MIB <= stats.bytes_sent < 75 * MIB
    assert max(packs_of(destination).values()) <= 68 * MIB
    assert verify(destination, [copied.version]).damages == []


# -- contents that are there ---------------------------------------------------------------------------------------------


def test_contents_that_are_there_are_reused_and_aliases_move(source, destination, tree):
    put(destination, tree, description="theirs", aliases=("best",))
    (tree / "new").touch()
    put(destination, tree, aliases=("best",))
    (tree / "new").unlink()
    version = put(source, tree, description="ours", aliases=("best", "mine"))
    packs = packs_of(destination)
    stats = CopyStats()
    copied = copy(source, version, destination, stats=stats)
    assert (copied.created, copied.latest_before) == (False, 1)
    assert copied.version.name == "data:v0"
    assert copied.version.description == "theirs"
    assert copied.version.aliases == ("best", "latest", "mine")
    assert (stats.files, stats.bytes_done, stats.bytes_sent, stats.bytes_stored) == (
        version.files,
        version.size,
        0,
        0,
    )
    assert packs_of(destination) == packs


# -- all versions --------------------------------------------------------------------------------------------------------


@pytest.fixture
def series(source, tree):
    """Four versions, of which the second is latest again."""
    put(source, tree, description="zero", aliases=("first",))
    for number in (1, 2, 3):
        (tree / "number").write_text(str(number))
        put(source, tree, description=f"number {number}", aliases=("best",) if number == 2 else ())
    (tree / "number").write_text("1")
    assert put(source, tree).number == 1
    return source.registry.versions("data")


def test_all_versions_come_in_order_with_their_aliases(source, destination, series, tree):
    stats = CopyStats()
    copied = list(copy_all(source, "data", destination, stats=stats))
    assert [each.version.name for each in copied] == ["data:v0", "data:v1", "data:v2", "data:v3"]
    assert all(each.created for each in copied)
    there = destination.registry.versions("data")
    for field in ("number", "digest", "description", "aliases"):
        assert [getattr(version, field) for version in there] == [getattr(version, field) for version in series]
    assert destination.registry.aliases("data") == {"best": 2, "first": 0, "latest": 1}
    assert stats.bytes_done == sum(version.size for version in series)
    assert stats.bytes_sent == series[0].size + 3  # a byte a version
    assert verify(destination, there).damages == []


def test_brought_up_to_date_only_what_is_new_changes(source, destination, series, tree):
    list(copy_all(source, "data", destination))
    revision = destination.registry.revision()
    assert not any(each.created for each in copy_all(source, "data", destination))
    assert destination.registry.revision() == revision, "nothing changed, not even for a moment"
    (tree / "number").write_text("4")
    put(source, tree)
    source.registry.move_aliases("data", 3, ["best"])
    source.registry.edit("data", 2, tags=["checked"])
    destination.registry.edit("data", 2, tags=["theirs"])
    assert [each.created for each in copy_all(source, "data", destination)] == [False] * 4 + [True]
    assert destination.registry.aliases("data") == {"best": 3, "first": 0, "latest": 4}
    assert [version.tags for version in destination.registry.versions("data")][1:4] == [(), ("checked", "theirs"), ()]


# -- refusals ------------------------------------------------------------------------------------------------------------


def test_a_repository_is_not_copied_to_itself(source, tree, place):
    version = put(source, tree)
    (place / "other-name").symlink_to(place / "source")
    with Repository.open(str(place / "other-name")) as same:
        with pytest.raises(InvalidInput, match="to itself"):
            copy(source, version, same)
        with pytest.raises(InvalidInput, match="to itself"):
            next(copy_all(source, "data", same))
    with Repository.open(str(place / "source"), project="other") as other:
        assert copy(source, version, other).version.name == "data:v0"
        assert verify(other, other.registry.versions("data")).damages == []


def test_another_type_is_refused_before_anything_is_sent(source, destination, tree, place):
    (place / "other").mkdir()
    put(destination, place / "other", type="model")
    packs = packs_of(destination)
    version = put(source, tree)
    for attempt in (
        lambda: copy(source, version, destination),
        lambda: list(copy_all(source, "data", destination)),
    ):
        with pytest.raises(Conflict, match="has the type 'model' at the destination, not 'dataset'"):
            attempt()
    assert packs_of(destination) == packs
    assert len(destination.registry.versions("data")) == 1


def damaged_parts(source, version):
    large = source.entry(version, "sub/deep/large")
    return {
        "sub/f07": source.entry(version, "sub/f07").digest,
        "sub/deep/large": source.reader.open(large.digest, large.size).pieces()[3].digest,
        "sub/deep/large, its list": large.digest,
        "sub/deep/": source.entry(version, "sub/deep").digest,
        "": version.digest,
    }


@pytest.mark.parametrize("part", ["sub/f07", "sub/deep/large", "sub/deep/large, its list", "sub/deep/", ""])
def test_damage_at_the_source_names_version_and_path_and_commits_nothing(source, destination, tree, place, part):
    version = put(source, tree)
    damage(source, damaged_parts(source, version)[part])
    with Repository.open(str(place / "source")) as fresh, pytest.raises(Integrity) as caught:
        copy(fresh, version, destination)
    path = part.partition(",")[0]
    assert str(caught.value).startswith(f"data:v0/{path} cannot be copied, so no version was made of it: chunk blake3:")
    assert destination.registry.artifact("data") is None
    assert list((place / "destination/store").glob("*/tmp/*")) == []


def test_what_the_destination_holds_need_not_be_whole_at_the_source(source, destination, tree, place):
    put(destination, tree, "elsewhere")
    version = put(source, tree)
    damage(source, source.entry(version, "sub/f07").digest)
    with Repository.open(str(place / "source")) as fresh:
        copied = copy(fresh, version, destination)
    assert verify(destination, [copied.version]).damages == []


@pytest.mark.parametrize("path", ["", "sub"])
def test_a_damaged_older_version_does_not_matter(source, destination, tree, place, path):
    old = put(source, tree)
    copy(source, old, destination)
    (tree / "sub/f07").write_bytes(b"changed")
    new = put(source, tree)
    damage(source, source.entry(old, path).digest if path else old.digest)
    with Repository.open(str(place / "source")) as fresh:
        copied = copy(fresh, new, destination)
    assert verify(destination, [copied.version]).damages == []


def test_entries_are_skipped_only_for_the_same_kind_and_contents(source, destination, place):
    root = place / "kinds"
    (root / "a").mkdir(parents=True)
    (root / "a/x").write_text("x")
    (root / "b").write_text("b")
    (root / "c").symlink_to("b")
    copy(source, put(source, root), destination)
    shutil.rmtree(root / "a")
    (root / "a").write_text("a")
    (root / "b").unlink()
    (root / "b").mkdir()
    (root / "b/y").write_text("y")
    (root / "c").unlink()
    (root / "c").write_text("c")
    version = put(source, root)
    stats = CopyStats()
    copied = copy(source, version, destination, stats=stats)
    assert stats.bytes_sent == 3
    assert verify(destination, [copied.version]).damages == []
    assert contents(destination, copied.version, place / "there") == contents(source, version, place / "here")


# -- with a network between ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [None, 0])
def test_from_a_repository_behind_a_network_chunks_come_by_wide_ranges(source, destination, place, limit):
    root = place / "many"
    for directory in range(10):
        (root / str(directory)).mkdir(parents=True)
        for number in range(100):
            (root / str(directory) / str(number)).write_bytes(noise(directory * 1000 + number, 40_000))
    (root / "large").write_bytes(noise(1, 40 * MIB))
    version = put(source, root)
    with far(place / "source", place / "cache", limit=limit) as behind:
        copied = copy(behind, behind.registry.version("data", 0), destination)
        reads = behind.store.requests.count("read")
        nodes = behind.store.requests.count("nodes")
    assert contents(destination, copied.version, place / "there") == contents(source, version, place / "here")
    # 80 MB in ranges of up to 8 MiB, cut where a window ends; eleven directories, the list of the large file.
    assert reads <= 20
    assert nodes <= 14


def test_to_a_repository_behind_a_network_packs_are_bounded_and_questions_few(source, destination, place):
    root = place / "files"
    root.mkdir()
    (root / "large").write_bytes(noise(1, 100 * MIB))
    for number in range(2000):
        (root / f"{number:04d}").write_bytes(noise(number, 20_000))
    version = put(source, root)
    with far(place / "destination", place / "cache") as behind:
        copied = copy(source, version, behind)
        requests = behind.store.requests
    assert verify(destination, [copied.version]).damages == []
    packs = packs_of(destination)
    assert max(packs.values()) <= 68 * MIB
    assert requests.count("upload") == 2 * len(packs)
    assert requests.count("record") == len(packs) == 4  # 64, 64 and 12 MiB, and one of nodes
    # One question for all that may be missing, and one for each 16 MiB that are.
    assert requests.count("missing") <= 1 + 140 // 16 + 1

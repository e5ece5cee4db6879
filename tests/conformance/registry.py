"""What every kind of Registry must do: the contract of ``artifactfs/registry/contract.py`` as tests. Runs, links, drafts and search
are in ``lineage.py``.

A kind's test module subclasses :class:`RegistryConformance` and provides the fixture ``open_registry``: a function that opens
one more client (keyword ``project``) of the same, at first empty, registry, which measures time by the fixture ``clock``; and, if it
believes nobody, ``store_pack``, which puts a pack's bytes where it looks for them.
"""

from __future__ import annotations

import hashlib
import itertools
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from artifactfs.errors import Conflict, InvalidInput, NotFound
from artifactfs.model.records import FLAG_ZSTD, ChunkRow, CommitRequest, CommitResult, Location, PackRow
from artifactfs.registry.contract import Registry
from tests.conformance.packs import chunk, packed

NAME = "bike-dataset"
_commit_ids = itertools.count()


class Clock:
    """Seconds since the epoch, as a test says."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


def digest(text: object) -> bytes:
    return hashlib.sha256(str(text).encode()).digest()


def request(contents: object, /, **changes) -> CommitRequest:
    """A commit of some contents, with a commit id of its own."""
    fields = {
        "commit_id": f"commit-{next(_commit_ids)}",
        "artifact": NAME,
        "type": None,
        "digest": digest(contents),
        "size": 1000,
        "files": 10,
        "entries": 12,
    }
    return CommitRequest(**(fields | changes))


def commit(registry: Registry, contents: object, /, **changes) -> CommitResult:
    return registry.commit(request(contents, **changes))


StorePack = Callable[[PackRow, bytes], None]
MakePack = Callable[..., PackRow]


class Fixtures:
    """What every suite over a registry works with."""

    @pytest.fixture
    def clock(self) -> Clock:
        return Clock()

    @pytest.fixture
    def registry(self, open_registry: Callable[..., Registry]) -> Registry:
        return open_registry()

    @pytest.fixture
    def store_pack(self) -> StorePack:
        return lambda pack, data: None

    @pytest.fixture
    def make_pack(self, store_pack: StorePack) -> MakePack:
        """``make_pack(*texts)``: a pack of these chunks, real and stored, ready to be recorded."""

        def make(*texts: object) -> PackRow:
            pack, data = packed(*texts)
            store_pack(pack, data)
            return pack

        return make


class RegistryConformance(Fixtures):
    # -- an empty registry -----------------------------------------------------------------------------------------

    def test_an_empty_registry_answers_absence(self, registry):
        assert registry.project == "default"
        assert registry.revision() == 0
        assert registry.artifacts() == []
        assert registry.artifact(NAME) is None
        assert registry.versions(NAME) == []
        assert registry.version(NAME, 0) is None
        assert registry.resolve(NAME, "latest") is None
        assert registry.find_digest(NAME, digest("a")) is None
        assert registry.aliases(NAME) == {}
        assert registry.packs() == []
        assert registry.missing([]) == set()
        assert registry.missing([digest("a")]) == {digest("a")}
        assert registry.locate([digest("a")]) == {}
        assert registry.check() == []

    @pytest.mark.parametrize("name", ["", "..", "a/b", "\udcff", "x" * 5000, "a\0b", "ä"])
    def test_names_that_cannot_exist_are_not_there(self, registry, name):
        commit(registry, "a")
        assert registry.artifact(name) is None
        assert registry.versions(name) == []
        assert registry.version(name, 0) is None
        assert registry.resolve(name, "latest") is None
        assert registry.resolve(NAME, name) is None
        assert registry.find_digest(name, digest("a")) is None
        assert registry.aliases(name) == {}

    @pytest.mark.parametrize("number", [-1, 1, 2**63, 10**30])
    def test_numbers_that_cannot_exist_are_not_there(self, registry, number):
        commit(registry, "a")
        assert registry.version(NAME, number) is None

    # -- commit ----------------------------------------------------------------------------------------------------

    def test_the_first_commit_makes_v0_of_a_new_artifact(self, registry, clock):
        result = commit(
            registry, "a", type="model", aliases=("best", "tried"), description="the first", metadata={"rows": 3}
        )
        version = result.version
        assert result.created
        assert version.name == f"{NAME}:v0"
        assert (version.type, version.digest) == ("model", digest("a"))
        assert (version.size, version.files, version.entries) == (1000, 10, 12)
        assert version.created == int(clock.now * 1e9)
        assert (version.description, version.metadata) == ("the first", {"rows": 3})
        assert version.aliases == ("best", "latest", "tried")
        assert registry.version(NAME, 0) == version
        assert registry.resolve(NAME, "latest") == version
        assert registry.resolve(NAME, "best") == version
        assert registry.find_digest(NAME, digest("a")) == version
        assert registry.versions(NAME) == [version]
        assert registry.aliases(NAME) == {"best": 0, "latest": 0, "tried": 0}
        artifact = registry.artifact(NAME)
        assert artifact is not None
        assert (artifact.name, artifact.type, artifact.latest, artifact.versions) == (NAME, "model", 0, 1)
        assert artifact.created == version.created
        assert registry.artifacts() == [artifact]

    def test_a_new_artifact_without_a_type_is_a_dataset(self, registry):
        assert commit(registry, "a").version.type == "dataset"

    def test_other_contents_become_the_next_number_and_the_latest(self, registry):
        first = commit(registry, "a", aliases=("best",)).version
        second = commit(registry, "b").version
        assert (first.number, second.number) == (0, 1)
        assert second.id > first.id
        assert second.aliases == ("latest",)
        assert registry.aliases(NAME) == {"best": 0, "latest": 1}
        assert [version.number for version in registry.versions(NAME)] == [0, 1]
        assert registry.artifact(NAME).latest == 1
        assert registry.artifact(NAME).versions == 2

    def test_equal_contents_make_no_version(self, registry):
        first = commit(registry, "a", description="kept", metadata={"kept": True})
        again = commit(registry, "a", aliases=("best",), description="other", metadata={"other": True})
        assert not again.created
        assert again.version.number == first.version.number
        assert again.version.aliases == ("best", "latest")
        assert again.version.description == "kept"
        assert again.version.metadata == {"kept": True}
        assert len(registry.versions(NAME)) == 1

    def test_contents_of_an_older_version_move_latest_back_to_it(self, registry):
        commit(registry, "a")
        commit(registry, "b")
        again = commit(registry, "a", aliases=("best",))
        assert not again.created
        assert again.version.number == 0
        assert registry.aliases(NAME) == {"best": 0, "latest": 0}
        assert commit(registry, "c").version.number == 2

    def test_artifacts_do_not_share_numbers_or_contents(self, registry):
        assert commit(registry, "a").version.number == 0
        other = commit(registry, "a", artifact="a-model", type="model")
        assert other.created
        assert other.version.number == 0
        assert [artifact.name for artifact in registry.artifacts()] == ["a-model", NAME]

    def test_artifacts_are_sorted_by_code_point(self, registry):
        for name in ("b", "B", "a-b", "a.b", "ab", "_"):
            commit(registry, "a", artifact=name)
        assert [artifact.name for artifact in registry.artifacts()] == sorted(["b", "B", "a-b", "a.b", "ab", "_"])

    def test_a_repeated_commit_returns_what_it_made(self, registry):
        once = request("a", aliases=("best",))
        first = registry.commit(once)
        revision = registry.revision()
        assert registry.commit(once) == first
        assert registry.revision() == revision

    def test_a_repeated_commit_changes_nothing_after_the_artifact_moved_on(self, registry):
        once = request("a", base=-1)
        registry.commit(once)
        commit(registry, "b")
        again = registry.commit(once)
        assert again.created
        assert again.version.number == 0
        assert again.version.aliases == ()
        assert registry.aliases(NAME) == {"latest": 1}

    def test_a_repeated_commit_that_reused_a_version_changes_nothing_either(self, registry):
        commit(registry, "a")
        commit(registry, "b")
        once = request("a")
        assert not registry.commit(once).created
        commit(registry, "c")
        again = registry.commit(once)
        assert not again.created
        assert again.version.number == 0
        assert registry.aliases(NAME) == {"latest": 2}

    def test_a_commit_id_is_not_taken_for_other_contents(self, registry):
        commit(registry, "a", commit_id="one")
        with pytest.raises(InvalidInput, match="'one' was used for other contents"):
            commit(registry, "b", commit_id="one")
        assert commit(registry, "b", commit_id="one", artifact="another").created

    def test_another_type_is_a_conflict_that_names_both(self, registry):
        commit(registry, "a", type="dataset")
        with pytest.raises(Conflict, match="'dataset', not 'model'"):
            commit(registry, "b", type="model")
        assert registry.aliases(NAME) == {"latest": 0}
        assert commit(registry, "b", type="dataset").created

    def test_a_commit_on_the_latest_does_not_conflict(self, registry):
        commit(registry, "a", base=-1)
        commit(registry, "b", base=0)
        assert registry.artifact(NAME).latest == 1

    @pytest.mark.parametrize("base", [-1, 0, 7])
    def test_a_commit_on_another_version_conflicts_and_says_what_to_do(self, registry, base):
        commit(registry, "a")
        commit(registry, "b")
        revision = registry.revision()
        with pytest.raises(Conflict) as raised:
            commit(registry, "c", base=base)
        for words in (NAME, "v1", "rebase", "--force"):
            assert words in str(raised.value)
        assert len(registry.versions(NAME)) == 2
        assert registry.revision() == revision

    def test_a_commit_on_a_version_of_an_artifact_that_is_not_there_conflicts(self, registry):
        with pytest.raises(Conflict, match="no version now"):
            commit(registry, "a", base=3)
        assert registry.artifacts() == []
        assert registry.artifact(NAME) is None

    def test_force_commits_on_any_base(self, registry):
        commit(registry, "a")
        commit(registry, "b")
        assert commit(registry, "c", base=0, force=True).version.number == 2

    def test_without_a_base_nothing_conflicts(self, registry):
        commit(registry, "a")
        commit(registry, "b")
        assert commit(registry, "c").version.number == 2

    def test_a_stale_commit_of_what_latest_already_is_reuses_it(self, registry):
        commit(registry, "a")
        commit(registry, "b")
        result = commit(registry, "b", base=0)
        assert not result.created
        assert result.version.number == 1

    def test_a_stale_commit_of_an_older_version_s_contents_conflicts(self, registry):
        for contents in "abc":
            commit(registry, contents)
        with pytest.raises(Conflict):
            commit(registry, "a", base=1)
        assert registry.artifact(NAME).latest == 2

    @pytest.mark.parametrize(
        "wrong",
        [
            {"artifact": "a/b"},
            {"artifact": ".artifactfs"},
            {"type": "a:b"},
            {"aliases": ("best", "v3")},
            {"aliases": ("staging",)},
            {"aliases": ("a/b",)},
            {"commit_id": ""},
            {"commit_id": "x" * 129},
            {"digest": b"short"},
            {"size": -1},
            {"entries": 2**63},
            {"base": -2},
            {"description": "\udcff"},
            {"description": "a\0b"},
            {"metadata": {"x": float("inf")}},
            {"metadata": {"x": "\udcff"}},
            {"metadata": {str(number): number for number in range(101)}},
            {"tags": ("fine", "a/b")},
            {"tags": ("",)},
            {"tags": ("x" * 129,)},
            {"run": "no run"},
            {"draft": ""},
            {"draft": "ä"},
        ],
        ids=str,
    )
    def test_what_no_registry_may_hold_is_refused(self, registry, wrong):
        with pytest.raises(InvalidInput):
            commit(registry, "a", **wrong)
        assert registry.artifacts() == []
        assert registry.revision() == 0

    def test_metadata_comes_back_as_json(self, registry):
        metadata = {
            "nan": float("nan"),
            "list": [1, 2.5, True, None, "ü"],
            "nested": {"a": {"b": []}},
            "large": 2**63 - 1,
            "": "an empty key",
        }
        version = commit(registry, "a", metadata=metadata).version
        assert version.metadata == metadata | {"nan": None}
        assert registry.version(NAME, 0).metadata == version.metadata

    def test_text_comes_back_as_it_was(self, registry):
        text = "Zeilen\nund 'Zeichen' \"äöü\" 🚲 %s ? :x \\"
        version = commit(registry, "a", description=text, aliases=("größte 🚲 %s?",)).version
        assert registry.version(NAME, 0).description == text
        assert version.aliases == ("größte 🚲 %s?", "latest")
        assert registry.resolve(NAME, "größte 🚲 %s?") == version

    # -- revision --------------------------------------------------------------------------------------------------

    def test_the_revision_rises_with_every_visible_change_and_only_then(self, registry, open_registry, make_pack):
        other = open_registry()
        seen = [other.revision()]

        def moved() -> bool:
            seen.append(other.revision())
            return seen[-1] > seen[-2]

        once = request("a")
        registry.commit(once)
        assert moved()
        registry.commit(once)
        assert not moved()
        commit(registry, "a")
        assert not moved()
        commit(registry, "a", aliases=("best",))
        assert moved()
        registry.move_aliases(NAME, 0, ["best"])
        assert not moved()
        registry.move_aliases(NAME, 0, ["tried"])
        assert moved()
        registry.edit(NAME, 0, description="words")
        assert moved()
        registry.edit(NAME, 0, description="words", metadata={})
        assert not moved()
        registry.edit(NAME, 0, tags=["tried"])
        assert moved()
        registry.edit(NAME, 0, tags=["tried"])
        assert not moved()
        commit(registry, "a", tags=("tried",))
        assert not moved()
        commit(registry, "a", tags=("more",))
        assert moved()
        registry.remove_aliases(NAME, ["best"])
        assert moved()
        commit(registry, "b")
        assert moved()
        registry.delete(NAME, 1)
        assert moved()
        registry.add_packs([make_pack("chunk")])
        assert registry.missing([chunk("chunk")]) == set()
        registry.close_session(registry.open_session("writer", seconds=10))
        assert not moved()
        assert registry.revision() == other.revision() == seen[-1]

    # -- aliases ---------------------------------------------------------------------------------------------------

    def test_aliases_move_and_the_record_shows_them_sorted(self, registry):
        commit(registry, "a", aliases=("z", "m"))
        commit(registry, "b")
        moved = registry.move_aliases(NAME, 1, ["z", "a", "z"])
        assert moved.aliases == ("a", "latest", "z")
        assert registry.version(NAME, 1) == moved
        assert registry.aliases(NAME) == {"a": 1, "latest": 1, "m": 0, "z": 1}

    def test_latest_moves_when_asked(self, registry):
        commit(registry, "a")
        commit(registry, "b")
        registry.move_aliases(NAME, 0, ["latest"])
        assert registry.artifact(NAME).latest == 0

    def test_moving_aliases_to_no_version_is_not_found(self, registry):
        commit(registry, "a")
        for name, number in ((NAME, 1), (NAME, -1), (NAME, 2**63), ("another", 0)):
            with pytest.raises(NotFound, match=f"there is no {name}:v{number}"):
                registry.move_aliases(name, number, ["best"])
        with pytest.raises(InvalidInput):
            registry.move_aliases(NAME, 0, ["fine", "v1"])
        assert registry.aliases(NAME) == {"latest": 0}

    def test_aliases_are_removed_all_or_none(self, registry):
        commit(registry, "a", aliases=("best", "tried"))
        with pytest.raises(NotFound, match="no alias gone"):
            registry.remove_aliases(NAME, ["best", "gone"])
        assert registry.aliases(NAME) == {"best": 0, "latest": 0, "tried": 0}
        registry.remove_aliases(NAME, ["best", "tried"])
        assert registry.aliases(NAME) == {"latest": 0}
        with pytest.raises(NotFound, match="no artifact 'another'"):
            registry.remove_aliases("another", ["best"])

    def test_latest_cannot_be_removed(self, registry):
        commit(registry, "a", aliases=("best",))
        with pytest.raises(Conflict, match="latest"):
            registry.remove_aliases(NAME, ["best", "latest"])
        assert registry.aliases(NAME) == {"best": 0, "latest": 0}

    # -- edit ------------------------------------------------------------------------------------------------------

    def test_description_and_metadata_are_edited_apart(self, registry):
        commit(registry, "a", description="one", metadata={"a": 1})
        assert registry.edit(NAME, 0, description="two").metadata == {"a": 1}
        edited = registry.edit(NAME, 0, metadata={"b": float("nan")})
        assert (edited.description, edited.metadata) == ("two", {"b": None})
        assert registry.version(NAME, 0) == edited
        emptied = registry.edit(NAME, 0, description="", metadata={})
        assert (emptied.description, emptied.metadata) == ("", {})
        assert emptied.digest == digest("a")

    def test_editing_no_version_is_not_found(self, registry):
        with pytest.raises(NotFound, match=f"there is no {NAME}:v0"):
            registry.edit(NAME, 0, description="words")
        commit(registry, "a")
        with pytest.raises(InvalidInput):
            registry.edit(NAME, 0, metadata={"x": object()})

    def test_metadata_that_only_python_takes_for_equal_is_replaced(self, registry):
        commit(registry, "a", metadata={"a": 1, "b": [0]})
        edited = registry.edit(NAME, 0, metadata={"a": True, "b": [False]})
        assert str(edited.metadata) == str(registry.version(NAME, 0).metadata) == "{'a': True, 'b': [False]}"

    def test_an_edit_that_changes_something_says_when(self, registry, clock):
        version = commit(registry, "a", description="one", metadata={"a": 1}, tags=("tried",)).version
        assert version.updated == 0
        clock.now += 10
        assert registry.edit(NAME, 0, description="one", metadata={"a": 1}, tags=["tried"]).updated == 0
        for change in ({"description": "two"}, {"metadata": {"a": 2}}, {"tags": ["used"]}):
            clock.now += 10
            edited = registry.edit(NAME, 0, **change)
            assert edited.updated == int(clock.now * 1e9)
            assert registry.version(NAME, 0) == edited
        assert edited.created == version.created

    # -- tags ------------------------------------------------------------------------------------------------------

    def test_tags_are_given_replaced_and_taken_away(self, registry):
        version = commit(registry, "a", tags=("zebra", "a tag", "zebra", "größe")).version
        assert version.tags == ("a tag", "größe", "zebra")
        other = commit(registry, "b", tags=("zebra",)).version
        assert registry.edit(NAME, 0, tags=["mine", "zebra", "mine"]).tags == ("mine", "zebra")
        assert registry.version(NAME, 0).tags == ("mine", "zebra")
        assert registry.edit(NAME, 0, tags=[]).tags == ()
        assert registry.versions(NAME)[1] == other

    def test_a_tag_that_is_none_is_refused_with_one_that_would_do(self, registry):
        commit(registry, "a", tags=("kept",))
        with pytest.raises(InvalidInput, match=r"not a tag: 'a/b!'; .* 'a b' would do"):
            registry.edit(NAME, 0, tags=["a/b!"])
        assert registry.version(NAME, 0).tags == ("kept",)

    def test_logging_equal_contents_adds_tags_to_those_that_are_there(self, registry, clock):
        commit(registry, "a", tags=("one", "two"))
        clock.now += 10
        again = commit(registry, "a", tags=("two", "three"))
        assert not again.created
        assert again.version.tags == ("one", "three", "two")
        assert again.version.updated == int(clock.now * 1e9)

    # -- delete ----------------------------------------------------------------------------------------------------

    def test_a_deleted_version_is_not_there_and_its_number_not_given_again(self, registry):
        once = request("b", metadata={"x": 1}, tags=("tried",))
        commit(registry, "a")
        deleted = registry.commit(once).version
        registry.delete(NAME, 1)
        assert registry.version(NAME, 1) is None
        assert registry.find_digest(NAME, digest("b")) is None
        assert [version.number for version in registry.versions(NAME)] == [0]
        with pytest.raises(Conflict, match=f"{NAME}:v1, which this commit made, was deleted since"):
            registry.commit(once)
        again = commit(registry, "b")
        assert again.created
        assert (again.version.number, again.version.tags, again.version.metadata) == (2, (), {})
        assert again.version.id > deleted.id
        assert registry.artifact(NAME).deleted == 1
        with pytest.raises(NotFound):
            registry.move_aliases(NAME, 1, ["best"])
        assert registry.check() == []

    def test_latest_moves_to_the_highest_that_is_left(self, registry):
        for contents in "abcd":
            commit(registry, contents)
        registry.delete(NAME, 3)
        assert registry.aliases(NAME) == {"latest": 2}
        registry.move_aliases(NAME, 0, ["latest"])
        registry.delete(NAME, 1)
        assert registry.aliases(NAME) == {"latest": 0}
        registry.delete(NAME, 0)
        assert registry.aliases(NAME) == {"latest": 2}
        assert registry.resolve(NAME, "latest").number == 2

    def test_an_artifact_goes_with_its_last_version(self, registry):
        commit(registry, "a", type="model")
        registry.delete(NAME, 0)
        assert registry.artifacts() == []
        assert registry.artifact(NAME) is None
        assert registry.aliases(NAME) == {}
        again = commit(registry, "a", type="result", base=-1)
        assert (again.created, again.version.number, again.version.type) == (True, 1, "result")
        assert registry.aliases(NAME) == {"latest": 1}

    def test_aliases_keep_a_version_unless_they_may_go_too(self, registry):
        commit(registry, "a", aliases=("best", "used"))
        commit(registry, "b", aliases=("other",))
        revision = registry.revision()
        with pytest.raises(Conflict, match=f"{NAME}:v0 has the aliases best, used: .*--delete-aliases"):
            registry.delete(NAME, 0)
        assert registry.version(NAME, 0).aliases == ("best", "used")
        assert registry.revision() == revision
        registry.delete(NAME, 0, delete_aliases=True)
        assert registry.aliases(NAME) == {"latest": 1, "other": 1}

    def test_a_base_that_was_deleted_conflicts(self, registry):
        commit(registry, "a")
        registry.delete(NAME, 0)
        with pytest.raises(Conflict, match="no version now"):
            commit(registry, "b", base=0)

    def test_deleting_no_version_is_not_found(self, registry):
        commit(registry, "a")
        for name, number in ((NAME, 1), (NAME, -1), (NAME, 2**63), ("another", 0)):
            with pytest.raises(NotFound, match=f"there is no {name}:v{number}"):
                registry.delete(name, number)
        assert len(registry.versions(NAME)) == 1

    # -- chunk index -----------------------------------------------------------------------------------------------

    def test_chunks_are_found_where_they_were_recorded(self, registry, open_registry, make_pack):
        pack = make_pack(1, 2)
        row = pack.chunks[1]
        assert row.offset > 0
        assert 0 < row.length < row.size
        assert row.flags == FLAG_ZSTD
        registry.add_packs([pack])
        for client in (registry, open_registry()):
            assert client.missing([chunk(1), chunk(2), chunk(3)]) == {chunk(3)}
            assert client.locate([chunk(2), chunk(3)]) == {
                chunk(2): Location(pack.digest, row.offset, row.length, row.size, row.flags)
            }
            assert client.packs() == [(pack.digest, pack.size)]

    def test_a_known_chunk_keeps_its_first_place(self, registry, make_pack):
        first = make_pack(1)
        second = make_pack(0, 1)
        registry.add_packs([first])
        registry.add_packs([second])
        located = registry.locate([chunk(0), chunk(1)])
        assert located[chunk(0)].pack == second.digest
        assert located[chunk(1)].pack == first.digest
        assert registry.packs() == sorted([(first.digest, first.size), (second.digest, second.size)])

    def test_packs_may_be_recorded_again(self, registry, make_pack):
        packs = [make_pack(1), make_pack(2), make_pack(2, 1)]
        registry.add_packs(iter(packs))
        before = registry.locate([chunk(1), chunk(2)])
        assert before.keys() == {chunk(1), chunk(2)}
        registry.add_packs(packs)
        assert registry.locate([chunk(1), chunk(2)]) == before
        assert len(registry.packs()) == 3

    def test_packs_are_recorded_all_or_none(self, registry, make_pack):
        good = make_pack(1)
        outside = PackRow(digest("p").hex(), 50, (ChunkRow(digest(2), 0, 51, 51, 0),))
        with pytest.raises(InvalidInput, match="does not lie in pack"):
            registry.add_packs([good, outside])
        known = make_pack(3)
        registry.add_packs([known])
        resized = PackRow(known.digest, known.size - 1, ())
        with pytest.raises(InvalidInput, match=f"{known.size} bytes, not {known.size - 1}"):
            registry.add_packs([good, resized])
        assert registry.missing([chunk(1)]) == {chunk(1)}
        assert registry.packs() == [(known.digest, known.size)]

    @pytest.mark.parametrize(
        "pack",
        [
            PackRow("short", 1, ()),
            PackRow(digest("p").hex(), 0, ()),
            PackRow(digest("p").hex(), 9, (ChunkRow(b"short", 0, 1, 1, 0),)),
            PackRow(digest("p").hex(), 9, (ChunkRow(digest(1), -1, 1, 1, 0),)),
            PackRow(digest("p").hex(), 9, (ChunkRow(digest(1), 0, 0, 1, 0),)),
            PackRow(digest("p").hex(), 9, (ChunkRow(digest(1), 9, 1, 1, 0),)),
            PackRow(digest("p").hex(), 9, (ChunkRow(digest(1), 0, 1, -1, 0),)),
        ],
    )
    def test_packs_that_cannot_be_are_refused(self, registry, pack):
        with pytest.raises(InvalidInput):
            registry.add_packs([pack])
        assert registry.packs() == []

    def test_any_number_of_chunks_may_be_asked_for(self, registry, make_pack):
        held = [chunk(number) for number in range(3000)]
        absent = [digest(("absent", number)) for number in range(3000)]
        registry.add_packs([make_pack(*range(part, 3000, 3)) for part in range(3)])
        asked = [*held, *absent, *held]
        assert registry.missing(asked) == set(absent)
        located = registry.locate(asked)
        assert located.keys() == set(held)
        assert {place.pack for place in located.values()} == {pack for pack, _ in registry.packs()}

    # -- sessions --------------------------------------------------------------------------------------------------

    def test_what_is_done_under_a_living_session_is_done(self, registry, clock, make_pack):
        session = registry.open_session("writer", seconds=60)
        clock.now += 59
        registry.renew_session(session, seconds=60)
        clock.now += 59
        registry.add_packs([make_pack(1)], session=session)
        assert registry.missing([chunk(1)]) == set()
        assert commit(registry, "a", session=session).created

    def test_an_expired_session_does_nothing_more(self, registry, clock, make_pack):
        session = registry.open_session("writer", seconds=60)
        pack = make_pack(1)
        clock.now += 60
        for attempt in (
            lambda: registry.add_packs([pack], session=session),
            lambda: commit(registry, "a", session=session),
            lambda: registry.renew_session(session, seconds=60),
        ):
            with pytest.raises(Conflict, match=f"session {session} has expired"):
                attempt()
        assert registry.missing([chunk(1)]) == {chunk(1)}
        assert registry.artifacts() == []
        registry.close_session(session)

    def test_a_closed_session_does_nothing_more(self, registry):
        session = registry.open_session("writer", seconds=60)
        registry.close_session(session)
        registry.close_session(session)
        with pytest.raises(Conflict):
            commit(registry, "a", session=session)
        with pytest.raises(Conflict):
            registry.renew_session(session, seconds=60)

    def test_a_repeated_commit_is_answered_after_its_session_ended(self, registry, clock):
        session = registry.open_session("writer", seconds=60)
        once = request("a", session=session)
        first = registry.commit(once)
        clock.now += 3600
        assert registry.commit(once) == first

    def test_sessions_are_told_apart_for_ever(self, registry, clock):
        first = registry.open_session("writer", seconds=60)
        registry.close_session(first)
        second = registry.open_session("reader", seconds=60)
        clock.now += 3600
        third = registry.open_session("mount", seconds=60)
        assert len({first, second, third}) == 3

    def test_a_session_may_be_renewed_by_another_client(self, registry, open_registry, clock):
        session = registry.open_session("writer", seconds=60)
        open_registry().renew_session(session, seconds=600)
        clock.now += 300
        assert commit(registry, "a", session=session).created

    @pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf")])
    def test_a_session_needs_a_lifetime(self, registry, seconds):
        with pytest.raises(InvalidInput):
            registry.open_session("writer", seconds=seconds)

    # -- projects --------------------------------------------------------------------------------------------------

    def test_projects_share_nothing(self, registry, open_registry, make_pack):
        other = open_registry(project="cars")
        session = registry.open_session("writer", seconds=60)
        registry.add_packs([make_pack(1)])
        commit(registry, "a", commit_id="one")
        assert other.project == "cars"
        assert other.revision() == 0
        assert other.artifacts() == []
        assert other.missing([chunk(1)]) == {chunk(1)}
        assert other.locate([chunk(1)]) == {}
        assert other.packs() == []
        with pytest.raises(Conflict):
            commit(other, "a", session=session)
        assert commit(other, "a", commit_id="one").version.number == 0
        other.add_packs([make_pack(1, 2)])
        assert other.missing([chunk(1), chunk(2)]) == set()
        assert registry.missing([chunk(2)]) == {chunk(2)}
        assert registry.check() == []

    # -- many at once ----------------------------------------------------------------------------------------------

    def test_threads_commit_side_by_side(self, registry, open_registry, clock):
        clients = [registry, registry, open_registry(), open_registry()]
        revisions: list[int] = []
        done = threading.Event()

        def watch() -> None:
            while not done.is_set():
                revisions.append(registry.revision())

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            with ThreadPoolExecutor(8) as threads:
                results = list(threads.map(lambda n: commit(clients[n % 4], n, aliases=(f"a{n}",)), range(40)))
        finally:
            done.set()
            watcher.join()
        assert sorted(result.version.number for result in results) == list(range(40))
        assert all(result.created for result in results)
        assert len(registry.aliases(NAME)) == 41
        assert revisions == sorted(revisions)
        assert registry.revision() == int(clock.now * 1000) + 39, "each raised it, by one as no time went by"

    def test_equal_contents_at_once_make_one_version(self, registry):
        with ThreadPoolExecutor(8) as threads:
            results = list(threads.map(lambda _: commit(registry, "same"), range(8)))
        assert {result.version.number for result in results} == {0}
        assert sum(result.created for result in results) == 1

    def test_one_commit_id_at_once_makes_one_version(self, registry):
        once = request("a")
        with ThreadPoolExecutor(8) as threads:
            results = list(threads.map(lambda _: registry.commit(once), range(8)))
        assert all(result == results[0] for result in results)
        assert len(registry.versions(NAME)) == 1

    def test_of_two_commits_on_one_base_one_wins(self, registry):
        commit(registry, "base")

        def attempt(contents: str) -> str:
            try:
                commit(registry, contents, base=0)
            except Conflict:
                return "lost"
            return "won"

        with ThreadPoolExecutor(4) as threads:
            outcomes = list(threads.map(attempt, "abcd"))
        assert sorted(outcomes) == ["lost", "lost", "lost", "won"]
        assert [version.number for version in registry.versions(NAME)] == [0, 1]

    def test_packs_are_recorded_while_others_look(self, registry, make_pack):
        digests = [chunk(number) for number in range(400)]
        packs = [make_pack(*range(part, min(part + 100, 400))) for part in range(0, 400, 50)]
        with ThreadPoolExecutor(8) as threads:
            adding = [threads.submit(registry.add_packs, [pack]) for pack in packs]
            looking = [threads.submit(registry.locate, digests) for _ in range(8)]
            for task in adding:
                task.result()
            for task in looking:
                assert task.result().keys() <= set(digests)
        assert registry.missing(digests) == set()

    # -- closing ---------------------------------------------------------------------------------------------------

    def test_what_was_committed_is_there_after_closing(self, registry, open_registry):
        version = commit(registry, "a").version
        registry.close()
        registry.close()
        assert open_registry().version(NAME, 0) == version

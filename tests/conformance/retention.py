"""What every kind of Registry must do about what goes and stays: the Retention part of ``artifactfs/registry/contract.py`` as tests.

A kind's test module subclasses :class:`RetentionConformance`, with the fixtures that ``registry.py`` here asks for.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from artifactfs.errors import Conflict, InvalidInput, NoSpace, NotFound
from artifactfs.model.lineage import NewRun
from artifactfs.model.retention import Permissions, Protection, RetentionRule, Usage
from tests.conformance.registry import NAME, Fixtures, commit, digest, request

ALIASES = Permissions(aliases=True)
GUARDED = Permissions(aliases=True, protected=True)
IN_USE = Permissions(in_use=True)


class RetentionConformance(Fixtures):
    # -- deletion and tombstones -----------------------------------------------------------------------------------

    def test_nothing_was_deleted_at_first(self, registry):
        retention = registry.retention
        assert retention.tombstones() == retention.tombstones(NAME) == []
        assert retention.tombstone(NAME, 0) is None
        assert (retention.former_names(), retention.protections(), retention.rules()) == ({}, [], [])
        assert retention.usage() == Usage(0, 0, 0, 0)

    def test_a_deleted_version_leaves_a_tombstone(self, registry, clock):
        registry.start_run(NewRun(id="maker", name="maker"))
        values = {"rows": 2, "parts": ["a", 1.5, None]}
        made = commit(registry, "a", type="model", description="the first", metadata=values, run="maker").version
        commit(registry, "b")
        clock.now += 60
        (gone,) = registry.retention.delete(NAME, [0])
        assert (gone.name, gone.id, gone.type, gone.digest) == (f"{NAME}:v0", made.id, "model", digest("a"))
        assert (gone.size, gone.files, gone.created, gone.deleted) == (
            1000,
            10,
            made.created,
            made.created + 60 * 10**9,
        )
        assert (gone.description, gone.metadata, gone.run) == ("the first", values, "maker")
        assert gone.deleted_by
        assert registry.retention.tombstones() == registry.retention.tombstones(NAME) == [gone]
        assert registry.retention.tombstone(NAME, 0) == gone
        assert registry.retention.tombstone(NAME, 1) is None
        links = registry.links(runs=["maker"])
        assert ([link.version for link in links.links], links.versions, links.deleted) == ([made.id], [], [gone])

    @pytest.mark.parametrize("name", ["", "a/b", "\udcff", "a\0b", "another"])
    def test_what_cannot_exist_has_no_tombstone(self, registry, name):
        commit(registry, "a")
        registry.retention.delete(NAME, [0])
        assert registry.retention.tombstones(name) == []
        assert registry.retention.tombstone(name, 0) is None
        assert registry.retention.tombstone(NAME, 2**63) is None

    def test_versions_are_deleted_all_or_none(self, registry):
        for contents in "abcd":
            commit(registry, contents)
        registry.move_aliases(NAME, 1, ["best"])
        registry.move_aliases(NAME, 2, ["tried", "used"])
        revision = registry.revision()
        with pytest.raises(Conflict, match="nothing of bike-dataset was deleted") as caught:
            registry.retention.delete(NAME, [0, 1, 2])
        assert [line.partition(":")[0] for line in str(caught.value).splitlines()[1:]] == ["  bike-dataset"] * 2
        assert "v1 has the alias best" in str(caught.value)
        assert "v2 has the aliases tried, used" in str(caught.value)
        with pytest.raises(NotFound, match=f"there is no {NAME}:v9"):
            registry.retention.delete(NAME, [0, 9])
        assert registry.revision() == revision
        gone = registry.retention.delete(NAME, [2, 0, 1, 1], permissions=ALIASES)
        assert [each.number for each in gone] == [0, 1, 2]
        assert [version.number for version in registry.versions(NAME)] == [3]
        assert registry.aliases(NAME) == {"latest": 3}
        assert registry.revision() > revision
        assert registry.check() == []

    def test_a_whole_artifact_is_deleted(self, registry):
        for contents in "abc":
            commit(registry, contents)
        registry.move_aliases(NAME, 1, ["best"])
        registry.retention.delete(NAME, [0])
        with pytest.raises(Conflict, match="best"):
            registry.retention.delete(NAME, None)
        gone = registry.retention.delete(NAME, None, permissions=ALIASES)
        assert [each.number for each in gone] == [1, 2]
        assert registry.artifacts() == []
        assert registry.artifact(NAME) is None
        with pytest.raises(NotFound, match=f"no artifact '{NAME}'"):
            registry.retention.delete(NAME, None)
        assert commit(registry, "a").version.number == 3

    def test_deleting_what_is_not_there_is_not_found(self, registry):
        for numbers in (None, [0]):
            with pytest.raises(NotFound):
                registry.retention.delete("another", numbers)
        commit(registry, "a")
        for number in (1, -1, 2**63):
            with pytest.raises(NotFound, match=f"there is no {NAME}:v{number}"):
                registry.retention.delete(NAME, [number])
        with pytest.raises(InvalidInput):
            registry.retention.delete("a/b", [0])

    def test_of_two_who_delete_one_does(self, registry, open_registry):
        for contents in "ab":
            commit(registry, contents)
        others = [open_registry() for _ in range(4)]

        def attempt(other) -> str:
            try:
                other.retention.delete(NAME, [0])
            except NotFound:
                return "not there"
            return "deleted"

        with ThreadPoolExecutor(4) as pool:
            assert sorted(pool.map(attempt, others)) == ["deleted", "not there", "not there", "not there"]
        assert len(registry.retention.tombstones()) == 1

    def test_a_version_that_an_alias_moves_to_meanwhile_stays_or_has_no_alias(self, registry, open_registry):
        commit(registry, "latest", artifact="others")
        others = [open_registry() for _ in range(2)]
        for number in range(12):
            commit(registry, f"race {number}")
            commit(registry, "kept")
            version = registry.find_digest(NAME, digest(f"race {number}"))

            def move(version=version) -> bool:
                try:
                    others[0].move_aliases(NAME, version.number, ["best"])
                except NotFound:
                    return False
                return True

            def delete(version=version) -> bool:
                try:
                    others[1].retention.delete(NAME, [version.number])
                except Conflict:
                    return False
                return True

            with ThreadPoolExecutor(2) as pool:
                moved, deleted = (future.result() for future in [pool.submit(move), pool.submit(delete)])
            assert moved != deleted
            assert (registry.resolve(NAME, "best") == registry.version(NAME, version.number) is not None) == moved
        assert registry.check() == []

    def test_a_commit_onto_a_version_that_goes_conflicts_or_comes_first(self, registry, open_registry):
        other = open_registry()
        for number in range(8):
            base = commit(registry, f"base {number}").version.number

            def build(base=base, number=number) -> bool:
                try:
                    commit(other, f"next {number}", base=base)
                except Conflict:
                    return False
                return True

            with ThreadPoolExecutor(2) as pool:
                built, deleted = pool.submit(build), pool.submit(registry.retention.delete, NAME, [base])
                deleted.result()
                assert built.result() == (registry.find_digest(NAME, digest(f"next {number}")) is not None)
        assert registry.check() == []

    # -- protected aliases -----------------------------------------------------------------------------------------

    def test_protected_aliases_move_and_go_on_purpose_only(self, registry):
        for contents in "ab":
            commit(registry, contents)
        registry.move_aliases(NAME, 0, ["production", "best"])
        retention = registry.retention
        retention.protect("production")
        retention.protect("production")
        assert retention.protections() == [Protection("production")]
        revision = registry.revision()
        with pytest.raises(Conflict, match=r"the alias production is protected.*--protected"):
            registry.move_aliases(NAME, 1, ["best", "production"])
        with pytest.raises(Conflict, match="the alias production is protected"):
            registry.remove_aliases(NAME, ["best", "production"])
        with pytest.raises(Conflict, match="the alias production is protected"):
            commit(registry, "c", aliases=("production",))
        assert registry.aliases(NAME) == {"best": 0, "latest": 1, "production": 0}
        assert registry.revision() == revision
        registry.move_aliases(NAME, 0, ["production"])  # where it is
        registry.move_aliases(NAME, 1, ["best"])
        registry.move_aliases(NAME, 1, ["production"], protected=True)
        registry.remove_aliases(NAME, ["production"], protected=True)
        assert registry.aliases(NAME) == {"best": 1, "latest": 1}
        with pytest.raises(Conflict, match="protected"):
            registry.move_aliases(NAME, 1, ["production"])
        retention.unprotect("production")
        registry.move_aliases(NAME, 1, ["production"])
        with pytest.raises(NotFound, match="not protected"):
            retention.unprotect("production")

    def test_a_protection_may_be_of_one_artifact(self, registry):
        commit(registry, "a")
        commit(registry, "a", artifact="another")
        registry.retention.protect("production", NAME)
        registry.move_aliases("another", 0, ["production"])
        with pytest.raises(Conflict):
            registry.move_aliases(NAME, 0, ["production"])
        with pytest.raises(NotFound):
            registry.retention.unprotect("production")
        with pytest.raises(NotFound, match="no artifact 'third'"):
            registry.retention.protect("production", "third")
        with pytest.raises(InvalidInput, match="latest"):
            registry.retention.protect("latest")
        with pytest.raises(InvalidInput):
            registry.retention.protect("v1")
        assert registry.retention.protections() == [Protection("production", NAME)]

    def test_a_protected_alias_keeps_its_version(self, registry):
        for contents in "ab":
            commit(registry, contents)
        registry.move_aliases(NAME, 0, ["best", "production"])
        registry.retention.protect("production")
        with pytest.raises(Conflict, match=r"the protected alias production: .*--delete-aliases --protected"):
            registry.retention.delete(NAME, [0], permissions=ALIASES)
        with pytest.raises(Conflict, match="protected alias production"):
            registry.delete(NAME, 0, delete_aliases=True)
        registry.retention.delete(NAME, [0], permissions=GUARDED)
        assert registry.aliases(NAME) == {"latest": 1}

    # -- what sessions hold ----------------------------------------------------------------------------------------

    def test_a_version_that_a_session_holds_stays(self, registry, open_registry, clock):
        held = commit(registry, "a").version
        commit(registry, "b")
        session = registry.open_session("mount", seconds=60)
        registry.retention.hold(session, {held.id: "staging at you@laptop:/data"})
        assert registry.retention.held() == [(held.id, "staging at you@laptop:/data")]
        with pytest.raises(Conflict, match=r"v0 is in use \(staging at you@laptop:/data\): .*--in-use"):
            open_registry().retention.delete(NAME, [0])
        with pytest.raises(Conflict, match="in use"):
            registry.delete(NAME, 0, delete_aliases=True)
        clock.now += 59
        registry.renew_session(session, seconds=60)
        clock.now += 59
        with pytest.raises(Conflict):
            registry.retention.delete(NAME, [0])
        clock.now += 2
        assert registry.retention.held() == []
        registry.retention.delete(NAME, [0])
        with pytest.raises(Conflict, match=f"session {session} has expired"):
            registry.retention.hold(session, {})

    def test_what_a_session_holds_is_replaced_and_ends_with_it(self, registry):
        versions = [commit(registry, contents).version for contents in "abc"]
        session = registry.open_session("mount", seconds=60)
        registry.retention.hold(session, {versions[0].id: "pinned", versions[1].id: "pinned"})
        registry.retention.hold(session, {versions[1].id: "pinned"})
        registry.retention.delete(NAME, [0])
        registry.retention.hold(session, {versions[0].id: "gone", versions[1].id: "pinned", 2**40: "never there"})
        with pytest.raises(Conflict):
            registry.retention.delete(NAME, [1])
        registry.close_session(session)
        registry.retention.delete(NAME, [1])
        assert registry.check() == []

    def test_one_in_use_may_be_deleted_nevertheless(self, registry):
        held = commit(registry, "a").version
        for number in range(5):
            session = registry.open_session("mount", seconds=60)
            registry.retention.hold(session, {held.id: f"pinned by {number}"})
        with pytest.raises(Conflict, match=r"\(pinned by 0, pinned by 1, pinned by 2 and 2 more\)"):
            registry.retention.delete(NAME, [0])
        registry.retention.delete(NAME, [0], permissions=IN_USE)
        assert registry.versions(NAME) == []
        assert registry.check() == []

    # -- renames ---------------------------------------------------------------------------------------------------

    def test_a_renamed_artifact_keeps_all_but_its_name(self, registry):
        registry.start_run(NewRun(id="maker", name="maker"))
        commit(registry, "a", aliases=("best",), tags=("tried",), run="maker")
        commit(registry, "b")
        registry.retention.protect("best", NAME)
        registry.retention.set_rule(RetentionRule(artifact=NAME, keep_last=3))
        registry.retention.delete(NAME, [1])
        before, revision = registry.version(NAME, 0), registry.revision()
        registry.retention.rename(NAME, "bikes")
        assert registry.revision() > revision
        assert registry.versions(NAME) == []
        after = registry.version("bikes", 0)
        assert (after.id, after.aliases, after.tags, after.run) == (before.id, before.aliases, before.tags, "maker")
        assert [version.name for version in registry.links(runs=["maker"]).versions] == ["bikes:v0"]
        assert [each.name for each in registry.retention.tombstones("bikes")] == ["bikes:v1"]
        assert registry.retention.protections() == [Protection("best", "bikes")]
        assert [rule.artifact for rule in registry.retention.rules()] == ["bikes"]
        assert registry.retention.former_names() == {NAME: "bikes"}
        assert commit(registry, "c", artifact="bikes").version.number == 2
        assert registry.check() == []

    def test_no_commit_makes_an_artifact_of_a_former_name(self, registry):
        once = request("a")
        registry.commit(once)
        registry.retention.rename(NAME, "bikes")
        for again in (once, request("b")):
            with pytest.raises(Conflict, match=f"{NAME} was renamed to bikes"):
                registry.commit(again)
        registry.retention.rename("bikes", NAME)
        assert registry.retention.former_names() == {"bikes": NAME}
        assert not registry.commit(once).version.number
        commit(registry, "x", artifact="cars")
        registry.retention.rename("cars", "bikes")
        assert registry.retention.former_names() == {"cars": "bikes"}
        assert commit(registry, "y", artifact="bikes").version.number == 1

    def test_names_that_are_taken_are_refused(self, registry):
        commit(registry, "a")
        commit(registry, "a", artifact="bikes")
        commit(registry, "a", artifact="gone")
        registry.retention.delete("gone", None)
        with pytest.raises(Conflict, match="there is an artifact 'bikes' already"):
            registry.retention.rename(NAME, "bikes")
        with pytest.raises(Conflict, match="gone had versions"):
            registry.retention.rename(NAME, "gone")
        for name in ("gone", "another"):
            with pytest.raises(NotFound, match=f"no artifact '{name}'"):
                registry.retention.rename(name, "new")
        with pytest.raises(InvalidInput):
            registry.retention.rename(NAME, "a/b")
        registry.retention.rename(NAME, NAME)
        assert registry.retention.former_names() == {}

    # -- rules -----------------------------------------------------------------------------------------------------

    def test_rules_are_kept_for_an_artifact_or_for_all(self, registry, clock):
        commit(registry, "a")
        retention = registry.retention
        kept = retention.set_rule(RetentionRule(artifact=NAME, keep_last=3, older_than=86_400, where="size > 3"))
        assert (kept.artifact, kept.keep_last, kept.older_than, kept.where) == (NAME, 3, 86_400, "size > 3")
        assert kept.changed == int(clock.now * 1e9)
        assert kept.changed_by
        retention.set_rule(RetentionRule(keep_aliased=True))
        retention.set_rule(RetentionRule(artifact=NAME, keep_last=1))
        assert [(rule.artifact, rule.keep_last, rule.keep_aliased) for rule in retention.rules()] == [
            ("", None, True),
            (NAME, 1, False),
        ]
        retention.remove_rule()
        retention.remove_rule(NAME)
        assert retention.rules() == []
        for artifact in ("", NAME):
            with pytest.raises(NotFound, match="no retention rule"):
                retention.remove_rule(artifact)

    def test_rules_that_say_nothing_or_nonsense_are_refused(self, registry):
        for rule, words in (
            (RetentionRule(), "says nothing"),
            (RetentionRule(keep_last=0), "--keep-last"),
            (RetentionRule(older_than=-1), "--older-than"),
            (RetentionRule(where="size >"), "condition"),
        ):
            with pytest.raises(InvalidInput, match=words):
                registry.retention.set_rule(rule)
        with pytest.raises(NotFound, match="no artifact 'another'"):
            registry.retention.set_rule(RetentionRule(artifact="another", keep_last=1))
        assert registry.retention.rules() == []

    # -- quotas ----------------------------------------------------------------------------------------------------

    def test_what_a_project_takes_is_counted(self, registry, make_pack):
        pack = make_pack(1, 2)
        registry.add_packs([pack])
        commit(registry, "a")
        commit(registry, "b")
        commit(registry, "a", artifact="another")
        assert registry.retention.usage() == Usage(pack.size, 3000, 2, 3)
        registry.retention.delete(NAME, [0])
        assert registry.retention.usage() == Usage(pack.size, 2000, 2, 2)

    def test_versions_beyond_the_quota_are_refused_with_numbers(self, registry):
        commit(registry, "a")
        registry.retention.set_quota(stored=None, logical=2500)
        commit(registry, "b")
        with pytest.raises(
            NoSpace, match="its quota is 2,500 bytes in its versions, 2,000 are used, and this takes 1,000 more"
        ):
            commit(registry, "c")
        assert not commit(registry, "a").created  # what is there takes nothing
        registry.retention.delete(NAME, [1])
        commit(registry, "c")
        registry.retention.set_quota(stored=None, logical=None)
        commit(registry, "d")

    def test_packs_beyond_the_quota_are_refused_all_or_none(self, registry, make_pack):
        first, second, third = make_pack(1), make_pack(2), make_pack(3)
        registry.retention.set_quota(stored=first.size + second.size, logical=None)
        registry.add_packs([first])
        with pytest.raises(NoSpace, match=f"used, and this takes at least {second.size + third.size:,} more"):
            registry.add_packs([second, third])
        registry.add_packs([first])
        registry.add_packs([second])
        assert registry.retention.usage().stored == registry.retention.usage().quota_stored == first.size + second.size

    @pytest.mark.parametrize("quota", [-1, 2**63])
    def test_what_is_no_quota_is_refused(self, registry, quota):
        for values in ({"stored": quota, "logical": None}, {"stored": None, "logical": quota}):
            with pytest.raises(InvalidInput):
                registry.retention.set_quota(**values)

    def test_projects_share_none_of_it(self, registry, open_registry):
        other = open_registry(project="cars")
        commit(registry, "a")
        commit(other, "a")
        registry.retention.protect("production")
        registry.retention.set_rule(RetentionRule(keep_last=1))
        registry.retention.set_quota(stored=1, logical=1)
        registry.retention.delete(NAME, [0])
        retention = other.retention
        assert (retention.protections(), retention.rules(), retention.tombstones()) == ([], [], [])
        assert retention.usage() == Usage(0, 1000, 1, 1)

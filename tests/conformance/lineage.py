"""What every kind of Registry must do with Runs, links, drafts that several processes fill, and search: see ``registry.py``."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from artifactfs.errors import Conflict, InvalidInput, NotFound
from artifactfs.model.lineage import Link, Links, NewRun, RunRecord
from artifactfs.model.query import Query
from artifactfs.registry.contract import Registry
from tests.conformance.registry import NAME, Fixtures, commit, digest, request


def new(identity: str, /, **changes) -> NewRun:
    return NewRun(**({"id": identity, "name": f"run {identity}"} | changes))


def start(registry: Registry, identity: str, /, **changes) -> RunRecord:
    return registry.start_run(new(identity, **changes))


def linked(registry: Registry, **wanted) -> list[tuple[str, str, str]]:
    """Links as (run, "reads" or "makes", version), in the order given."""
    found = registry.links(**wanted)
    names = {version.id: version.name for version in found.versions}
    return [(link.run, "makes" if link.output else "reads", names.get(link.version, "deleted")) for link in found.links]


class LineageConformance(Fixtures):
    # -- runs ------------------------------------------------------------------------------------------------------

    def test_an_empty_registry_knows_no_runs(self, registry):
        assert registry.run("r1") is None
        assert registry.runs() == []
        assert registry.links() == Links([], [], [])
        assert registry.links(versions=[1, -1, 2**63, 10**30], runs=["r1", "", "no run", "\udcff", "x" * 65]) == Links(
            [], [], []
        )
        assert registry.parts(NAME, "draft") == []
        assert registry.find(Query()) == []

    def test_a_run_is_what_it_was_started_with(self, registry, open_registry, clock):
        started = start(
            registry,
            "r-1_A",
            name="erster Lauf 🚲",
            job_type="train",
            config={"rate": 0.1, "layers": [1, 2], "nan": float("nan"), "nested": {"a": None}},
            host="machine",
            command=("python", "train.py", "--text", "a b", "größe"),
            commit_hash="0123abcd+",
            seconds=60,
        )
        assert started == RunRecord(
            id="r-1_A",
            name="erster Lauf 🚲",
            job_type="train",
            state="running",
            started=int(clock.now * 1e9),
            ended=None,
            config={"rate": 0.1, "layers": [1, 2], "nan": None, "nested": {"a": None}},
            host="machine",
            command=("python", "train.py", "--text", "a b", "größe"),
            commit_hash="0123abcd+",
            exit_status=None,
            inputs=0,
            outputs=0,
        )
        assert registry.run("r-1_A") == open_registry().run("r-1_A") == started
        assert registry.runs() == [started]

    @pytest.mark.parametrize(("state", "status"), [("finished", 0), ("failed", 3), ("failed", -9), ("finished", None)])
    def test_a_run_ends_once(self, registry, clock, state, status):
        started = start(registry, "r1", seconds=60)
        clock.now += 30
        ended = registry.update_run("r1", state=state, exit_status=status)
        assert (ended.state, ended.exit_status, ended.ended) == (state, status, int(clock.now * 1e9))
        assert (ended.started, ended.name) == (started.started, started.name)
        clock.now += 3600
        assert registry.update_run("r1", state=state, exit_status=status) == ended
        registry.renew_run("r1", seconds=60)
        assert registry.run("r1") == ended

    def test_the_configuration_is_replaced_at_any_time(self, registry, clock):
        start(registry, "r1", config={"a": 1})
        assert registry.update_run("r1").config == {"a": 1}
        assert registry.update_run("r1", config={"b": [2]}).config == {"b": [2]}
        ended = registry.update_run("r1", state="failed")
        clock.now += 10
        changed = registry.update_run("r1", config={"c": {str(number): number for number in range(200)}})
        assert len(changed.config["c"]) == 200
        assert (changed.state, changed.ended) == ("failed", ended.ended)
        assert registry.run("r1") == changed

    def test_a_run_that_falls_silent_has_crashed_until_it_is_heard_again(self, registry, clock):
        start(registry, "r1", seconds=60)
        clock.now += 40
        registry.renew_run("r1", seconds=60)
        heard = int(clock.now * 1e9)
        clock.now += 59
        assert registry.run("r1").state == "running"
        clock.now += 1
        crashed = registry.run("r1")
        assert (crashed.state, crashed.ended) == ("crashed", heard)
        registry.renew_run("r1", seconds=60)
        assert (registry.run("r1").state, registry.run("r1").ended) == ("running", None)
        clock.now += 60
        assert registry.run("r1").state == "crashed"
        ended = registry.update_run("r1", state="finished")
        assert (ended.state, ended.ended) == ("finished", int(clock.now * 1e9))

    def test_a_run_that_ended_is_taken_up_again_and_keeps_what_it_had(self, registry, clock):
        version = commit(registry, "a").version
        first = start(registry, "r1", job_type="train", config={"a": 1})
        registry.add_inputs("r1", [version.id])
        registry.update_run("r1", state="failed", exit_status=1)
        clock.now += 100
        again = start(registry, "r1", job_type="other", config={"b": 2}, name="other", seconds=50)
        assert (again.state, again.ended, again.exit_status) == ("running", None, None)
        assert (again.started, again.job_type, again.config, again.name, again.inputs) == (
            first.started,
            "train",
            {"a": 1},
            "run r1",
            1,
        )
        clock.now += 50
        assert registry.run("r1").state == "crashed"
        assert registry.runs() == [registry.run("r1")]

    def test_what_is_no_run_is_refused(self, registry):
        for wrong, words in (
            ({"id": ""}, "not the id of a run"),
            ({"id": "a b"}, "not the id of a run"),
            ({"id": "x" * 65}, "not the id of a run"),
            ({"id": "ä"}, "not the id of a run"),
            ({"name": ""}, "not the name of a run"),
            ({"name": "x" * 256}, "not the name of a run"),
            ({"name": "two\nlines"}, "not the name of a run"),
            ({"job_type": "x" * 129}, "not a job type"),
            ({"config": {"x": float("inf")}}, "config.x is infinite"),
            ({"command": ("x" * 100_000, "y" * 100_000)}, "200000 characters; shorten"),
            ({"seconds": 0}, "a run cannot live for 0"),
            ({"seconds": float("nan")}, "a run cannot live for nan"),
        ):
            with pytest.raises(InvalidInput, match=words):
                registry.start_run(NewRun(**({"id": "r1", "name": "one"} | wrong)))
        assert registry.runs() == []

    def test_what_cannot_become_of_a_run_is_refused(self, registry):
        start(registry, "r1")
        for state in ("running", "crashed", "done", ""):
            with pytest.raises(InvalidInput, match=f"cannot be made '{state}': 'finished' and 'failed' end it"):
                registry.update_run("r1", state=state)
        with pytest.raises(InvalidInput, match="exit status"):
            registry.update_run("r1", exit_status=2**31)
        with pytest.raises(InvalidInput, match=r"config\.x"):
            registry.update_run("r1", config={"x": {1, 2}})
        with pytest.raises(InvalidInput, match="a run cannot live"):
            registry.renew_run("r1", seconds=-1)
        assert registry.run("r1").state == "running"

    def test_a_run_that_is_not_there_is_not_found(self, registry, open_registry):
        version = commit(registry, "a").version
        start(open_registry(project="cars"), "r1")
        for use in (
            lambda: registry.renew_run("r1", seconds=10),
            lambda: registry.update_run("r1", state="finished"),
            lambda: registry.update_run("r1"),
            lambda: registry.add_inputs("r1", [version.id]),
            lambda: registry.add_inputs("r1", []),
            lambda: commit(registry, "b", run="r1"),
            lambda: commit(registry, "a", run="r1", find=True),
        ):
            with pytest.raises(NotFound, match="there is no run 'r1'"):
                use()
        assert len(registry.versions(NAME)) == 1
        assert registry.artifact(NAME).next_number == 1

    def test_runs_are_listed_the_last_started_first(self, registry, clock):
        for number in range(5):
            start(registry, f"r{number}", job_type="train" if number % 2 else "prepare", name=f"run {number // 2}")
            clock.now += 1
        start(registry, "same-b")
        start(registry, "same-a")

        def ids(**filters) -> list[str]:
            return [run.id for run in registry.runs(**filters)]

        assert ids() == ["same-b", "same-a", "r4", "r3", "r2", "r1", "r0"]
        assert ids(job_type="train") == ["r3", "r1"]
        assert ids(name="run 1") == ["r3", "r2"]
        assert ids(name="run 1", job_type="train") == ["r3"]
        assert ids(name="nobody's") == []
        assert ids(limit=2) == ["same-b", "same-a"]
        assert ids(limit=2, offset=3) == ["r3", "r2"]
        assert ids(offset=5) == ["r1", "r0"]
        assert ids(limit=0) == []
        assert ids(offset=100) == []
        for wrong in ({"limit": -1}, {"offset": -1}, {"limit": 2**63}):
            with pytest.raises(InvalidInput, match="choose 0 or more"):
                registry.runs(**wrong)

    def test_runs_are_found_by_the_state_that_they_show(self, registry, clock):
        start(registry, "silent", seconds=60)
        start(registry, "living", seconds=60)
        start(registry, "done", seconds=60)
        start(registry, "broken", seconds=60)
        registry.update_run("done", state="finished")
        registry.update_run("broken", state="failed")
        clock.now += 50
        registry.renew_run("living", seconds=60)
        clock.now += 10
        for state, expected in (
            ("running", "living"),
            ("crashed", "silent"),
            ("finished", "done"),
            ("failed", "broken"),
        ):
            assert [(run.id, run.state) for run in registry.runs(state=state)] == [(expected, state)]
        with pytest.raises(InvalidInput, match="not a state of a run: 'odd'; running, finished, failed, crashed are"):
            registry.runs(state="odd")

    def test_sixteen_starters_of_one_run_start_one(self, registry, open_registry):
        clients = [registry, open_registry()]
        gate = threading.Barrier(16)

        def begin(number: int) -> RunRecord:
            gate.wait(30)
            return start(clients[number % 2], "shared", config={"rank": number})

        with ThreadPoolExecutor(16) as threads:
            records = list(threads.map(begin, range(16)))
        assert len({str(record.config) for record in records}) == 1
        assert registry.runs() == [records[0]]

    def test_runs_and_links_do_not_move_the_revision(self, registry):
        version = commit(registry, "a").version
        revision = registry.revision()
        start(registry, "r1")
        registry.renew_run("r1", seconds=60)
        registry.add_inputs("r1", [version.id])
        registry.update_run("r1", config={"a": 1}, state="finished")
        commit(registry, "a", run="r1")
        commit(registry, "a", run="r1", find=True)
        assert registry.revision() == revision

    # -- links -----------------------------------------------------------------------------------------------------

    def test_inputs_are_recorded_once(self, registry, clock):
        start(registry, "r1")
        first, second = commit(registry, "a").version, commit(registry, "b").version
        at = int(clock.now * 1e9)
        registry.add_inputs("r1", [first.id, first.id])
        clock.now += 1
        registry.update_run("r1", state="finished")
        registry.add_inputs("r1", {first.id, second.id})
        found = registry.links(runs=["r1"])
        assert found.links == [
            Link("r1", first.id, False, at),
            Link("r1", second.id, False, int(clock.now * 1e9)),
        ]
        assert found.runs == [registry.run("r1")]
        assert found.runs[0].inputs == 2
        assert found.versions == registry.versions(NAME)

    def test_inputs_are_recorded_all_or_none(self, registry, open_registry):
        start(registry, "r1")
        version = commit(registry, "a").version
        elsewhere = commit(open_registry(project="cars"), "a").version
        for absent in (elsewhere.id, 10**9, -1, 2**63):
            with pytest.raises(NotFound, match=f"no version with the id {absent} in this project"):
                registry.add_inputs("r1", [version.id, absent])
        registry.add_inputs("r1", [])
        assert registry.run("r1").inputs == 0

    def test_a_commit_in_a_run_is_its_output(self, registry):
        start(registry, "r1")
        start(registry, "r2")
        once = request("a", run="r1")
        made = registry.commit(once).version
        assert made.run == "r1"
        registry.commit(once)
        again = commit(registry, "a", run="r2").version
        assert again.run == "r1"
        assert commit(registry, "b").version.run == ""
        assert linked(registry, versions=[made.id]) == [("r1", "makes", f"{NAME}:v0"), ("r2", "makes", f"{NAME}:v0")]
        assert [(run.id, run.inputs, run.outputs) for run in registry.runs()] == [("r2", 0, 1), ("r1", 0, 1)]
        assert registry.versions(NAME)[0].run == "r1"

    def test_links_lead_from_versions_to_runs_and_back(self, registry, clock):
        ends = {}
        for run, reads, makes in (("prepare", None, "raw"), ("train", "raw", "model"), ("evaluate", "model", "result")):
            clock.now += 1
            start(registry, run)
            if reads:
                registry.add_inputs(run, [ends[reads].id])
            ends[makes] = commit(registry, makes, artifact=makes, run=run).version
        registry.add_inputs("evaluate", [ends["raw"].id])

        assert linked(registry, versions=[ends["raw"].id]) == [
            ("prepare", "makes", "raw:v0"),
            ("train", "reads", "raw:v0"),
            ("evaluate", "reads", "raw:v0"),
        ]
        assert linked(registry, runs=["train"]) == [("train", "reads", "raw:v0"), ("train", "makes", "model:v0")]
        both = registry.links(versions=[ends["model"].id], runs=["train", "nobody"])
        assert len(both.links) == 3, "each once"
        assert {run.id for run in both.runs} == {"train", "evaluate"}
        assert {version.name for version in both.versions} == {"raw:v0", "model:v0"}
        assert len(both.runs) == len(both.versions) == 2

    def test_links_to_deleted_versions_stay(self, registry):
        start(registry, "r1")
        start(registry, "r2")
        version = commit(registry, "a", run="r1").version
        registry.add_inputs("r2", [version.id])
        registry.delete(NAME, 0)
        assert linked(registry, runs=["r1", "r2"]) == [("r1", "makes", "deleted"), ("r2", "reads", "deleted")]
        assert len(registry.links(versions=[version.id]).links) == 2
        assert registry.run("r1").outputs == 1
        registry.add_inputs("r1", [version.id])  # read before it was deleted, told after
        assert registry.run("r1").inputs == 1

    def test_any_number_of_links_may_be_recorded_and_asked_for(self, registry):
        start(registry, "r1")
        versions = [commit(registry, number).version.id for number in range(40)]
        registry.add_inputs("r1", versions * 100)
        found = registry.links(versions=[*range(-1000, 0), *versions, *range(10**9, 10**9 + 3000)], runs=["r1"] * 3000)
        assert [link.version for link in found.links] == versions
        assert (len(found.runs), len(found.versions)) == (1, 40)

    def test_projects_share_no_runs(self, registry, open_registry):
        other = open_registry(project="cars")
        for client in (registry, other):
            start(client, "r1")
            commit(client, "a", run="r1")
        registry.update_run("r1", state="failed")
        assert (registry.run("r1").state, other.run("r1").state) == ("failed", "running")
        mine = registry.versions(NAME)[0].id
        assert other.links(versions=[mine]) == Links([], [], [])
        assert len(registry.links(versions=[mine], runs=["r1"]).links) == 1
        assert registry.check() == []

    def test_links_are_recorded_while_others_look(self, registry, open_registry):
        versions = [commit(registry, number).version.id for number in range(8)]
        clients = [registry, open_registry()]
        start(registry, "r1")

        def use(number: int) -> Links:
            client = clients[number % 2]
            client.add_inputs("r1", versions[: number % 8 + 1])
            return client.links(runs=["r1"])

        with ThreadPoolExecutor(8) as threads:
            for number, found in enumerate(threads.map(use, range(32))):
                assert {link.version for link in found.links} >= set(versions[: number % 8 + 1])
        assert len(registry.links(runs=["r1"]).links) == 8

    # -- finding instead of logging --------------------------------------------------------------------------------

    def test_contents_that_are_there_are_found_and_nothing_moves(self, registry):
        commit(registry, "a", aliases=("best",))
        commit(registry, "b")
        revision = registry.revision()
        start(registry, "r1")
        found = commit(
            registry, "a", find=True, run="r1", aliases=("mine",), tags=("mine",), description="other", base=7
        )
        assert not found.created
        assert found.version == registry.version(NAME, 0)
        assert (found.version.aliases, found.version.tags, found.version.run) == (("best",), (), "")
        assert registry.aliases(NAME) == {"best": 0, "latest": 1}
        assert registry.revision() == revision
        assert linked(registry, runs=["r1"]) == [("r1", "reads", f"{NAME}:v0")]

    def test_contents_that_are_not_there_are_logged_and_used(self, registry):
        start(registry, "r1")
        once = request("a", find=True, run="r1", aliases=("mine",), tags=("mine",), type="model")
        made = registry.commit(once)
        assert made.created
        assert (made.version.aliases, made.version.tags, made.version.run) == (("latest", "mine"), ("mine",), "")
        assert registry.commit(once) == made
        assert linked(registry, runs=["r1"]) == [("r1", "reads", f"{NAME}:v0")]

    def test_what_is_looked_for_has_its_artifact_s_type(self, registry):
        commit(registry, "a", type="dataset")
        with pytest.raises(Conflict, match="'dataset', not 'model'"):
            commit(registry, "a", find=True, type="model")

    def test_sixteen_who_look_for_the_same_make_one_version_and_latest_never_moves_back(self, registry, open_registry):
        clients = [registry, open_registry()]
        commit(registry, "before")
        gate = threading.Barrier(17)
        seen: list[int] = []

        def look(number: int) -> tuple[int, bool]:
            gate.wait(30)
            result = commit(clients[number % 2], "same", find=True)
            return result.version.number, result.created

        def log() -> None:
            gate.wait(30)
            for contents in ("after", "later"):
                seen.append(commit(registry, contents).version.number)
                seen.append(registry.resolve(NAME, "latest").number)

        with ThreadPoolExecutor(17) as threads:
            looking = [threads.submit(look, number) for number in range(16)]
            threads.submit(log).result()
            results = [task.result() for task in looking]
        assert len({number for number, _ in results}) == 1
        assert sum(created for _, created in results) == 1
        assert len(registry.versions(NAME)) == 4
        assert seen == sorted(seen)
        assert registry.resolve(NAME, "latest").number == 3

    # -- drafts that several processes fill ------------------------------------------------------------------------

    def test_parts_are_kept_once_and_in_order(self, registry, open_registry):
        other = open_registry()
        first, second = (registry.open_session("writer", seconds=60) for _ in range(2))
        trees = sorted(digest(number) for number in range(5))
        for tree in reversed(trees):
            registry.add_part(NAME, "draft 1", tree, session=first)
            other.add_part(NAME, "draft 1", tree, session=first)
        other.add_part(NAME, "draft 1", trees[0], session=second)
        registry.add_part(NAME, "draft 2", trees[0], session=first)
        assert registry.parts(NAME, "draft 1") == other.parts(NAME, "draft 1") == trees
        assert registry.parts(NAME, "draft 2") == trees[:1]
        assert registry.parts("another", "draft 1") == []
        assert registry.parts("\udcff", "draft 1") == registry.parts(NAME, "\udcff") == []
        assert open_registry(project="cars").parts(NAME, "draft 1") == []
        assert registry.artifacts() == []

    def test_parts_go_with_the_commit_that_names_their_draft(self, registry):
        session = registry.open_session("writer", seconds=60)
        for draft in ("one", "two"):
            registry.add_part(NAME, draft, digest("part"), session=session)
            registry.add_part("another", draft, digest("part"), session=session)
        commit(registry, "a")
        with pytest.raises(Conflict):
            commit(registry, "b", draft="one", base=7)
        assert registry.parts(NAME, "one") == [digest("part")]
        once = request("b", draft="one", session=session)
        registry.commit(once)
        assert registry.parts(NAME, "one") == []
        assert registry.parts(NAME, "two") == registry.parts("another", "one") == [digest("part")]
        registry.commit(once)
        assert registry.parts(NAME, "two") == [digest("part")], "a repeat changes nothing"

    def test_parts_go_with_their_sessions(self, registry, clock):
        closed, expiring, living = (registry.open_session("writer", seconds=seconds) for seconds in (60, 60, 600))
        for number, session in enumerate((closed, expiring, living)):
            registry.add_part(NAME, "draft", digest(number), session=session)
            registry.add_part(NAME, "draft", digest("shared"), session=session)
        registry.close_session(closed)
        assert set(registry.parts(NAME, "draft")) == {digest(1), digest(2), digest("shared")}
        clock.now += 60
        for _ in range(2):  # what was left out would not be missed by anybody
            with pytest.raises(Conflict, match=r"1 of 3 parts of the draft 'draft' of .* were added too long ago"):
                registry.parts(NAME, "draft")
            registry.open_session("writer", seconds=60)  # which removes those that have expired, but for this
        registry.add_part(NAME, "draft", digest(1), session=living)
        assert set(registry.parts(NAME, "draft")) == {digest(1), digest(2), digest("shared")}
        clock.now += 31 * 86_400
        registry.open_session("writer", seconds=60)
        assert registry.parts(NAME, "draft") == []
        for session in (closed, expiring):
            with pytest.raises(Conflict, match=f"session {session} has expired or was closed"):
                registry.add_part(NAME, "draft", digest("more"), session=session)
        assert registry.check() == []

    def test_what_is_no_part_is_refused(self, registry):
        session = registry.open_session("writer", seconds=60)
        for name, draft, tree in (
            ("a/b", "draft", digest(1)),
            (NAME, "", digest(1)),
            (NAME, "x" * 129, digest(1)),
            (NAME, "draft", b"short"),
        ):
            with pytest.raises(InvalidInput):
                registry.add_part(name, draft, tree, session=session)
        with pytest.raises(Conflict):
            registry.add_part(NAME, "draft", digest(1), session=session + 1)
        assert registry.parts(NAME, "draft") == []

    def test_a_draft_that_was_committed_takes_no_more_parts(self, registry):
        session = registry.open_session("part", seconds=60)
        registry.add_part(NAME, "night", digest("part"), session=session)
        registry.add_part("another", "night", digest("part"), session=session)
        made = request("whole", draft="night", session=session)
        assert registry.commit(made).version.number == 0
        with pytest.raises(Conflict, match=f"'night' of {NAME} was finished as {NAME}:v0"):
            registry.add_part(NAME, "night", digest("late"), session=session)
        assert registry.parts(NAME, "night") == []
        registry.add_part(NAME, "next night", digest("late"), session=session)
        registry.add_part("another", "night", digest("more"), session=session)
        assert registry.commit(made).version.number == 0, "a repetition of the commit is answered as before"
        assert registry.commit(request("whole", draft="night")).created is False

    def test_many_fill_one_draft_at_once(self, registry, open_registry):
        clients = [registry, open_registry()]

        def fill(number: int) -> None:
            client = clients[number % 2]
            session = client.open_session("writer", seconds=600)
            for part in range(3):
                client.add_part(NAME, "draft", digest((number, part)), session=session)

        with ThreadPoolExecutor(8) as threads:
            list(threads.map(fill, range(16)))
        assert registry.parts(NAME, "draft") == sorted(digest((n, part)) for n in range(16) for part in range(3))

    # -- search ----------------------------------------------------------------------------------------------------

    def test_versions_are_found_by_all_that_is_given(self, registry, open_registry):
        for number in range(4):
            commit(
                registry, number, type="dataset", metadata={"rows": number}, tags=("even",) if number % 2 == 0 else ()
            )
        commit(registry, "m", artifact="model", type="model", metadata={"rows": 2}, aliases=("best",))
        commit(open_registry(project="cars"), "x", metadata={"rows": 2})

        def found(**query) -> list[str]:
            records = registry.find(Query(**query))
            assert records == [registry.version(record.artifact, record.number) for record in records]
            return [record.name for record in records]

        assert found() == [*(f"{NAME}:v{number}" for number in range(4)), "model:v0"]
        assert found(type="model") == found(alias="best") == ["model:v0"]
        assert found(artifact=NAME) == [f"{NAME}:v{number}" for number in range(4)]
        assert found(tag="even") == [f"{NAME}:v0", f"{NAME}:v2"]
        assert found(alias="latest") == [f"{NAME}:v3", "model:v0"]
        assert found(where="metadata.rows = 2") == [f"{NAME}:v2", "model:v0"]
        assert found(where="metadata.rows = 2", tag="even") == [f"{NAME}:v2"]
        assert found(artifact=NAME, sort=("-metadata.rows",), limit=2, offset=1) == [f"{NAME}:v2", f"{NAME}:v1"]
        assert found(artifact="nothing") == found(alias="nothing") == found(tag="nothing") == []

    def test_search_follows_what_changes(self, registry):
        commit(registry, "a", metadata={"rows": 1})
        commit(registry, "b", metadata={"rows": 1})

        def numbers(where: str) -> list[int]:
            return [version.number for version in registry.find(Query(where=where))]

        assert numbers("metadata.rows = 1") == [0, 1]
        registry.edit(NAME, 0, metadata={"rows": 2})
        registry.edit(NAME, 1, description="words")
        assert (numbers("metadata.rows = 1"), numbers("metadata.rows = 2")) == ([1], [0])
        commit(registry, "a", metadata={"rows": 3})
        assert numbers("metadata.rows = 2") == [0]
        registry.delete(NAME, 0)
        assert numbers("metadata.rows >= 1") == [1]

    def test_a_condition_that_is_none_is_refused_in_an_empty_project_too(self, registry):
        for wrong in (
            Query(where="metadata.rows >"),
            Query(where="nothing = 1"),
            Query(sort=("odd",)),
            Query(limit=-1),
        ):
            with pytest.raises(InvalidInput):
                registry.find(wrong)
        commit(registry, "a")
        with pytest.raises(InvalidInput):
            registry.find(Query(where="metadata.rows >"))

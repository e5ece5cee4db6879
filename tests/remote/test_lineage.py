"""A RemoteRegistry against a scripted server: search, deletion, drafts' parts, Runs and links; lost replies and answers in parts."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from artifactfs.errors import Conflict, Format, InvalidInput, NotFound, Unavailable
from artifactfs.model.lineage import Link, Links, NewRun, RunRecord
from artifactfs.model.query import Query
from artifactfs.model.records import CommitRequest, CommitResult, VersionRecord
from artifactfs.remote import wire
from artifactfs.remote.registry import RemoteRegistry
from tests.remote.conftest import hurry
from tests.remote.scripted import Asked, Line, ScriptedServer, drop, failure, message, reply

NAME = "bike-dataset"
PATH = f"artifacts/{NAME}/versions/1"


def version(number: int, *, tags: tuple[str, ...] = ()) -> VersionRecord:
    return VersionRecord(
        id=number + 1,
        artifact=NAME,
        type="dataset",
        number=number,
        digest=bytes([number % 256]) * 32,
        size=1000,
        files=10,
        entries=12,
        created=1,
        description="",
        metadata={"rows": number},
        aliases=(),
        tags=tags,
        updated=7,
        run="run-1",
    )


def run(name: str, *, started: int = 1) -> RunRecord:
    return RunRecord(
        id=name,
        name=f"the {name}",
        job_type="train",
        state="running",
        started=started,
        ended=None,
        config={"lr": 0.1},
        host="here",
        command=("python", "train.py"),
        commit_hash="abc+",
        exit_status=None,
        inputs=1,
        outputs=2,
    )


@pytest.fixture
def registry(connect) -> RemoteRegistry:
    return RemoteRegistry(connect(seconds=30.0), project="default", memory=None)


# -- what never is answered from memory --------------------------------------------------------------------------------

CALLS: list[tuple[str, Callable[[RemoteRegistry], object]]] = [
    ("POST find", lambda registry: registry.find(Query())),
    ("GET runs", lambda registry: registry.runs()),
    ("GET runs/one", lambda registry: registry.run("one")),
    ("POST links", lambda registry: registry.links(versions=[1])),
    ("POST runs", lambda registry: registry.start_run(NewRun(id="one", name="one"))),
    ("PUT runs/one/life", lambda registry: registry.renew_run("one", seconds=60)),
    ("PATCH runs/one", lambda registry: registry.update_run("one", state="finished")),
    ("POST runs/one/inputs", lambda registry: registry.add_inputs("one", [1])),
    (f"DELETE {PATH}", lambda registry: registry.delete(NAME, 1)),
    (f"POST artifacts/{NAME}/parts", lambda registry: registry.add_part(NAME, "draft", bytes(32), session=1)),
    (f"GET artifacts/{NAME}/parts", lambda registry: registry.parts(NAME, "draft")),
]
each_call = pytest.mark.parametrize(("path", "call"), CALLS, ids=[path for path, _ in CALLS])


def nothing(asked: Asked, line: Line) -> bool | None:
    answers: dict[str, object] = {
        "POST find": wire.Found([], 5),
        "GET runs": wire.Runs([]),
        "POST links": wire.Lineage([], [], []),
        f"GET artifacts/{NAME}/parts": wire.Digests([]),
    }
    found = answers.get(f"{asked.method} {asked.path}", run("one") if asked.path.startswith("runs") else None)
    return (reply(204) if found is None else message(found, revision=5))(asked, line)


@each_call
def test_each_is_one_request_and_nothing_is_remembered(server, connect, path, call):
    server.otherwise = nothing
    connection = connect(seconds=30.0)
    registry = RemoteRegistry(connection, project="default", memory=None)
    first = call(registry)
    assert call(registry) == first
    assert server.paths == [path] * 2
    server.deafen()
    hurry(connection)
    with pytest.raises(Unavailable, match="cannot reach"):
        call(registry)


@each_call
def test_each_is_asked_again_when_its_reply_is_lost(server, registry, path, call):
    server.otherwise = nothing
    server.script.append(drop)
    call(registry)
    assert server.paths[0] == path
    assert server.paths[-1] == path
    assert len(server.asked) == (3 if path.startswith("DELETE") else 2)


@each_call
def test_a_server_without_them_is_refused_whole(server, connection, path, call):
    server.otherwise = reply(404, b"{}", {"Content-Type": wire.JSON}, protocol=1)
    registry = RemoteRegistry(connection, project="default", memory=None)
    with pytest.raises(Format, match=r"speaks protocol 1, too old for this side \(2 to 2\); upgrade it"):
        call(registry)


# -- search ------------------------------------------------------------------------------------------------------------

QUERY = Query(type="dataset", where="metadata.rows > 3", sort=("-metadata.rows",))


class Shelf:
    """Versions in an order, of which an answer holds ``most``."""

    def __init__(self, server: ScriptedServer, count: int, most: int) -> None:
        self.versions = [version(number) for number in range(count)]
        self.most = most
        self.revision = 5
        self.asked: list[Query] = []
        self.between: Callable[[], None] = lambda: None  # after each answer
        server.otherwise = self.answer

    def answer(self, asked: Asked, line: Line) -> bool | None:
        query: Query = asked.message(Query)
        self.asked.append(query)
        end = len(self.versions) if query.limit is None else query.offset + query.limit
        rest = self.versions[query.offset : end]
        found = wire.Found(rest[: self.most], self.revision, more=len(rest) > self.most)
        revision = self.revision
        done = message(found, revision=revision)(asked, line)
        self.between()
        return done


def test_what_is_looked_for_goes_to_the_server_as_it_is(server, registry):
    server.otherwise = message(wire.Found([version(4, tags=("good",))], 5), revision=5)
    assert registry.find(QUERY) == [version(4, tags=("good",))]
    assert server.paths == ["POST find"]
    assert server.asked[0].message(Query) == QUERY


@pytest.mark.parametrize(
    ("limit", "offset", "requests"),
    [(None, 0, 3), (None, 20, 1), (10, 0, 1), (11, 0, 2), (25, 0, 3), (5, 22, 1), (0, 0, 1)],
)
def test_a_long_result_comes_in_parts(server, registry, limit, offset, requests):
    shelf = Shelf(server, 25, 10)
    end = None if limit is None else offset + limit
    assert registry.find(Query(limit=limit, offset=offset)) == shelf.versions[offset:end]
    assert len(server.asked) == requests


def test_a_result_whose_parts_are_of_two_states_is_asked_for_anew(server, registry):
    shelf = Shelf(server, 25, 10)

    def deleted() -> None:
        if len(shelf.asked) == 1:
            del shelf.versions[3]
            shelf.revision += 1

    shelf.between = deleted
    assert registry.find(Query()) == shelf.versions
    assert [query.offset for query in shelf.asked] == [0, 10, 20, 0, 10, 20]


def test_a_project_that_never_rests_is_searched_three_times(server, registry):
    shelf = Shelf(server, 25, 10)

    def change() -> None:
        shelf.versions.insert(0, version(100 + shelf.revision))
        shelf.revision += 1

    shelf.between = change
    found = registry.find(Query())
    assert [query.offset for query in shelf.asked].count(0) == 3
    assert len({record.id for record in found}) == len(found) >= 25


def test_a_server_that_promises_more_and_gives_nothing_is_not_asked_for_ever(server, registry):
    server.otherwise = message(wire.Found([], 5, more=True), revision=5)
    assert registry.find(Query()) == []
    server.otherwise = message(wire.Runs([], more=True))
    assert registry.runs() == []
    server.otherwise = message(wire.Lineage([], [], [], more=True))
    assert registry.links(runs=["one"]) == Links([], [], [])
    assert len(server.asked) == 3


def test_what_is_wrong_with_a_condition_is_told(server, registry):
    server.otherwise = failure(400, "invalid-input", "unexpected 'x' at character 12")
    with pytest.raises(InvalidInput, match="unexpected 'x' at character 12"):
        registry.find(QUERY)
    with pytest.raises(InvalidInput, match="not to be sent"):
        registry.find(Query(where="\udcff"))
    assert len(server.asked) == 1


# -- tags, and what a commit says --------------------------------------------------------------------------------------


def test_tags_are_replaced(server, registry):
    server.otherwise = message(version(1, tags=("a", "b")), revision=6)
    assert registry.edit(NAME, 1, tags=("a", "b")).tags == ("a", "b")
    registry.edit(NAME, 1, tags=())
    registry.edit(NAME, 1, description="words")
    assert [asked.message(wire.Edit) for asked in server.asked] == [
        wire.Edit(tags=["a", "b"]),
        wire.Edit(tags=[]),
        wire.Edit("words"),
    ]


def test_a_commit_bears_its_run_and_its_tags(server, registry):
    result = CommitResult(version(1, tags=("good",)), created=False)
    server.otherwise = message(result, revision=6)
    request = CommitRequest(
        commit_id="one", artifact=NAME, type=None, digest=bytes(32), size=1, files=1, entries=1,
        tags=("good",), run="run-1", find=True, draft="group 7/a",
    )  # fmt: skip
    assert registry.commit(request) == result
    assert server.asked[0].message(CommitRequest) == request


# -- deletion ----------------------------------------------------------------------------------------------------------


def test_a_deletion_says_whether_aliases_may_go_too(server, registry):
    server.otherwise = reply(204)
    registry.delete(NAME, 1)
    registry.delete(NAME, 1, delete_aliases=True)
    assert server.paths == [f"DELETE {PATH}"] * 2
    assert [asked.words for asked in server.asked] == [{}, {"delete_aliases": "true"}]


@pytest.mark.parametrize("lost", [drop, reply(200, b"x", length=100), reply(504, protocol=None)])
def test_a_deletion_whose_reply_is_lost_succeeds_when_the_version_is_gone(server, registry, lost):
    server.script.append(lost)
    registry.delete(NAME, 1)
    assert server.paths == [f"DELETE {PATH}", f"GET {PATH}"]


def test_a_deletion_that_was_not_carried_out_is_repeated(server, registry):
    server.script += [drop, message(version(1)), drop, reply(204)]
    registry.delete(NAME, 1, delete_aliases=True)
    assert server.paths == [f"DELETE {PATH}", f"GET {PATH}", f"DELETE {PATH}", f"DELETE {PATH}"]
    assert [asked.words for asked in server.asked if asked.method == "DELETE"] == [{"delete_aliases": "true"}] * 3


def test_the_repetition_of_a_deletion_may_lose_its_reply_too(server, registry):
    server.script += [drop, message(version(1)), drop]
    registry.delete(NAME, 1)
    assert server.paths == [f"DELETE {PATH}", f"GET {PATH}", f"DELETE {PATH}", f"DELETE {PATH}"]


def test_a_deletion_that_is_refused_is_told(server, registry):
    server.script += [
        failure(409, "conflict", "bike-dataset:v1 has the alias best"),
        failure(404, "not-found", "there is no v1"),
        drop,
        message(version(1)),
        failure(409, "conflict", "bike-dataset:v1 has the alias best"),
    ]
    with pytest.raises(Conflict, match="has the alias best"):
        registry.delete(NAME, 1)
    with pytest.raises(NotFound, match="there is no v1"):
        registry.delete(NAME, 1)
    with pytest.raises(Conflict, match="has the alias best"):
        registry.delete(NAME, 1)
    with pytest.raises(NotFound, match=f"there is no {NAME}:v-1"):
        registry.delete(NAME, -1)
    assert len(server.asked) == 5


def test_a_deletion_is_seen_at_once(server, registry):
    server.script += [message(wire.Revision(5), revision=5), reply(204, headers={wire.REVISION_HEADER: 6})]
    registry.changed(0, seconds=10)
    registry.delete(NAME, 1)
    assert registry.revision() == 6


# -- parts of drafts ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("draft", ["group-7", "a/b", "..", ".", "größe 7%?&=#"])
def test_any_draft_finds_its_way_through_the_url(server, registry, draft):
    server.script += [reply(204), message(wire.Digests([b"\1" * 32]))]
    registry.add_part(NAME, draft, b"\1" * 32, session=7)
    assert registry.parts(NAME, draft) == [b"\1" * 32]
    assert server.paths == [f"POST artifacts/{NAME}/parts", f"GET artifacts/{NAME}/parts"]
    assert server.asked[0].message(wire.Part) == wire.Part(draft, b"\1" * 32, 7)
    assert server.asked[1].words == {"draft": draft}


def test_names_that_cannot_be_have_no_parts(server, registry):
    assert registry.parts("a/b", "draft") == []
    assert registry.parts(NAME, "\udcff") == []
    with pytest.raises(InvalidInput, match="not an artifact name"):
        registry.add_part("a/b", "draft", bytes(32), session=1)
    assert server.asked == []


# -- runs --------------------------------------------------------------------------------------------------------------


def test_a_run_is_started_renewed_changed_and_ended(server, registry):
    server.script += [message(run("one")), reply(204), message(run("one")), message(run("one"))]
    new = NewRun(id="one", name="the one", job_type="train", config={"lr": 0.1}, command=("a", "b"), seconds=90.0)
    assert registry.start_run(new) == run("one")
    registry.renew_run("one", seconds=60.0)
    assert registry.update_run("one", config={"lr": 0.2}) == run("one")
    registry.update_run("one", state="failed", exit_status=-9)
    assert server.paths == ["POST runs", "PUT runs/one/life", "PATCH runs/one", "PATCH runs/one"]
    assert server.asked[0].message(NewRun) == new
    assert server.asked[1].message(wire.RunLife) == wire.RunLife(60.0)
    assert server.asked[2].message(wire.RunChange) == wire.RunChange({"lr": 0.2})
    assert server.asked[3].message(wire.RunChange) == wire.RunChange(None, "failed", -9)


def test_a_run_that_is_not_there_is_absent(server, registry):
    server.otherwise = failure(404, "not-found", "there is no run 'gone'")
    assert registry.run("gone") is None
    with pytest.raises(NotFound, match="there is no run 'gone'"):
        registry.renew_run("gone", seconds=60)


@pytest.mark.parametrize("name", ["", "..", "a/b", "a b", "x" * 65, "\udcff", "é"])
def test_ids_that_cannot_be_are_told_without_a_request(server, registry, name):
    assert registry.run(name) is None
    assert registry.links(runs=[name]) == Links([], [], [])
    for call in (
        lambda: registry.renew_run(name, seconds=60),
        lambda: registry.update_run(name, state="finished"),
        lambda: registry.add_inputs(name, [1]),
    ):
        with pytest.raises(InvalidInput, match="not the id of a run"):
            call()
    assert server.asked == []


def test_runs_are_asked_for_by_what_they_are(server, registry):
    server.otherwise = message(wire.Runs([run("b"), run("a")]))
    assert registry.runs(job_type="trän & co", state="failed", name="n=1?", limit=5, offset=2) == [run("b"), run("a")]
    registry.runs()
    assert [asked.words for asked in server.asked] == [
        {"job_type": "trän & co", "state": "failed", "name": "n=1?", "offset": "2", "limit": "5"},
        {"offset": "0"},
    ]
    assert registry.runs(name="\udcff") == registry.runs(job_type="\udcff") == []
    with pytest.raises(InvalidInput, match="not to be sent"):
        registry.runs(state="\udcff")
    assert len(server.asked) == 2


def test_many_runs_come_in_parts_each_once(server, registry):
    there = [run(f"run-{number}") for number in range(25)]

    def answer(asked: Asked, line: Line) -> bool | None:
        begin = int(asked.words["offset"])
        rest = there[begin : begin + int(asked.words.get("limit", 1000))]
        done = message(wire.Runs(rest[:10], more=len(rest) > 10))(asked, line)
        there.insert(0, run(f"later-{begin}"))
        return done

    server.otherwise = answer
    assert [record.id for record in registry.runs()] == [f"run-{number}" for number in range(25)]
    assert [asked.words["offset"] for asked in server.asked] == ["0", "10", "20"]
    assert len(registry.runs(limit=11)) == 10  # one started meanwhile
    assert server.asked[-1].words == {"offset": "10", "limit": "1"}


def test_inputs_go_as_many_at_once_as_a_message_holds(server, registry, monkeypatch):
    monkeypatch.setattr(wire, "BATCH", 100)
    server.otherwise = reply(204)
    registry.add_inputs("one", range(1, 251))
    assert [asked.message(wire.Inputs).versions for asked in server.asked] == [
        list(range(1, 101)),
        list(range(101, 201)),
        list(range(201, 251)),
    ]
    registry.add_inputs("one", [])  # whether there is such a run is the server's to say
    assert server.asked[-1].message(wire.Inputs).versions == []
    assert server.paths == ["POST runs/one/inputs"] * 4


@pytest.mark.parametrize("identity", [0, -1, 2**63, 10**30])
def test_versions_that_cannot_be_are_no_inputs_and_have_no_links(server, registry, identity):
    with pytest.raises(NotFound, match=f"no version with the id {identity} in this project"):
        registry.add_inputs("one", [1, identity])
    assert registry.links(versions=[identity]) == Links([], [], [])
    assert server.asked == []


# -- links -------------------------------------------------------------------------------------------------------------


class Graph:
    """Links with what they name, as a server answers from it; an answer holds ``most`` links."""

    def __init__(self, server: ScriptedServer, links: list[Link], most: int = 1000) -> None:
        self.links = links
        self.most = most
        self.wanted: list[wire.LinksWanted] = []
        server.otherwise = self.answer

    def answer(self, asked: Asked, line: Line) -> bool | None:
        wanted: wire.LinksWanted = asked.message(wire.LinksWanted)
        self.wanted.append(wanted)
        found = [link for link in self.links if link.version in wanted.versions or link.run in wanted.runs]
        rest = found[wanted.after :]
        taken = rest[: self.most]
        # v5 was deleted: links to it stay, its record does not.
        identities = dict.fromkeys(link.version for link in taken if link.version != 6)
        answer = wire.Lineage(
            taken,
            [run(name) for name in dict.fromkeys(link.run for link in taken)],
            [version(identity - 1) for identity in identities],
            more=len(rest) > self.most,
        )
        return message(answer)(asked, line)


LINKS = [Link(f"run-{number % 3}", number + 1, number % 2 == 1, number) for number in range(9)]
ALL = Links(LINKS, [run("run-0"), run("run-1"), run("run-2")], [version(number) for number in range(9) if number != 5])


def test_links_come_with_what_they_name(server, registry):
    graph = Graph(server, LINKS)
    assert registry.links(versions=range(1, 10), runs=["run-0", "run-1"]) == ALL
    assert graph.wanted == [wire.LinksWanted(list(range(1, 10)), ["run-0", "run-1"])]
    assert registry.links() == Links([], [], [])
    assert len(graph.wanted) == 1


def test_many_links_come_in_parts_each_once(server, registry):
    graph = Graph(server, LINKS, most=4)
    assert registry.links(versions=range(1, 10)) == ALL
    assert [wanted.after for wanted in graph.wanted] == [0, 4, 8]


def test_any_number_of_versions_and_runs_is_asked_for_in_batches(server, registry, monkeypatch):
    monkeypatch.setattr(wire, "BATCH", 5)
    graph = Graph(server, LINKS, most=2)
    assert registry.links(versions=range(1, 10), runs=["run-0", "run-1", "run-2"]) == ALL
    assert all(len(wanted.versions) + len(wanted.runs) <= 5 for wanted in graph.wanted)
    asked = [(wanted.versions, wanted.runs) for wanted in graph.wanted if wanted.after == 0]
    assert asked == [([1, 2, 3, 4, 5], []), ([6, 7, 8, 9], []), ([], ["run-0", "run-1", "run-2"])]

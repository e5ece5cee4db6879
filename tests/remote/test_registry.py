"""A RemoteRegistry against a scripted server: how often it asks, what it knows without a network, and lost replies."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from artifactfs.errors import Conflict, Format, InvalidInput, NotFound, Unavailable
from artifactfs.model.records import (
    ArtifactRecord,
    ChunkRow,
    CommitRequest,
    CommitResult,
    Location,
    PackRow,
    VersionRecord,
)
from artifactfs.remote import wire
from artifactfs.remote.answers import Answers
from artifactfs.remote.registry import RemoteRegistry
from tests.conftest import eventually
from tests.remote.conftest import hurry
from tests.remote.scripted import Asked, Line, ScriptedServer, drop, failure, message, reply, stall

NAME = "bike-dataset"


def record(number: int, *aliases: str, name: str = NAME) -> VersionRecord:
    return VersionRecord(
        id=number + 1,
        artifact=name,
        type="dataset",
        number=number,
        digest=bytes([number]) * 32,
        size=1000,
        files=10,
        entries=12,
        created=1,
        description="",
        metadata={"rows": number},
        aliases=aliases,
    )


def digest(number: int) -> bytes:
    return number.to_bytes(32, "big")


class Book:
    """What a project holds, as a server answers from it; ``polls`` wait until it changes."""

    def __init__(self, server: ScriptedServer) -> None:
        self.server = server
        self.revision = 5
        self.versions = {NAME: [record(0, "best"), record(1, "latest")]}
        self.changes = threading.Condition()
        server.otherwise = self.answer

    def change(self, revision: int) -> None:
        with self.changes:
            self.revision = revision
            self.changes.notify_all()

    def answer(self, asked: Asked, line: Line) -> bool | None:
        if asked.path == "revision":
            with self.changes:
                seconds = float(asked.words.get("seconds", 0))
                wanted = int(asked.words.get("after", -1))
                self.changes.wait_for(lambda: self.revision != wanted or self.server.closing.is_set(), seconds)
            found: object = wire.Revision(self.revision)
        else:
            found = self.find(asked)
        if found is None:
            return failure(404, "not-found", f"there is no {asked.path}")(asked, line)
        return message(found, revision=self.revision)(asked, line)

    def find(self, asked: Asked) -> object:
        parts = asked.path.split("/")
        if asked.path == "artifacts":
            return wire.Artifacts([self.artifact(name) for name in sorted(self.versions)])
        records = self.versions.get(parts[1], [])
        match parts[2:]:
            case []:
                return self.artifact(parts[1]) if records else None
            case ["versions"]:
                return wire.Versions(records)
            case ["aliases"]:
                return wire.Aliases({alias: one.number for one in records for alias in one.aliases})
            case ["versions", number]:
                return next((one for one in records if one.number == int(number)), None)
            case ["aliases", alias]:
                return next((one for one in records if alias in one.aliases), None)
            case ["digests", text]:
                return next((one for one in records if one.digest.hex() == text), None)
        raise AssertionError(asked.path)

    def artifact(self, name: str) -> ArtifactRecord:
        records = self.versions[name]
        return ArtifactRecord(
            id=1, name=name, type="dataset", created=1, latest=records[-1].number, versions=len(records)
        )


@pytest.fixture
def book(server: ScriptedServer) -> Iterator[Book]:
    opened = Book(server)
    yield opened
    server.closing.set()
    opened.change(opened.revision)


class Kept(dict[str, bytes]):
    """A Memory."""

    def __init__(self) -> None:
        super().__init__()
        self.writes = 0

    def remember(self, key: str, value: bytes) -> None:
        self.writes += 1
        self[key] = value

    def recall(self, key: str) -> bytes | None:
        return self.get(key)


@pytest.fixture
def memory() -> Kept:
    return Kept()


@pytest.fixture
def open_registry(connect, memory) -> Callable[..., RemoteRegistry]:
    def call(project: str = "default", **bounds: float) -> RemoteRegistry:
        return RemoteRegistry(connect(**({"seconds": 30.0} | bounds)), project=project, memory=memory)

    return call


@pytest.fixture
def registry(open_registry) -> RemoteRegistry:
    return open_registry()


READS: list[tuple[str, Callable[[RemoteRegistry], object]]] = [
    ("artifacts", lambda registry: registry.artifacts()),
    (f"artifacts/{NAME}", lambda registry: registry.artifact(NAME)),
    (f"artifacts/{NAME}/versions", lambda registry: registry.versions(NAME)),
    (f"artifacts/{NAME}/versions/1", lambda registry: registry.version(NAME, 1)),
    (f"artifacts/{NAME}/aliases", lambda registry: registry.aliases(NAME)),
    (f"artifacts/{NAME}/aliases/best", lambda registry: registry.resolve(NAME, "best")),
    (f"artifacts/{NAME}/digests/{'01' * 32}", lambda registry: registry.find_digest(NAME, b"\1" * 32)),
    ("revision", lambda registry: registry.revision()),
]
each_read = pytest.mark.parametrize(("path", "read"), READS, ids=[path for path, _ in READS])


# -- reading -----------------------------------------------------------------------------------------------------------


@each_read
def test_a_question_is_one_request_and_asked_again_each_time(server, book, registry, path, read):
    first = read(registry)
    assert first
    assert read(registry) == first
    assert server.paths == [f"GET {path}"] * 2


def test_answers_are_what_the_server_holds(book, registry):
    assert registry.project == "default"
    assert registry.online
    assert registry.revision() == 5
    assert registry.artifacts() == [book.artifact(NAME)]
    assert registry.artifact(NAME) == book.artifact(NAME)
    assert registry.versions(NAME) == book.versions[NAME]
    assert registry.version(NAME, 0) == book.versions[NAME][0]
    assert registry.resolve(NAME, "latest") == book.versions[NAME][1]
    assert registry.find_digest(NAME, bytes(32)) == book.versions[NAME][0]
    assert registry.aliases(NAME) == {"best": 0, "latest": 1}


def test_what_is_not_there_is_absent(book, registry):
    assert registry.artifact("other") is None
    assert registry.versions("other") == []
    assert registry.version(NAME, 7) is None
    assert registry.resolve(NAME, "größte 🚲 %s?") is None
    assert registry.find_digest(NAME, b"\7" * 32) is None
    assert registry.aliases("other") == {}


def test_any_alias_finds_its_way_through_the_url(server, book, registry):
    for alias in ("größte 🚲 %s?", "a+b&c=d#e", "%2F", "..."):
        book.versions[NAME] = [record(0, alias)]
        assert registry.resolve(NAME, alias) == record(0, alias)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "\udcff", "x" * 5000, "a\0b", "ä", ".artifactfs"])
def test_names_that_cannot_be_are_absent_without_a_request(server, registry, name):
    assert registry.artifact(name) is None
    assert registry.versions(name) == []
    assert registry.version(name, 0) is None
    assert registry.resolve(name, "latest") is None
    assert registry.find_digest(name, bytes(32)) is None
    assert registry.aliases(name) == {}
    assert server.asked == []


def test_numbers_aliases_and_digests_that_cannot_be_are_absent_without_a_request(server, registry):
    assert registry.version(NAME, -1) is None
    assert registry.version(NAME, 10**30) is None
    for alias in ("", ".", "..", "a/b", "a\0b", "v1", "\udcff", "x" * 5000):
        assert registry.resolve(NAME, alias) is None
    assert registry.find_digest(NAME, b"short") is None
    assert server.asked == []


def test_a_project_has_a_name(connect):
    with pytest.raises(InvalidInput):
        RemoteRegistry(connect(), project="a/b", memory=None)


# -- the revision ------------------------------------------------------------------------------------------------------


def test_while_followed_the_revision_costs_no_request(server, book, registry):
    assert registry.changed(0, seconds=10) == 5
    assert [registry.revision() for _ in range(100)] == [5] * 100
    assert len(server.asked) == 1


def test_while_followed_nothing_is_asked_twice_at_one_revision(server, book, registry):
    registry.changed(0, seconds=10)
    answers = [read(registry) for _, read in READS]
    asked = len(server.asked)
    for _ in range(10):
        assert [read(registry) for _, read in READS] == answers
    assert len(server.asked) == asked
    book.change(6)
    assert registry.changed(5, seconds=10) == 6
    asked = len(server.asked)
    assert [read(registry) for _, read in READS[:-1]] == answers[:-1]
    assert len(server.asked) > asked


def test_one_answer_serves_the_questions_about_its_parts(server, book, registry):
    registry.changed(0, seconds=10)
    registry.artifacts()
    registry.versions(NAME)
    asked = len(server.asked)
    for path, read in READS:
        assert read(registry), path
    assert registry.version(NAME, 7) is None
    assert registry.artifact("other") is None
    assert len(server.asked) == asked


def test_what_is_handed_out_may_be_changed(server, book, registry):
    registry.changed(0, seconds=10)
    registry.artifacts().clear()
    registry.versions(NAME).clear()
    registry.aliases(NAME).clear()
    assert registry.artifacts()
    assert registry.versions(NAME)
    assert registry.aliases(NAME)


def test_a_change_made_elsewhere_ends_the_wait(server, book, registry):
    threading.Thread(target=lambda: (eventually(lambda: server.asked), book.change(6))).start()
    assert registry.changed(5, seconds=30) == 6
    assert registry.revision() == 6
    assert len(server.asked) == 1


def test_a_wait_without_news_ends_with_what_is(server, book, registry):
    assert registry.changed(5, seconds=0.05) == 5
    assert registry.changed(5, seconds=0) == 5
    assert len(server.asked) <= 3


def test_a_long_wait_is_several_polls_of_what_a_server_allows(server, book, registry, monkeypatch):
    monkeypatch.setattr(wire, "POLL_SECONDS", 0.05)
    threading.Thread(target=lambda: (eventually(lambda: len(server.asked) >= 3), book.change(6))).start()
    assert registry.changed(5, seconds=30) == 6
    assert len(server.asked) >= 3
    assert all(float(asked.words["seconds"]) <= 0.05 for asked in server.asked)


def test_polls_that_end_early_are_not_repeated_without_a_pause(server, book, registry):
    server.otherwise = message(wire.Revision(5), revision=5)  # a server that stops ends them all
    assert registry.changed(5, seconds=0.5) == 5
    assert len(server.asked) <= 4


def test_every_answer_tells_the_revision(server, book, registry):
    registry.changed(0, seconds=10)
    book.revision = 8
    assert registry.versions("other") == []
    assert registry.revision() == 8
    assert registry.changed(5, seconds=10) == 8  # at once, as it is known
    assert len(server.asked) == 2


def test_an_answer_from_before_a_change_is_not_taken_for_one_from_after_it(server, book, registry):
    """The header is of the time after the answer was read: a change may lie between the two."""
    registry.changed(0, seconds=10)
    old = list(book.versions[NAME])

    def overtaken(asked: Asked, line: Line):
        book.revision = 6
        book.versions[NAME] = [*old, record(2)]
        return message(wire.Versions(old), revision=6)(asked, line)

    server.script.append(overtaken)
    assert registry.versions(NAME) == old
    assert registry.revision() == 6
    assert registry.versions(NAME) == [*old, record(2)]


def test_answers_that_overtake_each_other_do_not_turn_the_revision_back(server, book, registry):
    registry.changed(0, seconds=10)
    slow = threading.Event()

    def late(asked: Asked, line: Line):
        slow.wait(60)
        return message(wire.Versions([]), revision=5)(asked, line)

    server.script.append(late)
    thread = threading.Thread(target=lambda: registry.versions(NAME))
    thread.start()
    eventually(lambda: len(server.asked) == 2)
    book.revision = 7
    registry.aliases(NAME)
    assert registry.revision() == 7
    slow.set()
    thread.join()
    assert registry.revision() == 7


def test_a_server_put_back_to_an_earlier_state_is_believed(server, book, registry):
    registry.changed(0, seconds=10)
    book.change(9)
    registry.changed(5, seconds=10)
    registry.versions(NAME)
    book.versions[NAME] = [record(0)]
    book.change(3)
    assert registry.changed(9, seconds=10) == 3
    assert registry.revision() == 3
    assert registry.versions(NAME) == [record(0)]
    book.versions[NAME] = [record(0), record(1), record(2)]
    book.change(9)  # the same number again, and something else
    assert registry.changed(3, seconds=10) == 9
    assert len(registry.versions(NAME)) == 3


def test_close_ends_a_wait(server, book, registry):
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(registry.changed(5, seconds=60)))
    thread.start()
    eventually(lambda: server.asked)
    registry.close()
    thread.join(60)
    assert found == [5]
    registry.close()


def test_a_server_that_cannot_be_reached_is_told_to_who_follows(server, book, registry):
    registry.changed(0, seconds=10)
    server.deafen()
    for _ in range(3):
        with pytest.raises(Unavailable, match="cannot reach"):
            registry.changed(5, seconds=10)
    assert not registry.online
    assert registry.revision() == 5
    server.listen()
    book.change(6)
    assert registry.changed(5, seconds=10) == 6
    assert registry.online


def test_a_stalled_poll_is_noticed(server, book, open_registry):
    registry = open_registry(seconds=0.5, silence=0.1)
    server.otherwise = stall
    with pytest.raises(Unavailable, match="does not answer"):
        registry.changed(5, seconds=0.05)
    assert not registry.online
    eventually(lambda: server.asked)  # it may read what was given up meanwhile
    assert len(server.asked) == 1


# -- without a network -------------------------------------------------------------------------------------------------


@each_read
def test_what_was_asked_once_is_known_without_a_network(server, book, open_registry, path, read):
    answer = read(open_registry())
    server.deafen()
    registry = open_registry()  # as in another process
    assert read(registry) == answer
    assert not registry.online
    for _ in range(10):
        assert read(registry) == answer


@each_read
def test_what_was_never_asked_is_unavailable_at_once(server, open_registry, long_rests, path, read):
    server.deafen()
    registry = open_registry(seconds=600.0)
    for _ in range(5):
        with pytest.raises(Unavailable, match="cannot reach"):
            read(registry)
    assert registry._connection.requests == 1


def test_a_fresh_process_without_a_network_makes_one_attempt(server, book, open_registry, long_rests):
    first = open_registry()
    answers = [read(first) for _, read in READS]
    server.deafen()
    registry = open_registry(seconds=600.0)
    assert [read(registry) for _, read in READS] == answers
    assert registry._connection.requests == 1


def test_parts_of_what_was_asked_are_known_without_a_network(server, book, open_registry):
    first = open_registry()
    first.artifacts()
    first.versions(NAME)
    server.deafen()
    registry = open_registry()
    for _, read in READS[:-1]:
        assert read(registry)
    with pytest.raises(Unavailable):  # not known to be absent
        registry.resolve(NAME, "newest")


@pytest.mark.parametrize("last", ["alias", "list"])
def test_of_two_answers_the_later_counts(server, book, open_registry, last):
    first = open_registry()
    reads = [lambda: first.resolve(NAME, "best"), lambda: first.versions(NAME)]
    if last == "alias":
        reads.reverse()
    reads[0]()
    book.revision = 6
    book.versions[NAME] = [record(0), record(1, "latest", "best")]
    reads[1]()
    server.deafen()
    for registry in (first, open_registry()):
        assert registry.resolve(NAME, "best").number == 1


def test_what_vanished_is_not_shown_again(server, book, open_registry, memory):
    open_registry().version(NAME, 0)
    book.versions[NAME] = [record(1)]
    assert open_registry().version(NAME, 0) is None
    server.deafen()
    with pytest.raises(Unavailable):
        open_registry().version(NAME, 0)


def test_an_outage_during_a_mount_costs_no_wait_and_no_flood(server, book, open_registry):
    registry = open_registry(seconds=600.0)
    registry.changed(0, seconds=10)
    answers = [read(registry) for _, read in READS]
    server.deafen()
    with pytest.raises(Unavailable):
        registry.changed(5, seconds=10)
    requests = registry._connection.requests
    for _ in range(20):
        assert [read(registry) for _, read in READS] == answers
    assert registry._connection.requests == requests


def test_projects_and_servers_are_remembered_apart(server, book, open_registry):
    open_registry().versions(NAME)
    server.deafen()
    with pytest.raises(Unavailable):
        open_registry(project="other").versions(NAME)


def test_memory_is_written_when_something_changed_only(server, book, registry, memory):
    registry.changed(0, seconds=10)
    registry.versions(NAME)
    writes = memory.writes
    for _ in range(10):
        registry.versions(NAME)
        registry.changed(5, seconds=0)
    assert memory.writes == writes


def test_damaged_memory_is_as_if_forgotten(server, book, open_registry, memory):
    open_registry().versions(NAME)
    for damage in (b"", b"\xc1", wire.encode([1, b"\xc1"]), wire.encode([1, wire.encode(7)]), wire.encode("x")):
        for key in memory:
            memory[key] = damage
        server.deafen()
        with pytest.raises(Unavailable):
            open_registry().versions(NAME)
        server.listen()


def test_without_memory_this_process_s_own_answers_serve(server, book, connect):
    connection = connect(seconds=30.0)
    registry = RemoteRegistry(connection, project="default", memory=None)
    versions = registry.versions(NAME)
    server.deafen()
    hurry(connection)
    assert registry.versions(NAME) == versions
    with pytest.raises(Unavailable):
        registry.artifacts()


def test_answers_in_memory_are_bounded(server, book, connect, monkeypatch):
    registry = RemoteRegistry(connect(), project="default", memory=None)
    monkeypatch.setattr(registry, "_answers", Answers(None, "", limit=3000))
    for number in range(50):
        registry.version(NAME, number)
    assert len(registry._answers._held) <= 5
    assert registry._answers._bytes <= 3000


def test_a_restart_is_waited_for_by_who_has_no_other_answer(server, book, open_registry):
    registry = open_registry(seconds=30.0)
    registry._connection._shortest_rest = 0.03
    registry.artifacts()
    server.deafen()

    def restart() -> None:
        eventually(lambda: registry._connection.requests >= 3)
        server.listen()

    thread = threading.Thread(target=restart)
    thread.start()
    assert registry.versions(NAME) == book.versions[NAME]
    thread.join()


def test_a_busy_server_is_waited_for_and_never_replaced_by_old_answers(server, book, registry, monkeypatch):
    monkeypatch.setattr("artifactfs.remote.client.PROXY_SECONDS", 30.0)
    registry.versions(NAME)
    book.versions[NAME] = [record(0)]
    server.script += [failure(503, "unavailable", "busy", **{"Retry-After": "0"}), drop, reply(502, protocol=None)]
    assert registry.versions(NAME) == [record(0)]
    assert len(server.asked) == 5


def test_a_proxy_whose_server_stays_away_is_as_no_network(server, book, open_registry, long_rests):
    registry = open_registry(seconds=600.0)
    versions = registry.versions(NAME)
    server.otherwise = reply(502, protocol=None)
    assert registry.versions(NAME) == versions
    assert not registry.online
    asked = len(server.asked)
    assert registry.versions(NAME) == versions
    assert len(server.asked) == asked, "left alone for a while"


def test_somebody_else_who_answers_is_as_no_network(server, book, registry):
    versions = registry.versions(NAME)
    server.otherwise = reply(200, b"<html>please log in</html>", protocol=None)
    assert registry.versions(NAME) == versions
    assert not registry.online
    with pytest.raises(Format):
        registry.artifacts()


# -- writing -----------------------------------------------------------------------------------------------------------

COMMIT = CommitRequest(commit_id="one", artifact=NAME, type=None, digest=bytes(32), size=1, files=1, entries=1)
RESULT = CommitResult(record(2, "latest"), created=True)


@pytest.mark.parametrize("lost", [drop, reply(200, b"x", length=100), reply(504, protocol=None)])
def test_a_commit_whose_reply_is_lost_is_asked_again_by_the_same_id(server, book, registry, lost):
    server.script += [lost, lost, message(RESULT, revision=6)]
    assert registry.commit(COMMIT) == RESULT
    assert server.paths == ["POST commits"] * 3
    assert {asked.message(CommitRequest).commit_id for asked in server.asked} == {"one"}


def test_an_own_commit_is_seen_at_once(server, book, registry):
    registry.changed(0, seconds=10)
    server.script.append(message(RESULT, revision=6))
    registry.commit(COMMIT)
    assert registry.revision() == 6


def test_a_conflict_is_told_and_not_repeated(server, registry):
    server.otherwise = failure(409, "conflict", "latest has moved; rebase")
    with pytest.raises(Conflict, match="latest has moved; rebase"):
        registry.commit(COMMIT)
    assert len(server.asked) == 1


def test_nothing_is_written_without_a_network(server, book, registry):
    server.deafen()
    with pytest.raises(Unavailable, match="cannot reach"):
        registry.commit(COMMIT)
    with pytest.raises(Unavailable, match="cannot reach"):
        registry.missing([digest(1)])


def test_aliases_move_and_records_are_edited(server, registry):
    server.otherwise = message(record(1, "best"), revision=6)
    assert registry.move_aliases(NAME, 1, ("best", "größte")) == record(1, "best")
    assert registry.edit(NAME, 1, description="words") == record(1, "best")
    assert registry.edit(NAME, 1, metadata={"a": 1}) == record(1, "best")
    assert server.paths == [f"POST artifacts/{NAME}/versions/1/aliases"] + [f"PATCH artifacts/{NAME}/versions/1"] * 2
    assert server.asked[0].message(wire.AliasNames).aliases == ["best", "größte"]
    assert server.asked[1].message(wire.Edit) == wire.Edit("words", None)
    assert server.asked[2].message(wire.Edit) == wire.Edit(None, {"a": 1})


@pytest.mark.parametrize("number", [-1, 2**63])
def test_versions_that_cannot_be_are_not_found_without_a_request(server, registry, number):
    for call in (
        lambda: registry.move_aliases(NAME, number, ["best"]),
        lambda: registry.edit(NAME, number, description="x"),
    ):
        with pytest.raises(NotFound, match=f"there is no {NAME}:v{number}"):
            call()
    with pytest.raises(InvalidInput):
        registry.edit("a/b", 0, description="x")
    with pytest.raises(InvalidInput):
        registry.remove_aliases("..", ["x"])
    assert server.asked == []


def test_a_removal_whose_reply_is_lost_succeeds_when_the_alias_is_gone(server, book, registry):
    def removed(asked: Asked, line: Line) -> None:
        book.versions[NAME] = [record(0), record(1, "latest")]

    server.script.append(removed)
    registry.remove_aliases(NAME, ["best"])
    assert server.paths == [f"POST artifacts/{NAME}/aliases/remove", f"GET artifacts/{NAME}/aliases"]


def test_a_removal_that_was_not_carried_out_is_repeated(server, book, registry):
    present = wire.Aliases({"best": 0, "latest": 1})
    server.script += [drop, message(present), drop, reply(204)]
    registry.remove_aliases(NAME, ["best"])
    assert server.paths == [
        f"POST artifacts/{NAME}/aliases/remove",
        f"GET artifacts/{NAME}/aliases",
        f"POST artifacts/{NAME}/aliases/remove",
        f"POST artifacts/{NAME}/aliases/remove",
    ]


def test_a_removal_of_what_is_not_there_is_told(server, registry):
    server.otherwise = failure(404, "not-found", "no alias gone")
    with pytest.raises(NotFound, match="no alias gone"):
        registry.remove_aliases(NAME, ["gone"])
    assert len(server.asked) == 1


def test_sessions_are_opened_renewed_and_closed(server, registry):
    server.script += [message(wire.Session(7)), reply(204), drop, reply(204)]
    assert registry.open_session("put", seconds=600.0) == 7
    registry.renew_session(7, seconds=60.0)
    registry.close_session(7)
    assert server.paths == ["POST sessions", "PUT sessions/7", "DELETE sessions/7", "DELETE sessions/7"]
    assert server.asked[0].message(wire.NewSession) == wire.NewSession("put", 600.0)
    assert server.asked[1].message(wire.SessionLife) == wire.SessionLife(60.0)


def test_check_gives_the_server_time(server, open_registry):
    registry = open_registry(seconds=30.0, silence=0.1)

    def slow(asked: Asked, line: Line):
        line.server.closing.wait(0.3)
        return message(wire.Damages(["a line"]))(asked, line)

    server.script.append(slow)
    assert registry.check() == ["a line"]
    assert server.paths == ["GET check"]


# -- chunk index -------------------------------------------------------------------------------------------------------


def test_any_number_of_chunks_is_asked_for_in_batches(server, registry, monkeypatch):
    monkeypatch.setattr(wire, "BATCH", 100)

    def answer(asked: Asked, line: Line):
        digests = asked.message(wire.Digests).digests
        odd = [one for one in digests if one[-1] % 2]
        found: object = wire.Digests(odd)
        if asked.path == "chunks/locate":
            found = wire.to_places({one: Location("ab" * 32, one[-1], 2, 3, 0) for one in odd})
        return message(found)(asked, line)

    server.otherwise = answer
    digests = [digest(number) for number in range(250)]
    odd = {one for one in digests if one[-1] % 2}
    assert registry.missing(digests) == odd
    assert registry.locate(dict.fromkeys(digests)) == {one: Location("ab" * 32, one[-1], 2, 3, 0) for one in odd}
    assert server.paths == ["POST chunks/missing"] * 3 + ["POST chunks/locate"] * 3
    assert registry.missing([]) == set()
    assert registry.locate([]) == {}
    assert len(server.asked) == 6


def test_places_that_contradict_themselves_are_refused(server, registry):
    server.otherwise = message(wire.Places([], [(digest(1), 0, 0, 1, 1, 0)]))
    with pytest.raises(Format, match="pack that it does not list"):
        registry.locate([digest(1)])


def pack(number: int, chunks: int) -> PackRow:
    rows = tuple(ChunkRow(digest(1000 * number + place), place, 1, 1, 0) for place in range(chunks))
    return PackRow(digest(number).hex(), max(1, chunks), rows)


def test_packs_are_recorded_as_many_at_once_as_a_message_holds(server, registry, monkeypatch):
    monkeypatch.setattr(wire, "BATCH", 100)
    server.otherwise = reply(204)
    packs = [pack(1, 60), pack(2, 40), pack(3, 1), pack(4, 300), pack(5, 0), pack(6, 100)]
    registry.add_packs(iter(packs), session=9)
    sent = [asked.message(wire.NewPacks) for asked in server.asked]
    assert [[packs.index(one) + 1 for one in message.packs] for message in sent] == [[1, 2], [3], [4], [5, 6]]
    assert {message.session for message in sent} == {9}
    registry.add_packs([])
    assert len(server.asked) == len(sent)


def test_packs_are_listed(server, registry):
    server.otherwise = message(wire.Packs([("ab" * 32, 100)]))
    assert registry.packs() == [("ab" * 32, 100)]

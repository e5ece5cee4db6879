"""RemoteNodes against a scripted server."""

from __future__ import annotations

import pytest

from artifactfs.errors import NotFound, Unavailable
from artifactfs.model.records import ChunkRow, Location
from artifactfs.remote import wire
from artifactfs.remote.nodes import RemoteNodes
from tests.remote.scripted import Asked, Line, drop, failure, message, reply

PLACE = Location("ab" * 32, 5, 6, 7, 0x20)


def digest(number: int) -> bytes:
    return number.to_bytes(32, "big")


def node(number: int) -> wire.Node:
    return wire.Node(digest(number), 100 + number, 0x11, b"stored %d" % number)


def answer(*numbers: int, **places: Location):
    return message(
        wire.Nodes(
            [node(number) for number in numbers],
            wire.to_places({digest(int(key[1:])): place for key, place in places.items()}),
        )
    )


@pytest.fixture
def source(connection) -> RemoteNodes:
    return RemoteNodes(connection, "default")


def test_nodes_come_as_stored_with_the_places_of_what_they_list(server, source):
    server.otherwise = answer(1, 2, 9, p77=PLACE)
    nodes, places = source.nodes([digest(1), digest(2)], ahead=1000)
    assert nodes == [
        (ChunkRow(digest(number), 0, len(b"stored 1"), 100 + number, 0x11), b"stored %d" % number)
        for number in (1, 2, 9)
    ]
    assert places == {digest(77): PLACE}
    (asked,) = server.asked
    assert asked.path == "nodes"
    assert asked.message(wire.NodesWanted) == wire.NodesWanted([digest(1), digest(2)], 1000)


def test_what_an_answer_had_no_room_for_is_asked_for_again_and_what_is_absent_is_not(server, source):
    def two_at_a_time(asked: Asked, line: Line):
        there = [int.from_bytes(one, "big") for one in asked.message(wire.NodesWanted).digests]
        return answer(*[number for number in there if number < 6][:2])(asked, line)

    server.otherwise = two_at_a_time
    nodes, _ = source.nodes([digest(number) for number in (1, 2, 1, 3, 7, 4, 5)], ahead=0)
    assert [row.digest for row, _ in nodes] == [digest(number) for number in (1, 2, 3, 4, 5)]
    asked = [asked.message(wire.NodesWanted).digests for asked in server.asked]
    assert [[int.from_bytes(one, "big") for one in digests] for digests in asked] == [
        [1, 2, 3, 7, 4, 5],
        [3, 7, 4, 5],
        [7, 5],
        [7],
    ]


def test_any_number_is_asked_for_in_batches(server, source, monkeypatch):
    monkeypatch.setattr("artifactfs.remote.nodes.BATCH", 10)

    def all_of_them(asked: Asked, line: Line):
        return answer(*[int.from_bytes(one, "big") for one in asked.message(wire.NodesWanted).digests])(asked, line)

    server.otherwise = all_of_them
    nodes, _ = source.nodes([digest(number) for number in range(25)], ahead=0)
    assert len(nodes) == 25
    assert len(server.asked) == 3
    assert source.nodes([], ahead=0) == ([], {})
    assert len(server.asked) == 3


def test_a_path_is_one_request(server, source):
    server.script += [drop]
    server.otherwise = answer(1, 2, 3, p5=PLACE)
    nodes, places = source.path(digest(1), "a/größte 🚲/c")
    assert [row.digest for row, _ in nodes] == [digest(1), digest(2), digest(3)]
    assert places == {digest(5): PLACE}
    assert server.paths == ["POST path"] * 2
    assert server.asked[1].message(wire.PathWanted) == wire.PathWanted(digest(1), "a/größte 🚲/c")


def test_errors_are_the_connection_s(server, source):
    server.otherwise = failure(404, "not-found", "no such node")
    with pytest.raises(NotFound, match="no such node"):
        source.path(digest(1), "a")
    server.otherwise = reply(503, b"", {"Retry-After": "60"})
    with pytest.raises(Unavailable):
        source.nodes([digest(1)], ahead=0)

"""The chunk index and nodes over HTTP: what one request brings, and that nothing unchecked is ever recorded."""

from __future__ import annotations

import msgspec
import pytest

from artifactfs.content.pack import encode_index, index_key, pack_key, seal, unseal
from artifactfs.model.digest import CHUNKS, DATA, TREE, digest, kind_of_flags
from artifactfs.model.records import ChunkRow, Location, PackRow
from artifactfs.model.sequence import CHUNK_LIST, SINGLE_CHUNK, Piece, build
from artifactfs.model.tree import TREE_SEQUENCE, DirEntry, Entry, FileEntry, LinkEntry, build_tree
from artifactfs.remote import wire
from tests.conformance.packs import chunk, content, packed, packed_bytes
from tests.conformance.store import put
from tests.server.conftest import Answer, Served


def upload(served: Served, *texts: object, kind: int = DATA) -> PackRow:
    pack, data = packed(*texts, kind=kind)
    served.put(pack_key(pack.digest), data)
    return pack


def missing(served: Served, *digests: bytes) -> set[bytes]:
    return set(served.ask("POST", "chunks/missing", wire.Digests(list(digests))).message(wire.Digests).digests)


# -- packs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("media", [wire.JSON, wire.MSGPACK])
def test_packs_are_recorded_once_they_were_checked(served, media):
    one, two = upload(served, "a", "b"), upload(served, "c", kind=TREE)
    assert served.ask("POST", "packs", wire.NewPacks([one, two]), media=media).status == 204
    assert missing(served, chunk("a"), chunk("b"), chunk("c", TREE), chunk("d")) == {chunk("d")}
    places = served.ask("POST", "chunks/locate", wire.Digests([chunk("b"), chunk("d")]), media=media)
    row = one.chunks[1]
    found = wire.from_places(places.message(wire.Places))
    assert list(found) == [chunk("b")]
    assert (found[chunk("b")].pack, found[chunk("b")].offset) == (one.digest, row.offset)
    listed = served.ask("GET", "packs", media=media).message(wire.Packs).packs
    assert listed == sorted([(one.digest, one.size), (two.digest, two.size)])


@pytest.mark.parametrize("index", [0, 1, 2])
def test_a_pack_with_one_wrong_chunk_is_refused_and_nothing_is_recorded(served, index):
    good, bad = upload(served, "good"), upload(served, "a", "b", "c")
    rows = list(bad.chunks)
    rows[index] = msgspec.structs.replace(rows[index], digest=chunk("victim"))
    lie = msgspec.structs.replace(bad, chunks=tuple(rows))
    answer = served.ask("POST", "packs", wire.NewPacks([good, lie]))
    assert (answer.status, answer.code) == (422, "integrity")
    assert bad.digest in answer.json["message"]
    assert missing(served, chunk("good"), chunk("victim"), chunk("a")) == {chunk("good"), chunk("victim"), chunk("a")}
    assert served.ask("GET", "packs").json == {"packs": []}


def test_a_pack_with_wrong_bytes_is_refused_wherever_they_came_from(served):
    pack, data = packed("a", "b")
    # Not by upload, which looks at the name.
    put(served.store, pack_key(pack.digest), data[:-1] + bytes([data[-1] ^ 1]))
    answer = served.ask("POST", "packs", wire.NewPacks([pack]))
    assert (answer.status, answer.code) == (422, "integrity")
    assert missing(served, chunk("a")) == {chunk("a")}


def test_a_pack_that_was_not_uploaded_is_refused(served):
    pack, _ = packed("a")
    answer = served.ask("POST", "packs", wire.NewPacks([pack]))
    assert (answer.status, answer.code) == (400, "invalid-input")
    assert f"upload packs/{pack.digest[:2]}/{pack.digest}.pack first" in answer.json["message"]


def test_a_table_of_contents_that_lies_keeps_its_pack_out(served):
    pack = upload(served, "a")
    lie = msgspec.structs.replace(pack.chunks[0], digest=chunk("victim"))
    served.put(index_key(pack.digest), encode_index(msgspec.structs.replace(pack, chunks=(lie,))))
    assert served.ask("POST", "packs", wire.NewPacks([pack])).status == 422
    assert missing(served, chunk("a")) == {chunk("a")}


def test_a_session_that_has_ended_records_nothing(served):
    session = served.ask("POST", "sessions", wire.NewSession("put", 60)).message(wire.Session).session
    pack = upload(served, "a")
    assert served.ask("DELETE", f"sessions/{session}").status == 204
    answer = served.ask("POST", "packs", wire.NewPacks([pack], session))
    assert (answer.status, answer.code) == (409, "conflict")
    assert missing(served, chunk("a")) == {chunk("a")}


def test_a_large_pack_is_recorded(served):
    texts = range(5000)
    pack = upload(served, *texts)
    assert served.ask("POST", "packs", wire.NewPacks([pack]), media=wire.MSGPACK).status == 204
    assert missing(served, *(chunk(text) for text in texts)) == set()


# -- nodes -------------------------------------------------------------------------------------------------------------


class Tree:
    """Directories and chunk lists that are built here and recorded in the served project as they are."""

    def __init__(self, served: Served) -> None:
        self._served = served
        self._nodes: dict[bytes, tuple[int, bytes]] = {}

    def store(self, kind: int, data: bytes) -> bytes:
        name = digest(kind, data)
        self._nodes[name] = (kind, data)
        return name

    def directory(self, name: str, *entries: Entry) -> DirEntry:
        """An entry of a directory with these entries."""
        return build_tree(sorted(entries, key=lambda entry: entry.name), self.store).entry(name)

    def large_file(self, name: str, pieces: int) -> FileEntry:
        """An entry of a file of chunks of 4 MiB that nobody will read."""
        chunks = [Piece(digest(DATA, f"{name} {number}".encode()), SINGLE_CHUNK) for number in range(pieces)]
        root = build(CHUNK_LIST, chunks, self.store)
        return FileEntry(name, pieces * SINGLE_CHUNK, root.digest, False)

    def small_file(self, name: str) -> FileEntry:
        """An entry of a file of one chunk, which is stored too."""
        data = content(name)
        return FileEntry(name, len(data), self.store(DATA, data), False)

    def record(self) -> None:
        """Make all of it the project's."""
        pack, data = packed_bytes(*self._nodes.values())
        self._served.put(pack_key(pack.digest), data)
        assert self._served.ask("POST", "packs", wire.NewPacks([pack]), media=wire.MSGPACK).status == 204

    def size(self, *digests: bytes) -> int:
        """Stored bytes of nodes."""
        return sum(len(seal(self._nodes[name][1])[0]) for name in digests)

    def below(self, root: bytes) -> list[bytes]:
        """Nodes of directories below one, level by level."""
        found: list[bytes] = []
        level = [root]
        while level:
            level = [below for name in level for below in self._children(name)]
            found += level
        return found

    def _children(self, name: bytes) -> list[bytes]:
        node = TREE_SEQUENCE.decode(self._nodes[name][1])
        return [branch.digest for branch in node.branches] + [
            entry.digest for entry in node.items if isinstance(entry, DirEntry)
        ]


@pytest.fixture
def tree(served: Served) -> Tree:
    return Tree(served)


def nodes(
    served: Served, *digests: bytes, ahead: int = 0, media: str = wire.MSGPACK
) -> tuple[list[bytes], dict[bytes, Location]]:
    """Digests of the nodes that come, each checked, and places."""
    return received(served.ask("POST", "nodes", wire.NodesWanted(list(digests), ahead), media=media))


def along(served: Served, root: bytes, path: str) -> tuple[list[bytes], dict[bytes, Location]]:
    return received(served.ask("POST", "path", wire.PathWanted(root, path), media=wire.MSGPACK))


def received(answer: Answer) -> tuple[list[bytes], dict[bytes, Location]]:
    assert answer.status == 200
    message = answer.message(wire.Nodes)
    for node in message.nodes:
        row = ChunkRow(node.digest, 0, len(node.data), node.size, node.flags)
        kind = kind_of_flags(node.flags)
        assert kind in {TREE, CHUNKS}
        assert digest(kind, unseal(node.data, row)) == node.digest
    return [node.digest for node in message.nodes], wire.from_places(message.places)


@pytest.mark.parametrize("media", [wire.JSON, wire.MSGPACK])
def test_nodes_come_as_they_were_asked_for(served, tree, media):
    one, two = tree.directory("one", tree.small_file("x")), tree.directory("two", tree.small_file("y"))
    listed = tree.large_file("large", 3)
    tree.record()
    asked = [two.digest, bytes(32), listed.digest, one.digest, one.digest, digest(DATA, content("x"))]
    found, places = nodes(served, *asked, media=media)
    assert found == [two.digest, listed.digest, one.digest]
    assert places == {}  # of the chunks that are listed none is held
    assert nodes(served) == ([], {})


def test_of_a_chunk_list_come_the_places_of_what_it_lists(served, tree):
    pieces = [Piece(tree.store(DATA, content(number)), len(content(number))) for number in range(20)]
    root = build(CHUNK_LIST, pieces, tree.store)
    tree.record()
    found, places = nodes(served, root.digest)
    assert found == [root.digest]
    assert places.keys() == {piece.digest for piece in pieces}


def test_of_a_long_chunk_list_come_the_places_of_the_nodes_below(served, tree):
    entry = tree.large_file("large", 9000)
    tree.record()
    found, places = nodes(served, entry.digest)
    assert found == [entry.digest]
    assert len(places) >= 3
    assert {kind_of_flags(place.flags) for place in places.values()} == {CHUNKS}


def test_nodes_below_come_nearest_first_as_far_as_they_fit(served, tree):
    deep = [tree.directory(f"d{number}", tree.directory("in", tree.small_file(f"f{number}"))) for number in range(30)]
    root = tree.directory("", *deep, tree.small_file("g"), tree.large_file("h", 3)).digest
    tree.record()
    below = tree.below(root)
    assert len(below) == 60
    assert nodes(served, root)[0] == [root]
    assert nodes(served, root, ahead=1 << 20)[0] == [root, *below]
    for count in (0, 1, 29, 30, 31, 59):
        enough = tree.size(*below[:count])
        assert nodes(served, root, ahead=enough)[0] == [root, *below[:count]], count
        assert nodes(served, root, ahead=enough + tree.size(below[count]) - 1)[0] == [root, *below[:count]], count
    assert nodes(served, root, deep[0].digest, ahead=1 << 20)[0] == [root, deep[0].digest, *below[1:30], *below[30:]]


def test_the_nodes_of_a_large_directory_come_along(served, tree):
    root = tree.directory("", *(FileEntry(f"{number:05}", 1, bytes(32), False) for number in range(9000))).digest
    tree.record()
    found, _ = nodes(served, root, ahead=1 << 20)
    assert found == [root, *tree.below(root)]
    assert len(found) > 3


def test_an_answer_is_bounded_and_the_rest_is_had_by_asking_again(served, tree, monkeypatch):
    names = [tree.directory(f"d{number}", tree.small_file(f"f{number}")).digest for number in range(40)]
    tree.record()
    monkeypatch.setattr("artifactfs.server.nodes.ANSWER", tree.size(*names[:10]))
    found, _ = nodes(served, *names, ahead=1 << 20)
    assert found == names[:10]
    monkeypatch.setattr("artifactfs.server.nodes.ANSWER", 1)
    assert nodes(served, bytes(32), *names[5:])[0] == [names[5]]  # one always comes
    came: list[bytes] = []
    while left := [name for name in names if name not in came]:
        came += nodes(served, *left)[0]
    assert came == names


def test_a_damaged_node_is_sent_for_the_client_to_judge_and_nothing_below_it(served, tree):
    inner = tree.directory("in", tree.small_file("x"))
    root = tree.directory("", inner).digest
    tree.record()
    place = served.registry.locate([root])[root]
    file = served.store.path(pack_key(place.pack))
    data = bytearray(file.read_bytes())
    data[place.offset] ^= 0xFF
    file.write_bytes(data)
    answer = served.ask("POST", "nodes", wire.NodesWanted([root], 1 << 20), media=wire.MSGPACK)
    sent = answer.message(wire.Nodes).nodes
    assert [node.digest for node in sent] == [root]
    assert sent[0].data == data[place.offset : place.offset + place.length]
    assert [
        node.digest for node in served.ask("POST", "path", wire.PathWanted(root, "in")).message(wire.Nodes).nodes
    ] == [root]


def test_a_node_whose_pack_is_gone_is_left_out(served, tree):
    root = tree.directory("", tree.small_file("x")).digest
    tree.record()
    place = served.registry.locate([root])[root]
    served.store.delete(pack_key(place.pack))
    assert nodes(served, root) == ([], {})
    assert along(served, root, "x") == ([], {})


# -- along a path ------------------------------------------------------------------------------------------------------


def test_one_request_brings_all_that_opening_a_file_needs(served, tree):
    large = tree.large_file("large", 300)
    three = tree.directory("three", large, tree.small_file("small"))
    two = tree.directory("two", three, tree.directory("beside", tree.small_file("y")))
    one = tree.directory("one", two)
    root = tree.directory("", one).digest
    tree.record()
    path = [root, one.digest, two.digest, three.digest]
    before = served.metric("artifactfs_requests_total")
    assert along(served, root, "one/two/three/large")[0] == [*path, large.digest]
    small, places = along(served, root, "one/two/three/small")
    assert small == path
    assert places.keys() == {digest(DATA, content("small"))}
    # Each counts the request for the metrics before it too.
    assert served.metric("artifactfs_requests_total") - before == 2 + 1


def test_a_path_is_followed_as_far_as_it_exists(served, tree):
    inner = tree.directory("in", tree.small_file("x"))
    root = tree.directory("", inner, tree.small_file("f"), LinkEntry("l", "in")).digest
    tree.record()
    assert along(served, root, "") == ([root], {})
    assert along(served, root, "in") == ([root, inner.digest], {})
    assert along(served, root, "in/none") == ([root, inner.digest], {})
    assert along(served, root, "none/x") == ([root], {})
    assert along(served, root, "l") == ([root], {})
    assert along(served, root, "f/x") == ([root], {})
    assert along(served, root, "in//x") == ([root, inner.digest], {})
    assert along(served, bytes(32), "in") == ([], {})
    assert along(served, digest(DATA, content("x")), "in") == ([], {})


def test_in_a_large_directory_only_the_nodes_on_the_way_come(served, tree):
    root = tree.directory("", *(FileEntry(f"{number:05}", 1, bytes(32), False) for number in range(9000))).digest
    tree.record()
    found, _ = along(served, root, "04000")
    assert found[0] == root
    assert len(found) == 2


def test_of_a_very_long_chunk_list_only_the_beginning_comes(served, tree, monkeypatch):
    entry = tree.large_file("large", 9000)
    root = tree.directory("", entry).digest
    tree.record()
    whole, _ = along(served, root, "large")
    assert whole[:2] == [root, entry.digest]
    assert len(whole) > 4
    monkeypatch.setattr("artifactfs.server.nodes.LIST_AHEAD", tree.size(*whole[2:4]))
    assert along(served, root, "large")[0] == whole[:4]


def test_places_that_come_along_are_bounded(served, tree, monkeypatch):
    monkeypatch.setattr("artifactfs.server.nodes.LISTED", 5)
    pieces = [Piece(tree.store(DATA, content(number)), len(content(number))) for number in range(20)]
    root = build(CHUNK_LIST, pieces, tree.store)
    tree.record()
    assert nodes(served, root.digest)[1].keys() == {piece.digest for piece in pieces[:5]}


def test_a_path_that_is_too_deep_for_one_answer_ends_early(served, tree, monkeypatch):
    entry = tree.directory("d", tree.small_file("x"))
    path = [entry.digest]
    for _ in range(20):
        entry = tree.directory("d", entry)
        path.insert(0, entry.digest)
    tree.record()
    assert along(served, path[0], "/".join("d" * 20))[0] == path
    monkeypatch.setattr("artifactfs.server.nodes.ANSWER", tree.size(*path[:5]))
    assert along(served, path[0], "/".join("d" * 20))[0] == path[:5]

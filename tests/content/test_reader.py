from __future__ import annotations

import random
import threading
from collections.abc import Callable

import pytest
from blake3 import blake3

from artifactfs.content import memory, places, reader
from artifactfs.content.local import LocalStore
from artifactfs.content.pack import pack_key
from artifactfs.content.places import Places
from artifactfs.content.writer import ContentWriter, FileContent
from artifactfs.errors import Integrity, InvalidInput, NotFound, Unavailable
from artifactfs.model import sequence
from artifactfs.model.digest import CHUNKS, DATA, TREE, digest, format_digest
from artifactfs.model.records import ChunkRow, Location, PackRow
from artifactfs.model.sequence import CHUNK_LIST, ChunkBranch, Piece
from tests.content.stores import ScriptedStore, noise, reader_of

MIB = 1 << 20


@pytest.fixture
def scripted(store) -> ScriptedStore:
    return ScriptedStore(store)


class CountingRegistry:
    """Passes on, noting how many digests each question had."""

    def __init__(self, registry) -> None:
        self.registry = registry
        self.questions: list[int] = []

    def locate(self, digests):
        self.questions.append(len(digests))
        return self.registry.locate(digests)


def keep(store, registry, *contents: bytes) -> list[FileContent]:
    with ContentWriter(store, registry, session=None) as writer:
        return [writer.add_bytes(data) for data in contents]


def text(size: int) -> bytes:
    return b"".join(b"line %d of a text\n" % number for number in range(size // 16 + 1))[:size]


def flip(store: LocalStore, registry, name: bytes) -> None:
    """Damage the stored bytes of one chunk on disk."""
    location = registry.locate([name])[name]
    with store.path(pack_key(location.pack)).open("r+b") as file:
        file.seek(location.offset + location.length // 2)
        byte = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte[0] ^ 1]))


def together(count: int, call: Callable[[], object]) -> list[object]:
    """What ``count`` threads got or were told, each."""
    results: list[object] = []

    def work() -> None:
        try:
            results.append(call())
        except Exception as error:
            results.append(error)

    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


# -- ranges --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("local", [True, False])
@pytest.mark.parametrize("make", [lambda size: noise(1, size), text])
@pytest.mark.parametrize("size", [1, 5000, 4 * MIB, 13 * MIB])
def test_any_range_is_the_bytes_of_the_file(store, registry, local, make, size):
    data = make(size)
    (content,) = keep(store, registry, data)
    file = reader_of(ScriptedStore(store, local=local), registry).open(content.digest, content.size)
    chance = random.Random(size)
    assert file.size == size
    for _ in range(200):
        offset = chance.randrange(size + 10)
        length = chance.choice([0, 1, 4096, chance.randrange(size + 10)])
        assert file.read(offset, length) == data[offset : offset + length]
    assert file.read(0, size) == data
    assert file.read(0, 1 << 40) == data
    assert file.read(size, 1) == b""
    with pytest.raises(InvalidInput):
        file.read(-1, 1)


def test_an_empty_file_needs_nothing(scripted, registry):
    file = reader_of(scripted, registry).open(blake3(b"").digest(), 0)
    assert file.read(0, 100) == b""
    assert file.pieces() == []
    assert file.ready(0, 100)
    assert scripted.reads == []


def test_pieces_are_the_chunk_list(store, registry):
    small, large = keep(store, registry, noise(1, 1000), noise(2, 9 * MIB))
    content = reader_of(store, registry)
    assert content.open(small.digest, small.size).pieces() == [Piece(small.digest, 1000)]
    pieces = content.open(large.digest, large.size).pieces()
    assert sum(piece.size for piece in pieces) == 9 * MIB
    assert b"".join(content.chunk(piece.digest) for piece in pieces) == noise(2, 9 * MIB)


def test_a_range_within_a_chunk_is_not_copied(store, registry):
    (content,) = keep(store, registry, text(100_000))
    part = reader_of(store, registry).open(content.digest, content.size).read(1000, 4096)
    assert isinstance(part, memoryview)
    assert part == text(100_000)[1000:5096]


def test_opening_fetches_nothing(scripted, registry):
    contents = keep(scripted, registry, b"small", noise(1, 9 * MIB))
    content = reader_of(scripted, registry)
    for item in contents:
        content.open(item.digest, item.size)
    assert scripted.reads == []


# -- what is read and how often ------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [128 << 10, MIB])
def test_sequential_reads_fetch_each_chunk_once(scripted, registry, step):
    data = noise(1, 96 * MIB)  # larger than the memory for chunks
    (content,) = keep(scripted, registry, data)
    content_reader = reader_of(scripted, registry)
    file = content_reader.open(content.digest, content.size)
    for offset in range(0, len(data), step):
        assert file.read(offset, step) == data[offset : offset + step]
    assert len(scripted.reads) == len(file.pieces()) + 1
    assert len(set(scripted.reads)) == len(scripted.reads)


def test_random_reads_of_verified_raw_chunks_read_just_the_range(scripted, registry):
    data = noise(1, 9 * MIB)
    (content,) = keep(scripted, registry, data)
    content_reader = reader_of(scripted, registry, memory=0)
    file = content_reader.open(content.digest, content.size)
    file.read(0, len(data))
    scripted.reads.clear()
    chance = random.Random(1)
    asked = []
    starts = [0]
    for piece in file.pieces():
        starts.append(starts[-1] + piece.size)
    for _ in range(100):
        offset = chance.randrange(len(data) - 4096)
        if any(offset < start < offset + 4096 for start in starts):
            continue
        asked.append(offset)
        assert file.read(offset, 4096) == data[offset : offset + 4096]
    assert [length for _, _, length in scripted.reads] == [4096] * len(asked)


def test_a_remote_store_is_never_trusted_with_a_range(scripted, registry):
    scripted.local = False
    (content,) = keep(scripted, registry, noise(1, 100_000))
    file = reader_of(scripted, registry, memory=0).open(content.digest, content.size)
    for _ in range(3):
        assert file.read(1000, 10) == noise(1, 100_000)[1000:1010]
    assert [length for _, _, length in scripted.reads] == [100_000] * 3


def test_memory_is_bounded_in_bytes_and_keeps_what_was_used_last(scripted, registry):
    scripted.local = False
    names = [content.digest for content in keep(scripted, registry, *(noise(seed, 1000) for seed in range(10)))]
    content_reader = reader_of(scripted, registry, memory=3500)
    for name in [*names[:3], names[0], names[3]]:
        content_reader.chunk(name)
    assert content_reader._memory.size == 3000
    scripted.reads.clear()
    for name in (names[0], names[2], names[3]):
        content_reader.chunk(name)
    assert scripted.reads == []
    content_reader.chunk(names[1])
    assert len(scripted.reads) == 1
    keep(scripted, registry, noise(11, 4000))
    content_reader.chunk(blake3(noise(11, 4000)).digest())  # larger than all the memory: served, not kept
    assert content_reader._memory.size == 3000


def test_places_are_asked_for_with_the_neighbours_once(store, registry):
    contents = keep(store, registry, *(noise(seed, 100) for seed in range(50)))
    counting = CountingRegistry(registry)
    content_reader = reader_of(store, counting)
    asked = []

    def neighbours():
        asked.append(True)
        return [content.digest for content in contents]

    for seed, content in enumerate(contents):
        assert content_reader.open(content.digest, content.size, neighbours).read(0, 100) == noise(seed, 100)
    assert counting.questions == [50]
    assert asked == [True]


def test_places_of_a_large_file_are_asked_for_with_its_list(store, registry):
    data = noise(1, 20 * MIB)
    (content,) = keep(store, registry, data)
    counting = CountingRegistry(registry)
    file = reader_of(store, counting).open(content.digest, content.size)
    file.read(10 * MIB, 10)
    file.read(0, len(data))
    assert counting.questions == [1, len(file.pieces())]


def test_remembered_places_are_bounded(store, registry):
    names = [content.digest for content in keep(store, registry, *(noise(seed, 10) for seed in range(100)))]
    known = Places(registry, remembered=20)
    for name in names:
        assert known.find(name) is not None
        assert len(known._known._young) + len(known._known._old) <= 20
    assert known.get(names[-1]) is not None
    assert known.get(names[0]) is None
    assert known.find(names[0]) is not None
    assert known.find(b"\0" * 32) is None


def test_a_place_in_use_is_not_forgotten(store, registry):
    names = [content.digest for content in keep(store, registry, *(noise(seed, 10) for seed in range(100)))]
    known = Places(registry, remembered=20)
    first = known.find(names[0])
    for name in names:
        known.find(name)
        assert known.get(names[0]) is first


def test_one_question_has_a_bounded_number_of_digests(store, registry, monkeypatch):
    monkeypatch.setattr(places, "ASKED_AT_ONCE", 8)
    names = [content.digest for content in keep(store, registry, *(noise(seed, 10) for seed in range(30)))]
    counting = CountingRegistry(registry)
    assert Places(counting).find(names[20], names) is not None
    assert counting.questions == [8]


# -- many threads --------------------------------------------------------------------------------------------------


def test_one_fetch_however_many_wait_and_no_lock_is_held(scripted, registry):
    data, other = noise(1, 100_000), noise(2, 100)
    names = [content.digest for content in keep(scripted, registry, data, other)]
    content_reader = reader_of(scripted, registry)
    content_reader.chunk(names[1])
    go_on = threading.Event()

    def on(operation: str, _key: str) -> None:
        if operation == "read":
            # The others are waiting; what is in memory is still served.
            while content_reader._memory.waiting < 9:
                assert not go_on.wait(0.001)
            assert content_reader.chunk(names[1]) == other

    scripted.on = on
    scripted.reads.clear()
    assert together(10, lambda: content_reader.chunk(names[0])) == [data] * 10
    assert len(scripted.reads) == 1
    assert content_reader._memory.waiting == 0


def test_an_error_reaches_all_who_wait_and_is_not_remembered(scripted, registry):
    (content,) = keep(scripted, registry, noise(1, 1000))
    content_reader = reader_of(scripted, registry)
    never = threading.Event()

    def on(operation: str, _key: str) -> None:
        if operation == "read":
            while content_reader._memory.waiting < 4:
                assert not never.wait(0.001)
            raise Unavailable("away for now")

    scripted.on = on
    errors = together(5, lambda: content_reader.chunk(content.digest))
    assert [type(error) for error in errors] == [Unavailable] * 5
    assert {str(error) for error in errors} == {"away for now"}
    assert len({id(error) for error in errors}) == 5
    scripted.on = lambda _operation, _key: None
    assert content_reader.chunk(content.digest) == noise(1, 1000)


def test_waiters_are_bounded_and_wait_a_bounded_time(scripted, registry, monkeypatch):
    monkeypatch.setattr(memory, "WAITERS", 3)
    monkeypatch.setattr(memory, "WAIT_SECONDS", 0.05)
    contents = keep(scripted, registry, noise(1, 1000), noise(2, 1000))
    content_reader = reader_of(scripted, registry)
    fetching, go_on = threading.Event(), threading.Event()

    def on(operation: str, _key: str) -> None:
        if operation == "read":
            fetching.set()
            assert go_on.wait(30)

    scripted.on = on
    fetcher = threading.Thread(target=content_reader.chunk, args=(contents[0].digest,))
    fetcher.start()
    assert fetching.wait(30)
    errors = together(10, lambda: content_reader.chunk(contents[0].digest))
    assert [type(error) for error in errors] == [Unavailable] * 10
    scripted.on = lambda _operation, _key: None
    assert content_reader.chunk(contents[1].digest) == noise(2, 1000), "others are not blocked"
    go_on.set()
    fetcher.join()
    assert content_reader.chunk(contents[0].digest) == noise(1, 1000)


def test_many_threads_read_one_file_rightly(store, registry):
    data = noise(1, 10 * MIB) + text(10 * MIB)
    (content,) = keep(store, registry, data)
    file = reader_of(store, registry, memory=3 * MIB).open(content.digest, content.size)

    def work() -> int:
        chance = random.Random(threading.get_ident())
        wrong = 0
        for _ in range(50):
            offset = chance.randrange(len(data))
            wrong += file.read(offset, 300_000) != data[offset : offset + 300_000]
        return wrong

    assert together(6, work) == [0] * 6


# -- damage --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [lambda seed: noise(seed, 3000), lambda seed: text(3000 + seed)])
def test_a_flipped_byte_is_an_integrity_error_of_its_chunk_alone(store, registry, make):
    contents = keep(store, registry, *(make(seed) for seed in range(5)))
    flip(store, registry, contents[2].digest)
    content_reader = reader_of(store, registry)
    pack = registry.locate([contents[2].digest])[contents[2].digest].pack
    for seed, content in enumerate(contents):
        file = content_reader.open(content.digest, content.size)
        if seed == 2:
            for _ in range(2):
                with pytest.raises(Integrity) as caught:
                    file.read(0, 10)
                assert format_digest(content.digest) in str(caught.value)
                assert pack in str(caught.value)
        else:
            assert file.read(0, 10_000) == make(seed)


def test_a_flipped_byte_in_a_large_file_damages_its_chunk_alone(store, registry):
    data = noise(1, 20 * MIB)
    (content,) = keep(store, registry, data)
    file = reader_of(store, registry).open(content.digest, content.size)
    pieces = file.pieces()
    flip(store, registry, pieces[3].digest)
    begin = sum(piece.size for piece in pieces[:3])
    end = begin + pieces[3].size
    assert file.read(0, begin) == data[:begin]
    assert file.read(end, len(data)) == data[end:]
    for offset, length in [(begin, 1), (end - 1, 1), (begin - 1, 2), (0, len(data))]:
        with pytest.raises(Integrity, match=format_digest(pieces[3].digest)):
            file.read(offset, length)


def test_a_truncated_pack_damages_what_lay_behind_the_cut(store, registry):
    contents = keep(store, registry, noise(1, 1000), noise(2, 1000), noise(3, 1000))
    location = registry.locate([contents[1].digest])[contents[1].digest]
    with store.path(pack_key(location.pack)).open("r+b") as file:
        file.truncate(location.offset + 500)
    content_reader = reader_of(store, registry)
    assert content_reader.chunk(contents[0].digest) == noise(1, 1000)
    for content in contents[1:]:
        with pytest.raises(Integrity, match=format_digest(content.digest)):
            content_reader.chunk(content.digest)


def test_a_missing_pack_is_asked_for_once_more_and_then_an_integrity_error(store, registry):
    (content,) = keep(store, registry, noise(1, 1000))
    store.delete(pack_key(registry.packs()[0][0]))
    counting = CountingRegistry(registry)
    with pytest.raises(Integrity, match="missing") as caught:
        reader_of(store, counting).open(content.digest, content.size).read(0, 1)
    assert format_digest(content.digest) in str(caught.value)
    assert registry.packs()[0][0] in str(caught.value)
    assert counting.questions == [1, 1]


class MovingRegistry:
    """Knows one chunk, in the pack of the moment."""

    def __init__(self, rows: dict[str, PackRow]) -> None:
        self.rows = rows
        self.pack = next(iter(rows))

    def locate(self, digests):
        row = self.rows[self.pack].chunks[0]
        return {row.digest: Location(self.pack, row.offset, row.length, row.size, row.flags)}


def test_a_chunk_that_moved_to_another_pack_is_found_there(store, registry):
    data = noise(1, 10_000)
    keep(store, registry, data)
    name = blake3(data).digest()
    old = registry.packs()[0][0]
    new = "ab" * 32
    upload = store.upload()
    upload.write(data)
    upload.publish(pack_key(new))
    row = (ChunkRow(name, 0, len(data), len(data), 0),)
    moving = MovingRegistry({old: PackRow(old, len(data), row), new: PackRow(new, len(data), row)})
    content_reader = reader_of(store, moving, memory=0)
    file = content_reader.open(name, len(data))
    assert file.read(0, 10) == data[:10]
    moving.pack = new
    store.delete(pack_key(old))
    assert file.read(5000, 10) == data[5000:5010], "also when it was verified at its old place"
    assert file.read(9000, 10) == data[9000:9010]


def test_a_chunk_that_nobody_knows_is_an_integrity_error(store, registry):
    with pytest.raises(Integrity, match="in no pack"):
        reader_of(store, registry).chunk(b"\1" * 32)


def test_bytes_of_one_kind_are_never_served_as_another(store, registry):
    data = noise(1, 300)
    with ContentWriter(store, registry, session=None) as writer:
        plain, node = writer.add_bytes(data).digest, writer.add_node(TREE, data)
    content_reader = reader_of(store, registry)
    for _ in range(2):  # from the store and from memory
        assert content_reader.chunk(plain) == content_reader.node(node, TREE) == data
        for name, kind in [(plain, TREE), (plain, CHUNKS), (node, DATA), (node, CHUNKS)]:
            with pytest.raises(Integrity, match="another kind"):
                content_reader.chunk(name, kind)


def test_a_size_that_is_not_the_chunks_is_an_integrity_error(store, registry):
    data = noise(1, 300)
    (content,) = keep(store, registry, data)
    content_reader = reader_of(store, registry)
    for _ in range(2):
        for size in (299, 301):
            with pytest.raises(Integrity, match="300 bytes"):
                content_reader.open(content.digest, size).read(0, 10)


def test_a_chunk_list_that_is_not_of_its_file_is_an_integrity_error(store, registry):
    piece = Piece(digest(DATA, b"x" * 1000), 5 * MIB)
    with ContentWriter(store, registry, session=None) as writer:
        writer.add_bytes(b"x" * 1000)
        lists = {
            "short": (CHUNK_LIST.encode(0, [piece]), 6 * MIB),
            "piece": (CHUNK_LIST.encode(0, [piece]), 5 * MIB),
            "empty": (CHUNK_LIST.encode(0, []), 5 * MIB),
            "negative": (CHUNK_LIST.encode(0, [Piece(piece.digest, 6 * MIB), Piece(piece.digest, -MIB)]), 5 * MIB),
            "no node": (b"nonsense", 5 * MIB),
            "data": (CHUNK_LIST.encode(1, [ChunkBranch(piece.digest, 1, 5 * MIB)]), 5 * MIB),
        }
        below = writer.add_node(CHUNKS, CHUNK_LIST.encode(0, [piece]))
        lists["branch"] = (CHUNK_LIST.encode(1, [ChunkBranch(below, 1, 6 * MIB)]), 6 * MIB)
        names = {case: writer.add_node(CHUNKS, data) for case, (data, _) in lists.items()}
    content_reader = reader_of(store, registry)
    for case, (_, size) in lists.items():
        with pytest.raises(Integrity):
            content_reader.open(names[case], size).read(0, 10)


# -- long chunk lists ----------------------------------------------------------------------------------------------


@pytest.fixture
def long_file(store, registry) -> tuple[FileContent, Callable[[int], bytes]]:
    """A file whose list has several nodes: 5,000 chunks of 5,000 bytes, all different."""
    parts = [seed.to_bytes(2, "big") * 2500 for seed in range(5000)]
    with ContentWriter(store, registry, session=None) as writer:
        pieces = [Piece(writer.add_bytes(part).digest, 5000) for part in parts]
        root = sequence.build(CHUNK_LIST, pieces, writer.add_node)
    assert root.size == 5000 * 5000
    return FileContent(root.digest, root.size), lambda index: parts[index]


def test_a_long_list_is_read_by_the_nodes_needed(scripted, registry, long_file):
    content, part = long_file
    file = reader_of(scripted, registry).open(content.digest, content.size)
    assert file.read(3000 * 5000 + 10, 20) == part(3000)[10:30]
    assert len(scripted.reads) == 3  # root, leaf, chunk
    assert file.read(3001 * 5000, 5000) == part(3001)
    assert len(scripted.reads) == 4
    assert [piece.size for piece in file.pieces()] == [5000] * 5000


def test_a_long_list_is_read_across_its_nodes(store, registry, long_file):
    content, part = long_file
    data = b"".join(part(index) for index in range(5000))
    file = reader_of(store, registry).open(content.digest, content.size)
    for offset in range(0, len(data), 1_700_000):
        assert file.read(offset, 2_000_000) == data[offset : offset + 2_000_000]


def test_decoded_lists_are_bounded(scripted, registry, long_file, monkeypatch):
    monkeypatch.setattr(reader, "LIST_NODES", 2)
    content, part = long_file
    content_reader = reader_of(scripted, registry)
    file = content_reader.open(content.digest, content.size)
    for index in (0, 4999, 2500, 0):
        assert file.read(index * 5000, 5000) == part(index)
    assert len(content_reader._lists) == 2


# -- ready ---------------------------------------------------------------------------------------------------------


def test_ready_tells_what_needs_no_network(scripted, registry, long_file):
    content, _ = long_file
    (small,) = keep(scripted, registry, noise(1, 1000))
    scripted.local = False
    content_reader = reader_of(scripted, registry)
    for item, step in [(small, 1000), (content, 5000)]:
        file = content_reader.open(item.digest, item.size)
        assert not file.ready(0, 10)
        assert scripted.reads == []
        file.read(0, 10)
        scripted.reads.clear()
        assert file.ready(0, 10)
        assert file.ready(0, step)
        assert file.ready(item.size, 10)
        assert file.ready(0, step + 1) is (step == item.size)
        assert file.ready(item.size - 1, 1) is (step == item.size)
        assert scripted.reads == []
    scripted.local = True
    assert content_reader.open(content.digest, content.size).ready(0, content.size)


def test_not_found_of_the_store_never_reaches_the_caller(store, registry):
    (content,) = keep(store, registry, noise(1, 9 * MIB))
    for name, _ in registry.packs():
        store.delete(pack_key(name))
    content_reader = reader_of(store, registry)
    pieces = content_reader.open(content.digest, content.size).pieces
    for call in (pieces, lambda: content_reader.node(content.digest, CHUNKS)):
        with pytest.raises(Integrity) as caught:
            call()
        assert not isinstance(caught.value, NotFound)

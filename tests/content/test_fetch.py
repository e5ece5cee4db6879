"""The source behind a network: what is fetched, by how many requests, and what happens to what is damaged or away."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator, Sequence

import pytest

from artifactfs.content.cache import Cache, CacheSettings
from artifactfs.content.fetch import FetchedSource
from artifactfs.content.pack import pack_key
from artifactfs.content.reader import ContentReader
from artifactfs.content.writer import ContentWriter, FileContent
from artifactfs.errors import Integrity, Unavailable
from artifactfs.model.digest import CHUNKS, TREE
from artifactfs.model.records import ChunkRow, Location
from tests.content.stores import ScriptedStore, noise

MIB = 1 << 20


class Nodes:
    """A NodeSource of a store and a registry at hand. Counts requests."""

    def __init__(self, store, registry) -> None:
        self.store = store
        self.registry = registry
        self.asked: list[list[bytes]] = []

    def nodes(
        self, digests: Sequence[bytes], *, ahead: int
    ) -> tuple[list[tuple[ChunkRow, bytes]], dict[bytes, Location]]:
        del ahead
        self.asked.append(list(digests))
        found = []
        for name, place in self.registry.locate(digests).items():
            stored = self.store.read(pack_key(place.pack), place.offset, place.length)
            found.append((ChunkRow(name, 0, place.length, place.size, place.flags), stored))
        return found, {}

    def path(self, digest: bytes, path: str) -> tuple[list[tuple[ChunkRow, bytes]], dict[bytes, Location]]:
        """As if every part of the path were the digest of a node below."""
        return self.nodes([digest, *map(bytes.fromhex, path.split("/"))], ahead=0)


class Remote:
    """A repository behind a network that counts and fails on script, and readers of it that share a cache."""

    def __init__(self, store, registry, directory) -> None:
        self.local, self.registry = store, registry
        self.scripted = ScriptedStore(store, local=False)
        self.nodes = Nodes(store, registry)
        self.settings = CacheSettings(directory)
        self.caches: list[Cache] = []
        self.readers: list[ContentReader] = []

    def reader(self, **options: int) -> ContentReader:
        """As another process has it: with a memory of its own, on the same cache."""
        cache = Cache(self.settings)
        self.caches.append(cache)
        reader = ContentReader(FetchedSource(self.scripted, self.registry, self.nodes, cache, **options))
        self.readers.append(reader)
        return reader

    def keep(self, *contents: bytes) -> list[FileContent]:
        with ContentWriter(self.local, self.registry, session=None) as writer:
            return [writer.add_bytes(data) for data in contents]

    @property
    def requests(self) -> int:
        """Of packs' bytes, tables of contents left out."""
        return sum(key.endswith(".pack") for key, _, _ in self.scripted.reads)

    @property
    def bytes_requested(self) -> int:
        return sum(length for key, _, length in self.scripted.reads if key.endswith(".pack"))

    def settle(self) -> None:
        """Close all readers, so that what they fetched is in the cache."""
        for reader in self.readers:
            reader.close()
        for cache in self.caches:
            cache.close()
        self.readers.clear()
        self.caches.clear()


@pytest.fixture
def remote(store, registry, place) -> Iterator[Remote]:
    remote = Remote(store, registry, place / "cache")
    yield remote
    remote.settle()


def flip(remote: Remote, name: bytes) -> None:
    """Damage the stored bytes of a chunk at the server."""
    location = remote.registry.locate([name])[name]
    path = remote.local.path(pack_key(location.pack))
    data = bytearray(path.read_bytes())
    data[location.offset + location.length // 2] ^= 1
    path.write_bytes(data)


def far(operation: str, _key: str) -> None:
    """A round trip. Without any a reader may overtake what is fetched ahead of it."""
    if operation == "read":
        time.sleep(0.01)


def caught_up(reader: ContentReader) -> None:
    """Wait until all has come that is fetched ahead, as a reader does that is slower than the network."""
    pool = reader._source._pool
    with pool._changed:
        assert pool._changed.wait_for(lambda: not pool._queued and not pool._running, 60)


def test_what_was_fetched_is_not_fetched_again_by_anybody(remote):
    contents = remote.keep(noise(1, 1000), noise(2, 100_000))
    first = remote.reader()
    for content, data in zip(contents, (noise(1, 1000), noise(2, 100_000)), strict=True):
        assert first.open(content.digest, content.size).read(0, content.size) == data
        assert first.open(content.digest, content.size).read(0, content.size) == data
    assert remote.requests == 2
    assert first.bytes_fetched == 101_000
    remote.settle()
    second = remote.reader()
    assert second.open(contents[1].digest, 100_000).read(5, 100) == noise(2, 100_000)[5:105]
    assert second.bytes_fetched == 0
    assert remote.requests == 2


def test_random_reads_fetch_just_their_chunks(remote):
    size = 40 * MIB
    data = noise(1, size)
    (content,) = remote.keep(data)
    reader = remote.reader()
    file = reader.open(content.digest, content.size)
    starts = [0]
    for piece in file.pieces():
        starts.append(starts[-1] + piece.size)
    offsets = [(7919 * number * 4096) % (size - 4096) // 4096 * 4096 for number in range(1, 30)]
    touched = set()
    for offset in offsets:
        assert file.read(offset, 4096) == data[offset : offset + 4096]
        touched |= {n for n in range(len(starts) - 1) if starts[n] < offset + 4096 and starts[n + 1] > offset}
    remote.settle()
    assert remote.requests <= len(touched)
    assert remote.bytes_requested == sum(starts[n + 1] - starts[n] for n in touched)


# How many requests there are is certain where the reader waits; one in a hurry fetches what has not been begun for it.
HURRIED = pytest.mark.parametrize("hurried", [False, True], ids=["slow reader", "hurried reader"])


@HURRIED
def test_a_sequential_read_is_fetched_ahead_in_few_requests_and_once(remote, hurried):
    size = 64 * MIB
    data = noise(1, size)
    (content,) = remote.keep(data)
    remote.scripted.on = far
    reader = remote.reader()
    file = reader.open(content.digest, content.size)
    for offset in range(0, size, 128 << 10):
        assert file.read(offset, 128 << 10) == data[offset : offset + (128 << 10)]
        if not hurried:
            caught_up(reader)
    remote.settle()
    assert hurried or remote.requests <= size // MIB / 2
    assert remote.bytes_requested == size


@HURRIED
def test_small_files_read_in_order_come_by_ranges_of_their_pack(remote, hurried):
    contents = remote.keep(*(noise(number, 20_000) for number in range(2000)))
    remote.scripted.on = far
    reader = remote.reader()
    for number, content in enumerate(contents):
        assert reader.open(content.digest, content.size).read(0, 20_000) == noise(number, 20_000)
        if not hurried:
            caught_up(reader)
    remote.settle()
    assert hurried or remote.requests <= 20
    assert remote.bytes_requested == 2000 * 20_000


def test_small_files_read_in_any_other_order_come_alone(remote):
    contents = remote.keep(*(noise(number, 20_000) for number in range(200)))
    reader = remote.reader()
    order = random.Random(1).sample(range(200), 60)
    for number in order:
        assert reader.open(contents[number].digest, 20_000).read(0, 20_000) == noise(number, 20_000)
    remote.settle()
    assert remote.requests == 60
    assert remote.bytes_requested == 60 * 20_000


def test_the_memory_that_is_used_up_does_not_cost_requests(remote):
    contents = remote.keep(*(noise(number, 100_000) for number in range(100)))
    reader = remote.reader(memory=300_000)
    for _ in range(3):
        for number, content in enumerate(contents):
            assert reader.open(content.digest, content.size).read(0, 100_000) == noise(number, 100_000)
    remote.settle()
    assert remote.bytes_requested <= 100 * 100_000 * 1.2


def test_a_damaged_cache_entry_is_a_miss(remote, place):
    (content,) = remote.keep(noise(1, 50_000))
    remote.reader().open(content.digest, content.size).read(0, 50_000)
    remote.settle()
    damaged = 0
    for path in (place / "cache").rglob("*"):
        if path.is_file() and path.stat().st_size >= 50_000 and noise(1, 50_000)[:64] in path.read_bytes():
            with path.open("r+b") as file:
                at = file.read().index(noise(1, 50_000)[:64])
                file.seek(at + 1000)
                file.write(b"\0\0\0\0")
            damaged += 1
    assert damaged == 1
    reader = remote.reader()
    assert reader.open(content.digest, content.size).read(0, 50_000) == noise(1, 50_000)
    assert remote.requests == 2
    remote.settle()
    assert remote.reader().open(content.digest, content.size).read(0, 50_000) == noise(1, 50_000)
    assert remote.requests == 2, "mended in the cache"


def test_damage_at_the_server_names_the_chunk_and_its_neighbours_are_read(remote):
    contents = remote.keep(*(noise(number, 20_000) for number in range(300)))
    flip(remote, contents[150].digest)
    reader = remote.reader()
    for number, content in enumerate(contents):
        file = reader.open(content.digest, content.size)
        if number == 150:
            with pytest.raises(Integrity, match=content.digest.hex()):
                file.read(0, 20_000)
        else:
            assert file.read(0, 20_000) == noise(number, 20_000)


def test_offline_the_cache_goes_on_and_the_rest_is_unavailable(remote):
    contents = remote.keep(noise(1, 1000), noise(2, 1000))
    remote.reader().open(contents[0].digest, 1000).read(0, 1000)
    remote.settle()

    def away(operation: str, _key: str) -> None:
        if operation == "read":
            raise Unavailable("cannot reach the server")

    remote.scripted.on = away
    reader = remote.reader()
    assert reader.open(contents[0].digest, 1000).read(0, 1000) == noise(1, 1000)
    with pytest.raises(Unavailable, match="cannot reach the server"):
        reader.open(contents[1].digest, 1000).read(0, 1000)


def test_one_fetch_however_many_threads_and_caches_want_it(remote):
    (content,) = remote.keep(noise(1, 300_000))
    readers = [remote.reader() for _ in range(3)]
    started = threading.Barrier(9)
    results: list[bytes] = []

    def work(reader: ContentReader) -> None:
        started.wait(30)
        results.append(bytes(reader.open(content.digest, content.size).read(0, 300_000)))

    threads = [threading.Thread(target=work, args=(reader,)) for reader in readers for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert results == [noise(1, 300_000)] * 9
    assert remote.requests == 1


def test_a_stalled_file_leaves_the_others_their_way(remote):
    stalled, *others = remote.keep(*(noise(number, 12 * MIB) for number in range(3)))
    stop = threading.Event()
    held = {piece.digest for piece in _pieces(remote, stalled)}
    places = remote.registry.locate(held)
    ranges = {(pack_key(place.pack), place.offset) for place in places.values()}

    original = remote.scripted.read_parts

    def read_parts(key: str, offset: int, lengths: Sequence[int]) -> Iterator[bytes]:
        if (key, offset) in ranges:
            assert stop.wait(60)
        return original(key, offset, lengths)

    def read(key: str, offset: int, length: int) -> bytes:
        if (key, offset) in ranges:
            assert stop.wait(60)
        return ScriptedStore.read(remote.scripted, key, offset, length)

    remote.scripted.read_parts = read_parts
    remote.scripted.read = read
    reader = remote.reader()

    def wait_for_it(offset: int) -> None:
        reader.open(stalled.digest, stalled.size).read(offset, 4096)

    waiting = [threading.Thread(target=wait_for_it, args=(number * 4096,), daemon=True) for number in range(100)]
    for thread in waiting:
        thread.start()
    for number, content in enumerate(others, 1):
        data = noise(number, 12 * MIB)
        file = reader.open(content.digest, content.size)
        for offset in range(0, content.size, MIB):
            assert file.read(offset, MIB) == data[offset : offset + MIB]
    assert any(thread.is_alive() for thread in waiting)
    stop.set()
    for thread in waiting:
        thread.join(60)
    assert not any(thread.is_alive() for thread in waiting)


def _pieces(remote: Remote, content: FileContent):
    return remote.reader().open(content.digest, content.size).pieces()


def test_all_of_a_version_is_fetched_by_wide_ranges_and_again_nothing(remote):
    contents = remote.keep(*(noise(number, 30_000) for number in range(1000)))
    reader = remote.reader()
    pieces = [piece for content in contents for piece in reader.open(content.digest, content.size).pieces()]
    assert sum(reader.fetch_all(pieces)) == 30_000_000
    assert remote.requests <= 6
    assert sum(remote.reader().fetch_all(pieces, pin=True)) == 30_000_000
    assert remote.requests <= 6
    assert remote.caches[-1].status().pinned_bytes >= 30_000_000


def test_nodes_are_kept_apart_and_asked_for_with_those_beside_them(remote):
    with ContentWriter(remote.local, remote.registry, session=None) as writer:
        names = [writer.add_node(TREE, noise(number, 3000)) for number in range(20)]
        lists = [writer.add_node(CHUNKS, noise(number, 100)) for number in range(2)]
    reader = remote.reader()
    assert reader.chunk(names[0], TREE, along=names[1:]) == noise(0, 3000)
    assert [reader.node(name, TREE) for name in names] == [noise(number, 3000) for number in range(20)]
    assert len(remote.nodes.asked) == 1
    assert reader.node(lists[1], CHUNKS) == noise(1, 100)
    remote.settle()
    again = remote.reader()
    assert [again.node(name, TREE) for name in names] == [noise(number, 3000) for number in range(20)]
    assert len(remote.nodes.asked) == 2
    assert remote.requests == 0
    with pytest.raises(Integrity, match="in no pack"):
        again.node(b"\1" * 32, TREE)


def test_a_path_comes_by_one_request_and_damage_on_the_way_is_told(remote):
    with ContentWriter(remote.local, remote.registry, session=None) as writer:
        names = [writer.add_node(TREE, noise(number, 3000)) for number in range(4)]
    flip(remote, names[3])
    reader = remote.reader()
    reader.path(names[0], "/".join(name.hex() for name in names[1:]))
    assert [reader.node(name, TREE) for name in names[:3]] == [noise(number, 3000) for number in range(3)]
    assert len(remote.nodes.asked) == 1
    with pytest.raises(Integrity, match="came damaged from the server"):
        reader.node(names[3], TREE)
    assert len(remote.nodes.asked) == 3, "asked for once more, in case it was damaged on the way"
    reader.path(names[0], names[1].hex())
    assert len(remote.nodes.asked) == 3

from __future__ import annotations

import os
import threading
from collections import Counter
from pathlib import Path

import pytest
from blake3 import blake3

from artifactfs.content import pack, pipeline
from artifactfs.content.chunks import Cutter
from artifactfs.content.local import LocalStore
from artifactfs.content.pack import pack_key, rebuild_rows
from artifactfs.content.writer import ContentWriter, FileContent
from artifactfs.errors import Conflict, InvalidInput, NoSpace, Unavailable
from artifactfs.model import sequence
from artifactfs.model.digest import CHUNKS, DATA, TREE, digest, kind_of_flags
from artifactfs.model.sequence import CHUNK_LIST, SINGLE_CHUNK, Piece
from artifactfs.registry.sql import SQLRegistry
from tests.content.stores import ScriptedStore, noise, reader_of

MIB = 1 << 20


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def add_path(writer: ContentWriter, path: Path) -> FileContent:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return writer.add_file(descriptor)
    finally:
        os.close(descriptor)


def read_all(store, registry, content: FileContent) -> bytes:
    return bytes(reader_of(store, registry).open(content.digest, content.size).read(0, content.size + 1))


def pieces_of(data: bytes) -> list[Piece]:
    return [Piece(digest(DATA, data[a:b]), b - a) for a, b in Cutter().cut(data, final=True)]


def expected(data: bytes) -> FileContent:
    """Format 1 in the plainest words."""
    if len(data) <= SINGLE_CHUNK:
        return FileContent(blake3(data).digest(), len(data))
    return FileContent(sequence.build(CHUNK_LIST, pieces_of(data), digest).digest, len(data))


def data_packs(store, registry) -> list[list[tuple[int, int]]]:
    """Every pack of data as its chunks' (offset, size), the largest first."""
    packs = [rebuild_rows(store, name) for name, _ in registry.packs()]
    found = [
        [(row.offset, row.size) for row in pack.chunks]
        for pack in packs
        if {kind_of_flags(row.flags) for row in pack.chunks} == {DATA}
    ]
    return sorted(found, key=lambda rows: -sum(size for _, size in rows))


SIZES = [0, 1, 4095, SINGLE_CHUNK - 1, SINGLE_CHUNK, SINGLE_CHUNK + 1, 12 * MIB - 1, 12 * MIB, 12 * MIB + 1, 30 * MIB]


@pytest.mark.parametrize("size", SIZES)
def test_a_file_has_the_digest_of_format_1_and_comes_back(store, registry, place, size):
    data = noise(size, size)
    with ContentWriter(store, registry, session=None) as writer:
        content = add_path(writer, write(place / "file", data))
        assert content == expected(data)
        assert writer.bytes_read == size
    assert read_all(store, registry, content) == data


@pytest.mark.parametrize("size", SIZES)
def test_the_way_in_makes_no_difference(store, registry, place, size):
    data = noise(size, size)
    position = 0

    def read(length: int) -> bytes:
        nonlocal position
        part = data[position : position + min(length, 777_777)]
        position += len(part)
        return part

    with ContentWriter(store, registry, session=None) as writer:
        assert (
            add_path(writer, write(place / "file", data))
            == writer.add_bytes(data)
            == writer.add_stream(read)
            == writer.rechunk([], size, [(0, size)], lambda offset, length: data[offset : offset + length])
        )


def test_an_empty_file_has_the_digest_of_nothing_and_no_chunk(store, registry):
    with ContentWriter(store, registry, session=None) as writer:
        assert writer.add_bytes(b"") == FileContent(blake3(b"").digest(), 0)
    assert list(store.list()) == []
    assert registry.packs() == []
    assert writer.chunks_new == 0


def test_a_file_is_read_from_its_beginning_wherever_its_descriptor_stands(store, registry, place):
    data = noise(1, 5 * MIB)
    descriptor = os.open(write(place / "file", data), os.O_RDONLY)
    os.lseek(descriptor, 1000, os.SEEK_SET)
    with ContentWriter(store, registry, session=None) as writer:
        assert writer.add_file(descriptor) == expected(data)
    assert os.lseek(descriptor, 0, os.SEEK_CUR) == 1000
    os.close(descriptor)


def test_a_file_whose_size_is_not_told_is_read_to_its_end(store, registry):
    # Files of /proc say that they have no bytes, as a file does that grows between asking and reading.
    with ContentWriter(store, registry, session=None) as writer:
        content = add_path(writer, Path("/proc/cpuinfo"))
    assert content.size > 0
    assert read_all(store, registry, content).count(b"processor") >= 1


def test_known_chunks_are_not_stored_again(store, registry):
    small, large = noise(1, 1000), noise(2, 9 * MIB)
    with ContentWriter(store, registry, session=None) as writer:
        first = [writer.add_bytes(small), writer.add_bytes(small), writer.add_bytes(large), writer.add_bytes(large)]
        writer.flush()
        stored, new = writer.bytes_stored, writer.chunks_new
        assert len(small + large) < stored < len(small + large) + 1000
        assert new == 1 + len(pieces_of(large)) + 1  # and the chunk list
        assert writer.chunks_known == new
        writer.add_bytes(small)
    with ContentWriter(store, registry, session=None) as writer:
        again = [writer.add_bytes(small), writer.add_bytes(small), writer.add_bytes(large), writer.add_bytes(large)]
    assert again == first
    assert writer.bytes_stored == writer.chunks_new == 0
    assert writer.chunks_known == 2 * new
    assert sum(size for _, size in registry.packs()) == stored


def test_a_chunk_is_stored_once_while_its_pack_is_on_its_way(place, registry, monkeypatch):
    monkeypatch.setattr(pack, "PACK_SIZE", 1)  # every chunk closes its pack
    monkeypatch.setattr(pipeline, "LOCAL_BATCH", pipeline.BatchLimits(1, 1 << 20, 3))  # and is handed over at once
    store = ScriptedStore(LocalStore(place / "store", create=True))
    durable, go_on = threading.Event(), threading.Event()

    def on(operation: str, _key: str) -> None:
        if operation == "published":
            durable.set()
            assert go_on.wait(30)

    store.on = on
    with ContentWriter(store, registry, session=None) as writer:
        content = writer.add_bytes(noise(1, 1000))
        assert durable.wait(30)
        assert registry.packs() == []  # durable, not recorded yet
        writer.add_bytes(noise(1, 1000))
        while writer.chunks_new + writer.chunks_known < 2:
            assert not go_on.wait(0.001)
        go_on.set()
        writer.flush()
        writer.add_bytes(noise(1, 1000))
        writer.flush()
        assert (writer.chunks_new, writer.chunks_known) == (1, 2)
    assert read_all(store, registry, content) == noise(1, 1000)


def test_two_writers_of_one_chunk_leave_one_place(place, store, registry):
    data = [noise(seed, 50_000) for seed in range(40)]
    with (
        ContentWriter(store, registry, session=None) as one,
        ContentWriter(LocalStore(store.root), SQLRegistry(place / "registry.db"), session=None) as two,
    ):
        for part in data:
            one.add_bytes(part)
            two.add_bytes(part[:])
        two.add_bytes(b"more")
        one.flush()
        place_before = registry.locate([blake3(data[0]).digest()])
    assert registry.locate([blake3(data[0]).digest()]) == place_before
    reader = reader_of(store, registry)
    assert [reader.chunk(blake3(part).digest()) for part in [*data, b"more"]] == [*data, b"more"]


def test_data_and_nodes_lie_in_packs_of_their_own(store, registry):
    with ContentWriter(store, registry, session=None) as writer:
        names = []
        for number in range(10):
            writer.add_bytes(noise(number, 5000))
            names.append(writer.add_node(TREE, noise(100 + number, 300)))
            names.append(writer.add_node(CHUNKS, noise(200 + number, 300)))
    kinds = [{kind_of_flags(row.flags) for row in rebuild_rows(store, name).chunks} for name, _ in registry.packs()]
    assert sorted(kinds, key=sorted) == [{DATA}, {TREE, CHUNKS}]
    assert names[0] == digest(TREE, noise(100, 300))
    assert reader_of(store, registry).node(names[1], CHUNKS) == noise(200, 300)


def test_chunks_lie_in_the_order_they_came_and_packs_are_closed_at_64_mib(store, registry):
    files = [noise(number, 3 * MIB) for number in range(25)]
    with ContentWriter(store, registry, session=None) as writer:
        for data in files:
            writer.add_bytes(data)
    packs = [rebuild_rows(store, name) for name, _ in registry.packs()]
    assert sorted(pack.size for pack in packs) == [9 * MIB, 66 * MIB]
    order = [row.digest for pack in sorted(packs, key=lambda pack: -pack.size) for row in pack.chunks]
    assert order == [blake3(data).digest() for data in files]


def test_packs_of_tiny_files_are_closed_by_their_number(store, registry):
    with ContentWriter(store, registry, session=None) as writer:
        for number in range(60_000):
            writer.add_bytes(number.to_bytes(4, "big"))
    packs = [rebuild_rows(store, name) for name, _ in registry.packs()]
    assert sorted(len(pack.chunks) for pack in packs) == [10_000, 50_000]


def test_a_large_raw_file_has_a_pack_of_its_own_in_one_piece(store, registry, place):
    data = noise(1, 70 * MIB)
    with ContentWriter(store, registry, session=None) as writer:
        writer.add_bytes(b"before")
        content = add_path(writer, write(place / "file", data))
        writer.add_bytes(b"after")
    assert content == expected(data)
    own, shared = data_packs(store, registry)
    offset = 0
    for begin, size in own:
        assert begin == offset
        offset += size
    assert offset == len(data)
    assert [size for _, size in shared] == [6, 5]
    (name,) = {name for name, size in registry.packs() if size == len(data)}
    assert name == blake3(data).hexdigest()
    assert store.read(pack_key(name), 0, len(data)) == data


def test_a_large_file_that_compresses_goes_to_ordinary_packs(store, registry, place):
    line = noise(1, 500).hex().encode()
    data = b"".join(line + str(number).encode() for number in range(72_000))
    assert len(data) > 64 * MIB
    with ContentWriter(store, registry, session=None) as writer:
        content = add_path(writer, write(place / "file", data))
        writer.add_bytes(b"after")
    assert content == expected(data)
    assert len(data_packs(store, registry)) == 1
    assert writer.bytes_stored < len(data) / 3
    assert read_all(store, registry, content) == data


def test_a_large_file_that_is_partly_known_or_partly_compresses_is_stored_once(store, registry, place):
    first = noise(1, 70 * MIB)
    second = noise(2, 10 * MIB) + first[: 66 * MIB]  # new at first, then known
    third = noise(3, 10 * MIB) + bytes(10 * MIB) + noise(4, 60 * MIB)  # raw, then compressed, then raw
    with ContentWriter(store, registry, session=None) as writer:
        small = writer.add_bytes(noise(5, 3 * MIB))
        contents = [add_path(writer, write(place / "file", data)) for data in (first, second, third)]
    assert contents == [expected(first), expected(second), expected(third)]
    plain = 3 + 70 + 10 + 70
    assert plain * MIB < writer.bytes_stored < (plain + 5) * MIB  # the known begins at a boundary: a chunk or two more
    for content, data in zip(contents, (first, second, third), strict=True):
        assert read_all(store, registry, content) == data
    assert read_all(store, registry, small) == noise(5, 3 * MIB)
    assert len(data_packs(store, registry)) <= 5


def test_two_large_files_in_a_row_have_a_pack_each(store, registry, place):
    with ContentWriter(store, registry, session=None) as writer:
        for seed in (1, 2):
            add_path(writer, write(place / "file", noise(seed, 65 * MIB)))
    assert [sum(size for _, size in pack) for pack in data_packs(store, registry)] == [65 * MIB, 65 * MIB]


def test_over_a_network_no_pack_is_larger_than_one_request(place, registry):
    store = ScriptedStore(LocalStore(place / "store", create=True), local=False)
    data = noise(1, 140 * MIB)
    with ContentWriter(store, registry, session=None) as writer:
        content = add_path(writer, write(place / "file", data))
        writer.add_bytes(b"after")
    assert content == expected(data)
    packs = data_packs(store, registry)
    assert len(packs) == 3
    assert all(64 * MIB <= sum(size for _, size in pack) < 68 * MIB for pack in packs[:2])
    assert read_all(store, registry, content) == data


def test_over_a_network_20_000_files_are_few_requests(place, registry, monkeypatch):
    """Of the 60 that `put` may take in all, the rest is for its session and its commit."""
    store = ScriptedStore(LocalStore(place / "store", create=True), local=False)
    requests = Counter()
    store.on = lambda operation, _key: requests.update([operation])
    for question in ("missing", "add_packs"):
        asked = getattr(registry, question)

        def counted(*words, question=question, asked=asked, **options):
            requests.update([question])
            return asked(*words, **options)

        monkeypatch.setattr(registry, question, counted)
    with ContentWriter(store, registry, session=None) as writer:
        for number in range(20_000):
            writer.add_bytes(noise(number, 20_000))
    assert writer.chunks_new == 20_000
    assert requests["publish"] == 2 * requests["add_packs"] == 2 * 6
    assert requests["missing"] <= 24
    assert requests["publish"] + requests["add_packs"] + requests["missing"] <= 50


def test_one_changed_byte_in_256_mib_stores_a_few_mib(store, registry):
    data = bytearray(noise(1, 256 * MIB))
    with ContentWriter(store, registry, session=None) as writer:
        content = writer.add_bytes(bytes(data))
    base = reader_of(store, registry).open(content.digest, content.size).pieces()
    data[100 * MIB] ^= 1
    reads = []

    def read(offset: int, length: int) -> memoryview:
        reads.append(length)
        return memoryview(data)[offset : offset + length]

    with ContentWriter(store, registry, session=None) as writer:
        changed = writer.rechunk(base, len(data), [(100 * MIB, 100 * MIB + 1)], read)
        writer.flush()
        assert 0 < writer.bytes_stored <= 8 * MIB
        assert sum(reads) <= 16 * MIB
        stored = writer.bytes_stored
        assert writer.add_bytes(bytes(data)) == changed
        writer.flush()
        assert writer.bytes_stored == stored, "cut as a whole it is the same chunks"
    assert changed != content


@pytest.mark.parametrize("size", [0, 1, 3 * MIB, SINGLE_CHUNK, SINGLE_CHUNK + 1, 9 * MIB, 20 * MIB])
@pytest.mark.parametrize("base_size", [0, 1000, SINGLE_CHUNK, 9 * MIB])
def test_rechunking_across_the_size_of_a_single_chunk(store, registry, base_size, size):
    old = noise(1, base_size)
    new = (old + noise(2, size))[:size]
    with ContentWriter(store, registry, session=None) as writer:
        base = writer.add_bytes(old)
        writer.flush()
        pieces = reader_of(store, registry).open(base.digest, base.size).pieces()
        changed = [(base_size, size)] if size > base_size else []
        content = writer.rechunk(pieces, size, changed, lambda offset, length: new[offset : offset + length])
    assert content == expected(new)
    assert read_all(store, registry, content) == new


def test_rechunking_a_file_that_shrinks_meanwhile_is_a_conflict(store, registry):
    with ContentWriter(store, registry, session=None) as writer, pytest.raises(Conflict):
        writer.rechunk([], 5 * MIB, [], lambda offset, length: bytes(min(length, 4 * MIB - offset)))


def test_nothing_is_recorded_before_it_is_durable(place, registry):
    store = ScriptedStore(LocalStore(place / "store", create=True))
    seen = []

    def on(operation: str, key: str) -> None:
        seen.append((operation, key.rpartition(".")[2], len(registry.packs())))

    store.on = on
    with ContentWriter(store, registry, session=None) as writer:
        writer.add_bytes(noise(1, 1000))
        writer.flush()
        assert len(registry.packs()) == 1
    assert [event for event in seen if event[0].startswith("publish")] == [
        ("publish", "pack", 0),
        ("published", "pack", 0),
        ("publish", "idx", 0),
        ("published", "idx", 0),
    ]


def test_flush_lets_others_see_and_the_writer_go_on(store, registry):
    with ContentWriter(store, registry, session=None) as writer:
        one = writer.add_bytes(b"one")
        writer.flush()
        assert read_all(store, registry, one) == b"one"
        writer.flush()
        two = writer.add_bytes(b"two")
    assert read_all(store, registry, two) == b"two"
    assert len(registry.packs()) == 2


def test_a_closed_writer_refuses_and_closes_again(store, registry):
    writer = ContentWriter(store, registry, session=None)
    writer.close()
    writer.close()
    writer.abort()
    for call in (lambda: writer.add_bytes(b"x"), lambda: writer.add_node(TREE, b"x"), writer.flush):
        with pytest.raises(InvalidInput, match="closed"):
            call()


def test_abort_leaves_nothing_that_was_not_flushed(store, registry):
    def broken_off() -> None:
        with ContentWriter(store, registry, session=None) as writer:
            writer.add_bytes(b"kept")
            writer.flush()
            writer.add_bytes(noise(1, 30 * MIB))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        broken_off()
    assert len(registry.packs()) == 1
    assert len(list(store.list())) == 2
    assert list((store.root / "tmp").iterdir()) == []


def add_in_turns(writer: ContentWriter) -> None:
    for number in range(10):
        writer.add_bytes(noise(number, 1000))
        writer.flush()


def add_many(writer: ContentWriter, count: int, size: int) -> None:
    for number in range(count):
        writer.add_bytes(noise(number, size))
    writer.flush()


def test_a_full_disk_is_no_space_everywhere_and_registers_nothing(small_disk, registry):
    store = LocalStore(small_disk / "store", create=True)
    writer = ContentWriter(store, registry, session=None)
    add_many(writer, 1, 1000)
    with pytest.raises(NoSpace):
        add_many(writer, 100, 3 * MIB)
    for call in (lambda: writer.add_bytes(b"x"), writer.flush, writer.close):
        with pytest.raises(NoSpace):
            call()
    assert len(registry.packs()) == 1
    assert len(list(store.list())) == 2
    assert list((small_disk / "store/tmp").iterdir()) == []
    with ContentWriter(store, registry, session=None) as again:
        again.add_bytes(b"there is room again")


@pytest.mark.parametrize("operation", ["upload", "write", "publish", "published"])
@pytest.mark.parametrize("turn", [1, 2, 3])
def test_a_failing_store_fails_the_writer_and_registers_nothing_more(place, registry, operation, turn):
    store = ScriptedStore(LocalStore(place / "store", create=True))
    count = 0

    def on(happening: str, _key: str) -> None:
        nonlocal count
        if happening == operation:
            count += 1
            if count >= turn:
                raise Unavailable("the store is away")

    store.on = on
    writer = ContentWriter(store, registry, session=None)
    with pytest.raises(Unavailable, match="away"):
        add_in_turns(writer)
    writer.abort()
    for name, _ in registry.packs():
        rebuild_rows(store.store, name)
    assert list((place / "store").glob("tmp/*")) == []


def test_a_failing_registry_fails_the_writer(store, registry, monkeypatch):
    def fail(*_args: object, **_kwargs: object) -> None:
        raise Unavailable("the registry is away")

    for method in ("missing", "add_packs"):
        with monkeypatch.context() as patch:
            patch.setattr(registry, method, fail)
            writer = ContentWriter(store, registry, session=None)
            writer.add_bytes(b"x")
            with pytest.raises(Unavailable, match="registry is away"):
                writer.close()
    assert registry.packs() == []


@pytest.mark.parametrize("local", [True, False])
def test_the_caller_waits_for_a_slow_store_instead_of_filling_memory(place, registry, local):
    limits = pipeline.LOCAL_BATCH if local else pipeline.REMOTE_BATCH
    store = ScriptedStore(LocalStore(place / "store", create=True), local=local)
    go_on = threading.Event()
    store.on = lambda operation, _key: None if operation != "write" else (go_on.wait(60), None)[1]
    added = 0
    data = noise(1, 3 * MIB)

    def work() -> None:
        nonlocal added
        with ContentWriter(store, registry, session=None) as writer:
            for number in range(60):
                writer.add_bytes(number.to_bytes(8, "big") + data)
                added += 1

    worker = threading.Thread(target=work)
    worker.start()
    worker.join(1)
    assert worker.is_alive()
    # What waits, what is being packed, and what is being handed over, each of files of 3 MiB up to its size.
    assert added <= -(-limits.size // (3 * MIB)) * (limits.waiting + 2)
    go_on.set()
    worker.join()
    assert added == 60

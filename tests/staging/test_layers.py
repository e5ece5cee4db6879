"""Extents against a plain set of offsets; layers against plain bytes; what huge bases cost."""

from __future__ import annotations

import os
import threading
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from artifactfs.model.tree import FileEntry, build_tree
from artifactfs.mount.layers import Extents
from tests.staging.driver import Disk, committed_tree

ranges = st.lists(st.tuples(st.integers(0, 60), st.integers(1, 20)), max_size=30)


@given(ranges, st.integers(0, 80), st.tuples(st.integers(0, 60), st.integers(1, 30)))
def test_extents_are_a_set_of_offsets(added, size, asked):
    extents, offsets = Extents(), set()
    for start, length in added:
        edit = extents.plan(start, start + length)
        assert (edit is None) == (set(range(start, start + length)) <= offsets)
        if edit is not None:
            extents.apply(edit)
        offsets |= set(range(start, start + length))
    extents.clip(size)
    offsets = {offset for offset in offsets if offset < size}
    found = list(extents)
    assert {offset for start, end in found for offset in range(start, end)} == offsets
    assert all(start < end for start, end in found)
    assert all(one[1] < two[0] for one, two in pairwise(found))
    start, end = asked[0], sum(asked)
    pieces = extents.within(start, end)
    assert [offset for begin, stop, _ in pieces for offset in range(begin, stop)] == list(range(start, end))
    assert {offset for begin, stop, own in pieces if own for offset in range(begin, stop)} == offsets & set(
        range(start, end)
    )


def test_one_byte_of_a_large_file_costs_a_block(fresh: Disk):
    data = os.urandom(64 << 20)
    fresh.write("large", data)
    fresh.commit()
    assert fresh.local_bytes() == 0
    fresh.patch("large", 40_000_001, b"!")
    assert fresh.local_bytes() <= 4096
    with fresh.opened("large") as fh:
        assert (
            bytes(fresh.staging.read(fh, 40_000_000, 3))
            == data[40_000_000:40_000_001] + b"!" + data[40_000_002:40_000_003]
        )
    assert fresh.at("large").blocks == (64 << 20) // 512


class Counting:
    """Counts the nodes that are fetched."""

    def __init__(self, disk: Disk) -> None:
        self.nodes = 0
        self.fetch = disk.repository.trees._fetch
        disk.repository.trees._fetch = self

    def __call__(self, digest: bytes) -> bytes:
        self.nodes += 1
        return self.fetch(digest)


def rows(disk: Disk) -> int:
    counts = disk.workspace.execute("SELECT (SELECT count(*) FROM inode) + (SELECT count(*) FROM link)")
    return counts.fetchone()[0]


def test_a_directory_of_a_million_entries_is_moved_by_a_few_rows(fresh: Disk):
    with fresh.repository.writing("put") as writing:
        add = writing.writer.add_node
        digest = writing.writer.add_bytes(b"same").digest
        huge = build_tree((FileEntry(f"{number:07}", 4, digest, False) for number in range(1_000_000)), add)
        root = build_tree([build_tree([huge.entry("huge")], add).entry("deep")], add)
        version = writing.commit("new", root, base=None).version
    fresh.staging.follow(fresh.area, version)
    count = Counting(fresh)
    node = fresh.at("deep/huge/0500000").node
    fresh.rename("deep/huge", "moved")
    assert rows(fresh) < 20
    assert count.nodes < 10
    assert fresh.at("moved/0500000").node == node
    fresh.unlink("moved/0000007")
    fresh.write("moved/0999999", b"changed")
    fresh.chmod("moved/0500001", 0o755)
    assert rows(fresh) < 20
    frozen = fresh.staging.freeze(fresh.area)
    version = fresh.land(frozen)
    fresh.staging.thaw(frozen, version)
    assert count.nodes < 40
    assert version.files == 999_999
    assert not fresh.staging.is_dirty(fresh.area)
    fresh.kill()
    assert fresh.read("moved/0999999") == b"changed"
    assert not fresh.exists("moved/0000007")


def test_threads_write_while_commits_run(fresh: Disk):
    """Each thread keeps a counter in a file; a commit holds for each of them a value that it had, never a torn one."""
    stop = threading.Event()
    failures: list[BaseException] = []
    width = 30_000

    def count(name: str) -> None:
        try:
            number = 0
            with fresh.opened(name, os.O_RDWR | os.O_CREAT) as fh:
                while not stop.is_set():
                    number += 1
                    fresh.staging.write(fh, 0, memoryview(b"%d" % (number % 10) * width))
                    fresh.write(f"{name}-{number % 7}", b"%d" % number)
                    if number % 5 == 0:
                        fresh.unlink(f"{name}-{number % 7}")
                    assert fresh.staging.read(fh, 0, width) == b"%d" % (number % 10) * width
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=count, args=(f"t{index}",)) for index in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(12):
        version = fresh.commit()
        for path, (_, content, _) in committed_tree(fresh.repository, version).items():
            if "-" not in path:
                assert len(content) in {0, width}
                assert len(set(content)) <= 1
        fresh.list()
    stop.set()
    for thread in threads:
        thread.join()
    assert not failures
    now = fresh.tree()
    fresh.kill()
    assert fresh.tree() == now
    version = fresh.commit()
    assert committed_tree(fresh.repository, version) == now

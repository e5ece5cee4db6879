from __future__ import annotations

import random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from artifactfs.errors import Integrity, NotFound
from artifactfs.model import sequence
from artifactfs.model.digest import CHUNKS, DATA, TREE, digest, format_digest
from artifactfs.model.sequence import CHUNK_LIST, Piece
from artifactfs.model.tree import (
    TREE_SEQUENCE,
    DirEntry,
    FileEntry,
    LinkEntry,
    RefEntry,
    Trees,
    build_tree,
    diff_trees,
    edit_tree,
)


class Nodes(dict):
    """Nodes by digest, counting what is stored and fetched."""

    def __init__(self):
        super().__init__()
        self.fetched = 0

    def store(self, kind, data):
        name = digest(kind, data)
        self[name] = data
        return name

    def fetch(self, name):
        self.fetched += 1
        return self[name]


def file(name, content="x"):
    return FileEntry(name, len(content), digest(DATA, content.encode()), executable=False)


def files(count):
    return [file(f"f{number:07d}", str(number)) for number in range(count)]


def test_golden_digests_of_format_1():
    """A change here is a change of the format: every version of every repository would get another digest."""
    nodes = Nodes()
    assert format_digest(digest(DATA, b"")) == "blake3:af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
    inner = build_tree([file("a", "hello")], nodes.store)
    root = build_tree(
        [
            FileEntry("b", 1 << 40, digest(CHUNKS, b""), executable=True),
            inner.entry("d"),
            LinkEntry("l", "d/a"),
            RefEntry("r", "s3://bucket/key", 5, None, "etag", None),
        ],
        nodes.store,
    )
    assert nodes[build_tree([], nodes.store).digest].hex() == "920090"
    assert nodes[inner.digest].hex() == "92009195" + "00a16105c420" + digest(DATA, b"hello").hex() + "c2"
    assert format_digest(root.digest) == GOLDEN_ROOT
    assert (root.files, root.entries, root.size) == (4, 5, (1 << 40) + 5 + 5)


GOLDEN_ROOT = "blake3:ff4e67a4d8d674f12d52283c47993f596c585ce21f023a4d2c6cb0198f266d8a"


def test_golden_boundaries_of_a_large_directory():
    nodes = Nodes()
    root = build_tree(files(100_000), nodes.store)
    leaves = sequence.leaves(TREE_SEQUENCE, root.digest, lambda _kind, name: nodes[name])
    assert sum(branch.count for branch in leaves) == 100_000
    assert all(128 <= branch.count <= 4096 for branch in leaves[:-1])
    assert (len(leaves), format_digest(root.digest)) == GOLDEN_LARGE


GOLDEN_LARGE = (118, "blake3:5ebf34bb566026e25b3b3dd84f50c173c1ce4d650c62a290e19b6d6620c8b019")


def test_the_same_bytes_in_two_domains_have_two_digests():
    assert len({digest(kind, b"\x92\x00\x90") for kind in (DATA, TREE, CHUNKS)}) == 3


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_editing_equals_building_anew(data):
    """Same tree, same digest, however it was reached."""
    nodes = Nodes()
    trees = Trees(nodes.fetch)
    seed = data.draw(st.integers(0, 2**32))
    rng = random.Random(seed)
    present = {entry.name: entry for entry in files(data.draw(st.sampled_from([0, 1, 200, 3000])))}
    root = build_tree([present[name] for name in sorted(present)], nodes.store)
    for _ in range(3):
        changes = {}
        for _ in range(rng.choice([0, 1, 3, 800])):
            name = f"f{rng.randrange(4000):07d}" if rng.random() < 0.8 else f"g{rng.randrange(100)}"
            changes[name] = None if rng.random() < 0.4 else file(name, str(rng.random()))
        if rng.random() < 0.1:
            changes = dict.fromkeys(present)
        for name, entry in changes.items():
            if entry is None:
                present.pop(name, None)
            else:
                present[name] = entry
        root = edit_tree(trees, root.digest, changes, nodes.store)
        assert root == build_tree([present[name] for name in sorted(present)], nodes.store)
        assert [entry for _, _, entry in trees.scan(root.digest)] == [present[name] for name in sorted(present)]


def test_one_change_among_a_million_entries_stores_and_reads_a_few_nodes():
    nodes = Nodes()
    root = build_tree(files(1_000_000), nodes.store)
    count, size = len(nodes), sum(map(len, nodes.values()))
    trees = Trees(nodes.fetch)
    edited = edit_tree(trees, root.digest, {"f0500000": file("f0500000", "other")}, nodes.store)
    assert edited.digest != root.digest
    assert len(nodes) - count <= 4
    assert sum(map(len, nodes.values())) - size < 512 << 10
    assert nodes.fetched <= 6
    nodes.fetched = 0
    changes = list(diff_trees(Trees(nodes.fetch), root.digest, edited.digest))
    assert [(change.kind, change.path) for change in changes] == [("changed", "f0500000")]
    assert nodes.fetched <= 8


def nested():
    """A tree with directories of every size, and the path of every number."""
    nodes = Nodes()
    inner = build_tree(files(2500), nodes.store)
    middle = build_tree([file("a"), inner.entry("b"), inner.entry("c"), LinkEntry("d", "a")], nodes.store)
    empty = build_tree([], nodes.store)
    entries = sorted(
        [*files(1500), middle.entry("f0000700dir"), empty.entry("e"), middle.entry("z")], key=lambda e: e.name
    )
    return nodes, build_tree(entries, nodes.store)


def test_numbers_and_entries_are_each_other_s_inverse():
    nodes, root = nested()
    trees = Trees(nodes.fetch)
    by_number = {}

    def walk(directory, base, prefix):
        for _, offset, entry in trees.scan(directory):
            by_number[base + offset] = f"{prefix}{entry.name}"
            if isinstance(entry, DirEntry):
                walk(entry.digest, base + offset, f"{prefix}{entry.name}/")

    walk(root.digest, 0, "")
    assert sorted(by_number) == list(range(1, root.entries + 1))
    for number, path in by_number.items():
        trail = trees.trail(root.digest, number)
        assert "/".join(found.entry.name for found in trail) == path
        assert trail[-1].offset == number
    for number in random.Random(5).sample(sorted(by_number), 500):
        assert trees.find(root.digest, by_number[number]).offset == number
    for number in (0, -1, root.entries + 1, 1 << 35):
        with pytest.raises(NotFound):
            trees.at(root.digest, number)


def test_a_scan_starts_anywhere():
    nodes, root = nested()
    trees = Trees(nodes.fetch)
    everything = list(trees.scan(root.digest))
    for start in (0, 1, 127, 128, 1000, 1501, 1502, 1503, 9999):
        assert list(trees.scan(root.digest, start)) == everything[start:]


def test_what_is_not_there_is_not_found():
    nodes, root = nested()
    trees = Trees(nodes.fetch)
    for name in ("", "a", "f", "f9999999", "zz", "\U0010ffff"):
        assert trees.lookup(root.digest, name) is None
    assert trees.find(root.digest, "f0000001/x") is None
    assert trees.find(root.digest, "z/nope") is None


def test_differences_of_kinds_and_directories():
    nodes = Nodes()
    trees = Trees(nodes.fetch)
    sub = build_tree([file("x"), file("y")], nodes.store)
    changed = build_tree([file("x"), file("y", "new")], nodes.store)
    old = build_tree([file("a"), sub.entry("d"), file("k"), sub.entry("s")], nodes.store)
    new = build_tree([file("b"), file("d"), file("k"), changed.entry("s"), sub.entry("t")], nodes.store)
    assert [(change.kind, change.path) for change in diff_trees(trees, old.digest, new.digest)] == [
        ("removed", "a"),
        ("added", "b"),
        ("removed", "d"),
        ("removed", "d/x"),
        ("removed", "d/y"),
        ("added", "d"),
        ("changed", "s/y"),
        ("added", "t"),
        ("added", "t/x"),
        ("added", "t/y"),
    ]
    assert [change.kind for change in diff_trees(trees, None, sub.digest)] == ["added", "added"]
    assert list(diff_trees(trees, old.digest, old.digest)) == []


def test_the_cache_of_decoded_nodes_is_bounded():
    nodes = Nodes()
    root = build_tree(files(30_000), nodes.store)
    trees = Trees(nodes.fetch, cached_items=5_000)
    assert sum(1 for _ in trees.scan(root.digest)) == 30_000
    assert sum(len(getattr(node, "entries", ())) for node in trees._nodes.values()) <= 5_000


@given(st.binary(max_size=200))
def test_hostile_nodes_are_integrity_errors(data):
    for kind in (TREE_SEQUENCE, CHUNK_LIST):
        try:
            node = kind.decode(data)
        except Integrity:
            continue
        assert 0 <= node.level < 16


def test_a_branch_that_lies_about_its_counts_is_an_integrity_error():
    nodes = Nodes()
    lying = nodes.store(
        TREE, msgspec.msgpack.encode((0, [(1, "d", b"x" * 32, 1, 5, 0), (0, "e", 1, b"x" * 32, False)]))
    )
    nodes[b"x" * 32] = nodes[build_tree([file("a")], nodes.store).digest]
    with pytest.raises((Integrity, NotFound)):
        Trees(nodes.fetch).at(lying, 4)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 6000), st.integers(0, 2**32))
def test_a_chunk_list_keeps_its_items_and_sums(count, seed):
    nodes = Nodes()
    rng = random.Random(seed)
    pieces = [Piece(rng.randbytes(32), rng.randrange(1, 1 << 22)) for _ in range(count)]
    root = sequence.build(CHUNK_LIST, pieces, nodes.store)
    assert (root.count, root.size) == (count, sum(piece.size for piece in pieces))
    assert list(sequence.items(CHUNK_LIST, root.digest, lambda _kind, name: nodes[name])) == pieces

"""What versions hold and would free: against a plain count of every digest that each version reaches."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from artifactfs.model.digest import CHUNKS, TREE
from artifactfs.model.sequence import CHUNK_LIST
from artifactfs.model.tree import TREE_SEQUENCE, DirEntry, FileEntry, RefEntry, build_tree
from artifactfs.reachability import Contents, freed, space
from artifactfs.references.contract import list_of
from artifactfs.repository import Repository

LARGE = random.Random(1).randbytes(9 << 20)
"""Bytes of a file that has a chunk list."""


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[Repository]:
    with Repository.create(str(tmp_path / "repository")) as repository:
        yield repository


def log(repository: Repository, name: str, files: dict[str, bytes], references: dict[str, bytes] | None = None):
    """A version of files by name; those with a "/" lie in a directory. References: files whose chunk lists alone are stored."""
    with repository.writing("put") as writing:
        writer = writing.writer
        below: dict[str, dict[str, FileEntry | RefEntry]] = {"": {}}
        for path, data in files.items():
            directory, _, last = path.rpartition("/")
            content = writer.add_bytes(data)
            below.setdefault(directory, {})[last] = FileEntry(last, content.size, content.digest, executable=False)
        for last, data in (references or {}).items():
            content = writer.add_bytes(data)
            uri = f"https://data.example.org/{last}"
            checksum = f"blake3:{content.digest.hex()}"
            below[""][last] = RefEntry(last, uri, content.size, checksum, None, None)
        entries: dict[str, object] = dict(below.pop(""))
        for directory, inside in below.items():
            tree = build_tree([inside[key] for key in sorted(inside)], writer.add_node)
            entries[directory] = tree.entry(directory)
        root = build_tree([entries[key] for key in sorted(entries)], writer.add_node)
        return writing.commit(name, root).version


def reached(repository: Repository, version) -> set[bytes]:
    """Every digest of a version, by recursion and without any cleverness."""
    found: set[bytes] = set()

    def chunk_list(digest: bytes, *, outside: bool) -> None:
        found.add(digest)
        node = CHUNK_LIST.decode(repository.reader.node(digest, CHUNKS))
        for branch in node.branches:
            chunk_list(branch.digest, outside=outside)
        if not outside:
            found.update(piece.digest for piece in node.items)

    def tree(digest: bytes) -> None:
        found.add(digest)
        node = TREE_SEQUENCE.decode(repository.reader.node(digest, TREE))
        for branch in node.branches:
            tree(branch.digest)
        for entry in node.items:
            if isinstance(entry, DirEntry):
                tree(entry.digest)
            elif isinstance(entry, FileEntry) and entry.size > 4 << 20:
                chunk_list(entry.digest, outside=False)
            elif isinstance(entry, FileEntry) and entry.size:
                found.add(entry.digest)
            elif isinstance(entry, RefEntry) and (root := list_of(entry)) is not None:
                chunk_list(root, outside=True)

    tree(version.digest)
    return found


def stored(repository: Repository, digests: set[bytes]) -> int:
    return sum(place.length for place in repository.registry.locate(digests).values())


def versions_of(repository: Repository) -> list:
    registry = repository.registry
    return [each for artifact in registry.artifacts() for each in registry.versions(artifact.name)]


def check(repository: Repository, gone: list) -> None:
    everything = versions_of(repository)
    living = [each for each in everything if each not in gone]
    alive = set().union(*(reached(repository, each) for each in living))
    dead = set().union(*(reached(repository, each) for each in gone)) - alive
    found = freed(repository.registry, Contents(repository.reader), gone, living)
    assert found.size == stored(repository, dead)
    assert found.chunks == len(repository.registry.locate(dead))


def check_space(repository: Repository) -> None:
    everything = versions_of(repository)
    sets = {each.id: reached(repository, each) for each in everything}
    found = space(repository.registry, Contents(repository.reader), everything)
    older: set[bytes] = set()
    for each in found.versions:
        others = set().union(*(sets[one] for one in sets if one != each.version.id))
        assert each.own == stored(repository, sets[each.version.id] - others), each.version.name
        assert each.added == stored(repository, sets[each.version.id] - older), each.version.name
        older |= sets[each.version.id]
    by_artifact: dict[str, set[bytes]] = {}
    for version in everything:
        by_artifact.setdefault(version.artifact, set()).update(sets[version.id])
    for artifact in found.artifacts:
        others = set().union(*(held for name, held in by_artifact.items() if name != artifact.artifact))
        assert artifact.own == stored(repository, by_artifact[artifact.artifact] - others)
    assert found.held == stored(repository, older)
    assert found.shared == found.held - sum(artifact.own for artifact in found.artifacts)


def test_what_others_share_is_not_freed(repository):
    common = {"common": b"in all", "deep/file": b"below"}
    versions = [log(repository, "data", common | {f"own{n}": f"text {n}".encode()}) for n in range(4)]
    log(repository, "copy", common | {"own1": b"text 1"})
    check(repository, versions[1:2])
    check(repository, versions[2:])
    check(repository, versions)
    check(repository, versions_of(repository))
    assert freed(repository.registry, Contents(repository.reader), [], versions).size == 0
    check_space(repository)


def test_chunks_of_large_files_are_shared_one_by_one(repository):
    changed = LARGE[: 6 << 20] + b"x" + LARGE[6 << 20 :]
    versions = [log(repository, "data", {"large": LARGE}), log(repository, "data", {"large": changed, "again": LARGE})]
    versions.append(log(repository, "data", {"elsewhere/large": changed}))
    for gone in (versions[:1], versions[1:2], versions[2:], versions[1:], versions[::2]):
        check(repository, gone)
    check_space(repository)


def test_of_a_reference_its_list_is_held_and_not_what_it_lists(repository):
    """The same list may belong to a file and to a Reference: only the file holds the chunks."""
    both = log(repository, "data", {"large": LARGE}, {"there": LARGE})
    outside = log(repository, "data", {"small": b"x"}, {"there": LARGE})
    inside = log(repository, "data", {"large": LARGE, "more": b"y"})
    for gone in ([both], [outside], [inside], [both, inside], [both, outside], [outside, inside]):
        check(repository, gone)
    check_space(repository)


@pytest.mark.parametrize("seed", range(4))
def test_random_versions(repository, seed):
    chance = random.Random(seed)
    texts = [f"text {number}".encode() * chance.randrange(1, 50) for number in range(12)]
    paths = [f"{directory}file{number}" for directory in ("", "a/", "b/") for number in range(5)]
    for number in range(12):
        files = {path: chance.choice(texts) for path in chance.sample(paths, chance.randrange(1, 8))}
        log(repository, f"data{number % 3}", files)
    everything = versions_of(repository)
    for _ in range(6):
        check(repository, chance.sample(everything, chance.randrange(1, len(everything) + 1)))
    check_space(repository)


def test_a_walk_reads_each_different_node_once(repository):
    files = {f"d{number}/file": f"text {number}".encode() for number in range(20)}
    versions = [log(repository, "data", files | {"own": str(number).encode()}) for number in range(30)]
    reads: list[None] = []
    contents = Contents(repository.reader, lambda: reads.append(None))
    freed(repository.registry, contents, versions[:1], versions[1:])
    # 20 directories and a root on one side, the same 20 and 29 roots on the other.
    assert len(reads) == 21 + 49

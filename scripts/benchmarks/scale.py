"""What a version of a million files costs before anything is read: the time to the first listing, and memory."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from artifactfs.model.tree import FileEntry, build_tree
from artifactfs.repository import Repository
from benchmarks.reading import FIND
from benchmarks.results import DIFFERENCE, Fact, Result, Row
from benchmarks.workbench import Workbench, say

_CONTENT = b"one content for all files\n"


def first_listing(bench: Workbench) -> Iterator[Result]:
    """mount and first ls of a 1,000,000-file version beside the same of an empty repository; the daemon's memory"""
    directories, files = bench.sizes.huge
    total = f"{directories * files:,}"
    huge, empty = bench.root / "output" / "huge", bench.root / "output" / "empty"
    say(f"making a version of {total} files through the model, without the files")
    _build(huge, directories, files)
    bench.run(bench.artifactfs("init", empty))
    row = Row(
        "first-listing",
        f"mount to first ls, {total} files, beside an empty repository",
        goal=1,
        measure=DIFFERENCE,
    )
    first = walked = 0
    for number in bench.interleaved():
        begin = time.perf_counter()
        with bench.mounted(repository=empty) as mount:
            bench.timed(["ls"], cwd=mount.path)
            nothing = time.perf_counter() - begin
        begin = time.perf_counter()
        with bench.mounted(repository=huge) as mount:
            bench.timed(["ls"], cwd=mount.version("huge"))
            row.add(nothing, time.perf_counter() - begin)
            first = max(first, mount.memory())
            if number == bench.repeat - 1:
                bench.timed(FIND, cwd=mount.version("huge"))
                walked = mount.memory()
    yield row
    note = "the version was made through the model: entries of one content, no files put"
    what = f"daemon memory (RSS) after the first ls of {total} files"
    yield Fact("first-listing/memory", what, first, "bytes", limit=200_000_000, note=note)
    yield Fact("first-listing/memory-walked", f"daemon memory (RSS) after find -ls over {total} files", walked, "bytes")


def _build(path: Path, directories: int, files: int) -> None:
    """A repository with such a version. Names differ everywhere, so that no two directories are one node."""
    with Repository.create(str(path)) as repository, repository.writing("put") as writing:
        content = writing.writer.add_bytes(_CONTENT)
        entries = []
        for directory in range(directories):
            members = (
                FileEntry(f"f{directory:04}-{file:06}.txt", content.size, content.digest, executable=False)
                for file in range(files)
            )
            entries.append(build_tree(members, writing.writer.add_node).entry(f"d{directory:04}"))
        writing.commit("huge", build_tree(entries, writing.writer.add_node), type="dataset")

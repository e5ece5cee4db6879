"""What upkeep takes: `verify` beside a program that only reads the same packs, `gc`, and how both grow with the number of versions."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from artifactfs.model.tree import FileEntry, TreeSummary, build_tree
from artifactfs.repository import Repository, Writing
from benchmarks import inputs
from benchmarks.results import SECONDS, Fact, Result, Row
from benchmarks.workbench import Workbench, say

ARTIFACT = "grown"
FILES = 1000
CHANGED_BYTES = 100_000
"""Bytes of the one file by which a version differs from the one before; all others have one content."""


def verify(bench: Workbench) -> Iterator[Result]:
    """verify of 1 GiB beside cat of its packs, from memory and from the disk; verify of 10, 100 and 1,000 versions"""
    yield from _beside_cat(bench)
    for count in bench.sizes.grown:
        repository = grown(bench, count)
        base = f"{count:,} versions of {FILES:,} files that differ by one"
        full = Row(f"verify/full/{count}", f"verify, {base}", measure=SECONDS)
        quick = Row(f"verify/quick/{count}", f"verify --quick, {base}", measure=SECONDS)
        command = bench.artifactfs("--repository", repository, "verify")
        for _ in bench.interleaved():
            full.add(None, bench.timed(command))
            quick.add(None, bench.timed([*command, "--quick"]))
        yield full
        yield quick


def gc(bench: Workbench) -> Iterator[Result]:
    """gc of 10, 100 and 1,000 versions of which half were deleted, and again when nothing is left to do"""
    for count in bench.sizes.grown:
        source, repository = grown(bench, count), bench.root / "output" / "collected"
        old = [f"{ARTIFACT}:v{number}" for number in range(count // 2)]
        work = f"gc, {count:,} versions of {FILES:,} files that differ by one, half of them deleted"
        first = Row(f"gc/half/{count}", work, measure=SECONDS)
        again = Row(f"gc/again/{count}", f"{work}: again, nothing to do", measure=SECONDS)
        command = bench.artifactfs("--repository", repository, "gc")
        before = freed = 0
        for _ in bench.interleaved():
            shutil.copytree(source, repository)
            bench.run(bench.artifactfs("--repository", repository, "delete", *old))
            bench.run(["sync"])
            before = inputs.size_of(repository / "store")
            first.add(None, bench.timed(command))
            freed = before - inputs.size_of(repository / "store")
            again.add(None, bench.timed(command))
            shutil.rmtree(repository)
        yield first
        yield again
        yield Fact(f"{first.id}/freed", f"{work}: bytes freed", freed, "bytes", note=f"of {before / 1e6:,.1f} MB")


def gc_memory(bench: Workbench) -> Iterator[Result]:
    """the marking of a collection of 1,000,000 and 10,000,000 made-up chunks: memory and time"""
    program = Path(__file__).with_name("marked.py")
    for count in bench.sizes.marked:
        found = json.loads(bench.run([sys.executable, str(program), str(count)]))
        what = f"marking of {count:,} chunks in {found['packs']:,} packs"
        yield Fact(f"gc/memory/{count}", f"{what}: memory", found["memory"], "bytes")
        yield Fact(f"gc/marking/{count}", f"{what}: seconds", found["seconds"], "seconds")


def _beside_cat(bench: Workbench) -> Iterator[Result]:
    for kind in inputs.KINDS:
        source = bench.large(kind)
        repository = bench.root / "output" / f"verified-{kind}"
        bench.run(bench.artifactfs("init", repository))
        bench.run(bench.artifactfs("--repository", repository, "put", "measured", source))
        bench.run(["sync"])
        packs = sorted(path for path in (repository / "store").rglob("*") if path.is_file())
        size = sum(path.stat().st_size for path in packs)
        what = f"verify {inputs.spelled(bench.sizes.large)}, beside cat of its packs"
        memory = Row(f"verify/memory/{kind}", f"{what}, from memory", kind)
        disk = Row(f"verify/disk/{kind}", f"{what}, from the disk", kind)
        quick = Row(
            f"verify/quick/{kind}", f"verify --quick {inputs.spelled(bench.sizes.large)}", kind, measure=SECONDS
        )
        command, cat = bench.artifactfs("--repository", repository, "verify"), ["cat", *map(str, packs)]
        for _ in bench.interleaved():
            _give_up(packs)
            plain = bench.timed(cat)
            _give_up(packs)
            disk.add(plain, bench.timed(command))
            inputs.settle(repository / "store")
            plain = bench.timed(cat)
            memory.add(plain, bench.timed(command))
            quick.add(None, bench.timed([*command, "--quick"]))
        yield from (memory, disk, quick)
        for row in (memory, disk):
            for name, seconds in (("cat", row.local), ("verify", row.ours)):
                value = size / median(seconds) / 1e9
                yield Fact(f"{row.id}/{name}", f"{row.work}, {kind}: GB of packs a second by {name}", value, "GB/s")


def _give_up(files: list[Path]) -> None:
    """Have the kernel forget the pages of these files, and of these alone. They are on the disk already."""
    for file in files:
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def grown(bench: Workbench, count: int) -> Path:
    """A repository with so many versions, each a commit of its own, made without a process for each."""
    path = bench.root / "output" / f"grown-{count}"
    if path.exists():
        return path
    say(f"making {count:,} versions")
    with Repository.create(str(path)) as repository, repository.writing("put") as writing:
        for number in range(count):
            writing.commit(ARTIFACT, _version(writing, number), type="dataset")
    return path


def _version(writing: Writing, number: int) -> TreeSummary:
    same = writing.writer.add_bytes(b"one content for all other files\n")
    own = writing.writer.add_bytes(os.urandom(CHANGED_BYTES))
    entries = []
    for file in range(FILES):
        content = own if file == number % FILES else same
        entries.append(FileEntry(f"f{file:04}.dat", content.size, content.digest, executable=False))
    return build_tree(entries, writing.writer.add_node)

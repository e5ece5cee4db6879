"""What reading costs: the same program on the input itself and on its version below a mount.

A fresh mount knows nothing: the kernel has no names, attributes and pages of it, the daemon has verified no chunk. The packs are in
the page cache, as the input is on the other side, so that both are measured against memory and not against the disk.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks import inputs
from benchmarks.results import Fact, Result, Row
from benchmarks.workbench import Mount, Workbench

FIND = ["find", ".", "-ls"]
_READER = Path(__file__).with_name("random_reads.py")


def beside(
    bench: Workbench, mount: Mount, row: Row, *pipeline: Sequence[str], local: Path, ours: Path
) -> dict[str, int]:
    """One repeat: the programs in the directory ``local``, then in ``ours``. Returns the requests that the latter made."""
    seconds = bench.timed(*pipeline, cwd=local)

    def run() -> None:
        before = mount.processor()
        row.add(seconds, bench.timed(*pipeline, cwd=ours), mount.processor() - before)

    return mount.requests(run)


def find_directories(bench: Workbench) -> Iterator[Result]:
    """find -ls over 100,000 files in 1,000 directories: on a fresh mount, and again"""
    sizes = bench.sizes
    where = f"{sizes.directories * sizes.per_directory:,} files in {sizes.directories:,} directories"
    yield from _find(bench, "find-directories", where, bench.tiny(flat=False))


def find_one(bench: Workbench) -> Iterator[Result]:
    """find -ls over 100,000 files in one directory: on a fresh mount, and again"""
    sizes = bench.sizes
    where = f"{sizes.directories * sizes.per_directory:,} files in one directory"
    yield from _find(bench, "find-one", where, bench.tiny(flat=True))


def _find(bench: Workbench, name: str, where: str, source: Path) -> Iterator[Result]:
    version = bench.version(source)
    fresh = Row(f"{name}/fresh", f"find -ls, {where}, fresh mount", goal=4)
    again = Row(f"{name}/again", f"find -ls, {where}, again", goal=1.5)
    requests = {}
    bench.timed(FIND, cwd=source)
    for _ in bench.interleaved():
        with bench.mounted() as mount:
            ours = mount.version(version)
            beside(bench, mount, fresh, FIND, local=source, ours=ours)
            requests = beside(bench, mount, again, FIND, local=source, ours=ours)
    yield fresh
    yield again
    yield _asked(f"{name}/again-requests", f"find -ls, {where}, again", requests)


def sequential(bench: Workbench) -> Iterator[Result]:
    """One large file (1 GiB) in order, 128 KiB a read: cold, and warm"""
    size = inputs.spelled(bench.sizes.large)
    command = ["dd", "if=large.dat", "of=/dev/null", "bs=128K", "status=none"]
    for kind in inputs.KINDS:
        source = bench.large(kind)
        version = bench.version(source)
        cold = Row(f"sequential/cold/{kind}", f"read {size}, 128 KiB a read, cold", kind, goal=5)
        warm = Row(f"sequential/warm/{kind}", f"read {size}, 128 KiB a read, warm", kind, goal=1.2)
        requests = {}
        bench.timed(command, cwd=source)
        for _ in bench.interleaved():
            with bench.mounted() as mount:
                ours = mount.version(version)
                beside(bench, mount, cold, command, local=source, ours=ours)
                requests = beside(bench, mount, warm, command, local=source, ours=ours)
        yield cold
        yield warm
        yield Fact(
            f"sequential/warm-reads/{kind}",
            f"warm re-read of {size}, {kind}: read requests that reached the daemon",
            requests.get("read", 0),
            "requests",
            limit=0,
            note=_spelled(requests),
        )


def random_reads(bench: Workbench) -> Iterator[Result]:
    """4 KiB at 8,192 random places of the large file: cold, and warm"""
    count = bench.sizes.random
    for kind in inputs.KINDS:
        source = bench.large(kind)
        version = bench.version(source)
        cold = Row(f"random/cold/{kind}", f"{count:,} random reads of 4 KiB, cold", kind)
        warm = Row(f"random/warm/{kind}", f"{count:,} random reads of 4 KiB, warm", kind)

        def read(directory: Path) -> float:
            program = [sys.executable, "-S", str(_READER), str(directory / "large.dat"), str(count)]
            return float(bench.run(program))

        for _ in bench.interleaved():
            with bench.mounted() as mount:
                ours = mount.version(version)
                before = mount.processor()
                cold.add(read(source), read(ours), mount.processor() - before)
                bench.timed(["cat", "large.dat"], cwd=ours)
                before = mount.processor()
                warm.add(read(source), read(ours), mount.processor() - before)
        yield cold
        yield warm


def cat(bench: Workbench) -> Iterator[Result]:
    """cat of 10,000 small files (20 KB) after a listing: fresh, again; the same below mount --read-only"""
    sizes = bench.sizes
    for kind in inputs.KINDS:
        source = bench.small(kind)
        version = bench.version(source)
        files = sorted(file.relative_to(source) for file in source.rglob("*.dat"))[: sizes.read]
        names = bench.root / "output" / f"{source.name}.names"
        names.write_bytes(b"".join(bytes(file) + b"\0" for file in files))
        command = ["xargs", "-0", "-a", str(names), "cat"]
        what = f"cat of {len(files):,} x {sizes.small_bytes // 1000} KB"
        bench.timed(command, cwd=source)
        for read_only, label, goals in ((False, "", (8.0, 6.0)), (True, ", --read-only", (None, 1.5))):
            prefix = "cat/read-only" if read_only else "cat/default"
            fresh = Row(f"{prefix}/fresh/{kind}", f"{what}, fresh after a listing{label}", kind, goal=goals[0])
            again = Row(f"{prefix}/again/{kind}", f"{what}, again{label}", kind, goal=goals[1])
            first, second = {}, {}
            for _ in bench.interleaved():
                with bench.mounted(read_only=read_only) as mount:
                    ours = mount.version(version)
                    bench.timed(FIND, cwd=ours)
                    first = beside(bench, mount, fresh, command, local=source, ours=ours)
                    second = beside(bench, mount, again, command, local=source, ours=ours)
            yield fresh
            yield again
            yield _asked(f"{prefix}/fresh-requests/{kind}", f"{fresh.work}, {kind}", first, len(files))
            yield _asked(f"{prefix}/again-requests/{kind}", f"{again.work}, {kind}", second, len(files))


def tar(bench: Workbench) -> Iterator[Result]:
    """tar c | wc -c over 20,000 small files (20 KB): on a fresh mount, and again"""
    sizes = bench.sizes
    pipeline = (["tar", "c", "."], ["wc", "-c"])
    what = f"tar c | wc -c, {sizes.small_directories * sizes.small_per_directory:,} x {sizes.small_bytes // 1000} KB"
    for kind in inputs.KINDS:
        source = bench.small(kind)
        version = bench.version(source)
        fresh = Row(f"tar/fresh/{kind}", f"{what}, fresh mount", kind)
        again = Row(f"tar/again/{kind}", f"{what}, again", kind)
        bench.timed(*pipeline, cwd=source)
        for _ in bench.interleaved():
            with bench.mounted() as mount:
                ours = mount.version(version)
                beside(bench, mount, fresh, *pipeline, local=source, ours=ours)
                beside(bench, mount, again, *pipeline, local=source, ours=ours)
        yield fresh
        yield again


def _asked(name: str, what: str, requests: dict[str, int], files: int = 0) -> Fact:
    total = sum(requests.values())
    if files:
        return Fact(name, f"{what}: requests a file", total / files, "requests", note=_spelled(requests))
    return Fact(name, f"{what}: requests", total, "requests", note=_spelled(requests))


def _spelled(requests: dict[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in requests.items())

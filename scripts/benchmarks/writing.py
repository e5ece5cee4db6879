"""What writing costs: `put` beside `cp` and `sync`, writes into staging beside writes to the local disk, and a commit."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from benchmarks import inputs
from benchmarks.results import SECONDS, Fact, Result, Row
from benchmarks.workbench import Mount, Workbench


def put_small(bench: Workbench) -> Iterator[Result]:
    """put of 20,000 small files (20 KB) beside cp -r and sync"""
    sizes = bench.sizes
    what = f"put {sizes.small_directories * sizes.small_per_directory:,} x {sizes.small_bytes // 1000} KB"
    for kind in inputs.KINDS:
        yield from _put(bench, "put-small", what, kind, bench.small(kind), goal=3)


def put_large(bench: Workbench) -> Iterator[Result]:
    """put of the large file (1 GiB) beside cp and sync"""
    what = f"put {inputs.spelled(bench.sizes.large)}"
    for kind in inputs.KINDS:
        goal = 3 if kind == inputs.INCOMPRESSIBLE else None
        yield from _put(bench, "put-large", what, kind, bench.large(kind), goal=goal)


def _put(bench: Workbench, name: str, what: str, kind: str, source: Path, *, goal: float | None) -> Iterator[Result]:
    """Both sides end with everything on the disk: cp by sync, put by itself."""
    row = Row(f"{name}/{kind}", f"{what}, beside cp -r; sync", kind, goal=goal)
    repository, copy = bench.root / "output" / "repository", bench.root / "output" / "copy"
    stored = registry = 0
    for _ in bench.interleaved():
        bench.run(["sync"])
        local = bench.timed(["cp", "-r", str(source), str(copy)]) + bench.timed(["sync"])
        bench.run(bench.artifactfs("init", repository))
        bench.run(["sync"])
        row.add(local, bench.timed(bench.artifactfs("--repository", repository, "put", "measured", source)))
        stored = inputs.size_of(repository / "store")
        registry = inputs.size_of(repository) - stored
        shutil.rmtree(copy)
        shutil.rmtree(repository)
    yield row
    read = inputs.size_of(source)
    yield Fact(f"{name}/read/{kind}", f"{what}, {kind}: bytes read", read, "bytes")
    note = f"{stored / read:.3f} of the bytes read; the registry takes {registry:,} bytes more"
    yield Fact(f"{name}/stored/{kind}", f"{what}, {kind}: bytes stored", stored, "bytes", note=note)


def commit(bench: Workbench) -> Iterator[Result]:
    """commit after changing one file of a 100,000-file version: the whole command, in seconds"""
    sizes = bench.sizes
    files = sizes.directories * sizes.per_directory
    name = bench.version(bench.tiny(flat=False))
    row = Row("commit", f"commit after changing 1 file of {files:,}", goal=1, measure=SECONDS)
    store = bench.repository / "store"
    stored = 0
    with bench.mounted() as mount:
        for number in bench.interleaved():
            place = f"d{number % sizes.directories:04}/f{number % sizes.per_directory:06}.txt"
            with (mount.path / name / "staging" / place).open("a", encoding="ascii") as file:
                file.write(f"changed {number}\n")
            before, used = inputs.size_of(store), mount.processor()
            row.add(None, bench.timed(bench.artifactfs("commit", name)), mount.processor() - used)
            stored = inputs.size_of(store) - before
    yield row
    yield Fact("commit/stored", f"{row.work}: bytes stored", stored, "bytes")


def write_large(bench: Workbench) -> Iterator[Result]:
    """Writing one large file (1 GiB) into staging, 128 KiB a write"""
    size = bench.sizes.large
    source = bench.large(inputs.INCOMPRESSIBLE) / "large.dat"
    row = Row("write-large", f"write {inputs.spelled(size)} into staging, 128 KiB a write", inputs.INCOMPRESSIBLE)
    yield from _written(bench, row, lambda: _copying(source, "128K", size // (128 << 10)))


def write_pages(bench: Workbench) -> Iterator[Result]:
    """Writing into staging, 4 KiB a write"""
    count = bench.sizes.pages
    source = bench.large(inputs.INCOMPRESSIBLE) / "large.dat"
    row = Row("write-pages", f"{count:,} writes of 4 KiB into staging", inputs.INCOMPRESSIBLE)
    yield from _written(bench, row, lambda: _copying(source, "4K", count))


def write_small(bench: Workbench) -> Iterator[Result]:
    """cp -r of 5,000 small files (20 KB) into staging"""
    sizes = bench.sizes
    source = bench.small(inputs.INCOMPRESSIBLE)
    directories = sorted(str(place) for place in source.iterdir())[: sizes.copied]
    files = len(directories) * sizes.small_per_directory
    work = f"cp -r of {files:,} x {sizes.small_bytes // 1000} KB into staging"
    row = Row("write-small", work, inputs.INCOMPRESSIBLE)
    yield from _written(bench, row, lambda: ["cp", "-r", *directories, "."])


def _copying(source: Path, size: str, count: int) -> list[str]:
    return ["dd", f"if={source}", "of=written", f"bs={size}", f"count={count}", "status=none"]


def _written(bench: Workbench, row: Row, command: Callable[[], Sequence[str]]) -> Iterator[Result]:
    """The same program in an empty local directory and in empty staging. Neither side is synced within the time."""
    local = bench.root / "output" / "written"
    with bench.mounted() as mount:
        ours = _new_staging(mount)
        for _ in bench.interleaved():
            local.mkdir()
            bench.run(["sync"])
            seconds = bench.timed(command(), cwd=local)
            bench.run(["sync"])
            before = mount.processor()
            row.add(seconds, bench.timed(command(), cwd=ours), mount.processor() - before)
            shutil.rmtree(local)
            for entry in ours.iterdir():
                if entry.is_dir():
                    shutil.rmtree(entry)
                else:
                    entry.unlink()
    yield row


def _new_staging(mount: Mount) -> Path:
    artifact = mount.path / "written"
    artifact.mkdir(exist_ok=True)
    return artifact / "staging"

"""What a network of 20 ms round trip costs: a server behind the relay, an empty cache, and what else would fetch the same bytes.

Each row says in its repeats which caches are empty; a new directory is as empty as can be. The server's packs are in its page cache.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import shutil
import sys
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from artifactfs.content.chunks import Cutter
from artifactfs.draft import Draft
from artifactfs.repository import Repository
from benchmarks import inputs, random_reads, rclone
from benchmarks.far import Far, Traffic
from benchmarks.results import SECONDS, Fact, Result, Row
from benchmarks.workbench import Mount, Workbench, say

STREAMS = 8
READS = 100
MIB = 1 << 20
_DEEP = Path("a", "b", "c", "d", "large.dat")
_READER = Path(random_reads.__file__)
_TAR = (["tar", "c", "."], ["wc", "-c"])


def sequential(bench: Workbench) -> Iterator[Result]:
    """One large file (1 GiB) from a server at 20 ms, beside eight parallel curl: empty cache, then from the cache"""
    source = deep(bench)
    size = inputs.spelled(bench.sizes.large)
    work = f"cat of {size}"
    cold = Row("network-sequential/cold", f"{work}, empty cache, beside {STREAMS} parallel curl", goal=1.25)
    rows = [cold, *_from_cache("network-sequential", work)]
    with served(bench, source) as far, peer(bench) as other:
        command = ["cat", str(_DEEP)]
        yield from _thrice(bench, source, command, rows=rows, far=far, other=other, beside=lambda: _curl(bench, far))


def _from_cache(name: str, work: str) -> tuple[Row, Row]:
    again = Row(f"{name}/again", f"{work}, again on that mount", measure=SECONDS)
    return again, Row(f"{name}/cached", f"{work}, fresh mount, from the cache", measure=SECONDS)


def _thrice(
    bench: Workbench,
    source: Path,
    *pipeline: Sequence[str],
    rows: Sequence[Row],
    far: Far,
    other: rclone.Rclone | None,
    beside: Callable[[], float] | None = None,
) -> Iterator[Result]:
    """The same on a fresh mount with an empty cache, on that mount again, and on another fresh mount with that cache.

    rclone does the first two: its cache holds nothing that its next mount, soon after, would use.
    """
    traffic: list[list[Traffic]] = [[], [], []]
    cold, again, kept = rows

    def run(place: Path) -> float:
        return bench.timed(*pipeline, cwd=place)

    for _ in bench.interleaved():
        seconds = beside() if beside else None
        cache = bench.empty("cache")
        with mounted(bench, far, cache) as mount:
            with far.watched(traffic[0]):
                used(mount, cold, seconds, run, source)
            with far.watched(traffic[1]):
                used(mount, again, None, run, source)
        with mounted(bench, far, cache) as mount, far.watched(traffic[2]):
            used(mount, kept, None, run, source)
        if other is not None:
            with other.mounted(source, bench.empty("peer")) as path:
                cold.peer.append(run(path))
                again.peer.append(run(path))
    yield from rows
    yield from map(asked, rows, traffic)
    yield received(cold, traffic[0])


def _curl(bench: Workbench, far: Far) -> float:
    """Seconds of eight programs at once that fetch equal shares of the packs, each over one connection."""
    packs = far.packs()
    total = sum(size for _, size in packs)
    commands = []
    for number in range(STREAMS):
        begin, end = total * number // STREAMS, total * (number + 1) // STREAMS
        command = ["curl"]
        for url, size in packs:
            if begin < size and end > 0:
                share = f"{max(begin, 0)}-{min(end, size) - 1}"
                command += ["--next"] if len(command) > 1 else []
                command += ["--silent", "--show-error", "--fail", "--noproxy", "*"]
                command += ["--output", "/dev/null", "--range", share, url]
            begin, end = begin - size, end - size
        commands.append(command)
    traffic: list[Traffic] = []
    with far.watched(traffic):
        seconds = bench.together(commands)
    if traffic[0].down < total:
        raise RuntimeError(f"curl received {traffic[0].down:,} bytes of {total:,}")
    return seconds


def tar(bench: Workbench) -> Iterator[Result]:
    """tar c of 20,000 small files (20 KB) from a server at 20 ms, in directories and in one; of 2,000 beside rclone"""
    sizes = bench.sizes
    count = sizes.small_directories * sizes.small_per_directory
    yield from _tar(bench, bench.small(inputs.INCOMPRESSIBLE), "directories", f"{sizes.small_directories} directories")
    yield from _tar(bench, flattened(bench, count), "flat", "one directory")
    source = flattened(bench, sizes.flat)
    what = f"tar c, {sizes.flat:,} x {sizes.small_bytes // 1000} KB in one directory"
    cold = Row("network-tar/fewer", f"{what}, empty cache", measure=SECONDS)
    with served(bench, source) as far, peer(bench) as other:
        rows = [cold, *_from_cache(cold.id, what)]
        yield from _thrice(bench, source, *_TAR, rows=rows, far=far, other=other)


def _tar(bench: Workbench, source: Path, name: str, where: str) -> Iterator[Result]:
    sizes = bench.sizes
    count = sizes.small_directories * sizes.small_per_directory
    work = f"tar c, {count:,} x {sizes.small_bytes // 1000} KB in {where}, empty cache"
    row = Row(f"network-tar/{name}", work, goal=6, measure=SECONDS)
    traffic: list[Traffic] = []
    with served(bench, source) as far:
        for _ in bench.interleaved():
            with far.watched(traffic), mounted(bench, far, bench.empty("cache")) as mount:
                used(mount, row, None, lambda ours: bench.timed(*_TAR, cwd=ours), source)
    yield row
    yield every(row, traffic, limit=200)
    yield received(row, traffic)


def put(bench: Workbench) -> Iterator[Result]:
    """put of 20,000 small files (20 KB) to an empty server at 20 ms"""
    sizes = bench.sizes
    source = bench.small(inputs.INCOMPRESSIBLE)
    count = sizes.small_directories * sizes.small_per_directory
    row = Row("network-put", f"put {count:,} x {sizes.small_bytes // 1000} KB", goal=8, measure=SECONDS)
    traffic: list[Traffic] = []
    for _ in bench.interleaved():
        with Far(bench, bench.root / "output" / "put") as far:
            command = far.command(bench.empty("cache"), "put", "measured", source)
            bench.run(["sync"])
            with far.watched(traffic):
                row.add(None, bench.timed(command))
        shutil.rmtree(far.directory)
    yield row
    yield every(row, traffic, limit=60)
    yield sent(row, traffic)


def first(bench: Workbench) -> Iterator[Result]:
    """One read of 4 KiB in a large file (1 GiB) four directories deep at 20 ms, then 100 random ones"""
    source = deep(bench)
    size = inputs.spelled(bench.sizes.large)
    page = bench.sizes.large // random_reads.PAGE // 2 + 1
    command = ["dd", f"if={_DEEP}", "of=/dev/null", "bs=4K", f"skip={page}", "count=1", "status=none"]
    one = Row("network-first/one", f"one read of 4 KiB in {size}, four directories deep, empty cache", measure=SECONDS)
    many = Row("network-first/random", f"then {READS} random reads of 4 KiB in it", measure=SECONDS)
    opened: list[Traffic] = []
    looked: list[Traffic] = []

    def read(directory: Path) -> float:
        return float(bench.run([sys.executable, "-S", str(_READER), str(directory / _DEEP), str(READS)]))

    with served(bench, source) as far, peer(bench) as other:
        for _ in bench.interleaved():
            with mounted(bench, far, bench.empty("cache")) as mount:
                with far.watched(opened):
                    used(mount, one, None, lambda ours: bench.timed(command, cwd=ours), source)
                with far.watched(looked):
                    used(mount, many, None, read, source)
            if other is not None:
                with other.mounted(source, bench.empty("peer")) as path:
                    one.peer.append(bench.timed(command, cwd=path))
                    many.peer.append(read(path))
    yield one
    yield many
    slowest = max(opened, key=lambda traffic: traffic.turns)
    what = f"{one.work}: round trips"
    yield Fact("network-first/turns", what, slowest.turns, "requests", limit=5, note=slowest.spelled())
    yield received(one, opened, limit=4 * MIB)
    yield asked(many, looked, limit=READS)
    before, _ = _touched(source / _DEEP, [page * random_reads.PAGE])
    touched, needed = _touched(source / _DEEP, random_reads.places(bench.sizes.large, READS), apart=before)
    yield Fact(
        "network-first/random/beyond",
        f"{many.work}: bytes of content received beyond the chunks touched",
        max(0, max(map(content, looked)) - needed),
        "bytes",
        limit=0,
        note=f"{len(touched):,} chunks, {needed / 1e6:,.1f} MB, and what the first read brought",
    )


def _touched(path: Path, offsets: Sequence[int], apart: frozenset[int] = frozenset()) -> tuple[frozenset[int], int]:
    """The chunks of a file that lie at these offsets, but those ``apart``, by where they begin; and their bytes."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as data, memoryview(data) as view:
        ranges = list(Cutter().cut(view, final=True))
    begins = [begin for begin, _ in ranges]
    found = {ranges[bisect_right(begins, offset) - 1] for offset in offsets}
    touched = [(begin, end) for begin, end in found if begin not in apart]
    return frozenset(begin for begin, _ in touched), sum(end - begin for begin, end in touched)


def again(bench: Workbench) -> Iterator[Result]:
    """A second get of a cached version, and 300 cached artifacts re-opened below a fresh mount, at 20 ms"""
    yield from _get_again(bench)
    yield from _open_again(bench)


def _get_again(bench: Workbench) -> Iterator[Result]:
    sizes = bench.sizes
    source = bench.small(inputs.INCOMPRESSIBLE)
    what = f"get of {sizes.small_directories * sizes.small_per_directory:,} x {sizes.small_bytes // 1000} KB"
    cold = Row("network-again/get-first", f"{what}, empty cache", measure=SECONDS)
    row = Row("network-again/get", f"{what} again, to another place", measure=SECONDS)
    once: list[Traffic] = []
    twice: list[Traffic] = []
    with served(bench, source) as far:
        for _ in bench.interleaved():
            cache, copies = bench.empty("cache"), bench.empty("copies")
            command = far.command(cache, "get", source.name)
            bench.run(["sync"])
            with far.watched(once):
                cold.add(None, bench.timed([*command, str(copies / "first")]))
            bench.run(["sync"])
            with far.watched(twice):
                row.add(None, bench.timed([*command, str(copies / "second")]))
    yield cold
    yield row
    yield every(cold, once)
    yield every(row, twice, limit=1)
    what = f"{row.work}: bytes of content received"
    yield Fact(f"{row.id}/content", what, max(map(content, twice)), "bytes", limit=0)


def _open_again(bench: Workbench) -> Iterator[Result]:
    count = bench.sizes.many
    directory = bench.root / "served" / "many"
    if not directory.exists():
        _make_many(directory, count)
    names = bench.root / "output" / "many.names"
    names.write_bytes(b"".join(b"%s/latest/data.txt\0" % name.encode() for name in _many(count)))
    command = ["xargs", "-0", "-a", str(names), "cat"]
    work = f"cat of a file of each of {count} cached artifacts, fresh mount"
    row = Row("network-again/open", work, goal=0.5, measure=SECONDS)
    traffic: list[Traffic] = []
    with Far(bench, directory) as far:
        for _ in bench.interleaved():
            cache = bench.empty("cache")
            with mounted(bench, far, cache) as mount:
                bench.timed(command, cwd=mount.path)
            with mounted(bench, far, cache) as mount, far.watched(traffic):
                before = mount.processor()
                row.add(None, bench.timed(command, cwd=mount.path), mount.processor() - before)
    yield row
    yield asked(row, traffic, limit=0)


def _many(count: int) -> Iterator[str]:
    return (f"artifact-{number:03}" for number in range(count))


def _make_many(directory: Path, count: int) -> None:
    """A repository of artifacts of one version with one file each, made without a process for each."""
    say(f"making {count} artifacts")
    with Repository.create(str(directory)) as repository:
        file = directory.with_name("data.txt")
        for name in _many(count):
            file.write_text(f"{name}\n" * 100, encoding="ascii")
            draft = Draft(repository)
            draft.add(file)
            draft.commit(name, type="dataset")


def change(bench: Workbench) -> Iterator[Result]:
    """put of a large file (1 GiB) with one byte changed since the last version, at 20 ms"""
    source = bench.large(inputs.INCOMPRESSIBLE)
    work = f"put {inputs.spelled(bench.sizes.large)} with one byte changed"
    row = Row("network-change", work, measure=SECONDS)
    traffic: list[Traffic] = []
    file = bench.empty("changed") / "large.dat"
    shutil.copyfile(source / "large.dat", file)
    with Far(bench, bench.root / "output" / "change") as far:
        far.fill(file.parent)
        for number in bench.interleaved():
            with file.open("r+b", buffering=0) as opened:
                place = bench.sizes.large * (number + 1) // (bench.repeat + 1)
                (old,) = os.pread(opened.fileno(), 1, place)
                os.pwrite(opened.fileno(), bytes([old ^ 1]), place)
            command = far.command(bench.empty("cache"), "put", file.parent.name, file.parent)
            bench.run(["sync"])
            with far.watched(traffic):
                row.add(None, bench.timed(command))
    shutil.rmtree(far.directory)
    shutil.rmtree(file.parent)
    yield row
    yield every(row, traffic)
    yield sent(row, traffic, limit=8 * MIB)


# -- what the rows stand on ----------------------------------------------------------------------------------------


@contextlib.contextmanager
def served(bench: Workbench, source: Path) -> Iterator[Far]:
    """A server of a repository that has one input as its one artifact."""
    directory = bench.root / "served" / source.name
    new = not directory.exists()
    with Far(bench, directory) as far:
        if new:
            far.fill(source)
        else:
            far.settle()
        yield far


@contextlib.contextmanager
def mounted(bench: Workbench, far: Far, cache: Path) -> Iterator[Mount]:
    """A fresh mount through the relay. Nothing is on its way to the disk when it begins."""
    bench.run(["sync"])
    with bench.mounted(repository=far.url, cache=cache) as mount:
        yield mount


@contextlib.contextmanager
def peer(bench: Workbench) -> Iterator[rclone.Rclone | None]:
    """rclone's server over the inputs, if rclone can be had; the run's notes say why it cannot."""
    found = rclone.find()
    bench.notes["rclone"] = found.trouble or rclone.VERSION
    if found.program is None:
        yield None
        return
    with rclone.Rclone(bench, found.program) as other:
        yield other


def deep(bench: Workbench) -> Path:
    """The large file, four directories deep."""

    def make(path: Path) -> None:
        file = path / _DEEP
        file.parent.mkdir(parents=True)
        os.link(bench.large(inputs.INCOMPRESSIBLE) / "large.dat", file)

    return bench.input("deep", make)


def flattened(bench: Workbench, count: int) -> Path:
    """So many of the small files in one directory."""

    def make(path: Path) -> None:
        path.mkdir()
        files = sorted(bench.small(inputs.INCOMPRESSIBLE).rglob("*.dat"))
        for file in files[:count]:
            os.link(file, path / f"{file.parent.name}-{file.name}")

    return bench.input(f"flat-{count}", make)


def used(mount: Mount, row: Row, other: float | None, work: Callable[[Path], float], source: Path) -> None:
    """One repeat: ``work`` in the version of an input, beside the seconds of the other side."""
    before = mount.processor()
    row.add(other, work(mount.version(source.name)), mount.processor() - before)


# -- what passed: of all repeats the one with the most -------------------------------------------------------------


def every(row: Row, traffic: Sequence[Traffic], *, limit: int | None = None) -> Fact:
    """Requests in all."""
    most = max(traffic, key=lambda each: len(each.requests))
    note = most.spelled()
    return Fact(f"{row.id}/requests", f"{row.work}: requests", len(most.requests), "requests", limit=limit, note=note)


def asked(row: Row, traffic: Sequence[Traffic], *, limit: int | None = None) -> Fact:
    """Requests that the work made: all but those by which a mount waits for news."""
    most = max(traffic, key=lambda each: len(each.asked))
    note = most.spelled()
    return Fact(f"{row.id}/requests", f"{row.work}: requests", len(most.asked), "requests", limit=limit, note=note)


def received(row: Row, traffic: Sequence[Traffic], *, limit: int | None = None) -> Fact:
    """Bytes that came, headers and all."""
    most = max(each.down for each in traffic)
    return Fact(f"{row.id}/received", f"{row.work}: bytes received", most, "bytes", limit=limit)


def sent(row: Row, traffic: Sequence[Traffic], *, limit: int | None = None) -> Fact:
    """Bytes that went, headers and all."""
    most = max(each.up for each in traffic)
    return Fact(f"{row.id}/sent", f"{row.work}: bytes sent", most, "bytes", limit=limit)


def content(traffic: Traffic) -> int:
    """Bytes of packs that came."""
    return sum(request.sent for request in traffic.objects)

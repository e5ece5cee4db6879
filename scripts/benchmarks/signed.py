"""Reading through signed URLs beside reading through the server, whose packs are in a bucket, by several clients at once."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from benchmarks import bucket, bucket_reader, far, inputs
from benchmarks.programs import awaited, running
from benchmarks.results import Fact, Result, Row
from benchmarks.workbench import Workbench, processor_of, say

FILES = 32
DIRECT, SERVER = "direct", "server"
WAYS = {SERVER: "through the server", DIRECT: "by signed URLs"}
_READER = Path(bucket_reader.__file__)
_SECONDS = 300.0


@dataclass
class Way:
    """What one way cost, in each repeat."""

    seconds: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)  # of the server
    of_bucket: list[float] = field(default_factory=list)  # of moto
    requests: list[int] = field(default_factory=list)  # at the server
    sent: list[int] = field(default_factory=list)  # bytes, by the server
    reads: list[int] = field(default_factory=list)  # requests at the bucket
    fetched: list[int] = field(default_factory=list)  # bytes, from the bucket


@dataclass(frozen=True)
class Served:
    """A server whose packs are in a bucket."""

    url: str
    pid: int
    notes: Path
    bucket: bucket.Bucket

    def requests(self) -> list[far.Request]:
        """All that it has answered."""
        return [far.request(line) for line in far.access(self.notes.read_text(encoding="utf-8", errors="replace"))]


def signed_urls(bench: Workbench) -> Iterator[Result]:
    """256 MiB from a server with its packs in a bucket, by 1, 8 and 32 clients: by signed URLs, beside through the server"""
    bench.notes["S3 server"] = bucket.trouble() or "moto, one process"
    if bucket.trouble():
        return
    size = bench.sizes.large // 4
    source = bench.input("split", lambda path: _split(path, size))
    with _served(bench) as server:
        say(f"putting {source.name}")
        cache = bench.empty("filling")
        bench.run(bench.artifactfs("--repository", server.url, "--cache-dir", cache, "put", source.name, source))
        for count in bench.sizes.clients:
            yield from _by(bench, server, source, count)


def _by(bench: Workbench, server: Served, source: Path, count: int) -> Iterator[Result]:
    size = inputs.size_of(source)
    clients = "1 client" if count == 1 else f"{count} clients"
    work = f"{inputs.spelled(size)} by {clients}"
    row = Row(f"signed-urls/{count}", f"read {work} by signed URLs, beside through the server", inputs.INCOMPRESSIBLE)
    ways = {name: Way() for name in WAYS}
    for _ in bench.interleaved():
        for name, way in ways.items():
            _measure(bench, server, source, count, name, way)
        row.add(ways[SERVER].seconds[-1], ways[DIRECT].seconds[-1], ways[DIRECT].processor[-1])
    yield row
    for name, way in ways.items():
        start, what = f"{row.id}/{name}", f"{work} {WAYS[name]}"
        yield Fact(f"{start}/speed", f"{what}: MB a second", size / median(way.seconds) / 1e6, "MB/s")
        gigabytes = size / 1e9
        for key, of, seconds in (
            ("processor", "the server", way.processor),
            ("of-bucket", "the bucket", way.of_bucket),
        ):
            value = median(seconds) / gigabytes
            yield Fact(f"{start}/{key}", f"{what}: seconds of processor of {of}, a GB", value, "s/GB")
        yield Fact(f"{start}/requests", f"{what}: requests of the server", max(way.requests), "requests")
        yield Fact(f"{start}/sent", f"{what}: bytes sent by the server", max(way.sent), "bytes")
        yield Fact(f"{start}/reads", f"{what}: reads of the bucket", max(way.reads), "requests")
        yield Fact(f"{start}/fetched", f"{what}: bytes sent by the bucket", max(way.fetched), "bytes")


def _measure(bench: Workbench, server: Served, source: Path, count: int, name: str, into: Way) -> None:
    """One repeat: clients with empty caches that begin together, each with its share of the files."""
    files = sorted(file.name for file in source.iterdir())
    caches = bench.empty("caches")
    commands = [
        [sys.executable, _READER, server.url, caches / str(number), source.name, name, *files[number::count]]
        for number in range(count)
    ]
    with contextlib.ExitStack() as stack:
        processes = [stack.enter_context(_client(bench, command)) for command in commands]
        for process in processes:
            _line(process)
        bench.run(["sync"])
        before, asked, used = server.bucket.passed(), len(server.requests()), processor_of(server.pid)
        begin = time.perf_counter()
        for process in processes:
            _go(process)
        read = [int(_line(process)) for process in processes]
        into.seconds.append(time.perf_counter() - begin)
        into.processor.append(processor_of(server.pid) - used)
        after, requests = server.bucket.passed(), server.requests()[asked:]
    if sum(read) != inputs.size_of(source):
        raise RuntimeError(f"{count} clients read {sum(read):,} bytes of {inputs.size_of(source):,}")
    into.of_bucket.append(after.processor - before.processor)
    into.requests.append(len(requests))
    into.sent.append(sum(request.sent for request in requests))
    into.reads.append(after.reads - before.reads)
    into.fetched.append(after.sent - before.sent)


@contextlib.contextmanager
def _client(bench: Workbench, command: Sequence[str | Path]) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        list(map(str, command)),
        cwd=bench.root,
        env=bench.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        with process:
            yield process
    finally:
        process.kill()


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None  # noqa: S101 - for the type checker
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"a client has ended with {process.wait(_SECONDS)}")
    return line


def _go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None  # noqa: S101 - for the type checker
    process.stdin.write("\n")
    process.stdin.flush()


@contextlib.contextmanager
def _served(bench: Workbench) -> Iterator[Served]:
    directory, notes = bench.root / "served" / "bucket", bench.root / "output" / "serve"
    bench.run(bench.artifactfs("init", directory))
    command = bench.artifactfs("--repository", directory, "serve", "--host", "127.0.0.1", "--port", "0")
    command += ["--store", f"s3://{bucket.NAME}/packs"]
    with (
        bucket.bucket(bench) as kept,
        running(command, notes, bench.environment | kept.environment, bench.root) as server,
    ):
        port = int(awaited(server, notes, far.ADDRESS).group(1))
        yield Served(f"http://127.0.0.1:{port}", server.pid, notes, kept)


def _split(path: Path, size: int) -> None:
    path.mkdir()
    for number in range(FILES):
        inputs.large(path / f"part-{number:02}.dat", inputs.INCOMPRESSIBLE, size // FILES)

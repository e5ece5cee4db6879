"""What encryption at rest costs: `put` into an encrypted project, and the first read of what lies there, beside one that is not."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from benchmarks import inputs
from benchmarks.results import Result, Row
from benchmarks.workbench import Workbench


def encryption(bench: Workbench) -> Iterator[Result]:
    """put of 256 MiB, and cat of it on a fresh mount: encrypted, beside not encrypted"""
    size = bench.sizes.large // 4
    spelled = inputs.spelled(size)
    for kind in inputs.KINDS:
        source = bench.input(f"quarter-{kind}", lambda path, kind=kind: _one(path, kind, size))
        written = Row(f"encryption/put/{kind}", f"put {spelled}, encrypted, beside not encrypted", kind)
        read = Row(f"encryption/cat/{kind}", f"cat of {spelled}, fresh mount, encrypted, beside not encrypted", kind)
        for _ in bench.interleaved():
            plain, sealed = _once(bench, source, "plain"), _once(bench, source, "sealed", "--encrypt")
            written.add(plain[0], sealed[0])
            read.add(plain[1], sealed[1], sealed[2])
        yield written
        yield read


def _once(bench: Workbench, source: Path, name: str, *options: str) -> tuple[float, float, float]:
    """Seconds of `put` into a new repository and of `cat` from a mount of it, and of the mount's processor time for that."""
    repository = bench.root / "output" / name
    bench.run(bench.artifactfs("init", repository, *options))
    bench.run(["sync"])
    put = bench.timed(bench.artifactfs("--repository", repository, "put", "measured", source))
    inputs.settle(repository / "store")
    with bench.mounted(repository=repository) as mount:
        before = mount.processor()
        cat = bench.timed(["cat", "large.dat"], cwd=mount.version("measured"))
        used = mount.processor() - before
    shutil.rmtree(repository)
    return put, cat, used


def _one(path: Path, kind: str, size: int) -> None:
    path.mkdir()
    inputs.large(path / "large.dat", kind, size)

"""What it costs that lineage records itself: a program that opens many files, in a run and in none.

Both are set against a mount that does not ask whose opens it answers (unwatched.py), which is what a release without lineage would be.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.results import Fact, Result, Row
from benchmarks.workbench import Mount, Workbench

_OPENS = Path(__file__).with_name("opens.py")
_UNWATCHED = Path(__file__).with_name("unwatched.py")


def opens(bench: Workbench) -> Iterator[Result]:
    """open, read, close of 20,000 files through a mount: in a run, and in none, against a mount that records nothing"""
    source = bench.small("incompressible")
    version = bench.version(source)
    count = bench.sizes.small_directories * bench.sizes.small_per_directory
    what = f"open, read, close of {count:,} files, against a mount that records nothing"
    inside = Row("lineage/in-a-run", f"{what}: in a run", goal=1.05)
    outside = Row("lineage/in-no-run", f"{what}: in no run", goal=1.05)
    program = [sys.executable, "-S", str(_OPENS)]
    run = bench.artifactfs("run", "--job-type", "bench", "--quiet", "--")

    def seconds(mount: Mount, *before: str) -> tuple[float, float]:
        """What the program says, and the daemon's processor time for all of it."""
        used = mount.processor()
        said = float(bench.run([*before, *program, str(mount.version(version)), str(count)]))
        return said, mount.processor() - used

    for _ in bench.interleaved():
        with bench.mounted(program=[sys.executable, str(_UNWATCHED)]) as mount:
            before, _ = seconds(mount)
        with bench.mounted() as mount:
            inside.add(before, *seconds(mount, *run))
        with bench.mounted() as mount:
            outside.add(before, *seconds(mount))
    yield inside
    yield outside
    runs = json.loads(bench.run(bench.artifactfs("runs", "--json")))
    yield Fact(
        "lineage/inputs",
        "versions recorded as inputs of that run",
        max(each["inputs"] for each in runs),
        "versions",
        limit=1,
    )

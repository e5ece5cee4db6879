"""The command `scripts/bench`: its options, its end, and what it prints."""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
from pathlib import Path

from benchmarks import machine, plan, report, workbench

REPEATS = 5
DESCRIPTION = """\
Measures ArtifactFS beside the local disk, and over a slow network beside what else fetches the same bytes, in one run: medians of
interleaved repeats, with their spread.
What is measured and how: `artifactfs help performance`.
"""


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=DESCRIPTION)
    parser.add_argument("--quick", action="store_true", help="small sizes and one repeat: shows that it works, no more")
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="ROW",
        choices=[*plan.BENCHMARKS, *plan.GROUPS],
        help="these alone (see --list), or all of `local` or `network`",
    )
    parser.add_argument("--list", action="store_true", help="name the benchmarks and end")
    parser.add_argument("--repeat", type=int, metavar="N", help="repeats of each (default 5, with --quick 1)")
    parser.add_argument("--binding", choices=["kernel", "fusepy"], default="kernel", help="how the mounts speak FUSE")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write everything that was measured to FILE")
    parser.add_argument("--markdown", action="store_true", help="print the tables of performance.md")
    parser.add_argument(
        "--dir",
        type=Path,
        metavar="DIR",
        default=Path("/var/tmp"),  # noqa: S108 - the work is done in a new private directory below it
        help="where to work: the local disk that is compared with (default %(default)s)",
    )
    chosen = parser.parse_args()
    if chosen.repeat is not None and chosen.repeat < 1:
        parser.error("--repeat: at least 1")
    return chosen


def interrupted(number: int, _frame: object) -> None:
    """Ending by a signal runs every clean-up; a second signal does not cut that short."""
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)
    raise SystemExit(128 + number)


def main() -> int:
    chosen = options()
    if chosen.list:
        for name, benchmark in plan.BENCHMARKS.items():
            print(f"{name:<18} {(benchmark.__doc__ or '').splitlines()[0]}")
        return 0
    names = plan.named(chosen.only or plan.GROUPS)
    if not set(plan.GROUPS["network"]).isdisjoint(names) and shutil.which("curl") is None:
        print("scripts/bench: curl is needed: install it, or use --only local", file=sys.stderr)
        return 1
    sizes = workbench.QUICK if chosen.quick else workbench.FULL
    free = shutil.disk_usage(chosen.dir).free
    if free < sizes.needed:
        print(
            f"scripts/bench: {chosen.dir} has {free >> 20:,} MiB free and {sizes.needed >> 20:,} MiB are needed: "
            "name another disk with --dir",
            file=sys.stderr,
        )
        return 1
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupted)
    facts = machine.describe(chosen.dir)
    repeat = chosen.repeat or (1 if chosen.quick else REPEATS)
    with workbench.Workbench(chosen.dir, sizes, repeat=repeat, binding=chosen.binding) as bench:
        results = plan.run(bench, names)
        facts.update(bench.notes)
    facts["load average at the end"] = machine.load()
    document = report.document(results, machine=facts, quick=chosen.quick, repeat=repeat, binding=chosen.binding)
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    print(report.markdown(document) if chosen.markdown else report.text(document))
    return 0

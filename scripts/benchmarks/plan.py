"""Which benchmarks there are, in their order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from benchmarks import reading, scale, writing
from benchmarks.results import Result
from benchmarks.workbench import Workbench, say

BENCHMARKS: dict[str, Callable[[Workbench], Iterator[Result]]] = {
    "find-directories": reading.find_directories,
    "find-one": reading.find_one,
    "sequential": reading.sequential,
    "random": reading.random_reads,
    "cat": reading.cat,
    "tar": reading.tar,
    "put-small": writing.put_small,
    "put-large": writing.put_large,
    "commit": writing.commit,
    "write-large": writing.write_large,
    "write-pages": writing.write_pages,
    "write-small": writing.write_small,
    "first-listing": scale.first_listing,
}


def run(bench: Workbench, names: Iterable[str]) -> list[Result]:
    """Everything that the named benchmarks measure."""
    results: list[Result] = []
    for name in names:
        say(name)
        results += BENCHMARKS[name](bench)
    return results

"""Which benchmarks there are, in their order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from benchmarks import encrypting, lineage, network, reading, registering, scale, searching, signed, upkeep, writing
from benchmarks.results import NETWORK, Result
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
    "find-metadata": searching.find_metadata,
    "lineage": lineage.opens,
    "registry": registering.registry,
    "encryption": encrypting.encryption,
    "verify": upkeep.verify,
    "gc": upkeep.gc,
    "gc-memory": upkeep.gc_memory,
    "signed-urls": signed.signed_urls,
    "network-sequential": network.sequential,
    "network-tar": network.tar,
    "network-put": network.put,
    "network-first": network.first,
    "network-again": network.again,
    "network-change": network.change,
}
GROUPS = {
    "local": [name for name in BENCHMARKS if not name.startswith(NETWORK)],
    "network": [name for name in BENCHMARKS if name.startswith(NETWORK)],
}


def named(words: Iterable[str]) -> list[str]:
    """The benchmarks that names and names of groups stand for, each once."""
    return list(dict.fromkeys(name for word in words for name in GROUPS.get(word, [word])))


def run(bench: Workbench, names: Iterable[str]) -> list[Result]:
    """Everything that the named benchmarks measure."""
    results: list[Result] = []
    for name in names:
        say(name)
        results += BENCHMARKS[name](bench)
    return results

"""How damage is told: which files of which versions it hits, in lines that stay few when many versions share what is damaged.

Used by ``verify``. One thread.

A place has a line of its own. Where more than ten versions of an artifact have the same thing wrong at the same path, one line names
them all; where it is so at more than ten paths of an artifact (a damaged registry is the reason for every file), one line tells of
them. ``--json`` names each.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from artifactfs.cli import printing

Place = tuple[str, str, str]
"""Version (``name:vN``, or empty for what is of none), path in it, and what is wrong there."""

_FEW_PATHS: Final = 10
_PACKS: Final = 50


def damage_lines(places: Iterable[Place]) -> Iterator[str]:
    """The lines, in the order in which what is wrong was met first."""
    # By artifact and what is wrong, then by path: the versions.
    found: dict[tuple[str, str], dict[str, list[str]]] = {}
    for version, path, reason in places:
        artifact = version.partition(":")[0]
        found.setdefault((artifact, reason), {}).setdefault(path.lstrip("/"), []).append(version)
    for (artifact, reason), paths in found.items():
        if artifact and len(paths) > _FEW_PATHS:
            hit = {version for versions in paths.values() for version in versions}
            count = sum(map(len, paths.values()))
            first = printing.shown(next(iter(paths)) or "/")
            yield f"{artifact}: {len(paths):,} paths, {first} the first, in {_named(hit)}: {count:,} places: {reason}"
            continue
        for path, versions in paths.items():
            yield from (f"{printing.shown(place)}: {reason}" for place in _places(artifact, path, versions))


def shortened(lines: Sequence[str]) -> Iterator[str]:
    """The first of very many lines that are about packs, and how many more there are."""
    kept = lines if len(lines) <= _PACKS + 1 else lines[:_PACKS]
    yield from kept
    if len(kept) < len(lines):
        yield f"{len(lines) - len(kept):,} more like these, which --json lists"


def _places(artifact: str, path: str, versions: list[str]) -> Iterator[str]:
    """A path in several versions of an artifact, in one line or in a few."""
    if not artifact:
        yield from [path] * len(versions)
    elif len(versions) > printing.FEW:
        yield f"{artifact}/{path} in {_named(versions)}"
    else:
        yield from (f"{version}/{path}" for version in versions)


def _named(versions: Iterable[str]) -> str:
    numbers = sorted(int(version.rpartition(":v")[2]) for version in versions)
    return f"{printing.many(len(numbers), 'version')} ({printing.spans(numbers)})"

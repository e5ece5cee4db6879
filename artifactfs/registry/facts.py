"""Facts: versions' metadata taken apart into rows that search compares by index.

Used by :mod:`artifactfs.registry.commit` and whatever else writes metadata, in its transaction, and (reading) by
:mod:`artifactfs.registry.search`. Safe from any thread.

A value below the keys ``dataset`` and ``name`` is the row with the path ``dataset.name`` and the position 0: a number, a text, a truth
value, null, or the mark that a list or an object is there. Each different scalar of a list is a row at a position of its own, from 1.
What lies deeper in a list is not looked into. All of it is made of metadata, and may be made again at any time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any, Final

from blake3 import blake3
from sqlalchemy import Connection, bindparam, delete, insert

from artifactfs.model.query import join_keys
from artifactfs.registry.schema import fact

# Kinds of rows, in the order that sorting gives to values of different types.
NUMBER: Final = 1
TEXT: Final = 2
LONG_TEXT: Final = 3  # longer than BEGINNING characters: `text` holds these, `whole` all
FALSE: Final = 4
TRUE: Final = 5
NULL: Final = 6
LIST: Final = 7
OBJECT: Final = 8

BEGINNING: Final = (
    128  # characters of a text that are in the index: at most 512 bytes of the 2,704 that PostgreSQL allows
)
_LONGEST_PATH: Final = 200  # characters, all ASCII

# What one version may cost: 10,000 rows take 0.1 s to write. Breadth first, so that what is left out lies deepest.
MOST_FACTS: Final = 10_000
MOST_ELEMENTS: Final = 1_000  # different scalars of one list

_REMOVE: Final = delete(fact).where(fact.c.version == bindparam("of"))


def replace(connection: Connection, project: int, version: int, metadata: dict[str, Any]) -> None:
    """Let a version have the facts of this metadata, as :func:`artifactfs.model.names.check_metadata` returns it, and no others."""
    remove(connection, version)
    rows = list(_rows(project, version, metadata))
    if rows:
        connection.execute(insert(fact), rows)


def remove(connection: Connection, version: int) -> None:
    """Forget all facts of a version."""
    connection.execute(_REMOVE, {"of": version})


def path_of(keys: tuple[str, ...]) -> str:
    """The path under which a value's row stands. Of very long keys it is a digest."""
    path = join_keys(keys)
    return path if len(path) <= _LONGEST_PATH else f"#{blake3(path.encode()).hexdigest()}"


def plain_text(text: str) -> str:
    """Text as rows hold it: PostgreSQL has no NUL."""
    return text.replace("\0", "\ufffd")


def _rows(project: int, version: int, metadata: dict[str, Any]) -> Iterator[dict[str, Any]]:
    left = MOST_FACTS
    waiting: deque[tuple[tuple[str, ...], Any]] = deque(((key,), value) for key, value in metadata.items())
    while waiting and left:
        keys, value = waiting.popleft()
        path = path_of(keys)
        values = [value]
        if isinstance(value, dict):
            waiting.extend(((*keys, key), inner) for key, inner in value.items())
        elif isinstance(value, list):
            values += _elements(value)
        for position, single in enumerate(values[:left]):
            kind, number, text, whole = _columns(single)
            yield {
                "version": version,
                "path": path,
                "position": position,
                "project": project,
                "kind": kind,
                "number": number,
                "text": text,
                "whole": whole,
            }
        left -= len(values[:left])


def _elements(values: list[Any]) -> list[Any]:
    """The different scalars of a list: 1, 1.0 and true are two."""
    different: dict[tuple[Any, ...], Any] = {}
    for value in values:
        if not isinstance(value, list | dict):
            different.setdefault(_columns(value), value)
            if len(different) == MOST_ELEMENTS:
                break
    return list(different.values())


def _columns(value: Any) -> tuple[int, float | None, str | None, str | None]:
    """Kind, number, text and whole of one value."""
    if isinstance(value, bool):
        return (TRUE if value else FALSE), None, None, None
    if isinstance(value, int | float):
        return NUMBER, float(value), None, None
    if isinstance(value, str):
        text = plain_text(value)
        return TEXT, None, text[:BEGINNING], text if len(text) >= BEGINNING else None
    return (NULL if value is None else LIST if isinstance(value, list) else OBJECT), None, None, None

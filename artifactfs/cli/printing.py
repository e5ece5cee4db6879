"""How results look: tables, sizes, times, JSON, notes on stderr, progress. Used by every command, on the main thread."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_UNITS: Final = ("KiB", "MiB", "GiB", "TiB", "PiB")
FEW: Final = 10
"""Versions of an artifact that have a line each; of more, one line tells."""
_SPANS: Final = 20  # of numbers in a line
_LINE_SECONDS: Final = 10.0  # between lines of progress that is no bar


def line(text: str = "") -> None:
    """A line of the result."""
    print(text)


def note(text: str) -> None:
    """Something to know that is no result: stderr."""
    print(text, file=sys.stderr)


def as_json(value: Any) -> None:
    """A result as one JSON document."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


def json_array(items: Iterable[Any]) -> None:
    """A list as one JSON document, printed as it comes: it may be a million items long."""
    before = "[\n  "
    for item in items:
        print(before + json.dumps(item, ensure_ascii=False), end="")
        before = ",\n  "
    print("[]" if before.startswith("[") else "\n]")


def table(headings: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[int] = ()) -> None:
    """Aligned columns, two spaces apart; ``right`` are the numbers of right-aligned ones."""
    lines = [list(headings), *([shown(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in lines) for column in range(len(headings))]
    for row in lines:
        cells = [
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())


def values(found: Mapping[str, Any]) -> None:
    """Metadata or a configuration, a line for each key, sorted."""
    for key in sorted(found):
        value = found[key]
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        line(f"  {shown(key)} = {shown(text)}")


def shown(text: str) -> str:
    """Text on one line: control characters, which could also drive the terminal, are escaped."""
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() or "\udc80" <= c <= "\udcff" else c.encode("unicode_escape").decode() for c in text
    )


def size(count: int, *, exact: bool = False) -> str:
    """Bytes for people: ``17 B``, ``1.4 MiB``; ``exact`` gives the number alone."""
    if exact:
        return str(count)
    if count < 1024:
        return f"{count} B"
    value = float(count)
    for unit in _UNITS:
        value /= 1024
        if value < 1023.95 or unit == _UNITS[-1]:
            return f"{value:.1f} {unit}"
    raise AssertionError


def many(count: int, thing: str) -> str:
    """``1 file``, ``17,379 files``."""
    plural = f"{thing[:-1]}ies" if thing.endswith("y") else f"{thing}s"
    return f"{count:,} {thing if count == 1 else plural}"


def spans(numbers: Sequence[int]) -> str:
    """Numbers of versions, rising: ``v0 to v19, v21, v23 to v40``. Of very many spans the last is left out but for their number."""
    ends: list[list[int]] = []
    for number in numbers:
        if ends and number == ends[-1][1] + 1:
            ends[-1][1] = number
        else:
            ends.append([number, number])
    named = [f"v{first}{_to(last - first)}v{last}" if first != last else f"v{first}" for first, last in ends]
    more = len(named) - _SPANS
    return ", ".join(named) if more <= 1 else f"{', '.join(named[:_SPANS])} and {more:,} spans more"


def _to(further: int) -> str:
    return ", " if further == 1 else " to "


def when(nanoseconds: int) -> str:
    """Local time for people: ``2026-01-31 14:05:09``."""
    return _local(nanoseconds).strftime("%Y-%m-%d %H:%M:%S")


def iso(nanoseconds: int) -> str:
    """Local time with its offset, for programs."""
    return _local(nanoseconds).isoformat(timespec="seconds")


def _local(nanoseconds: int) -> datetime:
    return datetime.fromtimestamp(nanoseconds / 1e9, tz=UTC).astimezone()


class Meter:
    """Progress of long work: a bar on a terminal; elsewhere a line every 10 seconds.

    Bytes are counted towards ``total`` when it is known. Call :meth:`update` as often as you like.
    """

    def __init__(self, label: str, total: int | None = None) -> None:
        self._label = label
        self._total = total
        self._bar: tuple[Progress, TaskID] | None = None
        self._said = time.monotonic()

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            self._bar = _bar(self._label, self._total)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar[0].stop()

    def update(self, done: int, *, files: int | None = None, references: int | None = None) -> None:
        """``done`` bytes so far, and files or references when they are counted."""
        counted = f", {many(files, 'file')}" if files is not None else ""
        counted += f", {many(references, 'reference')}" if references is not None else ""
        if self._bar is not None:
            progress, task = self._bar
            progress.update(task, completed=done, counted=counted.removeprefix(", "))
        elif time.monotonic() - self._said >= _LINE_SECONDS:
            self._said = time.monotonic()
            share = f" of {size(self._total)}" if self._total else ""
            note(f"{self._label}: {size(done)}{share}{counted}")


def _bar(label: str, total: int | None) -> tuple[Progress, TaskID]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[counted]}"),
        console=Console(stderr=True),
        transient=True,
    )
    task = progress.add_task(label, total=total, counted="")
    progress.start()
    return progress, task

"""How results are shown: as a document for machines, as aligned text, as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

from benchmarks.results import DIFFERENCE, RATIO, Result, Row

FORMAT = 1
_HEAD = ("work", "data", "local disk", "ArtifactFS", "daemon CPU", "ratio", "spread", "goal", "met")
_LEFT = frozenset({"work", "data", "what", "note"})
_KINDS = {"bytes", "requests"}


def document(results: Sequence[Result], *, machine: dict[str, str], **run: Any) -> dict[str, Any]:
    """All that was measured; ``run`` says how."""
    return {
        "format": FORMAT,
        **run,
        "machine": machine,
        "rows": [each.as_json() for each in results if isinstance(each, Row)],
        "facts": [each.as_json() for each in results if not isinstance(each, Row)],
    }


def text(document: dict[str, Any]) -> str:
    """Aligned tables."""
    parts = [_aligned(_HEAD, list(map(_row, document["rows"])))] if document["rows"] else []
    if document["facts"]:
        parts.append(_aligned(("what", "value", "at most", "met", "note"), list(map(_fact, document["facts"]))))
    parts.append("\n".join(f"{name}: {value}" for name, value in document["machine"].items()))
    parts.append(_how(document))
    return "\n\n".join(parts)


def markdown(document: dict[str, Any]) -> str:
    """The same as Markdown tables."""
    parts = [_how(document)]
    parts.append("; ".join(f"{name}: {value}" for name, value in document["machine"].items()) + ".")
    if document["rows"]:
        parts.append(_pipes(_HEAD, list(map(_row, document["rows"]))))
    if document["facts"]:
        parts.append(_pipes(("what", "value", "at most", "met", "note"), list(map(_fact, document["facts"]))))
    return "\n\n".join(parts)


def _how(document: dict[str, Any]) -> str:
    repeats = f"medians of {document['repeat']} interleaved repeats" if document["repeat"] > 1 else "one repeat"
    quick = "; small sizes (--quick), whose ratios mean nothing" if document["quick"] else ""
    return f"Seconds, {repeats}, spread from least to most; binding {document['binding']}{quick}."


def _row(row: dict[str, Any]) -> tuple[str, ...]:
    unit = "x" if row["measure"] == RATIO else " s"
    sign = "+" if row["measure"] == DIFFERENCE else ""
    met = {True: "yes", False: "NO", None: ""}[row["met"]]
    return (
        row["work"],
        row["data"],
        _seconds(median(row["local"])) if row["local"] else "",
        _seconds(median(row["ours"])),
        _seconds(median(row["processor"])) if row["processor"] else "",
        f"{row['value']:{sign}.2f}{unit}",
        f"{row['low']:{sign}.2f} to {row['high']:{sign}.2f}",
        f"{row['goal']:g}{unit}" if row["goal"] is not None else "",
        met,
    )


def _fact(fact: dict[str, Any]) -> tuple[str, ...]:
    met = {True: "yes", False: "NO", None: ""}[fact["met"]]
    limit = "" if fact["limit"] is None else _number(fact["limit"], fact["unit"])
    return (fact["what"], _number(fact["value"], fact["unit"]), limit, met, fact["note"])


def _seconds(value: float) -> str:
    return f"{value:.2f}" if value >= 1 else f"{value:.3f}"


def _number(value: float, unit: str) -> str:
    if unit == "bytes":
        return f"{value / 1e6:,.1f} MB" if value >= 1e6 else f"{value:,.0f} bytes"
    return f"{value:,.0f}" if value == int(value) else f"{value:,.2f}"


def _aligned(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = []
    for row in (head, *rows):
        cells = (
            cell.ljust(width) if name in _LEFT else cell.rjust(width)
            for name, cell, width in zip(head, row, widths, strict=True)
        )
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _pipes(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    rule = ["---" if name in _LEFT else "---:" for name in head]
    lines = [head, rule, *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)

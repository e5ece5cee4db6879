"""How results are shown: as a document for machines, as aligned text, as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import median
from typing import Any

from benchmarks.results import DIFFERENCE, NETWORK, RATIO, Result, Row

FORMAT = 1
_HEAD = ("work", "data", "local disk", "ArtifactFS", "daemon CPU", "ratio", "spread", "goal", "met")
_NETWORK_HEAD = (
    "work at 20 ms",
    "curl",
    "ArtifactFS",
    "daemon CPU",
    "ratio",
    "spread",
    "goal",
    "met",
    "rclone mount",
    "ahead",
)
_FACTS_HEAD = ("what", "value", "at most", "met", "note")
_LEFT = frozenset({"work", "work at 20 ms", "data", "what", "note"})
_VERDICT = {True: "yes", False: "NO", None: ""}


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
    parts = [_aligned(head, rows) for head, rows in _tables(document)]
    parts.append("\n".join(f"{name}: {value}" for name, value in document["machine"].items()))
    parts.append(_how(document))
    return "\n\n".join(parts)


def markdown(document: dict[str, Any]) -> str:
    """The same as Markdown tables."""
    parts = [_how(document)]
    parts.append("; ".join(f"{name}: {value}" for name, value in document["machine"].items()) + ".")
    parts += [_pipes(head, rows) for head, rows in _tables(document)]
    return "\n\n".join(parts)


def _tables(document: dict[str, Any]) -> Iterator[tuple[Sequence[str], list[Sequence[str]]]]:
    """Heads and lines: of what is measured beside the local disk, then of what is measured over the network."""
    for network in (False, True):
        rows = [row for row in document["rows"] if row["id"].startswith(NETWORK) == network]
        if rows:
            yield (_NETWORK_HEAD, list(map(_network_row, rows))) if network else (_HEAD, list(map(_row, rows)))
        facts = [fact for fact in document["facts"] if fact["id"].startswith(NETWORK) == network]
        if facts:
            yield _FACTS_HEAD, list(map(_fact, facts))


def _how(document: dict[str, Any]) -> str:
    repeats = f"medians of {document['repeat']} interleaved repeats" if document["repeat"] > 1 else "one repeat"
    quick = "; small sizes (--quick), whose ratios mean nothing" if document["quick"] else ""
    return f"Seconds, {repeats}, spread from least to most; binding {document['binding']}{quick}."


def _row(row: dict[str, Any]) -> Sequence[str]:
    return (row["work"], row["data"], *_measured(row))


def _network_row(row: dict[str, Any]) -> Sequence[str]:
    return (row["work"], *_measured(row), _median(row["peer"]), _VERDICT[row["ahead"]])


def _measured(row: dict[str, Any]) -> Sequence[str]:
    unit = "x" if row["measure"] == RATIO else " s"
    sign = "+" if row["measure"] == DIFFERENCE else ""
    return (
        _median(row["local"]),
        _median(row["ours"]),
        _median(row["processor"]),
        f"{row['value']:{sign}.2f}{unit}",
        f"{row['low']:{sign}.2f} to {row['high']:{sign}.2f}",
        f"{row['goal']:g}{unit}" if row["goal"] is not None else "",
        _VERDICT[row["met"]],
    )


def _fact(fact: dict[str, Any]) -> Sequence[str]:
    limit = "" if fact["limit"] is None else _number(fact["limit"], fact["unit"])
    return (fact["what"], _number(fact["value"], fact["unit"]), limit, _VERDICT[fact["met"]], fact["note"])


def _median(seconds: Sequence[float]) -> str:
    if not seconds:
        return ""
    value = median(seconds)
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

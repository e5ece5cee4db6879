"""``plot``: a number over an artifact's versions, in the terminal or as a picture; and how ``stats`` draws too."""

from __future__ import annotations

import io
import math
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
import msgspec

from artifactfs.cli import chart, printing
from artifactfs.cli.context import NAME, Context, pass_context
from artifactfs.cli.finding import metadata_fields, value_at
from artifactfs.errors import InvalidInput, NotFound, Unavailable, translate_os
from artifactfs.model.names import Address, check_name
from artifactfs.model.query import METADATA, Field, Query, parse_field

if TYPE_CHECKING:
    from artifactfs.model.records import VersionRecord
    from artifactfs.repository import Repository

_PICTURES: Final = (".png", ".svg")
_ROWS: Final = 16  # of the chart, at most; a terminal of 24 lines keeps the command and its notes
_NAMED: Final = 10  # versions or fields in a message
_UPRIGHT: Final = 8  # characters of a label, of which eight have room beside each other in a picture


@click.command("plot")
@click.argument("name", type=NAME)
@click.argument("field")
@click.option("--where", metavar="EXPR", default="", help="Versions for which this condition holds, as in `find`.")
@click.option("--output", metavar="FILE", type=click.Path(path_type=Path), help="Write a picture: .png or .svg.")
@pass_context
def plot_command(context: Context, name: str, field: str, where: str, output: Path | None) -> None:
    """Draw a number over an artifact's versions: metadata.KEY, size or files.

    Pictures need matplotlib: pip install 'artifactfs[plot]'.

    \b
    Example:
      artifactfs plot bike-model metadata.accuracy
      artifactfs plot bike-model metadata.accuracy --where 'created >= "2026-01-31"' --output plot.png
    """
    check_name(name)
    try:
        looked_at = parse_field(field)
    except InvalidInput as error:
        raise InvalidInput(f"FIELD: {error}") from None
    if looked_at.name not in {METADATA, "size", "files"}:
        raise InvalidInput(f"FIELD: cannot plot {field}, which is no number; metadata.KEY, size or files would do")
    metadata_fields(where, ())
    if output is not None:
        check_picture(output)
    with context.open() as repository:
        versions = _versions(repository, name, where)
    points = [(version.number, value) for version in versions if (value := _number(version, looked_at)) is not None]
    if not points:
        raise NotFound(f"no version of {name} has a number at {looked_at}{_instead(versions[-1])}")
    if output is None:
        print_chart(f"{name}  {looked_at}", points)
    else:
        write_picture(output, name, str(looked_at), points)
    have = {number for number, _ in points}
    if missing := [f"v{version.number}" for version in versions if version.number not in have]:
        more = f" and {len(missing) - _NAMED:,} more" if len(missing) > _NAMED else ""
        printing.note(
            f"left out, without a number at {looked_at}: {', '.join(missing[:_NAMED])}{more} "
            f"({len(missing):,} of {printing.many(len(versions), 'version')})"
        )


def _versions(repository: Repository, name: str, where: str) -> list[VersionRecord]:
    """Rising numbers; at least one."""
    query = Query(artifact=name, where=where, sort=("version",))
    versions = repository.registry.find(query)
    if not versions:
        present = repository.resolve(Address(None, name)).artifact  # NotFound, with near misses
        versions = repository.registry.find(msgspec.structs.replace(query, artifact=present))
    if not versions:
        raise NotFound(f"no version of {name} is like that: {where}")
    return versions


def _number(version: VersionRecord, field: Field) -> float | None:
    value = value_at(version, field.keys)[1] if field.name == METADATA else getattr(version, field.name)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _instead(version: VersionRecord) -> str:
    """What else of a version could be drawn, as the end of a message."""
    fields = [str(Field(METADATA, keys)) for keys in _numbers(version.metadata, ())]
    more = ", …" if len(fields) > _NAMED else ""
    return f"; {version.name} has them at {', '.join(fields[:_NAMED])}{more}" if fields else ""


def _numbers(value: Any, keys: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _numbers(inner, (*keys, key))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield keys


def _label_at(place: float, points: Sequence[tuple[int, float]], label: Callable[[int], str]) -> str:
    """What stands at a place of the axis, which may lie beside the points."""
    number = round(place)
    return label(number) if points[0][0] <= number <= points[-1][0] else ""


def _number_of(number: int) -> str:
    return f"v{number}"


def check_picture(output: Path) -> None:
    """Refuse a file name that is no picture's."""
    if output.suffix.lower() not in _PICTURES:
        raise InvalidInput(f"--output: not a picture's name: {str(output)!r}; {output.stem}.png or .svg would do")


def write_picture(
    output: Path,
    title: str,
    field: str,
    points: Sequence[tuple[int, float]],
    *,
    label: Callable[[int], str] = _number_of,
) -> None:
    """Draw points into a file, and print its name. ``label`` writes the numbers below."""
    picture = _picture(title, field, points, output.suffix.lower().removeprefix("."), label)
    try:
        output.write_bytes(picture)
    except OSError as error:
        raise translate_os(error, f"--output {output} cannot be written") from error
    printing.line(str(output))


def print_chart(title: str, points: Sequence[tuple[int, float]], *, label: Callable[[int], str] = _number_of) -> None:
    """Draw points in the terminal. ``label`` writes the numbers below."""
    size = shutil.get_terminal_size()
    encoding = (sys.stdout.encoding or "ascii").lower().replace("-", "")
    printing.line(title)
    for line in chart.draw(
        points,
        width=size.columns,
        height=max(4, min(_ROWS, size.lines - 6)),
        signs=chart.BRAILLE if encoding.startswith("utf") else chart.ASCII,
        label=label,
    ):
        printing.line(line)


def _picture(
    name: str, field: str, points: Sequence[tuple[int, float]], form: str, label: Callable[[int], str]
) -> bytes:
    """The same line as PNG or SVG; the same points give the same bytes."""
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
        from matplotlib.ticker import FuncFormatter, MaxNLocator
    except ImportError as error:
        raise Unavailable(
            f"--output needs a package that is not installed ({error.name}); pip install 'artifactfs[plot]'"
        ) from error

    # A Figure of its own: pyplot would look for a display.
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    numbers, values = zip(*points, strict=True)
    few = len(points) <= 100  # points that can be told apart
    axes.plot(numbers, values, marker="o" if few else None, linewidth=1.5)
    axes.set_title(name, parse_math=False)
    axes.set_ylabel(field, parse_math=False)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda number, _place: _label_at(number, points, label)))
    # Long ones, as NAME:vN, would lie over each other.
    if max(len(label(number)) for number in numbers) > _UPRIGHT:
        axes.tick_params(axis="x", rotation=20)
        for below in axes.get_xticklabels():
            below.set_horizontalalignment("right")
    axes.grid(visible=True, alpha=0.3)
    if math.isclose(min(numbers), max(numbers)):
        axes.set_xlim(min(numbers) - 1, max(numbers) + 1)
    written = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "artifactfs"}):
        figure.savefig(written, format=form, dpi=150, metadata={"Date": None} if form == "svg" else None)
    return written.getvalue()

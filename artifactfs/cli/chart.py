"""A line through points, drawn in characters: braille dots where the terminal has them, ASCII elsewhere.

Used by ``plot``. Pure functions on any thread; whoever calls knows the width and what the terminal can show.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import msgspec

Point = tuple[float, float]

_FEWEST_COLUMNS: Final = 10  # of the area itself: less shows nothing
_ROOM: Final = 8  # columns for one number below, when all numbers are many
# Beyond these the arithmetic of a chart would have no result: differences are infinite or zero, steps vanish beside values.
_LARGEST: Final = 1e300
_SMALLEST: Final = 1e-300
_FINEST: Final = 2**50
_PLAIN: Final = 1e9  # larger values are written with an exponent
_STEPS: Final = (1.0, 2.0, 2.5, 5.0, 10.0)

# A braille character is two columns and four rows of dots (https://www.unicode.org/charts/PDF/U2800.pdf).
_BRAILLE: Final = 0x2800
_DOTS: Final = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))


class Signs(msgspec.Struct, frozen=True):
    """What a chart is drawn with; ``across`` and ``down`` dots lie in one character of the line."""

    across: int
    down: int
    point: str
    side: str
    mark: str  # on the side, where a value stands
    corner: str
    bottom: str
    below: str  # on the bottom, where a number stands
    cell: Callable[[Sequence[tuple[int, int]]], str]  # the character that shows these dots


BRAILLE: Final = Signs(
    2, 4, "●", "│", "┤", "└", "─", "┴", lambda dots: chr(_BRAILLE + sum({_DOTS[row][column] for column, row in dots}))
)
ASCII: Final = Signs(1, 1, "*", "|", "+", "+", "-", "+", lambda _dots: ".")


def draw(
    points: Sequence[Point], *, width: int, height: int, signs: Signs = BRAILLE, label: Callable[[int], str] = str
) -> list[str]:
    """Lines of a chart: ``width`` characters, ``height`` rows and two below.

    There is at least one point, and they are in order of x, which are whole numbers that ``label`` writes.
    """
    points = [(x, max(-_LARGEST, min(y, _LARGEST))) for x, y in points]
    values = [y for _, y in points]
    ticks = value_ticks(min(values), max(values), most=max(2, height // 3))
    names = value_labels(ticks)
    margin = max(map(len, names)) + 1
    columns = max(_FEWEST_COLUMNS, width - margin - 1)
    first, last = points[0][0], points[-1][0]
    place = _Place(first, last, ticks[0], ticks[-1], columns=columns, rows=height, signs=signs)

    cells: dict[tuple[int, int], set[tuple[int, int]]] = {}
    dots = [place.dot(point) for point in points]
    for one, other in zip(dots, [*dots[1:], dots[-1]], strict=True):
        for x, y in _line(one, other):
            cells.setdefault((x // signs.across, y // signs.down), set()).add((x % signs.across, y % signs.down))
    area = [[" "] * columns for _ in range(height)]
    for (column, row), shown in cells.items():
        area[row][column] = signs.cell(sorted(shown))
    # Where points are too many to be told apart, the line alone says more.
    if len(points) <= columns // 3:
        for x, y in dots:
            area[y // signs.down][x // signs.across] = signs.point

    sides = {place.row(tick): name for tick, name in zip(ticks, names, strict=True)}
    lines = [
        f"{sides.get(row, ''):>{margin - 1}} {signs.mark if row in sides else signs.side}{''.join(area[row])}".rstrip()
        for row in range(height)
    ]
    return [*lines, *_bottom(points, place, margin, signs, label)]


def value_ticks(low: float, high: float, *, most: int) -> list[float]:
    """Round values, evenly spaced, at least two, from at or below ``low`` to at or above ``high``; about ``most``, never many more."""
    if high - low < _SMALLEST:
        room = max(abs(low), abs(high)) / 2
        room = room if room > _SMALLEST else 1.0
        low, high = low - room, high + room
    rough = (high - low) / most
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next((step for step in (each * unit for each in _STEPS) if step >= rough * (1 - 1e-9)), 10 * unit)
    if max(abs(low), abs(high)) / step > _FINEST:
        return [low, high]
    begin, end = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [number * step for number in range(begin, max(end, begin + 1) + 1)]


def value_labels(ticks: Sequence[float]) -> list[str]:
    """Ticks as text, with as few digits as they need: ``0.75``, ``2500000``, ``1e-05``."""
    plain = [f".{digits}f" for digits in range(7)] if max(map(abs, ticks)) < _PLAIN else []
    for form in (*plain, *(f".{digits}g" for digits in range(1, 17))):
        names = [format(tick, form) for tick in ticks]
        exact = all(math.isclose(float(name), tick, rel_tol=1e-9) for name, tick in zip(names, ticks, strict=True))
        if exact and len(set(names)) == len(ticks):
            return names
    return [repr(tick) for tick in ticks]


class _Place:
    """Where values lie: dots from the left and from the top."""

    def __init__(
        self, first: float, last: float, low: float, high: float, *, columns: int, rows: int, signs: Signs
    ) -> None:
        self._first, self._last = first, last
        self._low, self._high = low, high
        self.columns = columns
        self._across, self._down = columns * signs.across, rows * signs.down
        self._signs = signs

    def dot(self, point: Point) -> tuple[int, int]:
        x, y = point
        share = 0.5 if self._first == self._last else (x - self._first) / (self._last - self._first)
        up = (y - self._low) / (self._high - self._low)
        return round(share * (self._across - 1)), round((1 - up) * (self._down - 1))

    def row(self, value: float) -> int:
        return self.dot((self._first, value))[1] // self._signs.down

    def column(self, x: float) -> int:
        return self.dot((x, self._low))[0] // self._signs.across


def _line(one: tuple[int, int], other: tuple[int, int]) -> Iterator[tuple[int, int]]:
    """Dots from one to the other, both included."""
    (x, y), (to_x, to_y) = one, other
    steps = max(abs(to_x - x), abs(to_y - y), 1)
    for step in range(steps + 1):
        yield round(x + (to_x - x) * step / steps), round(y + (to_y - y) * step / steps)


def _bottom(
    points: Sequence[Point], place: _Place, margin: int, signs: Signs, label: Callable[[int], str]
) -> list[str]:
    """The axis, and below it as many numbers as have room, first and last among them."""
    axis = [signs.bottom] * place.columns
    names = [" "] * (margin + 1 + place.columns)
    numbers = _numbers([int(x) for x, _ in points], most=place.columns // _ROOM)
    end = len(names) - len(label(numbers[-1]))  # where the last one begins, for which there is always room
    free = 0
    for number in numbers:
        name, column = label(number), place.column(number)
        begin = min(max(margin + 1 + column - len(name) // 2, 0), len(names) - len(name))
        if begin < free or (number != numbers[-1] and begin + len(name) >= end):
            continue
        names[begin : begin + len(name)] = name
        axis[column] = signs.below
        free = begin + len(name) + 1
    return [f"{'':>{margin}}{signs.corner}{''.join(axis)}", "".join(names).rstrip()]


def _numbers(numbers: list[int], *, most: int) -> list[int]:
    """Those to be written below: all, or when they are too many the round ones, and the first and the last."""
    if len(numbers) <= most:
        return numbers
    rough = (numbers[-1] - numbers[0]) / max(1, most)
    unit = 10 ** max(0, math.floor(math.log10(rough))) if rough > 0 else 1
    step = next(whole for whole in (unit, 2 * unit, 5 * unit, 10 * unit) if whole >= rough)
    return [number for number in numbers if number in {numbers[0], numbers[-1]} or number % step == 0]

"""Charts of characters: pure functions, so that any numbers may be drawn."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from artifactfs.cli.chart import ASCII, BRAILLE, draw, value_labels, value_ticks

finite = st.floats(allow_nan=False, allow_infinity=False)
points = st.dictionaries(st.integers(0, 10**6), finite | st.integers(-(2**63), 2**64), min_size=1, max_size=40).map(
    lambda values: sorted(values.items())
)


def test_a_chart_looks_like_this():
    drawn = draw([(0, 0.5), (1, 1.0), (3, 0.75)], width=30, height=5, signs=ASCII, label=lambda number: f"v{number}")
    assert drawn == [
        "1.00 +       .*...",
        "     |      .     ........",
        "0.75 +   ...              ...*",
        "     |  .",
        "0.50 +*.",
        "     ++-------+--------------+",
        "     v0      v1             v3",
    ]


@given(points, st.integers(20, 200), st.integers(4, 40), st.sampled_from([ASCII, BRAILLE]))
def test_any_numbers_are_drawn_within_the_width(points, width, height, signs):
    drawn = draw(points, width=width, height=height, signs=signs, label=lambda number: f"v{number}")
    assert len(drawn) == height + 2
    # The side takes what its labels need; the area keeps ten columns at least.
    side = drawn[-2].index(signs.corner)
    assert all(len(line) <= max(width, side + 11) for line in drawn)
    names = drawn[-1].split()
    assert names[-1] == f"v{points[-1][0]}"
    assert set(names) <= {f"v{number}" for number, _ in points}
    assert any(line[side + 1 :].strip() for line in drawn[:height])


@given(points)
def test_few_points_are_marked_each(points):
    drawn = draw(points, width=200, height=20)
    marks = sum(line.count(BRAILLE.point) for line in drawn)
    assert 1 <= marks <= len(points)
    if len(points) == 1:
        assert marks == 1


drawable = st.floats(-1e300, 1e300)


@given(drawable, drawable, st.integers(2, 10))
def test_ticks_are_even_and_enclose_the_values(one, other, most):
    low, high = sorted((one, other))
    ticks = value_ticks(low, high, most=most)
    room = (ticks[-1] - ticks[0]) * 1e-6
    assert ticks[0] <= low + room
    assert ticks[-1] >= high - room
    assert 2 <= len(ticks) <= most + 3
    assert ticks == sorted(set(ticks))


@pytest.mark.parametrize(
    ("low", "high", "labels"),
    [
        (0.61, 0.95, ["0.6", "0.7", "0.8", "0.9", "1.0"]),
        (0, 59**5, ["0", "200000000", "400000000", "600000000", "800000000"]),
        (-1e12, 1e12, ["-1e+12", "-5e+11", "0", "5e+11", "1e+12"]),
        (3, 3, ["1", "2", "3", "4", "5"]),
        (0, 0, ["-1.0", "-0.5", "0.0", "0.5", "1.0"]),
        (1e-7, 4e-7, ["1e-07", "2e-07", "3e-07", "4e-07"]),
        (1.0, math.nextafter(1, 2), ["1.0", "1.0000000000000002"]),
    ],
)
def test_labels_are_as_short_as_tells_them_apart(low, high, labels):
    assert value_labels(value_ticks(low, high, most=4)) == labels


def test_of_many_versions_the_round_ones_are_named():
    drawn = draw([(number, number) for number in range(3, 1000)], width=80, height=10)
    assert drawn[-1].split() == ["3", "200", "400", "600", "800", "999"]
    assert "●" not in "".join(drawn)

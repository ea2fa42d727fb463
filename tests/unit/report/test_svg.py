from __future__ import annotations

import math
import xml.etree.ElementTree as ET

import pytest

from autoround.report.svg import (
    HEIGHT,
    WIDTH,
    Axes,
    Series,
    Spot,
    bars_svg,
    losses_svg,
    points_svg,
    ticks,
)


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize(
    ("low", "high"), [(1, 2), (0.001, 0.0011), (1, 1), (3e-9, 7e8), (12.9, 13.1), (5, 500)]
)
def test_ticks_are_few_and_inside(low: float, high: float, log: bool) -> None:
    marks = ticks(low, high, log=log)
    assert 1 <= len(marks) <= 10
    room = 1e-6 * (low if log else high)
    assert all(low - room <= mark <= high * (1 + 1e-6) for mark in marks)
    assert marks == sorted(set(marks))


def test_ticks_of_many_powers_are_powers() -> None:
    assert ticks(0.5, 2000, log=True) == [1, 10, 100, 1000]


def places(svg: str) -> list[tuple[float, float]]:
    """Return where the marks of a drawing are, after checking that all are on it."""
    root = ET.fromstring(svg)
    spots = [(float(c.attrib["cx"]), float(c.attrib["cy"])) for c in root.iter("circle")]
    for rect in root.iter("rect"):
        spots.append((float(rect.attrib["x"]), float(rect.attrib["y"])))
    assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in spots)
    return spots


def test_losses_of_blocks_lie_higher_where_they_are_larger() -> None:
    before = Series("before", (1e-3, 1e-1, None, 0.0))
    after = Series("after", (1e-4, 1e-2, 3.0, None))
    svg = losses_svg(before, after, title="t & u", description="<d>")
    # Two circles and three squares, and one of each in the legend.
    root = ET.fromstring(svg)
    circles = [float(c.attrib["cy"]) for c in root.iter("circle")]
    assert len(circles) == 3
    assert circles[1] < circles[0]
    assert len(places(svg)) == 3 + 4
    assert root.find("svg/title").text == "t & u"  # type: ignore[union-attr]
    assert root.find("svg/desc").text == "<d>"  # type: ignore[union-attr]


@pytest.mark.parametrize("values", [(1.0,), (2.0, 2.0), (1e-300, 1e300)])
def test_losses_of_one_block_and_of_odd_ranges(values: tuple[float, ...]) -> None:
    svg = losses_svg(Series("b", values), Series("a", values), title="t", description="d")
    assert all(math.isfinite(x) and math.isfinite(y) for x, y in places(svg))


def test_bars_are_as_long_as_their_numbers() -> None:
    bars = [Spot("one", 1.0, 0), Spot("two", 2.0, 0), Spot("none", 0.0, 0)]
    root = ET.fromstring(bars_svg(bars, labels=["1", "2", "0"], title="t", description="d"))
    widths = [float(rect.attrib["width"]) for rect in root.iter("rect")]
    assert widths[1] == pytest.approx(2 * widths[0], abs=0.1)
    assert widths[2] == 1.0


def test_points_are_placed_by_their_numbers_and_named() -> None:
    spots = [Spot("a <b>", 100.0, 0.1), Spot("c", 200.0, 0.01)]
    axes = Axes("size", "loss", log=True)
    svg = points_svg(spots, line=spots, axes=axes, title="t", description="d")
    (left, high), (right, low) = places(svg)
    assert left < right
    assert high < low
    assert {"a <b>", "c", "size", "loss"} <= {t.text for t in ET.fromstring(svg).iter("text")}


def test_one_point_is_drawn_in_the_middle() -> None:
    svg = points_svg(
        [Spot("a", 5.0, 1.0)], axes=Axes("x", "y", log=False), title="t", description="d"
    )
    assert len(places(svg)) == 1

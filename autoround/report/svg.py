"""Drawings of a page: a line of points by block, bars, and points in two axes.

Plain functions of numbers. Colours come from the page's style by classes; series differ by the
shape of their marks too. Every drawing has a title and a description for those who do not see it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from autoround.report.markup import Html, el

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 720, 300, 76, 20, 16, 46
#: Half the side of a filled mark, and the radius of a hollow one, which shows around it: pixels.
MARK, HOLLOW = 3.0, 5.0


class Series(NamedTuple):
    """Values of one kind: their name, and numbers at places; a place may lack one."""

    name: str
    values: tuple[float | None, ...]


class Spot(NamedTuple):
    """A point with its name."""

    name: str
    x: float
    y: float


class _Axis(NamedTuple):
    """What an axis spans, and between which pixels."""

    low: float
    high: float
    start: float
    end: float
    log: bool

    def place(self, value: float) -> float:
        low, high, value = (
            (math.log10(v) for v in (self.low, self.high, value))
            if self.log
            else (self.low, self.high, value)
        )
        share = (value - low) / (high - low) if high > low else 0.5
        return self.start + share * (self.end - self.start)


def ticks(low: float, high: float, *, log: bool = False) -> list[float]:
    """Return round numbers in a range: at most ten.

    Args:
        low, high: the ends; positive for a logarithmic axis.
        log: whether the axis is logarithmic: powers of ten where it spans several.
    """
    if log and math.log10(high) - math.log10(low) >= 1.5:
        powers = range(math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9) + 1)
        step = max(1, math.ceil(len(powers) / 8))
        return [10.0**power for power in powers[::step]]
    if high <= low:
        return [low]
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    width = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= rough * (1 - 1e-9))
    first = math.ceil(low / width - 1e-9)
    return [width * i for i in range(first, math.floor(high / width + 1e-9) + 1)]


def drawing(title: str, description: str, parts: Sequence[Html], *, height: int = HEIGHT) -> Html:
    """Return a drawing that a screen reader can read.

    Args:
        title: in a few words.
        description: what is to be seen, with the numbers that matter.
        parts: what is drawn.
        height: in pixels; the width is that of all drawings.
    """
    attrs = {
        "viewBox": f"0 0 {WIDTH} {height}",
        "width": str(WIDTH),
        "height": str(height),
        "role": "img",
        "aria-label": f"{title}. {description}",
    }
    svg = el("svg", el("title", title), el("desc", description), *parts, attrs=attrs)
    box = {"class": "scroll", "tabindex": "0", "role": "group", "aria-label": title}
    return el("div", svg, attrs=box)


def losses_svg(before: Series, after: Series, *, title: str, description: str) -> Html:
    """Draw two series by block on a logarithmic axis; values that are not positive are left out.

    Args:
        before, after: of as many values each, by block.
        title, description: for those who do not see it.
    """
    count = max(len(before.values), len(after.values))
    shown = [v for s in (before, after) for v in s.values if v is not None and v > 0]
    low, high = _pad(min(shown), max(shown))
    x = _Axis(0.0, max(1.0, count - 1.0), LEFT, WIDTH - RIGHT, log=False)
    y = _Axis(low, high, HEIGHT - BOTTOM, TOP + 20, log=True)
    parts = _grid(x, y, names=("block", "loss"), whole=True)
    for series, name in ((before, "before"), (after, "after")):
        spots = [
            (x.place(i), y.place(v)) for i, v in enumerate(series.values) if v is not None and v > 0
        ]
        corners = " ".join(f"{px:.1f},{py:.1f}" for px, py in spots)
        parts.append(el("polyline", attrs={"class": f"line {name}", "points": corners}))
        parts += [_mark(px, py, name) for px, py in spots]
    parts += _legend([("before", before.name), ("after", after.name)])
    return drawing(title, description, parts)


def bars_svg(bars: Sequence[Spot], *, labels: Sequence[str], title: str, description: str) -> Html:
    """Draw horizontal bars with a label each.

    Args:
        bars: their names, and lengths as ``x``; not negative.
        labels: what is written behind each.
        title, description: for those who do not see it.
    """
    most = max((bar.x for bar in bars), default=0.0) or 1.0
    parts = []
    for i, (bar, label) in enumerate(zip(bars, labels, strict=True)):
        top = 8 + 30 * i
        width = max(1.0, bar.x / most * (WIDTH - 330))
        parts += [
            _text(bar.name, 150, top + 15, anchor="end"),
            el(
                "rect",
                attrs={
                    "class": "bar",
                    "x": "160",
                    "y": str(top),
                    "width": f"{width:.1f}",
                    "height": "20",
                },
            ),
            _text(label, 168 + width, top + 15),
        ]
    return drawing(title, description, parts, height=16 + 30 * len(bars))


class Axes(NamedTuple):
    """What two axes are called, and whether the upright one is logarithmic."""

    x: str
    y: str
    log: bool


def points_svg(
    spots: Sequence[Spot],
    *,
    line: Sequence[Spot] = (),
    axes: Axes,
    title: str,
    description: str,
) -> Html:
    """Draw points with their names, and a line.

    Args:
        spots: the points.
        line: corners of the line, in its order.
        axes: their names.
        title, description: for those who do not see it.
    """
    marks = [*spots, *line]
    low_x, high_x = _widen(min(s.x for s in marks), max(s.x for s in marks))
    values = (min(s.y for s in marks), max(s.y for s in marks))
    low, high = _pad(*values) if axes.log else _widen(*values)
    x = _Axis(low_x, high_x, LEFT, WIDTH - RIGHT, log=False)
    y = _Axis(low, high, HEIGHT - BOTTOM, TOP, log=axes.log)
    parts = _grid(x, y, names=(axes.x, axes.y), whole=False)
    if line:
        corners = " ".join(f"{x.place(s.x):.1f},{y.place(s.y):.1f}" for s in line)
        parts.append(el("polyline", attrs={"class": "line after", "points": corners}))
    for spot in spots:
        px, py = x.place(spot.x), y.place(spot.y)
        right = px > WIDTH - 180
        parts.append(_mark(px, py, "after"))
        parts.append(_text(spot.name, px - 8 if right else px + 8, py - 7, anchor="end" * right))
    return drawing(title, description, parts)


def _pad(low: float, high: float) -> tuple[float, float]:
    """Widen a range of positive numbers by a tenth of its powers of ten, to a third at least."""
    room = max(0.1 * (math.log10(high) - math.log10(low)), 0.15)
    # Within what numbers can be, whatever a file says.
    return max(low / 10**room, 1e-300), min(high * 10**room, 1e300)


def _widen(low: float, high: float) -> tuple[float, float]:
    room = 0.08 * (high - low) or 0.08 * abs(high) or 1.0
    return low - room, high + room


def _grid(x: _Axis, y: _Axis, *, names: tuple[str, str], whole: bool) -> list[Html]:
    """Draw lines and numbers of both axes; ``whole`` numbers alone along the first."""
    parts = []
    for value in ticks(y.low, y.high, log=y.log):
        at = y.place(value)
        parts.append(el("path", attrs={"class": "grid", "d": f"M{LEFT},{at:.1f}H{WIDTH - RIGHT}"}))
        parts.append(_text(_short(value), LEFT - 8, at + 4, anchor="end"))
    marks = [t for t in ticks(x.low, x.high) if not whole or t == int(t)]
    for value in marks:
        at = x.place(value)
        parts.append(el("path", attrs={"class": "grid", "d": f"M{at:.1f},{TOP}V{HEIGHT - BOTTOM}"}))
        parts.append(_text(_short(value), at, HEIGHT - BOTTOM + 18, anchor="middle"))
    middle = (LEFT + WIDTH - RIGHT) / 2
    turn = {"transform": f"translate(16,{(TOP + HEIGHT - BOTTOM) / 2:.0f}) rotate(-90)"}
    parts.append(_text(names[0], middle, HEIGHT - 8, anchor="middle"))
    parts.append(el("text", names[1], attrs={"text-anchor": "middle", **turn}))
    return parts


def _legend(series: Sequence[tuple[str, str]]) -> list[Html]:
    parts = []
    for i, (kind, name) in enumerate(series):
        left = LEFT + 12 + 250 * i
        parts += [_mark(left, TOP + 4, kind), _text(name, left + 10, TOP + 8)]
    return parts


def _mark(x: float, y: float, kind: str) -> Html:
    """Draw a mark: a hollow circle before, a filled square after."""
    if kind == "before":
        attrs = {"class": kind, "cx": f"{x:.1f}", "cy": f"{y:.1f}", "r": f"{HOLLOW}"}
        return el("circle", attrs=attrs)
    return el(
        "rect",
        attrs={
            "class": f"mark {kind}",
            "x": f"{x - MARK:.1f}",
            "y": f"{y - MARK:.1f}",
            "width": f"{2 * MARK}",
            "height": f"{2 * MARK}",
        },
    )


def _text(text: str, x: float, y: float, *, anchor: str = "") -> Html:
    attrs = {"x": f"{x:.1f}", "y": f"{y:.1f}"}
    return el("text", text, attrs={**attrs, **({"text-anchor": anchor} if anchor else {})})


def _short(value: float) -> str:
    return "0" if abs(value) < 1e-12 else f"{value:.4g}"

"""Size against loss as an SVG file, written without a drawing library."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from autoround.report.markup import escape

WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 720, 420, 80, 56, 24, 24
#: Colours of what was chosen, what else there is, and what was measured.
CHOSEN, OTHER, MEASURED = "#1f77b4", "#888888", "#d62728"


class Point(NamedTuple):
    """One model: its name, bits per weight, and KL divergence from the original."""

    name: str
    bits: float
    loss: float


class _Frame(NamedTuple):
    """What the axes span: bits linearly, losses by powers of ten."""

    low: float
    high: float
    floor: int
    top: int

    def place(self, bits: float, loss: float) -> tuple[float, float]:
        """Return where a point is drawn, in pixels from the upper left corner."""
        # Models of one size alone span no range of bits.
        across = (bits - self.low) / max(self.high - self.low, 1e-9)
        up = (math.log10(loss) - self.floor) / (self.top - self.floor)
        return (
            LEFT + across * (WIDTH - LEFT - RIGHT),
            HEIGHT - BOTTOM - up * (HEIGHT - BOTTOM - TOP),
        )


def curve_svg(
    line: Iterable[Point],
    *,
    chosen: Sequence[Point] = (),
    others: Sequence[Point] = (),
    measured: Sequence[Point] = (),
    title: str = "Size against loss",
) -> str:
    """Draw models by size and loss: a line of points, and single ones with their names.

    Points without loss are left out: the axis is logarithmic.

    Args:
        line: the points of the line, from the smallest model to the largest.
        chosen: what an allocation came to.
        others: what it may be compared with.
        measured: models whose loss was measured rather than predicted.
        title: what the drawing is called, for those who do not see it.

    Returns:
        The text of an SVG file.
    """
    path = [point for point in line if point.loss > 0]
    groups = [
        (colour, [point for point in group if point.loss > 0])
        for colour, group in ((OTHER, others), (CHOSEN, chosen), (MEASURED, measured))
    ]
    points = [*path, *(point for _, group in groups for point in group)]
    names = [f"{p.name}: {p.bits:.2f} bits, {p.loss:.3g}" for _, group in groups for p in group]
    about = (title, "; ".join(names))
    if not points:
        return _document([], about)
    # Whole powers of ten, at least one of them, so that the axis has two marks or more.
    floor = math.floor(math.log10(min(p.loss for p in points)))
    top = max(floor + 1, math.ceil(math.log10(max(p.loss for p in points))))
    frame = _Frame(min(p.bits for p in points), max(p.bits for p in points), floor, top)
    corners = " ".join("{:.1f},{:.1f}".format(*frame.place(p.bits, p.loss)) for p in path)
    drawn = [f'<polyline points="{corners}" fill="none" stroke="{CHOSEN}" stroke-width="2"/>']
    drawn += [part for colour, group in groups for p in group for part in _mark(frame, p, colour)]
    return _document([*_axes(frame), *drawn], about)


def _axes(frame: _Frame) -> list[str]:
    parts = []
    for power in range(frame.floor, frame.top + 1):
        _, y = frame.place(frame.low, 10.0**power)
        parts.append(f'<path d="M{LEFT},{y:.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">1e{power}</text>')
    for bits in range(math.ceil(frame.low), math.floor(frame.high) + 1):
        x, _ = frame.place(bits, 10.0**frame.floor)
        parts.append(f'<path d="M{x:.1f},{TOP}V{HEIGHT - BOTTOM}" stroke="#ddd"/>')
        below = HEIGHT - BOTTOM + 18
        parts.append(f'<text x="{x:.1f}" y="{below}" text-anchor="middle">{bits}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    return [
        *parts,
        f'<text x="{middle}" y="{HEIGHT - 14}" text-anchor="middle">bits per weight, scales and '
        "zero points counted</text>",
        f'<text transform="translate(18,{HEIGHT / 2}) rotate(-90)" text-anchor="middle">'
        "KL from the original, nats per token (line: predicted)</text>",
    ]


def _mark(frame: _Frame, point: Point, colour: str) -> list[str]:
    x, y = frame.place(point.bits, point.loss)
    # Names of points near the right edge go to their left, where there is room.
    right = x > WIDTH - 200
    side, shift = ('text-anchor="end" ', -8) if right else ("", 8)
    return [
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"/>',
        f'<text {side}x="{x + shift:.1f}" y="{y - 6:.1f}">{escape(point.name)}</text>',
    ]


def _document(parts: Sequence[str], about: tuple[str, str]) -> str:
    """Return a drawing with its title and description."""
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" '
            f'viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12" role="img">',
            f"<title>{escape(about[0])}</title><desc>{escape(about[1])}</desc>",
            f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
            *parts,
            "</svg>\n",
        ]
    )

"""Bounds that a quantized model is held to: ``ppl<=1.05x,kl<=0.1``, read and written."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

#: What bounds may be about -> the only comparison that makes sense of it.
FIGURES = {"ppl": "<=", "kl": "<=", "top1": ">="}
#: No gate.
NONE = "none"
#: The words for what is legal.
LEGAL = (
    "none, or bounds separated by commas: ppl<=NUMBER, ppl<=NUMBERx (times the original's), "
    "kl<=NUMBER (nats per token), top1>=FRACTION; such as ppl<=1.05x,kl<=0.1"
)

_BOUND = re.compile(r"\s*([A-Za-z0-9_]+)\s*(<=|>=|==|=|<|>)\s*([^\s]*?)(x?)\s*")
_NUMBER = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,9})?|\.[0-9]{1,9}")


@dataclass(frozen=True, slots=True)
class Bound:
    """One bound on a figure.

    figure: ppl, kl or top1. limit: its largest legal value, of top1 the least. relative: whether
    the limit is a multiple of the original's figure.
    """

    figure: str
    limit: float
    relative: bool = False

    def __str__(self) -> str:
        return f"{self.figure}{FIGURES[self.figure]}{self.limit:g}{'x' * self.relative}"

    @property
    def needs_original(self) -> bool:
        """Whether the bound compares with the unquantized model."""
        return self.relative or self.figure != "ppl"


def parse_gate(text: str) -> tuple[Bound, ...]:
    """Read the bounds of a gate.

    Args:
        text: bounds with commas between them; ``none`` for none.

    Raises:
        ValueError: one of them is no bound, or two are about one figure.
    """
    if text == NONE:
        return ()
    bounds: list[Bound] = []
    for part in text.split(","):
        bound = _parse_bound(part)
        if any((x.figure, x.relative) == (bound.figure, bound.relative) for x in bounds):
            raise ValueError(f"{bound.figure} is bounded twice")
        bounds.append(bound)
    return tuple(bounds)


def _parse_bound(text: str) -> Bound:
    match = _BOUND.fullmatch(text)
    if match is None:
        raise ValueError(f"{text.strip()!r} is no bound")
    figure, comparison, number, times = match.groups()
    if figure not in FIGURES:
        raise ValueError(f"{figure!r} is none of {', '.join(FIGURES)}")
    if comparison != FIGURES[figure]:
        raise ValueError(f"{figure} is bounded by {FIGURES[figure]}, not {comparison}")
    if _NUMBER.fullmatch(number) is None:
        raise ValueError(f"{number + times!r} is no number of {figure}")
    if times and figure != "ppl":
        raise ValueError(f"x, times the original's, is for ppl: {figure} compares by itself")
    limit = float(number)
    if figure == "top1" and limit > 1:
        raise ValueError(f"top1 is a fraction from 0 to 1, not {number}")
    if not limit > 0 or not math.isfinite(limit):
        raise ValueError(f"a bound of {number} on {figure} is above 0")
    return Bound(figure, limit, bool(times))


def check_gate(text: str) -> str:
    """Pass on what is a gate; ValueError otherwise."""
    parse_gate(text)
    return text

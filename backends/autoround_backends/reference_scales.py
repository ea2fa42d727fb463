"""The NumPy oracle's search for scales: the candidates of the core once more, in float64.

Groups and their importance are [n, width], what is found for them [n, 1]. Which fractions of the
min-max scale are tried is written down here again.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from autoround_backends.reference import LARGEST_SCALE, SMALLEST_SCALE, Array

#: Least scale of a super-block.
SMALLEST_SUPER_SCALE = 2.0**-24


class Levels(NamedTuple):
    """Levels of a group. lowest: the least zero point that an asymmetric one may have."""

    bits: int
    sym: bool
    lowest: int = 0

    @property
    def top(self) -> int:
        """The highest code."""
        return int(2**self.bits - 1)


class Scales(NamedTuple):
    """What a search finds: a code c stands for scale * (c - zero) - minimum, each [n, 1]."""

    scale: Array
    zero: Array
    minimum: Array
    error: Array


def weighted_error(groups: Array, importance: Array, scales: Scales, *, top: int) -> Array:
    """Sum ``importance * (dequantized - weight)**2`` over each group, rounding to nearest."""
    codes = np.clip(np.rint((groups + scales.minimum) / scales.scale) + scales.zero, 0, top)
    difference = scales.scale * (codes - scales.zero) - scales.minimum - groups
    return np.asarray((importance * difference**2).sum(-1, keepdims=True))


def half(scale: Array, smallest: float = SMALLEST_SCALE) -> Array:
    """Round to float16 by magnitude; a scale is never zero."""
    size = np.clip(np.abs(scale), smallest, LARGEST_SCALE).astype(np.float16).astype(np.float64)
    return np.where(scale < 0, -size, size)


def fractions(bits: int) -> Array:
    """Return the fractions of the min-max scale to try: 43, 39, 33 or 11 steps, and 1."""
    ends = {2: (0.3, 1.2, 43), 3: (0.4, 1.2, 39), 4: (0.5, 1.2, 33)}.get(bits, (0.75, 1.05, 11))
    return np.append(np.linspace(*ends), 1.0)


def search(groups: Any, importance: Any, levels: Levels) -> Scales:
    """Find a float16 scale and a zero point for every group."""
    w, h = np.asarray(groups, dtype=np.float64), np.asarray(importance, dtype=np.float64)
    lo, hi = np.minimum(w.min(-1, keepdims=True), 0), np.maximum(w.max(-1, keepdims=True), 0)
    middle, top, nothing = (levels.top + 1) // 2, levels.top, np.zeros_like(lo)
    if levels.sym:
        whole = half(np.where(-lo > hi, -lo, -hi) / middle)
        zero = np.full_like(lo, middle)
    else:
        wide = np.minimum(lo, -hi * levels.lowest / (top - levels.lowest))
        whole = half((hi - wide) / top)
        zero = np.clip(np.rint(-wide / whole), levels.lowest, top)
    best = _Best(w, h, top)
    best.offer(whole, zero, nothing)
    for fraction in fractions(levels.bits):
        scale = half(whole * fraction)
        if levels.sym:
            tries = [(scale, zero), (-scale, zero)]
        elif levels.bits == 2:
            tries = [(scale, np.full_like(lo, code)) for code in range(levels.lowest, top + 1)]
        else:
            centre = np.rint(-lo * fraction / scale)
            points = [np.clip(centre + by, levels.lowest, top) for by in range(-2, 3)]
            tries = [(scale, point) for point in points]
        for scale, point in tries:
            best.offer(scale, point, nothing)
    for _ in range(3):
        scale, zero, _, _ = best.so_far
        value = np.clip(np.rint(w / scale) + zero, 0, top) - zero
        power = (h * value * value).sum(-1, keepdims=True)
        fitted = half((h * value * w).sum(-1, keepdims=True) / np.maximum(power, 1e-30))
        best.offer(np.where(power > 0, fitted, scale), zero, nothing)
    return best.so_far


class _Best:
    """The best candidate so far of every group; a later one has to have less error."""

    def __init__(self, groups: Array, importance: Array, top: int) -> None:
        self._groups, self._importance, self._top = groups, importance, top
        nothing = np.zeros((len(groups), 1))
        self.so_far = Scales(nothing + 1.0, nothing, nothing, nothing + np.inf)

    def offer(self, scale: Array, zero: Array, minimum: Array) -> Array:
        """Try a candidate; returns where it is better."""
        tried = Scales(scale, zero, minimum, np.zeros_like(scale))
        error = weighted_error(self._groups, self._importance, tried, top=self._top)
        better = error < self.so_far.error
        parts = zip((scale, zero, minimum, error), self.so_far, strict=True)
        self.so_far = Scales(*(np.where(better, new, old) for new, old in parts))
        return np.asarray(better)


def search_minima(groups: Any, importance: Any, bits: int) -> Scales:
    """Find a scale and a minimum of at least zero for every group."""
    w, h = np.asarray(groups, dtype=np.float64), np.asarray(importance, dtype=np.float64)
    lo, hi = np.minimum(w.min(-1, keepdims=True), 0), np.maximum(w.max(-1, keepdims=True), 0)
    top, nothing = 2**bits - 1, np.zeros_like(lo)
    whole = np.maximum((hi - lo) / top, 1e-30)
    best = _Best(w, h, top)
    best.offer(whole, nothing, -lo)
    rungs = fractions(bits)[:: 2 if bits > 2 else 1] if bits <= 4 else 0.7 + 0.025 * np.arange(15)
    for fraction in rungs:
        scale = whole * fraction
        for minimum in (np.maximum(scale * top / 2 - (hi + lo) / 2, 0), -lo * fraction):
            best.offer(*_solve(w, h, scale, minimum, top))
    for _ in range(4):
        best.offer(*_solve(w, h, best.so_far.scale, best.so_far.minimum, top))
    return best.so_far


def _solve(
    w: Array, h: Array, scale: Array, minimum: Array, top: int
) -> tuple[Array, Array, Array]:
    """Solve least squares for the codes of a candidate; itself where there is no solution."""
    code = np.clip(np.rint((w + minimum) / scale), 0, top)
    terms = (h, h * code, h * code**2, h * w, h * code * w)
    whole, by_code, by_square, by_weight, product = (t.sum(-1, keepdims=True) for t in terms)
    spread = whole * by_square - by_code**2
    slope = (whole * product - by_code * by_weight) / np.maximum(spread, 1e-30)
    offset = (slope * by_code - by_weight) / np.maximum(whole, 1e-30)
    fitted = np.where(offset > 0, slope, product / np.maximum(by_square, 1e-30))
    usable = (spread > 0) & (fitted > 0)
    return (
        np.where(usable, fitted, scale),
        np.zeros_like(scale),
        np.where(usable, np.maximum(offset, 0), minimum),
    )


def search_super_blocks(
    groups: Any, importance: Any, levels: Levels, *, nested: tuple[int, int, int]
) -> Scales:
    """Find scales, and minima where those are unsigned, as super-blocks hold them.

    nested: groups of a super-block, and the lowest and the highest integer of a scale.
    """
    w, h = np.asarray(groups, dtype=np.float64), np.asarray(importance, dtype=np.float64)
    each, low, high = nested
    signed = low < 0
    first = search(w, h, levels) if signed else search_minima(w, h, levels.bits)
    scale = first.scale.reshape(-1, each)
    size, other = scale.max(-1, keepdims=True), scale.min(-1, keepdims=True)
    size = np.where(size >= -other, size, other) / low if signed else size / high
    step = half(size, SMALLEST_SUPER_SCALE)
    sub = np.rint(scale / step)
    sub = np.clip(np.where(sub == 0, 1, sub), low, high) if signed else np.clip(sub, 1, high)
    minima = first.minimum.reshape(-1, each)
    unit = half(minima.max(-1, keepdims=True) / high, SMALLEST_SUPER_SCALE)
    mine = np.zeros_like(sub) if signed else np.clip(np.rint(minima / unit), 0, high)
    fixed = sub == low if signed else (sub == high) | (mine == high)
    step, unit, sub, mine, fixed = (
        np.broadcast_to(part, sub.shape).reshape(-1, 1) for part in (step, unit, sub, mine, fixed)
    )
    best = _Best(w, h, levels.top)
    best.offer(step * sub, first.zero, unit * mine)
    for by in range(-2, 3):
        for more in (0,) if signed else range(-2, 3):
            trial = np.clip(sub + by, low if signed else 1, high)
            trial = np.where((trial == 0) | fixed, sub, trial)
            moved = mine if signed else np.where(fixed, mine, np.clip(mine + more, 0, high))
            best.offer(step * trial, first.zero, unit * moved)
    return best.so_far

"""Importance-weighted search for nested grids (super-block scales).

Symmetric kinds take the scales of :func:`autoround.core.search.search_grid` with their
signs. For asymmetric ones the minimum is a free number, so scale s and minimum m are
fitted together: for every rung of a ladder of scales the codes are fixed, and the least
squares of ``sum_i h_i * (s * c_i - m - w_i)**2`` in both unknowns is solved,

    s = (H * Hcw - Hc * Hw) / (H * Hcc - Hc**2)       m = (s * Hc - Hw) / H

with H the sum of h, Hc that of h*c, and so on; m is at least zero, and s alone is fitted
where that binds. What the super-block then rounds scales and minima to is corrected once:
each group tries the neighbours of its two integers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from autoround.core.grids.grid import Grid, min_max_grid, nested_parts
from autoround.core.grids.levels import IntegerLevels, ladder
from autoround.core.grids.scales import Nested
from autoround.core.search import CHUNK_ELEMENTS, rows_of, search_grid

#: Rounds of fitting scale and minimum to the codes of the best trial.
REFINEMENTS = 4
#: Keeps divisions of nothing by nothing finite.
TINY = 1e-30


def rungs(bits: int) -> list[float]:
    """Return the fractions of the min-max scale that a group with a minimum tries.

    Args:
        bits: of a code.
    """
    # Every trial fits two unknowns, so half of the rungs come as close.
    if bits <= 4:
        return ladder(bits)[:: 2 if bits > 2 else 1]
    return [0.7 + 0.025 * k for k in range(15)]


class _Fit(NamedTuple):
    """Best trial so far, each [n, 1]."""

    error: Tensor
    scale: Tensor
    minimum: Tensor


class _SubScales(NamedTuple):
    """The integers of super-blocks, float32 [rows, groups, 1] each.

    A scale is step * sub, a minimum least * mine; least is None where scales are signed. fixed:
    bool, groups that keep their integers, since a super-block's own scale is told by them.
    """

    step: Tensor
    sub: Tensor
    least: Tensor | None
    mine: Tensor
    fixed: Tensor


class NestedStages(Protocol):
    """The parts of a nested search that are done for each group by itself.

    Everywhere ``groups`` is float32 [rows, groups, width] and ``importance`` broadcasts to it, or
    is [n, groups, width], each for rows / n rows that follow each other.
    """

    def search_grid(self, groups: Tensor, importance: Tensor | None, levels: IntegerLevels) -> Grid:
        """Search signed scales as :func:`autoround.core.search.search_grid`."""

    def fit_minima(self, groups: Tensor, importance: Tensor | None, levels: IntegerLevels) -> Grid:
        """Search scales and minima; returns the range from -m to ``top * s - m``."""

    def correct(self, groups: Tensor, importance: Tensor | None, grid: Grid) -> Grid:
        """Round a grid to its super-blocks; return the best neighbours of their integers."""


class PlainStages(NamedTuple):
    """In plain torch. chunk: elements to search at a time, by which results do not change."""

    chunk: int = CHUNK_ELEMENTS

    def search_grid(self, groups: Tensor, importance: Tensor | None, levels: IntegerLevels) -> Grid:
        """Search signed scales."""
        return search_grid(groups, importance, levels, chunk=self.chunk)

    def fit_minima(self, groups: Tensor, importance: Tensor | None, levels: IntegerLevels) -> Grid:
        """Search scales and minima, a chunk of rows at a time."""
        assert importance is not None
        weights = rows_of(importance, groups, 0, groups.shape[0])
        return _search_with_minimum(groups, weights, levels, self.chunk)

    def correct(self, groups: Tensor, importance: Tensor | None, grid: Grid) -> Grid:
        """Try the neighbours one after the other."""
        assert importance is not None
        weights = rows_of(importance, groups, 0, groups.shape[0])
        return _correct(groups, weights, grid)


@torch.no_grad()
def search_nested(
    groups: Tensor,
    importance: Tensor | None,
    levels: IntegerLevels,
    *,
    scales: Nested,
    stages: NestedStages = PlainStages(),  # noqa: B008 (a tuple of a number)
) -> Grid:
    """Find scales of least weighted squared error, and correct them for their super-blocks.

    Args:
        groups: float32 [rows, groups, width], groups a multiple of a super-block's.
        importance: float32 broadcastable to ``groups``, or [n, groups, width], each for rows / n
            rows that follow each other; None for the squares of the weights plus their mean
            square, which favours large weights as activations mostly do.
        levels: what codes stand for.
        scales: how super-blocks hold the scales.
        stages: what searches the groups.

    Returns:
        The grid whose unmoved parts are the ones found.
    """
    weights = _own_weights(groups) if importance is None else importance
    find = stages.fit_minima if scales.has_minimum else stages.search_grid
    grid = find(groups, weights, levels)._replace(scales=scales)
    return stages.correct(groups, weights, grid)


def _own_weights(groups: Tensor) -> Tensor:
    squares = groups.square()
    return squares + squares.mean(-1, keepdim=True) + TINY


def _search_with_minimum(
    groups: Tensor, weights: Tensor, levels: IntegerLevels, chunk: int
) -> Grid:
    start = min_max_grid(groups, levels)
    rows, count, width = groups.shape
    top = levels.top
    lo, hi = torch.empty_like(start.lo), torch.empty_like(start.hi)
    step = max(1, chunk // (count * width))
    for begin in range(0, rows, step):
        part = slice(begin, begin + step)
        flat = groups[part].reshape(-1, width)
        fit = _fit(
            flat,
            weights[part].reshape(-1, width),
            start.lo[part].reshape(-1, 1),
            start.hi[part].reshape(-1, 1),
            levels=levels,
        )
        lo[part] = -fit.minimum.reshape(lo[part].shape)
        hi[part] = (top * fit.scale - fit.minimum).reshape(hi[part].shape)
    # A group wholly below zero has hi below zero too: its minimum is not the weights' last.
    return Grid(lo, hi, levels)


def _fit(groups: Tensor, weights: Tensor, lo: Tensor, hi: Tensor, *, levels: IntegerLevels) -> _Fit:
    """Search one chunk; groups and weights [n, width], lo and hi [n, 1]."""
    top = levels.top
    whole = ((hi - lo) / top).clamp_min(TINY)
    best = _Fit(_error(groups, weights, whole, -lo, top=top), whole, -lo)
    centre = (hi + lo) / 2
    for fraction in rungs(levels.bits):
        scale = whole * fraction
        # Levels around the middle of the range, or the same share cut off both of its ends.
        for minimum in ((scale * top / 2 - centre).clamp_min(0.0), -lo * fraction):
            best = _keep_fit(best, groups, weights, scale, minimum, top=top)
    for _ in range(REFINEMENTS):
        best = _keep_fit(best, groups, weights, best.scale, best.minimum, top=top)
    return best


def _codes(groups: Tensor, scale: Tensor, minimum: Tensor, *, top: int) -> Tensor:
    return ((groups + minimum) / scale).round_().clamp_(0, top)


def _error(groups: Tensor, weights: Tensor, scale: Tensor, minimum: Tensor, *, top: int) -> Tensor:
    difference = _codes(groups, scale, minimum, top=top).mul_(scale).sub_(minimum).sub_(groups)
    return difference.square_().mul_(weights).sum(-1, keepdim=True)


def _keep_fit(
    best: _Fit, groups: Tensor, weights: Tensor, scale: Tensor, minimum: Tensor, *, top: int
) -> _Fit:
    """Fit scale and minimum to the codes of a trial; keep them where the error falls."""
    codes = _codes(groups, scale, minimum, top=top)
    weighted = weights * codes
    total = weights.sum(-1, keepdim=True)
    by_code = weighted.sum(-1, keepdim=True)
    by_square = (weighted * codes).sum(-1, keepdim=True)
    by_weight = (weights * groups).sum(-1, keepdim=True)
    product = (weighted * groups).sum(-1, keepdim=True)
    spread = total * by_square - by_code.square()
    slope = (total * product - by_code * by_weight) / spread.clamp_min(TINY)
    offset = (slope * by_code - by_weight) / total.clamp_min(TINY)
    alone = product / by_square.clamp_min(TINY)
    # Where the minimum would be negative it is zero, and the scale is fitted without it.
    fitted = torch.where(offset > 0, slope, alone)
    # Without a spread all codes are one code, and any scale would do with some minimum.
    usable = (spread > 0) & (fitted > 0)
    fitted = torch.where(usable, fitted, scale)
    offset = torch.where(usable, offset.clamp_min(0.0), minimum)
    error = _error(groups, weights, fitted, offset, top=top)
    better = error < best.error
    return _Fit(
        torch.where(better, error, best.error),
        torch.where(better, fitted, best.scale),
        torch.where(better, offset, best.minimum),
    )


def _sub_scales(grid: Grid, scales: Nested) -> _SubScales:
    """Round a grid to its super-blocks.

    The group with the largest scale keeps its integer, which fixes the super-block's own.
    """
    one = torch.ones_like(grid.lo)
    parts = nested_parts(grid, one, one)
    assert parts is not None
    shape = grid.lo.shape
    step = parts.scale.expand(parts.sub_scale.shape).reshape(shape)
    sub = parts.sub_scale.reshape(shape)
    # A float16 is known by the group that has the last integer of it: that one stays.
    fixed = _is_last(sub, scales)
    if parts.minimum is None or parts.sub_minimum is None:
        return _SubScales(step, sub, None, torch.zeros_like(sub), fixed)
    minimum = parts.minimum.expand(parts.sub_minimum.shape).reshape(shape)
    mine = parts.sub_minimum.reshape(shape)
    return _SubScales(step, sub, minimum, mine, fixed | _is_last(mine, scales))


def _correct(groups: Tensor, weights: Tensor, grid: Grid) -> Grid:
    """Return the grid whose parts are the best neighbours of what a search rounds to."""
    scales = grid.scales
    assert isinstance(scales, Nested)
    step, sub, least, mine, fixed = _sub_scales(grid, scales)
    low = 1 if scales.has_minimum else scales.low
    best_error = _grid_error(
        groups, weights, grid, step * sub, None if least is None else least * mine
    )
    best_sub, best_mine = sub, mine
    for by, other in _neighbours(least is not None):
        trial = (sub + by).clamp(low, scales.high)
        trial = torch.where((trial == 0) | fixed, sub, trial)
        moved = torch.where(fixed, mine, (mine + other).clamp(0, scales.high))
        minimum = None if least is None else least * moved
        error = _grid_error(groups, weights, grid, step * trial, minimum)
        better = error < best_error
        best_error = torch.where(better, error, best_error)
        best_sub = torch.where(better, trial, best_sub)
        best_mine = torch.where(better, moved, best_mine)
    return _grid_of(step * best_sub, None if least is None else least * best_mine, grid)


def _neighbours(with_minimum: bool) -> Iterator[tuple[int, int]]:
    for by in (-2, -1, 0, 1, 2):
        for other in (-2, -1, 0, 1, 2) if with_minimum else (0,):
            if (by, other) != (0, 0):
                yield by, other


def _is_last(sub: Tensor, scales: Nested) -> Tensor:
    """Mark the groups that have the last integer of their super-block."""
    last = scales.high if scales.has_minimum else scales.low
    return sub == last


def _grid_error(
    groups: Tensor, weights: Tensor, grid: Grid, scale: Tensor, minimum: Tensor | None
) -> Tensor:
    levels = grid.levels
    if minimum is not None:
        return _error(groups, weights, scale, minimum, top=levels.count - 1)
    nearest = levels.clamp_(levels.nearest(groups, scale), levels.zero_point(grid.lo, scale))
    difference = levels.value(nearest).mul_(scale).sub_(groups)
    return difference.square_().mul_(weights).sum(-1, keepdim=True)


def _grid_of(scale: Tensor, minimum: Tensor | None, grid: Grid) -> Grid:
    """Return the grid of given scales: signed ones, or with minima."""
    if minimum is not None:
        return grid._replace(lo=-minimum, hi=(grid.levels.count - 1) * scale - minimum)
    lo, hi = grid.levels.range_of(scale, grid.levels.zero_point(grid.lo, scale))
    return grid._replace(lo=lo, hi=hi)

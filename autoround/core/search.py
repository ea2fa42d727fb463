"""Scale and zero point by weighted error: where tuning starts, and all of opt-rtn.

For each group the search minimises ``sum_i h_i * (s * (c_i - z) - w_i)**2`` over the
float16 scale s and the integer zero point z, with h the importance of each input
channel (mean square of its activations over the calibration tokens). A plain minimum
and maximum minimise the largest error instead, which at 2 and 3 bits is far off.

The scale runs over a fixed ladder of fractions of the min-max scale; an asymmetric
group tries several integer zero points at every rung (all of them at 2 bits), a
symmetric one both signs of the scale, since the full-range grid has one more level on
one side. Then the scale is refined a few times by its closed form for fixed codes,
``s = sum h*w*(c-z) / sum h*(c-z)**2``, kept only where the error falls.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from autoround.core.grid import Grid, grid_from_scale, min_max_grid, round_scale, scale_and_zero
from autoround.core.rounding import clamp_levels

#: Elements searched at a time; the temporaries of a trial stay in the cache.
CHUNK_ELEMENTS = 1 << 17
#: Rounds of closed-form refinement of the scale.
REFINEMENTS = 3


class _Best(NamedTuple):
    """Best trial so far: error, scale and zero, each [n, 1]."""

    error: Tensor
    scale: Tensor
    zero: Tensor


def ladder(bits: int) -> list[float]:
    """Return the fractions of the min-max scale that are tried, 1 among them.

    Few levels need a deep ladder: the best 2-bit scale cuts off far more of a group's
    tails than the best 8-bit one. Rungs above 1 serve narrow groups, where a wider grid
    can land its levels on most of the few weights there are.
    """
    lowest, highest, rungs = {
        2: (0.3, 1.2, 43),
        3: (0.4, 1.2, 39),
        4: (0.5, 1.2, 33),
    }.get(bits, (0.75, 1.05, 11))
    return [lowest + (highest - lowest) * k / (rungs - 1) for k in range(rungs)] + [1.0]


def importance_groups(importance: Tensor, groups: Tensor, *, in_features: int) -> Tensor:
    """Lay the importance of input channels out like the groups of a weight.

    importance: float32 [in_features], at least zero. groups: [rows, groups, width].
    Returns float32 broadcastable to ``groups``; padding gets importance zero. Channels
    that were never active get a thousandth of the mean, so no weight is left free.
    """
    floor = importance.mean() * 1e-3 + torch.finfo(torch.float32).tiny
    safe = importance.float().clamp_min(float(floor))
    rows, count, width = groups.shape
    if rows == 1 and count == 1:
        return safe.repeat(width // in_features).reshape(1, 1, width)
    padded = torch.nn.functional.pad(safe, (0, count * width - in_features))
    return padded.reshape(1, count, width)


@torch.no_grad()
def search_grid(
    groups: Tensor, importance: Tensor | None, *, bits: int, sym: bool, lowest_zero: int = 0
) -> Grid:
    """Find each group's scale and zero point of least weighted squared error.

    groups: float32 [rows, groups, width].
    importance: float32 broadcastable to ``groups``, or None for equal weights.
    Returns a grid whose unclipped scale and zero point are the ones found.
    """
    rows, count, width = groups.shape
    flat = groups.reshape(-1, width)
    weights = torch.ones((), device=groups.device) if importance is None else importance
    weights = weights.expand(rows, count, width)
    start = min_max_grid(groups, bits=bits, sym=sym, lowest_zero=lowest_zero)
    one = torch.ones_like(start.lo)
    first_scale, first_zero = scale_and_zero(start, one, one)
    scale = torch.empty_like(first_scale).reshape(-1, 1)
    zero = torch.empty_like(scale)
    step = max(1, CHUNK_ELEMENTS // width)
    # An importance shared by all rows is expanded, never copied, until a chunk needs it.
    row_step = max(1, step // count)
    for begin in range(0, rows, row_step):
        part = slice(begin * count, min(begin + row_step, rows) * count)
        chunk_weights = weights[begin : begin + row_step].reshape(-1, width)
        chunk = flat[part]
        best = _search_chunk(
            chunk,
            chunk_weights,
            first_scale.reshape(-1, 1)[part],
            first_zero.reshape(-1, 1)[part],
            kind=(bits, sym, lowest_zero),
        )
        scale[part], zero[part] = best.scale, best.zero
    shape = start.lo.shape
    return grid_from_scale(
        scale.reshape(shape),
        None if sym else zero.reshape(shape),
        bits=bits,
        lowest_zero=lowest_zero,
    )


def _search_chunk(
    groups: Tensor, weights: Tensor, scale: Tensor, zero: Tensor, *, kind: tuple[int, bool, int]
) -> _Best:
    """Search one chunk; groups and weights [n, width], scale and zero [n, 1] of min-max."""
    bits, sym, lowest_zero = kind
    best = _Best(_error(groups, weights, scale, zero, bits=bits, sym=sym), scale, zero)
    lo = groups.amin(-1, keepdim=True).clamp(max=0.0)
    for fraction in ladder(bits):
        trial = round_scale(scale * fraction)
        if sym:
            best = _keep_better(best, groups, weights, trial, zero, bits=bits, sym=sym)
            best = _keep_better(best, groups, weights, -trial, zero, bits=bits, sym=sym)
            continue
        for candidate in _zero_candidates(lo, trial, fraction, bits=bits, lowest=lowest_zero):
            best = _keep_better(best, groups, weights, trial, candidate, bits=bits, sym=sym)
    for _ in range(REFINEMENTS):
        scale = _closed_form(groups, weights, best, bits=bits, sym=sym)
        best = _keep_better(best, groups, weights, scale, best.zero, bits=bits, sym=sym)
    return best


def _zero_candidates(
    lo: Tensor, trial: Tensor, fraction: float, *, bits: int, lowest: int
) -> list[Tensor]:
    """Return integer zero points worth trying: all at 2 bits, else a window.

    The window is centred where clipping takes the same share off both ends of the range.
    """
    top = 2**bits - 1
    if bits == 2:
        return [torch.full_like(trial, float(z)) for z in range(lowest, top + 1)]
    centre = torch.round(-lo * fraction / trial)
    return [(centre + offset).clamp(lowest, top) for offset in (-2, -1, 0, 1, 2)]


def _levels(groups: Tensor, scale: Tensor, zero: Tensor, *, bits: int, sym: bool) -> Tensor:
    return clamp_levels(torch.div(groups, scale).round_(), zero, bits=bits, sym=sym)


def _error(
    groups: Tensor, weights: Tensor, scale: Tensor, zero: Tensor, *, bits: int, sym: bool
) -> Tensor:
    difference = _levels(groups, scale, zero, bits=bits, sym=sym).mul_(scale).sub_(groups)
    return difference.square_().mul_(weights).sum(-1, keepdim=True)


def _keep_better(
    best: _Best,
    groups: Tensor,
    weights: Tensor,
    scale: Tensor,
    zero: Tensor,
    *,
    bits: int,
    sym: bool,
) -> _Best:
    error = _error(groups, weights, scale, zero, bits=bits, sym=sym)
    better = error < best.error
    return _Best(
        torch.where(better, error, best.error),
        torch.where(better, scale, best.scale),
        torch.where(better, zero, best.zero),
    )


def _closed_form(groups: Tensor, weights: Tensor, best: _Best, *, bits: int, sym: bool) -> Tensor:
    """Return the least-squares scale for the codes of the best trial, float16-rounded."""
    levels = _levels(groups, best.scale, best.zero, bits=bits, sym=sym)
    weighted = levels * weights
    power = (weighted * levels).sum(-1, keepdim=True)
    product = (weighted * groups).sum(-1, keepdim=True)
    return torch.where(power > 0, round_scale(product / power.clamp_min(1e-30)), best.scale)

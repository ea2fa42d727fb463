"""Importance-weighted (imatrix) search for scale and zero point.

It initialises tuning, and is all that opt-rtn does. For each group it minimises
``sum_i h_i * (s * value(c_i - z) - w_i)**2`` over the scale s (one that the format holds) and the
integer zero point z, with h the importance of each input channel (mean square of its activations
over the calibration tokens). A plain minimum and maximum minimise the largest error instead,
which at 2 and 3 bits is far off.

Which scales and zero points are tried, the levels say (:meth:`LevelSet.trials`): fractions of the
min-max scale, with several zero points each (all of them at 2 bits), or with both signs where
levels are symmetric. Then the scale is refined a few times by its closed form for fixed codes,
``s = sum h*w*v / sum h*v**2`` with v = value(c - z), kept only where the error falls.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from autoround.core.grids.grid import Grid, grid_from_scale, min_max_grid, quant_params
from autoround.core.grids.levels import LevelSet
from autoround.core.grids.scales import HALF, ScaleCodec

#: Elements searched at a time by a processor; the temporaries of a trial stay in the cache.
CHUNK_ELEMENTS = 1 << 17
#: The most on a device that is asked for every operation, and its memory by the element: some five
#: temporaries of float32 are then a hundredth of it.
DEVICE_CHUNK_ELEMENTS, CHUNK_SHARE = 1 << 26, 2000
#: Rounds of closed-form refinement of the scale.
REFINEMENTS = 3
#: Least importance of a channel, as a share of the mean of all.
LEAST_IMPORTANCE = 1e-3


class _Group(NamedTuple):
    """A chunk of groups and their importance, [n, width] each, and what they are rounded to."""

    weight: Tensor
    importance: Tensor
    levels: LevelSet
    scales: ScaleCodec


class _Best(NamedTuple):
    """Best trial so far: error, scale and zero, each [n, 1]."""

    error: Tensor
    scale: Tensor
    zero: Tensor


def device_chunk(memory_bytes: int) -> int:
    """Return how many elements to search at a time on a device with memory of its own.

    Every operation costs the host a launch there, however few elements it is for.

    Args:
        memory_bytes: of the device in all; 0 where nothing is known.
    """
    return min(max(memory_bytes // CHUNK_SHARE, CHUNK_ELEMENTS), DEVICE_CHUNK_ELEMENTS)


def importance_groups(importance: Tensor, groups: Tensor, *, in_features: int) -> Tensor:
    """Lay the importance of input channels out like the groups of a weight.

    Channels that were never active get a thousandth of the mean, so no weight is left free.

    Args:
        importance: float32 [in_features], at least zero; or [experts, in_features].
        groups: float32 [rows, groups, width].
        in_features: length of a row of the weight.

    Returns:
        float32 [1, groups, width], or [experts, groups, width]; padding gets importance zero.
    """
    floor = importance.mean(-1, keepdim=True) * LEAST_IMPORTANCE
    # By a tensor: a number of the host's would be waited for.
    safe = torch.maximum(importance.float(), floor + torch.finfo(torch.float32).tiny)
    rows, count, width = groups.shape
    if rows == 1 and count == 1:
        # One group for a whole tensor: its rows lie one after the other in it.
        return safe.repeat(width // in_features).reshape(1, 1, width)
    padded = torch.nn.functional.pad(safe, (0, count * width - in_features))
    return padded.reshape(-1, count, width)


@torch.no_grad()
def search_grid(
    groups: Tensor,
    importance: Tensor | None,
    levels: LevelSet,
    *,
    scales: ScaleCodec = HALF,
    chunk: int = CHUNK_ELEMENTS,
) -> Grid:
    """Find each group's scale and zero point of least weighted squared error.

    Args:
        groups: float32 [rows, groups, width].
        importance: float32 [n, groups, width], each for rows / n rows that follow each other, or
            anything else that can be broadcast to ``groups``; None for equal weights.
        levels: what codes stand for, and which scales are worth a trial.
        scales: which scales there are.
        chunk: elements to search at a time, by which results do not change.

    Returns:
        The grid whose unmoved scale and zero point are the ones found.
    """
    rows, count, width = groups.shape
    flat = groups.reshape(-1, width)  # [rows * groups, width]
    start = min_max_grid(groups, levels, scales=scales)
    one = torch.ones_like(start.lo)
    first = quant_params(start, one, one)
    scale = torch.empty_like(first.scale).reshape(-1, 1)
    zero = torch.empty_like(scale)
    # An importance shared by all rows is expanded, never copied, until a chunk needs it.
    row_step = max(1, max(1, chunk // width) // count)
    for begin in range(0, rows, row_step):
        end = min(begin + row_step, rows)
        part = slice(begin * count, end * count)
        chunk_weights = rows_of(importance, groups, begin, end).reshape(-1, width)
        best = _search_chunk(
            _Group(flat[part], chunk_weights, levels, scales),
            first.scale.reshape(-1, 1)[part],
            first.zero.reshape(-1, 1)[part],
        )
        scale[part], zero[part] = best.scale, best.zero
    shape = start.lo.shape
    grid = grid_from_scale(scale.reshape(shape), zero.reshape(shape), levels)
    return grid._replace(scales=scales)


def rows_of(importance: Tensor | None, groups: Tensor, begin: int, end: int) -> Tensor:
    """Return the importance of some rows of a weight.

    Args:
        importance: as for :func:`search_grid`.
        groups: float32 [rows, groups, width].
        begin, end: the first row, and the one after the last.

    Returns:
        float32 [end - begin, groups, width], a view where each row has its own or all share one.
    """
    rows, count, width = groups.shape
    if importance is None:
        return torch.ones((), device=groups.device).expand(end - begin, count, width)
    shared = importance.shape[0] if importance.dim() == 3 else 1
    if shared in (1, rows):
        return importance.expand(rows, count, width)[begin:end]
    numbers = torch.arange(begin, end, device=groups.device) // (rows // shared)
    return importance.expand(shared, count, width)[numbers]


def _search_chunk(group: _Group, scale: Tensor, zero: Tensor) -> _Best:
    """Search one chunk from the scale and zero point of its min-max grid, [n, 1] each."""
    best = _Best(_error(group, scale, zero), scale, zero)
    lo = group.weight.amin(-1, keepdim=True).clamp(max=0.0)
    for trial, candidate in group.levels.trials(scale, zero, lo, scales=group.scales):
        best = _keep_better(best, group, trial, candidate)
    for _ in range(REFINEMENTS):
        best = _keep_better(best, group, _closed_form(group, best), best.zero)
    return best


def _values(group: _Group, scale: Tensor, zero: Tensor) -> Tensor:
    """Return what the nearest level of each weight stands for, in units of its scale."""
    levels = group.levels
    return levels.value(levels.clamp_(levels.nearest(group.weight, scale), zero))


def _error(group: _Group, scale: Tensor, zero: Tensor) -> Tensor:
    difference = _values(group, scale, zero).mul_(scale).sub_(group.weight)
    return difference.square_().mul_(group.importance).sum(-1, keepdim=True)


def _keep_better(best: _Best, group: _Group, scale: Tensor, zero: Tensor) -> _Best:
    error = _error(group, scale, zero)
    better = error < best.error
    return _Best(
        torch.where(better, error, best.error),
        torch.where(better, scale, best.scale),
        torch.where(better, zero, best.zero),
    )


def _closed_form(group: _Group, best: _Best) -> Tensor:
    """Return the least-squares scale for the codes of the best trial, rounded by the codec."""
    values = _values(group, best.scale, best.zero)
    weighted = values * group.importance
    power = (weighted * values).sum(-1, keepdim=True)
    product = (weighted * group.weight).sum(-1, keepdim=True)
    # A group whose codes are all zero has no scale of its own to fit.
    fitted = group.scales.round(product / power.clamp_min(1e-30))
    return torch.where(power > 0, fitted, best.scale)

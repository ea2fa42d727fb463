"""Grids: how weights are cut into groups, and the range of levels that each group has.

Every group has a range [lo, hi] that contains zero, and two factors on its ends that tuning
moves. The effective range [lo * min_scale, hi * max_scale] (α and β of SignRound, arXiv
2309.05516, eq. 2-3) fixes scale and zero point: levels (:mod:`autoround.core.grids.levels`) say
which scale spans a range, a codec (:mod:`autoround.core.grids.scales`) rounds it to what files
hold.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from autoround.core.grids.levels import LevelSet
from autoround.core.grids.scales import HALF, Nested, NestedParts, ScaleCodec
from autoround.core.grids.widths import group_width
from autoround.types import PER_TENSOR


class Grid(NamedTuple):
    """The range of every group before tuning moves its ends, its levels and its scales.

    lo, hi: float32 [rows, groups, 1], lo <= 0 <= hi, in units of the weight.
    levels: what a code stands for. scales: which scales there are.
    """

    lo: Tensor
    hi: Tensor
    levels: LevelSet
    scales: ScaleCodec = HALF

    def to(self, device: torch.device) -> Grid:
        """Copy the ranges to a device.

        Args:
            device: that lo and hi are needed on; levels and scales hold no tensors.
        """
        return self._replace(lo=self.lo.to(device), hi=self.hi.to(device))


class QuantParams(NamedTuple):
    """Quantization parameters of every group.

    A code c stands for ``scale * value(c - zero) - minimum``.

    scale, zero: float32 [rows, groups, 1]; zero integer-valued, counted from level 0.
    minimum: the same shape, or None where there is none to subtract.
    """

    scale: Tensor
    zero: Tensor
    minimum: Tensor | None = None


def to_groups(weight: Tensor, group_size: int) -> Tensor:
    """Cut a weight into groups along its last axis, padding each row with zeros.

    Zeros leave a group's range as it is, since every range holds zero.

    Args:
        weight: [..., in], any dtype.
        group_size: as in a scheme, PER_CHANNEL and PER_TENSOR among them.

    Returns:
        float32 [rows, groups, width]; [1, 1, numel] for a per-tensor group.
    """
    width = group_width(weight.shape[-1], group_size, numel=weight.numel())
    if group_size == PER_TENSOR:
        return weight.reshape(1, 1, width).float()
    rows = weight.reshape(-1, weight.shape[-1]).float()  # [..., in] -> [rows, in]
    padding = -rows.shape[1] % width
    if padding:
        rows = torch.nn.functional.pad(rows, (0, padding))
    return rows.reshape(rows.shape[0], -1, width)


def from_groups(groups: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Undo :func:`to_groups`: cut the padding and restore the shape.

    Args:
        groups: [rows, groups, width] of any dtype.
        shape: of the weight that was cut.

    Returns:
        ``groups`` in that shape and their own dtype; a view where that can be.
    """
    rows = groups.shape[0]
    flat = groups.reshape(rows, -1)  # [rows, in and padding]
    # One row may be a whole tensor that is one group: it has no padding.
    in_features = shape[-1] if rows > 1 or len(shape) == 1 else _elements(shape) // rows
    return flat[:, :in_features].reshape(shape)


def _elements(shape: tuple[int, ...]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count


def min_max_grid(groups: Tensor, levels: LevelSet, *, scales: ScaleCodec = HALF) -> Grid:
    """Take each group's own minimum and maximum as its range, widened to hold zero.

    Args:
        groups: float32 [rows, groups, width].
        levels: of the grid; they may need a wider range.
        scales: how scales are held.

    Returns:
        A grid with float32 [rows, groups, 1] ends, lo <= 0 <= hi.
    """
    lo = groups.amin(dim=-1, keepdim=True).clamp(max=0.0)
    hi = groups.amax(dim=-1, keepdim=True).clamp(min=0.0)
    return Grid(*levels.widen(lo, hi), levels, scales)


def grid_from_scale(scale: Tensor, zero: Tensor, levels: LevelSet) -> Grid:
    """Build the grid whose unmoved scale and zero point are the given ones.

    Args:
        scale: [rows, groups, 1], float16-representable; signed for symmetric levels.
        zero: integer-valued [rows, groups, 1].
        levels: of the grid.

    Returns:
        A grid that rounds scales to one float16 a group.
    """
    return Grid(*levels.range_of(scale, zero), levels)


def quant_params(grid: Grid, min_scale: Tensor, max_scale: Tensor) -> QuantParams:
    """Compute scale and zero point of every group (SignRound, arXiv 2309.05516, eq. 2-3).

    Args:
        grid: ranges and levels.
        min_scale, max_scale: float32 [rows, groups, 1], factors on the two ends of the range.

    Returns:
        Scale, zero point, and a minimum for scales that have one; float32 [rows, groups, 1].
    """
    lo = grid.lo * min_scale
    hi = grid.hi * max_scale
    scale, minimum = grid.scales.encode(grid.levels.scale_for(lo, hi), lo)
    if minimum is None:
        return QuantParams(scale, grid.levels.zero_point(lo, scale))
    # What is subtracted reaches below zero, so codes count from the lowest weight.
    return QuantParams(scale, torch.zeros_like(scale), minimum)


def nested_parts(grid: Grid, min_scale: Tensor, max_scale: Tensor) -> NestedParts | None:
    """Return the scales of super-blocks as their format holds them.

    Args:
        grid: ranges and levels.
        min_scale, max_scale: float32 [rows, groups, 1], as for :func:`quant_params`.

    Returns:
        [rows, supers, …] parts, which multiply to what :func:`quant_params` returns; None for
        other codecs.
    """
    if not isinstance(grid.scales, Nested):
        return None
    lo = grid.lo * min_scale
    return grid.scales.parts(grid.levels.scale_for(lo, grid.hi * max_scale), lo)


def range_gradients(
    grid: Grid, min_scale: Tensor, max_scale: Tensor, *, scale: Tensor, sums: Tensor
) -> tuple[Tensor, Tensor]:
    """Chain group sums of the upstream gradient G to min_scale and max_scale (α, β).

    Args:
        grid: ranges and levels.
        min_scale, max_scale: float32 [rows, groups, 1].
        scale: of :func:`quant_params` for these.
        sums: [sum G*value(c), sum G*inside*W, sum G*(1-inside)], each [rows, groups, 1], with
            W + m for W where a minimum m is subtracted; the third is absent for a fixed zero.

    Returns:
        Gradients of min_scale and max_scale, float32 [rows, groups, 1] each.
    """
    return grid.levels.range_gradients(
        (grid.lo, grid.hi),
        (grid.lo * min_scale, grid.hi * max_scale),
        scale=scale,
        sums=sums,
        scales=grid.scales,
    )

"""Integer grids: how weights are cut into groups, and which levels a group has.

Every group has a range [lo, hi] that contains zero, and two clip factors that tuning
moves. The effective range [lo * min_scale, hi * max_scale] fixes scale and zero point
(SignRound, arXiv 2309.05516, eq. 2-3):

- asymmetric: levels 0 … 2**b - 1, ``scale = (hi' - lo') / (2**b - 1)`` and an integer
  ``zero = round(-lo' / scale)``;
- symmetric full range: levels -Q … Q-1 with Q = 2**(b-1). The side that reaches further
  gets the extra level -Q, so the scale is negative when that side is the positive one.

Scales are rounded to float16 inside the forward, because that is what files hold:
tuning then sees the value that will be served.

A nested grid (GGUF's k-quants) has no free scale: the scales of a super-block are small
integers times one float16, ``s = d * sc``, and an asymmetric one subtracts a minimum of
the same make instead of having a zero point, ``w = d * sc * q - dmin * mn``. Both are
rounded inside the forward as well (:func:`nested_parts`).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from autoround.types import PER_CHANNEL, PER_TENSOR

#: Smallest magnitude of a scale: below it float16 has too few digits left.
SMALLEST_SCALE = 1e-5
#: Largest finite float16.
LARGEST_SCALE = 65504.0
#: Smallest positive float16: the least scale of a super-block.
SMALLEST_SUPER_SCALE = 2.0**-24


class Nested(NamedTuple):
    """How the scales of a super-block are held.

    groups: groups in a super-block. low, high: the integers a group's scale may be, low
    below zero when they are signed; an asymmetric group's minimum is one of 0 … high.
    """

    groups: int
    low: int
    high: int


class Grid(NamedTuple):
    """The range of every group before clipping, and the kind of levels it has.

    lo, hi: float32 [rows, groups, 1], lo <= 0 <= hi, in units of the weight.
    lowest_zero: least zero point an asymmetric group may have; some layouts hold no 0.
    nested: how scales are held, or None for one float16 each.
    """

    lo: Tensor
    hi: Tensor
    bits: int
    sym: bool
    lowest_zero: int = 0
    nested: Nested | None = None


class Levels(NamedTuple):
    """The levels of every group: a weight becomes ``scale * (code - zero) - minimum``.

    scale, zero: float32 [rows, groups, 1]; zero integer-valued. minimum: the same shape,
    or None where there is none to subtract.
    """

    scale: Tensor
    zero: Tensor
    minimum: Tensor | None = None


class NestedParts(NamedTuple):
    """Scales as a super-block holds them, integer-valued or representable in float16.

    scale: float32 [rows, supers, 1]; sub_scale: float32 [rows, supers, groups each].
    minimum, sub_minimum: the same for what is subtracted, or None for a symmetric grid.
    """

    scale: Tensor
    sub_scale: Tensor
    minimum: Tensor | None
    sub_minimum: Tensor | None


def group_width(in_features: int, group_size: int, *, numel: int) -> int:
    """Return how many weights share one scale.

    A group wider than a row, like PER_CHANNEL, means one group a row.
    """
    if group_size == PER_TENSOR:
        return numel
    if group_size == PER_CHANNEL or group_size >= in_features:
        return in_features
    return group_size


def to_groups(weight: Tensor, group_size: int) -> Tensor:
    """Cut a weight into groups along its last axis, padding each row with zeros.

    weight: [..., in], any float dtype.
    Returns float32 [rows, groups, width]; [1, 1, numel] for a per-tensor group.
    """
    width = group_width(weight.shape[-1], group_size, numel=weight.numel())
    if group_size == PER_TENSOR:
        return weight.reshape(1, 1, width).float()
    rows = weight.reshape(-1, weight.shape[-1]).float()
    padding = -rows.shape[1] % width
    if padding:
        rows = torch.nn.functional.pad(rows, (0, padding))
    return rows.reshape(rows.shape[0], -1, width)


def from_groups(groups: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Undo :func:`to_groups`: cut the padding and restore the shape.

    groups: [rows, groups, width] of any dtype. Returns a tensor of ``shape``.
    """
    rows = groups.shape[0]
    flat = groups.reshape(rows, -1)
    in_features = shape[-1] if rows > 1 or len(shape) == 1 else _elements(shape) // rows
    return flat[:, :in_features].reshape(shape)


def _elements(shape: tuple[int, ...]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count


def min_max_grid(groups: Tensor, *, bits: int, sym: bool, lowest_zero: int = 0) -> Grid:
    """Take each group's own minimum and maximum as its range, widened to hold zero.

    groups: float32 [rows, groups, width]. Where the zero point may not be 0, a one-sided
    group is widened to the other side, so that its far end still has a level.
    """
    lo = groups.amin(dim=-1, keepdim=True).clamp(max=0.0)
    hi = groups.amax(dim=-1, keepdim=True).clamp(min=0.0)
    if lowest_zero and not sym:
        lo = torch.minimum(lo, -hi * lowest_zero / (2**bits - 1 - lowest_zero))
    return Grid(lo, hi, bits, sym, lowest_zero)


def grid_from_scale(scale: Tensor, zero: Tensor | None, *, bits: int, lowest_zero: int = 0) -> Grid:
    """Build the grid whose unclipped scale and zero point are the given ones.

    scale: [rows, groups, 1], float16-representable; signed when ``zero`` is None.
    zero: integer-valued [rows, groups, 1] in 0 … 2**bits - 1, or None for symmetric.
    """
    if zero is None:
        reach = scale.abs() * 2 ** (bits - 1)
        nothing = torch.zeros_like(reach)
        positive = scale > 0
        return Grid(
            torch.where(positive, -reach, nothing),
            torch.where(positive, nothing, reach),
            bits,
            True,
        )
    return Grid(-zero * scale, (2**bits - 1 - zero) * scale, bits, False, lowest_zero)


def round_scale(scale: Tensor) -> Tensor:
    """Round a scale to what float16 holds, keeping its sign and at least SMALLEST_SCALE.

    scale: float32, any shape, may be negative. A zero scale becomes +SMALLEST_SCALE.
    """
    magnitude = scale.abs().clamp(SMALLEST_SCALE, LARGEST_SCALE).half().float()
    return torch.where(scale < 0, -magnitude, magnitude)


def scale_and_zero(grid: Grid, min_scale: Tensor, max_scale: Tensor) -> tuple[Tensor, Tensor]:
    """Compute scale and zero point of every group from its clipped range.

    min_scale, max_scale: float32 [rows, groups, 1], factors on the two ends of the range.
    Returns float32 [rows, groups, 1] each; the zero point is integer-valued, counted
    from level 0, and is the constant 2**(bits-1) for a symmetric grid.
    """
    lo = grid.lo * min_scale
    hi = grid.hi * max_scale
    if grid.sym:
        half = 2 ** (grid.bits - 1)
        scale = round_scale(torch.where(-lo > hi, -lo, -hi) / half)
        return scale, torch.full_like(scale, half)
    top = 2**grid.bits - 1
    scale = round_scale((hi - lo) / top)
    zero = torch.round(-lo / scale).clamp_(grid.lowest_zero, top)
    return scale, zero


def levels_of(grid: Grid, min_scale: Tensor, max_scale: Tensor) -> Levels:
    """Compute the levels of every group from its clipped range, whatever holds its scale.

    min_scale, max_scale: float32 [rows, groups, 1], factors on the two ends of the range.
    """
    if grid.nested is None:
        return Levels(*scale_and_zero(grid, min_scale, max_scale))
    parts = nested_parts(grid, min_scale, max_scale)
    scale = (parts.scale * parts.sub_scale).reshape(min_scale.shape)
    if parts.minimum is None or parts.sub_minimum is None:
        return Levels(scale, torch.full_like(scale, 2 ** (grid.bits - 1)))
    minimum = (parts.minimum * parts.sub_minimum).reshape(min_scale.shape)
    return Levels(scale, torch.zeros_like(scale), minimum)


def nested_parts(grid: Grid, min_scale: Tensor, max_scale: Tensor) -> NestedParts:
    """Round the scales and minima of every super-block to what its format holds.

    min_scale, max_scale: float32 [rows, groups, 1], as for :func:`levels_of`.
    The largest scale of a super-block takes the last integer. No group gets the integer 0:
    a group of which nothing should be left has its codes at zero, which says the same.
    """
    assert grid.nested is not None
    groups, low, high = grid.nested
    lo = (grid.lo * min_scale).reshape(min_scale.shape[0], -1, groups)
    hi = (grid.hi * max_scale).reshape(lo.shape)
    if grid.sym:
        raw = torch.where(-lo > hi, -lo, -hi) / 2 ** (grid.bits - 1)
        most, least = raw.amax(-1, keepdim=True), raw.amin(-1, keepdim=True)
        scale = _round_super(torch.where(most >= -least, most, least) / low)
        sub = torch.round(raw / scale)
        sub = torch.where(sub == 0, 1.0, sub).clamp_(low, high)
        return NestedParts(scale, sub, None, None)
    raw = (hi - lo) / (2**grid.bits - 1)
    scale = _round_super(raw.amax(-1, keepdim=True) / high)
    sub = torch.round(raw / scale).clamp_(1, high)
    minimum = _round_super((-lo).amax(-1, keepdim=True) / high)
    return NestedParts(scale, sub, minimum, torch.round(-lo / minimum).clamp_(0, high))


def _round_super(scale: Tensor) -> Tensor:
    """Round to what float16 holds, away from zero where it would vanish."""
    magnitude = scale.abs().clamp(SMALLEST_SUPER_SCALE, LARGEST_SCALE).half().float()
    return torch.where(scale < 0, -magnitude, magnitude)

"""Round to nearest: the rounding that needs no data, and the one tuning starts from.

On a min-max grid this is rtn; on a searched grid it is opt-rtn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from autoround.core.grids.grid import (
    Grid,
    from_groups,
    min_max_grid,
    nested_parts,
    to_groups,
)
from autoround.core.grids.levels import IntegerLevels
from autoround.core.grids.scales import Half, Nested, NestedParts
from autoround.core.grids.schemes import scheme_levels, scheme_scales
from autoround.core.rounding import Rounding, initial_rounding, quantize
from autoround.core.search import CHUNK_ELEMENTS, search_grid
from autoround.core.search_nested import PlainStages, search_nested
from autoround.types import Scheme


class Target(NamedTuple):
    """One tensor to quantize: its groups, their grid and its shape outside the core.

    groups: float32 [rows, groups, width]. shape: as the block stores it, with the quantized axis
    last. offsets: of the shape of the groups, initial rounding offsets V in place of zeros, on any
    device; None for round-to-nearest.
    """

    groups: Tensor
    grid: Grid
    shape: tuple[int, ...]
    offsets: Tensor | None = None


class QuantizedMatrix(NamedTuple):
    """A weight rounded for good, before a format gives it a type of its own.

    codes: uint8 [out, in]. scale: [out, groups], float16, or float32 for a nested grid. zero:
    uint8 [out, groups]. nested: scales as their super-blocks hold them; None for one a group.
    """

    codes: Tensor
    scale: Tensor
    zero: Tensor
    nested: NestedParts | None


def round_to_nearest(targets: Mapping[str, Target]) -> dict[str, Rounding]:
    """Return the rounding of every tensor on its whole range, at its target's offsets if any.

    Args:
        targets: what to round, by name.

    Returns:
        New tensors by the same names, min_scale and max_scale one; the targets stay as they are.
    """
    roundings = {name: initial_rounding(target.groups) for name, target in targets.items()}
    for name, target in targets.items():
        if target.offsets is not None:
            # Tuning moves offsets in place, and the target may be tuned again.
            offset = target.offsets.to(target.groups.device, copy=True)
            roundings[name] = roundings[name]._replace(offset=offset)
    return roundings


def search_scales(
    groups: Tensor,
    importance: Tensor | None,
    levels: IntegerLevels,
    *,
    scales: Half | Nested,
    chunk: int = CHUNK_ELEMENTS,
) -> Grid:
    """Search the grid of least weighted squared error, whichever codec holds its scales.

    Args:
        groups: float32 [rows, groups, width].
        importance: float32 broadcastable to ``groups``, or [n, groups, width], each for rows / n
            rows that follow each other; None for equal weights.
        levels: what codes stand for. scales: how scales are held.
        chunk: elements to search at a time, by which results do not change.

    Returns:
        The grid whose unmoved parameters are the ones that the search finds.
    """
    if not isinstance(scales, Nested):
        return search_grid(groups, importance, levels, scales=scales, chunk=chunk)
    stages = PlainStages(chunk)
    stacked = 1 if importance is None or importance.dim() < 3 else importance.shape[0]
    if importance is None or stacked in (1, groups.shape[0]):
        return search_nested(groups, importance, levels, scales=scales, stages=stages)
    # One after the other: the importance of each of their rows would take as much as the weights.
    grids = [
        search_nested(part, channels, levels, scales=scales, stages=stages)
        for part, channels in zip(groups.chunk(stacked), importance.split(1), strict=True)
    ]
    return concatenate_rows(grids)


def largest_magnitude(weight: Tensor) -> float:
    """Return the greatest magnitude of a weight; NaN where it holds one.

    Args:
        weight: of any shape and float dtype. The host waits for the device it is on.
    """
    # Both ends in one pass, and no tensor of magnitudes.
    lo, hi = weight.aminmax()
    return float(torch.maximum(-lo, hi))


def concatenate_rows(grids: Sequence[Grid]) -> Grid:
    """Put grids of the same levels and scales one below the other.

    Args:
        grids: of rows that follow each other; at least one.
    """
    lo, hi = torch.cat([grid.lo for grid in grids]), torch.cat([grid.hi for grid in grids])
    return grids[0]._replace(lo=lo, hi=hi)


def matrix_from(
    target: Target, rounding: Rounding, parts: tuple[Tensor, Tensor, Tensor]
) -> QuantizedMatrix:
    """Give a rounded target its shape back.

    Args:
        target: what was rounded.
        rounding: how it was rounded.
        parts: codes, scale and zero as :func:`autoround.core.rounding.quantize` returns them.

    Returns:
        Codes in the shape of the target, without padding; scale and zero [rows, groups].
    """
    codes, scale, zero = parts
    return QuantizedMatrix(
        from_groups(codes, target.shape).contiguous(),
        scale.squeeze(-1),
        zero.squeeze(-1),
        nested_parts(target.grid, rounding.min_scale.detach(), rounding.max_scale.detach()),
    )


def quantize_matrix(
    weight: Tensor, scheme: Scheme, *, search: bool = True, lowest_zero: int = 0
) -> QuantizedMatrix:
    """Round a weight to the nearest levels of a grid that is found without data.

    Args:
        weight: [out, in], any float dtype.
        scheme: bits, groups and scales of the result.
        search: search the scales of least squared error, else take minimum and maximum.
        lowest_zero: least zero point that the layouts to be written can hold.

    Returns:
        Codes uint8 [out, in], with scale and zero [out, groups]; [1, 1] where the tensor is one
        group.
    """
    levels, scales = scheme_levels(scheme, lowest_zero=lowest_zero), scheme_scales(scheme)
    groups = to_groups(weight, scheme.group_size)
    if search:
        grid = search_scales(groups, None, levels, scales=scales)
    else:
        grid = min_max_grid(groups, levels, scales=scales)
    target = Target(groups, grid, (weight.shape[0], weight.shape[1]))
    rounding = initial_rounding(groups)
    return matrix_from(target, rounding, quantize(groups, rounding, grid=grid))

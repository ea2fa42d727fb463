"""Stacked experts in the tuning of a block: their grids, and those that saw too few tokens.

All experts of a layer are one tensor [experts * rows, groups, width] there, so that a step
rounds them in one go however many there are.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from autoround.core.grids.grid import Grid
from autoround.core.grids.levels import IntegerLevels
from autoround.core.grids.scales import Half, Nested
from autoround.core.ops import Ops
from autoround.core.rounding import Rounding
from autoround.core.rtn import concatenate_rows
from autoround.core.search import CHUNK_ELEMENTS, importance_groups
from autoround.types import FEW_TOKENS, BlockPlan, LayerPlan


def search_expert_grids(
    groups: Tensor,
    importance: Tensor | None,
    levels: IntegerLevels,
    *,
    scales: Half | Nested,
    layer: LayerPlan,
    ops: Ops,
    chunk: int = CHUNK_ELEMENTS,
) -> Grid:
    """Search the grid of a weight, every expert's by the importance of its own inputs.

    Args:
        groups: float32 [rows, groups, width].
        importance: float32 [in], [experts, in], or None for equal weights.
        levels: what codes stand for.
        scales: how scales are held.
        layer: whose weight it is.
        ops: of the device.
        chunk: elements to search at a time where there is no kernel; results do not change.
    """

    def search(part: Tensor, channels: Tensor | None) -> Grid:
        if channels is not None:
            channels = importance_groups(channels, part, in_features=layer.shape[1])
        return ops.search_scales(part, channels, levels, scales=scales, chunk=chunk)

    if importance is None or importance.dim() == 1:
        return search(groups, importance)
    importance = importance.to(groups.device)
    if groups.shape[0] % layer.experts:  # one group for all of them
        return search(groups, importance.mean(0))
    if groups.device.type != "cpu":
        # All experts at once: the device is asked for as many operations as for one of them.
        return search(groups, importance)
    parts = groups.reshape(layer.experts, -1, *groups.shape[1:])  # [experts, rows, groups, width]
    return concatenate_rows(
        [search(part, channels) for part, channels in zip(parts, importance, strict=True)]
    )


def undertrained_experts(block: BlockPlan, tokens: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return which experts of each stacked weight saw too few tokens, bool [experts]."""
    undertrained = {}
    for layer in block.quantized:
        path = layer.path.rpartition(".")[0]
        if layer.experts and path in tokens and bool((tokens[path] < FEW_TOKENS).any()):
            undertrained[layer.name] = tokens[path] < FEW_TOKENS
    return undertrained


def reset_undertrained(
    roundings: Mapping[str, Rounding], few: Mapping[str, Tensor]
) -> dict[str, Rounding]:
    """Return roundings in which experts that saw few tokens are rounded to nearest.

    What a handful of tokens taught is worse than nothing.

    Args:
        roundings: by layer.
        few: bool [experts], by layer.
    """
    reset = dict(roundings)
    for name, which in few.items():
        rounding = roundings[name]
        rows = len(rounding.offset)
        if rows % len(which):
            continue
        mask = which.to(rounding.offset.device).repeat_interleave(rows // len(which))
        mask = mask[:, None, None]  # [rows, 1, 1]
        reset[name] = Rounding(
            rounding.offset.detach().masked_fill(mask, 0.0),
            rounding.min_scale.detach().masked_fill(mask, 1.0),
            rounding.max_scale.detach().masked_fill(mask, 1.0),
        )
    return reset

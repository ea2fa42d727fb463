"""Stacked experts in the tuning of a block: their grids, and those that saw too few tokens.

All experts of a layer are one tensor [experts * rows, groups, width] there, so that a step
rounds them in one go however many there are.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from autoround.core.grid import Grid, Nested
from autoround.core.rounding import Rounding
from autoround.core.search import importance_groups, search_grid
from autoround.core.search_nested import search_nested
from autoround.types import FEW_TOKENS, BlockPlan, LayerPlan


def search_expert_grids(
    groups: Tensor,
    importance: Tensor | None,
    *,
    layer: LayerPlan,
    nested: Nested | None,
    lowest_zero: int,
) -> Grid:
    """Search the grid of a weight; every expert by what drives it.

    groups: float32 [rows, groups, width]. importance: float32 [in], [experts, in], or None.
    """
    assert layer.scheme is not None
    bits, sym = layer.scheme.bits, layer.scheme.sym

    def search(part: Tensor, driven: Tensor | None) -> Grid:
        if driven is not None:
            driven = importance_groups(driven, part, in_features=layer.shape[1])
        if nested is not None:
            return search_nested(part, driven, bits=bits, sym=sym, nested=nested)
        return search_grid(part, driven, bits=bits, sym=sym, lowest_zero=lowest_zero)

    if importance is None or importance.dim() == 1:
        return search(groups, importance)
    importance = importance.to(groups.device)
    if groups.shape[0] % layer.experts:  # one group for all of them
        return search(groups, importance.mean(0))
    parts = groups.reshape(layer.experts, -1, *groups.shape[1:])
    grids = [search(part, driven) for part, driven in zip(parts, importance, strict=True)]
    return grids[0]._replace(
        lo=torch.cat([grid.lo for grid in grids]), hi=torch.cat([grid.hi for grid in grids])
    )


def undertrained_experts(block: BlockPlan, tokens: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return which experts of each stacked weight saw too few tokens, bool [experts]."""
    found = {}
    for layer in block.quantized:
        path = layer.path.rpartition(".")[0]
        if layer.experts and path in tokens and bool((tokens[path] < FEW_TOKENS).any()):
            found[layer.name] = tokens[path] < FEW_TOKENS
    return found


def reset_undertrained(
    roundings: Mapping[str, Rounding], few: Mapping[str, Tensor]
) -> dict[str, Rounding]:
    """Return roundings in which experts that saw few tokens are where they started.

    few: bool [experts], by layer. What a handful of tokens taught is worse than nothing.
    """
    found = dict(roundings)
    for name, which in few.items():
        rounding = roundings[name]
        if rounding.value.shape[0] % len(which):
            continue
        rows = which.to(rounding.value.device).repeat_interleave(len(rounding.value) // len(which))
        rows = rows[:, None, None]
        found[name] = Rounding(
            rounding.value.detach().masked_fill(rows, 0.0),
            rounding.min_scale.detach().masked_fill(rows, 1.0),
            rounding.max_scale.detach().masked_fill(rows, 1.0),
        )
    return found

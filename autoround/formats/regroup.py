"""Plain groups for weights whose inputs were grouped out of order: rounded anew, not carried."""

from __future__ import annotations

import torch
from torch import Tensor

from autoround.core.grid import from_groups, to_groups
from autoround.core.rounding import dense_weight, initial_rounding, quantize
from autoround.core.search import search_grid
from autoround.types import QuantizedTensor


def ordered_weight(layer: QuantizedTensor, order: Tensor) -> Tensor:
    """Unpack a layer whose inputs each name their group.

    order: int [in], the group of every input. Returns float32 [out, in].
    """
    groups = order.long()
    scale, zero = layer.scale.float()[:, groups], layer.zero.float()[:, groups]
    return (layer.codes.float() - zero) * scale


def regroup(
    layer: QuantizedTensor, order: Tensor, *, lowest_zero: int = 0
) -> tuple[QuantizedTensor, float]:
    """Round a layer to groups of neighbouring inputs, by searched scales.

    Most layouts have no place for the group of each input (GPTQ's desc_act). Returns the layer,
    and its squared error relative to the weights it was made of.
    """
    weight = ordered_weight(layer, order)
    bits, sym = layer.scheme.bits, layer.scheme.sym
    groups = to_groups(weight, layer.scheme.group_size)
    grid = search_grid(groups, None, bits=bits, sym=sym, lowest_zero=lowest_zero)
    codes, scale, zero = quantize(groups, initial_rounding(groups), grid=grid)
    held = from_groups(codes, tuple(layer.codes.shape)).contiguous()
    found = QuantizedTensor(held, scale.squeeze(-1), zero.squeeze(-1), layer.scheme)
    error = (dense_weight(found) - weight).square().mean()
    return found, float(error / weight.square().mean().clamp_min(torch.finfo(torch.float32).tiny))

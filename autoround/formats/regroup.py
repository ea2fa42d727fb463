"""Plain groups for weights whose inputs were grouped out of order: rounded anew, not carried."""

from __future__ import annotations

import torch
from torch import Tensor

from autoround.core.grids.schemes import scheme_levels
from autoround.core.rounding import dense_weight
from autoround.core.rtn import quantize_matrix
from autoround.types import QuantizedTensor


def ordered_weight(layer: QuantizedTensor, order: Tensor) -> Tensor:
    """Dequantize a layer whose inputs each name their group.

    Args:
        layer: codes uint8 [..., out, in], scale and zero [..., out, groups]: one matrix or more.
        order: int [..., in], the group of every input.

    Returns:
        float32 [..., out, in].
    """
    groups = order.long().unsqueeze(-2).expand(layer.codes.shape)
    scale, zero = layer.scale.float().gather(-1, groups), layer.zero.float().gather(-1, groups)
    return scheme_levels(layer.scheme).value(layer.codes.float() - zero) * scale


def regroup(
    layer: QuantizedTensor, order: Tensor, *, lowest_zero: int = 0
) -> tuple[QuantizedTensor, float]:
    """Round a layer to groups of neighbouring inputs, by searched scales.

    Most layouts have no place for the group of each input (GPTQ's desc_act).

    Args:
        layer: as it was read.
        order: int [in], the group of every input.
        lowest_zero: least zero point that the layouts to be written can hold.

    Returns:
        The layer, and its squared error relative to the weights it was made of.
    """
    weight = ordered_weight(layer, order)
    codes, scale, zero, _ = quantize_matrix(weight, layer.scheme, lowest_zero=lowest_zero)
    regrouped = QuantizedTensor(codes, scale, zero, layer.scheme)
    error = (dense_weight(regrouped) - weight).square().mean()
    # A layer that is zero throughout has no error to divide.
    power = weight.square().mean().clamp_min(torch.finfo(torch.float32).tiny)
    return regrouped, float(error / power)

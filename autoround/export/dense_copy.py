"""Dequantized weights in a copy of the model: what the written result computes, in memory."""

from __future__ import annotations

import copy
from collections.abc import Mapping

from torch import nn

from autoround.core.dtypes import DTYPES
from autoround.core.rounding import dense_weight
from autoround.model.skeleton import Skeleton, set_tensor
from autoround.model.stacked_experts import from_matrix
from autoround.types import Plan, QuantizedTensor


def copy_with_weights(skeleton: Skeleton) -> nn.Module:
    """Return a copy of a model in memory that holds all its weights, offloaded ones too.

    Args:
        skeleton: the model, which is not changed.
    """
    dense = copy.deepcopy(skeleton.model)
    tensors = dense.state_dict()
    offloaded = [name for name in skeleton.keys if tensors[name].is_meta]
    for name in offloaded:
        set_tensor(dense, name, skeleton.read([name])[name])
    if offloaded:
        dense.tie_weights()  # type: ignore[operator]
    return dense


def write_dequantized(
    dense: nn.Module, skeleton: Skeleton, plan: Plan, *, layers: Mapping[str, QuantizedTensor]
) -> nn.Module:
    """Write dequantized weights into a copy of a model, so that it scores as the written result.

    Args:
        dense: the copy, which is changed.
        skeleton: the model it is a copy of.
        plan: of the pass that quantized it.
        layers: the quantized layers by name.

    Returns:
        The copy.
    """
    plans = {layer.name: layer for layer in plan.layers}
    for name, tensor in dense.state_dict().items():
        # The dtype that kept tensors are written in may have fewer digits.
        if tensor.is_floating_point() and name not in plan.float32:
            tensor.copy_(tensor.to(DTYPES[plan.dtype]))
    for name, layer in layers.items():
        layer_plan = plans[name]
        weight = dense.get_parameter(layer_plan.tensor)
        dequantized = from_matrix(layer_plan, dense_weight(layer)).to(weight.device, weight.dtype)
        if layer_plan.tensor in skeleton.tied:
            # The embeddings keep their weight; the head gets one of its own.
            dense.get_submodule(name).weight = nn.Parameter(dequantized, requires_grad=False)
        else:
            weight.data = dequantized
    return dense

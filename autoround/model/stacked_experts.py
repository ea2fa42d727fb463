"""Stacked experts and turned matrices: between the model's storage and [out, in]."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from autoround.types import BlockPlan, LayerPlan


def as_matrix(layer: LayerPlan, weight: Tensor) -> Tensor:
    """Turn a weight as it is stored into [out, in], the rows of all experts after each other."""
    if layer.experts:
        turned = weight.transpose(1, 2) if layer.transposed else weight
        return turned.reshape(layer.shape)
    return weight.t() if layer.transposed else weight


def from_matrix(layer: LayerPlan, weight: Tensor) -> Tensor:
    """Undo :func:`as_matrix`: from [out, in] to how the model stores it."""
    if layer.experts:
        cut = weight.reshape(layer.experts, -1, layer.shape[1])
        return cut.transpose(1, 2) if layer.transposed else cut
    return weight.t() if layer.transposed else weight


def as_stored(block: BlockPlan, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Name weights as the block does, and turn them the way it stores them."""
    layers = {layer.name: layer for layer in block.layers}
    return {
        layers[name].param: from_matrix(layers[name], weight) for name, weight in weights.items()
    }

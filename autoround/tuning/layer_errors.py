"""How far quantized weights are from the original ones, as one figure a layer."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from autoround.formats.gguf.tensors import dense
from autoround.model.stacked_experts import as_matrix
from autoround.session.block_output import QuantizedWeight
from autoround.types import LayerPlan

#: Weights that are dequantized at a time.
CHUNK_ELEMENTS = 1 << 20


def layer_errors(
    layers: Sequence[LayerPlan],
    weights: Mapping[str, QuantizedWeight],
    originals: Mapping[str, Tensor],
) -> dict[str, float]:
    """Return the relative error of each quantized layer.

    Args:
        layers: to compare.
        weights: the quantized ones, by layer.
        originals: the tensors of the model, by its own names; any float dtype.
    """
    return {
        layer.name: relative_error(as_matrix(layer, originals[layer.tensor]), weights[layer.name])
        for layer in layers
    }


@torch.no_grad()
def relative_error(original: Tensor, quantized: QuantizedWeight) -> float:
    """Return ||W - Wq|| / ||W|| in Frobenius norms; 0 for a weight of zeros.

    Args:
        original: [out, in], any float dtype; of stacked experts, the rows of all.
        quantized: the same weight as it is written.
    """
    error = total = 0.0
    for rows in _row_ranges(quantized.codes):
        # What is on a device stays there but for this chunk.
        weight = original[rows].to("cpu", torch.float32)
        difference = dense(_take_rows(quantized, rows)).to("cpu").sub_(weight)
        error += float(torch.linalg.vector_norm(difference)) ** 2
        total += float(torch.linalg.vector_norm(weight)) ** 2
    return (error / total) ** 0.5 if total else 0.0


def _row_ranges(codes: Tensor) -> Iterator[slice]:
    step = max(1, CHUNK_ELEMENTS // max(1, codes.shape[1]))
    for start in range(0, codes.shape[0], step):
        yield slice(start, start + step)


def _take_rows(weight: QuantizedWeight, rows: slice) -> QuantizedWeight:
    """Return some rows of a weight; a scale of the whole tensor goes with each of them."""
    count = len(weight.codes)
    parts = {field.name: getattr(weight, field.name) for field in dataclasses.fields(weight)}
    taken = {
        name: part[rows]
        for name, part in parts.items()
        if isinstance(part, Tensor) and len(part) == count
    }
    return dataclasses.replace(weight, **taken)

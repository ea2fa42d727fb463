"""How far quantized weights are from the original ones, as one figure a layer."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from autoround.formats.gguf.tensors import dense
from autoround.model.stacked_experts import as_matrix
from autoround.session.block_output import QuantizedWeight
from autoround.types import LayerPlan

#: Weights that are dequantized at a time on a processor, and on a device.
CHUNK_ELEMENTS, DEVICE_CHUNK_ELEMENTS = 1 << 20, 1 << 24
#: Digits that are kept: sums differ in later ones by the order of their terms.
DIGITS = 6


def layer_errors(
    layers: Sequence[LayerPlan],
    weights: Mapping[str, QuantizedWeight],
    originals: Mapping[str, Tensor],
) -> dict[str, float]:
    """Return the relative error of each quantized layer: ||W - Wq|| / ||W|| in Frobenius norms.

    Args:
        layers: to compare.
        weights: the quantized ones, by layer, on any device.
        originals: the tensors of the model, by its own names; any float dtype.
    """
    squares = [
        _squares(as_matrix(layer, originals[layer.tensor]), weights[layer.name]) for layer in layers
    ]
    if not squares:
        return {}
    # Read back at once: a device is waited for once a block, not once a layer.
    device = squares[0].device
    pairs = torch.stack([each.to(device) for each in squares]).to("cpu").tolist()
    return {layer.name: _ratio(*pair) for layer, pair in zip(layers, pairs, strict=True)}


def relative_error(original: Tensor, quantized: QuantizedWeight) -> float:
    """Return ||W - Wq|| / ||W||; 0 for a weight of zeros.

    Args:
        original: [out, in], any float dtype; of stacked experts, the rows of all.
        quantized: the same weight as it is written.
    """
    return _ratio(*_squares(original, quantized).to("cpu").tolist())


def _ratio(error: float, total: float) -> float:
    return float(f"{(error / total) ** 0.5:.{DIGITS}g}") if total else 0.0


@torch.no_grad()
def _squares(original: Tensor, quantized: QuantizedWeight) -> Tensor:
    """Return the sums of squares of the difference and of the original, float32 [2]."""
    device = quantized.codes.device
    sums = torch.zeros(2, device=device)
    for rows in _row_ranges(quantized.codes):
        weight = original[rows].to(device, torch.float32)
        difference = dense(_take_rows(quantized, rows)).sub_(weight)
        norms = [torch.linalg.vector_norm(part) for part in (difference, weight)]
        sums += torch.stack(norms).square()
    return sums


def _row_ranges(codes: Tensor) -> Iterator[slice]:
    elements = CHUNK_ELEMENTS if codes.device.type == "cpu" else DEVICE_CHUNK_ELEMENTS
    step = max(1, elements // max(1, codes.shape[1]))
    for start in range(0, codes.shape[0], step):
        yield slice(start, start + step)


def _take_rows(weight: QuantizedWeight, rows: slice) -> QuantizedWeight:
    """Return some rows of a weight; a scale of the whole tensor goes with each of them."""
    count = len(weight.codes)
    parts = {field.name: getattr(weight, field.name) for field in dataclasses.fields(weight)}
    taken: dict[str, Any] = {
        name: part[rows]
        for name, part in parts.items()
        if isinstance(part, Tensor) and len(part) == count
    }
    return dataclasses.replace(weight, **taken)

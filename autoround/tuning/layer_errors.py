"""How far quantized weights are from the original ones, as one figure a layer."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from autoround.core.reconstruction import Download
from autoround.device.runtime import Downloaded
from autoround.formats.gguf.tensors import dense
from autoround.session.block_output import QuantizedWeight
from autoround.types import LayerPlan

#: Weights that are dequantized at a time on a processor, and on a device.
CHUNK_ELEMENTS, DEVICE_CHUNK_ELEMENTS = 1 << 20, 1 << 24
#: Digits that are kept: sums differ in later ones by the order of their terms.
DIGITS = 6


class LateErrors:
    """Errors of layers that a device may still be computing.

    Args:
        names: of the layers.
        pairs: sums of squares [layers, 2] of the difference and of the original, on their way.
    """

    def __init__(self, names: Sequence[str], pairs: Download | None) -> None:
        self._names, self._pairs = names, pairs

    def read(self) -> dict[str, float]:
        """Return the relative error of each layer, ||W - Wq|| / ||W||; the host waits for them."""
        if self._pairs is None:
            return {}
        pairs: list[tuple[float, float]] = self._pairs.result().tolist()
        return {name: _ratio(*pair) for name, pair in zip(self._names, pairs, strict=True)}


def layer_errors(
    layers: Sequence[LayerPlan],
    weights: Mapping[str, QuantizedWeight],
    originals: Mapping[str, Tensor],
    *,
    dequantized: Mapping[str, Tensor] | None = None,
    download: Callable[[Tensor], Download] = Downloaded,
) -> LateErrors:
    """Compare quantized layers with the original ones: ||W - Wq|| / ||W|| in Frobenius norms.

    Args:
        layers: to compare.
        weights: the quantized ones, by layer, on any device.
        originals: [out, in] by layer, in any float dtype.
        dequantized: float32 [out, in] of some of them, where that is at hand.
        download: starts to copy a tensor to the host; one that waits if nothing else is asked for.

    Returns:
        The errors, which nothing has to wait for before they are read.
    """
    known = dequantized or {}
    squares = [
        _squares(originals[layer.name], weights[layer.name], known.get(layer.name))
        for layer in layers
    ]
    if not squares:
        return LateErrors((), None)
    # Read at once: a device is waited for once a block, not once a layer.
    device = squares[0].device
    pairs = torch.stack([each.to(device) for each in squares])
    return LateErrors([layer.name for layer in layers], download(pairs))


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
def _squares(
    original: Tensor, quantized: QuantizedWeight, dequantized: Tensor | None = None
) -> Tensor:
    """Return the sums of squares of the difference and of the original, float32 [2]."""
    device = quantized.codes.device if dequantized is None else dequantized.device
    sums = torch.zeros(2, device=device)
    for rows in _row_ranges(quantized.codes.shape, device):
        weight = original[rows].to(device, torch.float32)
        part = dense(_take_rows(quantized, rows)) if dequantized is None else dequantized[rows]
        # Laid out as the part is, padding included: by that goes the order of the sum.
        difference = torch.empty_strided(part.shape, part.stride(), device=device)
        torch.sub(part, weight, out=difference)
        norms = [torch.linalg.vector_norm(each) for each in (difference, weight)]
        sums += torch.stack(norms).square()
    return sums


def _row_ranges(shape: Sequence[int], device: torch.device) -> Iterator[slice]:
    elements = CHUNK_ELEMENTS if device.type == "cpu" else DEVICE_CHUNK_ELEMENTS
    step = max(1, elements // max(1, shape[1]))
    for start in range(0, shape[0], step):
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

"""A finished block: what tuning hands to the store and to the writers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeAlias

import torch
from torch import Tensor

from autoround.formats.gguf.blocks import GgufTensor
from autoround.formats.gguf.tensors import dense
from autoround.formats.registry import layout_named
from autoround.types import BlockResult, QuantizedTensor

#: A quantized weight, whatever holds its scales.
QuantizedWeight: TypeAlias = QuantizedTensor | GgufTensor


@dataclass(frozen=True, slots=True)
class PackedWeight:
    """A quantized weight as bytes on the CPU, which its record holds, and files in its layout.

    packing: name of the layout; empty for codes in their bits, with the other parts as they are.
    tensors: by part; those of stacked experts have an axis of matrices, in the order of the files.
    facts: JSON values that make a weight of them again.
    """

    packing: str
    tensors: Mapping[str, Tensor]
    facts: Mapping[str, Any]

    def is_in(self, packing: str) -> bool:
        """Tell whether the weight is packed in a layout.

        Args:
            packing: name of the layout.
        """
        return bool(self.packing) and layout_named(self.packing) is layout_named(packing)


@dataclass(frozen=True)
class BlockOutput:
    """One finished unit: a block, or the layers outside the blocks.

    layers: quantized weights by layer, on any device. kept: unquantized tensors by the model's own
    names, in the dtype they are written in. result: losses and figures. source: checksum of the
    tensors that the model holds for it; 0 when no journal is kept. packed: the same weights by
    layer, where they are packed by now. dequantized: float32 [out, in] of them by layer, on any
    device, where that is at hand.
    """

    layers: dict[str, QuantizedWeight]
    kept: dict[str, Tensor]
    result: BlockResult
    source: int = 0
    packed: Mapping[str, PackedWeight] = field(default_factory=dict)
    dequantized: Mapping[str, Tensor] = field(default_factory=dict)

    def dense(self, name: str, device: torch.device) -> Tensor:
        """Return a layer's weight as numbers.

        Args:
            name: of the layer.
            device: where it is wanted.

        Returns:
            float32 [out, in].
        """
        if name in self.dequantized:
            return self.dequantized[name].to(device)
        return dense(weight_on(self.layers[name], device))

    def on(self, device: torch.device) -> BlockOutput:
        """Return the unit with its quantized weights on a device.

        Args:
            device: where they are to be; the unquantized tensors stay where they are.
        """
        return replace(self, layers={n: weight_on(w, device) for n, w in self.layers.items()})


def weight_on(weight: QuantizedWeight, device: torch.device) -> QuantizedWeight:
    """Return a quantized weight on a device.

    Args:
        weight: on any device.
        device: where it is to be.
    """
    parts = {each.name: getattr(weight, each.name) for each in fields(weight)}
    tensors: dict[str, Any] = {
        n: part.to(device) for n, part in parts.items() if isinstance(part, Tensor)
    }
    return replace(weight, **tensors)

"""A finished block: what tuning hands to the store and to the writers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from torch import Tensor

from autoround.formats.gguf.blocks import GgufTensor
from autoround.types import BlockResult, QuantizedTensor

#: A quantized weight, whatever holds its scales.
QuantizedWeight: TypeAlias = QuantizedTensor | GgufTensor


@dataclass(frozen=True)
class BlockOutput:
    """One finished unit: a block, or the layers outside the blocks.

    layers: quantized weights by layer. kept: unquantized tensors by the model's own names, in the
    dtype they are written in. result: losses and figures. source: checksum of the tensors that the
    model holds for it; 0 when no journal is kept.
    """

    layers: dict[str, QuantizedWeight]
    kept: dict[str, Tensor]
    result: BlockResult
    source: int = 0

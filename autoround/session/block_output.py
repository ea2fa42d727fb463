"""A finished block."""

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
    """One finished block: quantized layers by name, kept tensors by name, and figures.

    source: a sum of the tensors that the model holds for it; 0 where nobody will ask.
    """

    layers: dict[str, QuantizedWeight]
    kept: dict[str, Tensor]
    result: BlockResult
    source: int = 0

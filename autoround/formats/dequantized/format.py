"""The format ``fake``: dequantized weights in 16 bit, for programs that know no other.

The name is auto-round's. Nothing in such a checkpoint says that it was quantized.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from autoround.core.rounding import dense_weight
from autoround.errors import FormatError
from autoround.formats.format import BaseLayout, Float16Format, Layout, PackedLayer
from autoround.types import OutputPlan, Plan, QuantizedTensor, Scheme


class DequantizedLayout(BaseLayout):
    """One dense weight, [out, in]."""

    name = "fake"
    parts: tuple[str, ...] = ("weight",)
    dense = True

    def to_tensors(self, layer: QuantizedTensor) -> dict[str, Tensor]:
        """Dequantize a weight."""
        return {"weight": dense_weight(layer)}

    def from_tensors(
        self, tensors: Mapping[str, Tensor], scheme: Scheme, *, name: str
    ) -> QuantizedTensor:
        """Refuse: the codes cannot be read back from a dense weight.

        Raises:
            FormatError: always.
        """
        raise FormatError(f"layer {name}: a dequantized weight holds no codes")

    def inexact(self, layer: QuantizedTensor, dtype: torch.dtype) -> str:
        """Return how many weights the dtype that is written does not hold."""
        exact = dense_weight(layer)
        off = int((exact.to(dtype).float() != exact).sum())
        word = str(dtype).removeprefix("torch.")
        return f"{off} weights are not exact in {word}" if off else ""


class DequantizedFormat(Float16Format):
    """Plain checkpoints of dequantized weights."""

    name = "fake"
    layouts: tuple[Layout, ...] = (DequantizedLayout(),)
    config_keys: tuple[str, ...] = ()

    def config(self, plan: Plan, output: OutputPlan) -> dict[str, Any]:
        """Return the quantization config: there is nothing to say."""
        return {}

    def packed_layers(
        self,
        config: Mapping[str, Any],
        shapes: Mapping[str, tuple[int, int]],
        tensors: Collection[str],
    ) -> dict[str, PackedLayer]:
        """Return how every quantized layer is held: none is."""
        return {}


FORMATS = (DequantizedFormat(),)

"""A format in one file: codes as plain bytes, scales and zero points beside them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from autoround.errors import FormatError
from autoround.formats.format import BaseFormat, BaseLayout, Layout, PackedLayer, packed_by
from autoround.formats.written import described
from autoround.types import OutputPlan, Plan, QuantizedTensor, Scheme

#: Names of a layer's tensors, and the dtype of each.
PARTS = {"codes": torch.uint8, "steps": torch.float16, "zeros": torch.uint8}


class MyLayout(BaseLayout):
    """One byte a weight [out, in], one scale and zero point a group [out, groups]."""

    name = "mine-bytes"
    parts: tuple[str, ...] = tuple(PARTS)

    def why_not(self, shape: tuple[int, int], scheme: Scheme) -> str:
        short = scheme.group_size > 0 and shape[1] % scheme.group_size
        return f"its input width {shape[1]} is no multiple of its group size" if short else ""

    def to_tensors(self, layer: QuantizedTensor) -> dict[str, Tensor]:
        rows = len(layer.codes)
        scale, zero = layer.scale.expand(rows, -1), layer.zero.expand(rows, -1)
        return {"codes": layer.codes, "steps": scale.contiguous(), "zeros": zero.contiguous()}

    def from_tensors(
        self, tensors: Mapping[str, Tensor], scheme: Scheme, *, name: str
    ) -> QuantizedTensor:
        for part, dtype in PARTS.items():
            if part not in tensors or tensors[part].dtype != dtype or tensors[part].dim() != 2:
                raise FormatError(f"layer {name}: {part} is missing, or no matrix of {dtype}")
        return QuantizedTensor(tensors["codes"], tensors["steps"], tensors["zeros"], scheme)


class MyFormat(BaseFormat):
    """Checkpoints whose config names every quantized layer with its scheme."""

    name = "mine"
    method = "mine"
    layouts: tuple[Layout, ...] = (MyLayout(),)

    def config(self, plan: Plan, output: OutputPlan) -> dict[str, Any]:
        inside, outside = described(plan)
        schemes = {
            layer.name: [layer.scheme.bits, layer.scheme.group_size, layer.scheme.sym]
            for layer in (*inside, *outside)
            if layer.scheme is not None
        }
        return {"quant_method": self.method, "layers": schemes}

    def packed_layers(
        self,
        config: Mapping[str, Any],
        shapes: Mapping[str, tuple[int, int]],
        tensors: Collection[str],
    ) -> dict[str, PackedLayer]:
        layers = config.get("layers")
        packed = packed_by("codes", shapes, tensors)
        if not isinstance(layers, Mapping) or not all(name in layers for name in packed):
            raise FormatError("quantization_config.layers does not name every packed layer")
        return {n: PackedLayer(Scheme(*layers[n]), self.layouts[0].name) for n in packed}


FORMAT = MyFormat()

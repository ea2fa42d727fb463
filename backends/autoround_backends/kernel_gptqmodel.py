"""Marlin and ExLlamaV2 on CUDA, through GPTQModel where that is installed.

Their layers are filled with GPTQ's tensors (version 2 of the zero points) as its own loader
fills them. Not run on CUDA, for want of a device; the filling is tested with GPTQModel's plain
layer, which takes the same tensors.
"""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from autoround.core.packing import pack_rows
from autoround.device.kernels import Demand, Multiply, State, group_of_input, unsupported
from autoround.device.protocol import Availability
from autoround.errors import DeviceError
from autoround.types import QuantizedTensor

PACKAGE = "gptqmodel"


class GptqmodelKernel:
    """One of GPTQModel's layers.

    layer: module and class of it. bits, sym: what it takes; sym None for both.
    """

    reversible = False
    timed = True
    install = "gptqmodel"

    def __init__(
        self, name: str, layer: tuple[str, str], *, bits: tuple[int, ...], sym: bool, rank: int
    ) -> None:
        self.name, self._layer, self._bits, self._sym, self.rank = name, layer, bits, sym, rank
        self.devices: tuple[str, ...] = ("cuda",)

    def probe(self) -> Availability:
        if find_spec(PACKAGE) is None:
            return Availability(False, "needs gptqmodel")
        return Availability(True, "gptqmodel is installed")

    def why_not(self, demand: Demand) -> str:
        (rows, columns), width = demand.shape, demand.scheme.group_size
        if self._sym and not demand.scheme.sym:
            return "symmetric only"
        if rows % 64 or columns % 128:
            return "outputs have to be a multiple of 64, inputs of 128"
        if width not in (-1, 32, 64, 128) or (width > 0 and columns % width):
            return "groups have to be 32, 64, 128 or whole rows"
        # Marlin alone, the symmetric one, has kernels for bfloat16.
        dtypes = {torch.float16: 1, torch.bfloat16: 1} if self._sym else {torch.float16: 1}
        return unsupported(demand, bits=self._bits, dtypes=dtypes)

    def pack(self, layer: QuantizedTensor, order: Tensor | None) -> State:
        bits, columns = layer.scheme.bits, layer.codes.shape[1]
        width = layer.scheme.group_size
        group = group_of_input(columns, width, order=order, device=layer.codes.device)
        return {
            "qweight": pack_rows(layer.codes.t(), bits).contiguous(),
            "qzeros": pack_rows(layer.zero, bits).t().contiguous(),
            "scales": layer.scale.t().contiguous(),
            "g_idx": group.to(torch.int32),
        }

    def unpack(self, state: State, demand: Demand) -> QuantizedTensor:
        raise DeviceError(f"weights laid out for {self.name} cannot be read back")

    def bind(self, state: State, demand: Demand, bias: Tensor | None) -> Multiply:
        module = importlib.import_module(f"{PACKAGE}.nn_modules.qlinear.{self._layer[0]}")
        kind: Any = getattr(module, self._layer[1])
        layer = kind(
            bits=demand.scheme.bits,
            group_size=demand.scheme.group_size,
            desc_act=demand.ordered,
            sym=demand.scheme.sym,
            in_features=demand.shape[1],
            out_features=demand.shape[0],
            bias=bias is not None,
            register_buffers=True,
            dtype=demand.dtype,
        )
        tensors = {**state, **({} if bias is None else {"bias": bias.to(demand.dtype)})}
        for name, tensor in tensors.items():
            # Its kernels lay tensors out anew in place: they get copies.
            part = tensor.to(demand.dtype) if name == "scales" else tensor.clone()
            if name in layer._buffers:
                layer._buffers[name] = part
            else:
                setattr(layer, name, torch.nn.Parameter(part, requires_grad=False))
        # Version 2: zero points are stored as they are, not less one.
        layer.qzero_format(format=2)
        layer.post_init()
        layer.eval()

        def multiply(x: Tensor) -> Tensor:
            out: Tensor = layer(x.to(demand.dtype))
            return out.to(x.dtype)

        return multiply


MARLIN = GptqmodelKernel("marlin", ("marlin", "MarlinLinear"), bits=(4, 8), sym=True, rank=60)
EXLLAMA = GptqmodelKernel(
    "exllamav2", ("exllamav2", "ExllamaV2Linear"), bits=(4,), sym=False, rank=55
)

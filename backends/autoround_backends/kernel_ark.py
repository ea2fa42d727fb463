"""Packed products by auto-round-lib, the kernels of the reference implementation (CPU and XPU).

Where its processor multiplies bytes it rounds activations to 8 bits. It takes the place of
ours where those cannot be built; it is slower here.
"""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from autoround.core.grids.schemes import scheme_levels
from autoround.device.kernels import Demand, Multiply, State, unsupported
from autoround.device.protocol import Availability
from autoround.errors import DeviceError
from autoround.types import QuantizedTensor

BITS = {2: "int2", 4: "int4", 8: "int8"}
MODULE = "auto_round_kernel"


class ArkKernel:
    """auto-round-lib's weight-only product."""

    name = "ark"
    devices: tuple[str, ...] = ("cpu", "xpu")
    rank = 30
    timed = False
    reversible = False
    install = "auto-round-lib"

    def probe(self) -> Availability:
        if find_spec(MODULE) is None:
            return Availability(False, "needs auto-round-lib")
        return Availability(True, "auto-round-lib is installed")

    def why_not(self, demand: Demand) -> str:
        width = demand.scheme.group_size
        if demand.ordered:
            return "not for reordered inputs"
        if width > 0 and demand.shape[1] % width:
            return "groups have to divide the inputs"
        if demand.device == "xpu" and not demand.scheme.sym:
            return "symmetric only on xpu"
        if demand.shape[0] % 32 or demand.shape[1] % 32:
            return "inputs and outputs have to be multiples of 32"
        return unsupported(demand, bits=tuple(BITS))

    def pack(self, layer: QuantizedTensor, order: Tensor | None) -> State:
        ark: Any = importlib.import_module(MODULE)
        half = scheme_levels(layer.scheme).middle
        dtype, compute = self._types(layer.codes.device)
        # The library counts levels from the middle one, in signed bytes.
        zero = (layer.zero.to(torch.int16) - half).to(torch.int8)
        blob = ark.repack_quantized_weight(
            (layer.codes.to(torch.int16) - half).to(torch.int8).t().contiguous(),
            layer.scale.to(dtype).t().contiguous(),
            torch.empty(0, dtype=torch.int8) if layer.scheme.sym else zero.t().contiguous(),
            layer.codes.shape[1] // layer.scale.shape[1],
            compute,
            BITS[layer.scheme.bits],
            "fp32" if dtype == torch.float32 else "fp16",
            not layer.scheme.sym,
        )
        return {"blob": blob}

    def unpack(self, state: State, demand: Demand) -> QuantizedTensor:
        raise DeviceError("weights laid out for auto-round-lib cannot be read back")

    def bind(self, state: State, demand: Demand, bias: Tensor | None) -> Multiply:
        ark: Any = importlib.import_module(MODULE)
        (rows, columns), scheme, blob = demand.shape, demand.scheme, state["blob"]
        width = scheme.group_size if scheme.group_size > 0 else columns
        dtype, compute = self._types(blob.device)
        scales = "fp32" if dtype == torch.float32 else "fp16"
        added = torch.empty(0, dtype=dtype, device=blob.device) if bias is None else bias.to(dtype)

        def multiply(x: Tensor) -> Tensor:
            # A product of no rows is nothing to ask the library for.
            if not x.shape[0]:
                return x.new_empty((0, rows))
            how = (rows, columns, width, compute, BITS[scheme.bits], scales, not scheme.sym)
            out: Tensor = ark.woqgemm(x.to(dtype), blob, added, *how)
            return out.to(x.dtype)

        return multiply

    def _types(self, device: torch.device) -> tuple[torch.dtype, str]:
        return (torch.float16, "int8") if device.type == "xpu" else (torch.float32, "auto")


KERNEL = ArkKernel()

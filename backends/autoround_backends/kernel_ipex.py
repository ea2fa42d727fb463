"""Packed products on XPU by Intel's extension for PyTorch, where it matches the running torch.

The extension has reached its end of life, and stock PyTorch has its own operator (``aten-xpu``):
this is for machines that still have it. Not run, for want of a device.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor

from autoround.core.packing import pack_rows
from autoround.device.kernels import Demand, Multiply, State, unsupported
from autoround.device.protocol import Availability
from autoround.errors import DeviceError
from autoround.types import QuantizedTensor
from autoround_backends.xpu import matching_extension


class IpexKernel:
    """``IPEXWeightOnlyQuantizedLinear``, filled with GPTQ's tensors."""

    name = "ipex"
    devices: tuple[str, ...] = ("xpu",)
    rank = 35
    timed = False
    reversible = False
    install = ""

    def probe(self) -> Availability:
        extension = matching_extension()
        if extension is None:
            return Availability(False, "needs an intel-extension-for-pytorch made for this torch")
        return Availability(True, f"intel-extension-for-pytorch {extension}")

    def why_not(self, demand: Demand) -> str:
        width = demand.scheme.group_size
        if demand.ordered:
            return "not for reordered inputs"
        if demand.shape[0] % 32 or demand.shape[1] % 32 or (width > 0 and demand.shape[1] % width):
            return "inputs and outputs have to be multiples of 32, inputs of the group size"
        return unsupported(demand, bits=(4,), dtypes={torch.float16: 1, torch.bfloat16: 1})

    def pack(self, layer: QuantizedTensor, order: Tensor | None) -> State:
        # Version 1 of GPTQ stores a zero point less one.
        if not bool(layer.zero.all()):
            raise DeviceError(
                "ipex takes GPTQ's zero points, of which none is 0; use another kernel"
            )
        return {
            "qweight": pack_rows(layer.codes.t(), layer.scheme.bits).contiguous(),
            "qzeros": pack_rows(layer.zero - 1, layer.scheme.bits).t().contiguous(),
            "scales": layer.scale.t().contiguous(),
        }

    def unpack(self, state: State, demand: Demand) -> QuantizedTensor:
        raise DeviceError("weights laid out for ipex cannot be read back")

    def bind(self, state: State, demand: Demand, bias: Tensor | None) -> Multiply:
        theirs: Any = importlib.import_module("intel_extension_for_pytorch.llm.quantization")
        (rows, columns), width = demand.shape, demand.scheme.group_size
        layer = theirs.IPEXWeightOnlyQuantizedLinear.from_weight(
            *(state["qweight"], state["scales"], state["qzeros"], columns, rows, None, bias),
            width if width > 0 else columns,
            None,
            quant_method=theirs.QuantMethod.GPTQ_GEMM,
            dtype=theirs.QuantDtype.INT4,
        )

        def multiply(x: Tensor) -> Tensor:
            out: Tensor = layer(x)
            return out

        return multiply


KERNEL = IpexKernel()

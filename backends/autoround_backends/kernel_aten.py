"""Packed products by the low-bit operators that come with PyTorch.

On a CPU: 4 bits in bfloat16, with scales rounded to bfloat16. It takes the place of our C kernel
where that cannot be built, and is slower. On XPU: 4 bits in float16 or bfloat16, scales in the
same dtype and integer zero points: x (q - zero)ᵀ scale, q in the order of the inputs. Its arguments
are checked without a device; it was not run on one.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from autoround.device.kernels import Demand, Multiply, State, unsupported
from autoround.device.protocol import Availability
from autoround.errors import DeviceError
from autoround.types import QuantizedTensor

GROUPS = (32, 64, 128, 256)


class AtenCpuKernel:
    """``aten::_weight_int4pack_mm_for_cpu``."""

    name = "aten"
    devices: tuple[str, ...] = ("cpu",)
    rank = 20
    timed = False
    reversible = False
    install = ""

    def probe(self) -> Availability:
        if not hasattr(torch.ops.aten, "_weight_int4pack_mm_for_cpu"):
            return Availability(False, f"torch {torch.__version__} has no such operator")
        return Availability(True, f"torch {torch.__version__}")

    def why_not(self, demand: Demand) -> str:
        if demand.ordered:
            return "not for reordered inputs"
        if demand.scheme.group_size not in GROUPS or demand.shape[1] % demand.scheme.group_size:
            return f"groups have to be {', '.join(map(str, GROUPS))} and divide the inputs"
        if demand.shape[0] % 16:
            return "outputs have to be a multiple of 16"
        return unsupported(demand, bits=(4,), dtypes={torch.bfloat16: 1})

    def pack(self, layer: QuantizedTensor, order: Tensor | None) -> State:
        # The operator counts codes from the middle level: w = (code - 8) * scale + zero.
        scale = layer.scale.float()
        zero = (8 - layer.zero.float()) * scale
        packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(layer.codes.int(), 1)
        parts = torch.stack((scale, zero), -1).transpose(0, 1)
        return {"codes": packed, "parts": parts.to(torch.bfloat16).contiguous()}

    def unpack(self, state: State, demand: Demand) -> QuantizedTensor:
        raise DeviceError("weights laid out for torch's operators cannot be read back")

    def bind(self, state: State, demand: Demand, bias: Tensor | None) -> Multiply:
        codes, parts, width = state["codes"], state["parts"], demand.scheme.group_size
        operator: Any = torch.ops.aten._weight_int4pack_mm_for_cpu
        rows = demand.shape[0]

        def multiply(x: Tensor) -> Tensor:
            # A product of no rows is nothing to ask the operator for.
            if not x.shape[0]:
                return x.new_empty((0, rows))
            out: Tensor = operator(x.to(torch.bfloat16).contiguous(), codes, width, parts)
            out = out.to(x.dtype)
            return out if bias is None else out.add_(bias.to(out.dtype))

        return multiply


class AtenXpuKernel(AtenCpuKernel):
    """``aten::_weight_int4pack_mm_with_scales_and_zeros``."""

    name = "aten-xpu"
    devices: tuple[str, ...] = ("xpu",)
    rank = 45
    timed = True

    def probe(self) -> Availability:
        if not hasattr(torch.ops.aten, "_weight_int4pack_mm_with_scales_and_zeros"):
            return Availability(False, f"torch {torch.__version__} has no such operator")
        return Availability(True, f"torch {torch.__version__}")

    def why_not(self, demand: Demand) -> str:
        # What it says of bfloat16 holds for float16 as well.
        if demand.dtype == torch.float16:
            demand = Demand(demand.shape, demand.scheme, demand.device, torch.bfloat16)
        return super().why_not(demand)

    def pack(self, layer: QuantizedTensor, order: Tensor | None) -> State:
        # Two codes a byte, the first one in the low half, read as words of eight.
        pairs = layer.codes[:, 0::2] | (layer.codes[:, 1::2] << 4)
        return {
            "codes": pairs.contiguous().view(torch.int32),
            "scale": layer.scale.t().contiguous(),
            "zero": layer.zero.t().to(torch.int8).contiguous(),
        }

    def bind(self, state: State, demand: Demand, bias: Tensor | None) -> Multiply:
        codes, zero, width = state["codes"], state["zero"], demand.scheme.group_size
        # Scales are read in the inputs' dtype, zero points as the integers they are.
        scale = state["scale"].to(demand.dtype)
        operator: Any = torch.ops.aten._weight_int4pack_mm_with_scales_and_zeros
        rows = demand.shape[0]

        def multiply(x: Tensor) -> Tensor:
            if not x.shape[0]:
                return x.new_empty((0, rows))
            # The operator refuses inputs of another device than the current one.
            guard = torch.xpu.device(x.device) if x.device.type == "xpu" else nullcontext()
            with guard:
                out: Tensor = operator(x.contiguous(), codes, width, scale, zero)
            return out if bias is None else out.add_(bias.to(out.dtype))

        return multiply


CPU = AtenCpuKernel()
XPU = AtenXpuKernel()

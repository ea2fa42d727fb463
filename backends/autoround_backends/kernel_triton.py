"""Packed products on GPUs by our Triton kernels: 2 to 8 bits, any grid, any groups."""

from __future__ import annotations

from functools import cached_property
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from autoround.core import packed
from autoround.device.kernels import Demand, Multiply, State, unsupported
from autoround.device.protocol import Availability
from autoround.types import QuantizedTensor

DTYPES = {torch.float16: 1, torch.bfloat16: 1, torch.float32: 1}
#: Up to how many rows one program takes one row.
FEW = 8


class TritonKernel:
    """Unpacks in registers, so that the weight is read once and packed."""

    name = "triton"
    devices: tuple[str, ...] = ("cuda", "xpu")
    rank = 40
    timed = True
    reversible = True
    install = "triton"

    def probe(self) -> Availability:
        if find_spec("triton") is None:
            return Availability(False, "needs triton, which torch for GPUs brings along")
        return Availability(True, "triton is installed")

    def why_not(self, demand: Demand) -> str:
        return unsupported(demand, dtypes=DTYPES)

    def pack(self, layer: QuantizedTensor, order: Tensor | None) -> State:
        return packed.pack(layer, order)

    def unpack(self, state: State, demand: Demand) -> QuantizedTensor:
        return packed.unpack(state, demand.shape, demand.scheme)

    @cached_property
    def _source(self) -> Any:
        from autoround_backends import _triton_linear
        from autoround_backends._triton_cache import keep_kernels

        keep_kernels()
        return _triton_linear

    def bind(self, state: State, demand: Demand, bias: Tensor | None) -> Multiply:
        (rows, columns), scheme = demand.shape, demand.scheme
        words, scale, zero = state["words"], state["scale"], state["zero"]
        group, uniform = state.get("group"), zero.numel() == 1
        constants: dict[str, Any] = {
            "BITS": scheme.bits,
            "WIDTH": scheme.group_size if scheme.group_size > 0 else columns,
            "UNIFORM": uniform,
            "ORDERED": group is not None,
        }
        source = self._source

        def multiply(x: Tensor) -> Tensor:
            x = x.contiguous()
            count = x.shape[0]
            out = x.new_empty((count, rows))
            tensors = (x, words, scale, zero, words if group is None else group, out)
            sizes = (count, rows, columns, words.stride(0), scale.shape[1])
            # Tensor cores multiply 16 rows at least: a few are faster as sums.
            if 0 < count <= FEW:
                grid = (-(-rows // 16), count)
                blocks = {"BLOCK_N": 16, "BLOCK_K": 256}
                source.launch(source.few_rows, grid, (*tensors, *sizes), {**constants, **blocks})
            elif count:
                # A tile as tall as there are rows, or products with padding are computed.
                tall = 16 if count <= 16 else 32 if count <= 64 else 64
                grid = (-(-count // tall), -(-rows // 64))
                blocks = {"BLOCK_M": tall, "BLOCK_N": 64, "BLOCK_K": 64}
                source.launch(source.many_rows, grid, (*tensors, *sizes), {**constants, **blocks})
            return out if bias is None else out.add_(bias.to(out.dtype))

        return multiply


KERNEL = TritonKernel()

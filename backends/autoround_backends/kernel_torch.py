"""Packed products in plain torch, on any device, unpacking some rows of the weight at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from autoround.core import packed
from autoround.device.kernels import Demand, Multiply, State
from autoround.device.protocol import Availability
from autoround.types import QuantizedTensor

#: Weights of a tile: in float32 a few copies of it fit a core's second-level cache.
TILE = 1 << 17
#: The same on devices where a launch costs more than memory.
TILE_ELSEWHERE = 1 << 24


class TorchKernel:
    """Runs everywhere, and is never the fastest."""

    name = "torch"
    devices: tuple[str, ...] = ()
    rank = 0
    timed = False
    reversible = True
    install = ""

    def probe(self) -> Availability:
        return Availability(True, f"torch {torch.__version__}")

    def why_not(self, demand: Demand) -> str:
        return ""

    def pack(self, layer: QuantizedTensor, order: Tensor | None) -> State:
        return packed.pack(layer, order)

    def unpack(self, state: State, demand: Demand) -> QuantizedTensor:
        return packed.unpack(state, demand.shape, demand.scheme)

    def bind(self, state: State, demand: Demand, bias: Tensor | None) -> Multiply:
        rows, columns = demand.shape
        tile = TILE if state["words"].device.type == "cpu" else TILE_ELSEWHERE
        step = max(1, tile // columns)

        def multiply(x: Tensor) -> Tensor:
            out = x.new_empty((x.shape[0], rows))
            # Each product goes into its columns of the result: nothing is put together afterwards.
            for start in range(0, rows, step):
                part = slice(start, min(start + step, rows))
                weight = packed.dense_rows(state, part, shape=demand.shape, scheme=demand.scheme)
                torch.mm(x, weight.to(x.dtype).t(), out=out[:, part])
            return out if bias is None else out.add_(bias.to(out.dtype))

        return multiply


KERNEL = TorchKernel()

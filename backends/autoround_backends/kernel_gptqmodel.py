"""Marlin and ExLlamaV2 on CUDA, through GPTQModel where that is installed.

Their layers are filled with GPTQ's tensors (version 2 of the zero points) as its own loader
fills them. Not run on CUDA, for want of a device; the filling is tested with GPTQModel's plain
layer, which takes the same tensors, and with classes that stand for the two.

GPTQModel compiles its kernels when one is first used, which takes minutes, and importing it changes
how other libraries of the process save files. So neither is tried by itself: once one was asked for
by name, and works, it is timed beside the others like any.
"""

from __future__ import annotations

import importlib
from contextlib import AbstractContextManager, nullcontext
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

    layer: module and class of it. bits: what it takes. sym: whether symmetric grids alone.
    scratch: module and class of the memory that all its layers on a device share; empty for none.
    """

    reversible = False
    install = "gptqmodel"

    def __init__(
        self,
        name: str,
        layer: tuple[str, str],
        *,
        bits: tuple[int, ...],
        sym: bool,
        rank: int,
        scratch: tuple[str, str] = ("", ""),
    ) -> None:
        self.name, self._layer, self._bits, self._sym, self._rank = name, layer, bits, sym, rank
        self.devices: tuple[str, ...] = ("cuda",)
        self._scratch, self._spaces = scratch, dict[torch.device, tuple[int, Any]]()
        self._works = False

    @property
    def rank(self) -> int:
        """By name only until it was used in this process: its kernels are compiled then."""
        return self._rank if self._works else -1

    @property
    def timed(self) -> bool:
        """Whether a timing would be one of its products alone."""
        return self._works

    def probe(self) -> Availability:
        if find_spec(PACKAGE) is None:
            return Availability(False, "needs gptqmodel")
        return Availability(
            True, "gptqmodel is installed; its kernels are compiled at their first use, for minutes"
        )

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
        device = state["qweight"].device
        try:
            with on_device_of(device):
                layer = self._layer_of(state, demand, bias)
        except (ImportError, AttributeError, TypeError, ValueError, RuntimeError) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0][:300]
            raise DeviceError(
                f"{self.name} cannot be used: gptqmodel fails with {type(error).__name__}: "
                f"{reason}; choose another kernel, or another version of gptqmodel"
            ) from error
        self._works = True

        def multiply(x: Tensor) -> Tensor:
            with on_device_of(device):
                out: Tensor = layer(x.to(demand.dtype))
            return out.to(x.dtype)

        return multiply

    def _layer_of(self, state: State, demand: Demand, bias: Tensor | None) -> Any:
        """Make GPTQModel's layer and fill it."""
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
            if name == "g_idx" and self._scratch[0] and not demand.ordered:
                # Any group but the first would send a layer in its own order the long way round.
                part = torch.zeros_like(part)
            if name in layer._buffers:
                layer._buffers[name] = part
            else:
                setattr(layer, name, torch.nn.Parameter(part, requires_grad=False))
        # Version 2: zero points are stored as they are, not less one.
        layer.qzero_format(format=2)
        if self._scratch[0]:
            layer.post_init(self._space(int(layer.temp_dq_size()), state["qweight"].device))
        else:
            layer.post_init()
        layer.eval()
        return layer

    def _space(self, size: int, device: torch.device) -> Any:
        """Return the memory that layers on a device share, of a size at least; they take turns.

        A layer holds on to the one it was given, so one that grows leaves earlier ones as they are.
        """
        largest, space = self._spaces.get(device, (0, None))
        if size > largest:
            module = importlib.import_module(f"{PACKAGE}.{self._scratch[0]}")
            # It hands out pieces of whole 128 bytes.
            space = getattr(module, self._scratch[1])(-(-size // 128) * 128, device)
            self._spaces[device] = size, space
        return space


def on_device_of(device: torch.device) -> AbstractContextManager[object]:
    """Return what makes a device the current one, which kernels of others are started on."""
    if device.type == "cpu":
        return nullcontext()
    module: Any = torch.get_device_module(device)
    current: AbstractContextManager[object] = module.device(device)
    return current


MARLIN = GptqmodelKernel("marlin", ("marlin", "MarlinLinear"), bits=(4, 8), sym=True, rank=60)
EXLLAMA = GptqmodelKernel(
    "exllamav2",
    ("exllamav2", "ExllamaV2Linear"),
    bits=(4,),
    sym=False,
    rank=55,
    scratch=("utils.exllamav2", "ScratchSpace"),
)

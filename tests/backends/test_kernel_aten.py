"""What torch's operators for packed weights are given; the one for Intel GPUs without any."""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from autoround.device.kernels import Demand, kernels
from autoround.types import QuantizedTensor, Scheme
from autoround_backends import kernel_aten
from autoround_backends.kernel_aten import XPU

ROWS, COLUMNS = 48, 256


def layer_of(width: int, *, sym: bool) -> QuantizedTensor:
    """Draw a layer of 4 bits, with every zero point that there is."""
    rng = torch.Generator().manual_seed(width)
    groups = COLUMNS // width
    codes = torch.randint(0, 16, (ROWS, COLUMNS), generator=rng, dtype=torch.uint8)
    scale = (torch.randn((ROWS, groups), generator=rng) * 0.02).half()
    zero = torch.arange(ROWS * groups).view(ROWS, groups) % 16 if not sym else None
    plain = torch.full((ROWS, groups), 8) if zero is None else zero
    return QuantizedTensor(codes, scale, plain.to(torch.uint8), Scheme(4, width, sym))


def demand_of(layer: QuantizedTensor, dtype: torch.dtype) -> Demand:
    return Demand((ROWS, COLUMNS), layer.scheme, "xpu", dtype)


def onednn_product(x: Tensor, codes: Tensor, width: int, scale: Tensor, zero: Tensor) -> Tensor:
    """Do what torch asks of oneDNN, reading memory as it says that it lies there.

    Codes: columns follow each other, two a byte, the first in the low half. Scales and zero points:
    [inputs / width, outputs], outputs following each other; a zero point is subtracted.
    """
    assert x.is_contiguous()
    assert x.dtype in (torch.bfloat16, torch.float16)
    assert codes.dtype == torch.int32
    assert zero.dtype == torch.int8
    assert width > 1
    assert width % 32 == 0
    (count, inputs), outputs = x.shape, codes.shape[0]
    assert scale.shape == zero.shape == (inputs // width, outputs)
    assert scale.dtype == x.dtype
    memory = codes.view(torch.uint8).flatten()
    nibbles = torch.stack((memory & 15, memory >> 4), -1).flatten().view(outputs, inputs)
    flat = [part.as_strided(part.shape, (outputs, 1)) for part in (scale, zero)]
    by_group = [part.double().repeat_interleave(width, 0).t() for part in flat]
    weight = (nibbles.double() - by_group[1]) * by_group[0]
    assert count
    return (x.double() @ weight.t()).to(x.dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("sym", [True, False])
@pytest.mark.parametrize("width", [32, 128])
def test_products_on_intel_gpus_read_memory_as_onednn_does(
    width: int, sym: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = layer_of(width, sym=sym)
    demand = demand_of(layer, dtype)
    assert XPU.why_not(demand) == ""
    monkeypatch.setattr(
        torch.ops.aten, "_weight_int4pack_mm_with_scales_and_zeros", onednn_product, raising=False
    )
    bias = torch.randn(ROWS, generator=torch.Generator().manual_seed(1)).to(dtype)
    multiply = XPU.bind(XPU.pack(layer, None), demand, bias)
    x = torch.randn((5, COLUMNS), generator=torch.Generator().manual_seed(2)).to(dtype)
    columns = layer.zero.double().repeat_interleave(width, 1)
    scales = layer.scale.to(dtype).double().repeat_interleave(width, 1)
    exact = x.double() @ ((layer.codes.double() - columns) * scales).t() + bias.double()
    out = multiply(x.t().contiguous().t())  # laid out the other way round
    torch.testing.assert_close(out.double(), exact, rtol=1e-2, atol=1e-2)
    assert multiply(x[:0]).shape == (0, ROWS)


def test_the_operator_takes_what_it_is_given() -> None:
    """On meta tensors, where it has shapes: names and order of arguments are torch's."""
    if not XPU.probe().available:
        pytest.skip(XPU.probe().reason)
    operator: Any = torch.ops.aten._weight_int4pack_mm_with_scales_and_zeros
    names = [argument.name for argument in operator.default._schema.arguments]
    assert names == ["self", "mat2", "qGroupSize", "qScale", "qZeros"]
    layer = layer_of(64, sym=False)
    there = QuantizedTensor(
        *(part.to("meta") for part in (layer.codes, layer.scale, layer.zero)), layer.scheme
    )
    for dtype in (torch.bfloat16, torch.float16):
        state = XPU.pack(there, None)
        multiply = XPU.bind(state, demand_of(layer, dtype), None)
        out = multiply(torch.empty((3, COLUMNS), dtype=dtype, device="meta"))
        assert (out.shape, out.dtype, out.device.type) == ((3, ROWS), dtype, "meta")
        assert (state["codes"].dtype, state["codes"].shape) == (torch.int32, (ROWS, COLUMNS // 8))


def test_a_second_device_is_made_the_current_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The operator refuses inputs of any other."""
    current: list[str] = ["xpu:0"]

    @contextmanager
    def device(index: Any) -> Any:
        current.append(str(index))
        yield
        current.pop()

    class Inputs:
        """Stands for a tensor of the second device."""

        shape, device = (2, COLUMNS), torch.device("xpu", 1)

        def contiguous(self) -> Tensor:
            return torch.ones(self.shape, dtype=torch.bfloat16)

    def product(x: Tensor, *given: Any) -> Tensor:
        assert current[-1] == "xpu:1"
        return onednn_product(x, *given)

    monkeypatch.setattr(kernel_aten.torch.xpu, "device", device)
    monkeypatch.setattr(
        torch.ops.aten, "_weight_int4pack_mm_with_scales_and_zeros", product, raising=False
    )
    layer = layer_of(64, sym=True)
    multiply: Any = XPU.bind(XPU.pack(layer, None), demand_of(layer, torch.bfloat16), None)
    assert multiply(Inputs()).shape == (2, ROWS)
    assert current == ["xpu:0"]


def test_no_kernel_of_other_devices_is_offered_on_intel_gpus() -> None:
    offered = {
        entry.name
        for entry in kernels()
        if entry.kernel is not None and (not entry.kernel.devices or "xpu" in entry.kernel.devices)
    }
    assert offered == {"ark", "aten-xpu", "ipex", "torch", "triton"}

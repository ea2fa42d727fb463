"""Every kernel for packed weights against the float64 product with the unpacked weight."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from autoround.device.kernels import Demand, Kernel, kernels
from autoround.types import PER_CHANNEL, QuantizedTensor, Scheme
from autoround_backends import _cpu_layout, _native
from autoround_backends.kernel_native import NativeKernel

HERE = {
    found.name: found.kernel
    for found in kernels()
    if found.kernel is not None
    and found.availability.available
    and (not found.kernel.devices or "cpu" in found.kernel.devices)
}
#: Largest error by kernel, in units of the largest sum of the products' sizes.
CLOSE = {torch.float32: 1e-4, torch.bfloat16: 8e-3, torch.float16: 1e-3, torch.float64: 1e-4}
#: Rounding of sums in float32, with some room.
SINGLE = 2.0**-21
#: One input of 30 among 128 of about 1 leaves the others 2 bits of 8.
COARSE = {"native-int8": 0.1, "ark": 0.1}
#: Kernels of this project, which promise more.
OURS = [name for name in HERE if name.startswith(("native", "torch"))]


def drawn(
    shape: tuple[int, int], scheme: Scheme, *, seed: int, half: torch.dtype = torch.float16
) -> QuantizedTensor:
    """Draw integers with scales of both signs and, if asymmetric, any zero points."""
    rng = torch.Generator().manual_seed(seed)
    rows, columns = shape
    width = scheme.group_size if scheme.group_size > 0 else columns
    groups, top = -(-columns // width), 2**scheme.bits
    codes = torch.randint(0, top, shape, generator=rng, dtype=torch.uint8)
    scale = (torch.randn((rows, groups), generator=rng) * 0.02).to(half)
    zero = torch.full((rows, groups), top // 2, dtype=torch.uint8)
    if not scheme.sym:
        zero = torch.randint(0, top, (rows, groups), generator=rng).to(torch.uint8)
    return QuantizedTensor(codes, scale, zero, scheme)


def exact(layer: QuantizedTensor, order: Tensor | None) -> Tensor:
    columns = layer.codes.shape[1]
    width = layer.scheme.group_size if layer.scheme.group_size > 0 else columns
    group = torch.arange(columns) // width if order is None else order
    return (layer.codes.double() - layer.zero.double()[:, group]) * layer.scale.double()[:, group]


def check(
    kernel: Kernel,
    layer: QuantizedTensor,
    x: Tensor,
    *,
    order: Tensor | None,
    bias: Tensor | None,
    device: str = "cpu",
) -> None:
    """Hold a product against the exact one; the kernel works on ``device``."""
    shape = (int(layer.codes.shape[0]), int(layer.codes.shape[1]))
    demand = Demand(shape, layer.scheme, device, x.dtype, order is not None)
    if kernel.why_not(demand):
        return
    held = QuantizedTensor(
        layer.codes.to(device), layer.scale.to(device), layer.zero.to(device), layer.scheme
    )
    state = kernel.pack(held, None if order is None else order.to(device))
    own_bias = None if bias is None else bias.to(device)
    out = kernel.bind(state, demand, own_bias)(x.to(device)).cpu()
    assert (out.dtype, out.shape) == (x.dtype, (x.shape[0], shape[0]))
    if not x.numel():
        return
    weight = exact(layer, order)
    expected = x.double() @ weight.t()
    size = (x.double().abs() @ weight.abs().t()).max().clamp(min=1e-9)
    if bias is not None:
        expected = expected + bias.double()
        size = size + bias.double().abs().max()
    if kernel.name in COARSE:
        # Half a step of 8 bits is lost of every input, however little it weighs in the sum.
        step = x.double().abs().amax(1, keepdim=True) / 127
        size = size + 0.5 * (step * weight.abs().sum(1)).max() / COARSE[kernel.name]
    if x.dtype == torch.float32:
        # Codes and zero points may be summed apart: their rounding stays where the sums cancel.
        most = layer.codes.double().max() + layer.zero.double().max()
        terms = x.double().abs().sum(1).max() * most * layer.scale.double().abs().max()
        size = size + SINGLE / CLOSE[x.dtype] * terms
    worst = ((out.double() - expected).abs() / size).max()
    assert worst <= max(CLOSE[x.dtype], COARSE.get(kernel.name, 0.0))
    if not kernel.reversible:
        return
    back = kernel.unpack(state, demand)
    assert torch.equal(back.codes.cpu(), layer.codes)
    assert torch.equal(back.scale.cpu(), layer.scale)
    assert torch.equal(back.zero.cpu(), layer.zero)


@pytest.mark.parametrize("name", HERE)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_a_product_is_that_of_the_unpacked_weight(name: str, data: st.DataObject) -> None:
    bits = data.draw(st.integers(2, 8))
    size = data.draw(st.sampled_from([PER_CHANNEL, 16, 32, 48, 64, 128, 256]))
    shape = data.draw(st.tuples(st.integers(1, 70), st.integers(1, 300)))
    scheme = Scheme(bits, size, data.draw(st.booleans()))
    seed = data.draw(st.integers(0, 2**16))
    half = data.draw(st.sampled_from([torch.float16, torch.bfloat16]))
    dtype = data.draw(st.sampled_from(list(CLOSE)))
    layer = drawn(shape, scheme, seed=seed, half=half)
    rng = torch.Generator().manual_seed(seed)
    rows = data.draw(st.sampled_from([1, 2, 3, 5, 9, 15, 70]))
    x = torch.randn((rows, shape[1]), generator=rng)
    x[:, ::7] *= data.draw(st.sampled_from([0.0, 1.0, 30.0]))
    order = None
    if data.draw(st.booleans()):
        width = size if size > 0 else shape[1]
        order = (torch.arange(shape[1]) // width)[torch.randperm(shape[1], generator=rng)]
    bias = torch.randn(shape[0], generator=rng) if data.draw(st.booleans()) else None
    check(HERE[name], layer, x.to(dtype), order=order, bias=bias)


@pytest.mark.parametrize("name", HERE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_any_number_of_rows(name: str, dtype: torch.dtype) -> None:
    layer = drawn((96, 256), Scheme(4, 64, False), seed=0)
    for rows in (0, 1, 7, 64, 65, 129, 2500):
        x = torch.randn((rows, 256), generator=torch.Generator().manual_seed(rows)).to(dtype)
        check(HERE[name], layer, x, order=None, bias=torch.ones(96))


@pytest.mark.parametrize("rows", [1, 40])
def test_activations_of_8_bits_are_close_where_none_sticks_out(rows: int) -> None:
    if "native-int8" not in HERE:
        pytest.skip("no C compiler here")
    layer = drawn((64, 512), Scheme(4, 128, False), seed=3)
    x = torch.randn((rows, 512), generator=torch.Generator().manual_seed(4))
    demand = Demand((64, 512), layer.scheme, "cpu", torch.float32)
    kernel = HERE["native-int8"]
    out = kernel.bind(kernel.pack(layer, None), demand, None)(x).double()
    expected = x.double() @ exact(layer, None).t()
    assert 1e-3 < (out - expected).norm() / expected.norm() < 1e-2


@pytest.mark.parametrize("name", OURS)
def test_rows_do_not_depend_on_each_other(name: str) -> None:
    """A row that is zero, infinite or not a number changes nothing but itself."""
    layer = drawn((40, 192), Scheme(3, 64, False), seed=1)
    demand = Demand((40, 192), layer.scheme, "cpu", torch.float32)
    kernel = HERE[name]
    run = kernel.bind(kernel.pack(layer, None), demand, None)
    x = torch.randn((5, 192), generator=torch.Generator().manual_seed(2))
    x[1], x[2, 3], x[3, 5] = 0.0, float("inf"), float("nan")
    out = run(x)
    assert torch.equal(out[1], torch.zeros(40))
    assert not out[2].isfinite().any()
    assert out[3].isnan().all()
    torch.testing.assert_close(
        out[[0, 4]],
        x[[0, 4]] @ exact(layer, None).float().t(),
        atol=2e-2 if name in COARSE else 1e-3,
        rtol=1e-2,
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("sym", [True, False])
def test_the_way_of_many_rows_gives_the_same(
    dtype: torch.dtype, sym: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which way is taken is a matter of speed: force the one that unpacks tiles."""
    if "native" not in HERE:
        pytest.skip("no C compiler here")
    kernel = HERE["native"]
    monkeypatch.setattr(NativeKernel, "_switch", lambda *_: 1)
    order = (torch.arange(160) // 32).flip(0)
    for bits, given_order in itertools.product(range(2, 9), (None, order)):
        layer = drawn((75, 160), Scheme(bits, 32, sym), seed=bits)
        x = torch.randn((33, 160), generator=torch.Generator().manual_seed(bits)).to(dtype)
        check(kernel, layer, x, order=given_order, bias=torch.ones(75))


@pytest.mark.slow
@pytest.mark.skipif(_native.compiler() is None, reason="no C compiler here")
@pytest.mark.parametrize(
    "options",
    [
        ("-DNO_MATRIX",),
        ("-DPLAIN",),
        ("-DPLAIN", "-mno-avx2", "-mno-avx512f"),
        ("-mno-avx512f",),
        ("-mno-avx512f", "-mno-avxvnni"),
        ("-mno-avx512vnni",),
    ],
    ids=" ".join,
)
def test_what_other_processors_would_run(options: tuple[str, ...]) -> None:
    """The same source without the instructions that others lack, where this one has them."""
    for wide in (True, False):
        kernel: Any = NativeKernel(wide=wide, options=options)
        if not kernel.probe().available:
            pytest.skip(kernel.probe().reason)
        cases = itertools.product(range(2, 9), (True, False), (torch.float32, torch.bfloat16))
        for bits, sym, dtype in cases:
            layer = drawn((53, 320), Scheme(bits, 128, sym), seed=bits)
            for rows in (1, 2, 4, 9, 67):
                rng = torch.Generator().manual_seed(rows)
                x = torch.randn((rows, 320), generator=rng).to(dtype)
                check(kernel, layer, x, order=None, bias=None)


def test_a_layout_holds_no_more_than_its_bits() -> None:
    layer = drawn((4096, 512), Scheme(3, 128, True), seed=0)
    state = _cpu_layout.pack(layer, None, lanes=16)
    assert state["codes"].nbytes == 4096 * 512 * 3 // 8
    assert sum(t.nbytes for t in state.values()) < 4096 * 512 * (3 + 16 / 128) / 8 + 1000

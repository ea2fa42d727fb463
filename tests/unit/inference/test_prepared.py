"""A packed layer laid out for a kernel: its state, its moves, its copies, its gradients."""

from __future__ import annotations

import copy
import pickle
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from autoround.device import kernels as registry
from autoround.device.kernels import kernels
from autoround.device.protocol import Availability
from autoround.errors import DeviceError, FormatError, UsageError
from autoround.inference.kernels import advise
from autoround.inference.linear import QuantLinear
from autoround.types import Scheme

from ...packed import to_tensors
from ...tiny_quantized import nearest

PACKINGS = {
    "auto_round:auto_gptq": Scheme(3, 32, True),
    "auto_round": Scheme(2, 16, False),
    "auto_round:auto_awq": Scheme(4, 32, False),
    "gptq_v2": Scheme(8, 64, False),
    "gptq": Scheme(4, -1, True),
    "pack-quantized": Scheme(4, 32, True),
    "mlx": Scheme(6, 32, True),
}
BACKENDS = [
    found.name
    for found in kernels()
    if found.availability.available
    and found.kernel is not None
    and (not found.kernel.devices or "cpu" in found.kernel.devices)
    and found.name.startswith(("native", "torch"))
]


def filled(scheme: Scheme, packing: str, *, bias: bool = True, seed: int = 0) -> QuantLinear:
    generator = torch.Generator().manual_seed(seed)
    quantized = nearest(torch.randn(96, 64, generator=generator), scheme)
    state = to_tensors(quantized, packing)
    if bias:
        state["bias"] = torch.randn(96, generator=generator).half()
    layer = QuantLinear((96, 64), scheme, packing=packing, bias=bias)
    layer.load_state_dict(state, assign=True)
    layer.check("layer")
    return layer


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return list(one) == list(other) and all(
        one[n].dtype == other[n].dtype and torch.equal(one[n], other[n]) for n in one
    )


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("packing", PACKINGS)
def test_its_state_stays_that_of_the_checkpoint(packing: str, backend: str) -> None:
    layer = filled(PACKINGS[packing], packing)
    before = {n: t.clone() for n, t in layer.state_dict().items()}
    dense = layer.dense()
    assert layer.kernel == ""
    layer.prepare(torch.float32, backend=backend)
    assert layer.kernel == backend
    assert not {"qweight", "weight_packed"} & set(dict(layer.named_buffers()))
    assert equal(layer.state_dict(), before)
    assert torch.equal(layer.dense(), dense)
    layer.prepare(torch.float32, backend="torch")
    assert equal(layer.state_dict(), before)


def test_it_computes_the_same_by_every_kernel() -> None:
    layer = filled(Scheme(4, 32, False), "auto_round")
    x = torch.randn((2, 3, 64), generator=torch.Generator().manual_seed(0))
    expected = layer(x)
    for backend in ("auto", *BACKENDS):
        layer.prepare(torch.float32, backend=backend)
        close = 0.3 if backend == "native-int8" else 2e-3
        torch.testing.assert_close(layer(x), expected, atol=close, rtol=close)
        assert layer(x[0, 0]).shape == (96,)
        assert layer(x[:0]).shape == (0, 3, 96)


def test_a_copy_is_a_layer_of_its_own() -> None:
    layer = filled(Scheme(4, 32, True), "auto_round:auto_gptq")
    layer.prepare(torch.float32)
    x = torch.randn(3, 64)
    expected = layer(x)
    other, third = copy.deepcopy(layer), copy.deepcopy(layer)
    for name, buffer in other.named_buffers():
        if name == "bias":
            buffer.zero_()
    assert torch.equal(layer(x), expected)
    assert not torch.equal(other(x), expected)
    del layer
    assert torch.equal(third(x), expected)
    assert torch.equal(
        pickle.loads(pickle.dumps(third)).state_dict()["scales"], third.state_dict()["scales"]
    )


def test_a_state_can_be_loaded_into_it() -> None:
    layer = filled(Scheme(4, 32, True), "auto_round:auto_gptq")
    other = filled(Scheme(4, 32, True), "auto_round:auto_gptq", seed=1)
    layer.prepare(torch.float32)
    layer.load_state_dict(other.state_dict())
    assert layer.kernel
    assert equal(layer.state_dict(), other.state_dict())
    x = torch.randn(2, 64)
    torch.testing.assert_close(layer(x), other(x), atol=2e-3, rtol=2e-3)


def test_a_change_of_dtype_leaves_scales_as_they_are() -> None:
    layer = filled(Scheme(4, 32, True), "auto_round:auto_gptq")
    before = {n: t.clone() for n, t in layer.state_dict().items()}
    for prepared in (False, True):
        if prepared:
            layer.prepare(torch.float32)
        nn.Sequential(layer).to(torch.bfloat16)
        after = layer.state_dict()
        assert after.pop("bias").dtype == torch.bfloat16
        assert equal(after, {n: t for n, t in before.items() if n != "bias"})
        assert layer(torch.randn(2, 64).bfloat16()).dtype == torch.bfloat16


def test_a_move_asks_for_a_kernel_of_that_device(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = filled(Scheme(4, 32, True), "auto_round:auto_gptq")
    layer.prepare(torch.float32)
    moved = copy.deepcopy(layer).to("meta")
    assert moved.kernel == ""
    assert all(t.is_meta for t in moved.state_dict().values())
    assert layer.to("cpu").kernel


def test_gradients_pass_through_it() -> None:
    layer = filled(Scheme(4, 32, True), "auto_round:auto_gptq")
    x = torch.randn(2, 64, requires_grad=True)
    (expected,) = torch.autograd.grad(layer(x).sum(), x)
    layer.prepare(torch.float32)
    out = layer(x)
    assert out.requires_grad
    (got,) = torch.autograd.grad(out.sum(), x)
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("backend", ["", *BACKENDS])
@pytest.mark.parametrize("shape", [(64,), (2, 64), (2, 3, 64), (0, 64)])
def test_its_output_may_be_changed_in_place(backend: str, shape: tuple[int, ...]) -> None:
    layer = filled(Scheme(4, 32, True), "auto_round:auto_gptq")
    if backend:
        layer.prepare(torch.float32, backend=backend)
    x = torch.randn(shape, requires_grad=True)
    (expected,) = torch.autograd.grad((layer(x) * 2 + 1).square().sum(), x)
    out = layer(x)
    out.mul_(2)
    out += 1
    (got,) = torch.autograd.grad(out.square().sum(), x)
    torch.testing.assert_close(got, expected)
    with torch.no_grad():
        plain = layer(x)
        plain.add_(1)
        torch.testing.assert_close(plain, layer(x) + 1)


def test_gradients_pass_through_a_compiled_graph() -> None:
    layer = filled(Scheme(4, 32, False), "auto_round")
    layer.prepare(torch.float32, backend="torch")
    compiled: Any = torch.compile(layer, backend="aot_eager", fullgraph=True)
    for shape in ((3, 64), (2, 3, 64)):
        x = torch.randn(shape, requires_grad=True)
        (expected,) = torch.autograd.grad(layer(x).square().sum(), x)
        (got,) = torch.autograd.grad(compiled(x).square().sum(), x)
        torch.testing.assert_close(got, expected)


def test_it_can_be_compiled() -> None:
    layers = nn.Sequential(filled(Scheme(4, 32, False), "auto_round"), nn.ReLU(), nn.Linear(96, 8))
    layers[0].prepare(torch.float32)  # type: ignore[operator]
    compiled: Any = torch.compile(layers, backend="aot_eager", fullgraph=True, dynamic=True)
    with torch.no_grad():
        for rows in (1, 5):
            x = torch.randn(rows, 64)
            torch.testing.assert_close(compiled(x), layers(x))


def test_a_zero_point_that_version_1_cannot_write_is_kept() -> None:
    layer = filled(Scheme(4, 32, False), "gptq_v2", bias=False)
    state = {n: t.clone() for n, t in layer.state_dict().items()}
    state["qzeros"][0, 0] = -1  # every field of the word is 15, which version 1 reads as 0
    old = QuantLinear((96, 64), Scheme(4, 32, False), packing="gptq", bias=False)
    old.load_state_dict(state, assign=True)
    old.check("layer")
    assert int(old.quantized().zero.min()) == 0
    x, expected = torch.randn(2, 64), old(torch.ones(1, 64))
    old.prepare(torch.float32)
    torch.testing.assert_close(old(torch.ones(1, 64)), expected, atol=1e-3, rtol=1e-3)
    assert equal(old.state_dict(), state)
    assert old(x).shape == (2, 96)


def test_wrong_names_and_scales_are_refused() -> None:
    layer = filled(Scheme(4, 32, True), "auto_round:auto_gptq")
    with pytest.raises(UsageError, match=r"no kernel is named 'abacus'; legal: auto, .*torch"):
        layer.prepare(torch.float32, backend="abacus")
    with pytest.raises(DeviceError, match=r"no kernel can run a layer of 64 inputs.*triton: for"):
        layer.prepare(torch.float32, backend="triton")
    layer.scales[0, 0] = float("nan")
    with pytest.raises(FormatError, match="layer some.where: tensor scales holds infinity or NaN"):
        layer.check("some.where")


def test_a_slow_kernel_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = filled(Scheme(4, 32, True), "auto_round:auto_gptq")
    layer.prepare(torch.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        if layer.kernel == "native":
            advise(layer)
        layer.prepare(torch.float32, backend="torch")
        advise(layer)  # it was asked for
    none = Availability(False, "no C compiler")
    mine = [f._replace(availability=none) if "native" in f.name else f for f in kernels()]
    monkeypatch.setattr("autoround.device.kernels.kernels", lambda: tuple(mine))
    monkeypatch.setattr("autoround.inference.kernels.kernels", lambda: tuple(mine))
    registry._choose.cache_clear()
    try:
        layer.prepare(torch.float32)
        with pytest.warns(UserWarning, match=r"1 layers run by the kernel 'torch'.*no C compiler"):
            advise(layer)
    finally:
        registry._choose.cache_clear()

"""GPTQModel's layers as they are made and filled, with classes that stand for its own."""

from __future__ import annotations

import sys
import types
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from autoround.device.kernels import Demand, RegisteredKernel, choose_among
from autoround.device.protocol import Availability
from autoround.errors import DeviceError
from autoround.types import Scheme
from autoround_backends.kernel_gptqmodel import EXLLAMA, MARLIN, GptqmodelKernel

from .test_kernels import drawn

SHAPE = (64, 128)


class Space:
    """Stands for ScratchSpace: bytes on a device."""

    def __init__(self, scratch_bytes: int, dev: torch.device) -> None:
        self.bytes, self.device = scratch_bytes, dev


class Layer(nn.Module):
    """What both layers of GPTQModel have in common."""

    def __init__(self, *, in_features: int, out_features: int, **others: Any) -> None:
        super().__init__()
        self.size = in_features * out_features * 2 + 128
        for name in ("qweight", "qzeros", "scales", "g_idx"):
            self.register_buffer(name, torch.zeros(1))
        self.space: Space | None = None

    def qzero_format(self, format: int) -> None:
        assert format == 2

    def forward(self, x: Tensor) -> Tensor:
        return x.new_zeros((x.shape[0], 64))


class MarlinLinear(Layer):
    """post_init as Marlin's: no argument."""

    def post_init(self) -> None:
        assert isinstance(self.qweight, Tensor)


class ExllamaV2Linear(Layer):
    """post_init as ExLlamaV2's: memory that layers share is required."""

    def temp_dq_size(self) -> int:
        return self.size

    def post_init(self, scratch_space: Space) -> None:
        assert scratch_space.bytes >= self.size
        self.space = scratch_space


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a package of that name in place."""
    contents: dict[str, dict[str, Any]] = {
        "gptqmodel": {},
        "gptqmodel.nn_modules": {},
        "gptqmodel.nn_modules.qlinear": {},
        "gptqmodel.nn_modules.qlinear.marlin": {"MarlinLinear": MarlinLinear},
        "gptqmodel.nn_modules.qlinear.exllamav2": {"ExllamaV2Linear": ExllamaV2Linear},
        "gptqmodel.utils": {},
        "gptqmodel.utils.exllamav2": {"ScratchSpace": Space},
    }
    for name, values in contents.items():
        module = types.ModuleType(name)
        vars(module).update(values)
        monkeypatch.setitem(sys.modules, name, module)


def fresh(kernel: GptqmodelKernel) -> GptqmodelKernel:
    """Return a kernel as it is in a new process."""
    copy = GptqmodelKernel(
        kernel.name,
        kernel._layer,
        bits=kernel._bits,
        sym=kernel._sym,
        rank=kernel._rank,
        scratch=kernel._scratch,
    )
    return copy


def layers_of(kernel: GptqmodelKernel, shape: tuple[int, int], *, ordered: bool = False) -> Any:
    scheme = Scheme(4, 32, True)
    demand = Demand(shape, scheme, "cpu", torch.float16, ordered)
    order = torch.arange(shape[1]).flip(0) // 32 if ordered else None
    state = kernel.pack(drawn(shape, scheme, seed=0), order)
    return kernel._layer_of(state, demand, None)


@pytest.mark.usefixtures("package")
def test_layers_of_exllama_share_memory_that_is_large_enough() -> None:
    kernel = fresh(EXLLAMA)
    small, wide = layers_of(kernel, SHAPE), layers_of(kernel, (128, 256))
    after = layers_of(kernel, SHAPE)
    assert small.space is not wide.space, "a layer keeps what it was given"
    assert after.space is wide.space, "the larger one serves all that come after"
    assert wide.space.bytes % 128 == 0
    assert wide.space.device == torch.device("cpu")


@pytest.mark.usefixtures("package")
def test_exllama_is_told_of_no_groups_where_inputs_are_in_order() -> None:
    kernel = fresh(EXLLAMA)
    assert not layers_of(kernel, SHAPE).g_idx.any()
    groups = layers_of(kernel, SHAPE, ordered=True).g_idx
    assert groups.tolist() == (torch.arange(128).flip(0) // 32).tolist()
    # Marlin decides by desc_act, and its plain form reads them.
    assert layers_of(fresh(MARLIN), SHAPE).g_idx.tolist() == (torch.arange(128) // 32).tolist()


@pytest.mark.usefixtures("package")
def test_what_the_package_refuses_is_an_error_of_the_device(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def other(self: object, scratch_space: object, more: object) -> None:
        raise AssertionError("never called")

    monkeypatch.setattr(ExllamaV2Linear, "post_init", other)
    kernel = fresh(EXLLAMA)
    scheme = Scheme(4, 32, True)
    demand = Demand(SHAPE, scheme, "cpu", torch.float16)
    state = kernel.pack(drawn(SHAPE, scheme, seed=0), None)
    with pytest.raises(DeviceError, match=r"exllamav2 cannot be used: .* TypeError.*'more'"):
        kernel.bind(state, demand, None)
    assert not kernel.timed


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize("kernel", [MARLIN, EXLLAMA])
def test_nothing_is_compiled_inside_of_a_measurement(kernel: GptqmodelKernel) -> None:
    class Plain:
        name, devices, rank, timed, reversible, install = "plain", (), 1, True, True, ""

        def why_not(self, demand: Demand) -> str:
            return ""

    kernel = fresh(kernel)
    plain: Any = Plain()
    here = Availability(True, "")
    registered = [RegisteredKernel(k.name, k, here) for k in (kernel, plain)]
    demand = Demand(SHAPE, Scheme(4, 32, True), "cuda", torch.float16)
    timed: list[str] = []

    def timer(kernel: Any, demand: Demand) -> float:
        timed.append(kernel.name)
        return 1.0 if kernel.name == "plain" else 0.5

    assert choose_among(registered, demand, timer=timer).kernel is plain
    assert timed == []
    assert choose_among(registered, demand, backend=kernel.name).kernel is kernel
    state = kernel.pack(drawn(SHAPE, Scheme(4, 32, True), seed=0), None)
    kernel.bind(state, Demand(SHAPE, Scheme(4, 32, True), "cpu", torch.float16), None)
    # It was asked for, it works, and is compiled now: it is one among others.
    assert choose_among(registered, demand, timer=timer).kernel is kernel
    assert sorted(timed) == sorted([kernel.name, "plain"])


def test_doctor_says_that_it_is_compiled_at_its_first_use(monkeypatch: pytest.MonkeyPatch) -> None:
    import autoround_backends.kernel_gptqmodel as module

    monkeypatch.setattr(module, "find_spec", lambda name: object())
    assert "compiled at their first use, for minutes" in MARLIN.probe().reason

from __future__ import annotations

import torch
from torch import Tensor, nn

from autoround.core.ops import TorchOps
from autoround.device.protocol import Memory
from autoround.device.runtime import TorchRuntime


def runtime() -> TorchRuntime:
    return TorchRuntime("mine", torch.device("cpu"))


def test_what_is_not_replaced_does_nothing() -> None:
    plain = runtime()
    assert isinstance(plain.ops, TorchOps)
    assert (plain.memory(), plain.peak_bytes(), plain.notes()) == (Memory(0, 0), 0, ())
    assert plain.compiles_from() == float("inf")
    plain.synchronize()
    plain.release()
    with plain.computing():
        pass


def test_only_accelerators_have_memory_of_their_own() -> None:
    assert not runtime().own_memory
    assert not TorchRuntime("mine", torch.device("meta")).own_memory
    assert TorchRuntime("mine", torch.device("xpu")).own_memory


def test_tensors_are_copied_and_calls_come_back_as_they_were() -> None:
    plain, tensor = runtime(), torch.arange(4.0)

    def step(tensors: list[Tensor]) -> list[Tensor]:
        return tensors

    def call(block: nn.Module, tensors: object, arguments: object, named: object) -> object:
        return block

    assert torch.equal(plain.upload({"x": tensor}).result()["x"], tensor)
    assert plain.capture(step, [tensor]) is step  # type: ignore[arg-type, comparison-overlap]
    assert plain.compile(call) is call


def test_speeds_are_measured_once() -> None:
    plain = runtime()
    assert plain.speeds() is plain.speeds()
    assert {speed.dtype for speed in plain.speeds()} == {torch.float32, torch.bfloat16}

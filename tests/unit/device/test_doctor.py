"""What ``autoround doctor`` finds, with devices that are there, broken, or wrong."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import cached_property
from importlib.metadata import version
from typing import Any

import pytest
import torch
from torch import Tensor

from autoround.core.ops import Ops, TorchOps
from autoround.core.signsgd import SignState
from autoround.device import doctor, registry
from autoround.device.doctor import examine
from autoround.device.protocol import Availability, Note, Speed
from autoround.device.registry import RegisteredBackend
from autoround.device.runtime import TorchRuntime
from autoround.report.doctor import doctor_lines
from autoround_backends.cpu import BACKEND as CPU


class Uphill(TorchOps):
    def sign_step(
        self, params: Sequence[Tensor], grads: Sequence[Tensor], *, state: SignState
    ) -> SignState:
        return super().sign_step(params, [-grad for grad in grads], state=state)


class Runtime(TorchRuntime):
    def __init__(self, name: str, ops: Ops) -> None:
        super().__init__(name, torch.device("cpu"))
        self._given = ops

    @cached_property
    def ops(self) -> Ops:
        return self._given

    def speeds(self) -> tuple[Speed, ...]:
        return (Speed(torch.bfloat16, 4.5e13), Speed(torch.float32, 5e11))

    def notes(self) -> tuple[Note, ...]:
        return Note("two fans"), Note("no compiler", True)


class Backend:
    rank = 5

    def __init__(self, name: str, make: Callable[[], Any]) -> None:
        self.name, self._make = name, make

    def probe(self) -> Availability:
        return Availability(True, "a card", (f"{self.name}:0",))

    def open(self, index: int | None) -> Any:
        return self._make()


Have = Callable[..., None]


@pytest.fixture
def have(monkeypatch: pytest.MonkeyPatch) -> Have:
    """Return a function that makes backends the only ones."""

    def set_backends(*held: Any) -> None:
        found = tuple(
            one
            if isinstance(one, RegisteredBackend)
            else RegisteredBackend(one.name, one, one.probe())
            for one in held
        )
        for module in (registry, doctor):
            monkeypatch.setattr(module, "backends", lambda: found)

    return set_backends


def fail() -> Any:
    raise OSError("driver 5 is too old\nsee the log")


def test_this_machine() -> None:
    report = examine()
    found = {backend.name: backend for backend in report.backends}
    assert {"cpu", "null"} <= set(found)
    (cpu,) = found["cpu"].devices
    assert cpu.checked
    assert cpu.problem == ""
    assert set(cpu.gflops) == {"float32", "bfloat16"}
    assert 0 < cpu.memory_free <= cpu.memory_total
    assert not found["null"].devices[0].checked
    assert report.versions["torch"] == version("torch")
    assert report.problems == ()
    assert "every device that is here computes" in doctor_lines(report)[-1]


def test_a_device_that_is_wrong_is_a_problem(have: Have) -> None:
    have(Backend("gpu", lambda: Runtime("gpu", Uphill())), CPU)
    report = examine()
    assert report.auto == "gpu:0"
    (problem,) = report.problems
    assert problem.startswith("gpu:0: offsets after a step: ")
    text = "\n".join(doctor_lines(report))
    assert "gpu:0: bfloat16 45.0 TFLOP/s, float32 500 GFLOP/s; computes in bfloat16" in text
    assert "PROBLEM: offsets after a step" in text
    assert "slower than it could be: gpu:0: no compiler" in text
    assert "every device" not in text


def test_a_device_that_cannot_be_opened_is_a_problem_and_the_rest_is_told(have: Have) -> None:
    have(Backend("gpu", fail), CPU)
    report = examine()
    (problem,) = report.problems
    assert "driver 5 is too old" in problem
    assert report.backends[1].devices[0].checked


def test_a_broken_backend_is_told_and_is_no_problem(have: Have) -> None:
    reason = "its module theirs:BACKEND fails: ImportError: no libtheirs.so"
    have(RegisteredBackend("theirs", None, Availability(False, reason)), CPU)
    report = examine()
    assert report.problems == ()
    assert report.backends[0].broken
    lines = doctor_lines(report)
    assert f"broken: backend theirs: {reason}" in lines
    assert "  theirs   broken: " + reason in lines


def test_no_device_at_all_is_a_problem(have: Have) -> None:
    dead = dataclasses.replace(CPU.probe(), available=False, reason="no processor", devices=())
    have(RegisteredBackend("cpu", CPU, dead))
    report = examine()
    assert report.problems == ("no backend can run here",)
    assert "  --device auto finds nothing" in doctor_lines(report)


def test_kernels_of_devices_that_are_elsewhere_are_not_offered(have: Have) -> None:
    have(CPU)
    held = {kernel.name: kernel for kernel in examine().kernels}
    assert not held["triton"].here
    assert held["torch"].here
    text = "\n".join(doctor_lines(examine()))
    assert "none of which is here: " in text

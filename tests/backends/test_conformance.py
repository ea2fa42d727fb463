"""The suite for backends: every one that is registered and can run here is held to it.

A backend of a third party takes part by being installed, or runs it on its own:
``python -m autoround_backends.conformance NAME``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import cached_property
from typing import Any

import pytest
import torch
from torch import Tensor

from autoround.core import rounding as plain
from autoround.core.grids.grid import Grid
from autoround.core.ops import Ops, TorchOps
from autoround.core.rounding import Rounding
from autoround.core.signsgd import SignState
from autoround.device.parity import disagreement
from autoround.device.protocol import Availability, Memory, Speed, WideProduct
from autoround.device.registry import backends
from autoround.errors import DeviceError
from autoround_backends.conformance import (
    Case,
    Disagreement,
    Subject,
    cases,
    failures,
    open_subject,
)
from autoround_backends.conformance.__main__ import main
from autoround_backends.cpu import BACKEND, CpuRuntime

CASES = {case.name: case for case in cases()}
USABLE = {f.name: open_subject(f.name) for f in backends() if f.availability.available}


@pytest.mark.parametrize("name", sorted(found.name for found in backends()))
def test_a_backend_is_held_to_this_suite_or_says_why_not(name: str) -> None:
    found = next(found for found in backends() if found.name == name)
    assert found.backend is not None, found.availability.reason
    assert found.availability.reason
    if not found.availability.available:
        with pytest.raises(DeviceError, match="does not exist"):
            found.backend.open(None)
        pytest.skip(f"{name}: {found.availability.reason}")
    assert name in USABLE


@pytest.mark.parametrize(
    ("name", "case"),
    [
        pytest.param(name, case, id=f"{name}-{case.name}")
        for name, held in USABLE.items()
        for case in CASES.values()
        if held.computes or not case.computes
    ],
)
def test_conformance(name: str, case: Case) -> None:
    case.run(USABLE[name])


class Wrong(CpuRuntime):
    """The processor, with operations that have a mistake in them."""

    def __init__(self, ops: Ops) -> None:
        super().__init__()
        self._wrong = ops

    @cached_property
    def ops(self) -> Ops:
        return self._wrong


class TruncatedScale(TorchOps):
    """Scales in bfloat16 where files hold float16."""

    def fake_quantize(
        self, weight: Tensor, rounding: Rounding, *, grid: Grid, dtype: torch.dtype
    ) -> Tensor:
        out = plain.fake_quantize(weight, rounding, grid=grid, dtype=torch.bfloat16)
        return out.to(dtype)


class OneCodeOff(TorchOps):
    def quantize(self, weight: Tensor, rounding: Rounding, *, grid: Grid) -> Any:
        codes, scale, zero = super().quantize(weight, rounding, grid=grid)
        codes.view(-1)[0] ^= 1
        return codes, scale, zero


class UpTheHill(TorchOps):
    def sign_step(
        self, params: Sequence[Tensor], grads: Sequence[Tensor], *, state: SignState
    ) -> SignState:
        return super().sign_step(params, [-grad for grad in grads], state=state)


class HalvedGradient(TorchOps):
    def fake_quantize(
        self, weight: Tensor, rounding: Rounding, *, grid: Grid, dtype: torch.dtype
    ) -> Tensor:
        out = super().fake_quantize(weight, rounding, grid=grid, dtype=dtype)
        return out.detach() + 0.5 * (out - out.detach())


class Swapped(TorchOps):
    def quantize_all(self, weights: Any, roundings: Any, *, grids: Any) -> Any:
        return super().quantize_all(weights, roundings, grids=grids)[::-1]


class NoDivergence(TorchOps):
    def divergence(self, student: Tensor, teacher: Tensor) -> tuple[float, Tensor]:
        return 0.0, torch.zeros_like(student)


@pytest.mark.parametrize(
    ("ops", "case"),
    [
        (TruncatedScale(), "fake-quantize is that of the oracle [12x96-g32-3bit-sym-normal]"),
        (OneCodeOff(), "quantize is that of the oracle [1x64-g32-4bit-asym-normal]"),
        (UpTheHill(), "sign steps are those of the oracle"),
        (UpTheHill(), "twenty steps end where plain torch ends [4 bits, sym]"),
        (HalvedGradient(), "gradients are those of the oracle [5x50-g16-5bit-sym-normal]"),
        (Swapped(), "a block at once is each by itself"),
        (NoDivergence(), "divergence of logits"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, TorchOps) else "",
)
def test_mistakes_are_found(ops: TorchOps, case: str) -> None:
    with pytest.raises(AssertionError):
        CASES[case].run(Subject(BACKEND, Wrong(ops)))


def test_a_download_that_sees_later_work_is_found() -> None:
    class View:
        def __init__(self, tensor: Tensor) -> None:
            self._tensor = tensor

        def ready(self) -> bool:
            return True

        def result(self) -> Tensor:
            return self._tensor

    class Hasty(Wrong):
        def download(self, tensor: Tensor) -> View:
            return View(tensor)

    case = CASES["a download is what was there when it was queued"]
    with pytest.raises(AssertionError, match="when it was queued"):
        case.run(Subject(BACKEND, Hasty(TorchOps())))


@pytest.mark.parametrize(("kept", "fault"), [(torch.float32, ""), (torch.bfloat16, "are off by")])
def test_a_product_that_loses_digits_of_its_sums_is_found(kept: torch.dtype, fault: str) -> None:
    class Multiplying(Wrong):
        def wide_product(self) -> WideProduct:
            return lambda left, right: (left.float() @ right.float()).to(kept).float()

    case = CASES["a product of 16 bit is summed in float32"]
    with pytest.raises(AssertionError, match=fault) if fault else nullcontext():
        case.run(Subject(BACKEND, Multiplying(TorchOps())))


@pytest.mark.parametrize(
    ("ops", "what"),
    [
        (OneCodeOff(), "levels|fake-quantized"),
        (UpTheHill(), "offsets after a step: "),
        (HalvedGradient(), r"gradients of offsets: \d+ of \d+ differ \(4 bits, symmetric, groups"),
        (Swapped(), r"levels: \("),
    ],
)
def test_the_short_check_finds_them_too(ops: TorchOps, what: str) -> None:
    if isinstance(ops, OneCodeOff):
        # One level off is what a tie may do; all of them are not.
        ops.quantize = _all_off  # type: ignore[method-assign]
    found = disagreement(ops, torch.device("cpu"))
    assert re.match(what, found), found


def _all_off(weight: Tensor, rounding: Rounding, *, grid: Grid) -> Any:
    codes, scale, zero = plain.quantize(weight, rounding, grid=grid)
    return codes ^ 1, scale, zero


def test_plain_torch_agrees_with_itself() -> None:
    assert disagreement(TorchOps(), torch.device("cpu")) == ""


class Careless:
    """A backend that breaks the contract."""

    name = "cpu"
    rank = 0

    def probe(self) -> Availability:
        return Availability(True, "", ("gpu",))

    def open(self, index: int | None) -> Any:
        return CarelessRuntime()


class CarelessRuntime(CpuRuntime):
    def speeds(self) -> tuple[Speed, ...]:
        return (Speed(torch.bfloat16, 0.0),)

    def memory(self) -> Memory:
        return Memory(1, 2)

    def peak_bytes(self) -> int:
        return 5

    def capture(self, step: Callable[..., Any], examples: Any) -> Any:
        held = [tensor.clone() for tensor in step(examples)]
        return lambda inputs: held


def test_a_careless_backend_is_told_everything() -> None:
    found = failures(Subject(Careless(), CarelessRuntime()))
    assert [line.split(":")[0] for line in found] == [
        "a backend says what it is",
        "an index beyond the last device is refused",
        "speeds are measured once",
        "memory is accounted for",
        "a captured step does what the step does",
    ]
    assert all("Disagreement" in line for line in found)


def test_the_suite_as_a_command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["null"]) == 0
    assert main(["abacus"]) == 1
    out, err = capsys.readouterr()
    assert out.startswith("null: 5 of 5 cases pass")
    assert "there is no backend named 'abacus'; devices here" in err

    def fail(held: Subject) -> None:
        raise Disagreement("two is three")

    broken = Case("a sum", fail, computes=False)
    monkeypatch.setattr("autoround_backends.conformance.contract_cases", lambda: [broken])
    assert main(["null"]) == 1
    assert "a sum: Disagreement: two is three" in capsys.readouterr().out

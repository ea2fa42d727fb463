from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from autoround.core.grids.grid import Grid
from autoround.core.ops import TorchOps
from autoround.core.rounding import Rounding
from autoround.core.signsgd import SignState
from autoround.device.parity import disagreement

CPU = torch.device("cpu")


class OtherLevels(TorchOps):
    def quantize(
        self, weight: Tensor, rounding: Rounding, *, grid: Grid
    ) -> tuple[Tensor, Tensor, Tensor]:
        codes, scale, zero = super().quantize(weight, rounding, grid=grid)
        return codes ^ 1, scale, zero


class OtherShapes(TorchOps):
    def quantize(
        self, weight: Tensor, rounding: Rounding, *, grid: Grid
    ) -> tuple[Tensor, Tensor, Tensor]:
        codes, scale, zero = super().quantize(weight, rounding, grid=grid)
        return codes, scale.float(), zero


class Uphill(TorchOps):
    def sign_step(
        self, params: Sequence[Tensor], grads: Sequence[Tensor], *, state: SignState
    ) -> SignState:
        return super().sign_step(params, [-grad for grad in grads], state=state)


def test_plain_torch_agrees_with_itself() -> None:
    assert disagreement(TorchOps(), CPU) == ""


@pytest.mark.parametrize(
    ("ops", "what"),
    [
        (OtherLevels(), "levels: "),
        (OtherShapes(), "scales: "),
        (Uphill(), "offsets after a step: "),
    ],
)
def test_what_differs_is_named(ops: TorchOps, what: str) -> None:
    reason = disagreement(ops, CPU)
    assert reason.startswith(what)
    assert reason.endswith("bits, symmetric, groups of 32)")

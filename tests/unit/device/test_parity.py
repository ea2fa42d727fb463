from __future__ import annotations

from collections.abc import Sequence
from typing import Any

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


class OtherRanges(TorchOps):
    def search_scales(self, *args: Any, **kwargs: Any) -> Grid:
        grid = super().search_scales(*args, **kwargs)
        return grid._replace(lo=grid.lo * 1.25, hi=grid.hi * 1.25)


class OnlyFirstImportance(TorchOps):
    def search_scales(self, groups: Tensor, importance: Any, *args: Any, **kwargs: Any) -> Grid:
        return super().search_scales(groups, importance[:1], *args, **kwargs)


@pytest.mark.parametrize("ops", [OtherRanges(), OnlyFirstImportance()])
def test_a_search_that_finds_worse_ranges_is_named(ops: TorchOps) -> None:
    reason = disagreement(ops, CPU)
    assert reason.startswith("searched ranges: ")
    assert "times the error (" in reason

"""Weights between how a model stores them and [out, in]."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from autoround.model.stacked_experts import as_matrix, as_stored, from_matrix
from autoround.types import BlockPlan, LayerPlan

LINEAR = LayerPlan("b.fc", (6, 4), None, block="b")
STACKED = LayerPlan("b.experts.up", (3 * 6, 4), None, experts=3, block="b")


@pytest.mark.parametrize("experts", [0, 3])
@pytest.mark.parametrize("transposed", [False, True])
def test_rows_of_all_experts_follow_each_other_and_go_back(experts: int, transposed: bool) -> None:
    layer = replace(STACKED if experts else LINEAR, transposed=transposed)
    matrices = np.arange(max(1, experts) * 6 * 4).reshape(-1, 6, 4)
    stored = matrices.swapaxes(1, 2) if transposed else matrices
    weight = torch.from_numpy(np.ascontiguousarray(stored if experts else stored[0]))
    matrix = as_matrix(layer, weight)
    assert np.array_equal(matrix.numpy(), matrices.reshape(-1, 4))
    assert torch.equal(from_matrix(layer, matrix), weight)


def test_weights_are_named_as_the_block_names_its_parameters() -> None:
    turned = replace(LINEAR, name="b.c_fc", transposed=True)
    block = BlockPlan(0, "b", (LINEAR, turned, STACKED))
    weights = {x.name: torch.randn(x.shape) for x in block.layers}
    stored = as_stored(block, weights)
    assert {name: tuple(t.shape) for name, t in stored.items()} == {
        "fc.weight": (6, 4),
        "c_fc.weight": (4, 6),
        "experts.up": (3, 6, 4),
    }
    assert torch.equal(stored["c_fc.weight"], weights["b.c_fc"].t())
    assert as_stored(block, {}) == {}
    with pytest.raises(KeyError):
        as_stored(block, {"b.unknown": torch.ones(1)})


def test_gradients_go_through_the_turning() -> None:
    weight = torch.randn(18, 4, requires_grad=True)
    from_matrix(replace(STACKED, transposed=True), weight).square().sum().backward()
    assert weight.grad is not None
    torch.testing.assert_close(weight.grad, 2 * weight.detach())

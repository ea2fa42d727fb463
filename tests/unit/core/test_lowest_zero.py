"""Grids for layouts that cannot hold a zero point of 0."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from autoround.core.grid import min_max_grid
from autoround.core.levels import integer_levels
from autoround.core.rounding import dequantize, initial_rounding, quantize
from autoround.core.search import search_grid


def one_sided(seed: int = 0) -> Tensor:
    """Return [8, 2, 16] weights; the groups of the first half are all positive."""
    weight = torch.randn(8, 2, 16, generator=torch.Generator().manual_seed(seed))
    weight[:4] = weight[:4].abs() + 0.1
    return weight


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("searched", [False, True])
def test_no_zero_point_is_below_the_lowest(bits: int, searched: bool) -> None:
    weight = one_sided()

    def zeros(lowest: int) -> Tensor:
        if searched:
            grid = search_grid(weight, None, integer_levels(bits, sym=False, lowest_zero=lowest))
        else:
            grid = min_max_grid(weight, integer_levels(bits, sym=False, lowest_zero=lowest))
        return quantize(weight, initial_rounding(weight), grid=grid)[2]

    assert int(zeros(0).min()) == 0
    assert int(zeros(1).min()) == 1


@pytest.mark.parametrize("bits", [3, 4, 8])
def test_the_far_end_of_a_one_sided_group_keeps_a_level(bits: int) -> None:
    weight = one_sided()
    grid = min_max_grid(weight, integer_levels(bits, sym=False, lowest_zero=1))
    back = dequantize(*quantize(weight, initial_rounding(weight), grid=grid))
    step = weight.amax(-1) / (2**bits - 2)
    assert bool(((back - weight).abs().amax(-1)[:4] <= 0.51 * step[:4]).all())


def test_clipping_keeps_to_it_too() -> None:
    weight = one_sided()
    grid = min_max_grid(weight, integer_levels(4, sym=False, lowest_zero=1))
    rounding = initial_rounding(weight)
    clipped = rounding._replace(min_scale=torch.zeros_like(rounding.min_scale))
    assert int(quantize(weight, clipped, grid=grid)[2].min()) == 1

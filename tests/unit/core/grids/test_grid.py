from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from autoround.core.grids.grid import (
    Grid,
    from_groups,
    grid_from_scale,
    min_max_grid,
    quant_params,
    to_groups,
)
from autoround.core.grids.levels import integer_levels
from autoround.core.grids.scales import HALF, SMALLEST_SCALE
from autoround.core.grids.widths import group_width
from autoround.types import LEGAL_BITS, PER_CHANNEL, PER_TENSOR
from autoround_backends import reference

from .._cases import Case, cases, few, oracle_grid


def representable(scale: torch.Tensor) -> bool:
    return torch.equal(scale.half().float(), scale)


@pytest.mark.parametrize(
    ("in_features", "group_size", "width"),
    [
        (256, 128, 128),
        (200, 128, 128),
        (100, 128, 100),
        (128, 128, 128),
        (200, PER_CHANNEL, 200),
        (200, PER_TENSOR, 600),
    ],
)
def test_group_width(in_features: int, group_size: int, width: int) -> None:
    assert group_width(in_features, group_size, numel=3 * in_features) == width


@few
@given(case=cases())
def test_groups_are_those_of_the_oracle_and_go_back(case: Case) -> None:
    groups = case.groups
    expected = reference.to_groups(case.weight.numpy(), case.group_size)
    assert groups.dtype == torch.float32
    np.testing.assert_array_equal(groups.numpy(), expected)
    back = from_groups(groups, case.shape)
    assert torch.equal(back, case.weight)
    np.testing.assert_array_equal(reference.from_groups(expected, case.shape), back.numpy())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_groups_are_float32_whatever_the_weight(dtype: torch.dtype) -> None:
    weight = torch.arange(12, dtype=dtype).reshape(2, 6)
    groups = to_groups(weight, 4)
    assert groups.dtype == torch.float32
    assert groups.tolist() == [
        [[0, 1, 2, 3], [4, 5, 0, 0]],
        [[6, 7, 8, 9], [10, 11, 0, 0]],
    ]


def test_groups_of_a_vector() -> None:
    groups = to_groups(torch.arange(5.0), 2)
    assert groups.shape == (1, 3, 2)
    assert torch.equal(from_groups(groups, (5,)), torch.arange(5.0))


@few
@given(case=cases())
def test_the_range_is_that_of_the_oracle_and_holds_zero(case: Case) -> None:
    grid = case.grid
    expected = reference.min_max_grid(case.groups.numpy(), bits=case.bits, sym=case.sym)
    np.testing.assert_array_equal(grid.lo.numpy(), expected.lo)
    np.testing.assert_array_equal(grid.hi.numpy(), expected.hi)
    assert grid.levels == integer_levels(case.bits, sym=case.sym)
    assert bool((grid.lo <= 0).all())
    assert bool((grid.hi >= 0).all())


@few
@given(case=cases())
def test_scale_and_zero_are_those_of_the_oracle(case: Case) -> None:
    min_scale, max_scale = case.rounding.min_scale, case.rounding.max_scale
    scale, zero, _ = quant_params(case.grid, min_scale, max_scale)
    grid = oracle_grid(case.grid)
    factors = min_scale.numpy(), max_scale.numpy()
    expected_scale, expected_zero = reference.scale_and_zero(grid, *factors)
    certain = reference.certain_groups(grid, *factors)
    np.testing.assert_array_equal(scale.numpy()[certain], expected_scale[certain])
    np.testing.assert_array_equal(zero.numpy()[certain], expected_zero[certain])
    # Next to a tie the neighbouring float16, and with it the neighbouring zero, is as good.
    np.testing.assert_allclose(scale.abs(), np.abs(expected_scale), rtol=2**-10, atol=2**-24)
    np.testing.assert_allclose(zero, expected_zero, atol=1)


@few
@given(case=cases())
def test_scale_and_zero_are_what_files_can_hold(case: Case) -> None:
    scale, zero, _ = quant_params(case.grid, case.rounding.min_scale, case.rounding.max_scale)
    assert scale.dtype == zero.dtype == torch.float32
    assert scale.shape == zero.shape == case.grid.lo.shape
    assert representable(scale)
    assert bool((scale.abs() >= torch.tensor(SMALLEST_SCALE).half().float()).all())
    assert torch.equal(zero, zero.round())
    assert int(zero.min()) >= 0
    assert int(zero.max()) <= case.top
    if case.sym:
        assert bool((zero == 2 ** (case.bits - 1)).all())
    else:
        assert bool((scale > 0).all())


@pytest.mark.parametrize("bits", LEGAL_BITS)
def test_the_extra_level_goes_to_the_side_that_reaches_further(bits: int) -> None:
    half = 2 ** (bits - 1)
    groups = torch.tensor([[[-half, 1.0], [-1.0, half], [half, -half], [0.0, 0.0]]])
    ones = torch.ones(1, 4, 1)
    scale, zero, _ = quant_params(min_max_grid(groups, integer_levels(bits, sym=True)), ones, ones)
    # The smallest magnitude as float16 holds it is that of an all-zero group.
    floor = float(torch.tensor(SMALLEST_SCALE).half())
    assert scale.flatten().tolist() == [1.0, -1.0, -1.0, floor]
    assert zero.flatten().tolist() == [half] * 4


def test_worked_examples_of_the_asymmetric_grid() -> None:
    groups = torch.tensor([[[-1.0, 2.0], [1.0, 3.0], [-3.0, -1.0]]])
    ones = torch.ones(1, 3, 1)
    grid = min_max_grid(groups, integer_levels(2, sym=False))
    scale, zero, _ = quant_params(grid, ones, ones)
    assert scale.flatten().tolist() == [1.0, 1.0, 1.0]
    assert zero.flatten().tolist() == [1.0, 0.0, 3.0]
    # Half of either end: the range -0.5 … 1 in three steps of a half.
    scale, zero, _ = quant_params(grid, 0.5 * ones, 0.5 * ones)
    assert scale.flatten().tolist() == [0.5, 0.5, 0.5]
    assert zero.flatten().tolist() == [1.0, 0.0, 3.0]


@few
@given(
    bits=st.sampled_from(LEGAL_BITS),
    sym=st.booleans(),
    seed=st.integers(0, 2**31),
    exponent=st.integers(-5, 4),
)
def test_a_grid_gives_back_the_scale_it_was_built_from(
    bits: int, sym: bool, seed: int, exponent: int
) -> None:
    rng = np.random.default_rng(seed)
    sizes = rng.uniform(1.0, 6.0, size=(4, 5, 1)) * 10.0**exponent
    signs = rng.choice([-1.0, 1.0], size=sizes.shape) if sym else 1.0
    scale = HALF.round(torch.from_numpy(sizes * signs).float())
    zero = torch.from_numpy(rng.integers(0, 2**bits, size=sizes.shape)).float()
    grid = grid_from_scale(scale, zero, integer_levels(bits, sym=sym))
    assert bool((grid.lo <= 0).all())
    assert bool((grid.hi >= 0).all())
    ones = torch.ones_like(scale)
    found_scale, found_zero, _ = quant_params(grid, ones, ones)
    assert torch.equal(found_scale, scale)
    assert torch.equal(found_zero, torch.full_like(zero, 2 ** (bits - 1)) if sym else zero)


def test_clipping_to_nothing_leaves_the_smallest_scale() -> None:
    grid = Grid(
        torch.full((1, 1, 1), -2.0), torch.full((1, 1, 1), 3.0), integer_levels(4, sym=False)
    )
    nothing = torch.zeros(1, 1, 1)
    scale, zero, _ = quant_params(grid, nothing, nothing)
    assert float(scale) == float(torch.tensor(SMALLEST_SCALE).half())
    assert float(zero) == 0.0

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from numpy.typing import NDArray

from autoround.core.grids.grid import Grid, min_max_grid, quant_params
from autoround.core.grids.levels import integer_levels
from autoround.core.rounding import (
    Rounding,
    dequantize,
    fake_quantize,
    initial_rounding,
    quantize,
)
from autoround.types import LEGAL_BITS
from autoround_backends import reference

from ._cases import KINDS, Case, cases, few, oracle_grid, oracle_rounding


def test_the_start_is_no_offset_and_no_clipping() -> None:
    groups = torch.randn(2, 3, 4)
    rounding = initial_rounding(groups)
    assert torch.equal(rounding.offset, torch.zeros(2, 3, 4))
    assert torch.equal(rounding.min_scale, torch.ones(2, 3, 1))
    assert torch.equal(rounding.max_scale, torch.ones(2, 3, 1))
    # Each is updated in place, so none may share memory with another.
    assert rounding.min_scale.data_ptr() != rounding.max_scale.data_ptr()


@few
@given(case=cases())
def test_fake_quantize_agrees_with_the_oracle(case: Case) -> None:
    grid, rounding = oracle_grid(case.grid), oracle_rounding(case.rounding)
    groups = case.groups
    result = fake_quantize(groups, case.rounding, grid=case.grid, dtype=torch.float32).numpy()
    expected = reference.fake_quantize(groups.numpy(), rounding, grid=grid)
    certain = reference.certain(groups.numpy(), rounding, grid=grid)
    np.testing.assert_allclose(result[certain], expected[certain], rtol=1e-6, atol=0)
    # Where float64 is within 1e-3 of a tie, float32 may go one level the other way.
    scale, _ = reference.scale_and_zero(grid, rounding.min_scale, rounding.max_scale)
    agreed = reference.certain_groups(grid, rounding.min_scale, rounding.max_scale)
    off = np.abs(result - expected) <= np.abs(scale) * 1.001
    assert off[np.broadcast_to(agreed, off.shape)].all()


@few
@given(case=cases())
def test_quantize_agrees_with_the_oracle(case: Case) -> None:
    grid, rounding = oracle_grid(case.grid), oracle_rounding(case.rounding)
    groups = case.groups
    results = [part.numpy() for part in quantize(groups, case.rounding, grid=case.grid)]
    expected: tuple[NDArray[Any], ...] = reference.quantize(groups.numpy(), rounding, grid=grid)
    certain = reference.certain(groups.numpy(), rounding, grid=grid)
    agreed = reference.certain_groups(grid, rounding.min_scale, rounding.max_scale)
    for result, wanted, where in zip(results, expected, (certain, agreed, agreed), strict=True):
        assert result.dtype == wanted.dtype
        np.testing.assert_array_equal(result[where], wanted[where])
    off = np.abs(results[0].astype(int) - expected[0].astype(int))
    assert off[np.broadcast_to(agreed, off.shape)].max(initial=0) <= 1


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"on the levels", "constant"}))
@pytest.mark.parametrize("sym", [True, False])
def test_the_oracle_is_certain_of_nearly_everything(kind: str, sym: bool) -> None:
    """The comparisons above would be empty if most weights counted as ties."""
    for bits in LEGAL_BITS:
        case = Case((64, 128), 32, bits, sym, kind, moved=True, seed=bits)
        grid, rounding = oracle_grid(case.grid), oracle_rounding(case.rounding)
        assert reference.certain(case.groups.numpy(), rounding, grid=grid).mean() > 0.97


@few
@given(case=cases())
def test_codes_read_back_as_the_forward_made_them(case: Case) -> None:
    parts = quantize(case.groups, case.rounding, grid=case.grid)
    forward = fake_quantize(case.groups, case.rounding, grid=case.grid, dtype=torch.float32)
    assert torch.equal(dequantize(*parts), forward)
    for dtype in (torch.bfloat16, torch.float16):
        short = fake_quantize(case.groups, case.rounding, grid=case.grid, dtype=dtype)
        assert short.dtype == dtype
        assert torch.equal(short, forward.to(dtype))


@few
@given(case=cases())
def test_codes_and_zeros_fit_their_bits(case: Case) -> None:
    codes, scale, zero = quantize(case.groups, case.rounding, grid=case.grid)
    assert (codes.dtype, scale.dtype, zero.dtype) == (torch.uint8, torch.float16, torch.uint8)
    assert codes.shape == case.groups.shape
    assert scale.shape == zero.shape == case.grid.lo.shape
    assert int(codes.max()) <= case.top
    assert int(zero.max()) <= case.top
    assert bool(scale.isfinite().all())
    assert bool((scale != 0).all())


@few
@given(case=cases())
def test_rounding_to_nearest_is_off_by_half_a_step_inside_the_range(case: Case) -> None:
    groups = case.groups
    rounding = initial_rounding(groups)
    scale, zero, _ = quant_params(case.grid, rounding.min_scale, rounding.max_scale)
    result = fake_quantize(groups, rounding, grid=case.grid, dtype=torch.float32)
    level = groups / scale
    inside = (level >= -zero - 0.5) & (level <= case.top - zero + 0.5)
    off = (result - groups).abs() <= scale.abs() * 0.5 * (1 + 1e-4)
    assert bool(off[inside].all())
    assert inside.any()


@few
@given(case=cases())
def test_what_is_on_the_grid_stays(case: Case) -> None:
    start = initial_rounding(case.groups)
    rounding = Rounding(start.offset, case.rounding.min_scale, case.rounding.max_scale)
    once = fake_quantize(case.groups, rounding, grid=case.grid, dtype=torch.float32)
    twice = fake_quantize(once, rounding, grid=case.grid, dtype=torch.float32)
    assert torch.equal(once, twice)


@pytest.mark.parametrize("bits", LEGAL_BITS)
@pytest.mark.parametrize("sym", [True, False])
def test_a_group_of_zeros_stays_zero(bits: int, sym: bool) -> None:
    groups = torch.zeros(2, 2, 8)
    grid = min_max_grid(groups, integer_levels(bits, sym=sym))
    result = fake_quantize(groups, initial_rounding(groups), grid=grid, dtype=torch.float32)
    assert torch.equal(result, groups)


def test_a_worked_symmetric_example() -> None:
    # Scale -1: 4 reaches furthest and takes level -4; ties go to the even level.
    groups = torch.tensor([[[4.0, -3.0, 0.5, 1.5, -3.5, 2.4]]])
    grid = Grid(
        torch.full((1, 1, 1), -3.5), torch.full((1, 1, 1), 4.0), integer_levels(3, sym=True)
    )
    codes, scale, zero = quantize(groups, initial_rounding(groups), grid=grid)
    assert codes.flatten().tolist() == [0, 7, 4, 2, 7, 2]
    assert (float(scale), int(zero)) == (-1.0, 4)
    assert dequantize(codes, scale, zero).flatten().tolist() == [4, -3, 0, 2, -3, 2]


def test_an_offset_moves_a_weight_to_the_next_level() -> None:
    groups = torch.tensor([[[-1.0, 0.4, 0.4, 2.0]]])
    start = initial_rounding(groups)
    rounding = start._replace(offset=torch.tensor([[[0.0, 0.0, 0.2, 0.0]]]))
    grid = min_max_grid(groups, integer_levels(2, sym=False))
    codes, _, zero = quantize(groups, rounding, grid=grid)
    assert int(zero) == 1
    assert codes.flatten().tolist() == [0, 1, 2, 3]


def test_a_weight_of_many_rows_is_rounded_like_each_row() -> None:
    case = Case((40, 4096), 128, 4, True, "normal", moved=True, seed=3)
    whole = fake_quantize(case.groups, case.rounding, grid=case.grid, dtype=torch.float32)
    codes = quantize(case.groups, case.rounding, grid=case.grid)[0]
    for row in (0, 17, 39):
        part = slice(row, row + 1)
        grid = case.grid._replace(lo=case.grid.lo[part], hi=case.grid.hi[part])
        rounding = Rounding(*(tensor[part] for tensor in case.rounding))
        alone = fake_quantize(case.groups[part], rounding, grid=grid, dtype=torch.float32)
        assert torch.equal(whole[part], alone)
        assert torch.equal(codes[part], quantize(case.groups[part], rounding, grid=grid)[0])


def test_nothing_given_is_changed() -> None:
    case = Case((4, 64), 16, 3, False, "normal", moved=True, seed=5)
    groups, rounding, grid = case.groups, case.rounding, case.grid
    fake_quantize(groups, rounding, grid=grid, dtype=torch.float32)
    quantize(groups, rounding, grid=grid)
    assert torch.equal(groups, case.groups)
    assert all(torch.equal(a, b) for a, b in zip(rounding, case.rounding, strict=True))
    assert torch.equal(grid.lo, case.grid.lo)
    assert torch.equal(grid.hi, case.grid.hi)

"""The backward of fake-quantize: against the oracle, and against autograd of the formula."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from torch import Tensor

from autoround.core.grids.grid import Grid
from autoround.core.grids.levels import IntegerLevels, integer_levels
from autoround.core.grids.scales import LARGEST_SCALE, SMALLEST_SCALE
from autoround.core.rounding import Rounding, fake_quantize
from autoround_backends import reference

from ._cases import Case, cases, few, oracle_grid, oracle_rounding


class StraightThrough(torch.autograd.Function):
    """Put a given number in the place of another, whose gradient it gets."""

    @staticmethod
    def forward(ctx: Any, number: Tensor, substitute: Tensor) -> Tensor:
        return substitute.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


def substituted(number: Tensor, substitute: Tensor) -> Tensor:
    result: Tensor = StraightThrough.apply(number, substitute)  # type: ignore[no-untyped-call]
    return result


def rounded(number: Tensor) -> Tensor:
    return substituted(number, number.detach().round())


def naive_fake_quantize(weight: Tensor, rounding: Rounding, grid: Grid) -> Tensor:
    """The formula, one operation after another, differentiated by autograd."""
    low = grid.lo.double() * rounding.min_scale
    high = grid.hi.double() * rounding.max_scale
    assert isinstance(grid.levels, IntegerLevels)
    bits = grid.levels.bits
    top = 2**bits - 1
    if grid.levels.fixed_zero:
        raw = torch.where(-low > high, -low, -high) / 2 ** (bits - 1)
    else:
        raw = (high - low) / top
    sign = torch.where(raw < 0, -1.0, 1.0).double()
    size = (raw * sign).clamp(SMALLEST_SCALE, LARGEST_SCALE)
    scale = sign * substituted(size, size.detach().half().double())
    if grid.levels.fixed_zero:
        zero = torch.full_like(scale, 2 ** (bits - 1))
    else:
        zero = clamped(
            rounded(-low / scale), torch.zeros_like(low), torch.full_like(low, float(top))
        )
    level = rounded(weight / scale + rounding.offset)
    result: Tensor = scale * clamped(level, -zero, top - zero)
    return result


def clamped(value: Tensor, lowest: Tensor, highest: Tensor) -> Tensor:
    """Clamp; at a bound the gradient is the value's.

    torch.clamp gives it to nobody from 2.14 on, torch.maximum half to each side.
    """
    return torch.where(value < lowest, lowest, torch.where(value > highest, highest, value))


def gradients(case: Case) -> list[np.ndarray[Any, Any]]:
    parts = [part.requires_grad_() for part in case.rounding]
    result = fake_quantize(case.groups, Rounding(*parts), grid=case.grid, dtype=torch.float32)
    return [g.numpy() for g in torch.autograd.grad(result, parts, case.upstream)]


def expect_agreement(case: Case, wanted: list[np.ndarray[Any, Any]]) -> None:
    """Compare with gradients in float64 wherever no tie is near."""
    groups, upstream = case.groups.double().numpy(), case.upstream.double().numpy()
    grid, rounding = oracle_grid(case.grid), oracle_rounding(case.rounding)
    certain = reference.certain(groups, rounding, grid=grid)
    found = gradients(case)
    np.testing.assert_allclose(found[0][certain], wanted[0][certain], rtol=1e-5, atol=1e-12)
    whole = certain.all(-1, keepdims=True)
    # Sums of numbers as large as these, with signs: the error scales with them.
    size = (grid.hi - grid.lo) * np.abs(upstream).sum(-1, keepdims=True)
    for ours, theirs in zip(found[1:], wanted[1:], strict=True):
        assert ours.shape == theirs.shape
        assert (np.abs(ours - theirs) <= 2e-6 * size + 1e-12)[whole].all()


@few
@given(case=cases())
def test_gradients_agree_with_the_oracle(case: Case) -> None:
    expected = reference.gradients(
        case.groups.numpy(),
        oracle_rounding(case.rounding),
        grid=oracle_grid(case.grid),
        upstream=case.upstream.numpy(),
    )
    expect_agreement(case, list(expected))


@few
@given(case=cases())
def test_gradients_agree_with_autograd_of_the_formula(case: Case) -> None:
    parts = [part.double().requires_grad_() for part in case.rounding]
    result = naive_fake_quantize(case.groups.double(), Rounding(*parts), case.grid)
    wanted = torch.autograd.grad(result, parts, case.upstream.double(), materialize_grads=True)
    expect_agreement(case, [grad.numpy() for grad in wanted])


def test_a_worked_example() -> None:
    """One group of a 2-bit asymmetric grid: scale 1, zero 1, levels -1 … 2."""
    groups = torch.tensor([[[-1.0, 0.25, 2.0, 2.0]]])
    parts = [
        torch.tensor([[[-0.75, 0.0, 0.0, 0.75]]]).requires_grad_(),
        torch.ones(1, 1, 1).requires_grad_(),
        torch.ones(1, 1, 1).requires_grad_(),
    ]
    grid = Grid(
        torch.full((1, 1, 1), -1.0), torch.full((1, 1, 1), 2.0), integer_levels(2, sym=False)
    )
    result = fake_quantize(groups, Rounding(*parts), grid=grid, dtype=torch.float32)
    assert result.flatten().tolist() == [-1.0, 0.0, 2.0, 2.0]
    upstream = torch.tensor([[[1.0, 2.0, 4.0, 8.0]]])
    by_value, by_lo, by_hi = torch.autograd.grad(result, parts, upstream)
    # The first weight rounds to -2 and the last to 3: both are clamped.
    assert by_value.flatten().tolist() == [0.0, 2.0, 4.0, 0.0]
    # By the scale: clamped weights c - lo/s = 0 and 3, the others c - W/s = -0.25 and 0.
    by_scale = (0.0 * 1 - 0.25 * 2 + 0.0 * 4 + 3.0 * 8) / 3
    assert float(by_lo) == pytest.approx(-1.0 * ((1 + 8) - by_scale), rel=1e-6)
    assert float(by_hi) == pytest.approx(2.0 * by_scale, rel=1e-6)


def test_only_the_side_that_reaches_further_moves_a_symmetric_grid() -> None:
    groups = torch.tensor([[[-1.0, 3.9]], [[-3.9, 1.0]]])
    parts = [
        torch.zeros(2, 1, 2).requires_grad_(),
        torch.ones(2, 1, 1).requires_grad_(),
        torch.ones(2, 1, 1).requires_grad_(),
    ]
    grid = Grid(
        torch.tensor([[[-1.0]], [[-3.9]]]),
        torch.tensor([[[3.9]], [[1.0]]]),
        integer_levels(3, sym=True),
    )
    result = fake_quantize(groups, Rounding(*parts), grid=grid, dtype=torch.float32)
    _, by_lo, by_hi = torch.autograd.grad(result, parts, torch.ones_like(result))
    assert (by_lo.flatten() != 0).tolist() == [False, True]
    assert (by_hi.flatten() != 0).tolist() == [True, False]


def test_a_range_below_the_smallest_scale_has_no_pull_on_its_clips() -> None:
    case = Case((2, 32), 16, 4, True, "tiny", moved=False, seed=1)
    by_value, by_lo, by_hi = gradients(case)
    assert not by_lo.any()
    assert not by_hi.any()
    assert by_value.any()


def test_offsets_alone_can_be_differentiated() -> None:
    case = Case((4, 64), 16, 4, False, "normal", moved=True, seed=2)
    with_clips = gradients(case)[0]
    rounding = case.rounding
    value = rounding.offset.requires_grad_()
    result = fake_quantize(case.groups, rounding, grid=case.grid, dtype=torch.float32)
    (alone,) = torch.autograd.grad(result, [value], case.upstream)
    np.testing.assert_array_equal(alone.numpy(), with_clips)


def test_a_short_upstream_gradient_gives_float32_gradients() -> None:
    case = Case((4, 64), 16, 4, False, "normal", moved=True, seed=2)
    upstream = case.upstream.bfloat16()
    found = []
    for dtype in (torch.bfloat16, torch.float32):
        parts = [part.requires_grad_() for part in case.rounding]
        result = fake_quantize(case.groups, Rounding(*parts), grid=case.grid, dtype=dtype)
        found.append(torch.autograd.grad(result, parts, upstream.to(dtype)))
    for short, full in zip(*found, strict=True):
        assert short.dtype == torch.float32
        assert torch.equal(short, full)


def test_gradients_of_many_rows_are_those_of_each_row() -> None:
    case = Case((40, 4096), 128, 4, False, "normal", moved=True, seed=3)
    whole = gradients(case)
    part = slice(17, 18)
    grid = case.grid._replace(lo=case.grid.lo[part], hi=case.grid.hi[part])
    parts = [tensor[part].clone().requires_grad_() for tensor in case.rounding]
    result = fake_quantize(case.groups[part], Rounding(*parts), grid=grid, dtype=torch.float32)
    alone = torch.autograd.grad(result, parts, case.upstream[part])
    for ours, theirs in zip(whole, alone, strict=True):
        np.testing.assert_allclose(ours[part], theirs.numpy(), rtol=1e-5, atol=1e-4)

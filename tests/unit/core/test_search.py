from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from autoround.core.grids.grid import Grid, min_max_grid, quant_params, to_groups
from autoround.core.grids.levels import IntegerLevels, integer_levels, ladder
from autoround.core.search import (
    CHUNK_ELEMENTS,
    DEVICE_CHUNK_ELEMENTS,
    device_chunk,
    importance_groups,
    search_grid,
)
from autoround.types import LEGAL_BITS, PER_CHANNEL, PER_TENSOR
from autoround_backends import reference_search

from ._cases import KINDS, Case, cases, few


def unclipped(grid: Grid) -> tuple[Tensor, Tensor]:
    one = torch.ones_like(grid.lo)
    scale, zero, _ = quant_params(grid, one, one)
    return scale, zero


def error_of(groups: Tensor, importance: Tensor | None, grid: Grid) -> np.ndarray:
    """The oracle's weighted error of rounding to nearest on a grid, [rows, groups, 1]."""
    scale, zero = unclipped(grid)
    weights = np.ones(groups.shape) if importance is None else importance.double().numpy()
    assert isinstance(grid.levels, IntegerLevels)
    bits = grid.levels.bits
    return reference_search.search_error(
        groups.numpy(), weights, scale=scale.numpy(), zero=zero.numpy(), bits=bits
    )


def importance_of(case: Case, spread: float) -> Tensor:
    """Importance per channel with a few dead and a few dominant ones."""
    rng = np.random.default_rng(case.seed + 3)
    channels = np.exp(spread * rng.normal(size=case.shape[-1]))
    channels[rng.random(len(channels)) < 0.1] = 0.0
    return torch.from_numpy(channels).float()


@few
@given(case=cases(), weighted=st.booleans())
def test_search_is_never_worse_than_minimum_and_maximum(case: Case, weighted: bool) -> None:
    groups = case.groups
    importance = None
    if weighted:
        channels = importance_of(case, spread=1.5)
        importance = importance_groups(channels, groups, in_features=case.shape[-1])
        importance = importance.expand(groups.shape)
    found = search_grid(groups, importance, integer_levels(case.bits, sym=case.sym))
    plain = min_max_grid(groups, integer_levels(case.bits, sym=case.sym))
    limit = error_of(groups, importance, plain)
    assert (error_of(groups, importance, found) <= limit * (1 + 1e-4) + 1e-30).all()


@few
@given(case=cases())
def test_a_found_grid_is_one_that_files_can_hold(case: Case) -> None:
    found = search_grid(case.groups, None, integer_levels(case.bits, sym=case.sym))
    assert found.levels == integer_levels(case.bits, sym=case.sym)
    assert found.lo.shape == found.hi.shape == (*case.groups.shape[:-1], 1)
    scale, zero = unclipped(found)
    assert torch.equal(scale.half().float(), scale)
    assert torch.equal(zero, zero.round())
    assert int(zero.min()) >= 0
    assert int(zero.max()) <= case.top
    # Ends that are whole numbers of steps are what makes the scale and zero exact.
    steps = (found.hi - found.lo) / scale.abs()
    expected = 2 ** (case.bits - 1) if case.sym else case.top
    assert torch.equal(steps, torch.full_like(steps, expected))


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("sym", [True, False])
@pytest.mark.parametrize("weighted", [True, False])
def test_search_comes_close_to_trying_everything(bits: int, sym: bool, weighted: bool) -> None:
    rng = np.random.default_rng(bits)
    groups = rng.normal(size=(32, 1, 32))
    importance = rng.chisquare(2, size=groups.shape) if weighted else np.ones(groups.shape)
    tensors = torch.from_numpy(groups).float(), torch.from_numpy(importance).float()
    found = error_of(*tensors, search_grid(*tensors, integer_levels(bits, sym=sym)))
    best = [
        reference_search.brute_force(w[0].numpy(), h[0].numpy(), bits=bits, sym=sym)
        for w, h in zip(*tensors, strict=True)
    ]
    assert found.sum() <= 1.05 * sum(best)
    # Nothing may beat a search over everything: that would be a bug of one of the two.
    assert (found.ravel() >= np.array(best) * (1 - 1e-6)).all()


def test_the_closed_form_is_the_least_error_of_fixed_levels() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        levels = rng.integers(-4, 4, size=16).astype(float)
        levels[0] = 1.0
        group, importance = levels * 0.3 + rng.normal(size=16) * 0.1, rng.random(16)
        best = reference_search.closed_form_scale(group, importance, levels)
        errors = [(importance * (s * levels - group) ** 2).sum() for s in (best, best * 1.001)]
        errors.append((importance * (best * 0.999 * levels - group) ** 2).sum())
        assert errors[0] <= min(errors)


@pytest.mark.parametrize("bits", LEGAL_BITS)
@pytest.mark.parametrize("sym", [True, False])
def test_the_closed_form_gains_next_to_nothing_on_what_was_found(bits: int, sym: bool) -> None:
    """Refinement has converged: no scale for the found levels is much better."""
    weight = Case((16, 64), 16, bits, sym, "normal", moved=False, seed=bits).groups
    found = search_grid(weight, None, integer_levels(bits, sym=sym))
    scale, zero = (part.double().numpy() for part in unclipped(found))
    groups = weight.double().numpy()
    levels = np.clip(np.rint(groups / scale), -zero, 2**bits - 1 - zero)
    before = ((scale * levels - groups) ** 2).sum()
    after = 0.0
    for group, level, size in zip(
        groups.reshape(-1, 16), levels.reshape(-1, 16), scale.ravel(), strict=True
    ):
        best = reference_search.closed_form_scale(group, np.ones(16), level)
        after += ((best * level - group) ** 2).sum()
        after += (size * 2**-11 * level) @ (size * 2**-11 * level)  # the cost of float16
    assert before <= 1.01 * after


def test_every_group_is_searched_alone() -> None:
    # More than one chunk of the search, with an importance shared by all rows.
    case = Case((40, 4096), 128, 8, False, "heavy", moved=False, seed=1)
    groups = case.groups
    channels = importance_of(case, spread=1.0)
    importance = importance_groups(channels, groups, in_features=4096)
    whole = search_grid(groups, importance, integer_levels(8, sym=False))
    for row in (0, 16, 39):
        alone = search_grid(groups[row : row + 1], importance, integer_levels(8, sym=False))
        for ours, theirs in zip(unclipped(whole), unclipped(alone), strict=True):
            assert torch.equal(ours[row : row + 1], theirs)


def test_what_matters_is_kept_better() -> None:
    torch.manual_seed(0)
    groups = torch.randn(64, 1, 32)
    importance = torch.ones(1, 1, 32)
    importance[..., :4] = 100.0
    equal = search_grid(groups, None, integer_levels(2, sym=True))
    weighted = search_grid(groups, importance, integer_levels(2, sym=True))
    first_four = torch.zeros(groups.shape)
    first_four[..., :4] = 1.0
    assert error_of(groups, first_four, weighted).sum() < (
        0.8 * error_of(groups, first_four, equal).sum()
    )


def test_equal_importance_is_no_importance() -> None:
    groups = Case((4, 64), 16, 3, False, "normal", moved=False, seed=4).groups
    without = search_grid(groups, None, integer_levels(3, sym=False))
    equal = search_grid(groups, torch.full((1, 1, 1), 2.0), integer_levels(3, sym=False))
    assert torch.equal(without.lo, equal.lo)
    assert torch.equal(without.hi, equal.hi)


@pytest.mark.parametrize("sym", [True, False])
def test_an_all_zero_group_does_not_disturb_its_neighbours(sym: bool) -> None:
    groups = Case((2, 32), 16, 4, sym, "normal", moved=False, seed=4).groups.clone()
    groups[0, 0] = 0.0
    found = search_grid(groups, None, integer_levels(4, sym=sym))
    alone = search_grid(groups[:, 1:], None, integer_levels(4, sym=sym))
    assert torch.equal(found.lo[:, 1:], alone.lo)
    assert error_of(groups, None, found)[0, 0] == 0.0


def test_nothing_given_is_changed() -> None:
    case = Case((3, 50), 16, 3, True, "normal", moved=False, seed=9)
    groups, channels = case.groups, importance_of(case, spread=1.0)
    importance = importance_groups(channels, groups, in_features=50)
    before = importance.clone()
    search_grid(groups, importance, integer_levels(3, sym=True))
    assert torch.equal(groups, case.groups)
    assert torch.equal(importance, before)
    assert torch.equal(channels, importance_of(case, spread=1.0))


@few
@given(case=cases(kinds=KINDS[:1]))
def test_importance_is_laid_out_like_the_oracle_lays_it(case: Case) -> None:
    groups = case.groups
    channels = importance_of(case, spread=2.0)
    laid = importance_groups(channels, groups, in_features=case.shape[-1]).expand(groups.shape)
    expected = reference_search.importance_groups(
        channels.numpy(), group_size=case.group_size, shape=case.shape
    )
    np.testing.assert_allclose(laid.numpy(), expected, rtol=1e-5, atol=1e-37)


def test_channels_that_were_never_active_keep_a_thousandth_of_the_mean() -> None:
    channels = torch.tensor([0.0, 2.0, 0.0, 6.0, 2.0])
    groups = to_groups(torch.zeros(3, 5), 4)
    laid = importance_groups(channels, groups, in_features=5)
    assert laid.shape == (1, 2, 4)
    expected = [0.002, 2.0, 0.002, 6.0, 2.0, 0.0, 0.0, 0.0]
    np.testing.assert_allclose(
        laid.flatten().numpy(), np.array(expected, dtype=np.float32), rtol=1e-6
    )


@pytest.mark.parametrize("group_size", [16, PER_CHANNEL, PER_TENSOR])
def test_no_activity_at_all_is_no_importance(group_size: int) -> None:
    groups = to_groups(torch.randn(3, 32, generator=torch.Generator().manual_seed(0)), group_size)
    laid = importance_groups(torch.zeros(32), groups, in_features=32)
    assert bool((laid > 0).all())
    found = search_grid(groups, laid, integer_levels(4, sym=False))
    assert bool(found.lo.isfinite().all())
    assert bool(found.hi.isfinite().all())


@pytest.mark.parametrize("bits", LEGAL_BITS)
def test_the_ladder_holds_the_min_max_scale(bits: int) -> None:
    rungs = ladder(bits)
    assert 1.0 in rungs
    assert 0 < min(rungs) < 0.8
    assert 1.0 < max(rungs) < 2.0


@pytest.mark.parametrize("chunk", [1, 1 << 10, 1 << 26])
@pytest.mark.parametrize("sym", [True, False])
def test_chunks_change_nothing(chunk: int, sym: bool) -> None:
    rng = torch.Generator().manual_seed(0)
    groups = to_groups(torch.randn((24, 128), generator=rng), 32)
    importance = importance_groups(torch.rand(128, generator=rng), groups, in_features=128)
    levels = integer_levels(4, sym=sym)
    wanted = search_grid(groups, importance, levels)
    found = search_grid(groups, importance, levels, chunk=chunk)
    assert torch.equal(found.lo, wanted.lo)
    assert torch.equal(found.hi, wanted.hi)


@pytest.mark.parametrize("chunk", [5 * 96, 1 << 26])
def test_experts_at_once_are_those_one_by_one(chunk: int) -> None:
    rng = torch.Generator().manual_seed(0)
    experts, rows = 5, 6
    groups = to_groups(torch.randn((experts * rows, 80), generator=rng), 32)
    channels = torch.rand((experts, 80), generator=rng) * torch.logspace(-4, 4, experts)[:, None]
    channels[:, ::7] = 0.0
    levels = integer_levels(3, sym=False)
    laid = importance_groups(channels, groups, in_features=80)
    assert laid.shape == (experts, 3, 32)
    whole = search_grid(groups, laid, levels, chunk=chunk)
    for number in range(experts):
        part = slice(number * rows, (number + 1) * rows)
        own = importance_groups(channels[number], groups[part], in_features=80)
        assert torch.equal(laid[number : number + 1], own)
        alone = search_grid(groups[part], own, levels)
        assert torch.equal(whole.lo[part], alone.lo)
        assert torch.equal(whole.hi[part], alone.hi)


def test_a_chunk_grows_with_the_memory_of_a_device() -> None:
    assert device_chunk(0) == CHUNK_ELEMENTS
    assert device_chunk(24 << 30) * 20 <= 0.0101 * (24 << 30), "a hundredth for temporaries"
    assert device_chunk(1 << 40) == DEVICE_CHUNK_ELEMENTS

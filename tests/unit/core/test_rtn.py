from __future__ import annotations

import math

import pytest
import torch

from autoround.core.grids.gguf_types import GGUF_TYPES, scheme_of_type
from autoround.core.grids.grid import from_groups, min_max_grid, to_groups
from autoround.core.grids.levels import integer_levels
from autoround.core.rounding import initial_rounding, quantize
from autoround.core.rtn import (
    Target,
    largest_magnitude,
    quantize_matrix,
    round_to_nearest,
    search_scales,
)
from autoround.core.search import search_grid
from autoround.types import Scheme

from ._cases import Case


def test_every_tensor_starts_with_no_offset_and_no_clipping() -> None:
    cases = {
        name: Case(shape, 16, 4, True, "normal", moved=False, seed=1)
        for name, shape in {"up": (4, 64), "down": (3, 50)}.items()
    }
    tasks = {name: Target(case.groups, case.grid, case.shape) for name, case in cases.items()}
    roundings = round_to_nearest(tasks)
    assert list(roundings) == ["up", "down"]
    for name, rounding in roundings.items():
        assert rounding.offset.shape == tasks[name].groups.shape
        assert not rounding.offset.any()
        assert bool((rounding.min_scale == 1).all())
        assert bool((rounding.max_scale == 1).all())


def test_rounding_to_nearest_on_its_own_range_is_plain_arithmetic() -> None:
    groups = torch.tensor([[[-1.0, -0.4, 0.3, 0.6, 1.2, 2.0]]])
    task = Target(groups, min_max_grid(groups, integer_levels(2, sym=False)), (1, 6))
    codes, scale, zero = quantize(groups, round_to_nearest({"w": task})["w"], grid=task.grid)
    assert (float(scale), int(zero)) == (1.0, 1)
    assert codes.flatten().tolist() == [0, 1, 1, 2, 2, 3]


def test_on_a_searched_grid_the_error_is_smaller() -> None:
    case = Case((16, 128), 32, 2, False, "normal", moved=False, seed=2)
    groups = case.groups
    searched = search_grid(groups, None, integer_levels(2, sym=False))
    errors = []
    for grid in (case.grid, searched):
        rounding = round_to_nearest({"w": Target(groups, grid, case.shape)})["w"]
        codes, scale, zero = quantize(groups, rounding, grid=grid)
        off = (codes.float() - zero.float()) * scale.float() - groups
        errors.append(float(off.square().mean()))
    assert errors[1] < 0.8 * errors[0]


@pytest.mark.parametrize("search", [True, False])
@pytest.mark.parametrize("sym", [True, False])
def test_a_matrix_is_rounded_in_one_call(search: bool, sym: bool) -> None:
    weight = torch.randn(6, 50, generator=torch.Generator().manual_seed(2))
    scheme = Scheme(3, 16, sym)
    codes, scale, zero, nested = quantize_matrix(weight, scheme, search=search)
    assert nested is None
    groups, levels = to_groups(weight, 16), integer_levels(3, sym=sym)
    grid = search_grid(groups, None, levels) if search else min_max_grid(groups, levels)
    wanted = quantize(groups, initial_rounding(groups), grid=grid)
    assert torch.equal(codes, from_groups(wanted[0], (6, 50)))
    assert torch.equal(scale, wanted[1].squeeze(-1))
    assert torch.equal(zero, wanted[2].squeeze(-1))


def test_a_matrix_keeps_clear_of_zero_points_that_a_layout_cannot_hold() -> None:
    weight = torch.rand(4, 32, generator=torch.Generator().manual_seed(3)) + 0.1
    scheme = Scheme(4, 16, False)
    for search in (True, False):
        assert int(quantize_matrix(weight, scheme, search=search).zero.min()) == 0
        raised = quantize_matrix(weight, scheme, search=search, lowest_zero=1)
        assert int(raised.zero.min()) == 1


@pytest.mark.parametrize("name", ["q3_k", "q4_k", "q5_1"])
def test_a_matrix_of_a_block_type_has_super_blocks(name: str) -> None:
    kind = GGUF_TYPES[name]
    weight = torch.randn(3, 2 * kind.block, generator=torch.Generator().manual_seed(4))
    matrix = quantize_matrix(weight, scheme_of_type(name))
    assert matrix.nested is not None
    supers = 2 if kind.nested.groups > 1 else 2 * kind.block // kind.group_size
    assert matrix.nested.scale.shape == (3, supers, 1)
    assert int(matrix.codes.max()) < 2**kind.bits


@pytest.mark.parametrize("name", ["q4_k", "q6_k"])
def test_stacked_rows_with_super_blocks_are_searched_each_by_its_own_importance(name: str) -> None:
    kind = GGUF_TYPES[name]
    assert kind.nested is not None
    rng = torch.Generator().manual_seed(2)
    groups = to_groups(torch.randn((6, kind.block), generator=rng), kind.group_size)
    importance = torch.rand((3, *groups.shape[1:]), generator=rng) ** 4
    levels = integer_levels(kind.bits, sym=kind.sym)
    found = search_scales(groups, importance, levels, scales=kind.nested)
    for part in range(3):
        rows, own = slice(2 * part, 2 * part + 2), importance[part : part + 1]
        alone = search_scales(groups[rows], own, levels, scales=kind.nested)
        assert torch.equal(found.lo[rows], alone.lo)
        assert torch.equal(found.hi[rows], alone.hi)
    shared = search_scales(groups, importance[:1], levels, scales=kind.nested)
    assert not torch.equal(found.hi, shared.hi)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_greatest_magnitude_lies_on_either_side(dtype: torch.dtype) -> None:
    weight = torch.tensor([[0.5, -3.0], [2.0, 0.0]], dtype=dtype)
    assert largest_magnitude(weight) == 3.0
    assert largest_magnitude(-weight) == 3.0
    weight[1, 1] = float("nan")
    assert math.isnan(largest_magnitude(weight))
    weight[1, 1] = -float("inf")
    assert largest_magnitude(weight) == float("inf")

from __future__ import annotations

import torch

from autoround.core.grid import min_max_grid
from autoround.core.levels import integer_levels
from autoround.core.rounding import quantize
from autoround.core.rtn import Target, round_to_nearest
from autoround.core.search import search_grid

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

from __future__ import annotations

import pytest
import torch

from autoround.core.grid import min_max_grid, to_groups
from autoround.core.levels import integer_levels
from autoround.core.rounding import initial_rounding
from autoround.errors import DeviceError
from autoround.types import PER_CHANNEL, PER_TENSOR
from autoround_backends.null import BACKEND


def test_it_is_there_and_never_chosen_by_itself() -> None:
    assert BACKEND.probe().available
    assert BACKEND.probe().devices == ("null",)
    assert BACKEND.rank < 0


def test_there_is_one() -> None:
    assert BACKEND.open(None).device == BACKEND.open(0).device == torch.device("meta")
    with pytest.raises(DeviceError, match="use 'null', not 'null:1'"):
        BACKEND.open(1)


def test_it_takes_no_time_and_no_memory() -> None:
    runtime = BACKEND.open(None)
    runtime.synchronize()
    runtime.release()
    assert [(s.dtype, s.flops) for s in runtime.speeds()] == [(torch.float32, 0.0)]
    assert runtime.memory().total == runtime.memory().free == runtime.peak_bytes() == 0


@pytest.mark.parametrize("sym", [False, True])
@pytest.mark.parametrize("group_size", [32, 48, PER_CHANNEL, PER_TENSOR])
def test_its_operations_give_the_shapes_of_the_real_ones(group_size: int, sym: bool) -> None:
    runtime = BACKEND.open(None)
    shapes = []
    for device, rows in (("cpu", 4), (runtime.device, 4)):
        weight = torch.randn((rows, 96), device=device)
        groups = to_groups(weight, group_size)
        grid, rounding = min_max_grid(groups, integer_levels(4, sym=sym)), initial_rounding(groups)
        faked = runtime.ops.fake_quantize(groups, rounding, grid=grid, dtype=torch.bfloat16)
        results = (faked, *runtime.ops.quantize(groups, rounding, grid=grid))
        assert all(r.device.type == torch.device(device).type for r in results)
        shapes.append([(r.shape, r.dtype) for r in results])
    assert shapes[0] == shapes[1]


def test_weights_larger_than_any_memory_are_rehearsed() -> None:
    runtime = BACKEND.open(None)
    groups = to_groups(torch.empty((1 << 24, 1 << 20), device=runtime.device), 128)
    grid, rounding = min_max_grid(groups, integer_levels(4, sym=True)), initial_rounding(groups)
    codes, scale, zero = runtime.ops.quantize(groups, rounding, grid=grid)
    assert codes.shape == (1 << 24, 1 << 13, 128)
    assert scale.shape == zero.shape == (1 << 24, 1 << 13, 1)

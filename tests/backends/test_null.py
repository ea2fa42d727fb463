"""The null backend on meta tensors: the right shapes and dtypes, and no number at all."""

from __future__ import annotations

import pytest
import torch

from autoround.core import signsgd
from autoround.core.grids.grid import min_max_grid, to_groups
from autoround.core.grids.levels import integer_levels
from autoround.core.rounding import Rounding, dequantize, initial_rounding
from autoround.errors import DeviceError
from autoround.types import PER_CHANNEL, PER_TENSOR
from autoround_backends.null import BACKEND

SHAPES = [
    ((12, 96), 32, (12, 3, 32)),
    ((5, 50), 16, (5, 4, 16)),
    ((2, 4, 48), 16, (8, 3, 16)),
    ((8, 64), PER_CHANNEL, (8, 1, 64)),
    ((8, 64), PER_TENSOR, (1, 1, 512)),
    ((4096, 100_000), 128, (4096, 782, 128)),
]


@pytest.mark.parametrize(("shape", "group_size", "expected"), SHAPES)
@pytest.mark.parametrize("sym", [True, False])
def test_shapes_without_numbers(
    shape: tuple[int, ...], group_size: int, expected: tuple[int, ...], sym: bool
) -> None:
    runtime = BACKEND.open(None)
    weight = torch.empty(shape, dtype=torch.bfloat16, device=runtime.device)
    groups = to_groups(weight, group_size)
    assert (groups.shape, groups.dtype) == (expected, torch.float32)
    grid = min_max_grid(groups, integer_levels(4, sym=sym))
    parts = [part.requires_grad_() for part in initial_rounding(groups)]
    rounding = Rounding(*parts)
    result = runtime.ops.fake_quantize(groups, rounding, grid=grid, dtype=torch.bfloat16)
    assert (result.shape, result.dtype) == (expected, torch.bfloat16)
    grads = torch.autograd.grad(result, parts, torch.empty_like(result))
    assert [g.shape for g in grads] == [part.shape for part in parts]
    state = runtime.ops.sign_step(parts, list(grads), state=signsgd.init(0.1, 2))
    assert state.step == 1
    codes, scale, zero = runtime.ops.quantize(groups, rounding, grid=grid)
    assert (codes.shape, codes.dtype) == (expected, torch.uint8)
    assert (scale.shape, scale.dtype) == ((*expected[:2], 1), torch.float16)
    assert (zero.shape, zero.dtype) == ((*expected[:2], 1), torch.uint8)
    tensors = [result, *grads, codes, scale, zero, dequantize(codes, scale, zero)]
    assert {tensor.device.type for tensor in tensors} == {"meta"}


def test_null_is_always_there_and_never_chosen_by_itself() -> None:
    assert BACKEND.probe().available
    assert BACKEND.probe().devices == ("null",)
    assert BACKEND.rank < 0


def test_there_is_one_null_device() -> None:
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

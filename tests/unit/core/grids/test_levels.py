"""Level sets: the least zero point of some layouts, and levels that are not evenly spaced.

The last part sends a minifloat's levels and power-of-two scales through everything that rounds,
searches and tunes: a new grid is a new class, and no new branch elsewhere.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from autoround.core.batches import Samples
from autoround.core.gptq import gptq_offsets, inverse_cholesky
from autoround.core.grids.grid import Grid, from_groups, min_max_grid, quant_params, to_groups
from autoround.core.grids.levels import AsymmetricLevels, LevelSet, SymmetricLevels, integer_levels
from autoround.core.grids.scales import HALF, ScaleCodec
from autoround.core.ops import TorchOps
from autoround.core.reconstruction import Reconstruction
from autoround.core.rounding import (
    Rounding,
    dequantize,
    fake_quantize,
    initial_rounding,
    quantize,
)
from autoround.core.rtn import Target
from autoround.core.search import search_grid
from autoround.core.tune import tune

from .._curve import MAGNITUDES, Float4, PowersOfTwo
from .._toy import hyperparameters

FLOAT4: LevelSet = Float4()
POWERS: ScaleCodec = PowersOfTwo()
#: Levels that are not evenly spaced, scales that are not float16, and both at once.
NEW = [(FLOAT4, HALF), (integer_levels(3, sym=False), POWERS), (FLOAT4, POWERS)]


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


def test_integer_levels_are_of_two_kinds() -> None:
    assert integer_levels(4, sym=True) == SymmetricLevels(4)
    assert integer_levels(3, sym=False, lowest_zero=1) == AsymmetricLevels(3, 1)
    assert integer_levels(4, sym=True) != integer_levels(4, sym=False)
    for levels in (SymmetricLevels(5), AsymmetricLevels(5)):
        assert (levels.count, levels.top, levels.middle, levels.reach) == (32, 31, 16, 16.0)


def drawn(seed: int = 0) -> Tensor:
    weight = torch.randn(6, 3, 32, generator=torch.Generator().manual_seed(seed)) * 0.1
    weight[0, 0] = 0.0
    weight[1] = weight[1].abs()
    return weight


def moved(groups: Tensor, seed: int = 1) -> Rounding:
    rng = torch.Generator().manual_seed(seed)
    factors = [0.6 + 0.6 * torch.rand(groups[..., :1].shape, generator=rng) for _ in range(2)]
    return Rounding(torch.rand(groups.shape, generator=rng) - 0.5, *factors)


def squared_error(groups: Tensor, grid: Grid) -> Tensor:
    rounded = fake_quantize(groups, initial_rounding(groups), grid=grid, dtype=torch.float32)
    return (rounded - groups).square().sum(-1)


def test_weights_go_to_the_nearest_level_that_is_no_integer() -> None:
    groups = drawn()
    grid = min_max_grid(groups, FLOAT4)
    one = torch.ones_like(grid.lo)
    scale = quant_params(grid, one, one).scale
    codes = quantize(groups, initial_rounding(groups), grid=grid)[0]
    table = torch.cat([-MAGNITUDES.flip(0)[:-1], MAGNITUDES])
    nearest = ((groups / scale)[..., None] - table).abs().argmin(-1)
    assert torch.equal(codes.long(), nearest)
    assert int(codes.max()) == 14


@pytest.mark.parametrize(("levels", "scales"), NEW)
def test_codes_read_back_as_the_forward_made_them(levels: LevelSet, scales: ScaleCodec) -> None:
    groups = drawn()
    for grid in (
        min_max_grid(groups, levels, scales=scales),
        search_grid(groups, None, levels, scales=scales),
    ):
        rounding = moved(groups)
        codes, scale, zero = quantize(groups, rounding, grid=grid)
        assert int(codes.max()) < levels.count
        forward = fake_quantize(groups, rounding, grid=grid, dtype=torch.float32)
        assert torch.equal(dequantize(codes, scale, zero, levels=levels), forward)
        if scales is POWERS:
            assert torch.equal(scale.log2(), scale.log2().round())


@pytest.mark.parametrize(("levels", "scales"), NEW)
def test_search_is_never_worse_than_the_min_max_grid(levels: LevelSet, scales: ScaleCodec) -> None:
    groups = drawn()
    plain = squared_error(groups, min_max_grid(groups, levels, scales=scales))
    searched = squared_error(groups, search_grid(groups, None, levels, scales=scales))
    assert bool((searched <= plain * (1 + 1e-5)).all())
    assert float(searched.sum()) < float(plain.sum())


@pytest.mark.parametrize("scales", [HALF, POWERS])
def test_gradients_are_those_of_straight_through_rounding(scales: ScaleCodec) -> None:
    groups, rounding = drawn(), moved(drawn())
    grid = min_max_grid(groups, FLOAT4, scales=scales)
    upstream = torch.randn(groups.shape, generator=torch.Generator().manual_seed(2))
    parts = [part.clone().requires_grad_() for part in rounding]
    out = fake_quantize(groups, Rounding(*parts), grid=grid, dtype=torch.float32)
    ours = torch.autograd.grad(out, parts, upstream)

    offset, min_scale, max_scale = (part.clone().requires_grad_() for part in rounding)
    raw = FLOAT4.scale_for(grid.lo * min_scale, grid.hi * max_scale)
    scale = torch.where(
        scales.follows(raw), raw + (scales.round(raw) - raw).detach(), scales.round(raw.detach())
    )
    index = FLOAT4.nearest(groups, scale.detach(), offset.detach())
    clamped = FLOAT4.clamp_(index.clone(), torch.zeros(1))
    inside = (index == clamped).float()
    # As the module derives it: value(c) + inside * (W/s + V - their values), straight through.
    position = groups / scale + offset
    value = FLOAT4.value(clamped) + inside * (position - position.detach())
    wanted = torch.autograd.grad(value * scale, (offset, min_scale, max_scale), upstream)
    for found, exact in zip(ours, wanted, strict=True):
        torch.testing.assert_close(found, exact, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("levels", "scales"), NEW)
def test_error_compensation_and_tuning_lower_the_error(
    levels: LevelSet, scales: ScaleCodec
) -> None:
    rng = torch.Generator().manual_seed(5)
    inputs = torch.randn(64, 8, 6, generator=rng) @ torch.randn(6, 32, generator=rng)
    inputs += 0.3 * torch.randn(inputs.shape, generator=rng)
    weight = torch.randn(24, 32, generator=rng) / 6
    groups = to_groups(weight, 16)
    grid = search_grid(groups, None, levels, scales=scales)
    flat = inputs.reshape(-1, 32)
    factor = inverse_cholesky(flat.t() @ flat)
    assert factor is not None
    offsets = gptq_offsets(Target(groups, grid, (24, 32)), factor)
    start = initial_rounding(groups)

    def output_error(rounding: Rounding) -> float:
        rounded = fake_quantize(groups, rounding, grid=grid, dtype=torch.float32)
        return float((flat @ (from_groups(rounded, (24, 32)) - weight).t()).square().mean())

    assert output_error(start._replace(offset=offsets)) < 0.7 * output_error(start)
    block = Reconstruction(
        lambda weights, x, rows: x @ weights["w"].t(),
        {"w": Target(groups, grid, (24, 32))},
        Samples(inputs, inputs @ weight.t(), None),
    )
    # A scale that jumps by powers of two is chosen by search, and stays.
    steps = hyperparameters(60, minmax_lr=0.0)
    tuned = tune(block, steps, ops=TorchOps(), dtype=torch.float32)
    assert tuned.loss_after < 0.8 * tuned.loss_before
    codes = quantize(groups, tuned.roundings["w"], grid=grid)[0]
    assert int(codes.max()) < levels.count

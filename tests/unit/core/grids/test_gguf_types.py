"""core/grids/gguf_types.py, and grids whose scales are held by super-blocks, against the oracle."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from autoround.core.grids.gguf_types import GGUF_TYPES, nested_of, scheme_of_type
from autoround.core.grids.grid import Grid, min_max_grid, nested_parts, quant_params, to_groups
from autoround.core.grids.levels import IntegerLevels, integer_levels
from autoround.core.grids.scales import Nested
from autoround.core.metrics import weight_bits
from autoround.core.rounding import Rounding, fake_quantize, quantize
from autoround_backends import reference

NAMES = sorted(name for name, kind in GGUF_TYPES.items() if kind.nested)


def case(name: str, *, moved: bool, seed: int = 0) -> tuple[torch.Tensor, Grid, Rounding]:
    kind = GGUF_TYPES[name]
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(6, 2 * kind.block, generator=generator) * 0.05
    weight[0, :40] = 0.0
    weight[1] = weight[1].abs()
    weight[2, 3] = 4.0
    weight[3] = 0.0
    groups = to_groups(weight, kind.group_size)
    grid = min_max_grid(groups, integer_levels(kind.bits, sym=kind.sym), scales=kind.nested)
    value = torch.zeros_like(groups)
    factors = torch.ones_like(groups[..., :1]), torch.ones_like(groups[..., :1])
    if moved:
        value = torch.rand(groups.shape, generator=generator) - 0.5
        factors = (
            0.6 + 0.5 * torch.rand(factors[0].shape, generator=generator),
            0.6 + 0.5 * torch.rand(factors[0].shape, generator=generator),
        )
    return groups, grid, Rounding(value, *factors)


def oracle(grid: Grid, rounding: Rounding) -> tuple[reference.Grid, reference.Rounding]:
    levels, nested = grid.levels, grid.scales
    assert isinstance(levels, IntegerLevels)
    assert isinstance(nested, Nested)
    return (
        reference.Grid(
            grid.lo.double().numpy(), grid.hi.double().numpy(), levels.bits, levels.sym, nested
        ),
        reference.Rounding(*(part.detach().double().numpy() for part in rounding)),
    )


@pytest.mark.parametrize("moved", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_parts_and_weights_agree_with_the_oracle(name: str, moved: bool) -> None:
    groups, grid, rounding = case(name, moved=moved)
    theirs, held = oracle(grid, rounding)
    sure = reference.certain_groups(theirs, held.min_scale, held.max_scale)
    assert sure.mean() > 0.5
    ours = quant_params(grid, rounding.min_scale, rounding.max_scale)
    wanted = reference.quant_params(theirs, held.min_scale, held.max_scale)
    for own, other in zip(ours, wanted, strict=True):
        if own is not None:
            np.testing.assert_allclose(own.numpy()[sure], other[sure], rtol=1e-6)
    certain = reference.certain(groups.numpy(), held, grid=theirs)
    assert certain.mean() > 0.5
    result = fake_quantize(groups, rounding, grid=grid, dtype=torch.float32).numpy()
    expected = reference.fake_quantize(groups.numpy(), held, grid=theirs)
    np.testing.assert_allclose(result[certain], expected[certain], rtol=1e-5, atol=1e-7)
    codes = quantize(groups, rounding, grid=grid)[0].numpy()
    their_codes = reference.quantize(groups.numpy(), held, grid=theirs)[0]
    np.testing.assert_array_equal(codes[certain], their_codes[certain])


@pytest.mark.parametrize("name", NAMES)
def test_gradients_agree_with_the_oracle(name: str) -> None:
    groups, grid, rounding = case(name, moved=True, seed=1)
    theirs, held = oracle(grid, rounding)
    params = Rounding(*(part.clone().requires_grad_() for part in rounding))
    upstream = torch.randn(groups.shape, generator=torch.Generator().manual_seed(5))
    out = fake_quantize(groups, params, grid=grid, dtype=torch.float32)
    grads = torch.autograd.grad(out, params, upstream)
    wanted = reference.gradients(groups.numpy(), held, grid=theirs, upstream=upstream.numpy())
    certain = reference.certain(groups.numpy(), held, grid=theirs)
    whole = certain.all(-1, keepdims=True)
    assert whole.mean() > 0.2
    np.testing.assert_allclose(
        grads[0].numpy()[certain], wanted.offset[certain], rtol=1e-5, atol=1e-9
    )
    for own, other in zip(grads[1:], wanted[1:], strict=True):
        size = np.abs(other).max()
        np.testing.assert_allclose(own.numpy()[whole], other[whole], rtol=1e-4, atol=1e-5 * size)


@pytest.mark.parametrize("name", NAMES)
def test_every_part_is_one_that_the_format_holds(name: str) -> None:
    kind = GGUF_TYPES[name]
    _, grid, rounding = case(name, moved=True, seed=2)
    parts = nested_parts(grid, rounding.min_scale, rounding.max_scale)
    assert parts is not None
    for held in (parts.scale, parts.minimum):
        if held is not None:
            assert torch.equal(held, held.half().float())
    sub = parts.sub_scale
    assert torch.equal(sub, sub.round())
    assert sub.min() >= kind.nested.low
    assert sub.max() <= kind.nested.high
    assert (sub != 0).all()
    assert (parts.sub_minimum is None) == kind.sym
    if parts.sub_minimum is not None:
        assert parts.sub_minimum.min() >= 0
        assert parts.sub_minimum.max() <= kind.nested.high


@pytest.mark.parametrize("name", NAMES)
def test_codes_and_parts_give_the_weights_of_the_forward(name: str) -> None:
    groups, grid, rounding = case(name, moved=True, seed=3)
    codes, scale, zero = quantize(groups, rounding, grid=grid)
    minimum = quant_params(grid, rounding.min_scale, rounding.max_scale).minimum
    back = (codes.float() - zero.float()) * scale - (0.0 if minimum is None else minimum)
    assert torch.equal(back, fake_quantize(groups, rounding, grid=grid, dtype=torch.float32))


@pytest.mark.parametrize(
    ("name", "bits"),
    [
        ("q4_1", 5.0),
        ("q5_1", 6.0),
        ("q2_k", 2.625),
        ("q3_k", 3.4375),
        ("q4_k", 4.5),
        ("q5_k", 5.5),
        ("q6_k", 6.5625),
    ],
)
def test_bits_are_those_of_the_blocks(name: str, bits: float) -> None:
    scheme = scheme_of_type(name)
    assert weight_bits((3, 512), scheme) == 3 * 512 * bits
    assert str(scheme) == name.upper()
    assert nested_of(scheme) == GGUF_TYPES[name].nested

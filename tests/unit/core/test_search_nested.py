from __future__ import annotations

import pytest
import torch

from autoround.core.grids.gguf_types import GGUF_TYPES
from autoround.core.grids.grid import min_max_grid, nested_parts, quant_params, to_groups
from autoround.core.grids.levels import integer_levels
from autoround.core.rounding import fake_quantize, initial_rounding
from autoround.core.search_nested import rungs, search_nested

NAMES = sorted(name for name, kind in GGUF_TYPES.items() if kind.nested)


def weight_of(name: str, *, rows: int = 8) -> torch.Tensor:
    generator = torch.Generator().manual_seed(11)
    weight = torch.randn(rows, 2 * GGUF_TYPES[name].block, generator=generator) * 0.03
    weight[0] = 0.0
    weight[1] = weight[1].abs() + 0.2
    weight[2] = -weight[2].abs() - 0.2
    return weight


def rounded(groups: torch.Tensor, grid: object) -> torch.Tensor:
    start = initial_rounding(groups)
    return fake_quantize(groups, start, grid=grid, dtype=torch.float32)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", NAMES)
def test_the_weighted_error_is_below_that_of_the_min_max_grid(name: str) -> None:
    kind = GGUF_TYPES[name]
    groups = to_groups(weight_of(name), kind.group_size)
    importance = torch.rand(1, *groups.shape[1:], generator=torch.Generator().manual_seed(3)) ** 3
    plain = min_max_grid(groups, integer_levels(kind.bits, sym=kind.sym), scales=kind.nested)
    found = search_nested(
        groups, importance, integer_levels(kind.bits, sym=kind.sym), scales=kind.nested
    )

    def error(grid: object) -> torch.Tensor:
        return ((rounded(groups, grid) - groups).square() * importance).sum((1, 2))

    # Rows of ordinary weights gain a good part; no row of any kind may lose much.
    assert (error(found)[3:] < 0.95 * error(plain)[3:]).all()
    assert (error(found) <= 1.02 * error(plain) + 1e-12).all()


@pytest.mark.parametrize("name", NAMES)
def test_what_was_chosen_is_what_the_forward_rounds_to(name: str) -> None:
    kind = GGUF_TYPES[name]
    groups = to_groups(weight_of(name), kind.group_size)
    found = search_nested(groups, None, integer_levels(kind.bits, sym=kind.sym), scales=kind.nested)
    one = torch.ones_like(groups[..., :1])
    params = quant_params(found, one, one)
    parts = nested_parts(found, one, one)
    assert parts is not None
    assert torch.isfinite(params.scale).all()
    # Looking at the same grid again moves nothing: scales are on their super-block's steps.
    if kind.sym:
        wanted = torch.where(found.hi > -found.lo, -found.hi, -found.lo) / 2 ** (kind.bits - 1)
    else:
        wanted = (found.hi - found.lo) / (2**kind.bits - 1)
    step = parts.scale.expand(parts.sub_scale.shape).reshape(wanted.shape).abs()
    assert ((params.scale - wanted).abs() <= 0.01 * step)[3:].all()


def test_a_row_is_searched_alike_alone_and_among_others() -> None:
    kind = GGUF_TYPES["q4_k"]
    groups = to_groups(weight_of("q4_k", rows=300), kind.group_size)
    whole = search_nested(groups, None, integer_levels(4, sym=False), scales=kind.nested)
    alone = search_nested(groups[200:201], None, integer_levels(4, sym=False), scales=kind.nested)
    assert torch.equal(whole.lo[200:201], alone.lo)
    assert torch.equal(whole.hi[200:201], alone.hi)


@pytest.mark.parametrize("bits", [2, 4, 5])
def test_the_ladder_reaches_below_one(bits: int) -> None:
    assert min(rungs(bits)) <= 0.7
    assert max(rungs(bits)) >= 1.0

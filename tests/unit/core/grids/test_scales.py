"""Scale codecs; super-blocks as a whole grid sees them are in test_gguf_types.py."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from autoround.core.grids.gguf_types import GGUF_TYPES
from autoround.core.grids.scales import HALF, LARGEST_SCALE, SMALLEST_SCALE

from .._cases import few


def representable(scale: torch.Tensor) -> bool:
    return torch.equal(scale.half().float(), scale)


@few
@given(
    scales=st.lists(st.floats(-7e4, 7e4, width=32, allow_subnormal=False), min_size=1, max_size=20)
)
def test_half_keeps_the_sign_and_what_float16_holds(scales: list[float]) -> None:
    scale = torch.tensor(scales, dtype=torch.float32)
    rounded = HALF.round(scale)
    assert representable(rounded)
    assert torch.equal(rounded < 0, scale < 0)
    assert torch.equal(HALF.round(rounded), rounded)
    bounded = scale.abs().clamp(SMALLEST_SCALE, LARGEST_SCALE)
    assert bool(((rounded.abs() - bounded).abs() <= bounded * 2**-11 + 2**-25).all())


def test_every_fraction_of_a_float16_scale_is_a_candidate() -> None:
    scale = torch.tensor([0.3, -1e-6])
    found = list(HALF.candidates(scale, (0.5, 1.0)))
    assert [fraction for fraction, _ in found] == [0.5, 1.0]
    assert all(torch.equal(trial, HALF.round(scale * f)) for f, trial in found)
    assert HALF.stored(HALF.round(scale)).dtype == torch.float16


def test_a_scale_at_its_floor_does_not_follow_its_range() -> None:
    scale = torch.tensor([1e-6, -1e-6, 1e-4, -1e-4])
    assert HALF.follows(scale).tolist() == [False, False, True, True]


@pytest.mark.parametrize("name", sorted(name for name, kind in GGUF_TYPES.items() if kind.nested))
def test_only_unsigned_super_blocks_have_minima(name: str) -> None:
    kind = GGUF_TYPES[name]
    scale = torch.rand(3, kind.nested.groups, 1) + 0.1
    rounded, minimum = kind.nested.encode(scale, -scale)
    assert kind.nested.has_minimum == (minimum is not None) == (not kind.sym)
    assert rounded.shape == scale.shape
    assert kind.nested.follows(scale).all()
    assert kind.nested.stored(scale).dtype == torch.float32

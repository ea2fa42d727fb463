# Tests: autoround/core/grids/widths.py
from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from autoround.core.grids.grid import to_groups
from autoround.core.grids.widths import group_count
from autoround.core.metrics import weight_bits
from autoround.types import LEGAL_BITS, PER_CHANNEL, PER_TENSOR, Scheme

from ._cases import few


@few
@given(
    rows=st.integers(1, 40),
    columns=st.integers(1, 300),
    group_size=st.sampled_from([7, 32, 128, PER_CHANNEL, PER_TENSOR]),
)
def test_groups_are_counted_as_they_are_cut(rows: int, columns: int, group_size: int) -> None:
    cut = to_groups(torch.zeros(rows, columns), group_size)
    assert group_count((rows, columns), Scheme(4, group_size, True)) == cut.shape[0] * cut.shape[1]


@pytest.mark.parametrize(
    ("scheme", "bits"),
    [
        (Scheme(4, 128, True), 8 * 256 * 4 + 16 * 16),
        (Scheme(4, 128, False), 8 * 256 * 4 + 16 * (16 + 4)),
        (Scheme(3, 100, False), 8 * 256 * 3 + 24 * (16 + 3)),
        (Scheme(8, PER_CHANNEL, True), 8 * 256 * 8 + 8 * 16),
        (Scheme(2, PER_TENSOR, False), 8 * 256 * 2 + 16 + 2),
        (Scheme(2, 1024, True), 8 * 256 * 2 + 8 * 16),
    ],
)
def test_bits_of_a_weight_with_its_scales_and_zeros(scheme: Scheme, bits: int) -> None:
    assert weight_bits((8, 256), scheme) == bits


@pytest.mark.parametrize("bits", LEGAL_BITS)
def test_finer_groups_cost_more(bits: int) -> None:
    costs = [weight_bits((64, 256), Scheme(bits, size, False)) for size in (0, -1, 128, 64, 32)]
    assert costs == sorted(costs)
    assert len(set(costs)) == len(costs)

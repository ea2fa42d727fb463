"""Integers fitted to another layout stand for the same weights, or it is said what is lost."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from autoround.formats.adapt import adapt
from autoround.types import QuantizedTensor, Scheme


def layer(
    zero: list[int], *, bits: int = 4, group: int = 16, scale: float = 0.5, columns: int = 32
) -> QuantizedTensor:
    """Return a layer of one row a zero point whose codes stay away from both ends."""
    rows = len(zero)
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(4, 2**bits - 4, (rows, columns), generator=generator, dtype=torch.uint8)
    groups = 1 if group <= 0 else -(-columns // group)
    zeros = torch.tensor(zero, dtype=torch.uint8)[:, None].repeat(1, groups)
    return QuantizedTensor(
        codes, torch.full((rows, groups), scale).half(), zeros, Scheme(bits, group, False)
    )


def weights(held: QuantizedTensor) -> Tensor:
    columns = held.codes.shape[1]
    groups = held.scale.shape[1]
    width = held.scheme.group_size if held.scheme.group_size > 0 else columns
    assert groups in (1, -(-columns // width))
    spread = [
        part.double().repeat_interleave(width, 1)[:, :columns] for part in (held.scale, held.zero)
    ]
    return (held.codes.double() - spread[1]) * spread[0]


@pytest.mark.parametrize("group", [16, 12, -1])
@pytest.mark.parametrize(("lowest", "highest", "moved"), [(1, 15, 2), (3, 14, 4), (1, 16, 1)])
def test_zero_points_move_with_their_codes(
    group: int, lowest: int, highest: int, moved: int
) -> None:
    held = layer([0, 1, 7, 15, 16], group=group)
    found = adapt(held, lowest=lowest, highest=highest)
    assert torch.equal(weights(found.layer), weights(held))
    assert found.lost == ""
    assert found.layer.zero[:, 0].tolist() == [
        min(max(z, lowest), highest) for z in held.zero[:, 0]
    ]
    assert found.shifted == held.scale.shape[1] * moved


def test_what_fits_stays_as_it_is() -> None:
    held = layer([1, 8, 15])
    found = adapt(held, lowest=1, highest=15)
    assert (found.shifted, found.lost) == (0, "")
    assert torch.equal(found.layer.codes, held.codes)
    assert torch.equal(found.layer.zero, held.zero)


def test_codes_at_the_far_end_are_cut_off_and_counted() -> None:
    held = layer([0, 8])
    held.codes[0, :3] = 15
    held.codes[1, :3] = 15
    found = adapt(held, lowest=1, highest=15)
    assert found.lost == (
        "3 weights lose their level, because zero points outside 1 … 15 cannot be held"
    )
    apart = weights(found.layer) != weights(held)
    assert apart.sum() == 3
    assert apart[0, :3].all()


def test_scales_that_half_precision_does_not_hold_are_counted() -> None:
    held = layer([8, 8])
    wide = torch.tensor([[1.0, 2.0**-30], [0.5, 1e30]]).bfloat16()
    found = adapt(QuantizedTensor(held.codes, wide, held.zero, held.scheme), lowest=0, highest=15)
    assert found.lost == "2 scales in torch.bfloat16 are not exact in float16"
    assert found.layer.scale.dtype == torch.float16


@pytest.mark.parametrize(("zero", "sym"), [([8, 8], True), ([8, 7], False)])
def test_a_grid_is_symmetric_where_all_zero_points_are_in_the_middle(
    zero: list[int], sym: bool
) -> None:
    held = layer(zero)
    symmetric = QuantizedTensor(held.codes, held.scale, held.zero, Scheme(4, 16, True))
    assert adapt(symmetric, lowest=0, highest=15).layer.scheme == Scheme(4, 16, sym)
    assert not adapt(held, lowest=0, highest=15).layer.scheme.sym

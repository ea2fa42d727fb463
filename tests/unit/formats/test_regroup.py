from __future__ import annotations

import numpy as np
import pytest
import torch

from autoround.core.rounding import dense_weight
from autoround.formats.regroup import ordered_weight, regroup
from autoround.types import QuantizedTensor, Scheme


def drawn(scheme: Scheme, *, rows: int = 6, columns: int = 64) -> QuantizedTensor:
    rng = torch.Generator().manual_seed(scheme.bits)
    groups, top = columns // scheme.group_size, 2**scheme.bits
    zero = torch.full((rows, groups), top // 2)
    if not scheme.sym:
        zero = torch.randint(0, top, (rows, groups), generator=rng)
    return QuantizedTensor(
        torch.randint(0, top, (rows, columns), generator=rng).to(torch.uint8),
        (torch.rand((rows, groups), generator=rng) + 0.5).half(),
        zero.to(torch.uint8),
        scheme,
    )


@pytest.mark.parametrize("sym", [True, False])
def test_each_input_takes_the_scale_of_the_group_it_names(sym: bool) -> None:
    layer = drawn(Scheme(4, 16, sym))
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0)) // 16
    got = ordered_weight(layer, order.int()).numpy()
    codes, scale, zero = (
        t.numpy().astype(np.float64) for t in (layer.codes, layer.scale, layer.zero)
    )
    for row in range(6):
        for column in range(64):
            group = int(order[column])
            wanted = (codes[row, column] - zero[row, group]) * scale[row, group]
            assert got[row, column] == pytest.approx(wanted)
    assert torch.equal(ordered_weight(layer, torch.arange(64) // 16), dense_weight(layer))


@pytest.mark.parametrize("sym", [True, False])
@pytest.mark.parametrize("bits", [3, 4, 8])
def test_rounding_anew_stays_close_and_keeps_the_scheme(bits: int, sym: bool) -> None:
    layer = drawn(Scheme(bits, 16, sym))
    order = torch.randperm(64, generator=torch.Generator().manual_seed(1)) // 16
    found, error = regroup(layer, order, lowest_zero=0 if sym else 1)
    assert found.scheme == layer.scheme
    assert found.codes.shape == layer.codes.shape
    assert found.scale.shape == layer.scale.shape
    assert int(found.zero.min()) >= (0 if sym else 1)
    exact = ordered_weight(layer, order).double()
    relative = float((dense_weight(found) - exact).square().mean() / exact.square().mean())
    assert error == pytest.approx(relative, rel=1e-3)
    assert error < {3: 0.06, 4: 0.015, 8: 1e-4}[bits]

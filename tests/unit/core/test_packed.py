"""The canonical packed layout; kernels that read it are in tests/backends/test_kernels.py."""

from __future__ import annotations

import pytest
import torch

from autoround.core.packed import dense_rows, pack, unpack
from autoround.core.rounding import dense_weight
from autoround.types import LEGAL_BITS, PER_CHANNEL, QuantizedTensor, Scheme


def drawn(shape: tuple[int, int], scheme: Scheme) -> QuantizedTensor:
    rng = torch.Generator().manual_seed(scheme.bits)
    width = scheme.group_size if scheme.group_size > 0 else shape[1]
    held = (shape[0], -(-shape[1] // width))
    codes = torch.randint(0, 2**scheme.bits, shape, generator=rng, dtype=torch.uint8)
    zero = torch.full(held, 2 ** (scheme.bits - 1), dtype=torch.uint8)
    if not scheme.sym:
        zero = torch.randint(0, 2**scheme.bits, held, generator=rng, dtype=torch.uint8)
    return QuantizedTensor(codes, torch.randn(held, generator=rng).half(), zero, scheme)


@pytest.mark.parametrize("bits", LEGAL_BITS)
@pytest.mark.parametrize("size", [16, 24, PER_CHANNEL])
@pytest.mark.parametrize("sym", [True, False])
def test_a_weight_comes_back_as_it_was(bits: int, size: int, sym: bool) -> None:
    layer = drawn((5, 70), Scheme(bits, size, sym))
    state = pack(layer, None)
    assert (state["zero"].numel() == 1) == sym
    back = unpack(state, (5, 70), layer.scheme)
    for part in ("codes", "scale", "zero"):
        assert torch.equal(getattr(back, part), getattr(layer, part))
    rows = dense_rows(state, slice(1, 4), shape=(5, 70), scheme=layer.scheme)
    assert torch.equal(rows, dense_weight(layer)[1:4])


def test_inputs_may_name_their_groups() -> None:
    layer = drawn((3, 64), Scheme(4, 16, False))
    order = (torch.arange(64) // 16)[torch.randperm(64, generator=torch.Generator().manual_seed(0))]
    rows = dense_rows(pack(layer, order), slice(0, 3), shape=(3, 64), scheme=layer.scheme)
    wanted = (layer.codes.float() - layer.zero.float()[:, order]) * layer.scale.float()[:, order]
    assert torch.equal(rows, wanted)

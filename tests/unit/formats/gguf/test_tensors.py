"""What tuning finds is what the block types of GGUF hold."""

from __future__ import annotations

import pytest
import torch

from autoround.core.grids.gguf_types import GGUF_TYPES, scheme_of_type
from autoround.core.rounding import dense_weight
from autoround.core.rtn import quantize_matrix
from autoround.formats.gguf.blocks import pack, unpack
from autoround.formats.gguf.tensors import dense, nested_tensor
from autoround.types import Scheme

from ....tiny_quantized import nearest

NESTED = [name for name, kind in GGUF_TYPES.items() if kind.nested is not None]
WEIGHT = torch.randn(5, 512, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("search", [True, False])
@pytest.mark.parametrize("kind", NESTED)
def test_super_blocks_stand_for_the_weights_that_were_rounded(kind: str, search: bool) -> None:
    matrix = quantize_matrix(WEIGHT, scheme_of_type(kind), search=search)
    assert matrix.nested is not None
    held = nested_tensor(kind, matrix.codes, matrix.nested)
    assert held.kind == kind
    assert torch.equal(held.codes, matrix.codes)
    back = unpack(pack(held), kind)
    for part in ("codes", "scale", "sub_scale", "minimum", "sub_minimum"):
        own, other = getattr(held, part), getattr(back, part)
        assert (own is None) == (other is None)
        assert own is None or torch.equal(own.float(), other.float())
    # By scales and minima of each group: a second way to the same weights.
    width = GGUF_TYPES[kind].group_size
    parts = matrix.nested
    scale = (parts.scale * parts.sub_scale).reshape(5, -1).double().repeat_interleave(width, 1)
    codes = matrix.codes.double()
    if parts.minimum is None or parts.sub_minimum is None:
        wanted = (codes - 2 ** (GGUF_TYPES[kind].bits - 1)) * scale
    else:
        minimum = (parts.minimum * parts.sub_minimum).reshape(5, -1).double()
        wanted = codes * scale - minimum.repeat_interleave(width, 1)
    torch.testing.assert_close(dense(held).double(), wanted, rtol=1e-3, atol=1e-3)
    levels = 2 ** GGUF_TYPES[kind].bits - 1
    assert float((dense(held) - WEIGHT).norm() / WEIGHT.norm()) < 2 / levels


def test_plain_scales_need_no_super_block() -> None:
    held = nearest(WEIGHT, Scheme(4, 32, True))
    assert torch.equal(dense(held), dense_weight(held))

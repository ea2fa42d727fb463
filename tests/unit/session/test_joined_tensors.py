"""Tensors that lie one after the other are the same ones when they are cut apart."""

from __future__ import annotations

import pytest
import torch

from autoround.session.joined_tensors import cut_portions, join_tensors, split_tensors

TENSORS = [
    torch.arange(3, dtype=torch.uint8),
    torch.randn(2, 5),
    torch.randn(5, 2).t().to(torch.bfloat16),
    torch.tensor(True),
    torch.empty(0, 4, dtype=torch.float16),
    torch.arange(6, dtype=torch.int64).reshape(1, 2, 3),
    torch.arange(4, dtype=torch.int32).view(torch.uint32),
]


@pytest.mark.parametrize("most", [1, 30, 1 << 20])
def test_portions_hold_every_tensor_once_and_come_apart_again(most: int) -> None:
    portions = cut_portions(TENSORS, most=most)
    assert sorted(n for portion in portions for n in portion) == list(range(len(TENSORS)))
    for portion in portions:
        tensors = [TENSORS[n] for n in portion]
        joined = join_tensors(tensors)
        assert joined.dtype == torch.uint8
        assert len(portion) == 1 or joined.numel() <= most
        apart = split_tensors(joined, [(t.shape, t.dtype) for t in tensors])
        for tensor, again in zip(tensors, apart, strict=True):
            assert again.dtype == tensor.dtype
            assert torch.equal(again, tensor)


def test_all_that_fits_is_one_portion_and_none_is_none() -> None:
    assert len(cut_portions(TENSORS)) == 1
    assert cut_portions([]) == []
    # Larger elements first, so that each begins at a multiple of its size.
    assert cut_portions(TENSORS)[0][0] == 5

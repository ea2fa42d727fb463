"""Sums of tensors tell any difference of bytes, dtype, shape or order."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
import torch
from torch import Tensor

from autoround.storage.checksum import checksum, checksum_of_all, raw_bytes, sum_of

DTYPES = (
    torch.float32,
    torch.bfloat16,
    torch.float16,
    torch.float8_e4m3fn,
    torch.int64,
    torch.uint8,
    torch.bool,
)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_sum_is_the_crc_of_dtype_shape_and_bytes(dtype: torch.dtype) -> None:
    tensor = torch.arange(24).reshape(2, 3, 4).to(dtype)
    stored = tensor.reshape(-1).view(torch.uint8).numpy().tobytes()
    assert bytes(raw_bytes(tensor)) == stored
    assert checksum(tensor) == zlib.crc32(f"{dtype} (2, 3, 4)".encode() + stored)


def test_how_a_tensor_lies_in_memory_does_not_matter() -> None:
    tensor = torch.randn(6, 4)
    turned = tensor.t().contiguous().t()
    assert not turned.is_contiguous()
    assert checksum(turned) == checksum(tensor)
    assert checksum(torch.cat([tensor, tensor])[6:]) == checksum(tensor)
    assert checksum(tensor.clone().requires_grad_()) == checksum(tensor)


def test_shape_and_dtype_matter() -> None:
    zeros = torch.zeros(4, 6)
    others = [zeros.reshape(6, 4), zeros.reshape(24), zeros.int(), torch.zeros(0, 4)]
    sums = {checksum(tensor) for tensor in [zeros, *others, torch.zeros(4, 0), torch.tensor(0.0)]}
    assert len(sums) == 7


def test_equal_numbers_of_other_bytes_differ() -> None:
    assert checksum(torch.tensor([0.0])) != checksum(torch.tensor([-0.0]))
    nan = torch.tensor([float("nan")])
    assert checksum(nan) == checksum(nan.clone())


@pytest.mark.parametrize("bit", [0, 7, 63, 4 * 8 * 50 - 1])
def test_a_single_bit_changes_it(bit: int) -> None:
    tensor = torch.ones(50)
    other = tensor.clone()
    raw_bytes(other)[bit // 8] ^= 1 << bit % 8
    assert not torch.equal(tensor, other)
    assert checksum(tensor) != checksum(other)


def test_what_is_written_to_the_bytes_is_in_the_tensor() -> None:
    tensor = torch.zeros(3)
    raw_bytes(tensor)[:] = np.array([1, 2, 3], np.float32).tobytes()
    assert tensor.tolist() == [1, 2, 3]


def test_a_sum_of_several_depends_on_their_order_and_number() -> None:
    a, b = torch.randn(5), torch.randn(5)

    def stream(*tensors: Tensor) -> int:
        return checksum_of_all(iter(tensors))

    sums = {stream(), stream(a), stream(b), stream(a, b), stream(b, a), stream(a, a), stream(b, b)}
    assert len(sums) == 7
    assert stream(*[a] * 100) < 2**61


def test_named_tensors_are_summed_by_name_whatever_the_order_of_the_mapping() -> None:
    a, b = torch.randn(5), torch.randn(5)
    assert sum_of({"a": a, "b": b}) == sum_of({"b": b, "a": a}) == checksum_of_all([a, b])
    assert sum_of({"a": b, "b": a}) != sum_of({"a": a, "b": b})

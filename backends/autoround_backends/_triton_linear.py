"""Packed products in Triton: y = x W^T with W unpacked in registers. See kernel_triton.py.

Codes lie along the inputs as one bit stream of 32-bit words (autoround/core/packed.py), so one
source serves every number of bits; a code that straddles words is put together from two.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _weights(  # type: ignore[no-untyped-def]
    words, scale, zero, group, n, k, N, K, stride, groups,
    BITS: tl.constexpr, WIDTH: tl.constexpr, UNIFORM: tl.constexpr, ORDERED: tl.constexpr,
):  # fmt: skip
    """Unpack weights [n, k] to float32; outside of the matrix they are 0."""
    inside = (n < N)[:, None] & (k < K)[None, :]
    bit = k * BITS
    # int64: rows times stride leaves 32 bits in large output heads.
    at = n.to(tl.int64)[:, None] * stride + (bit // 32)[None, :]
    shift = (bit % 32)[None, :]
    code = tl.load(words + at, mask=inside, other=0).to(tl.uint32) >> shift.to(tl.uint32)
    # Widths that divide 32 never straddle, and their kernels have no second load.
    if 32 % BITS != 0:
        over = inside & (shift + BITS > 32)
        rest = tl.load(words + at + 1, mask=over, other=0).to(tl.uint32)
        code = code | tl.where(over, rest << ((32 - shift) % 32).to(tl.uint32), 0)
    code = (code & ((1 << BITS) - 1)).to(tl.float32)
    if ORDERED:
        g = tl.load(group + k, mask=k < K, other=0).to(tl.int32)
    else:
        g = k // WIDTH
    of = n[:, None] * groups + g[None, :]
    s = tl.load(scale + of, mask=inside, other=0.0).to(tl.float32)
    if UNIFORM:
        z = tl.load(zero).to(tl.float32)
    else:
        z = tl.load(zero + of, mask=inside, other=0).to(tl.float32)
    return tl.where(inside, (code - z) * s, 0.0)


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def few_rows(  # type: ignore[no-untyped-def]
    x, words, scale, zero, group, out, M, N, K, stride, groups,
    BITS: tl.constexpr, WIDTH: tl.constexpr, UNIFORM: tl.constexpr, ORDERED: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """One row of x a program, for decoding: sums in float32."""
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    m = tl.program_id(1).to(tl.int64)
    total = tl.zeros((BLOCK_N,), dtype=tl.float32)
    for start in range(0, K, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        w = _weights(
            words, scale, zero, group, n, k, N, K, stride, groups, BITS, WIDTH, UNIFORM, ORDERED
        )
        values = tl.load(x + m * K + k, mask=k < K, other=0.0).to(tl.float32)
        total += tl.sum(w * values[None, :], axis=1)
    tl.store(out + m * N + n, total.to(out.dtype.element_ty), mask=n < N)


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def many_rows(  # type: ignore[no-untyped-def]
    x, words, scale, zero, group, out, M, N, K, stride, groups,
    BITS: tl.constexpr, WIDTH: tl.constexpr, UNIFORM: tl.constexpr, ORDERED: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """A tile of the product a program, by the tensor cores where x has 16 bits."""
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    row = m.to(tl.int64)[:, None]
    total = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for start in range(0, K, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        w = _weights(
            words, scale, zero, group, n, k, N, K, stride, groups, BITS, WIDTH, UNIFORM, ORDERED
        )
        inside = (m < M)[:, None] & (k < K)[None, :]
        values = tl.load(x + row * K + k[None, :], mask=inside, other=0.0)
        # ieee: float32 activations are not to be cut to TF32 on the way.
        total += tl.dot(values, tl.trans(w.to(values.dtype)), input_precision="ieee")
    tl.store(
        out + row * N + n[None, :],
        total.to(out.dtype.element_ty),
        mask=(m < M)[:, None] & (n < N)[None, :],
    )


def launch(
    function: Any, grid: tuple[int, int], tensors: tuple[Any, ...], constants: dict[str, Any]
) -> None:
    """Start a kernel on the device that the first tensor is on, whichever is the current one."""
    with on_device_of(tensors[0]):
        function[grid](*tensors, **constants)


def on_device_of(tensor: Tensor) -> AbstractContextManager[object]:
    """Return what makes a tensor's device the current one: a kernel is started on that."""
    device = tensor.device
    if device.type == "cpu":  # of Triton's interpreter
        return nullcontext()
    module: Any = torch.get_device_module(device)
    current: AbstractContextManager[object] = module.device(device)
    return current

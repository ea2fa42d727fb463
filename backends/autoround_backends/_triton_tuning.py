"""The operations of tuning in Triton, over all tensors of a block in one launch.

A table tells a program which tensor it works on and where that lies: int64 [11, tensors], filled
in by _triton_ops.py. Its rows: addresses of weight (0), offset (1), min_scale and max_scale (2, 3)
and ends (4, 5), then the number of groups (6), the first program (7), groups of the tensors before
(8), the highest code (9) and the least zero point (10). Programs take BLOCK_G groups of one tensor
each, and walk over wide groups in steps of BLOCK_W. The derivation stands in
autoround/core/rounding.py.

Levels are those of plain torch bit for bit, so divisions round as IEEE says (div_rn), scales are
rounded to float16 by a cast, and halves are rounded to even by adding and taking away 3 * 2**22;
what lies beyond 2**21 is cut off before, and is outside of every grid either way.
"""

from __future__ import annotations

import triton
import triton.language as tl

#: The smallest and the largest scale, as in autoround/core/grids/scales.py.
_MIN_SCALE = tl.constexpr(1e-5)
_MAX_SCALE = tl.constexpr(65504.0)
_EVEN = tl.constexpr(12582912.0)
_FAR = tl.constexpr(2097152.0)


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _field(table, field, tensor, count):  # type: ignore[no-untyped-def]
    return tl.load(table + field * count + tensor)


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _elements(table, field, tensor, count, ALIGNED: tl.constexpr):  # type: ignore[no-untyped-def]
    """Return where a tensor of float32 lies."""
    at = tl.load(table + field * count + tensor).to(tl.pointer_type(tl.float32))
    if ALIGNED:
        at = tl.multiple_of(at, 16)
    return at


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _tile(groups, inside, start, WIDTH: tl.constexpr, BLOCK_W: tl.constexpr):  # type: ignore[no-untyped-def]
    """Return the places of a step along some groups, and which of them exist."""
    k = start + tl.arange(0, BLOCK_W)
    at = groups[:, None] * WIDTH + k[None, :]
    if WIDTH % BLOCK_W == 0:
        mask = inside[:, None] & (k >= 0)[None, :]
    else:
        mask = inside[:, None] & (k < WIDTH)[None, :]
    return at, mask


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _tensor_of(table, count, PROGRAM: tl.constexpr):  # type: ignore[no-untyped-def]
    """Return which tensor this program works on: the last one that begins at or before it."""
    program = tl.program_id(0)
    tensor_index = 0
    for tensor in range(1, count):
        tensor_index += (program >= tl.load(table + PROGRAM * count + tensor)).to(tl.int32)
    return tensor_index


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _round_even(x):  # type: ignore[no-untyped-def]
    x = tl.minimum(tl.maximum(x, -_FAR), _FAR)
    return (x + _EVEN) - _EVEN


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _levels(table, tensor, count, groups, inside, SYM: tl.constexpr):  # type: ignore[no-untyped-def]
    """Return scale, zero point and scaled ends of some groups."""
    lo_at = _elements(table, 4, tensor, count, False)
    hi_at = _elements(table, 5, tensor, count, False)
    min_scale = _elements(table, 2, tensor, count, False)
    max_scale = _elements(table, 3, tensor, count, False)
    top = _field(table, 9, tensor, count).to(tl.float32)
    lowest = _field(table, 10, tensor, count).to(tl.float32)
    lo = tl.load(lo_at + groups, mask=inside, other=0.0)
    hi = tl.load(hi_at + groups, mask=inside, other=0.0)
    lo = lo * tl.load(min_scale + groups, mask=inside, other=0.0)
    hi = hi * tl.load(max_scale + groups, mask=inside, other=0.0)
    # div_rn takes tensors of one shape: adding zeros makes a number one.
    half = (top + 1.0) * 0.5
    if SYM:
        raw = tl.math.div_rn(tl.where(-lo > hi, -lo, -hi), half + tl.zeros_like(lo))
    else:
        raw = tl.math.div_rn(hi - lo, top + tl.zeros_like(lo))
    # As HALF.round: the cast to float16 rounds half to even, as torch's does.
    size = tl.minimum(tl.maximum(tl.abs(raw), _MIN_SCALE), _MAX_SCALE)
    size = size.to(tl.float16).to(tl.float32)
    scale = tl.where(raw < 0, -size, size)
    if SYM:
        zero = half + tl.zeros_like(scale)
    else:
        zero = _round_even(tl.math.div_rn(-lo, scale))
        zero = tl.minimum(tl.maximum(zero, lowest), top)
    return scale, zero, lo, hi, top


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _place(table, count, WIDTH: tl.constexpr, BLOCK_G: tl.constexpr):  # type: ignore[no-untyped-def]
    """Return the tensor of this program, its groups there, which of these exist, and the first."""
    tensor = _tensor_of(table, count, 7)
    first = tl.program_id(0) - _field(table, 7, tensor, count)
    groups = first * BLOCK_G + tl.arange(0, BLOCK_G)
    inside = groups < _field(table, 6, tensor, count)
    return tensor, groups, inside, _field(table, 8, tensor, count)


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def fake_quantize(  # type: ignore[no-untyped-def]
    table, count, out,
    WIDTH: tl.constexpr, SYM: tl.constexpr,
    BLOCK_G: tl.constexpr, BLOCK_W: tl.constexpr, ALIGNED: tl.constexpr,
):  # fmt: skip
    """Round weights to their grids and back; ``out`` holds all tensors, one after the other."""
    tensor, groups, inside, base = _place(table, count, WIDTH, BLOCK_G)
    scale, zero, _lo, _hi, top = _levels(table, tensor, count, groups, inside, SYM)
    weight = _elements(table, 0, tensor, count, ALIGNED)
    offset = _elements(table, 1, tensor, count, ALIGNED)
    for start in range(0, WIDTH, BLOCK_W):
        at, mask = _tile(groups, inside, start, WIDTH, BLOCK_W)
        w = tl.load(weight + at, mask=mask, other=0.0)
        v = tl.load(offset + at, mask=mask, other=0.0)
        n = _round_even(tl.math.div_rn(w, scale[:, None] + tl.zeros_like(w)) + v)
        c = tl.minimum(tl.maximum(n, -zero[:, None]), top - zero[:, None])
        wq = (c * scale[:, None]).to(out.dtype.element_ty)
        tl.store(out + base * WIDTH + at, wq, mask=mask)


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def backward(  # type: ignore[no-untyped-def]
    table, count, upstream, grad_offset, grad_lo, grad_hi,
    WIDTH: tl.constexpr, SYM: tl.constexpr, RANGE: tl.constexpr, GRAD: tl.constexpr,
    BLOCK_G: tl.constexpr, BLOCK_W: tl.constexpr, ALIGNED: tl.constexpr,
):  # fmt: skip
    """Differentiate by offsets, min_scale and max_scale.

    upstream: int64 [tensors], where the gradient of each output lies, GRAD its type.
    grad_offset: as ``out`` of the forward; grad_lo, grad_hi: one value a group.
    """
    tensor, groups, inside, base = _place(table, count, WIDTH, BLOCK_G)
    scale, zero, lo, hi, top = _levels(table, tensor, count, groups, inside, SYM)
    weight = _elements(table, 0, tensor, count, ALIGNED)
    offset = _elements(table, 1, tensor, count, ALIGNED)
    grad = tl.load(upstream + tensor).to(tl.pointer_type(GRAD))
    if ALIGNED:
        grad = tl.multiple_of(grad, 16)
    by_level = tl.zeros((BLOCK_G,), dtype=tl.float32)
    by_weight = tl.zeros((BLOCK_G,), dtype=tl.float32)
    by_zero = tl.zeros((BLOCK_G,), dtype=tl.float32)
    for start in range(0, WIDTH, BLOCK_W):
        at, mask = _tile(groups, inside, start, WIDTH, BLOCK_W)
        w = tl.load(weight + at, mask=mask, other=0.0)
        v = tl.load(offset + at, mask=mask, other=0.0)
        g = tl.load(grad + at, mask=mask, other=0.0).to(tl.float32)
        # Levels are computed anew: to keep them would take as much memory as the weights.
        n = _round_even(tl.math.div_rn(w, scale[:, None] + tl.zeros_like(w)) + v)
        c = tl.minimum(tl.maximum(n, -zero[:, None]), top - zero[:, None])
        passed = tl.where(n == c, g, 0.0)
        tl.store(grad_offset + base * WIDTH + at, passed * scale[:, None], mask=mask)
        if RANGE:
            by_level += tl.sum(g * c, axis=1)
            by_weight += tl.sum(passed * w, axis=1)
            if not SYM:
                by_zero += tl.sum(g - passed, axis=1)
    if RANGE:
        # autoround/core/grids/levels.py: range_gradients
        lo_at = _elements(table, 4, tensor, count, False)
        hi_at = _elements(table, 5, tensor, count, False)
        whole_lo = tl.load(lo_at + groups, mask=inside, other=0.0)
        whole_hi = tl.load(hi_at + groups, mask=inside, other=0.0)
        by_scale = by_level - tl.math.div_rn(by_weight, scale)
        if SYM:
            half = (top + 1.0) * 0.5
            halves = half + tl.zeros_like(lo)
            reach = tl.math.div_rn(tl.where(-lo > hi, -lo, hi), halves)
            by_scale = tl.math.div_rn(tl.where(reach >= _MIN_SCALE, by_scale, 0.0), halves)
            by_lo = tl.where(-lo > hi, -whole_lo * by_scale, 0.0)
            by_hi = tl.where(-lo > hi, 0.0, -whole_hi * by_scale)
        else:
            reach = tl.math.div_rn(hi - lo, top + tl.zeros_like(lo))
            by_scale = by_scale - tl.math.div_rn(lo, scale) * by_zero
            by_scale = tl.where(reach >= _MIN_SCALE, by_scale, 0.0)
            by_scale = tl.math.div_rn(by_scale, top + tl.zeros_like(lo))
            by_lo = whole_lo * (by_zero - by_scale)
            by_hi = whole_hi * by_scale
        tl.store(grad_lo + base + groups, by_lo, mask=inside)
        tl.store(grad_hi + base + groups, by_hi, mask=inside)


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def quantize(  # type: ignore[no-untyped-def]
    table, count, codes, scales, zeros,
    WIDTH: tl.constexpr, SYM: tl.constexpr,
    BLOCK_G: tl.constexpr, BLOCK_W: tl.constexpr, ALIGNED: tl.constexpr,
):  # fmt: skip
    """Round weights for good: codes from 0 on, scales in float16, zero points."""
    tensor, groups, inside, base = _place(table, count, WIDTH, BLOCK_G)
    scale, zero, _lo, _hi, top = _levels(table, tensor, count, groups, inside, SYM)
    weight = _elements(table, 0, tensor, count, ALIGNED)
    offset = _elements(table, 1, tensor, count, ALIGNED)
    tl.store(scales + base + groups, scale.to(tl.float16), mask=inside)
    tl.store(zeros + base + groups, zero.to(tl.uint8), mask=inside)
    for start in range(0, WIDTH, BLOCK_W):
        at, mask = _tile(groups, inside, start, WIDTH, BLOCK_W)
        w = tl.load(weight + at, mask=mask, other=0.0)
        v = tl.load(offset + at, mask=mask, other=0.0)
        n = _round_even(tl.math.div_rn(w, scale[:, None] + tl.zeros_like(w)) + v)
        c = tl.minimum(tl.maximum(n, -zero[:, None]), top - zero[:, None])
        tl.store(codes + base * WIDTH + at, (c + zero[:, None]).to(tl.uint8), mask=mask)


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def sign_step(  # type: ignore[no-untyped-def]
    table, count, lr, QUEUED: tl.constexpr, BLOCK: tl.constexpr, ALIGNED: tl.constexpr
):
    """Move parameters against the signs of their gradients.

    table: int64 [4, tensors]: parameters, gradients, elements, first program of each.
    lr: the learning rate, or where it lies where QUEUED.
    """
    tensor = _tensor_of(table, count, 3)
    param = _elements(table, 0, tensor, count, ALIGNED)
    grad = _elements(table, 1, tensor, count, ALIGNED)
    first = tl.program_id(0) - _field(table, 3, tensor, count)
    at = first * BLOCK + tl.arange(0, BLOCK)
    elements = _field(table, 2, tensor, count)
    # By sixteens: releases of Triton before 3.9 do not see that a mask by elements is as even.
    mask = (at // 16) < (elements // 16) if ALIGNED else at < elements
    p = tl.load(param + at, mask=mask, other=0.0)
    g = tl.load(grad + at, mask=mask, other=0.0)
    rate = tl.load(lr) if QUEUED else lr
    moved = tl.where(g > 0, p - rate, tl.where(g < 0, p + rate, p))
    tl.store(param + at, moved, mask=mask)


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def gptq_block(  # type: ignore[no-untyped-def]
    weight, scale, low, minimum, upper, positions, errors, columns, rows, stride, top,
    BLOCK_C: tl.constexpr, BLOCK_R: tl.constexpr,
):  # fmt: skip
    """Round columns in turn, each program those of some rows.

    All but ``upper`` are [columns, rows] and dense; that is [columns, columns] with a stride.
    Columns that are still to come stay in registers: what a step says of them is never written.
    """
    r = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    inside = r < rows
    c = tl.arange(0, BLOCK_C)
    present = c < columns
    left = tl.load(
        weight + c[:, None] * rows + r[None, :], mask=present[:, None] & inside[None, :], other=0.0
    )
    for j in range(columns):
        # A register tile has no index: the column is picked by a sum in which others are zero.
        now = tl.sum(tl.where((c == j)[:, None], left, 0.0), axis=0)
        at = j * rows + r
        step = tl.load(scale + at, mask=inside, other=1.0)
        lowest = tl.load(low + at, mask=inside, other=0.0)
        least = tl.load(minimum + at, mask=inside, other=0.0)
        position = tl.math.div_rn(now + least, step)
        tl.store(positions + at, position, mask=inside)
        level = tl.minimum(tl.maximum(_round_even(position), lowest), lowest + top)
        diagonal = tl.load(upper + j * stride + j) + tl.zeros_like(now)
        error = tl.math.div_rn(now - (level * step - least), diagonal)
        tl.store(errors + at, error, mask=inside)
        row = tl.load(upper + j * stride + c, mask=present & (c > j), other=0.0)
        left -= row[:, None] * error[None, :]

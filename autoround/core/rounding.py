"""Rounding to a grid: fake-quantize with its hand-derived gradient, and for good.

With W a weight, V its rounding offset, s and z scale and zero point of its group
(SignRound, arXiv 2309.05516, eq. 3; straight-through rounding, clipping passes
gradient inside the levels only):

    n = round(W/s + V)      c = clamp(n, -z, top - z)      Wq = s * c

    dWq/dV = s * inside                                    inside = (n == c)
    dWq/ds = c - inside * W/s - (1 - inside) * lo'/s       (last term: asymmetric only,
    dWq/dlo' = 1 - inside                                   through z = round(-lo'/s))

A nested grid subtracts a minimum m instead of having a zero point; then W + m stands for
W above, Wq = s * c - m, and m = -lo' does not depend on s, so the last term is absent.

The backward recomputes n rather than keeping it, so a step holds no more than the
weights, the offsets and one gradient. Both directions walk over chunks of rows that
stay in the cache; on a CPU that is several times faster than whole-tensor passes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from autoround.core.grid import SMALLEST_SCALE, Grid, from_groups, levels_of, to_groups
from autoround.types import QuantizedTensor

#: Elements of one chunk: a few float32 temporaries of it fit a core's second-level cache.
CHUNK_ELEMENTS = 1 << 16


class Rounding(NamedTuple):
    """What tuning learns about one tensor.

    value: float32 [rows, groups, width], offset of each weight in units of its scale.
    min_scale, max_scale: float32 [rows, groups, 1], factors on the ends of the range.
    """

    value: Tensor
    min_scale: Tensor
    max_scale: Tensor


def initial_rounding(groups: Tensor) -> Rounding:
    """Start at round-to-nearest: offsets zero, clip factors one.

    groups: float32 [rows, groups, width].
    """
    ones = torch.ones_like(groups[..., :1])
    return Rounding(torch.zeros_like(groups), ones, ones.clone())


def _chunks(tensor: Tensor) -> Iterator[slice]:
    """Yield row ranges; one range off the CPU, where the cache is not ours to manage."""
    rows = tensor.shape[0]
    step = rows
    if tensor.device.type == "cpu":
        step = max(1, CHUNK_ELEMENTS // max(1, tensor[0].numel()))
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))


def clamp_levels(levels: Tensor, zero: Tensor, *, bits: int, sym: bool) -> Tensor:
    """Clamp levels to a grid in place.

    levels: float32 [..., width], integer-valued; zero: [..., 1]. A symmetric grid has the
    same bounds everywhere. Elsewhere two comparisons are used: torch's clamp by tensors
    is several times slower than both together when it has to broadcast.
    """
    if sym:
        half = 2 ** (bits - 1)
        return levels.clamp_(-half, half - 1)
    torch.maximum(levels, -zero, out=levels)
    return torch.minimum(levels, (2**bits - 1) - zero, out=levels)


class _FakeQuantize(torch.autograd.Function):
    """Fake-quantize as one node of the graph; see the module for the derivation."""

    @staticmethod
    def forward(
        ctx: Any,
        weight: Tensor,
        value: Tensor,
        min_scale: Tensor,
        max_scale: Tensor,
        grid: Grid,
        dtype: torch.dtype,
    ) -> Tensor:
        scale, zero, minimum = levels_of(grid, min_scale, max_scale)
        out = torch.empty(weight.shape, dtype=dtype, device=weight.device)
        for rows in _chunks(weight):
            shifted = weight[rows] if minimum is None else weight[rows] + minimum[rows]
            levels = torch.addcdiv(value[rows], shifted, scale[rows]).round_()
            clamp_levels(levels, zero[rows], bits=grid.bits, sym=grid.sym)
            if minimum is None:
                torch.mul(levels, scale[rows], out=out[rows])
            else:
                torch.sub(levels.mul_(scale[rows]), minimum[rows], out=out[rows])
        ctx.save_for_backward(weight, value, min_scale, max_scale, scale, zero, minimum)
        ctx.grid = grid
        return out

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator, unused-ignore]
    def backward(
        ctx: Any, grad: Tensor
    ) -> tuple[None, Tensor, Tensor | None, Tensor | None, None, None]:
        weight, value, min_scale, max_scale, scale, zero, minimum = ctx.saved_tensors
        grid: Grid = ctx.grid
        grad_value = torch.empty_like(value)
        with_clips = bool(ctx.needs_input_grad[2] or ctx.needs_input_grad[3])
        sums = torch.zeros((2 if grid.sym else 3, *scale.shape), device=scale.device)
        for rows in _chunks(weight):
            upstream = grad[rows].float()
            shifted = weight[rows] if minimum is None else weight[rows] + minimum[rows]
            levels = torch.addcdiv(value[rows], shifted, scale[rows]).round_()
            clamped = clamp_levels(levels.clone(), zero[rows], bits=grid.bits, sym=grid.sym)
            # 0 inside and 1 outside, in float32: masks of bools break up the vector loops.
            outside = levels.sub_(clamped).abs_().clamp_(max=1.0)
            passed = torch.addcmul(upstream, upstream, outside, value=-1.0, out=grad_value[rows])
            if with_clips:
                sums[0, rows] = clamped.mul_(upstream).sum(-1, keepdim=True)
                torch.mul(passed, shifted, out=levels)
                sums[1, rows] = levels.sum(-1, keepdim=True)
                if not grid.sym:
                    sums[2, rows] = upstream.sum(-1, keepdim=True) - passed.sum(-1, keepdim=True)
            passed.mul_(scale[rows])
        if not with_clips:
            return None, grad_value, None, None, None, None
        grad_lo, grad_hi = clip_gradients(grid, min_scale, max_scale, scale, sums)
        return None, grad_value, grad_lo, grad_hi, None, None


def clip_gradients(
    grid: Grid, min_scale: Tensor, max_scale: Tensor, scale: Tensor, sums: Tensor
) -> tuple[Tensor, Tensor]:
    """Chain group sums of the upstream gradient G to the two clip factors.

    sums: [sum G*c, sum G*inside*W, sum G*(1-inside)], each [rows, groups, 1], with W + m
    for W in nested grids; the third is absent for symmetric grids.
    """
    lo, hi = grid.lo * min_scale, grid.hi * max_scale
    if grid.sym:
        half = 2 ** (grid.bits - 1)
        lower_wins = -lo > hi
        reach = torch.where(lower_wins, -lo, hi) / half
        # A scale held at its floor does not follow the range.
        free = (reach >= SMALLEST_SCALE) | (grid.nested is not None)
        by_scale = (sums[0] - sums[1] / scale) * free / half
        nothing = torch.zeros_like(by_scale)
        return (
            torch.where(lower_wins, -grid.lo * by_scale, nothing),
            torch.where(lower_wins, nothing, -grid.hi * by_scale),
        )
    top = 2**grid.bits - 1
    by_scale = sums[0] - sums[1] / scale
    if grid.nested is None:
        by_scale = (by_scale - lo / scale * sums[2]) * ((hi - lo) / top >= SMALLEST_SCALE)
    by_scale = by_scale / top
    return grid.lo * (sums[2] - by_scale), grid.hi * by_scale


def fake_quantize(weight: Tensor, rounding: Rounding, *, grid: Grid, dtype: torch.dtype) -> Tensor:
    """Round a weight to its grid and back, differentiably in the rounding parameters.

    weight: float32 [rows, groups, width]. Returns the same shape in ``dtype``.
    """
    out: Tensor = _FakeQuantize.apply(weight, *rounding, grid, dtype)  # type: ignore[no-untyped-call]
    return out


@torch.no_grad()
def quantize(weight: Tensor, rounding: Rounding, *, grid: Grid) -> tuple[Tensor, Tensor, Tensor]:
    """Round a weight to its grid for good.

    weight: float32 [rows, groups, width].
    Returns codes uint8 [rows, groups, width] in 0 … 2**bits - 1, scale float16 and
    zero uint8, both [rows, groups, 1]. Scales of a nested grid are float32, and there is
    more to know of them: :func:`autoround.core.grid.nested_parts`.
    """
    scale, zero, minimum = levels_of(grid, rounding.min_scale, rounding.max_scale)
    shifted = weight if minimum is None else weight + minimum
    levels = torch.addcdiv(rounding.value, shifted, scale).round_()
    clamp_levels(levels, zero, bits=grid.bits, sym=grid.sym)
    stored = scale.half() if grid.nested is None else scale
    return levels.add_(zero).to(torch.uint8), stored, zero.to(torch.uint8)


def dequantize(codes: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    """Turn codes back into weights, bit for bit as :func:`fake_quantize` made them.

    codes: uint8 [rows, groups, width]; scale: float16 and zero: uint8, [rows, groups, 1].
    Returns float32 [rows, groups, width].
    """
    return (codes.float() - zero.float()) * scale.float()


def dense_weight(layer: QuantizedTensor) -> Tensor:
    """Dequantize a whole layer to float32 [out, in]."""
    groups = to_groups(layer.codes, layer.scheme.group_size)
    scale, zero = layer.scale.unsqueeze(-1), layer.zero.unsqueeze(-1)
    return from_groups(dequantize(groups, scale, zero), tuple(layer.codes.shape))

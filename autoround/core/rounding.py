"""Rounding to a grid: fake-quantize with its hand-derived gradient, and for good.

With W a weight, V its rounding offset, s and z scale and zero point of its group
(SignRound, arXiv 2309.05516, eq. 3; straight-through rounding, clamping passes
gradient inside the levels only):

    n = round(W/s + V)      c = clamp(n, -z, top - z)      Wq = s * c

    dWq/dV = s * inside                                    inside = (n == c)
    dWq/ds = c - inside * W/s - (1 - inside) * lo'/s       (last term: asymmetric only,
    dWq/dlo' = 1 - inside                                   through z = round(-lo'/s))

A nested grid subtracts a minimum m instead of having a zero point; then W + m stands for
W above, Wq = s * c - m, and m = -lo' does not depend on s, so the last term is absent. Levels
that are not evenly spaced have value(c) for c, and round W/s in units of level indices.

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

from autoround.core.grids.grid import Grid, from_groups, quant_params, range_gradients, to_groups
from autoround.core.grids.levels import LevelSet
from autoround.core.grids.schemes import scheme_levels
from autoround.types import QuantizedTensor

#: Elements of one chunk: a few float32 temporaries of it fit a core's second-level cache.
CHUNK_ELEMENTS = 1 << 16


class Rounding(NamedTuple):
    """What tuning learns about one tensor.

    offset: float32 [rows, groups, width], rounding offset V of each weight, in levels.
    min_scale, max_scale: float32 [rows, groups, 1], factors α, β on the ends of the range.
    """

    offset: Tensor
    min_scale: Tensor
    max_scale: Tensor


def initial_rounding(groups: Tensor) -> Rounding:
    """Start at round-to-nearest: offsets zero, min_scale and max_scale one.

    Args:
        groups: float32 [rows, groups, width].

    Returns:
        New tensors on the device of the groups.
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


class _FakeQuantize(torch.autograd.Function):
    """Fake-quantize as one node of the graph; see the module for the derivation."""

    @staticmethod
    def forward(
        ctx: Any,
        weight: Tensor,
        offset: Tensor,
        min_scale: Tensor,
        max_scale: Tensor,
        grid: Grid,
        dtype: torch.dtype,
    ) -> Tensor:
        scale, zero, minimum = quant_params(grid, min_scale, max_scale)
        kind = grid.levels
        out = torch.empty(weight.shape, dtype=dtype, device=weight.device)
        for rows in _chunks(weight):
            # Written to the result as they come: on a CPU no more than a chunk is in float32.
            shifted = weight[rows] if minimum is None else weight[rows] + minimum[rows]
            levels = kind.clamp_(kind.nearest(shifted, scale[rows], offset[rows]), zero[rows])
            if minimum is None:
                torch.mul(kind.value(levels), scale[rows], out=out[rows])
            else:
                torch.sub(kind.value(levels).mul_(scale[rows]), minimum[rows], out=out[rows])
        ctx.save_for_backward(weight, offset, min_scale, max_scale, scale, zero, minimum)
        ctx.grid = grid
        return out

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator, unused-ignore]
    def backward(
        ctx: Any, grad: Tensor
    ) -> tuple[None, Tensor, Tensor | None, Tensor | None, None, None]:
        weight, offset, min_scale, max_scale, scale, zero, minimum = ctx.saved_tensors
        grid: Grid = ctx.grid
        kind = grid.levels
        grad_offset = torch.empty_like(offset)
        with_range = bool(ctx.needs_input_grad[2] or ctx.needs_input_grad[3])
        # Of each group sum G*value(c), sum G*inside*W, sum G*(1-inside): [2 or 3, rows, groups, 1]
        sums = torch.zeros((2 if kind.fixed_zero else 3, *scale.shape), device=scale.device)
        for rows in _chunks(weight):
            upstream = grad[rows].float()
            shifted = weight[rows] if minimum is None else weight[rows] + minimum[rows]
            levels = kind.nearest(shifted, scale[rows], offset[rows])
            clamped = kind.clamp_(levels.clone(), zero[rows])
            # 0 inside and 1 outside, in float32: masks of bools break up the vector loops.
            outside = levels.sub_(clamped).abs_().clamp_(max=1.0)
            passed = torch.addcmul(upstream, upstream, outside, value=-1.0, out=grad_offset[rows])
            if with_range:
                sums[0, rows] = kind.value(clamped).mul_(upstream).sum(-1, keepdim=True)
                torch.mul(passed, shifted, out=levels)
                sums[1, rows] = levels.sum(-1, keepdim=True)
                if not kind.fixed_zero:
                    sums[2, rows] = upstream.sum(-1, keepdim=True) - passed.sum(-1, keepdim=True)
            # Only now: the sums above are of G itself, and the gradient of V is s * G * inside.
            passed.mul_(scale[rows])
        if not with_range:
            return None, grad_offset, None, None, None, None
        ends = range_gradients(grid, min_scale, max_scale, scale=scale, sums=sums)
        return None, grad_offset, *ends, None, None


def fake_quantize(weight: Tensor, rounding: Rounding, *, grid: Grid, dtype: torch.dtype) -> Tensor:
    """Round a weight to its grid and back, differentiably in the rounding parameters.

    Args:
        weight: float32 [rows, groups, width].
        rounding: offsets V and factors α, β; those that require gradients get them.
        grid: ranges and levels of the groups.
        dtype: of the result.

    Returns:
        The shape of weight in ``dtype``.
    """
    out: Tensor = _FakeQuantize.apply(weight, *rounding, grid, dtype)  # type: ignore[no-untyped-call]
    return out


@torch.no_grad()
def quantize(weight: Tensor, rounding: Rounding, *, grid: Grid) -> tuple[Tensor, Tensor, Tensor]:
    """Round a weight to its grid for good.

    Args:
        weight: float32 [rows, groups, width].
        rounding: offsets V and factors α, β.
        grid: ranges and levels of the groups.

    Returns:
        Codes uint8 [rows, groups, width] in 0 … count-1, scale (float16; float32 for a nested
        grid, of which :func:`autoround.core.grids.grid.nested_parts` knows more) and zero uint8,
        both [rows, groups, 1].
    """
    scale, zero, minimum = quant_params(grid, rounding.min_scale, rounding.max_scale)
    shifted = weight if minimum is None else weight + minimum
    levels = grid.levels.nearest(shifted, scale, rounding.offset)
    grid.levels.clamp_(levels, zero)
    return levels.add_(zero).to(torch.uint8), grid.scales.stored(scale), zero.to(torch.uint8)


def dequantize(
    codes: Tensor, scale: Tensor, zero: Tensor, *, levels: LevelSet | None = None
) -> Tensor:
    """Turn codes back into weights, bit for bit as :func:`fake_quantize` made them.

    Args:
        codes: uint8 [rows, groups, width].
        scale: float16 [rows, groups, 1].
        zero: uint8 [rows, groups, 1].
        levels: what codes stand for; None for evenly spaced ones.

    Returns:
        float32 [rows, groups, width].
    """
    indices = codes.float() - zero.float()
    return (indices if levels is None else levels.value(indices)) * scale.float()


def dense_weight(layer: QuantizedTensor) -> Tensor:
    """Dequantize a whole layer.

    Args:
        layer: codes uint8 [out, in], scale and zero [out, groups].

    Returns:
        float32 [out, in].
    """
    groups = to_groups(layer.codes, layer.scheme.group_size)
    scale, zero = layer.scale.unsqueeze(-1), layer.zero.unsqueeze(-1)  # [out, groups, 1]
    weight = dequantize(groups, scale, zero, levels=scheme_levels(layer.scheme))
    return from_groups(weight, tuple(layer.codes.shape))

"""The operations of the tuning loop for a CPU: one pass over memory each, in C."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from autoround.core import signsgd
from autoround.core.end_to_end import SignVotes, code_groups
from autoround.core.grids.grid import Grid, from_groups, quant_params, range_gradients
from autoround.core.grids.levels import IntegerLevels
from autoround.core.grids.schemes import scheme_levels, scheme_scales
from autoround.core.ops import TorchOps
from autoround.core.rounding import Rounding
from autoround.core.signsgd import SignState
from autoround.types import QuantizedTensor

#: What the kernels read and write.
_DTYPES = (torch.float32, torch.bfloat16)
_POINTER, _COUNT, _FLOAT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float
_INT = ctypes.c_int32

_FUNCTIONS = (
    *("fake_quantize", "fake_quantize_backward", "sign_step"),
    *("scaled_weight", "scale_gradient", "divergence32", "divergence16"),
)


class CpuOps(TorchOps):
    """Ours where a tensor is laid out as the kernels want it, else plain torch."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        library.fake_quantize.argtypes = [
            *[_POINTER] * 5,
            *(_FLOAT, _COUNT, _COUNT),
            *[_POINTER] * 2,
        ]
        library.fake_quantize_backward.argtypes = [
            *[_POINTER] * 5,
            *(_FLOAT, _COUNT, _COUNT),
            *[_POINTER] * 4,
        ]
        library.sign_step.argtypes = [_POINTER, _POINTER, _FLOAT, _COUNT]
        sizes = (_COUNT, _COUNT)
        library.scaled_weight.argtypes = [*[_POINTER] * 3, *sizes, *[_POINTER] * 2]
        library.scale_gradient.argtypes = [
            *[_POINTER] * 3,
            *(_INT, _COUNT, _COUNT),
            *[_POINTER] * 4,
            _INT,
        ]
        library.divergence32.argtypes = [*[_POINTER] * 2, *sizes, *[_POINTER] * 2]
        library.divergence16.argtypes = library.divergence32.argtypes
        for function in _FUNCTIONS:
            getattr(library, function).restype = None

    def fake_quantize(
        self, weight: Tensor, rounding: Rounding, *, grid: Grid, dtype: torch.dtype
    ) -> Tensor:
        """Round a weight to its grid and back, differentiably."""
        # The C loops know evenly spaced levels only; other grids go through torch.
        known = isinstance(grid.levels, IntegerLevels) and dtype in _DTYPES
        if not known or not _fits(weight, rounding.offset):
            return super().fake_quantize(weight, rounding, grid=grid, dtype=dtype)
        out: Tensor = _Fused.apply(weight, *rounding, _How(grid, dtype, self._library))  # type: ignore[no-untyped-call]
        return out

    @torch.no_grad()
    def sign_step(
        self, params: Sequence[Tensor], grads: Sequence[Tensor], *, state: SignState
    ) -> SignState:
        """Move parameters against the signs of their gradients, in place."""
        if not _fits(*params, *grads):
            return super().sign_step(params, grads, state=state)
        lr = signsgd.linear_lr(state.lr, state.step, steps=state.steps)
        # Not one loop over all: tensors lie apart, and each call is a pass over memory anyway.
        for param, grad in zip(params, grads, strict=True):
            self._library.sign_step(param.data_ptr(), grad.data_ptr(), lr, param.numel())
        return state._replace(step=state.step + 1)

    @torch.no_grad()
    def scaled_weight(
        self, layer: QuantizedTensor, factor: Tensor, *, dtype: torch.dtype
    ) -> Tensor:
        """Dequantize a layer with its scales multiplied."""
        groups = _byte_groups(layer)
        if groups is None or dtype not in _DTYPES:
            return super().scaled_weight(layer, factor, dtype=dtype)
        # Scales are few: the codec rounds them in torch, and C reads them as they will be stored.
        scales = scheme_scales(layer.scheme)
        stored = scales.round(layer.scale.unsqueeze(-1).float() * factor).contiguous()
        zero = layer.zero.float().contiguous()
        out = torch.empty(groups.shape, dtype=dtype)
        self._library.scaled_weight(
            *map(_address, (groups, zero, stored)),
            stored.numel(),
            groups.shape[-1],
            _address(out if dtype == torch.float32 else None),
            _address(out if dtype == torch.bfloat16 else None),
        )
        return from_groups(out, tuple(layer.codes.shape))

    @torch.no_grad()
    def scale_gradient(
        self, layer: QuantizedTensor, grad: Tensor, votes: SignVotes | None = None
    ) -> Tensor:
        """Return the gradient of scale factors; codes may vote and move, in place."""
        groups = _byte_groups(layer)
        plain = votes is not None and not votes.votes.is_contiguous()
        if groups is None or plain or grad.dtype not in _DTYPES:
            return super().scale_gradient(layer, grad, votes)
        grad = grad.contiguous()
        scale = layer.scale.float().contiguous()
        zero = layer.zero.float().contiguous()
        # C leaves the product with the scale to torch: it is one number a group.
        sums = torch.empty((*scale.shape, 1))
        moves = votes is not None and votes.per_step > 0
        self._library.scale_gradient(
            *map(_address, (groups, zero, scale)),
            scheme_levels(layer.scheme).top,
            scale.numel(),
            groups.shape[-1],
            _address(grad if grad.dtype == torch.float32 else None),
            _address(grad if grad.dtype == torch.bfloat16 else None),
            sums.data_ptr(),
            votes.votes.data_ptr() if votes is not None and moves else None,
            votes.per_step if votes is not None else 0,
        )
        return sums.mul_(scale.unsqueeze(-1))

    @torch.no_grad()
    def divergence(self, student: Tensor, teacher: Tensor) -> tuple[float, Tensor]:
        """Return the KL divergence of logits and its gradient for the student's."""
        alike = student.dtype == teacher.dtype and student.shape == teacher.shape
        if not alike or student.dtype not in _DTYPES or student.device.type != "cpu":
            return super().divergence(student, teacher)
        student, teacher = student.contiguous(), teacher.contiguous()
        grad = torch.empty_like(student)
        # float64: a sum over many positions of numbers that may be tiny.
        losses = torch.empty(student.shape[0], dtype=torch.float64)
        half = student.dtype == torch.bfloat16
        function = self._library.divergence16 if half else self._library.divergence32
        parts = map(_address, (student, teacher))
        function(*parts, *student.shape, grad.data_ptr(), losses.data_ptr())
        return float(losses.sum()), grad


def _fits(*tensors: Tensor) -> bool:
    return all(
        t.device.type == "cpu" and t.dtype == torch.float32 and t.is_contiguous() for t in tensors
    )


class _How(NamedTuple):
    """What the node is told that is no tensor."""

    grid: Grid
    dtype: torch.dtype
    library: ctypes.CDLL


class _Fused(torch.autograd.Function):
    """As the node of ``autoround/core/rounding.py``, which has the derivation."""

    @staticmethod
    def forward(
        ctx: Any,
        weight: Tensor,
        offset: Tensor,
        min_scale: Tensor,
        max_scale: Tensor,
        how: _How,
    ) -> Tensor:
        grid, dtype, library = how
        scale, zero, minimum = quant_params(grid, min_scale, max_scale)
        out = torch.empty(weight.shape, dtype=dtype)
        parts = (weight, offset, *_contiguous(scale, zero, minimum))
        # One of the last two is null: the loops write one dtype each, without a cast in between.
        library.fake_quantize(
            *map(_address, parts),
            float(grid.levels.count - 1),
            scale.numel(),
            weight.shape[-1],
            _address(out if dtype == torch.float32 else None),
            _address(out if dtype == torch.bfloat16 else None),
        )
        ctx.save_for_backward(weight, offset, min_scale, max_scale, scale, zero, minimum)
        ctx.how = how
        return out

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator, unused-ignore]
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor, Tensor | None, Tensor | None, None]:
        weight, offset, min_scale, max_scale, scale, zero, minimum = ctx.saved_tensors
        grid, _, library = ctx.how
        grad = grad.contiguous()
        grad_offset = torch.empty_like(offset)
        # Three sums whatever the levels: the third costs nothing in a loop bound by memory.
        sums = torch.empty((3, *scale.shape))
        parts = (weight, offset, *_contiguous(scale, zero, minimum))
        library.fake_quantize_backward(
            *map(_address, parts),
            float(grid.levels.count - 1),
            scale.numel(),
            weight.shape[-1],
            _address(grad if grad.dtype == torch.float32 else None),
            _address(grad if grad.dtype == torch.bfloat16 else None),
            grad_offset.data_ptr(),
            sums.data_ptr(),
        )
        if not (ctx.needs_input_grad[2] or ctx.needs_input_grad[3]):
            return None, grad_offset, None, None, None
        ends = range_gradients(grid, min_scale, max_scale, scale=scale, sums=sums)
        return None, grad_offset, *ends, None


def _byte_groups(layer: QuantizedTensor) -> Tensor | None:
    """Return codes cut into groups without a copy, or None where the kernels cannot take them."""
    groups = code_groups(layer)
    fits = groups.dtype == torch.uint8 and layer.codes.is_contiguous()
    return groups if fits and groups.device.type == "cpu" else None


def _contiguous(*tensors: Tensor | None) -> list[Tensor | None]:
    return [None if t is None else t.contiguous() for t in tensors]


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()

"""End-to-end tuning of scales: the codes stay, the whole model's answers are matched.

After the blocks are tuned one by one, each group's scale s is multiplied by a factor f that
starts at one and descends on the divergence between the answers of the original and of the
quantized model (as in the second stage of EfficientQAT, arXiv 2407.11062, with the original's
logits in place of labels):

    W = (c - z) * half(s f)         dL/df = s * sum over the group of (c - z) dL/dW

The rounding of the product to float16 passes its gradient on. Nothing here knows what a model is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from autoround.core.grid import from_groups, round_scale, to_groups
from autoround.types import QuantizedTensor

#: Decay of Adam's two averages, and what keeps its quotient finite.
BETAS = (0.9, 0.95)
EPSILON = 1e-12
#: Share of the steps over which the rate rises.
WARM_UP = 0.1


class AdamState(NamedTuple):
    """Averages of gradients and of their squares, rates, and the position in the schedule.

    rates: of each parameter at its highest.
    """

    means: list[Tensor]
    squares: list[Tensor]
    rates: tuple[float, ...]
    step: int
    steps: int


def init(params: Sequence[Tensor], *, rates: Sequence[float], steps: int) -> AdamState:
    """Start a descent of ``steps`` steps; params: float32 tensors of any shape, a rate each."""
    means, squares = ([torch.zeros_like(p) for p in params] for _ in range(2))
    return AdamState(means, squares, tuple(rates), 0, steps)


def rate_of(bits: int) -> float:
    """Return a rate for the scales of a grid: the fewer levels, the more there is to mend.

    1e-3 at 4 bits, and twice that for each bit less; four times as much does harm at 4 bits and
    is best at 2.
    """
    return 0.016 / 2.0**bits


def rate_at(step: int, *, rate: float, steps: int) -> float:
    """Return the rate of a step: a short rise, then linearly to zero."""
    rise = max(1.0, WARM_UP * steps)
    return rate * min(1.0, (step + 1) / rise) * (1.0 - step / steps)


@torch.no_grad()
def step(params: Sequence[Tensor], grads: Sequence[Tensor], *, state: AdamState) -> AdamState:
    """Take one step of Adam (arXiv 1412.6980, algorithm 1), in place."""
    number = state.step + 1
    first, second = 1.0 - BETAS[0] ** number, 1.0 - BETAS[1] ** number
    held = zip(params, grads, state.means, state.squares, state.rates, strict=True)
    for param, grad, mean, square, highest in held:
        rate = rate_at(state.step, rate=highest, steps=state.steps)
        mean.lerp_(grad, 1.0 - BETAS[0])
        square.mul_(BETAS[1]).addcmul_(grad, grad, value=1.0 - BETAS[1])
        param.addcdiv_(mean, (square / second).sqrt_().add_(EPSILON), value=-rate / first)
    return state._replace(step=number)


class _Scaled(torch.autograd.Function):
    """Codes times scales times factors; keeps the codes alone for its backward."""

    @staticmethod
    def forward(
        ctx: Any, codes: Tensor, zero: Tensor, scale: Tensor, factor: Tensor, dtype: torch.dtype
    ) -> Tensor:
        stored = round_scale(scale.float() * factor)
        ctx.save_for_backward(codes, zero, scale)
        return (codes.float() - zero.float()).mul_(stored).to(dtype)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator, unused-ignore]
    def backward(ctx: Any, grad: Tensor) -> tuple[None, None, None, Tensor, None]:
        codes, zero, scale = ctx.saved_tensors
        levels = (codes.float() - zero.float()).mul_(grad)
        return None, None, None, levels.sum(-1, keepdim=True).mul_(scale.float()), None


def factors_of(layer: QuantizedTensor) -> Tensor:
    """Return the factors to start from: ones, float32 [rows, groups, 1]."""
    return torch.ones((*layer.scale.shape, 1), dtype=torch.float32, device=layer.scale.device)


def scaled_weight(layer: QuantizedTensor, factor: Tensor, *, dtype: torch.dtype) -> Tensor:
    """Unpack a layer with its scales multiplied, differentiably in the factors.

    factor: float32 [rows, groups, 1]. Returns [out, in] in ``dtype``.
    """
    groups = _code_groups(layer)
    zero, scale = layer.zero.unsqueeze(-1), layer.scale.unsqueeze(-1)
    dense: Tensor = _Scaled.apply(groups, zero, scale, factor, dtype)  # type: ignore[no-untyped-call]
    return from_groups(dense, tuple(layer.codes.shape))


def _code_groups(layer: QuantizedTensor) -> Tensor:
    """Cut codes into groups; as bytes where they divide evenly, which is nearly always."""
    size, columns = layer.scheme.group_size, layer.codes.shape[-1]
    if size > 0 and columns % size == 0:
        return layer.codes.reshape(layer.codes.shape[0], -1, size)
    return to_groups(layer.codes, size)


def with_factors(layer: QuantizedTensor, factor: Tensor) -> QuantizedTensor:
    """Return a layer with its scales multiplied for good, as float16."""
    scale = round_scale(layer.scale.float() * factor.detach().squeeze(-1)).half()
    return QuantizedTensor(layer.codes, scale, layer.zero, layer.scheme)


def divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the sum over tokens of the KL divergence of the student from the teacher, in nats.

    student, teacher: logits [tokens, vocabulary], any float dtype; computed in float32. The
    gradient goes to the student only.
    """
    target = torch.log_softmax(teacher.detach().float(), dim=-1)
    own = torch.log_softmax(student.float(), dim=-1)
    return torch.nn.functional.kl_div(own, target, reduction="sum", log_target=True)

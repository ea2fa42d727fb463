"""End-to-end tuning of what is quantized: the whole model's answers are matched.

After the blocks are tuned one by one, each group's scale s is multiplied by a factor f that
starts at one and descends on the divergence between the answers of the original and of the
quantized model (as in the second stage of EfficientQAT, arXiv 2407.11062, with the original's
logits in place of labels):

    W = (c - z) * half(s f)         dL/df = s * sum over the group of (c - z) dL/dW

The rounding of the product to float16 passes its gradient on. Codes may move as well: each leans
by a small step against the sign of its gradient, and moves by a level when it has leaned half a
level away. Steps are so small that gradients of random signs lean that far in one of some hundred
weights only. Moving many codes at once, on the word of few gradients, ruins a model whose blocks
were tuned code by code. Nothing here knows what a model is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from autoround.core.grid import from_groups, round_scale, to_groups
from autoround.types import QuantizedTensor

#: Decay of Adam's two averages, and what keeps its quotient finite.
BETAS = (0.9, 0.95)
EPSILON = 1e-12
#: Share of the steps over which the rate rises.
WARM_UP = 0.1
#: Units of a lean in half a level; a lean is a signed byte.
VOTES_PER_HALF_LEVEL = 127
#: Half a level in standard deviations of where gradients of random signs would lead a code.
SIGMAS = 3.0


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


def learning_rate_for(bits: int) -> float:
    """Return a rate for the scales of a grid: the fewer levels, the more there is to mend.

    1e-3 at 4 bits, where four times as much does harm, and 8e-3 at 2, where half as much learns
    less.
    """
    return 0.064 / math.pow(8.0, bits / 2.0)


def learning_rate_at(step: int, *, rate: float, steps: int) -> float:
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
        rate = learning_rate_at(state.step, rate=highest, steps=state.steps)
        mean.lerp_(grad, 1.0 - BETAS[0])
        square.mul_(BETAS[1]).addcmul_(grad, grad, value=1.0 - BETAS[1])
        param.addcdiv_(mean, (square / second).sqrt_().add_(EPSILON), value=-rate / first)
    return state._replace(step=number)


def unit_factors(layer: QuantizedTensor) -> Tensor:
    """Return the factors to start from: ones, float32 [rows, groups, 1]."""
    return torch.ones((*layer.scale.shape, 1), dtype=torch.float32, device=layer.scale.device)


@torch.no_grad()
def scaled_weight(layer: QuantizedTensor, factor: Tensor, *, dtype: torch.dtype) -> Tensor:
    """Unpack a layer with its scales multiplied.

    factor: float32 [rows, groups, 1]. Returns [out, in] in ``dtype``.
    """
    stored = round_scale(layer.scale.unsqueeze(-1).float() * factor)
    levels = code_groups(layer).float() - layer.zero.unsqueeze(-1).float()
    return from_groups(levels.mul_(stored).to(dtype), tuple(layer.codes.shape))


class SignVotes(NamedTuple):
    """How far the codes of a layer lean, and by how much a step adds to it.

    leans: int8 [out, in], in units of which half a level has HALF.
    """

    leans: Tensor
    units: int


def votes_at(step: int, *, steps: int) -> int:
    """Return the units of a step: as the rate of scales, it rises and falls linearly to zero.

    A sum of ``steps`` random signs times a rate that falls linearly to zero has a standard
    deviation of ``rate * sqrt(steps / 3)``; half a level is SURE of these.
    """
    return round(
        learning_rate_at(
            step, rate=VOTES_PER_HALF_LEVEL / (SIGMAS * math.sqrt(steps / 3.0)), steps=steps
        )
    )


@torch.no_grad()
def scale_gradient(layer: QuantizedTensor, grad: Tensor, lean: SignVotes | None = None) -> Tensor:
    """Return the gradient of a layer's factors; let its codes lean and move, in place.

    grad: [out, in], gradient of the unpacked weight, any float dtype.
    lean: of this layer, or None where codes stay.
    Returns float32 [rows, groups, 1], for factors of one, with the codes of before.
    """
    upstream = to_groups(grad, layer.scheme.group_size)
    scale = layer.scale.unsqueeze(-1).float()
    levels = code_groups(layer).float() - layer.zero.unsqueeze(-1).float()
    found = levels.mul_(upstream).sum(-1, keepdim=True).mul_(scale)
    if lean is not None and lean.units:
        signs = from_groups(upstream.sign().mul_(scale.sign()), tuple(layer.codes.shape))
        leaned = lean.leans - (signs * lean.units).to(torch.int16)
        moves = (leaned > VOTES_PER_HALF_LEVEL).to(torch.int16) - (
            leaned < -VOTES_PER_HALF_LEVEL
        ).to(torch.int16)
        codes = layer.codes.to(torch.int16)
        moved = (codes + moves).clamp_(0, 2**layer.scheme.bits - 1)
        # A code at the end of the grid stays there, leaning outwards as far as it can.
        leaned.sub_((moved - codes) * (2 * VOTES_PER_HALF_LEVEL)).clamp_(
            -VOTES_PER_HALF_LEVEL, VOTES_PER_HALF_LEVEL
        )
        layer.codes.copy_(moved)
        lean.leans.copy_(leaned)
    return found


def code_groups(layer: QuantizedTensor) -> Tensor:
    """Cut codes into groups; as bytes where they divide evenly, which is nearly always."""
    size, columns = layer.scheme.group_size, layer.codes.shape[-1]
    if size > 0 and columns % size == 0:
        return layer.codes.reshape(layer.codes.shape[0], -1, size)
    return to_groups(layer.codes, size)


def with_factors(layer: QuantizedTensor, factor: Tensor) -> QuantizedTensor:
    """Return a layer with its scales multiplied for good, as float16."""
    scale = round_scale(layer.scale.float() * factor.detach().squeeze(-1)).half()
    return QuantizedTensor(layer.codes, scale, layer.zero, layer.scheme)


@torch.no_grad()
def divergence(student: Tensor, teacher: Tensor) -> tuple[float, Tensor]:
    """Return the KL divergence of the student from the teacher, and its gradient.

    student, teacher: logits [tokens, vocabulary], any float dtype; computed in float32.
    Returns the sum over tokens in nats, and its gradient for the student's logits, in their
    dtype: the difference of the two probabilities.
    """
    target = torch.log_softmax(teacher.float(), dim=-1)
    own = torch.log_softmax(student.float(), dim=-1)
    wanted = target.exp()
    loss = float(target.sub_(own).mul_(wanted).sum())
    return loss, own.exp_().sub_(wanted).to(student.dtype)

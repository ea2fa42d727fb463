"""End-to-end tuning: scales and codes against the KL divergence from the original's logits.

After the blocks are tuned one by one, each group's scale s is multiplied by a factor f that
starts at one and is trained by Adam on the divergence of the quantized model's logits from the
original's (as the second stage of EfficientQAT, arXiv 2407.11062, E2E-QP, with the original's
logits in place of labels):

    W = v(c - z) * round(s f)       dL/df = s * sum over the group of v(c - z) dL/dW

with v what a level index stands for, ``v(n) = n`` for integers, and round to the scales that the
format holds; it is straight through. Codes may be tuned as well: every step votes, against the
sign of the gradient, for the next level down or up, and a code moves by a level when the
accumulated votes reach half a level. Votes are so small that gradients of random signs get that
far in one of some hundred weights only. Moving many codes at once, on few gradients, ruins a
model whose blocks were tuned code by code. Nothing here knows what a model is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from autoround.core.grids.grid import from_groups, to_groups
from autoround.core.grids.schemes import scheme_levels, scheme_scales
from autoround.types import QuantizedTensor

#: Decay of Adam's two averages, and what keeps its quotient finite.
BETAS = (0.9, 0.95)
EPSILON = 1e-12
#: Share of the steps over which the learning rate rises.
WARM_UP = 0.1
#: Samples held out for validation, where there are enough.
VALIDATION_SAMPLES = 8
#: Share of the steps after which the validation loss says whether the rest is worth its time.
TRIAL = 0.2
#: Steps below which too few come before a trial to judge by.
FEW_STEPS = 20
#: Votes that make half a level: they are accumulated in a signed byte.
VOTES_PER_HALF_LEVEL = 127
#: Half a level in standard deviations of where gradients of random signs would lead a code.
SIGMAS = 3.0


class AdamState(NamedTuple):
    """Averages of gradients and of their squares, and the position in the schedule.

    lrs: learning rate of each parameter at its highest.
    """

    means: list[Tensor]
    squares: list[Tensor]
    lrs: tuple[float, ...]
    step: int
    steps: int


def init(params: Sequence[Tensor], *, lrs: Sequence[float], steps: int) -> AdamState:
    """Start Adam.

    Args:
        params: float32 tensors of any shape.
        lrs: a learning rate for each of them, at its highest.
        steps: steps in all.

    Returns:
        Averages of zero, float32 of the parameters' shapes, before the first step.
    """
    means, squares = ([torch.zeros_like(p) for p in params] for _ in range(2))
    return AdamState(means, squares, tuple(lrs), 0, steps)


def learning_rate_for(bits: int) -> float:
    """Return a learning rate for the scales of a grid.

    Fewer levels leave a larger quantization error, so the learning rate grows: 1e-3 at 4 bits,
    where four times as much does harm, and 8e-3 at 2, where half as much learns less.

    Args:
        bits: of a code.

    Returns:
        The highest of a run, in units of a scale's factor, which starts at one.
    """
    return 0.064 / math.pow(8.0, bits / 2.0)


def learning_rate_at(step: int, *, lr: float, steps: int) -> float:
    """Return the learning rate of a step: a short rise to ``lr``, then linearly to zero.

    Args:
        step: from 0.
        lr: what the rate rises to.
        steps: in all.
    """
    rise = max(1.0, WARM_UP * steps)
    return lr * min(1.0, (step + 1) / rise) * (1.0 - step / steps)


def trial_steps(steps: int) -> int:
    """Return after how many steps it is looked at whether they gain anything.

    Args:
        steps: in all.

    Returns:
        A fifth of them; the whole of few, which are then not looked at before their end.
    """
    return math.ceil(TRIAL * steps) if steps >= FEW_STEPS else steps


def is_hopeless(loss: float, *, before: float) -> bool:
    """Tell whether steps have made validation worse, so that the rest is not worth its time.

    Args:
        loss: of validation after :func:`trial_steps`.
        before: of validation before the first step.
    """
    return not loss < before


@torch.no_grad()
def step(params: Sequence[Tensor], grads: Sequence[Tensor], *, state: AdamState) -> AdamState:
    """Take one step of Adam (arXiv 1412.6980, algorithm 1), in place.

    Args:
        params: float32 tensors. grads: of the same shapes.
        state: of :func:`init` or the step before; its averages are changed in place.

    Returns:
        The state of the next step, with the same tensors.
    """
    number = state.step + 1
    first, second = 1.0 - BETAS[0] ** number, 1.0 - BETAS[1] ** number
    moving = zip(params, grads, state.means, state.squares, state.lrs, strict=True)
    for param, grad, mean, square, highest in moving:
        lr = learning_rate_at(state.step, lr=highest, steps=state.steps)
        mean.lerp_(grad, 1.0 - BETAS[0])
        square.mul_(BETAS[1]).addcmul_(grad, grad, value=1.0 - BETAS[1])
        param.addcdiv_(mean, (square / second).sqrt_().add_(EPSILON), value=-lr / first)
    return state._replace(step=number)


def unit_factors(layer: QuantizedTensor) -> Tensor:
    """Return the factors to start from.

    Args:
        layer: whose scale is [rows, groups].

    Returns:
        Ones, float32 [rows, groups, 1], on the device of the scale.
    """
    return torch.ones((*layer.scale.shape, 1), dtype=torch.float32, device=layer.scale.device)


@torch.no_grad()
def scaled_weight(layer: QuantizedTensor, factor: Tensor, *, dtype: torch.dtype) -> Tensor:
    """Dequantize a layer with its scales multiplied.

    Args:
        layer: codes uint8 [out, in], scale and zero [out, groups].
        factor: float32 [rows, groups, 1].
        dtype: of the result.

    Returns:
        [out, in].
    """
    scale = scheme_scales(layer.scheme).round(layer.scale.unsqueeze(-1).float() * factor)
    return from_groups(_values(layer).mul_(scale).to(dtype), tuple(layer.codes.shape))


def _values(layer: QuantizedTensor) -> Tensor:
    """Return what codes stand for in units of the scale, a new float32 [rows, groups, width]."""
    indices = code_groups(layer).float() - layer.zero.unsqueeze(-1).float()
    return scheme_levels(layer.scheme).value(indices)


class SignVotes(NamedTuple):
    """Votes accumulated for the codes of a layer, and the weight of a step's vote.

    votes: int8 [out, in]; VOTES_PER_HALF_LEVEL of one sign move a code by a level.
    per_step: votes that one step adds.
    """

    votes: Tensor
    per_step: int


def votes_at(step: int, *, steps: int) -> int:
    """Return the votes of a step: as the learning rate, they rise and fall linearly to zero.

    A sum of ``steps`` random signs times a rate that falls linearly to zero has a standard
    deviation of ``rate * sqrt(steps / 3)``; half a level is SIGMAS of these.

    Args:
        step: from 0.
        steps: in all.

    Returns:
        Votes, of which VOTES_PER_HALF_LEVEL are half a level; 0 where they round to none.
    """
    highest = VOTES_PER_HALF_LEVEL / (SIGMAS * math.sqrt(steps / 3.0))
    return round(learning_rate_at(step, lr=highest, steps=steps))


@torch.no_grad()
def scale_gradient(layer: QuantizedTensor, grad: Tensor, votes: SignVotes | None = None) -> Tensor:
    """Return the gradient of a layer's factors; let its codes vote and move, in place.

    Args:
        layer: whose codes may be changed in place.
        grad: [out, in], gradient of the dequantized weight, any float dtype.
        votes: of this layer, changed in place; None where codes stay.

    Returns:
        float32 [rows, groups, 1], for factors of one, with the codes as they were before.
    """
    upstream = to_groups(grad, layer.scheme.group_size)
    scale = layer.scale.unsqueeze(-1).float()
    factor_grad = _values(layer).mul_(upstream).sum(-1, keepdim=True).mul_(scale)
    if votes is not None and votes.per_step:
        _move_codes(layer, upstream, scale, votes)
    return factor_grad


def _move_codes(layer: QuantizedTensor, upstream: Tensor, scale: Tensor, votes: SignVotes) -> None:
    """Add a step's votes, and move by one level the codes that have enough of them."""
    # A negative scale turns a level up into a weight down.
    signs = from_groups(upstream.sign().mul_(scale.sign()), tuple(layer.codes.shape))
    # int16: sums of two int8 may leave int8 before they are limited again.
    total = votes.votes - (signs * votes.per_step).to(torch.int16)
    up, down = total > VOTES_PER_HALF_LEVEL, total < -VOTES_PER_HALF_LEVEL
    codes = layer.codes.to(torch.int16)
    moved = codes + (up.to(torch.int16) - down.to(torch.int16))
    moved.clamp_(0, scheme_levels(layer.scheme).count - 1)
    # A code at the end of the grid stays there, with as many votes as a byte holds.
    total.sub_((moved - codes) * (2 * VOTES_PER_HALF_LEVEL))
    total.clamp_(-VOTES_PER_HALF_LEVEL, VOTES_PER_HALF_LEVEL)
    layer.codes.copy_(moved)
    votes.votes.copy_(total)


def code_groups(layer: QuantizedTensor) -> Tensor:
    """Cut codes into groups; as bytes where they divide evenly, which is nearly always.

    Args:
        layer: codes uint8 [out, in].

    Returns:
        [rows, groups, width]: uint8, a view where that can be; float32, rows padded with zeros,
        where groups do not divide a row, or are a row or the tensor each.
    """
    size, columns = layer.scheme.group_size, layer.codes.shape[-1]
    if size > 0 and columns % size == 0:
        return layer.codes.reshape(layer.codes.shape[0], -1, size)
    return to_groups(layer.codes, size)


def with_factors(layer: QuantizedTensor, factor: Tensor) -> QuantizedTensor:
    """Return a layer with its scales multiplied for good, as its format holds them.

    Args:
        layer: as it was quantized.
        factor: float32 [rows, groups, 1].

    Returns:
        The same codes and zero points, and a new scale [rows, groups] in the dtype of the codec.
    """
    scales = scheme_scales(layer.scheme)
    scale = scales.stored(scales.round(layer.scale.float() * factor.detach().squeeze(-1)))
    return QuantizedTensor(layer.codes, scale, layer.zero, layer.scheme)


@torch.no_grad()
def divergence(student: Tensor, teacher: Tensor) -> tuple[float, Tensor]:
    """Return the KL divergence of the student from the teacher, and its gradient.

    Args:
        student, teacher: logits [tokens, vocabulary], any float dtype; computed in float32.

    Returns:
        The sum over tokens in nats, and its gradient for the student's logits, in their dtype:
        the difference of the two probabilities.
    """
    # In place throughout: with a large vocabulary these are the largest tensors there are.
    teacher_logs = torch.log_softmax(teacher.float(), dim=-1)
    student_logs = torch.log_softmax(student.float(), dim=-1)
    probabilities = teacher_logs.exp()
    loss = float(teacher_logs.sub_(student_logs).mul_(probabilities).sum())
    return loss, student_logs.exp_().sub_(probabilities).to(student.dtype)

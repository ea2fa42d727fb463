"""SignSGD: every parameter moves by the learning rate or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class SignState(NamedTuple):
    """Position in the learning-rate schedule.

    lr: learning rate of step 0; step: steps taken; steps: steps in all.
    """

    lr: float
    step: int
    steps: int


def init(lr: float, steps: int) -> SignState:
    """Start steps whose learning rate falls linearly to zero.

    Args:
        lr: learning rate of the first step, in units of the parameters.
        steps: steps in all.
    """
    return SignState(lr, 0, steps)


def linear_lr(lr: float, step: int, *, steps: int) -> float:
    """Return the learning rate of a step: ``lr * (1 - step / steps)``.

    Args:
        lr: of the first step.
        step: from 0.
        steps: in all.
    """
    return lr * (1.0 - step / steps)


@torch.no_grad()
def step(params: Sequence[Tensor], grads: Sequence[Tensor], *, state: SignState) -> SignState:
    """Move each parameter against the sign of its gradient, in place; a zero stays.

    ``p <- p - lr_t * sign(g)`` (SignRound, arXiv 2309.05516, eq. 4).

    Args:
        params: float32 tensors.
        grads: of the same shapes; consumed, their storage holds the signs afterwards.
        state: which step this is.

    Returns:
        The state of the next step.
    """
    lr = linear_lr(state.lr, state.step, steps=state.steps)
    for param, grad in zip(params, grads, strict=True):
        # Signs take the gradients' memory: those of offsets are as large as the weights.
        param.sub_(grad.sign_(), alpha=lr)
    return state._replace(step=state.step + 1)


@torch.no_grad()
def step_by(params: Sequence[Tensor], grads: Sequence[Tensor], lr: Tensor) -> None:
    """Do as :func:`step` at a learning rate that the device holds.

    Args:
        params, grads: as for :func:`step`.
        lr: float32 scalar on the device of the parameters.
    """
    for param, grad in zip(params, grads, strict=True):
        # The product with a sign is exact, so this moves by the same bits as :func:`step`.
        param.sub_(grad.sign_().mul_(lr))

"""Signed gradient descent: every parameter moves by the learning rate or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class SignState(NamedTuple):
    """Position of a descent in its schedule.

    rate: learning rate of step 0; step: steps taken; steps: steps in all.
    """

    rate: float
    step: int
    steps: int


def init(rate: float, steps: int) -> SignState:
    """Start a descent of ``steps`` steps whose rate falls linearly from ``rate`` to zero."""
    return SignState(rate, 0, steps)


def linear_rate(rate: float, step: int, *, steps: int) -> float:
    """Return the learning rate of a step: ``rate * (1 - step / steps)``."""
    return rate * (1.0 - step / steps)


@torch.no_grad()
def step(params: Sequence[Tensor], grads: Sequence[Tensor], *, state: SignState) -> SignState:
    """Move each parameter against the sign of its gradient, in place; a zero stays.

    ``p <- p - rate_t * sign(g)`` (SignRound, arXiv 2309.05516, eq. 4). The gradients
    are consumed: their storage holds the signs afterwards.

    params, grads: float32 tensors of pairwise equal shapes.
    """
    rate = linear_rate(state.rate, state.step, steps=state.steps)
    for param, grad in zip(params, grads, strict=True):
        param.sub_(grad.sign_(), alpha=rate)
    return state._replace(step=state.step + 1)

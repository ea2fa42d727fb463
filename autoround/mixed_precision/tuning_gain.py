"""What a short tuning of a block leaves of the loss of its roundings: the sharper measure.

Tuning takes far more off the loss of 2 bits than off that of 4, and more in some blocks than in
others. The block is tuned a little with all its layers in one option; what its output then does
to the answers, by their gradients, over what it did before, is the share that is left.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor

from autoround.core.batches import Samples
from autoround.core.rounding import Rounding
from autoround.core.rtn import Target, round_to_nearest
from autoround.core.sensitivity import squared_effects
from autoround.core.tune import Hyperparameters, Reconstruction, rounded_weights, tune
from autoround.mixed_precision.fisher_pass import FisherPass, OpenedBlock
from autoround.planning.hyperparameters import hyperparameters_for
from autoround.session.session import Session, forward_block


def remaining_loss_fraction(
    course: FisherPass,
    block: OpenedBlock,
    tasks: Mapping[str, Target],
    *,
    grads: Tensor,
) -> float:
    """Tune a block for a few steps; returns its loss after, over the one before.

    tasks: of its layers in one option. grads: [n, seq, hidden], of the answers for its output.
    """
    job, index = course.job, block.plan.index
    mask = job.tokens.mask if job.tokens is not None and job.tokens.padded else None
    forward = partial(_forward, course, block)
    problem = Reconstruction(
        forward, tasks, Samples(course.entered[index], course.entered[index + 1], mask)
    )
    tuned = tune(
        problem,
        _schedule(job, index),
        ops=job.runtime.ops,
        dtype=job.compute,
        on_step=lambda step, loss: course.rest(),
    )
    before = _effect(course, block, tasks, round_to_nearest(tasks), grads)
    after = _effect(course, block, tasks, tuned.roundings, grads)
    return min(1.0, after / before) if before > 0 else 1.0


def _schedule(job: Session, index: int) -> Hyperparameters:
    steps = job.recipe.allocate.iters
    plain = hyperparameters_for(job.recipe, index)
    clip = 1.0 / steps if job.recipe.tuning.tune_minmax else 0.0
    return plain._replace(
        iters=steps, lr=1.0 / steps, minmax_lr=clip, grad_accum_steps=1, num_validations=2
    )


def _forward(
    course: FisherPass,
    block: OpenedBlock,
    weights: Mapping[str, Tensor],
    hidden: Tensor,
    rows: Tensor | None,
) -> Tensor:
    return forward_block(
        course.runner, block.plan, block.tensors, weights, hidden=hidden, rows=rows
    )


@torch.no_grad()
def _effect(
    course: FisherPass,
    block: OpenedBlock,
    tasks: Mapping[str, Target],
    roundings: Mapping[str, Rounding],
    grads: Tensor,
) -> float:
    """Return the squares of what the block's error does to the answers, summed over tokens."""
    job, index = course.job, block.plan.index
    weights = rounded_weights(tasks, roundings, ops=job.runtime.ops, dtype=job.compute)
    total = 0.0
    for rows in course.parts():
        hidden = course.entered[index][rows].to(job.runtime.device)
        wanted = course.entered[index + 1][rows].to(job.runtime.device)
        moved = _forward(course, block, weights, hidden, rows) - wanted
        total += squared_effects(grads[rows].to(moved.device), moved)
        course.rest()
    return total

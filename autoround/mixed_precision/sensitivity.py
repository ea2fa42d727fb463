"""What each layer costs in each of its options, block by block.

The full-precision stream goes forward once. An answer is drawn at every position, and its gradient
goes back through the blocks; on the way each layer is rounded to each option, by searched scales,
and ``core.sensitivity`` tells what that does to the answers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from autoround.core.rtn import Target, round_to_nearest
from autoround.core.tune import rounded_weights
from autoround.events import Scored, StageStarted
from autoround.mixed_precision.fisher_pass import (
    FisherPass,
    OpenedBlock,
    forward_original,
    open_block,
    open_fisher_pass,
    sampled_gradients,
)
from autoround.mixed_precision.lm_head import head_losses
from autoround.mixed_precision.perturbation import Perturbation, ScoredModule, accumulate_effects
from autoround.mixed_precision.tuning_gain import remaining_loss_fraction
from autoround.model.runner import BlockRunner
from autoround.model.stacked_experts import as_matrix
from autoround.session.session import Session
from autoround.tuning.targets import make_target
from autoround.types import Scheme

#: The loss of every part in each of its options, in nats per token; NaN where nothing is known.
Losses = dict[str, dict[Scheme, float]]


def losses_of(
    job: Session,
    parts: Sequence[Sequence[ScoredModule]],
    *,
    head: ScoredModule | None = None,
    folder: Path | None = None,
) -> Losses:
    """Judge the parts of every block in each of their options, and the head's if it takes part.

    parts: of each block of the plan. folder: for what does not fit the memory.
    """
    runner = BlockRunner(job.skeleton, device=job.runtime.device, dtype=job.compute)
    found: Losses = {}
    with open_fisher_pass(job, runner, folder) as course:
        job.sink(StageStarted("score", f"{len(parts)} blocks, {course.real} tokens"))
        forward_original(course)
        if head is not None:
            found[head.name] = head_losses(course, head)
        grads = sampled_gradients(course)
        for index in reversed(range(len(job.plan.blocks))):
            found.update(_block(course, index, parts[index], grads))
            job.sink(Scored(index, len(job.plan.blocks)))
            job.runtime.release()
    order = [*(part for own in parts for part in own), *([head] if head is not None else [])]
    return {part.name: found[part.name] for part in order}


def _block(course: FisherPass, index: int, parts: Sequence[ScoredModule], grads: Tensor) -> Losses:
    """Judge the parts of one block; ``grads`` become those for what enters it, in place."""
    block = open_block(course, index)
    moves: list[Perturbation] = []
    shares: dict[Scheme, float] = {}
    for scheme in dict.fromkeys(option for part in parts for option in part.options):
        # No more than one option's tasks are in memory.
        own = {
            part: _tasks(course, block, part, scheme) for part in parts if scheme in part.options
        }
        shares[scheme] = _share(course, block, own, grads)
        moves += _moves(course.job, block, own, scheme)
    module = course.job.skeleton.model.get_submodule(block.plan.name)
    with accumulate_effects(module, moves, tensors=block.tensors):
        for rows in course.parts():
            device = course.job.runtime.device
            hidden = course.entered[index][rows].to(device).requires_grad_()
            out = course.runner.run(index, block.tensors, hidden=hidden, rows=rows)
            grads[rows] = torch.autograd.grad(out, hidden, grads[rows].to(device))[0].to("cpu")
            course.rest()
    found: Losses = {part.name: {} for part in parts}
    for move in moves:
        loss = move.total / (2 * course.real) if move.calls else float("nan")
        found[move.part.name][move.scheme] = loss * shares[move.scheme]
    return found


def _tasks(
    course: FisherPass, block: OpenedBlock, part: ScoredModule, scheme: Scheme
) -> dict[str, Target]:
    """Cut the weights of a part into groups and search their scales."""
    driven = course.driven[block.plan.index]
    tasks = {}
    for layer in part.layers:
        inside = layer.tensor.removeprefix(block.plan.name + ".")
        weight = as_matrix(layer, block.tensors[inside]).float()
        own = driven.get(layer.name.removeprefix(block.plan.name + "."))
        tasks[layer.name] = make_target(course.job, replace(layer, scheme=scheme), weight, own)
    return tasks


def _share(
    course: FisherPass,
    block: OpenedBlock,
    parts: Mapping[ScoredModule, Mapping[str, Target]],
    grads: Tensor,
) -> float:
    """Return the share of an option's loss that tuning leaves; one where it is not tried."""
    measured = course.job.recipe.allocate.method == "measured"
    if not measured or not course.runner.runs(block.plan.index):
        return 1.0
    whole = {name: task for tasks in parts.values() for name, task in tasks.items()}
    return remaining_loss_fraction(course, block, whole, grads=grads)


def _moves(
    job: Session,
    block: OpenedBlock,
    parts: Mapping[ScoredModule, Mapping[str, Target]],
    scheme: Scheme,
) -> Iterator[Perturbation]:
    """Round parts to an option."""
    for part, tasks in parts.items():
        rounded = rounded_weights(
            tasks, round_to_nearest(tasks), ops=job.runtime.ops, dtype=job.compute
        )
        yield Perturbation(part, scheme, block.plan.name, rounded)

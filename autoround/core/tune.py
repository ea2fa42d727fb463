"""The tuning loop: signed gradient descent on the rounding of one block's weights.

(SignRound, arXiv 2309.05516, algorithm 1.) The block is a function of its weights;
nothing here knows what a module is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from autoround.core import signsgd
from autoround.core.grid import from_groups
from autoround.core.loss import block_mse
from autoround.core.ops import Ops
from autoround.core.rounding import Rounding
from autoround.core.rtn import Task, round_to_nearest

#: Keeps gradients of small losses clear of underflow in 16-bit forwards; signs ignore it.
LOSS_SCALE = 1000.0


class Samples(NamedTuple):
    """Inputs of a block and the outputs it should have.

    inputs, targets: [n, seq, hidden], on any device.
    mask: bool [n, seq], True where a token is real, or None when all are.
    rows: int64 [n], which samples of the whole set these are; None for all of it in order.
    """

    inputs: Tensor
    targets: Tensor
    mask: Tensor | None
    rows: Tensor | None = None

    def take(self, indices: Tensor, *, device: torch.device) -> Samples:
        """Copy some samples to a device."""
        mask = None if self.mask is None else self.mask[indices].to(device)
        inputs, targets = self.inputs[indices].to(device), self.targets[indices].to(device)
        return Samples(inputs, targets, mask, indices)


#: Runs a block: weights by name (as the block stores them), inputs and which samples they are,
#: to its output.
Forward = Callable[[Mapping[str, Tensor], Tensor, Tensor | None], Tensor]


class Problem(NamedTuple):
    """A block as tuning sees it: a function of weights, what to round, what to match."""

    forward: Forward
    tasks: Mapping[str, Task]
    samples: Samples

    @property
    def device(self) -> torch.device:
        """Where the weights live and the block runs."""
        return next(iter(self.tasks.values())).groups.device


class Schedule(NamedTuple):
    """Plain numbers of the descent.

    checks: how often the fixed batches are scored to choose the best iterate.
    check_samples: how many samples those batches hold.
    clip_ceiling: largest value of a clip factor.
    """

    iters: int
    rate: float
    clip_rate: float
    batch_size: int
    accumulate: int
    checks: int
    check_samples: int
    clip_ceiling: float
    seed: int


class Tuned(NamedTuple):
    """Best rounding found, with losses on the fixed batches and the step it came from."""

    roundings: dict[str, Rounding]
    loss_before: float
    loss_after: float
    best_step: int


#: Told of every step: step number from 1, and that step's loss.
OnStep = Callable[[int, float], None]


def batches(count: int, size: int, *, seed: int) -> Iterator[Tensor]:
    """Yield endless index batches [size]: every epoch a new order, the remainder dropped."""
    generator = torch.Generator().manual_seed(seed)
    size = min(size, count)
    while True:
        order = torch.randperm(count, generator=generator)
        yield from (order[i : i + size] for i in range(0, count - size + 1, size))


def check_steps(iters: int, checks: int) -> frozenset[int]:
    """Return the steps after which the fixed batches are scored, the last one among them.

    All lie in the second half: before it the rate is still too high to stop at.
    """
    return frozenset(round(iters * (0.5 + 0.5 * (k + 1) / checks)) for k in range(checks)) - {0}


def rounded_weights(
    tasks: Mapping[str, Task], roundings: Mapping[str, Rounding], *, ops: Ops, dtype: torch.dtype
) -> dict[str, Tensor]:
    """Fake-quantize every tensor and give it its real shape, in the compute dtype."""
    rounded = ops.fake_quantize_all(
        [task.groups for task in tasks.values()],
        [roundings[name] for name in tasks],
        grids=[task.grid for task in tasks.values()],
        dtype=dtype,
    )
    return {
        name: from_groups(groups, task.shape)
        for (name, task), groups in zip(tasks.items(), rounded, strict=True)
    }


def check_loss(
    problem: Problem,
    roundings: Mapping[str, Rounding],
    *,
    schedule: Schedule,
    ops: Ops,
    dtype: torch.dtype,
) -> float:
    """Score a rounding on the fixed samples, the same ones at every call."""
    samples = problem.samples
    device = problem.device
    count = samples.inputs.shape[0]
    chosen = next(batches(count, schedule.check_samples, seed=schedule.seed + 1))
    with torch.no_grad():
        weights = rounded_weights(problem.tasks, roundings, ops=ops, dtype=dtype)
        total = 0.0
        for part in chosen.split(schedule.batch_size):
            batch = samples.take(part, device=device)
            output = problem.forward(weights, batch.inputs, batch.rows)
            total += float(block_mse(output, batch.targets, batch.mask)) * len(part)
    return total / len(chosen)


def tune(
    problem: Problem,
    schedule: Schedule,
    *,
    ops: Ops,
    dtype: torch.dtype,
    on_step: OnStep | None = None,
) -> Tuned:
    """Minimise a block's output error over the rounding of its weights.

    With zero steps this is round-to-nearest on the given grids. The best iterate is
    chosen on samples that stay the same throughout: the loss of a step is of its own
    batch, and the least of many noisy numbers is mostly luck.
    """
    now = round_to_nearest(problem.tasks)
    score = partial(check_loss, problem, schedule=schedule, ops=ops, dtype=dtype)
    before = score(now)
    if not schedule.iters:
        return Tuned(now, before, before, 0)
    best = Tuned(_copy(now), before, before, 0)
    values = [r.value.requires_grad_() for r in now.values()]
    clips = [c for r in now.values() for c in (r.clip_lo, r.clip_hi)] if schedule.clip_rate else []
    params = [*values, *(clip.requires_grad_() for clip in clips)]
    order = batches(problem.samples.inputs.shape[0], schedule.batch_size, seed=schedule.seed)
    value_state = signsgd.init(schedule.rate, schedule.iters)
    clip_state = signsgd.init(schedule.clip_rate, schedule.iters)
    checked = check_steps(schedule.iters, schedule.checks)
    for step in range(1, schedule.iters + 1):
        grads, loss = _gradients(problem, now, params, order, schedule, ops, dtype)
        value_state = ops.sign_step(values, grads[: len(values)], state=value_state)
        clip_state = ops.sign_step(clips, grads[len(values) :], state=clip_state)
        for clip in clips:
            clip.data.clamp_(0.0, schedule.clip_ceiling)
        if on_step is not None:
            on_step(step, loss)
        if step in checked and (after := score(now)) < best.loss_after:
            best = Tuned(_copy(now), before, after, step)
    return best


def _gradients(
    problem: Problem,
    roundings: Mapping[str, Rounding],
    params: Sequence[Tensor],
    order: Iterator[Tensor],
    schedule: Schedule,
    ops: Ops,
    dtype: torch.dtype,
) -> tuple[list[Tensor], float]:
    """Sum the gradients of ``accumulate`` batches; returns them with the mean loss."""
    grads: list[Tensor] = []
    total = 0.0
    for _ in range(schedule.accumulate):
        batch = problem.samples.take(next(order), device=problem.device)
        weights = rounded_weights(problem.tasks, roundings, ops=ops, dtype=dtype)
        output = problem.forward(weights, batch.inputs, batch.rows)
        loss = block_mse(output, batch.targets, batch.mask)
        # A weight that no token of this batch reached, an idle expert's, has gradient zero.
        fresh = torch.autograd.grad(
            loss * LOSS_SCALE, params, allow_unused=True, materialize_grads=True
        )
        grads = [a.add_(b) for a, b in zip(grads, fresh, strict=True)] if grads else list(fresh)
        total += float(loss.detach())
    return grads, total / schedule.accumulate


def _copy(roundings: Mapping[str, Rounding]) -> dict[str, Rounding]:
    return {
        name: Rounding(*(part.detach().clone() for part in rounding))
        for name, rounding in roundings.items()
    }

"""The tuning loop: signed gradient descent on the rounding of one block's weights.

(SignRound, arXiv 2309.05516, algorithm 1.) The block is a function of its weights;
nothing here knows what a module is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from autoround.core import signsgd
from autoround.core.batches import BatchLoader, Samples, Upload, batches
from autoround.core.grid import from_groups
from autoround.core.loss import block_mse
from autoround.core.ops import Ops
from autoround.core.rounding import Rounding
from autoround.core.rtn import Target, round_to_nearest

#: Keeps gradients of small losses clear of underflow in 16-bit forwards; signs ignore it.
LOSS_SCALE = 1000.0


#: Runs a block: weights by name (as the block stores them), inputs and which samples they are,
#: to its output.
Forward = Callable[[Mapping[str, Tensor], Tensor, Tensor | None], Tensor]


#: Tensors in, tensors out.
Step = Callable[[Sequence[Tensor]], Sequence[Tensor]]


class DeviceHooks(NamedTuple):
    """What a device can do for the loop beside the operations.

    upload: bring samples to it while it computes. capture: record a step for tensors like the
    examples it is given, and return one that plays it.
    """

    upload: Upload | None = None
    capture: Callable[[Step, Sequence[Tensor]], Step] | None = None


class Reconstruction(NamedTuple):
    """A block as tuning sees it: a function of weights, what to round, what to match.

    steady: whether the block does the same whatever samples it is given, so that a step of it can
    be recorded.
    """

    forward: Forward
    tasks: Mapping[str, Target]
    samples: Samples
    means: DeviceHooks = DeviceHooks()
    steady: bool = False

    @property
    def device(self) -> torch.device:
        """Where the weights live and the block runs."""
        return next(iter(self.tasks.values())).groups.device


class Hyperparameters(NamedTuple):
    """Plain numbers of the descent.

    checks: how often the fixed batches are scored to choose the best iterate.
    check_samples: how many samples those batches hold.
    clip_ceiling: largest value of a clip factor.
    part: samples that go through the block at a time, 0 for a whole batch; the numbers are the same
    but for the order of sums. sparing: keep the best iterate in the host's memory.
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
    part: int = 0
    sparing: bool = False


class Tuned(NamedTuple):
    """Best rounding found, with losses on the fixed batches and the step it came from."""

    roundings: dict[str, Rounding]
    loss_before: float
    loss_after: float
    best_step: int


#: Told of every step: step number from 1, and that step's loss.
OnStep = Callable[[int, float], None]


def validation_steps(iters: int, checks: int) -> frozenset[int]:
    """Return the steps after which the fixed batches are scored, the last one among them.

    All lie in the second half: before it the rate is still too high to stop at.
    """
    return frozenset(round(iters * (0.5 + 0.5 * (k + 1) / checks)) for k in range(checks)) - {0}


def rounded_weights(
    tasks: Mapping[str, Target], roundings: Mapping[str, Rounding], *, ops: Ops, dtype: torch.dtype
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


def validation_loss(
    problem: Reconstruction,
    roundings: Mapping[str, Rounding],
    *,
    schedule: Hyperparameters,
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
        for drawn in chosen.split(schedule.batch_size):
            for part, share in samples.take(drawn, device=device).parts(schedule.part):
                output = problem.forward(weights, part.inputs, part.rows)
                loss = block_mse(output, part.targets, part.mask)
                total += float(loss) * share * len(drawn)
    return total / len(chosen)


def tune(
    problem: Reconstruction,
    schedule: Hyperparameters,
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
    score = partial(validation_loss, problem, schedule=schedule, ops=ops, dtype=dtype)
    before = score(now)
    if not schedule.iters:
        return Tuned(now, before, before, 0)
    keep = torch.device("cpu") if schedule.sparing else problem.device
    best = Tuned(_copy(now, keep), before, before, 0)
    values = [r.value.requires_grad_() for r in now.values()]
    clips = (
        [c for r in now.values() for c in (r.min_scale, r.max_scale)] if schedule.clip_rate else []
    )
    params = [*values, *(clip.requires_grad_() for clip in clips)]
    gradients = GradientStep(problem, now, params, schedule=schedule, ops=ops, dtype=dtype)
    value_state = signsgd.init(schedule.rate, schedule.iters)
    clip_state = signsgd.init(schedule.clip_rate, schedule.iters)
    checked = validation_steps(schedule.iters, schedule.checks)
    for step in range(1, schedule.iters + 1):
        grads, loss = gradients.next()
        value_state = ops.sign_step(values, grads[: len(values)], state=value_state)
        clip_state = ops.sign_step(clips, grads[len(values) :], state=clip_state)
        for clip in clips:
            clip.data.clamp_(0.0, schedule.clip_ceiling)
        if step < schedule.iters:
            gradients.ahead()
        if on_step is not None:
            on_step(step, float(loss))
        if step in checked and (after := score(now)) < best.loss_after:
            best = Tuned(_copy(now, keep), before, after, step)
    if not schedule.sparing:
        return best
    del now, values, clips, params, gradients, grads
    return best._replace(roundings=_copy(best.roundings, problem.device))


class GradientStep:
    """Gradients of a step, batch after batch."""

    def __init__(
        self,
        problem: Reconstruction,
        roundings: Mapping[str, Rounding],
        params: Sequence[Tensor],
        *,
        schedule: Hyperparameters,
        ops: Ops,
        dtype: torch.dtype,
    ) -> None:
        self._problem, self._roundings, self._params = problem, roundings, params
        self._schedule, self._ops, self._dtype = schedule, ops, dtype
        samples = problem.samples
        order = batches(samples.inputs.shape[0], schedule.batch_size, seed=schedule.seed)
        self._feed = BatchLoader(
            samples.tensors(), order, device=problem.device, upload=problem.means.upload
        )
        self._captured: Step | None = None

    def ahead(self) -> None:
        """Start the next batch on its way to the device."""
        self._feed.ahead()

    def next(self) -> tuple[Sequence[Tensor], Tensor]:
        """Return the gradients of the next step's batches and their mean loss, float32 scalar."""
        count = self._schedule.accumulate
        first = self._take()
        if count == 1 and not 0 < self._schedule.part < first.inputs.shape[0]:
            return self._at_once(first)
        weights = self._weights()
        leaves = {name: weight.detach().requires_grad_() for name, weight in weights.items()}
        sums: list[Tensor] = []
        total = torch.zeros((), device=self._problem.device)
        for number in range(count):
            batch = first if number == 0 else self._take()
            for part, share in batch.parts(self._schedule.part):
                loss = self._loss(leaves, part) * share
                fresh = _by(loss, list(leaves.values()))
                if sums:
                    for held, more in zip(sums, fresh, strict=True):
                        held.add_(more)
                else:
                    sums = [grad.float() for grad in fresh]
                total += loss.detach()
        # Weights are the same for all parts: they are rounded once, and so are their gradients.
        upstream = [torch.zeros_like(leaf) for leaf in leaves.values()] if not sums else []
        while sums:
            upstream.append(sums.pop(0).to(self._dtype))
        grads = torch.autograd.grad(
            list(weights.values()),
            self._params,
            upstream,
            allow_unused=True,
            materialize_grads=True,
        )
        return grads, total / count

    def _take(self) -> Samples:
        rows, held = self._feed.take()
        return Samples(held["inputs"], held["targets"], held.get("mask"), rows)

    def _weights(self) -> dict[str, Tensor]:
        return rounded_weights(
            self._problem.tasks, self._roundings, ops=self._ops, dtype=self._dtype
        )

    def _loss(self, weights: Mapping[str, Tensor], batch: Samples) -> Tensor:
        output = self._problem.forward(weights, batch.inputs, batch.rows)
        return block_mse(output, batch.targets, batch.mask)

    def _at_once(self, batch: Samples) -> tuple[Sequence[Tensor], Tensor]:
        """Return gradients and loss of one batch that goes through the block as a whole."""
        capture = self._problem.means.capture
        if capture is None or not self._problem.steady:
            return self._direct(batch)
        tensors = [batch.inputs, batch.targets, *([] if batch.mask is None else [batch.mask])]
        if self._captured is None:
            self._captured = capture(self._as_step, tensors)
        loss, *grads = self._captured(tensors)
        return grads, loss

    def _as_step(self, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        """Do a step as a function of tensors; a steady block does not ask which samples."""
        inputs, targets, *mask = tensors
        grads, loss = self._direct(Samples(inputs, targets, mask[0] if mask else None))
        return [loss, *grads]

    def _direct(self, batch: Samples) -> tuple[Sequence[Tensor], Tensor]:
        loss = self._loss(self._weights(), batch)
        return _by(loss, self._params), loss.detach()


def _by(loss: Tensor, params: Sequence[Tensor]) -> Sequence[Tensor]:
    """Differentiate a loss; a weight that no token of a batch reached has gradient zero."""
    return torch.autograd.grad(loss * LOSS_SCALE, params, allow_unused=True, materialize_grads=True)


def _copy(roundings: Mapping[str, Rounding], device: torch.device) -> dict[str, Rounding]:
    """Copy roundings to a device; those that are there already stay what they are to others."""
    return {
        name: Rounding(*(part.detach().to(device, copy=True) for part in rounding))
        for name, rounding in roundings.items()
    }

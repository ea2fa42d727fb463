"""The tuning loop: signed gradient descent on the rounding of one block's weights.

Block-wise reconstruction (SignRound, arXiv 2309.05516, algorithm 1): offsets V and the range
factors α, β are moved so that the block's output matches the original's. The block is a function
of its weights; nothing here knows what a module is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from autoround.core import signsgd
from autoround.core.batches import BatchLoader, Samples, Upload, batches
from autoround.core.grids.grid import from_groups
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
    """A block as tuning sees it: a function of weights, what to quantize, what to match.

    capturable: whether the block does the same whatever samples it is given, so that a step of it
    can be recorded as a graph of the device.
    """

    forward: Forward
    targets: Mapping[str, Target]
    samples: Samples
    hooks: DeviceHooks = DeviceHooks()
    capturable: bool = False

    @property
    def device(self) -> torch.device:
        """Where the weights live and the block runs."""
        return next(iter(self.targets.values())).groups.device


class Hyperparameters(NamedTuple):
    """Hyperparameters of one block's tuning.

    iters: steps. lr: learning rate of offsets V at step 0, in levels. minmax_lr: that of min_scale
    and max_scale; 0 leaves them at one. batch_size: samples of a batch. grad_accum_steps: batches
    of a step.
    num_validations: how often the validation samples are scored to choose the best iterate.
    validation_samples: how many those are. max_minmax_scale: largest min_scale and max_scale.
    micro_batch: samples that go through the block at a time, 0 for a whole batch; the numbers are
    the same but for the order of sums. best_on_cpu: keep the best iterate in the host's memory.
    """

    iters: int
    lr: float
    minmax_lr: float
    batch_size: int
    grad_accum_steps: int
    num_validations: int
    validation_samples: int
    max_minmax_scale: float
    seed: int
    micro_batch: int = 0
    best_on_cpu: bool = False


class Tuned(NamedTuple):
    """Best rounding found, with losses on the validation samples and the step it came from."""

    roundings: dict[str, Rounding]
    loss_before: float
    loss_after: float
    best_step: int


#: Told of every step: step number from 1, and that step's loss.
OnStep = Callable[[int, float], None]


def validation_steps(iters: int, count: int) -> frozenset[int]:
    """Return the steps after which the validation samples are scored, the last one among them.

    All lie in the second half: before it the learning rate is still too high to stop at.

    Args:
        iters: steps in all.
        count: how often to score.

    Returns:
        Step numbers from 1.
    """
    return frozenset(round(iters * (0.5 + 0.5 * (k + 1) / count)) for k in range(count)) - {0}


def rounded_weights(
    targets: Mapping[str, Target],
    roundings: Mapping[str, Rounding],
    *,
    ops: Ops,
    dtype: torch.dtype,
) -> dict[str, Tensor]:
    """Fake-quantize every tensor and give it its real shape.

    Args:
        targets: what to quantize, by name.
        roundings: how, by the same names.
        ops: of the device.
        dtype: of the results, the one that blocks compute in.

    Returns:
        By name, in the shape of its target, differentiable in the roundings.
    """
    rounded = ops.fake_quantize_all(
        [target.groups for target in targets.values()],
        [roundings[name] for name in targets],
        grids=[target.grid for target in targets.values()],
        dtype=dtype,
    )
    return {
        name: from_groups(groups, target.shape)
        for (name, target), groups in zip(targets.items(), rounded, strict=True)
    }


def validation_loss(
    block: Reconstruction,
    roundings: Mapping[str, Rounding],
    *,
    hyperparameters: Hyperparameters,
    ops: Ops,
    dtype: torch.dtype,
) -> float:
    """Score a rounding on the validation samples, the same ones at every call.

    Args:
        block: to reconstruct. roundings: of its targets, by name.
        hyperparameters: how many samples, how many at a time, and the seed that draws them.
        ops: of the device. dtype: that the block computes in.

    Returns:
        The mean squared error of the block's output on those samples.
    """
    samples = block.samples
    device = block.device
    count = samples.inputs.shape[0]
    # A seed of its own: the samples must not be those of the first batches.
    seed = hyperparameters.seed + 1
    chosen = next(batches(count, hyperparameters.validation_samples, seed=seed))
    with torch.no_grad():
        weights = rounded_weights(block.targets, roundings, ops=ops, dtype=dtype)
        total = 0.0
        for rows in chosen.split(hyperparameters.batch_size):
            batch = samples.select(rows, device=device)
            for part, share in batch.micro_batches(hyperparameters.micro_batch):
                output = block.forward(weights, part.inputs, part.rows)
                loss = block_mse(output, part.targets, part.mask)
                total += float(loss) * share * len(rows)
    return total / len(chosen)


def tune(
    block: Reconstruction,
    hyperparameters: Hyperparameters,
    *,
    ops: Ops,
    dtype: torch.dtype,
    on_step: OnStep | None = None,
) -> Tuned:
    """Minimise a block's output error over the rounding of its weights.

    With zero steps this is round-to-nearest on the given grids. The best iterate is
    chosen on samples that stay the same throughout: the loss of a step is of its own
    batch, and the least of many noisy numbers is mostly luck.

    Args:
        block: to reconstruct.
        hyperparameters: steps, learning rates and batches.
        ops: of the device that the block is on.
        dtype: that the block computes in.
        on_step: told of every step and its loss.

    Returns:
        The best iterate, on the block's device, and its loss beside that of the start.
    """
    iterate = round_to_nearest(block.targets)
    score = partial(validation_loss, block, hyperparameters=hyperparameters, ops=ops, dtype=dtype)
    before = score(iterate)
    if not hyperparameters.iters:
        return Tuned(iterate, before, before, 0)
    keep = torch.device("cpu") if hyperparameters.best_on_cpu else block.device
    best = Tuned(_copy(iterate, keep), before, before, 0)
    offsets = [rounding.offset.requires_grad_() for rounding in iterate.values()]
    factors = [end for r in iterate.values() for end in (r.min_scale, r.max_scale)]
    if not hyperparameters.minmax_lr:
        factors = []  # no gradient is asked for, which spares the backward its sums
    params = [*offsets, *(factor.requires_grad_() for factor in factors)]
    gradients = GradientStep(
        block, iterate, params, hyperparameters=hyperparameters, ops=ops, dtype=dtype
    )
    offset_state = signsgd.init(hyperparameters.lr, hyperparameters.iters)
    factor_state = signsgd.init(hyperparameters.minmax_lr, hyperparameters.iters)
    scored = validation_steps(hyperparameters.iters, hyperparameters.num_validations)
    for step in range(1, hyperparameters.iters + 1):
        grads, loss = gradients.next()
        offset_state = ops.sign_step(offsets, grads[: len(offsets)], state=offset_state)
        factor_state = ops.sign_step(factors, grads[len(offsets) :], state=factor_state)
        for factor in factors:
            factor.data.clamp_(0.0, hyperparameters.max_minmax_scale)
        if step < hyperparameters.iters:
            gradients.prefetch()
        # Reading the loss waits for the device, so the next batch is on its way before that.
        if on_step is not None:
            on_step(step, float(loss))
        if step in scored and (after := score(iterate)) < best.loss_after:
            best = Tuned(_copy(iterate, keep), before, after, step)
    if not hyperparameters.best_on_cpu:
        return best
    # Room for the best iterate on the device, before it is brought back.
    del iterate, offsets, factors, params, gradients, grads
    return best._replace(roundings=_copy(best.roundings, block.device))


class GradientStep:
    """Gradients of a step, batch after batch.

    Args:
        block: to reconstruct.
        roundings: of its targets, by name; read anew at every step.
        params: those parts of the roundings that gradients are wanted of.
        hyperparameters: batches of a step, their size and the seed of their order.
        ops: of the device. dtype: that the block computes in.
    """

    def __init__(
        self,
        block: Reconstruction,
        roundings: Mapping[str, Rounding],
        params: Sequence[Tensor],
        *,
        hyperparameters: Hyperparameters,
        ops: Ops,
        dtype: torch.dtype,
    ) -> None:
        self._block, self._roundings, self._params = block, roundings, params
        self._hyperparameters, self._ops, self._dtype = hyperparameters, ops, dtype
        samples = block.samples
        order = batches(
            samples.inputs.shape[0], hyperparameters.batch_size, seed=hyperparameters.seed
        )
        self._loader = BatchLoader(
            samples.tensors(), order, device=block.device, upload=block.hooks.upload
        )
        self._captured: Step | None = None

    def prefetch(self) -> None:
        """Start the next batch on its way to the device."""
        self._loader.prefetch()

    def next(self) -> tuple[Sequence[Tensor], Tensor]:
        """Differentiate the loss of the next step's batches.

        Returns:
            The sum of the batches' gradients, times LOSS_SCALE, one for each parameter in its
            shape; and the mean loss, a float32 scalar on the device.
        """
        count, size = self._hyperparameters.grad_accum_steps, self._hyperparameters.micro_batch
        first = self._next_batch()
        if count == 1 and not 0 < size < first.inputs.shape[0]:
            return self._whole_batch(first)
        weights = self._weights()
        leaves = {name: weight.detach().requires_grad_() for name, weight in weights.items()}
        sums: list[Tensor] = []
        total = torch.zeros((), device=self._block.device)
        for number in range(count):
            batch = first if number == 0 else self._next_batch()
            for part, share in batch.micro_batches(size):
                loss = self._loss(leaves, part) * share
                grads = _differentiate(loss, list(leaves.values()))
                if sums:
                    for accumulated, grad in zip(sums, grads, strict=True):
                        accumulated.add_(grad)
                else:
                    # float32: sums of many 16-bit gradients would lose the small ones.
                    sums = [grad.float() for grad in grads]
                total += loss.detach()
        # Weights are the same for all parts: they are rounded once, and so are their gradients.
        upstream = [torch.zeros_like(leaf) for leaf in leaves.values()] if not sums else []
        while sums:
            upstream.append(sums.pop(0).to(self._dtype))
        param_grads = torch.autograd.grad(
            list(weights.values()),
            self._params,
            upstream,
            allow_unused=True,
            materialize_grads=True,
        )
        return param_grads, total / count

    def _next_batch(self) -> Samples:
        rows, batch = self._loader.next()
        return Samples(batch["inputs"], batch["targets"], batch.get("mask"), rows)

    def _weights(self) -> dict[str, Tensor]:
        return rounded_weights(
            self._block.targets, self._roundings, ops=self._ops, dtype=self._dtype
        )

    def _loss(self, weights: Mapping[str, Tensor], batch: Samples) -> Tensor:
        output = self._block.forward(weights, batch.inputs, batch.rows)
        return block_mse(output, batch.targets, batch.mask)

    def _whole_batch(self, batch: Samples) -> tuple[Sequence[Tensor], Tensor]:
        """Return gradients and loss of one batch that goes through the block as a whole."""
        capture = self._block.hooks.capture
        if capture is None or not self._block.capturable:
            return self._gradients(batch)
        tensors = [batch.inputs, batch.targets, *([] if batch.mask is None else [batch.mask])]
        if self._captured is None:
            self._captured = capture(self._as_step, tensors)
        loss, *grads = self._captured(tensors)
        return grads, loss

    def _as_step(self, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        """Do a step as a function of tensors; a capturable block does not ask which samples."""
        inputs, targets, *mask = tensors
        grads, loss = self._gradients(Samples(inputs, targets, mask[0] if mask else None))
        return [loss, *grads]

    def _gradients(self, batch: Samples) -> tuple[Sequence[Tensor], Tensor]:
        loss = self._loss(self._weights(), batch)
        return _differentiate(loss, self._params), loss.detach()


def _differentiate(loss: Tensor, params: Sequence[Tensor]) -> Sequence[Tensor]:
    """Differentiate a loss; a weight that no token of a batch reached has gradient zero."""
    return torch.autograd.grad(loss * LOSS_SCALE, params, allow_unused=True, materialize_grads=True)


def _copy(roundings: Mapping[str, Rounding], device: torch.device) -> dict[str, Rounding]:
    """Copy roundings to a device; those that are there already stay what they are to others."""
    return {
        name: Rounding(*(part.detach().to(device, copy=True) for part in rounding))
        for name, rounding in roundings.items()
    }

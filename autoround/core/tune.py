"""The tuning loop: signed gradient descent on the rounding of one block's weights.

Block-wise reconstruction (SignRound, arXiv 2309.05516, algorithm 1): offsets V and the range
factors α, β are moved so that the block's output matches the original's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from autoround.core import signsgd
from autoround.core.gradient_step import GradientStep
from autoround.core.late_losses import LateLosses, OnStep
from autoround.core.ops import Ops
from autoround.core.reconstruction import Hyperparameters, Reconstruction
from autoround.core.rounding import Rounding
from autoround.core.rtn import round_to_nearest
from autoround.core.validation import (
    BestIterate,
    Tuned,
    Validation,
    copy_roundings,
    validation_steps,
)


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

    On a device of its own the host queues steps and reads what they gave when it is there.

    Args:
        block: to reconstruct.
        hyperparameters: steps, learning rates and batches.
        ops: of the device that the block is on.
        dtype: that the block computes in.
        on_step: told of every step and its loss, on a device some steps late.

    Returns:
        The best iterate, on the block's device, and its loss beside that of the start.
    """
    iterate = round_to_nearest(block.targets)
    validation = Validation(block, hyperparameters, ops=ops, dtype=dtype)
    before = validation.score(iterate)
    if not hyperparameters.iters:
        only = float(before)
        return Tuned(iterate, only, only, 0)
    keep = torch.device("cpu") if hyperparameters.best_on_cpu else block.device
    late = keep.type != "cpu"  # a score is there at once on a CPU
    best = BestIterate(iterate, before, keep=keep, late=late)
    descent = SignDescent(iterate, hyperparameters, ops=ops)
    gradients = GradientStep(
        block, iterate, descent.params, hyperparameters=hyperparameters, ops=ops, dtype=dtype
    )
    scored = validation_steps(hyperparameters.iters, hyperparameters.num_validations)
    losses = LateLosses(on_step, block.hooks, uploads=gradients.uploads)
    for step in range(1, hyperparameters.iters + 1):
        grads, loss = gradients.next()
        descent.move(grads)
        gradients.prefetch()
        # Where a loss is read at once, the next batch is on its way before that.
        losses.add(step, loss)
        if step in scored:
            best.offer(step, iterate, validation.score(iterate))
    losses.finish()
    if not hyperparameters.best_on_cpu:
        return best.result()
    # Room for the best iterate on the device, before it is brought back.
    del iterate, descent, gradients, grads
    tuned = best.result()
    return tuned._replace(roundings=copy_roundings(tuned.roundings, block.device))


class SignDescent:
    """Moves the roundings of a block against the signs of their gradients, in place.

    Args:
        iterate: where to start, by name; gradients are asked for.
        hyperparameters: steps, learning rates and how far the factors may go.
        ops: of the device.
    """

    def __init__(
        self, iterate: Mapping[str, Rounding], hyperparameters: Hyperparameters, *, ops: Ops
    ) -> None:
        self._ops, self._most = ops, hyperparameters.max_minmax_scale
        self._offsets = [rounding.offset.requires_grad_() for rounding in iterate.values()]
        factors = [end for r in iterate.values() for end in (r.min_scale, r.max_scale)]
        if not hyperparameters.minmax_lr:
            factors = []  # no gradient is asked for, which spares the backward its sums
        self._factors = [factor.requires_grad_() for factor in factors]
        self._offset_state = signsgd.init(hyperparameters.lr, hyperparameters.iters)
        self._factor_state = signsgd.init(hyperparameters.minmax_lr, hyperparameters.iters)

    @property
    def params(self) -> list[Tensor]:
        """What gradients are wanted of: offsets, then factors if they are tuned."""
        return [*self._offsets, *self._factors]

    def move(self, grads: Sequence[Tensor]) -> None:
        """Do a step.

        Args:
            grads: one for each of ``params``, in its shape; may be overwritten.
        """
        ops, count = self._ops, len(self._offsets)
        self._offset_state = ops.sign_step(self._offsets, grads[:count], state=self._offset_state)
        self._factor_state = ops.sign_step(self._factors, grads[count:], state=self._factor_state)
        for factor in self._factors:
            factor.data.clamp_(0.0, self._most)

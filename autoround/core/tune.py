"""The tuning loop: signed gradient descent on the rounding of one block's weights.

Block-wise reconstruction (SignRound, arXiv 2309.05516, algorithm 1): offsets V and the range
factors α, β are moved so that the block's output matches the original's.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from autoround.core.late_losses import LateLosses, OnStep
from autoround.core.ops import Ops
from autoround.core.reconstruction import Hyperparameters, Reconstruction
from autoround.core.rtn import round_to_nearest
from autoround.core.step_recordings import StepRecordings
from autoround.core.tuning_step import TuningStep
from autoround.core.validation import (
    BestIterate,
    LateScores,
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
    recordings: StepRecordings | None = None,
) -> Tuned:
    """Minimise a block's output error over the rounding of its weights.

    With zero steps this is round-to-nearest on the given grids. The best iterate is chosen on
    samples that stay the same throughout: the loss of a step is of its own batch, and the least of
    many noisy numbers is mostly luck. On a device of its own the host queues steps and reads what
    they gave when it is there.

    Args:
        block: to reconstruct.
        hyperparameters: steps, learning rates and batches.
        ops: of the device that the block is on.
        dtype: that the block computes in.
        on_step: told of every step and its loss, on a device some steps late.
        recordings: of steps of the blocks before; None to record every block's.

    Returns:
        The best iterate, on the block's device, and its loss beside that of the start, which may
        still be on their way.
    """
    iterate = round_to_nearest(block.targets)
    validation = Validation(block, hyperparameters, ops=ops, dtype=dtype)
    before = validation.score(iterate)
    if not hyperparameters.iters:
        only = float(before)
        return Tuned(iterate, LateScores.known(only, only, 0))
    keep = torch.device("cpu") if hyperparameters.best_on_cpu else block.device
    late = keep.type != "cpu"  # a score is there at once on a CPU
    best = BestIterate(iterate, before, keep=keep, late=late)
    steps = TuningStep(block, iterate, hyperparameters, ops=ops, dtype=dtype, recordings=recordings)
    iterate = steps.iterate  # of a recording that is there already, with the same numbers
    scored = validation_steps(hyperparameters.iters, hyperparameters.num_validations)
    losses = LateLosses(on_step, block.hooks, uploads=steps.uploads)
    for step in range(1, hyperparameters.iters + 1):
        loss = steps.take(step)
        steps.prefetch()
        # Where a loss is read at once, the next batch is on its way before that.
        losses.add(step, loss)
        if step in scored:
            best.offer(step, iterate, validation.score(iterate))
    if not hyperparameters.best_on_cpu:
        # Its numbers come behind the last loss, so that there is work while that is waited for.
        tuned = best.result(block.hooks.download)
        losses.finish()
        steps.finish()
        return tuned
    losses.finish()
    steps.finish()
    # Room for the best iterate on the device, before it is brought back.
    del iterate, steps
    tuned = best.result()
    return replace(tuned, roundings=copy_roundings(tuned.roundings, block.device))

"""Whether a block is initialised at the nearest level or by GPTQ: the losses of both decide."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import NamedTuple

import torch

from autoround.core.ops import Ops
from autoround.core.reconstruction import Hyperparameters, Reconstruction
from autoround.core.rtn import Target, round_to_nearest
from autoround.core.validation import Validation
from autoround.session.session import Session
from autoround.settings import GPTQ, NEAREST, TuningSettings
from autoround.tuning.reconstruct import TunedWeights

#: Loss of the GPTQ initialisation, relative to that of the nearest level, below which a block is
#: initialised by GPTQ. In most blocks it is 0.69 to 0.99, and what many steps reach from the
#: nearest level is closer to the original on other tokens: GPTQ fits the layers to these. Blocks
#: that make massive activations are at 0.26 to 0.37: steps do not recover what the nearest level
#: is off, which costs far more than GPTQ where it was not needed.
FAR_LOWER = 0.55


class InitChoice(NamedTuple):
    """A block as it chose to be initialised.

    problem: with the targets so. hyperparameters: with the learning rates for that.
    init_rounding: ``nearest`` or ``gptq``; empty where there was no choice.
    """

    problem: Reconstruction
    hyperparameters: Hyperparameters
    init_rounding: str


def tune_as_chosen(
    session: Session,
    problem: Reconstruction,
    hyperparameters: Hyperparameters,
    *,
    tune: Callable[[Reconstruction, Hyperparameters], TunedWeights],
) -> TunedWeights:
    """Tune a block from the initialisation that it chooses.

    Where no step from the nearest level lowers its loss it is tuned from GPTQ's, too, and the lower
    of the two losses decides.

    Args:
        session: the pass.
        problem: the block; its targets have offsets where GPTQ made them.
        hyperparameters: for the GPTQ initialisation.
        tune: tunes a block.
    """
    choice = choose_init_rounding(
        problem,
        hyperparameters,
        settings=session.tuning,
        ops=session.runtime.ops,
        dtype=session.compute_dtype,
    )
    tuned = tune(choice.problem, choice.hyperparameters)
    if choice.init_rounding == NEAREST and not tuned.best_step:
        from_gptq = tune(problem, hyperparameters)
        if from_gptq.loss_after < tuned.loss_after:
            return replace(from_gptq, init_rounding=GPTQ)
    return replace(tuned, init_rounding=choice.init_rounding)


def choose_init_rounding(
    problem: Reconstruction,
    hyperparameters: Hyperparameters,
    *,
    settings: TuningSettings,
    ops: Ops,
    dtype: torch.dtype,
) -> InitChoice:
    """Choose how a block is initialised by the losses of both ways on its validation samples.

    Where blocks have no choice, or GPTQ made no offsets, all stays as it is.

    Args:
        problem: the block; its targets have offsets where GPTQ made them.
        hyperparameters: for the GPTQ initialisation.
        settings: of the pass.
        ops: of the device. dtype: that the block computes in.
    """
    offered = any(target.offsets is not None for target in problem.targets.values())
    if settings.nearest is None or not offered:
        return InitChoice(problem, hyperparameters, "")
    nearest = at_nearest(problem.targets)
    validation = Validation(problem, hyperparameters, ops=ops, dtype=dtype)
    starts = (problem.targets, nearest)
    losses = torch.stack([validation.score(round_to_nearest(start)) for start in starts])
    by_gptq, by_nearest = losses.tolist()  # the one time that a device is waited for
    # Where one is not finite this is false; the block's own loss tells.
    if by_gptq < FAR_LOWER * by_nearest:
        return InitChoice(problem, hyperparameters, GPTQ)
    lr, minmax_lr = settings.nearest.lr, settings.nearest.minmax_lr
    return InitChoice(
        problem._replace(targets=nearest),
        hyperparameters._replace(lr=lr, minmax_lr=minmax_lr),
        NEAREST,
    )


def at_nearest(targets: Mapping[str, Target]) -> dict[str, Target]:
    """Return targets without their initial offsets."""
    return {name: target._replace(offsets=None) for name, target in targets.items()}

"""Tune and quantize some weights together: the one way for blocks and for the lm-head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from autoround.core.late_losses import OnStep
from autoround.core.reconstruction import Hyperparameters, Reconstruction
from autoround.core.rtn import Target, round_to_nearest
from autoround.core.step_recordings import StepRecordings
from autoround.core.tune import tune
from autoround.core.validation import (
    LateScores,
    ReadLosses,
    Scores,
    Tuned,
    validation_loss,
)
from autoround.errors import AutoRoundError
from autoround.session.block_output import QuantizedWeight
from autoround.session.session import Session
from autoround.settings import TuningSettings
from autoround.tuning.experts import reset_undertrained
from autoround.tuning.targets import quantize_targets
from autoround.types import LayerPlan


@dataclass(frozen=True, slots=True)
class TunedWeights(ReadLosses):
    """Quantized weights by layer, and losses on the validation samples; NaN where none was taken.

    scores: read when they are asked for, which fails where a loss is not finite. init_rounding: as
    the block chose it; empty where it had no choice.
    """

    weights: dict[str, QuantizedWeight]
    scores: LateScores
    init_rounding: str = ""


def hyperparameters_for(settings: TuningSettings, unit: int) -> Hyperparameters:
    """Return the plain numbers that tune one unit of a run.

    Args:
        settings: of the pass.
        unit: number of the unit, which its random draws are seeded with.
    """
    return Hyperparameters(
        iters=settings.iters,
        lr=settings.default.lr,
        minmax_lr=settings.minmax_lr,
        batch_size=settings.batch_size,
        grad_accum_steps=settings.grad_accum_steps,
        num_validations=settings.num_validations,
        validation_samples=settings.validation_samples,
        # A searched range may be too narrow as well as too wide; a min-max one only too wide.
        max_minmax_scale=2.0 if settings.init_scale == "search" else 1.0,
        seed=settings.seed + unit,
        micro_batch=1 if settings.low_memory else 0,
        best_on_cpu=settings.low_memory,
        own_lrs={name: (layer.lr, layer.minmax_lr) for name, layer in settings.layers},
    )


def round_weights(
    session: Session, layers: Sequence[LayerPlan], targets: Mapping[str, Target]
) -> TunedWeights:
    """Quantize weights as their rounding is initialised, without tuning.

    Args:
        session: the pass.
        layers: whose weights.
        targets: grouped weights with their grids, by layer.
    """
    nan = float("nan")
    start = Tuned(round_to_nearest(targets), LateScores.known(nan, nan, 0))
    return TunedWeights(_quantize(session, layers, targets, start), start.scores)


def tune_weights(
    session: Session,
    layers: Sequence[LayerPlan],
    problem: Reconstruction,
    *,
    hyperparameters: Hyperparameters,
    undertrained: Mapping[str, Tensor] | None = None,
    on_step: OnStep | None = None,
    recordings: StepRecordings | None = None,
) -> TunedWeights:
    """Tune the rounding of weights that are used together, and quantize them.

    Args:
        session: the pass.
        layers: whose weights.
        problem: the function they are weights of, what to round, and what outputs to match.
        hyperparameters: plain numbers.
        undertrained: bool [experts] by layer, experts that saw too few tokens to be tuned.
        on_step: told of every step. recordings: of steps of the blocks before.

    Returns:
        The weights; asking for their losses raises an AutoRoundError where one is not finite.
    """
    ops, dtype = session.runtime.ops, session.compute_dtype
    tuned = tune(
        problem, hyperparameters, ops=ops, dtype=dtype, on_step=on_step, recordings=recordings
    )
    if undertrained and hyperparameters.iters:
        tuned = _with_reset_experts(session, problem, hyperparameters, tuned, undertrained)
    # Not the roundings: they are larger than what is made of them.
    scores = tuned.scores
    weights = _quantize(session, layers, problem.targets, tuned)
    return TunedWeights(weights, LateScores(lambda: _read_scores(layers, scores)))


def _read_scores(layers: Sequence[LayerPlan], scores: LateScores) -> Scores:
    """Return the losses of some layers, if they are numbers."""
    before = scores.values.before
    if not before < float("inf"):
        block = layers[0].block
        where = f"block {block}" if block else f"layer {layers[0].name}"
        raise AutoRoundError(
            f"{where}: its loss is {before} before tuning; the model overflows in this dtype: set "
            "tuning.compute_dtype=float32"
        )
    return scores.values


def _with_reset_experts(
    session: Session,
    problem: Reconstruction,
    hyperparameters: Hyperparameters,
    tuned: Tuned,
    undertrained: Mapping[str, Tensor],
) -> Tuned:
    """Give undertrained experts their initial rounding back, unless that costs the block more."""
    roundings = reset_undertrained(tuned.roundings, undertrained)
    after = validation_loss(
        problem,
        roundings,
        hyperparameters=hyperparameters,
        ops=session.runtime.ops,
        dtype=session.compute_dtype,
    )
    if not after <= tuned.loss_before:
        # The other weights were tuned beside these experts as they were then: without them they
        # are worse than where all of them started.
        start = round_to_nearest(problem.targets)
        return Tuned(start, LateScores.known(tuned.loss_before, tuned.loss_before, 0))
    return Tuned(roundings, LateScores.known(tuned.loss_before, after, tuned.best_step))


def _quantize(
    session: Session, layers: Sequence[LayerPlan], targets: Mapping[str, Target], tuned: Tuned
) -> dict[str, QuantizedWeight]:
    return quantize_targets(layers, targets, tuned.roundings, ops=session.runtime.ops)

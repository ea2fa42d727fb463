"""Fraction of a block's quantization loss that a short tuning run does not remove.

Tuning takes far more off the loss of 2 bits than off that of 4, and more in some blocks than in
others. The block is tuned for a few steps with all its layers in one option; the effect of its
output error on the loss then, over the one before, is the fraction that remains.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from autoround.core.batches import Samples
from autoround.core.reconstruction import Hyperparameters, Reconstruction, rounded_weights
from autoround.core.rounding import Rounding
from autoround.core.rtn import Target, round_to_nearest
from autoround.core.sensitivity import squared_effects
from autoround.core.tune import tune
from autoround.mixed_precision.fisher_pass import FisherPass
from autoround.session.loaded_block import LoadedBlock
from autoround.session.session import Session
from autoround.tuning.reconstruct import hyperparameters_for


def remaining_loss_fraction(
    fisher: FisherPass,
    block: LoadedBlock,
    targets: Mapping[str, Target],
    *,
    grads: Tensor,
    iters: int,
) -> float:
    """Tune a block for a few steps; returns its loss after, over the one before.

    Args:
        fisher: block inputs and outputs of the full-precision model.
        block: the block.
        targets: its grouped weights in one option, by layer.
        grads: [n, seq, hidden], sampled gradients for its outputs.
        iters: tuning steps.
    """
    session, index = fisher.session, block.plan.index
    tokens = session.tokens
    mask = tokens.mask if tokens is not None and tokens.padded else None

    def forward(weights: Mapping[str, Tensor], hidden: Tensor, rows: Tensor | None) -> Tensor:
        return block.forward(hidden, rows, weights=weights)

    samples = Samples(fisher.block_inputs[index], fisher.block_inputs[index + 1], mask)
    tuned = tune(
        Reconstruction(forward, targets, samples),
        _hyperparameters(session, index, iters),
        ops=session.runtime.ops,
        dtype=session.compute_dtype,
        on_step=lambda step, loss: fisher.release_pages(),
    )
    before = _effect(fisher, block, targets, round_to_nearest(targets), grads)
    after = _effect(fisher, block, targets, tuned.roundings, grads)
    return min(1.0, after / before) if before > 0 else 1.0


def _hyperparameters(session: Session, index: int, iters: int) -> Hyperparameters:
    """Return those of a run of so few steps: offsets may still travel a whole level."""
    plain = hyperparameters_for(session.tuning, index)
    minmax = 1.0 / iters if session.tuning.tune_minmax else 0.0
    return plain._replace(
        iters=iters, lr=1.0 / iters, minmax_lr=minmax, grad_accum_steps=1, num_validations=2
    )


@torch.no_grad()
def _effect(
    fisher: FisherPass,
    block: LoadedBlock,
    targets: Mapping[str, Target],
    roundings: Mapping[str, Rounding],
    grads: Tensor,
) -> float:
    """Return the squared effects of a block's output error on the loss, summed over tokens."""
    session, index = fisher.session, block.plan.index
    weights = rounded_weights(
        targets, roundings, ops=session.runtime.ops, dtype=session.compute_dtype
    )
    total = 0.0
    for rows in fisher.batches():
        hidden = fisher.block_inputs[index][rows].to(session.runtime.device)
        original = fisher.block_inputs[index + 1][rows].to(session.runtime.device)
        change = block.forward(hidden, rows, weights=weights) - original
        total += squared_effects(grads[rows].to(change.device), change)
        fisher.release_pages()
    return total

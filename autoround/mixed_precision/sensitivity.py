"""The predicted loss of each layer in each of its options, block by block.

The full-precision stream goes forward once. A label is sampled at every position, and its gradient
goes back through the blocks; on the way each layer is rounded to each option, by searched scales,
and ``core.sensitivity`` tells what that does to the loss.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from autoround.core.reconstruction import rounded_weights
from autoround.core.rtn import Target, round_to_nearest
from autoround.events import Scored, StageStarted
from autoround.mixed_precision.fisher_pass import (
    FisherPass,
    forward_original,
    open_block,
    open_fisher_pass,
    sampled_gradients,
)
from autoround.mixed_precision.lm_head import head_losses
from autoround.mixed_precision.perturbation import Perturbation, ScoredModule, accumulate_effects
from autoround.mixed_precision.tuning_gain import remaining_loss_fraction
from autoround.model.stacked_experts import as_matrix
from autoround.session.loaded_block import LoadedBlock
from autoround.session.session import Session
from autoround.tuning.targets import make_target
from autoround.types import Scheme

#: The loss of every module in each of its options, in nats per token; NaN where it saw no token.
Losses = dict[str, dict[Scheme, float]]


def layer_losses(
    session: Session,
    modules: Sequence[Sequence[ScoredModule]],
    *,
    head: ScoredModule | None = None,
    tuned_steps: int = 0,
    folder: Path | None = None,
) -> Losses:
    """Score the modules of every block in each of their options, and the head.

    Args:
        session: the pass; it has tokens.
        modules: of each block of the plan.
        head: the lm-head, if it takes part.
        tuned_steps: steps of the short tuning run whose gain is counted in; 0 for none.
        folder: for activations that do not fit the memory.
    """
    losses: Losses = {}
    with open_fisher_pass(session, folder) as fisher:
        session.sink(StageStarted("score", f"{len(modules)} blocks, {fisher.num_tokens} tokens"))
        forward_original(fisher)
        if head is not None:
            losses[head.name] = head_losses(fisher, head)
        grads = sampled_gradients(fisher)
        for index in reversed(range(len(session.plan.blocks))):
            losses.update(_score_block(fisher, index, modules[index], grads, tuned_steps))
            session.sink(Scored(index, len(session.plan.blocks)))
            session.runtime.release()
    order = [module for of_block in modules for module in of_block]
    return {module.name: losses[module.name] for module in (*order, *([head] if head else []))}


def _score_block(
    fisher: FisherPass,
    index: int,
    modules: Sequence[ScoredModule],
    grads: Tensor,
    tuned_steps: int,
) -> Losses:
    """Score the modules of one block.

    Args:
        fisher: the pass.
        index: of the block.
        modules: what to score.
        grads: [n, seq, hidden] for the block's outputs; become those for its inputs, in place.
        tuned_steps: of the short tuning run; 0 for none.
    """
    block = open_block(fisher, index)
    perturbations: list[Perturbation] = []
    remaining: dict[Scheme, float] = {}
    for scheme in dict.fromkeys(option for module in modules for option in module.options):
        # No more than one option's targets are in memory.
        targets = {
            module: _targets(fisher, block, module, scheme)
            for module in modules
            if scheme in module.options
        }
        remaining[scheme] = 1.0
        if tuned_steps and fisher.runner.runs(index):
            of_block = {name: t for of_module in targets.values() for name, t in of_module.items()}
            remaining[scheme] = remaining_loss_fraction(
                fisher, block, of_block, grads=grads, iters=tuned_steps
            )
        perturbations += _round(fisher.session, targets, scheme)
    _backward(fisher, block, perturbations, grads)
    losses: Losses = {module.name: {} for module in modules}
    for one in perturbations:
        loss = one.total / (2 * fisher.num_tokens) if one.calls else float("nan")
        losses[one.module.name][one.scheme] = loss * remaining[one.scheme]
    return losses


def _backward(
    fisher: FisherPass, block: LoadedBlock, perturbations: Sequence[Perturbation], grads: Tensor
) -> None:
    """Go back through a block, accumulating what its perturbations do."""
    device, index = fisher.session.runtime.device, block.plan.index
    module = fisher.session.skeleton.model.get_submodule(block.plan.name)
    with accumulate_effects(module, perturbations, tensors=block.tensors):
        for rows in fisher.batches():
            hidden = fisher.block_inputs[index][rows].to(device).requires_grad_()
            out = block.forward(hidden, rows)
            grads[rows] = torch.autograd.grad(out, hidden, grads[rows].to(device))[0].to("cpu")
            fisher.release_pages()


def _targets(
    fisher: FisherPass, block: LoadedBlock, module: ScoredModule, scheme: Scheme
) -> dict[str, Target]:
    """Group the weights of a module and search their scales."""
    importance = fisher.importance[block.plan.index]
    return {
        layer.name: make_target(
            fisher.session,
            replace(layer, scheme=scheme),
            as_matrix(layer, block.tensors[layer.param]).float(),
            importance.get(layer.path),
        )
        for layer in module.layers
    }


def _round(
    session: Session, targets: Mapping[ScoredModule, Mapping[str, Target]], scheme: Scheme
) -> Iterator[Perturbation]:
    """Round modules to an option."""
    ops, dtype = session.runtime.ops, session.compute_dtype
    for module, of_module in targets.items():
        rounded = rounded_weights(of_module, round_to_nearest(of_module), ops=ops, dtype=dtype)
        yield Perturbation(module, scheme, rounded)

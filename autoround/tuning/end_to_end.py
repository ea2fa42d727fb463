"""After the last block: scales of the whole model tuned on the KL divergence of its logits.

Codes of all blocks stay in memory, one byte a weight, or packed in the store where that is too
much; where codes may move, they stay in memory with two bytes more. The teacher's logits need no
second run of the original: its last block's outputs are what a full-precision stream holds at the
end, that of the calibration's samples or of fresh ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from autoround.core import end_to_end as core
from autoround.core.batches import batches
from autoround.events import EndToEndStep
from autoround.model.runner import BlockRunner
from autoround.session.block_output import BlockOutput, QuantizedWeight
from autoround.session.loaded_block import load_block
from autoround.session.session import Session
from autoround.tuning.end_to_end_state import StateKeeper
from autoround.tuning.end_to_end_step import (
    OpenedBlock,
    TunedBlock,
    WholeModel,
    gradients,
    validation_loss,
)
from autoround.types import BlockPlan, QuantizedTensor


def tune_end_to_end(
    session: Session, runner: BlockRunner, finished: Sequence[BlockOutput], *, teacher: Tensor
) -> Iterator[BlockOutput]:
    """Tune scales, and codes if the plan says so, of all blocks together.

    Blocks come back as they were where those that were tuned are no better on validation samples,
    and early where a fifth of the steps shows that they will not be. With a store, a stage that was
    interrupted goes on from its last saved state.

    Args:
        session: the pass; it has tokens.
        runner: runs its blocks.
        finished: the outputs of all blocks.
        teacher: [n, seq, hidden], outputs of the original's last block; of the fresh samples where
            the pass has any.

    Yields:
        The blocks in their order.
    """
    whole = _open_whole(session, runner, finished, teacher)
    before, after = _tune(whole)
    for output, block in zip(finished, whole.blocks, strict=True):
        yield _with_tuned_scales(output, block) if after < before else output


def _open_whole(
    session: Session, runner: BlockRunner, finished: Sequence[BlockOutput], teacher: Tensor
) -> WholeModel:
    """Open all blocks, and choose the samples: those that this stage has to itself, if any."""
    assert session.tokens is not None
    fresh, first = session.fresh_tokens, len(session.tokens.ids)
    blocks = _open_blocks(session, runner, finished)
    outer = runner.outer()
    if fresh is None:
        return WholeModel(session, runner, outer, blocks, session.tokens, teacher)
    return WholeModel(session, runner, outer, blocks, fresh, teacher, first)


def _split_samples(session: Session, count: int) -> tuple[Tensor, Tensor]:
    """Return the numbers of the samples to train on, and of those to validate on.

    Few samples of the calibration do both; fresh ones never.
    """
    order = torch.randperm(count, generator=torch.Generator().manual_seed(session.tuning.seed))
    if session.fresh_tokens is not None:
        held_out = min(core.VALIDATION_SAMPLES, count // 2)
    elif count >= 2 * core.VALIDATION_SAMPLES:
        held_out = core.VALIDATION_SAMPLES
    else:
        return order, order
    return order[held_out:], order[:held_out]


def _tune(whole: WholeModel) -> tuple[float, float]:
    """Take the steps; returns the validation losses before them and after the last one."""
    session, blocks = whole.session, whole.blocks
    settings = session.tuning.end_to_end
    training, validation = _split_samples(session, len(whole.tokens.ids))
    params, lrs = _parameters(session, blocks)
    state = core.init(params, lrs=lrs, steps=settings.steps)
    keeper = StateKeeper(session, {"factor": params, **_moving_codes(blocks)})
    state, losses = keeper.restore(state)
    before = losses.get("before") or validation_loss(whole, validation)
    after = losses.get("after")
    loader = batches(len(training), settings.batch_size, seed=session.tuning.seed)
    # Batches that an interrupted stage has seen are drawn again, so that the next ones are equal.
    for _ in range(state.step):
        next(loader)
    while after is None and state.step < settings.steps:
        if state.step == core.trial_steps(settings.steps):
            loss = validation_loss(whole, validation)
            if core.is_hopeless(loss, before=before):
                after = loss
                break
        units = core.votes_at(state.step, steps=settings.steps)
        loss, grads = gradients(whole, training[next(loader)], units=units)
        state = core.step(params, grads, state=state)
        keeper.keep(state, before=before)
        session.sink(EndToEndStep(state.step, settings.steps, loss))
    if after is None:
        after = validation_loss(whole, validation)
    keeper.keep(state, before=before, after=after)
    session.sink(EndToEndStep(state.step, settings.steps, after, before))
    return before, after


def _parameters(session: Session, blocks: Sequence[TunedBlock]) -> tuple[list[Tensor], list[float]]:
    """Return what is learned, block by block, and the peak learning rate of each tensor."""
    layers = [layer for block in session.plan.blocks for layer in block.quantized]
    bits = {layer.name: layer.scheme.bits for layer in layers if layer.scheme is not None}
    named = [(name, factor) for block in blocks for name, factor in block.factors.items()]
    lrs = [session.tuning.end_to_end.lr(bits[name]) for name, _ in named]
    return [factor for _, factor in named], lrs


def _moving_codes(blocks: Sequence[TunedBlock]) -> dict[str, list[Tensor]]:
    """Return what changes in place beside the factors, where codes may move."""
    moving = [block for block in blocks if block.votes is not None]
    return {
        "codes": [layer.codes for block in moving for layer in block.open().layers.values()],
        "votes": [votes for block in moving for votes in (block.votes or {}).values()],
    }


def _open_blocks(
    session: Session, runner: BlockRunner, finished: Sequence[BlockOutput]
) -> list[TunedBlock]:
    """Open all blocks; their tensors stay in memory where the plan has room for them."""
    blocks = []
    for plan in session.plan.blocks:
        read = partial(_read_finished, session, runner, finished, plan)
        opened = read()
        factors = {name: core.unit_factors(layer) for name, layer in opened.layers.items()}
        votes = None
        if session.tuning.end_to_end.tune_codes:
            # The codes of before are needed again if these turn out no better.
            layers = {
                name: replace(layer, codes=layer.codes.clone())
                for name, layer in opened.layers.items()
            }
            opened = opened._replace(layers=layers)
            votes = {n: torch.zeros_like(x.codes, dtype=torch.int8) for n, x in layers.items()}
        on_disk = session.placement.codes_on_disk and votes is None
        blocks.append(TunedBlock(plan, factors, votes, None if on_disk else opened, read))
    return blocks


def _read_finished(
    session: Session, runner: BlockRunner, finished: Sequence[BlockOutput], plan: BlockPlan
) -> OpenedBlock:
    """Bring a finished block to the device."""
    output = finished[plan.index]
    layers = {
        name: _on(weight, session.runtime.device)
        for name, weight in output.layers.items()
        if isinstance(weight, QuantizedTensor)
    }
    return OpenedBlock(load_block(session, runner, plan, plan.by_param(output.kept)), layers)


def _on(layer: QuantizedTensor, device: torch.device) -> QuantizedTensor:
    parts = (layer.codes.to(device), layer.scale.to(device), layer.zero.to(device))
    return QuantizedTensor(*parts, layer.scheme)


def _with_tuned_scales(output: BlockOutput, block: TunedBlock) -> BlockOutput:
    """Put what was learned of a block into its output, on the CPU."""
    layers = {
        name: core.with_factors(layer, block.factors[name])
        for name, layer in block.open().layers.items()
    }
    cpu = torch.device("cpu")
    on_host: dict[str, QuantizedWeight] = {name: _on(layer, cpu) for name, layer in layers.items()}
    # What was packed for the record is as it was before.
    return replace(output, layers=on_host, packed={})

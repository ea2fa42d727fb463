"""After the last block: scales of the whole model tuned on the KL divergence of its logits.

Blocks run one after the other, forward and then backward with their inputs kept, so that no
more than one block's weights are unpacked at a time; codes of all blocks stay in memory, one
byte a weight, or packed in the store where that is too much; where codes may move, they stay in
memory with two bytes more. The teacher's logits need no second run of the original: its last
block's outputs are what the full-precision stream holds at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from autoround.core import end_to_end as core
from autoround.core.batches import batches
from autoround.events import EndToEndStep
from autoround.model.runner import BlockRunner
from autoround.session.block_output import BlockOutput, QuantizedWeight
from autoround.session.loaded_block import LoadedBlock, load_block
from autoround.session.session import POSITION_CHUNK, Session
from autoround.tuning.end_to_end_state import StateKeeper
from autoround.types import BlockPlan, QuantizedTensor

#: Samples held out for validation, when there are at least twice as many.
VALIDATION_SAMPLES = 8


class _Opened(NamedTuple):
    """The parts of a finished block that a step runs: unquantized tensors, and layers by name."""

    block: LoadedBlock
    layers: dict[str, QuantizedTensor]


class _TunedBlock(NamedTuple):
    """One block as end-to-end tuning sees it.

    plan: of the block. factors: what is learned of each layer's scales, float32 [rows, groups, 1].
    votes: accumulated sign votes, int8 [out, in] by layer; None where codes stay. opened: the
    block's tensors; None where they are read whenever they are needed. read: reads them.
    """

    plan: BlockPlan
    factors: dict[str, Tensor]
    votes: dict[str, Tensor] | None
    opened: _Opened | None
    read: Callable[[], _Opened]

    def open(self) -> _Opened:
        """Return the block with its tensors in memory."""
        return self.read() if self.opened is None else self.opened


class _EndToEnd(NamedTuple):
    """What all steps share.

    outer: tensors outside the blocks. teacher: [n, seq, hidden], outputs of the original's last
    block.
    """

    session: Session
    runner: BlockRunner
    outer: Mapping[str, Tensor]
    blocks: Sequence[_TunedBlock]
    teacher: Tensor


def tune_end_to_end(
    session: Session, runner: BlockRunner, finished: Sequence[BlockOutput], *, teacher: Tensor
) -> Iterator[BlockOutput]:
    """Tune scales, and codes if the plan says so, of all blocks together.

    Blocks come back as they were where those that were tuned are no better on validation samples.
    With a store, a stage that was interrupted goes on from its last saved state.

    Args:
        session: the pass; it has tokens.
        runner: runs its blocks.
        finished: the outputs of all blocks.
        teacher: [n, seq, hidden], outputs of the original's last block.

    Yields:
        The blocks in their order.
    """
    assert session.tokens is not None
    settings = session.tuning.end_to_end
    blocks = _open_blocks(session, runner, finished)
    whole = _EndToEnd(session, runner, runner.outer(), blocks, teacher)
    count = len(session.tokens.ids)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(session.tuning.seed))
    enough = count >= 2 * VALIDATION_SAMPLES
    validation = order[:VALIDATION_SAMPLES] if enough else order
    training = order[VALIDATION_SAMPLES:] if enough else order
    params, lrs = _parameters(session, blocks)
    state = core.init(params, lrs=lrs, steps=settings.steps)
    keeper = StateKeeper(session, {"factor": params, **_moving_codes(blocks)})
    state, losses = keeper.restore(state)
    before = losses.get("before") or _validation_loss(whole, validation)
    loader = batches(len(training), settings.batch_size, seed=session.tuning.seed)
    # Batches that an interrupted stage has seen are drawn again, so that the next ones are equal.
    for _ in range(state.step):
        next(loader)
    for number in range(state.step + 1, settings.steps + 1):
        units = core.votes_at(number - 1, steps=settings.steps)
        loss, grads = _gradients(whole, training[next(loader)], units=units)
        state = core.step(params, grads, state=state)
        keeper.keep(state, before=before)
        session.sink(EndToEndStep(number, settings.steps, loss))
    after = losses.get("after") or _validation_loss(whole, validation)
    keeper.keep(state, before=before, after=after)
    session.sink(EndToEndStep(settings.steps, settings.steps, after, before))
    for output, block in zip(finished, blocks, strict=True):
        yield _with_tuned_scales(output, block) if after < before else output


def _parameters(
    session: Session, blocks: Sequence[_TunedBlock]
) -> tuple[list[Tensor], list[float]]:
    """Return what is learned, block by block, and the peak learning rate of each tensor."""
    layers = [layer for block in session.plan.blocks for layer in block.quantized]
    bits = {layer.name: layer.scheme.bits for layer in layers if layer.scheme is not None}
    named = [(name, factor) for block in blocks for name, factor in block.factors.items()]
    lrs = [session.tuning.end_to_end.lr(bits[name]) for name, _ in named]
    return [factor for _, factor in named], lrs


def _moving_codes(blocks: Sequence[_TunedBlock]) -> dict[str, list[Tensor]]:
    """Return what changes in place beside the factors, where codes may move."""
    moving = [block for block in blocks if block.votes is not None]
    return {
        "codes": [layer.codes for block in moving for layer in block.open().layers.values()],
        "votes": [votes for block in moving for votes in (block.votes or {}).values()],
    }


def _open_blocks(
    session: Session, runner: BlockRunner, finished: Sequence[BlockOutput]
) -> list[_TunedBlock]:
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
        blocks.append(_TunedBlock(plan, factors, votes, None if on_disk else opened, read))
    return blocks


def _read_finished(
    session: Session, runner: BlockRunner, finished: Sequence[BlockOutput], plan: BlockPlan
) -> _Opened:
    """Bring a finished block to the device."""
    output = finished[plan.index]
    layers = {
        name: _on(weight, session.runtime.device)
        for name, weight in output.layers.items()
        if isinstance(weight, QuantizedTensor)
    }
    return _Opened(load_block(session, runner, plan, plan.by_param(output.kept)), layers)


def _on(layer: QuantizedTensor, device: torch.device) -> QuantizedTensor:
    parts = (layer.codes.to(device), layer.scale.to(device), layer.zero.to(device))
    return QuantizedTensor(*parts, layer.scheme)


def _with_tuned_scales(output: BlockOutput, block: _TunedBlock) -> BlockOutput:
    """Put what was learned of a block into its output, on the CPU."""
    layers = {
        name: core.with_factors(layer, block.factors[name])
        for name, layer in block.open().layers.items()
    }
    cpu = torch.device("cpu")
    on_host: dict[str, QuantizedWeight] = {name: _on(layer, cpu) for name, layer in layers.items()}
    # What was packed for the record is as it was before.
    return replace(output, layers=on_host, packed={})


def _unpack(whole: _EndToEnd, block: _TunedBlock, opened: _Opened) -> dict[str, Tensor]:
    """Dequantize a block's weights with the factors as they are: [out, in] by layer."""
    dtype, ops = whole.session.compute_dtype, whole.session.runtime.ops
    return {
        name: ops.scaled_weight(layer, block.factors[name], dtype=dtype)
        for name, layer in opened.layers.items()
    }


@torch.no_grad()
def _forward(whole: _EndToEnd, rows: Tensor) -> Tensor:
    """Run samples through all blocks; returns the outputs of the last one."""
    hidden = _embed(whole, rows)
    for block in whole.blocks:
        opened = block.open()
        weights = _unpack(whole, block, opened)
        hidden = opened.block.forward(hidden, rows, weights=weights, compiled=True)
    return hidden


@torch.no_grad()
def _embed(whole: _EndToEnd, rows: Tensor) -> Tensor:
    assert whole.session.tokens is not None
    tokens = whole.session.tokens
    media = [tokens.media[int(row)] for row in rows] if tokens.media else []
    return whole.runner.embed(tokens.ids[rows], media)


class _BlockRun(NamedTuple):
    """One run of a block in a step, with the graph from its inputs and weights to its outputs.

    inputs, outputs: [batch, seq, hidden]. weights: [out, in] by layer.
    """

    inputs: Tensor
    weights: dict[str, Tensor]
    outputs: Tensor


def _run_with_graph(
    whole: _EndToEnd, block: _TunedBlock, opened: _Opened, hidden: Tensor, rows: Tensor
) -> _BlockRun:
    unpacked = _unpack(whole, block, opened)
    weights = {name: weight.requires_grad_() for name, weight in unpacked.items()}
    inputs = hidden.detach().requires_grad_()
    outputs = opened.block.forward(inputs, rows, weights=weights, compiled=True)
    return _BlockRun(inputs, weights, outputs)


def _gradients(whole: _EndToEnd, rows: Tensor, *, units: int) -> tuple[float, list[Tensor]]:
    """Return the mean divergence of a batch and its gradient for every factor.

    Blocks run again for their gradients where the graphs of all of them are too much to hold. Both
    ways compute the same, so a resumed run may go on in the other.

    Args:
        whole: the model.
        rows: int64 [batch], the samples.
        units: weight of one sign vote. Codes that may move take their votes on the way, block by
            block: no later gradient of this batch needs them.

    Returns:
        Nats per token, and gradients in the order of the blocks and their layers.
    """
    hidden = _embed(whole, rows)
    passed: list[_BlockRun | Tensor] = []
    for block in whole.blocks:
        run = _run_with_graph(whole, block, block.open(), hidden, rows)
        passed.append(run if whole.session.placement.graphs_held else hidden)
        hidden = run.outputs.detach()
        # Where the graph is not held, this frees it.
        del run
    loss, grad = _divergence(whole, hidden, rows, backward=True)
    gradients: list[Tensor] = []
    for block in reversed(whole.blocks):
        opened, last = block.open(), passed.pop()
        run = (
            last
            if isinstance(last, _BlockRun)
            else _run_with_graph(whole, block, opened, last, rows)
        )
        grad, of_block = _backward(whole, block, opened, (run, grad), units=units)
        gradients = [*of_block, *gradients]
        del last, run
    return loss, gradients


def _backward(
    whole: _EndToEnd,
    block: _TunedBlock,
    opened: _Opened,
    upstream: tuple[_BlockRun, Tensor],
    *,
    units: int,
) -> tuple[Tensor, list[Tensor]]:
    """Return the gradients for a block's inputs, and for its factors; its codes may move.

    Args:
        whole: the model.
        block: whose factors.
        opened: its tensors.
        upstream: the block's run, and the gradient for its outputs.
        units: weight of one sign vote.
    """
    run, grad = upstream
    inputs = [run.inputs, *run.weights.values()]
    # A weight that no token of this batch reached has gradient zero.
    grads = torch.autograd.grad(
        run.outputs, inputs, grad, allow_unused=True, materialize_grads=True
    )
    ops, of_factors = whole.session.runtime.ops, []
    for (name, layer), of_weight in zip(opened.layers.items(), grads[1:], strict=True):
        votes = None if block.votes is None else core.SignVotes(block.votes[name], units)
        of_factors.append(ops.scale_gradient(layer, of_weight, votes))
    return grads[0], of_factors


def _divergence(
    whole: _EndToEnd, hidden: Tensor, rows: Tensor, *, backward: bool
) -> tuple[float, Tensor]:
    """Return the mean KL divergence of the logits, and its gradient for the last block's outputs.

    Args:
        whole: the model.
        hidden: [batch, seq, hidden], outputs of the last block.
        rows: int64 [batch], the samples.
        backward: whether the gradient is wanted.
    """
    session = whole.session
    assert session.tokens is not None
    mask = session.tokens.mask[rows].to(hidden.device)
    count = max(int(mask.sum()), 1)
    teacher = whole.teacher[rows].to(hidden.device)
    grad = torch.zeros_like(hidden)
    total = 0.0
    for row in range(len(hidden)):
        for start in range(0, hidden.shape[1], POSITION_CHUNK):
            part = slice(start, start + POSITION_CHUNK)
            real = mask[row, part]
            with torch.no_grad():
                wanted = whole.runner.head(whole.outer, teacher[row : row + 1, part])[0]
            outputs = hidden[row : row + 1, part].detach().requires_grad_(backward)
            with torch.set_grad_enabled(backward):
                logits = whole.runner.head(whole.outer, outputs)[0]
            if not bool(real.all()):
                logits, wanted = logits[real], wanted[real]
            loss, of_logits = session.runtime.ops.divergence(logits.detach(), wanted)
            total += loss / count
            if backward and bool(real.any()):
                grad[row : row + 1, part] = torch.autograd.grad(logits, outputs, of_logits / count)[
                    0
                ]
    return total, grad


def _validation_loss(whole: _EndToEnd, rows: Tensor) -> float:
    """Return the mean divergence over samples, a batch at a time."""
    total = 0.0
    for part in rows.split(whole.session.tuning.end_to_end.batch_size):
        hidden = _forward(whole, part)
        total += _divergence(whole, hidden, part, backward=False)[0] * len(part)
    return total / len(rows)

"""One step of end-to-end tuning: the divergence of a batch, and its gradients block by block.

Blocks run one after the other, forward and then backward with their inputs kept, so that no
more than one block's weights are unpacked at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from autoround.core import end_to_end as core
from autoround.data.tokens import Tokens
from autoround.model.runner import BlockRunner
from autoround.session.loaded_block import LoadedBlock
from autoround.session.session import POSITION_CHUNK, Session
from autoround.types import BlockPlan, QuantizedTensor


class OpenedBlock(NamedTuple):
    """The parts of a finished block that a step runs: unquantized tensors, and layers by name."""

    block: LoadedBlock
    layers: dict[str, QuantizedTensor]


class TunedBlock(NamedTuple):
    """One block as end-to-end tuning sees it.

    plan: of the block. factors: what is learned of each layer's scales, float32 [rows, groups, 1].
    votes: accumulated sign votes, int8 [out, in] by layer; None where codes stay. opened: the
    block's tensors; None where they are read whenever they are needed. read: reads them.
    """

    plan: BlockPlan
    factors: dict[str, Tensor]
    votes: dict[str, Tensor] | None
    opened: OpenedBlock | None
    read: Callable[[], OpenedBlock]

    def open(self) -> OpenedBlock:
        """Return the block with its tensors in memory."""
        return self.read() if self.opened is None else self.opened


class WholeModel(NamedTuple):
    """What all steps share.

    outer: tensors outside the blocks. tokens: the samples, n of them. teacher: [n, seq, hidden],
    outputs of the original's last block. first_row: the runner's number of the first sample.
    """

    session: Session
    runner: BlockRunner
    outer: Mapping[str, Tensor]
    blocks: Sequence[TunedBlock]
    tokens: Tokens
    teacher: Tensor
    first_row: int = 0


def _unpack(whole: WholeModel, block: TunedBlock, opened: OpenedBlock) -> dict[str, Tensor]:
    """Dequantize a block's weights with the factors as they are: [out, in] by layer."""
    dtype, ops = whole.session.compute_dtype, whole.session.runtime.ops
    return {
        name: ops.scaled_weight(layer, block.factors[name], dtype=dtype)
        for name, layer in opened.layers.items()
    }


@torch.no_grad()
def _forward(whole: WholeModel, rows: Tensor) -> Tensor:
    """Run samples through all blocks; returns the outputs of the last one."""
    hidden = _embed(whole, rows)
    for block in whole.blocks:
        opened = block.open()
        weights = _unpack(whole, block, opened)
        hidden = opened.block.forward(
            hidden, rows + whole.first_row, weights=weights, compiled=True
        )
    return hidden


@torch.no_grad()
def _embed(whole: WholeModel, rows: Tensor) -> Tensor:
    tokens = whole.tokens
    media = [tokens.media[int(row)] for row in rows] if tokens.media else []
    return whole.runner.embed(tokens.ids[rows], media)


class BlockRun(NamedTuple):
    """One run of a block in a step, with the graph from its inputs and weights to its outputs.

    inputs, outputs: [batch, seq, hidden]. weights: [out, in] by layer.
    """

    inputs: Tensor
    weights: dict[str, Tensor]
    outputs: Tensor


def run_block(
    whole: WholeModel, block: TunedBlock, opened: OpenedBlock, hidden: Tensor, rows: Tensor
) -> BlockRun:
    """Run a block with the graph that its gradients take.

    Args:
        whole: the model.
        block: which one.
        opened: its tensors.
        hidden: [batch, seq, hidden], its inputs.
        rows: int64 [batch], the samples.
    """
    unpacked = _unpack(whole, block, opened)
    weights = {name: weight.requires_grad_() for name, weight in unpacked.items()}
    inputs = hidden.detach().requires_grad_()
    numbers = rows + whole.first_row
    outputs = opened.block.forward(inputs, numbers, weights=weights, compiled=True)
    return BlockRun(inputs, weights, outputs)


def gradients(whole: WholeModel, rows: Tensor, *, units: int) -> tuple[float, list[Tensor]]:
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
    passed: list[BlockRun | Tensor] = []
    for block in whole.blocks:
        run = run_block(whole, block, block.open(), hidden, rows)
        passed.append(run if whole.session.placement.graphs_held else hidden)
        hidden = run.outputs.detach()
        # Where the graph is not held, this frees it.
        del run
    loss, grad = _divergence(whole, hidden, rows, backward=True)
    of_factors: list[Tensor] = []
    for block in reversed(whole.blocks):
        opened, last = block.open(), passed.pop()
        run = last if isinstance(last, BlockRun) else run_block(whole, block, opened, last, rows)
        grad, of_block = _backward(whole, block, opened, (run, grad), units=units)
        of_factors = [*of_block, *of_factors]
        del last, run
    return loss, of_factors


def _backward(
    whole: WholeModel,
    block: TunedBlock,
    opened: OpenedBlock,
    upstream: tuple[BlockRun, Tensor],
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
    whole: WholeModel, hidden: Tensor, rows: Tensor, *, backward: bool
) -> tuple[float, Tensor]:
    """Return the mean KL divergence of the logits, and its gradient for the last block's outputs.

    Args:
        whole: the model.
        hidden: [batch, seq, hidden], outputs of the last block.
        rows: int64 [batch], the samples.
        backward: whether the gradient is wanted.
    """
    session = whole.session
    mask = whole.tokens.mask[rows].to(hidden.device)
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


def validation_loss(whole: WholeModel, rows: Tensor) -> float:
    """Return the mean divergence over samples, a batch at a time.

    Args:
        whole: the model.
        rows: int64 [samples].
    """
    total = 0.0
    for part in rows.split(whole.session.tuning.end_to_end.batch_size):
        hidden = _forward(whole, part)
        total += _divergence(whole, hidden, part, backward=False)[0] * len(part)
    return total / len(rows)

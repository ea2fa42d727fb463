"""After the last block: the whole model tuned together, on the original's answers.

Blocks run one after the other, forward and then backward with their inputs kept, so that no
more than one block's weights are unpacked at a time; codes of all blocks stay in memory, one
byte a weight, or packed in the journal where that is too much; where codes may move, they stay in
memory with two bytes more. The original's answers need no second run: what its last block puts
out is what the full-precision stream holds at the end.
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
from autoround.session.session import POSITION_CHUNK, BlockOutput, Session, by_param, forward_block
from autoround.tuning.end_to_end_state import StateKeeper
from autoround.types import QuantizedTensor

#: Samples that are kept out of the descent to judge it, when there are enough.
VALIDATION_SAMPLES = 8


class _Block(NamedTuple):
    """One block as the descent needs it: kept tensors placed, layers with what is learned of them.

    leans: int8 [out, in] of each layer, or None where codes stay. read: returns kept tensors and
    layers anew; None where they are held.
    """

    number: int
    base: dict[str, Tensor]
    layers: dict[str, QuantizedTensor]
    factors: dict[str, Tensor]
    leans: dict[str, Tensor] | None
    read: Callable[[], tuple[dict[str, Tensor], dict[str, QuantizedTensor]]] | None = None

    def open(self) -> _Block:
        """Return the block with its parts in memory."""
        if self.read is None:
            return self
        base, layers = self.read()
        return self._replace(base=base, layers=layers, read=None)


class _EndToEnd(NamedTuple):
    """What all steps share. teacher: [n, seq, hidden], what the original's last block put out."""

    job: Session
    runner: BlockRunner
    outer: Mapping[str, Tensor]
    blocks: Sequence[_Block]
    teacher: Tensor


def tune_end_to_end(
    job: Session, runner: BlockRunner, done: Sequence[BlockOutput], *, teacher: Tensor
) -> Iterator[BlockOutput]:
    """Tune scales, and codes if asked, of finished blocks together; yields the new blocks.

    The blocks of before are kept where those of after are no better on samples that the
    descent did not see. With a journal, a descent that was stopped goes on from its last state.
    """
    assert job.tokens is not None
    options = job.recipe.end_to_end
    course = _EndToEnd(job, runner, runner.outer(), _opened(job, runner, done), teacher)
    count = len(job.tokens.ids)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(job.recipe.seed))
    judges = order[:VALIDATION_SAMPLES] if count >= 2 * VALIDATION_SAMPLES else order
    learned = order[VALIDATION_SAMPLES:] if count >= 2 * VALIDATION_SAMPLES else order
    bits = {x.name: x.scheme.bits for b in job.plan.blocks for x in b.quantized if x.scheme}
    held = [(bits[n], factor) for b in course.blocks for n, factor in b.factors.items()]
    params = [factor for _, factor in held]
    rates = [
        core.learning_rate_for(width) if options.lr == "auto" else options.lr for width, _ in held
    ]
    state = core.init(params, lrs=rates, steps=options.steps)
    keeping = StateKeeper(job, {"factor": params, **_moving(course.blocks)})
    state, scores = keeping.restore(state)
    before = scores.get("before") or _validation_loss(course, judges)
    drawn = batches(len(learned), options.batch_size, seed=job.recipe.seed)
    for _ in range(state.step):
        next(drawn)
    for number in range(state.step + 1, options.steps + 1):
        units = core.votes_at(number - 1, steps=options.steps)
        loss, grads = _gradients(course, learned[next(drawn)], units=units)
        state = core.step(params, grads, state=state)
        keeping.keep(state, before=before)
        job.sink(EndToEndStep(number, options.steps, loss))
    after = scores.get("after") or _validation_loss(course, judges)
    keeping.keep(state, before=before, after=after)
    job.sink(EndToEndStep(options.steps, options.steps, after, before))
    for output, block in zip(done, course.blocks, strict=True):
        yield _rescaled(output, block.open()) if after < before else output


def _moving(blocks: Sequence[_Block]) -> dict[str, list[Tensor]]:
    """Return what changes in place beside the factors, where codes may move."""
    movable = [block for block in blocks if block.leans is not None]
    return {
        "codes": [layer.codes for block in movable for layer in block.layers.values()],
        "lean": [lean for block in movable for lean in (block.leans or {}).values()],
    }


def _opened(job: Session, runner: BlockRunner, done: Sequence[BlockOutput]) -> list[_Block]:
    blocks = []
    for plan in job.plan.blocks:
        read = partial(_parts, job, runner, done, plan.index)
        base, placed = read()
        leans = None
        if job.recipe.end_to_end.tune_codes:
            # The codes of before are needed again if these turn out no better.
            placed = {n: replace(x, codes=x.codes.clone()) for n, x in placed.items()}
            leans = {n: torch.zeros_like(x.codes, dtype=torch.int8) for n, x in placed.items()}
        factors = {n: core.unit_factors(x) for n, x in placed.items()}
        if job.packed and leans is None:
            blocks.append(_Block(plan.index, {}, {}, factors, None, read))
        else:
            blocks.append(_Block(plan.index, base, placed, factors, leans))
    return blocks


def _parts(
    job: Session, runner: BlockRunner, done: Sequence[BlockOutput], index: int
) -> tuple[dict[str, Tensor], dict[str, QuantizedTensor]]:
    """Place a finished block."""
    output, plan = done[index], job.plan.blocks[index]
    layers = {n: x for n, x in output.layers.items() if isinstance(x, QuantizedTensor)}
    placed = {n: _on(x, job.runtime.device) for n, x in layers.items()}
    return runner.place(by_param(plan, output.kept)) | runner.buffers(plan.index), placed


def _on(layer: QuantizedTensor, device: torch.device) -> QuantizedTensor:
    parts = (layer.codes.to(device), layer.scale.to(device), layer.zero.to(device))
    return QuantizedTensor(*parts, layer.scheme)


def _rescaled(output: BlockOutput, block: _Block) -> BlockOutput:
    tuned = {name: core.with_factors(x, block.factors[name]) for name, x in block.layers.items()}
    cpu = torch.device("cpu")
    return replace(output, layers={name: _on(layer, cpu) for name, layer in tuned.items()})


def _unpacked(course: _EndToEnd, block: _Block) -> dict[str, Tensor]:
    """Unpack a block's weights, by layer name, [out, in] in the compute dtype."""
    dtype, ops = course.job.compute, course.job.runtime.ops
    return {
        name: ops.scaled_weight(layer, block.factors[name], dtype=dtype)
        for name, layer in block.layers.items()
    }


def _run(
    course: _EndToEnd, block: _Block, hidden: Tensor, weights: Mapping[str, Tensor], rows: Tensor
) -> Tensor:
    plan = course.job.plan.blocks[block.number]
    return forward_block(
        course.runner, plan, block.base, weights, hidden=hidden, rows=rows, often=True
    )


@torch.no_grad()
def _forward(course: _EndToEnd, rows: Tensor) -> Tensor:
    """Run samples through all blocks; returns what the last one puts out."""
    hidden = _embedded(course, rows)
    for block in map(_Block.open, course.blocks):
        hidden = _run(course, block, hidden, _unpacked(course, block), rows)
    return hidden


@torch.no_grad()
def _embedded(course: _EndToEnd, rows: Tensor) -> Tensor:
    assert course.job.tokens is not None
    tokens = course.job.tokens
    media = [tokens.media[int(row)] for row in rows] if tokens.media else []
    return course.runner.embed(tokens.ids[rows], media)


class _BlockRun(NamedTuple):
    """One run of a block in a step, with the graph from what entered and its weights to its output.

    entered, out: [batch, seq, hidden]. weights: by layer name, [out, in].
    """

    entered: Tensor
    weights: dict[str, Tensor]
    out: Tensor


def _run_with_graph(course: _EndToEnd, block: _Block, hidden: Tensor, rows: Tensor) -> _BlockRun:
    weights = {name: w.requires_grad_() for name, w in _unpacked(course, block).items()}
    entered = hidden.detach().requires_grad_()
    return _BlockRun(entered, weights, _run(course, block, entered, weights, rows))


def _gradients(course: _EndToEnd, rows: Tensor, *, units: int) -> tuple[float, list[Tensor]]:
    """Return the mean divergence of a batch and its gradient for every factor, in order.

    Blocks run again for their gradients where the graphs of all of them are too much to hold. Both
    ways compute the same, so a run may go on in the other.

    Codes that may move lean by ``units`` on the way, block by block: no later gradient of
    this batch needs them.
    """
    hidden = _embedded(course, rows)
    passed: list[_BlockRun | Tensor] = []
    for block in map(_Block.open, course.blocks):
        visit = _run_with_graph(course, block, hidden, rows)
        passed.append(visit if course.job.graphs else hidden)
        hidden = visit.out.detach()
        del visit
    loss, grad = _divergence(course, hidden, rows, backward=True)
    found: list[Tensor] = []
    for block in map(_Block.open, reversed(course.blocks)):
        last = passed.pop()
        visit = last if isinstance(last, _BlockRun) else _run_with_graph(course, block, last, rows)
        grad, own = _backward(course, block, visit, grad, units=units)
        found = [*own, *found]
        del last, visit
    return loss, found


def _backward(
    course: _EndToEnd, block: _Block, visit: _BlockRun, grad: Tensor, *, units: int
) -> tuple[Tensor, list[Tensor]]:
    """Return the gradients for what entered a block, and for its factors; its codes may move."""
    inputs = [visit.entered, *visit.weights.values()]
    # A weight that no token of this batch reached has gradient zero.
    grads = torch.autograd.grad(visit.out, inputs, grad, allow_unused=True, materialize_grads=True)
    ops, own = course.job.runtime.ops, []
    for (name, layer), upstream in zip(block.layers.items(), grads[1:], strict=True):
        lean = None if block.leans is None else core.SignVotes(block.leans[name], units)
        own.append(ops.scale_gradient(layer, upstream, lean))
    return grads[0], own


def _divergence(
    course: _EndToEnd, hidden: Tensor, rows: Tensor, *, backward: bool
) -> tuple[float, Tensor]:
    """Return the mean divergence of the answers, and its gradient for the last block's output."""
    assert course.job.tokens is not None
    mask = course.job.tokens.mask[rows].to(hidden.device)
    count = max(int(mask.sum()), 1)
    teacher = course.teacher[rows].to(hidden.device)
    grad = torch.zeros_like(hidden)
    total = 0.0
    for row in range(len(hidden)):
        for start in range(0, hidden.shape[1], POSITION_CHUNK):
            part = slice(start, start + POSITION_CHUNK)
            real = mask[row, part]
            with torch.no_grad():
                wanted = course.runner.head(course.outer, teacher[row : row + 1, part])[0]
            own = hidden[row : row + 1, part].detach().requires_grad_(backward)
            with torch.set_grad_enabled(backward):
                logits = course.runner.head(course.outer, own)[0]
            if not bool(real.all()):
                logits, wanted = logits[real], wanted[real]
            loss, apart = course.job.runtime.ops.divergence(logits.detach(), wanted)
            total += loss / count
            if backward and bool(real.any()):
                grad[row : row + 1, part] = torch.autograd.grad(logits, own, apart / count)[0]
    return total, grad


def _validation_loss(course: _EndToEnd, rows: Tensor) -> float:
    """Return the mean divergence over samples, a batch at a time."""
    size = course.job.recipe.end_to_end.batch_size
    total = 0.0
    for part in rows.split(size):
        total += _divergence(course, _forward(course, part), part, backward=False)[0] * len(part)
    return total / len(rows)

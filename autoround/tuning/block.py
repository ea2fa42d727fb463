"""From block to block: run it, tune it, carry both activation streams on."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from autoround.core.batches import Feed, Samples
from autoround.core.rtn import Task, round_to_nearest
from autoround.core.tune import Means, Problem, Tuned, check_loss, tune
from autoround.errors import AutoRoundError
from autoround.events import BlockDone, StageStarted, StepDone
from autoround.formats.gguf.tensors import dense
from autoround.model.importance import Importance
from autoround.model.runner import BlockRunner
from autoround.model.stacked_experts import as_matrix, as_stored
from autoround.planning.hyperparameters import (
    compensates,
    distills,
    forward_size,
    looks_at_inputs,
    schedule_of,
    stream_names,
)
from autoround.resume.replay import Replay, finished, replayed
from autoround.session.activations import StreamFiles, Streams
from autoround.session.prefetch import Ahead
from autoround.session.session import (
    BlockOutput,
    Carried,
    Job,
    observing_layers,
    planned_outside,
    run_rounded,
    runner_of,
    tunes_head,
)
from autoround.tuning.end_to_end import distill
from autoround.tuning.experts import spared, starved
from autoround.tuning.lm_head import quantize_outside
from autoround.tuning.rounding_init import with_offsets
from autoround.tuning.targets import carried_all, make_task
from autoround.types import FULL, QUANTIZED, BlockPlan, BlockResult, LayerPlan


def quantize_blocks(job: Job) -> Iterator[BlockOutput]:
    """Quantize the blocks of a plan, one after the other; those in its journal are read from it.

    Only one block's weights and tuning state are in memory at a time.
    """
    runner = runner_of(job)
    distilled = job.tokens is not None and distills(job.recipe, job.plan)
    more = finished(job) < len(job.plan.blocks) or not _outside_done(job)
    streams = _streams(job, runner) if job.tokens is not None and (more or distilled) else None
    if streams is None or not distilled:
        yield from (replayed(job, index) for index in range(finished(job)))
        yield from _one_by_one(job, runner, streams)
    else:
        done = _all_blocks(job, _one_by_one(job, runner, streams))
        job.sink(StageStarted("distill", f"{job.recipe.distill.steps} steps over the whole model"))
        yield from distill(job, runner, done, teacher=streams.full)
    outside = _outside(job, runner, streams)
    if outside is not None:
        yield outside
    if streams is not None and streams.files is not None and not distilled:
        streams.files.remove()


def _outside_done(job: Job) -> bool:
    """Tell whether nothing outside the blocks is left to do."""
    blocks = len(job.plan.blocks)
    return not planned_outside(job) or (job.journal is not None and job.journal.done > blocks)


def _outside(job: Job, runner: BlockRunner, streams: Streams | None) -> BlockOutput | None:
    """Quantize what the plan says outside the blocks: one more unit of the journal."""
    if not planned_outside(job):
        return None
    if job.journal is not None and _outside_done(job):
        return job.journal.read(len(job.plan.blocks), {}, source=None)
    full = quantized = None
    if streams is not None:
        full = streams.full
        quantized = streams.quantized if job.recipe.tuning.quantized_inputs else full
    output = quantize_outside(job, runner, full, quantized)
    if output is not None and job.journal is not None:
        job.journal.commit(output, streams=None, names=())
    return output


def _one_by_one(job: Job, runner: BlockRunner, streams: Streams | None) -> Iterator[BlockOutput]:
    """Quantize the blocks that are not done yet."""
    last = len(job.plan.blocks) - 1
    ahead = Ahead(job)
    for block in job.plan.blocks[finished(job) :]:
        output = _quantize_block(job, runner, block, streams, ahead)
        if job.journal is not None:
            both = block.index < last or tunes_head(job)
            after = stream_names(job.recipe) if both else (FULL,)
            ended = not both and not distills(job.recipe, job.plan)
            job.journal.commit(output, streams=streams, names=() if ended else after)
        job.sink(BlockDone(output.result, len(job.plan.blocks)))
        yield output
        job.runtime.release()


def _all_blocks(job: Job, blocks: Iterator[BlockOutput]) -> Sequence[BlockOutput]:
    """Finish all blocks; in the journal only, where there is one."""
    if job.journal is None:
        return list(blocks)
    for _ in blocks:
        pass
    return Replay(job)


def _streams(job: Job, runner: BlockRunner) -> Streams:
    """Return what goes into the first block that is not done yet."""
    assert job.tokens is not None
    ids, media = job.tokens.ids, job.tokens.media
    mask = job.tokens.mask if job.tokens.padded else None
    runner.prepare(ids, media)
    first = runner.embed(ids[:1], media[:1])
    files = None
    if job.journal is not None:
        shape = (*ids.shape, first.shape[-1])
        files = job.journal.files(shape, first.dtype, names=stream_names(job.recipe))
        files.allocate()
    if job.journal is not None and files is not None and finished(job):
        runner.release()
        held = job.journal.streams(finished(job) - 1, files, mask=mask, mapped=job.mapped)
        return held.on(job.stream_device)
    return _first_streams(job, runner, mask, files)


def _first_streams(
    job: Job, runner: BlockRunner, mask: Tensor | None, files: StreamFiles | None
) -> Streams:
    """Embed the calibration tokens."""
    assert job.tokens is not None
    ids, media = job.tokens.ids, job.tokens.media
    # Images of one sample may have another size than those of the next.
    size = 1 if media else forward_size(job.recipe)
    place = job.stream_device
    full: Tensor | None = None
    for start in range(0, len(ids), size):
        some = slice(start, start + size)
        part = runner.embed(ids[some], media[some]).to(place)
        if full is None:
            shape = (len(ids), *part.shape[1:])
            if files is not None and job.mapped:
                full = files.mapped(FULL, 0)
            else:
                full = torch.empty(shape, dtype=part.dtype, device=place)
        full[some] = part
    assert full is not None
    runner.release()
    streams = Streams(full, full, mask, files, job.mapped and files is not None)
    if not streams.mapped:
        streams.quantized = full.clone()
    elif files is not None and QUANTIZED in files.names:
        streams.quantized = files.mapped(QUANTIZED, 0)
        streams.quantized.copy_(full)
    return streams


def _quantize_block(
    job: Job, runner: BlockRunner, block: BlockPlan, streams: Streams | None, ahead: Ahead
) -> BlockOutput:
    started = time.perf_counter()
    weights, inside, source = ahead.take(block)
    if streams is None:
        base: dict[str, Tensor] = {}
        importance = Importance()
    else:
        base = runner.place(inside) | runner.buffers(block.index)
        importance = _advance_full(job, runner, block, base, streams)
    tasks = {layer.name: _task(job, layer, inside, block, importance) for layer in block.quantized}
    del inside
    # Their place is taken by rounded ones, in tuning and after it.
    replaced = {layer.tensor for layer in block.quantized}
    base = {name: t for name, t in base.items() if f"{block.name}.{name}" not in replaced}
    if compensates(job.recipe):
        tasks = with_offsets(block, tasks, importance, ops=job.runtime.ops)
    # Cross-attention to images is not run for samples that have none.
    run = streams is not None and runner.runs(block.index)
    few = starved(block, importance.tokens)
    worked = _Worked(job, runner, block, base)
    tuned = _tune(worked, tasks, streams if run else None, few=few, ahead=ahead)
    layers = carried_all(block.quantized, tasks, tuned.roundings, ops=job.runtime.ops)
    last = block.index + 1 == len(job.plan.blocks)
    goes_on = job.recipe.tuning.quantized_inputs and (not last or tunes_head(job))
    if streams is not None and goes_on:
        rounded = base | _dense(job, block, layers)
        _advance(job, runner, block, rounded, streams, QUANTIZED)
    seconds = time.perf_counter() - started
    return BlockOutput(
        layers,
        {name: t for name, t in weights.items() if name not in replaced},
        BlockResult(
            block.index,
            block.name,
            tuned.loss_before,
            tuned.loss_after,
            seconds,
            job.recipe.tuning.iters,
            tuned.best_step,
            job.runtime.peak_bytes(),
            {path: tuple(seen.tolist()) for path, seen in importance.tokens.items()},
        ),
        source,
    )


def _advance_full(
    job: Job, runner: BlockRunner, block: BlockPlan, base: Mapping[str, Tensor], streams: Streams
) -> Importance:
    """Run the full-precision chain through a block; note what drives its layers."""
    importance = Importance(grams=compensates(job.recipe))
    if not job.recipe.tuning.quantized_inputs:
        streams.fork()
    with observing_layers(job, block, into=importance, linear=looks_at_inputs(job.recipe)):
        _advance(job, runner, block, base, streams, FULL, importance)
    return importance


def _advance(
    job: Job,
    runner: BlockRunner,
    block: BlockPlan,
    weights: Mapping[str, Tensor],
    streams: Streams,
    name: str,
    importance: Importance | None = None,
) -> None:
    """Run a chain through a block.

    name: of the chain. importance: is told which positions of a batch count.
    """
    before, after = getattr(streams, name), streams.next_of(name)
    size = forward_size(job.recipe)
    means = _Worked(job, runner, block, weights).means()
    order = iter(torch.arange(len(before)).split(size))
    feed = Feed({"hidden": before}, order, device=job.runtime.device, upload=means.upload)
    with torch.no_grad():
        for start in range(0, len(before), size):
            part = slice(start, start + size)
            if importance is not None:
                importance.mask(None if streams.mask is None else streams.mask[part])
            rows, batch = feed.take()
            # Layers that are looked at are called one by one.
            often = importance is None
            out = runner.run(block.index, weights, hidden=batch["hidden"], rows=rows, often=often)
            feed.ahead()
            after[part] = out.to(after.device)
            streams.rest()
    setattr(streams, name, after)


def _task(
    job: Job,
    layer: LayerPlan,
    inside: Mapping[str, Tensor],
    block: BlockPlan,
    importance: Importance,
) -> Task:
    weight = inside[layer.tensor.removeprefix(block.name + ".")]
    driven = importance.get(layer.name.removeprefix(block.name + "."))
    return make_task(job, layer, as_matrix(layer, weight), driven)


class _Worked(NamedTuple):
    """A block that is being tuned. base: what is in it beside the weights that are rounded."""

    job: Job
    runner: BlockRunner
    block: BlockPlan
    base: Mapping[str, Tensor]

    def forward(self, weights: Mapping[str, Tensor], hidden: Tensor, rows: Tensor | None) -> Tensor:
        """Run it with its other weights given by layer name, [out, in]."""
        return run_rounded(
            self.runner,
            self.block,
            self.base,
            weights,
            hidden=hidden,
            rows=rows,
            often=torch.is_grad_enabled(),
        )

    def means(self) -> Means:
        """Return what the device can do beside the operations."""
        runtime = self.job.runtime
        if self.job.recipe.tuning.low_memory or not runtime.own_memory:
            return Means()
        return Means(runtime.upload, runtime.capture)


def _tune(
    worked: _Worked,
    tasks: Mapping[str, Task],
    streams: Streams | None,
    *,
    few: Mapping[str, Tensor],
    ahead: Ahead,
) -> Tuned:
    job, block = worked.job, worked.block
    if streams is None or not tasks:
        nan = float("nan")
        return Tuned(round_to_nearest(tasks), nan, nan, 0)
    schedule = schedule_of(job.recipe, block.index)
    problem = Problem(
        worked.forward,
        tasks,
        Samples(streams.quantized, streams.full, streams.mask),
        worked.means(),
        steady=not worked.runner.by_sample,
    )

    def on_step(step: int, loss: float) -> None:
        streams.rest()
        ahead.go_on(block)
        job.sink(StepDone(block.index, step, job.recipe.tuning.iters, loss))

    tuned = tune(problem, schedule, ops=job.runtime.ops, dtype=job.compute, on_step=on_step)
    if not tuned.loss_before < float("inf"):
        raise AutoRoundError(
            f"block {block.name}: its loss is {tuned.loss_before} before tuning; the model "
            "overflows in this dtype: set tuning.compute_dtype=float32"
        )
    if not few or not schedule.iters:
        return tuned
    roundings = spared(tuned.roundings, few)
    after = check_loss(
        problem, roundings, schedule=schedule, ops=job.runtime.ops, dtype=job.compute
    )
    if not after <= tuned.loss_before:
        # What the others learned was right beside these experts as they learned.
        return Tuned(round_to_nearest(tasks), tuned.loss_before, tuned.loss_before, 0)
    return tuned._replace(roundings=roundings, loss_after=after)


def _dense(job: Job, block: BlockPlan, layers: Mapping[str, Carried]) -> dict[str, Tensor]:
    weights = {
        name: dense(layer).to(job.runtime.device, job.compute) for name, layer in layers.items()
    }
    return as_stored(block, weights)

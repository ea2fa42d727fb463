"""From block to block: run it, tune it, carry both activation streams on."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from autoround.core.batches import BatchLoader, Samples
from autoround.core.rtn import Target, round_to_nearest
from autoround.core.tune import DeviceHooks, Reconstruction, Tuned, tune, validation_loss
from autoround.errors import AutoRoundError
from autoround.events import BlockDone, StageStarted, StepDone
from autoround.formats.gguf.tensors import dense
from autoround.model.importance import Importance
from autoround.model.runner import BlockRunner
from autoround.model.stacked_experts import as_matrix, as_stored
from autoround.planning.hyperparameters import (
    forward_batch_size,
    hyperparameters_for,
    needs_input_statistics,
    stream_names,
    tunes_end_to_end,
    uses_gptq,
)
from autoround.resume.replay import ReplayedBlocks, finished_blocks, replay_block
from autoround.session.activations import ActivationFiles, ActivationStreams
from autoround.session.prefetch import BlockPrefetcher
from autoround.session.session import (
    BlockOutput,
    QuantizedWeight,
    Session,
    forward_block,
    make_runner,
    observing_layers,
    planned_outside,
    tunes_head,
)
from autoround.tuning.end_to_end import tune_end_to_end
from autoround.tuning.experts import reset_undertrained, undertrained_experts
from autoround.tuning.lm_head import quantize_non_block_layers
from autoround.tuning.rounding_init import with_gptq_offsets
from autoround.tuning.targets import make_target, quantize_targets
from autoround.types import FULL, QUANTIZED, BlockPlan, BlockResult, LayerPlan


def quantize_blocks(job: Session) -> Iterator[BlockOutput]:
    """Quantize the blocks of a plan, one after the other; those in its journal are read from it.

    Only one block's weights and tuning state are in memory at a time.
    """
    runner = make_runner(job)
    distilled = job.tokens is not None and tunes_end_to_end(job.recipe, job.plan)
    more = finished_blocks(job) < len(job.plan.blocks) or not _outside_done(job)
    streams = _streams(job, runner) if job.tokens is not None and (more or distilled) else None
    if streams is None or not distilled:
        yield from (replay_block(job, index) for index in range(finished_blocks(job)))
        yield from _one_by_one(job, runner, streams)
    else:
        done = _all_blocks(job, _one_by_one(job, runner, streams))
        job.sink(
            StageStarted("end_to_end", f"{job.recipe.end_to_end.steps} steps over the whole model")
        )
        yield from tune_end_to_end(job, runner, done, teacher=streams.full)
    outside = _outside(job, runner, streams)
    if outside is not None:
        yield outside
    if streams is not None and streams.files is not None and not distilled:
        streams.files.remove()


def _outside_done(job: Session) -> bool:
    """Tell whether nothing outside the blocks is left to do."""
    blocks = len(job.plan.blocks)
    return not planned_outside(job) or (job.journal is not None and job.journal.done > blocks)


def _outside(
    job: Session, runner: BlockRunner, streams: ActivationStreams | None
) -> BlockOutput | None:
    """Quantize what the plan says outside the blocks: one more unit of the journal."""
    if not planned_outside(job):
        return None
    if job.journal is not None and _outside_done(job):
        return job.journal.read(len(job.plan.blocks), {}, source=None)
    full = quantized = None
    if streams is not None:
        full = streams.full
        quantized = streams.quantized if job.recipe.tuning.quantized_inputs else full
    output = quantize_non_block_layers(job, runner, full, quantized)
    if output is not None and job.journal is not None:
        job.journal.commit(output, streams=None, names=())
    return output


def _one_by_one(
    job: Session, runner: BlockRunner, streams: ActivationStreams | None
) -> Iterator[BlockOutput]:
    """Quantize the blocks that are not done yet."""
    last = len(job.plan.blocks) - 1
    ahead = BlockPrefetcher(job)
    for block in job.plan.blocks[finished_blocks(job) :]:
        output = _quantize_block(job, runner, block, streams, ahead)
        if job.journal is not None:
            both = block.index < last or tunes_head(job)
            after = stream_names(job.recipe) if both else (FULL,)
            ended = not both and not tunes_end_to_end(job.recipe, job.plan)
            job.journal.commit(output, streams=streams, names=() if ended else after)
        job.sink(BlockDone(output.result, len(job.plan.blocks)))
        yield output
        job.runtime.release()


def _all_blocks(job: Session, blocks: Iterator[BlockOutput]) -> Sequence[BlockOutput]:
    """Finish all blocks; in the journal only, where there is one."""
    if job.journal is None:
        return list(blocks)
    for _ in blocks:
        pass
    return ReplayedBlocks(job)


def _streams(job: Session, runner: BlockRunner) -> ActivationStreams:
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
    if job.journal is not None and files is not None and finished_blocks(job):
        runner.release()
        held = job.journal.streams(finished_blocks(job) - 1, files, mask=mask, mapped=job.mapped)
        return held.on(job.stream_device)
    return _first_streams(job, runner, mask, files)


def _first_streams(
    job: Session, runner: BlockRunner, mask: Tensor | None, files: ActivationFiles | None
) -> ActivationStreams:
    """Embed the calibration tokens."""
    assert job.tokens is not None
    ids, media = job.tokens.ids, job.tokens.media
    # Images of one sample may have another size than those of the next.
    size = 1 if media else forward_batch_size(job.recipe)
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
    streams = ActivationStreams(full, full, mask, files, job.mapped and files is not None)
    if not streams.mapped:
        streams.quantized = full.clone()
    elif files is not None and QUANTIZED in files.names:
        streams.quantized = files.mapped(QUANTIZED, 0)
        streams.quantized.copy_(full)
    return streams


def _quantize_block(
    job: Session,
    runner: BlockRunner,
    block: BlockPlan,
    streams: ActivationStreams | None,
    ahead: BlockPrefetcher,
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
    if uses_gptq(job.recipe):
        tasks = with_gptq_offsets(block, tasks, importance, ops=job.runtime.ops)
    # Cross-attention to images is not run for samples that have none.
    run = streams is not None and runner.runs(block.index)
    few = undertrained_experts(block, importance.tokens)
    worked = _Worked(job, runner, block, base)
    tuned = _tune(worked, tasks, streams if run else None, few=few, ahead=ahead)
    layers = quantize_targets(block.quantized, tasks, tuned.roundings, ops=job.runtime.ops)
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
    job: Session,
    runner: BlockRunner,
    block: BlockPlan,
    base: Mapping[str, Tensor],
    streams: ActivationStreams,
) -> Importance:
    """Run the full-precision chain through a block; note what drives its layers."""
    importance = Importance(grams=uses_gptq(job.recipe))
    if not job.recipe.tuning.quantized_inputs:
        streams.fork()
    with observing_layers(job, block, into=importance, linear=needs_input_statistics(job.recipe)):
        _advance(job, runner, block, base, streams, FULL, importance)
    return importance


def _advance(
    job: Session,
    runner: BlockRunner,
    block: BlockPlan,
    weights: Mapping[str, Tensor],
    streams: ActivationStreams,
    name: str,
    importance: Importance | None = None,
) -> None:
    """Run a chain through a block.

    name: of the chain. importance: is told which positions of a batch count.
    """
    before, after = getattr(streams, name), streams.next_of(name)
    size = forward_batch_size(job.recipe)
    means = _Worked(job, runner, block, weights).means()
    order = iter(torch.arange(len(before)).split(size))
    feed = BatchLoader({"hidden": before}, order, device=job.runtime.device, upload=means.upload)
    with torch.no_grad():
        for start in range(0, len(before), size):
            part = slice(start, start + size)
            if importance is not None:
                importance.mask(None if streams.mask is None else streams.mask[part])
            rows, batch = feed.next()
            # Layers that are looked at are called one by one.
            often = importance is None
            out = runner.run(block.index, weights, hidden=batch["hidden"], rows=rows, often=often)
            feed.prefetch()
            after[part] = out.to(after.device)
            streams.rest()
    setattr(streams, name, after)


def _task(
    job: Session,
    layer: LayerPlan,
    inside: Mapping[str, Tensor],
    block: BlockPlan,
    importance: Importance,
) -> Target:
    weight = inside[layer.tensor.removeprefix(block.name + ".")]
    driven = importance.get(layer.name.removeprefix(block.name + "."))
    return make_target(job, layer, as_matrix(layer, weight), driven)


class _Worked(NamedTuple):
    """A block that is being tuned. base: what is in it beside the weights that are rounded."""

    job: Session
    runner: BlockRunner
    block: BlockPlan
    base: Mapping[str, Tensor]

    def forward(self, weights: Mapping[str, Tensor], hidden: Tensor, rows: Tensor | None) -> Tensor:
        """Run it with its other weights given by layer name, [out, in]."""
        return forward_block(
            self.runner,
            self.block,
            self.base,
            weights,
            hidden=hidden,
            rows=rows,
            often=torch.is_grad_enabled(),
        )

    def means(self) -> DeviceHooks:
        """Return what the device can do beside the operations."""
        runtime = self.job.runtime
        if self.job.recipe.tuning.low_memory or not runtime.own_memory:
            return DeviceHooks()
        return DeviceHooks(runtime.upload, runtime.capture)


def _tune(
    worked: _Worked,
    tasks: Mapping[str, Target],
    streams: ActivationStreams | None,
    *,
    few: Mapping[str, Tensor],
    ahead: BlockPrefetcher,
) -> Tuned:
    job, block = worked.job, worked.block
    if streams is None or not tasks:
        nan = float("nan")
        return Tuned(round_to_nearest(tasks), nan, nan, 0)
    schedule = hyperparameters_for(job.recipe, block.index)
    problem = Reconstruction(
        worked.forward,
        tasks,
        Samples(streams.quantized, streams.full, streams.mask),
        worked.means(),
        capturable=not worked.runner.by_sample,
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
    roundings = reset_undertrained(tuned.roundings, few)
    after = validation_loss(
        problem, roundings, hyperparameters=schedule, ops=job.runtime.ops, dtype=job.compute
    )
    if not after <= tuned.loss_before:
        # What the others learned was right beside these experts as they learned.
        return Tuned(round_to_nearest(tasks), tuned.loss_before, tuned.loss_before, 0)
    return tuned._replace(roundings=roundings, loss_after=after)


def _dense(
    job: Session, block: BlockPlan, layers: Mapping[str, QuantizedWeight]
) -> dict[str, Tensor]:
    weights = {
        name: dense(layer).to(job.runtime.device, job.compute) for name, layer in layers.items()
    }
    return as_stored(block, weights)

"""From block to block: run it, tune it, carry both activation streams on."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from autoround.core.rtn import Task, round_to_nearest
from autoround.core.tune import Problem, Samples, Tuned, check_loss, tune
from autoround.errors import AutoRoundError
from autoround.events import BlockDone, StageStarted, StepDone
from autoround.formats.gguf_carried import dense
from autoround.model.importance import Importance, observing
from autoround.model.runner import BlockRunner
from autoround.stages.blocks import BlockOutput, Carried, Job, as_stored
from autoround.stages.distill import distill, distills
from autoround.stages.experts import as_matrix, spared, starved
from autoround.stages.outside import quantize_outside, tunes_head
from autoround.stages.plan import DTYPES
from autoround.stages.schedule import schedule_of
from autoround.stages.tasks import carried, make_task
from autoround.types import BlockPlan, BlockResult, LayerPlan


@dataclass
class Streams:
    """Inputs of the next block: of the full-precision chain and of the quantized one.

    full, quantized: [n, seq, hidden] in the compute dtype, on the CPU.
    """

    full: Tensor
    quantized: Tensor
    mask: Tensor | None


def quantize_blocks(job: Job) -> Iterator[BlockOutput]:
    """Quantize the blocks of a plan, one after the other.

    Only one block's weights and tuning state are in memory at a time.
    """
    runner = BlockRunner(job.skeleton, device=job.runtime.device, dtype=job.compute)
    streams = _first_streams(job, runner) if job.tokens is not None else None
    blocks = _one_by_one(job, runner, streams)
    if streams is None or not distills(job.recipe, job.plan):
        yield from blocks
    else:
        done = list(blocks)
        job.sink(StageStarted("distill", f"{job.recipe.distill.steps} steps over the whole model"))
        yield from distill(job, runner, done, teacher=streams.full)
    ends = (None, None) if streams is None else (streams.full, streams.quantized)
    outside = quantize_outside(job, runner, *ends)
    if outside is not None:
        yield outside


def _one_by_one(job: Job, runner: BlockRunner, streams: Streams | None) -> Iterator[BlockOutput]:
    for block in job.plan.blocks:
        output = _quantize_block(job, runner, block, streams)
        job.sink(BlockDone(output.result, len(job.plan.blocks)))
        yield output
        job.runtime.release()


def _first_streams(job: Job, runner: BlockRunner) -> Streams:
    """Embed the calibration tokens."""
    assert job.tokens is not None
    ids, media = job.tokens.ids, job.tokens.media
    # Images of one sample may have another size than those of the next.
    size = 1 if media else job.recipe.tuning.batch_size
    parts = [
        runner.embed(part, media[i * size : (i + 1) * size]).to("cpu")
        for i, part in enumerate(ids.split(size))
    ]
    runner.prepare(ids, media)
    runner.release()
    full = torch.cat(parts)
    return Streams(full, full.clone(), job.tokens.mask if job.tokens.padded else None)


def _quantize_block(
    job: Job, runner: BlockRunner, block: BlockPlan, streams: Streams | None
) -> BlockOutput:
    started = time.perf_counter()
    stored = job.skeleton.read(job.skeleton.names_under(block.name))
    weights = _keep_dtypes(job, block, stored)
    inside = {name.removeprefix(block.name + "."): t for name, t in weights.items()}
    if streams is None:
        base: dict[str, Tensor] = {}
        importance = Importance()
    else:
        base = runner.place(inside) | runner.buffers(block.index)
        importance = _advance_full(job, runner, block, base, streams)
    tasks = {layer.name: _task(job, layer, inside, block, importance) for layer in block.quantized}
    # Cross-attention to images is not run for samples that have none.
    run = streams is not None and runner.runs(block.index)
    few = starved(block, importance.tokens)
    tuned = _tune(job, runner, block, tasks, base, streams if run else None, few=few)
    layers = {
        layer.name: carried(
            layer, tasks[layer.name], tuned.roundings[layer.name], ops=job.runtime.ops
        )
        for layer in block.quantized
    }
    last = block.index + 1 == len(job.plan.blocks)
    if streams is not None and (not last or tunes_head(job)):
        _advance_quantized(job, runner, block, base | _dense(job, block, layers), streams)
    replaced = {layer.tensor for layer in block.quantized}
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
    )


def _keep_dtypes(job: Job, block: BlockPlan, stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give kept tensors the dtype they will be written in, so tuning sees what is served."""
    replaced = {layer.tensor for layer in block.quantized}
    kept = DTYPES[job.plan.dtype]
    return {
        name: t.to(kept) if name not in replaced and t.is_floating_point() else t
        for name, t in stored.items()
    }


def _advance_full(
    job: Job, runner: BlockRunner, block: BlockPlan, base: Mapping[str, Tensor], streams: Streams
) -> Importance:
    """Run the full-precision chain through a block, in place; note what drives its layers."""
    importance = Importance()
    paths = {layer: layer.name.removeprefix(block.name + ".") for layer in block.quantized}
    names = [path for layer, path in paths.items() if not layer.experts]
    stacked = {path: layer.experts for layer, path in paths.items() if layer.experts}
    if job.recipe.tuning.init != "search":
        names = []
    if not job.recipe.tuning.quantized_inputs:
        streams.quantized = streams.full.clone()
    module = job.skeleton.model.get_submodule(block.name)
    size = job.recipe.tuning.batch_size
    with observing(module, names, into=importance, stacked=stacked), torch.no_grad():
        for start in range(0, len(streams.full), size):
            part = slice(start, start + size)
            importance.mask(None if streams.mask is None else streams.mask[part])
            hidden = streams.full[part].to(job.runtime.device)
            rows = torch.arange(start, start + len(hidden))
            out = runner.run(block.index, base, hidden=hidden, rows=rows)
            streams.full[part] = out.to("cpu")
    return importance


def _advance_quantized(
    job: Job, runner: BlockRunner, block: BlockPlan, weights: Mapping[str, Tensor], streams: Streams
) -> None:
    """Run the quantized chain through a finished block, in place."""
    if not job.recipe.tuning.quantized_inputs:
        return
    size = job.recipe.tuning.batch_size
    with torch.no_grad():
        for start in range(0, len(streams.quantized), size):
            part = slice(start, start + size)
            hidden = streams.quantized[part].to(job.runtime.device)
            rows = torch.arange(start, start + len(hidden))
            out = runner.run(block.index, weights, hidden=hidden, rows=rows)
            streams.quantized[part] = out.to("cpu")


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


def _tune(
    job: Job,
    runner: BlockRunner,
    block: BlockPlan,
    tasks: Mapping[str, Task],
    base: Mapping[str, Tensor],
    streams: Streams | None,
    *,
    few: Mapping[str, Tensor],
) -> Tuned:
    if streams is None or not tasks:
        nan = float("nan")
        return Tuned(round_to_nearest(tasks), nan, nan, 0)
    schedule = schedule_of(job.recipe, block.index)
    problem = Problem(
        partial(_forward, runner, block, base),
        tasks,
        Samples(streams.quantized, streams.full, streams.mask),
    )
    tuned = tune(
        problem,
        schedule,
        ops=job.runtime.ops,
        dtype=job.compute,
        on_step=lambda step, loss: job.sink(StepDone(block.index, step, schedule.iters, loss)),
    )
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
    return tuned._replace(roundings=roundings, loss_after=after)


def _forward(
    runner: BlockRunner,
    block: BlockPlan,
    base: Mapping[str, Tensor],
    weights: Mapping[str, Tensor],
    hidden: Tensor,
    rows: Tensor | None,
) -> Tensor:
    """Run a block with some of its weights replaced; ``weights`` by layer name, [out, in]."""
    stored = {**base, **as_stored(block, weights)}
    return runner.run(block.index, stored, hidden=hidden, rows=rows)


def _dense(job: Job, block: BlockPlan, layers: Mapping[str, Carried]) -> dict[str, Tensor]:
    weights = {
        name: dense(layer).to(job.runtime.device, job.compute) for name, layer in layers.items()
    }
    return as_stored(block, weights)

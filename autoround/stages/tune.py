"""From block to block: run it, tune it, carry both activation streams on."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from autoround.core.grid import MAX_SCALE, from_groups, min_max_grid, nested_parts, to_groups
from autoround.core.kinds import nested_of
from autoround.core.ops import Ops
from autoround.core.rounding import Rounding
from autoround.core.rtn import Task, round_to_nearest
from autoround.core.search import importance_groups, search_grid
from autoround.core.search_nested import search_nested
from autoround.core.tune import Problem, Samples, Schedule, Tuned, tune
from autoround.errors import AutoRoundError
from autoround.events import BlockDone, StageStarted, StepDone
from autoround.formats import layouts
from autoround.formats.gguf_carried import dense, nested_tensor
from autoround.model.importance import Importance, observing
from autoround.model.runner import BlockRunner
from autoround.recipe.schema import Recipe
from autoround.stages.blocks import BlockOutput, Carried, Job, as_stored
from autoround.stages.distill import distill, distills
from autoround.stages.replay import Replay, finished, keep_dtypes, replayed, sum_of
from autoround.stages.streams import FULL, QUANTIZED, StreamFiles, Streams, stream_names
from autoround.types import BlockPlan, BlockResult, LayerPlan, QuantizedTensor


def quantize_blocks(job: Job) -> Iterator[BlockOutput]:
    """Quantize the blocks of a plan, one after the other; those in its journal are read from it.

    Only one block's weights and tuning state are in memory at a time.
    """
    runner = BlockRunner(job.skeleton, device=job.runtime.device, dtype=job.compute)
    distilled = job.tokens is not None and distills(job.recipe, job.plan)
    streams = None
    if job.tokens is not None and (finished(job) < len(job.plan.blocks) or distilled):
        streams = _streams(job, runner)
    if streams is None or not distilled:
        yield from (replayed(job, index) for index in range(finished(job)))
        yield from _one_by_one(job, runner, streams)
        if streams is not None and streams.files is not None:
            streams.files.remove()
        return
    done = _all_blocks(job, _one_by_one(job, runner, streams))
    job.sink(StageStarted("distill", f"{job.recipe.distill.steps} steps over the whole model"))
    yield from distill(job, runner, done, teacher=streams.full)


def _one_by_one(job: Job, runner: BlockRunner, streams: Streams | None) -> Iterator[BlockOutput]:
    """Quantize the blocks that are not done yet."""
    last = len(job.plan.blocks) - 1
    for block in job.plan.blocks[finished(job) :]:
        output = _quantize_block(job, runner, block, streams)
        if job.journal is not None:
            after = stream_names(job.recipe) if block.index < last else (FULL,)
            ended = block.index == last and not distills(job.recipe, job.plan)
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
    ids = job.tokens.ids
    mask = job.tokens.mask if job.tokens.padded else None
    runner.prepare(ids)
    first = runner.embed(ids[:1])
    files = None
    if job.journal is not None:
        shape = (*ids.shape, first.shape[-1])
        files = job.journal.files(shape, first.dtype, names=stream_names(job.recipe))
        files.allocate()
    if job.journal is not None and files is not None and finished(job):
        runner.release()
        return job.journal.streams(files, mask=mask, mapped=job.mapped)
    return _first_streams(job, runner, mask, files)


def _first_streams(
    job: Job, runner: BlockRunner, mask: Tensor | None, files: StreamFiles | None
) -> Streams:
    """Embed the calibration tokens."""
    assert job.tokens is not None
    ids, size = job.tokens.ids, job.recipe.tuning.batch_size
    full: Tensor | None = None
    for start in range(0, len(ids), size):
        part = runner.embed(ids[start : start + size]).to("cpu")
        if full is None:
            shape = (len(ids), *part.shape[1:])
            if files is not None and job.mapped:
                full = files.mapped(FULL, 0)
            else:
                full = torch.empty(shape, dtype=part.dtype)
        full[start : start + size] = part
    assert full is not None
    runner.release()
    streams = Streams(full, full, mask, files, job.mapped and files is not None)
    if QUANTIZED in stream_names(job.recipe):
        streams.quantized = streams.next_of(QUANTIZED, ahead=0) if streams.mapped else full.clone()
        streams.quantized.copy_(full)
    elif not streams.mapped:
        streams.quantized = full.clone()
    return streams


def _quantize_block(
    job: Job, runner: BlockRunner, block: BlockPlan, streams: Streams | None
) -> BlockOutput:
    started = time.perf_counter()
    stored = job.skeleton.read(job.skeleton.names_under(block.name))
    source = 0 if job.journal is None else sum_of(stored)
    weights = keep_dtypes(job, block, stored)
    del stored
    inside = {name.removeprefix(block.name + "."): t for name, t in weights.items()}
    if streams is None:
        base: dict[str, Tensor] = {}
        importance = Importance()
    else:
        base = runner.place(inside) | runner.buffers(block.index)
        importance = _advance_full(job, runner, block, base, streams)
    tasks = {layer.name: _task(job, layer, inside, block, importance) for layer in block.quantized}
    tuned = _tune(job, runner, block, tasks, base, streams)
    layers = {
        layer.name: _quantized(layer, tasks[layer.name], tuned.roundings, ops=job.runtime.ops)
        for layer in block.quantized
    }
    if streams is not None and block.index + 1 < len(job.plan.blocks):
        _advance_quantized(job, runner, block, base | _dense(job, block, layers), streams)
    replaced = {layer.name + ".weight" for layer in block.quantized}
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
        ),
        source,
    )


def _advance_full(
    job: Job, runner: BlockRunner, block: BlockPlan, base: Mapping[str, Tensor], streams: Streams
) -> Importance:
    """Run the full-precision chain through a block; note what drives its layers."""
    importance = Importance()
    names = [layer.name.removeprefix(block.name + ".") for layer in block.quantized]
    if job.recipe.tuning.init != "search":
        names = []
    if not job.recipe.tuning.quantized_inputs:
        streams.fork()
    module = job.skeleton.model.get_submodule(block.name)
    size = job.recipe.tuning.batch_size
    after = streams.next_of(FULL)
    with observing(module, names, into=importance), torch.no_grad():
        for start in range(0, len(streams.full), size):
            part = slice(start, start + size)
            importance.mask(None if streams.mask is None else streams.mask[part])
            hidden = streams.full[part].to(job.runtime.device)
            after[part] = runner.run(block.index, base, hidden=hidden).to("cpu")
            streams.rest()
    streams.full = after
    return importance


def _advance_quantized(
    job: Job, runner: BlockRunner, block: BlockPlan, weights: Mapping[str, Tensor], streams: Streams
) -> None:
    """Run the quantized chain through a finished block."""
    if not job.recipe.tuning.quantized_inputs:
        return
    size = job.recipe.tuning.batch_size
    after = streams.next_of(QUANTIZED)
    with torch.no_grad():
        for start in range(0, len(streams.quantized), size):
            part = slice(start, start + size)
            hidden = streams.quantized[part].to(job.runtime.device)
            after[part] = runner.run(block.index, weights, hidden=hidden).to("cpu")
            streams.rest()
    streams.quantized = after


def _task(
    job: Job,
    layer: LayerPlan,
    inside: Mapping[str, Tensor],
    block: BlockPlan,
    importance: Importance,
) -> Task:
    """Cut a layer's weight into groups and give them their grid."""
    assert layer.scheme is not None
    path = layer.name.removeprefix(block.name + ".")
    weight = inside[path + ".weight"]
    weight = (weight.t() if layer.transposed else weight).to(job.runtime.device)
    bits, sym = layer.scheme.bits, layer.scheme.sym
    _refuse_values(layer.name, weight, most=MAX_SCALE * 2 ** (bits - 1))
    groups = to_groups(weight, layer.scheme.group_size)
    nested = nested_of(layer.scheme)
    lowest = 0
    if nested is None:
        lowest = max(layouts.lowest_zero(output.packing) for output in job.plan.outputs)
    if job.recipe.tuning.init == "minmax":
        grid = min_max_grid(groups, bits=bits, sym=sym, lowest_zero=lowest)
        return Task(groups, grid._replace(nested=nested), layer.shape)
    driven = importance.get(path)
    if driven is not None:
        driven = importance_groups(driven, groups, in_features=layer.shape[1])
    if nested is not None:
        grid = search_nested(groups, driven, bits=bits, sym=sym, nested=nested)
    else:
        grid = search_grid(groups, driven, bits=bits, sym=sym, lowest_zero=lowest)
    return Task(groups, grid, layer.shape)


def _refuse_values(name: str, weight: Tensor, *, most: float) -> None:
    """Refuse what no grid holds: NaN, infinity, and values that a float16 scale cannot reach."""
    largest = float(weight.abs().max())  # NaN where there is one
    if not math.isfinite(largest):
        raise AutoRoundError(f"layer {name}: its weight holds NaN or infinity")
    if largest > most:
        raise AutoRoundError(
            f"layer {name}: a weight of {largest:.3g} is beyond {most:.3g}, the most that scales "
            "in float16 reach at these bits; keep the layer in 16 bit: add it to ignore"
        )


def schedule_of(recipe: Recipe, block: int) -> Schedule:
    """Return the plain numbers of one block's descent."""
    tuning = recipe.tuning
    return Schedule(
        iters=tuning.iters,
        rate=tuning.resolved_lr,
        clip_rate=tuning.resolved_minmax_lr if tuning.clips else 0.0,
        batch_size=tuning.batch_size,
        accumulate=tuning.gradient_accumulate_steps,
        checks=tuning.checks,
        check_samples=tuning.check_samples,
        # A searched range may be too narrow as well as too wide; a min-max one only too wide.
        clip_ceiling=2.0 if tuning.init == "search" else 1.0,
        seed=recipe.seed + block,
    )


def _tune(
    job: Job,
    runner: BlockRunner,
    block: BlockPlan,
    tasks: Mapping[str, Task],
    base: Mapping[str, Tensor],
    streams: Streams | None,
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
        on_step=partial(_on_step, job, streams, block.index),
    )
    if not tuned.loss_before < float("inf"):
        raise AutoRoundError(
            f"block {block.name}: its loss is {tuned.loss_before} before tuning; the model "
            "overflows in this dtype: set tuning.compute_dtype=float32"
        )
    return tuned


def _on_step(job: Job, streams: Streams, block: int, step: int, loss: float) -> None:
    streams.rest()
    job.sink(StepDone(block, step, job.recipe.tuning.iters, loss))


def _forward(
    runner: BlockRunner,
    block: BlockPlan,
    base: Mapping[str, Tensor],
    weights: Mapping[str, Tensor],
    hidden: Tensor,
) -> Tensor:
    """Run a block with some of its weights replaced; ``weights`` by layer name, [out, in]."""
    return runner.run(block.index, {**base, **as_stored(block, weights)}, hidden=hidden)


def _quantized(
    layer: LayerPlan, task: Task, roundings: Mapping[str, Rounding], *, ops: Ops
) -> Carried:
    assert layer.scheme is not None
    rounding = roundings[layer.name]
    codes, scale, zero = ops.quantize(task.groups, rounding, grid=task.grid)
    held = from_groups(codes, layer.shape).contiguous().to("cpu")
    if task.grid.nested is not None:
        parts = nested_parts(task.grid, rounding.clip_lo.detach(), rounding.clip_hi.detach())
        return nested_tensor(layer.scheme.kind, held, parts)
    return QuantizedTensor(
        held,
        scale.squeeze(-1).to("cpu"),
        zero.squeeze(-1).to("cpu"),
        layer.scheme,
    )


def _dense(job: Job, block: BlockPlan, layers: Mapping[str, Carried]) -> dict[str, Tensor]:
    weights = {
        name: dense(layer).to(job.runtime.device, job.compute) for name, layer in layers.items()
    }
    return as_stored(block, weights)

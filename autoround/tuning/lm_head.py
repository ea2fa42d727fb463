"""After the blocks: the output head, tuned on what enters it, and towers, rounded by search.

The rows of a head are independent of each other, so a large one is tuned a range of rows at a
time, on some thousands of positions.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor

from autoround.core.batches import Samples
from autoround.core.gptq import gptq_offsets, inverse_cholesky
from autoround.core.rounding import Rounding
from autoround.core.rtn import Target, round_to_nearest
from autoround.core.tune import Hyperparameters, Reconstruction, tune
from autoround.events import StageStarted
from autoround.model.blocks import head_path
from autoround.model.runner import BlockRunner
from autoround.model.stacked_experts import as_matrix
from autoround.planning.hyperparameters import hyperparameters_for, uses_gptq
from autoround.session.session import BlockOutput, Session, planned_outside
from autoround.tuning.targets import make_target, quantize_target
from autoround.types import BlockResult, LayerPlan, QuantizedTensor

#: Positions that a head is tuned on, and those of one step.
POSITIONS = 4096
STEP_POSITIONS = 512
#: Weights of a head that are tuned at a time.
ROWS_ELEMENTS = 1 << 24


def quantize_non_block_layers(
    job: Session, runner: BlockRunner, full: Tensor | None, quantized: Tensor | None
) -> BlockOutput | None:
    """Quantize what the plan says outside the blocks; None when it says nothing.

    full, quantized: [n, seq, hidden], what the last block put out in the original and in the
    quantized model; None where the recipe needs no data.
    """
    layers = planned_outside(job)
    if not layers:
        return None
    job.sink(StageStarted("outside", ", ".join(x.name for x in layers[:3])))
    started = time.perf_counter()
    head = head_path(job.skeleton.model)
    before = after = float("nan")
    found: dict[str, QuantizedTensor] = {}
    for layer in layers:
        if layer.name == head and full is not None and quantized is not None:
            inputs = _head_inputs(job, runner, full, quantized)
            found[layer.name], before, after = _tuned_head(job, layer, inputs)
            continue
        task = make_target(job, layer, read_matrix(job, layer), None)
        rounding = round_to_nearest({layer.name: task})[layer.name]
        held = quantize_target(layer, task, rounding, ops=job.runtime.ops)
        assert isinstance(held, QuantizedTensor)
        found[layer.name] = held
    result = BlockResult(
        len(job.plan.blocks),
        "outside the blocks",
        before,
        after,
        time.perf_counter() - started,
        job.recipe.tuning.iters,
        0,
        job.runtime.peak_bytes(),
    )
    return BlockOutput(dict(found), {}, result)


def read_matrix(job: Session, layer: LayerPlan) -> Tensor:
    """Read a layer's weight, [out, in]; that of a head may be the embeddings'."""
    name = job.skeleton.tied.get(layer.tensor, layer.tensor)
    return as_matrix(layer, job.skeleton.read([name])[name])


def _head_inputs(job: Session, runner: BlockRunner, full: Tensor, quantized: Tensor) -> Tensor:
    """Return what enters the head at some positions: [positions, 2 * hidden].

    The first half is the quantized model's, the second the original's.
    """
    assert job.tokens is not None
    real = job.tokens.mask.reshape(-1).nonzero().squeeze(-1)
    drawn = torch.randperm(len(real), generator=torch.Generator().manual_seed(job.recipe.seed))
    chosen = real[drawn[:POSITIONS].sort().values]
    outer = runner.outer()
    parts = []
    for stream in (quantized, full):
        hidden = stream.reshape(-1, stream.shape[-1])[chosen].to(job.runtime.device)
        parts.append(runner.head_inputs(outer, hidden[None])[0])
    return torch.cat(parts, dim=-1)


def _tuned_head(
    job: Session, layer: LayerPlan, inputs: Tensor
) -> tuple[QuantizedTensor, float, float]:
    """Tune a head by ranges of rows; returns it, and its loss before and after."""
    weight = read_matrix(job, layer)
    width = weight.shape[1]
    original = inputs[:, width:].float()
    driven = original.square().mean(0)
    factor = inverse_cholesky(original.t() @ original) if uses_gptq(job.recipe) else None
    step = max(1, ROWS_ELEMENTS // width)
    if layer.scheme is not None and layer.scheme.group_size == 0:
        step = len(weight)  # one scale for all of it
    parts: list[QuantizedTensor] = []
    before = after = 0.0
    for rows in weight.split(step):
        task = make_target(job, layer, rows, driven)
        if factor is not None:
            offsets = gptq_offsets(task, factor, round_block=job.runtime.ops.gptq_block)
            task = task._replace(offsets=offsets)
        rounding, first, last = _tuned_rows(job, layer.name, task, rows, inputs)
        held = quantize_target(layer, task, rounding, ops=job.runtime.ops)
        assert isinstance(held, QuantizedTensor)
        parts.append(held)
        share = len(rows) / len(weight)
        before, after = before + first * share, after + last * share
    whole = QuantizedTensor(
        torch.cat([part.codes for part in parts]),
        torch.cat([part.scale for part in parts]),
        torch.cat([part.zero for part in parts]),
        parts[0].scheme,
    )
    return whole, before, after


def _tuned_rows(
    job: Session, name: str, task: Target, rows: Tensor, inputs: Tensor
) -> tuple[Rounding, float, float]:
    weight = rows.to(job.runtime.device, job.compute)
    samples = inputs.to(job.compute)[:, None, :]
    nothing = torch.zeros((len(inputs), 1, 1), dtype=job.compute)
    problem = Reconstruction(
        partial(_difference, name, weight), {name: task}, Samples(samples, nothing, None)
    )
    tuned = tune(problem, _schedule(job), ops=job.runtime.ops, dtype=job.compute)
    return tuned.roundings[name], tuned.loss_before, tuned.loss_after


def _schedule(job: Session) -> Hyperparameters:
    """Return the schedule of a block, with positions in place of samples."""
    plain = hyperparameters_for(job.recipe, len(job.plan.blocks))
    return plain._replace(
        batch_size=STEP_POSITIONS, grad_accum_steps=1, validation_samples=POSITIONS // 4
    )


def _difference(
    name: str, original: Tensor, weights: Mapping[str, Tensor], inputs: Tensor, rows: Tensor | None
) -> Tensor:
    """Return by how much a head's answers differ; inputs [batch, 1, 2 * hidden]."""
    del rows
    own, wanted = inputs.chunk(2, dim=-1)
    return own @ weights[name].t() - wanted @ original.t()

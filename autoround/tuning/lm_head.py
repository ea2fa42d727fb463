"""Layers outside the blocks: the lm-head, tuned on its inputs, and towers, rounded by search.

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
from autoround.core.gptq import InverseCholesky, gptq_offsets, inverse_choleskys
from autoround.core.reconstruction import Hyperparameters, Reconstruction
from autoround.core.rtn import Target
from autoround.events import StageStarted
from autoround.model.runner import BlockRunner
from autoround.model.stacked_experts import as_matrix
from autoround.session.activations import ActivationStreams
from autoround.session.block_output import BlockOutput
from autoround.session.session import Session
from autoround.settings import GPTQ
from autoround.tuning.layer_errors import relative_error
from autoround.tuning.reconstruct import (
    TunedWeights,
    hyperparameters_for,
    round_weights,
    tune_weights,
)
from autoround.tuning.step_memory import StepMemory
from autoround.tuning.targets import make_target
from autoround.types import NON_BLOCK, BlockResult, LayerPlan, QuantizedTensor

#: Positions that a head is tuned on, and those of one step.
POSITIONS = 4096
STEP_POSITIONS = 512
#: Weights of a head that are tuned at a time.
ROWS_ELEMENTS = 1 << 24


def quantize_non_block_layers(
    session: Session, runner: BlockRunner, streams: ActivationStreams | None
) -> BlockOutput:
    """Quantize the layers outside the blocks that the plan gives a scheme.

    Args:
        session: the pass.
        runner: runs what lies between the last block and the head.
        streams: outputs of the last block; None where the plan needs no data.

    Returns:
        One more unit after the blocks.
    """
    layers = session.non_block_layers
    session.sink(StageStarted("outside", ", ".join(x.name for x in layers[:3])))
    started = time.perf_counter()
    before = after = float("nan")
    weights: dict[str, QuantizedTensor] = {}
    errors: dict[str, float] = {}
    for layer in layers:
        weight = read_matrix(session, layer)
        if layer.name == session.tuning.tuned_head and streams is not None:
            inputs = _head_inputs(session, runner, streams)
            weights[layer.name], before, after = _tune_head(session, layer, weight, inputs)
        else:
            target = make_target(session, layer, weight, None)
            weights[layer.name] = _plain(
                layer, round_weights(session, [layer], {layer.name: target})
            )
        errors[layer.name] = relative_error(weight, weights[layer.name])
    result = BlockResult(
        len(session.plan.blocks),
        NON_BLOCK,
        before,
        after,
        max(0.0, time.perf_counter() - started),
        session.tuning.iters,
        0,
        session.runtime.peak_bytes(),
        kind="non_block",
        layer_errors=errors,
        peak_reserved_bytes=session.runtime.peak_reserved_bytes(),
    )
    return BlockOutput(dict(weights), {}, result)


def _plain(layer: LayerPlan, tuned: TunedWeights) -> QuantizedTensor:
    """Return a layer's weight; only blocks of GGUF types hold scales in super-blocks."""
    weight = tuned.weights[layer.name]
    assert isinstance(weight, QuantizedTensor)
    return weight


def read_matrix(session: Session, layer: LayerPlan) -> Tensor:
    """Read a layer's weight, [out, in]; that of a head may be the embeddings'."""
    name = session.skeleton.tied.get(layer.tensor, layer.tensor)
    return as_matrix(layer, session.skeleton.read([name])[name])


def _head_inputs(session: Session, runner: BlockRunner, streams: ActivationStreams) -> Tensor:
    """Return the head's inputs at some positions.

    Returns:
        [positions, 2 * hidden]: those of the quantized model first, then the original's.
    """
    assert session.tokens is not None
    quantized = streams.quantized if session.tuning.quantized_inputs else streams.full
    real = session.tokens.mask.reshape(-1).nonzero().squeeze(-1)
    generator = torch.Generator().manual_seed(session.tuning.seed)
    order = torch.randperm(len(real), generator=generator)
    # Sorted, so that a stream on the disk is read from its beginning to its end.
    chosen = real[order[:POSITIONS].sort().values]
    outer = runner.outer()
    parts = []
    for stream in (quantized, streams.full):
        hidden = stream.reshape(-1, stream.shape[-1])[chosen].to(session.runtime.device)
        parts.append(runner.head_inputs(outer, hidden[None])[0])
    return torch.cat(parts, dim=-1)


def _tune_head(
    session: Session, layer: LayerPlan, weight: Tensor, inputs: Tensor
) -> tuple[QuantizedTensor, float, float]:
    """Tune a head by ranges of rows; returns it, and its loss before and after."""
    width = weight.shape[1]
    original = inputs[:, width:].float()
    importance = original.square().mean(0)
    factor = None
    if session.tuning.layer(layer.name).init_rounding == GPTQ:
        hessian = original.t() @ original
        factor = inverse_choleskys([hessian], queued=session.runtime.own_memory)[0]
    memory = StepMemory(session, units="positions", give_up=lambda on_host: None)
    step = max(1, ROWS_ELEMENTS // width)
    if layer.scheme is not None and layer.scheme.group_size == 0:
        step = len(weight)  # one scale for all of it
    parts: list[QuantizedTensor] = []
    before = after = 0.0
    for rows in weight.split(step):
        target = _target(session, layer, rows, importance, factor)
        tuned = memory.run(
            partial(_tune_rows, session, layer, target, rows, inputs, memory),
            where=f"layer {layer.name}",
            batch=STEP_POSITIONS,
        )
        parts.append(_plain(layer, tuned))
        share = len(rows) / len(weight)
        before, after = before + tuned.loss_before * share, after + tuned.loss_after * share
    whole = QuantizedTensor(
        torch.cat([part.codes for part in parts]),
        torch.cat([part.scale for part in parts]),
        torch.cat([part.zero for part in parts]),
        parts[0].scheme,
    )
    return whole, before, after


def _target(
    session: Session,
    layer: LayerPlan,
    rows: Tensor,
    importance: Tensor,
    factor: InverseCholesky | None,
) -> Target:
    """Group some rows of the head, give them their grid, and initialise their rounding."""
    target = make_target(session, layer, rows, importance)
    if factor is None:
        return target
    offsets = gptq_offsets(target, factor, round_block=session.runtime.ops.gptq_block)
    return target._replace(offsets=offsets)


def _tune_rows(
    session: Session,
    layer: LayerPlan,
    target: Target,
    rows: Tensor,
    inputs: Tensor,
    memory: StepMemory,
) -> TunedWeights:
    """Tune some rows to put out on the quantized model's inputs what they do on the original's."""
    dtype = session.compute_dtype
    weight = rows.to(session.runtime.device, dtype)
    samples = inputs.to(dtype)[:, None, :]
    nothing = torch.zeros((len(inputs), 1, 1), dtype=dtype)
    problem = Reconstruction(
        partial(_difference, layer.name, weight),
        {layer.name: target},
        Samples(samples, nothing, None),
    )
    hyperparameters = memory.fit(_hyperparameters(session))
    return tune_weights(session, [layer], problem, hyperparameters=hyperparameters)


def _hyperparameters(session: Session) -> Hyperparameters:
    """Return those of a block, with positions in place of samples."""
    plain = hyperparameters_for(session.tuning, len(session.plan.blocks))
    return plain._replace(
        batch_size=STEP_POSITIONS, grad_accum_steps=1, validation_samples=POSITIONS // 4
    )


def _difference(
    name: str,
    original: Tensor,
    weights: Mapping[str, Tensor],
    inputs: Tensor,
    rows: Tensor | None,
) -> Tensor:
    """Return by how much the logits of the quantized and the original head differ.

    Args:
        name: of the head.
        original: its own weight [rows, hidden].
        weights: the rounded one, by name.
        inputs: [batch, 1, 2 * hidden], of the quantized model and of the original.
        rows: which positions these are; all are alike.
    """
    del rows
    quantized, full = inputs.chunk(2, dim=-1)
    return quantized @ weights[name].t() - full @ original.t()

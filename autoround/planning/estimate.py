"""What a run will cost, from shapes and a short measurement; nothing is read or run."""

from __future__ import annotations

import math
from typing import NamedTuple

from autoround.core.dtypes import DTYPES
from autoround.core.metrics import weight_bits
from autoround.device.protocol import Runtime
from autoround.formats.registry import format_of, layout_named, matrix_bytes
from autoround.formats.written import part_shape
from autoround.model.skeleton import Skeleton
from autoround.planning.device_memory import experts_per_token
from autoround.planning.gguf_tensors import gguf_layout
from autoround.planning.memory import graphs_fit, memory_needs, offload_to_disk, streams_fit_device
from autoround.planning.tail import tail_seconds
from autoround.recipe.gate import NONE
from autoround.types import (
    PLAIN,
    Estimate,
    LayerPlan,
    OutputPlan,
    Plan,
)

#: Share of the measured matmul speed that a tuning step reaches: worst and best seen.
EFFICIENCY = (0.25, 0.9)
#: Seconds that compiling blocks takes once: where libraries of an earlier run are kept, and where
#: none are.
COMPILING = (10.0, 60.0)


def make_estimate(
    plan: Plan,
    skeleton: Skeleton,
    *,
    runtime: Runtime,
    budget: int | None = None,
    journal: bool = True,
) -> Estimate:
    """Work out size, memory and time of a plan.

    Bytes on disk are those of the tensors, exactly; file headers add a few kilobytes.

    budget: bytes of memory; what does not fit goes to the disk where it can. journal: whether
    anything is kept on the disk while the run lasts.
    """
    needs = memory_needs(plan, skeleton, runtime)
    stays = streams_fit_device(needs, plan, runtime)
    on_disk = budget if journal else None
    in_host = needs._replace(streams=0 if stays else needs.streams)
    mapped, packed = offload_to_disk(in_host, on_disk)
    if stays and mapped:
        # Streams are in files all together, or none of them is.
        stays, in_host = False, needs
        mapped, packed = offload_to_disk(in_host, on_disk)
    held = graphs_fit(needs, plan, runtime, budget)
    on_host, on_device = (
        needs.graphs * (held and runtime.own_memory is own) for own in (False, True)
    )
    size = disk_bytes(plan, skeleton)
    top_k = experts_per_token(skeleton)
    share = size / len(plan.passes)
    spans = [_seconds(one, runtime, top_k, written=share) for one in plan.passes]
    low, high = sum(span[0] for span in spans), sum(span[1] for span in spans)
    return Estimate(
        disk_bytes=size,
        source_bytes=sum(math.prod(s) * d.itemsize for s, d in skeleton.source.headers().values()),
        memory_bytes=needs.block
        + (0 if mapped else in_host.streams + needs.fresh)
        + (0 if packed else needs.codes)
        + on_host,
        seconds_low=low,
        seconds_high=high,
        bits_per_weight=quantized_bits(plan),
        block_bits=block_bits(plan),
        device_bytes=needs.device + (needs.streams if stays else 0) + on_device,
        stream_bytes=needs.streams + needs.fresh,
        journal_bytes=needs.journal if journal else 0,
        streams_on_disk=mapped,
        streams_on_device=stays,
        codes_on_disk=packed,
        graphs_held=held,
        journal=journal,
        device_phase=needs.device_phase,
        low_device_bytes=needs.device_low,
    )


def quantized_bits(plan: Plan) -> float:
    """Return the bits on the disk of a quantized weight of the blocks, in the first format."""
    layers = [layer for block in plan.blocks for layer in block.quantized]
    bits = sum(stored_bits(x, plan.outputs[0]) for x in layers)
    return bits / sum(math.prod(x.shape) for x in layers)


def block_bits(plan: Plan) -> float:
    """Return the bits on the disk of a weight of the blocks, layers kept in 16 bit included."""
    layers = [layer for block in plan.blocks for layer in block.layers]
    kept = 8 * DTYPES[plan.dtype].itemsize
    bits = sum(
        math.prod(x.shape) * kept if x.scheme is None else stored_bits(x, plan.outputs[0])
        for x in layers
    )
    return bits / sum(math.prod(x.shape) for x in layers)


def stored_bits(layer: LayerPlan, output: OutputPlan) -> int:
    """Return the bits of a quantized layer in the files, all that stands beside its codes included.

    Formats that write weights out in 16 bit store none of that: there it is what the layer's codes,
    scales and zero points would take.
    """
    assert layer.scheme is not None
    written = layer.scheme.kind == PLAIN and not format_of(output).gguf_types
    if not written or layout_named(output.packing).dense:
        return weight_bits(layer.shape, layer.scheme)
    return 8 * layer_bytes(layer, output.packing)


def disk_bytes(plan: Plan, skeleton: Skeleton) -> int:
    """Return the bytes of all tensors the plan writes, in all of its formats."""
    return sum(output_bytes(one, output, skeleton) for one in plan.passes for output in one.outputs)


def output_bytes(plan: Plan, output: OutputPlan, skeleton: Skeleton) -> int:
    """Return the bytes of the tensors of one format."""
    if format_of(output).gguf_types:
        return gguf_layout(skeleton, output, ignored=plan.unquantized).size()
    quantized = {x.tensor: x for x in plan.layers if x.scheme is not None}
    dense = layout_named(output.packing).dense
    # A head that shares its weight with the embeddings is written beside them.
    total = 0
    for x in quantized.values():
        if x.tensor in skeleton.tied:
            plain = math.prod(x.shape) * DTYPES[output.dtype].itemsize
            total += plain if dense else layer_bytes(x, output.packing)
    for name in skeleton.keys:
        if name in quantized and not dense:
            total += layer_bytes(quantized[name], output.packing)
            continue
        shape, dtype = skeleton.header(name)
        converted = dtype.is_floating_point and name not in plan.float32
        written = DTYPES[output.dtype] if converted else dtype
        total += math.prod(shape) * written.itemsize
    for name in skeleton.unmapped:
        shape, dtype = skeleton.source.headers()[name]
        total += math.prod(shape) * dtype.itemsize
    return total


def layer_bytes(layer: LayerPlan, packing: str) -> int:
    """Return the bytes of one quantized layer as it is laid out."""
    assert layer.scheme is not None
    return matrix_bytes(part_shape(layer), layer.scheme, packing) * (
        max(1, layer.experts) * layer.parts
    )


def _seconds(plan: Plan, runtime: Runtime, top_k: int, *, written: float) -> tuple[float, float]:
    """Bound the time of a pass by floating-point operations at the measured speed, and bytes."""
    if not plan.tuning.needs_data:
        return 1.0, 60.0 + plan.tensors
    dtype = DTYPES[plan.compute_dtype]
    speed = next((s.flops for s in runtime.speeds() if s.dtype == dtype), 0.0)
    if speed <= 0:
        return 0.0, float("inf")
    work = plan_work(plan, experts_per_token=top_k)
    ideal = 2.0 * (work.blocks + work.fresh + work.end_to_end) / speed
    tail = tail_seconds(plan, written)
    kept, anew = COMPILING if plan.compiled else (0.0, 0.0)
    return ideal / EFFICIENCY[1] + tail + kept, ideal / EFFICIENCY[0] + tail + anew


def _met_by_token(layer: LayerPlan, top_k: int) -> int:
    """Return how many weights of a layer a token is multiplied by."""
    weights = math.prod(layer.shape)
    return weights * top_k // layer.experts if 0 < top_k < layer.experts else weights


class PlanWork(NamedTuple):
    """Multiplications of one pass, by phase: of its blocks, end to end, of the gate; 0 for none.

    fresh: of the samples that end-to-end tuning has to itself, on their way through the blocks.
    """

    blocks: float
    end_to_end: float
    gate: float
    fresh: float = 0.0


def plan_work(plan: Plan, *, experts_per_token: int = 0) -> PlanWork:
    """Count the multiplications by weights that a pass takes.

    Args:
        plan: of the pass; without data nothing is multiplied in its blocks.
        experts_per_token: how many experts a token is routed to; 0 counts all of them.
    """
    weights = sum(_met_by_token(x, experts_per_token) for b in plan.blocks for x in b.layers)
    outside = sum(math.prod(x.shape) for x in plan.kept)
    # By the result and by the original, which is loaded in float32.
    options = plan.recipe.get("evaluation", {})
    judged = 0.0 if options.get("gate", NONE) == NONE else 2.0 * options["max_tokens"]
    gate = judged * (weights + outside)
    tuning, seqlen = plan.tuning, plan.tuning.seqlen
    if not tuning.needs_data:
        return PlanWork(0.0, 0.0, gate)
    batch = min(tuning.batch_size, tuning.nsamples) * seqlen
    steps = tuning.iters * tuning.grad_accum_steps
    validation = (1 + tuning.num_validations) * tuning.validation_samples * seqlen
    # A product forward, one for the weights' gradients, one for the inputs'; both streams.
    passes = 3 * steps * batch + validation + 2 * tuning.nsamples * seqlen
    # Over the whole model: a product forward, another when it runs again for the two backward.
    whole_model = 4 * tuning.end_to_end.steps * tuning.end_to_end.batch_size * seqlen
    fresh = weights * tuning.end_to_end.nsamples * seqlen
    return PlanWork(
        float(weights * passes), float((weights + outside) * whole_model), gate, float(fresh)
    )

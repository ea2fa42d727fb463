"""What a run will cost, from shapes and a short measurement; nothing is read or run."""

from __future__ import annotations

import math

from autoround.core.dtypes import DTYPES
from autoround.core.metrics import weight_bits
from autoround.device.protocol import Runtime
from autoround.formats.registry import format_of, layout_named, matrix_bytes
from autoround.formats.written import part_shape
from autoround.model.skeleton import Skeleton
from autoround.planning.device_memory import experts_per_token
from autoround.planning.gguf_tensors import gguf_layout
from autoround.planning.memory import graphs_fit, memory_needs, offload_to_disk, streams_fit_device
from autoround.planning.seconds import pass_seconds
from autoround.types import PLAIN, Estimate, LayerPlan, OutputPlan, Plan


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
    spans = [pass_seconds(one, runtime, top_k, written=share) for one in plan.passes]
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

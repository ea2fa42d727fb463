"""What a run holds in memory at its peak, and what goes to the disk where that is too much."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

from autoround.core.dtypes import DTYPES
from autoround.core.metrics import weight_bits
from autoround.device.protocol import Runtime
from autoround.device.registry import open_device
from autoround.errors import UsageError
from autoround.model.positions import hidden_size
from autoround.model.skeleton import Skeleton
from autoround.planning.device_memory import (
    UNKNOWN_WIDTH,
    device_peaks,
    experts_per_token,
)
from autoround.settings import TuningSettings
from autoround.types import Estimate, Plan

#: Memory of Python, torch and transformers before a model is opened: 530 to 540 MB were measured.
BASE_BYTES = 560 << 20
#: float32 copies of a block's weights that tuning holds at its peak: groups, offsets, their
#: best values, gradients, and rounded weights with their gradients.
TUNING_COPIES = 7
#: What the compiler of blocks leaves in memory.
COMPILER_BYTES = 200 << 20
#: What oneDNN keeps of products in 16 bit on a processor, by shape: so many at most, bytes of each,
#: and of each of its rows. Routing gives experts another number of tokens in every batch, and so
#: another shape.
PRIMITIVES, PRIMITIVE_BYTES, PRIMITIVE_ROW_BYTES = 1024, 600_000, 256
#: Activations a token in float32, in the block's widest: of a step, and of a forward pass alone.
STEP_WIDTHS, FORWARD_WIDTHS = 12, 5
#: Share of the free memory that a run may plan with.
SHARE = 0.9
#: Activations a token that a block's graph holds, in the block's widest: 7 were measured where
#: blocks are compiled, and what is not fused holds more.
GRAPH_WIDTHS = 16
#: Share of the memory that a run may use above which graphs of all blocks are not held: it is
#: time alone that they save, a sixth of a step.
GRAPHS_SHARE = 0.25


class MemoryNeeds(NamedTuple):
    """Bytes at the peak.

    block: whatever the number of blocks and samples: the program, one block being tuned, the
    embeddings. streams: both chains of activations. fresh: that of the samples which end-to-end
    tuning has to itself, never on a device. codes: of all blocks, where they are needed
    together. device: on a device with memory of its own, streams not counted.
    journal: on the disk while the run lasts. graphs: of all blocks in a step over the whole model,
    with their unpacked weights; in none of the others, since blocks can run again instead.
    device_phase: of the run, when the device's peak is. device_low: what ``low_memory`` would need.
    """

    block: int
    streams: int
    codes: int
    device: int
    journal: int
    graphs: int = 0
    device_phase: str = ""
    device_low: int = 0
    fresh: int = 0


def memory_needs(plan: Plan, skeleton: Skeleton, runtime: Runtime) -> MemoryNeeds:
    """Work out what a plan needs, from shapes.

    Args:
        plan: of all passes. skeleton: the model. runtime: of the device.
    """
    needs = _host_needs(plan, skeleton, on_host=not runtime.own_memory)
    if not runtime.own_memory:
        return needs
    total = runtime.memory().total
    peaks = device_peaks(plan, skeleton).on(total)
    phase = max(peaks, key=lambda name: peaks[name])
    sparing = plan.tuning if plan.tuning.low_memory else in_little_memory(plan.tuning)
    least = device_peaks(replace(plan, tuning=sparing), skeleton).on(total)
    return needs._replace(device=peaks[phase], device_phase=phase, device_low=max(least.values()))


def in_little_memory(tuning: TuningSettings) -> TuningSettings:
    """Return hyperparameters as they are settled with ``low_memory``.

    Args:
        tuning: of a plan without.
    """
    return replace(tuning, low_memory=True, forward_batch_size=1)


def _host_needs(plan: Plan, skeleton: Skeleton, *, on_host: bool) -> MemoryNeeds:
    """Return what the host needs, with the tuning on it or elsewhere, and what there is in all."""
    block = max(sum(math.prod(x.shape) for x in b.layers) for b in plan.blocks)
    item = DTYPES[plan.compute_dtype].itemsize
    # The last check embeds in float32; tuning has the embeddings in its dtype, before the blocks.
    outside = sum(math.prod(skeleton.header(n)[0]) * 4 for n in skeleton.names_outside_blocks())
    if not plan.tuning.needs_data:
        return MemoryNeeds(BASE_BYTES + outside + block * 4 * 4, 0, 0, 0, 0)
    tokens = plan.tuning.nsamples * plan.tuning.seqlen
    batch = plan.tuning.forward_batch_size * plan.tuning.seqlen
    top_k = experts_per_token(skeleton)
    widest = _widest(plan, top_k)
    hidden = plan.streams * (hidden_size(skeleton.model) or UNKNOWN_WIDTH)
    streams = tokens * hidden * item
    fresh = plan.tuning.end_to_end.nsamples * plan.tuning.seqlen * hidden * item
    activations = (STEP_WIDTHS if plan.tuning.iters else FORWARD_WIDTHS) * batch * widest * 4
    tuning = block * 4 * TUNING_COPIES + activations
    if plan.tuning.uses_gptq:
        # Products of all pairs of input channels, their factor, and the offsets.
        pairs = max(sum(x.shape[1] ** 2 for x in b.quantized if not x.experts) for b in plan.blocks)
        tuning += 4 * (pairs + 3 * max(x.shape[1] for b in plan.blocks for x in b.layers) ** 2)
        tuning += 4 * block
    codes = graphs = 0
    if plan.tuning.end_to_end.steps > 0:
        # The inputs of every block, the averages of the scales, and the head.
        layers = [x for b in plan.blocks for x in b.quantized if x.scheme is not None]
        codes = sum(math.prod(x.shape) for x in layers)
        step = plan.tuning.end_to_end.batch_size * plan.tuning.seqlen
        graphs = item * (codes + len(plan.blocks) * GRAPH_WIDTHS * step * widest)
        scales = sum(math.prod(x.shape) // max(x.scheme.group_size, 64) for x in layers if x.scheme)
        course = block * 4 * 3 + activations + len(plan.blocks) * step * hidden * item + scales * 16
        if plan.tuning.end_to_end.tune_codes:
            # The codes of before, those that move, and how far each leans, all at hand.
            course, codes = course + 3 * codes, 0
        tuning = max(tuning, course)
    base = BASE_BYTES + COMPILER_BYTES * plan.compiled + on_host * _kept_products(plan, top_k)
    return MemoryNeeds(
        base + outside + (tuning if on_host else block * 4 * 2),
        2 * streams,
        codes,
        0,
        _journal(plan) + 2 * (len(plan.tuning.streams) * streams + fresh),
        graphs,
        fresh=fresh,
    )


def _kept_products(plan: Plan, top_k: int) -> int:
    """Return the bytes that a processor's library keeps of the products of routed experts."""
    experts = [x.experts for block in plan.blocks for x in block.layers if x.experts]
    if not experts or DTYPES[plan.compute_dtype].itemsize != 2:
        return 0
    tuning = plan.tuning
    forward = 2 * math.ceil(tuning.nsamples / tuning.forward_batch_size)
    # A product forward, one for the weights' gradients, one for the inputs'.
    times = forward + 3 * tuning.iters * tuning.grad_accum_steps
    rows = tuning.batch_size * tuning.seqlen * (top_k or max(experts)) // max(experts)
    each = PRIMITIVE_BYTES + PRIMITIVE_ROW_BYTES * rows
    return min(PRIMITIVES, times * sum(experts)) * each


def _widest(plan: Plan, top_k: int) -> int:
    """Return the numbers a token has where a block is widest, in all experts it is routed to."""
    return max(
        max(x.shape[0] // max(1, x.experts), x.shape[1]) * (min(top_k, x.experts) or 1)
        for b in plan.blocks
        for x in b.layers
    )


def _journal(plan: Plan) -> int:
    """Return the bytes of the records of all blocks, in all passes."""
    layers = [x for one in plan.passes for b in one.blocks for x in b.quantized]
    return sum(weight_bits(x.shape, x.scheme) // 8 for x in layers if x.scheme is not None)


def host_budget(runtime: Runtime, max_memory: int | None) -> int | None:
    """Return the memory that a run may use: what was asked for, or most of what is free.

    None where nothing is known.
    """
    if max_memory is not None:
        return max_memory
    host = open_device("cpu") if runtime.own_memory else runtime
    free = host.memory().free
    return int(SHARE * free) if free > 0 and runtime.device.type != "meta" else None


def streams_fit_device(needs: MemoryNeeds, plan: Plan, runtime: Runtime) -> bool:
    """Tell whether the streams fit the device, beside all else that it holds."""
    if not runtime.own_memory or plan.tuning.low_memory or not needs.streams:
        return False
    return needs.device + needs.streams <= SHARE * runtime.memory().free


def offload_to_disk(needs: MemoryNeeds, budget: int | None) -> tuple[bool, bool]:
    """Choose what goes from the host's memory to the disk: streams, and codes of all blocks."""
    if budget is None:
        return False, False
    streams = needs.streams + needs.fresh
    mapped = streams > 0 and needs.block + streams + needs.codes > budget
    packed = needs.codes > 0 and mapped and needs.block + needs.codes > budget
    return mapped, packed


def graphs_fit(needs: MemoryNeeds, plan: Plan, runtime: Runtime, budget: int | None) -> bool:
    """Tell whether to hold the graphs of all blocks in a step over the whole model."""
    if runtime.own_memory:
        room = int(SHARE * runtime.memory().free)
        left = room - needs.device - needs.streams
    elif budget is not None:
        room = budget
        left = budget - needs.block - needs.streams - needs.fresh - needs.codes
    else:
        return False
    return not plan.tuning.low_memory and 0 < needs.graphs <= min(left, GRAPHS_SHARE * room)


def refuse_too_little(estimate: Estimate, max_memory: int | None) -> None:
    """Refuse a budget that one block does not fit.

    Raises:
        UsageError: with both figures.
    """
    if max_memory is not None and estimate.memory_bytes > max_memory:
        needed = f"about {estimate.memory_bytes / 1e9:.1f} GB of memory are needed"
        if not estimate.journal:
            raise UsageError(
                f"{needed} where nothing goes to the disk (--no-journal, journal=False), and "
                f"--max-memory allows {max_memory / 1e9:.1f} GB: leave --no-journal out, or allow "
                "more"
            )
        raise UsageError(
            f"{needed} for one block with "
            f"all else on the disk, and --max-memory allows {max_memory / 1e9:.1f} GB: lower "
            "tuning.batch_size or calibration.seqlen, or allow more"
        )


def memory_warnings(
    estimate: Estimate, plan: Plan, runtime: Runtime, budget: int | None
) -> list[str]:
    """Say in words where memory will be short."""
    found = []
    if budget is not None and estimate.memory_bytes > budget:
        found.append(_short(estimate.memory_bytes, int(budget / SHARE), ""))
    hint = "" if plan.tuning.low_memory else ", or take --low-memory"
    if hint and estimate.low_device_bytes:
        hint += f", which needs about {estimate.low_device_bytes / 1e9:.1f} GB"
    free = runtime.memory().free if estimate.device_bytes else 0
    if 0 < free < estimate.device_bytes:
        found.append(_short(estimate.device_bytes, free, f" on {runtime.device}") + hint)
    return found


def _short(needed: int, free: int, where: str) -> str:
    return (
        f"about {needed / 1e9:.1f} GB of memory{where} will be needed, and {free / 1e9:.1f} GB "
        "are free: lower tuning.batch_size or calibration.seqlen"
    )

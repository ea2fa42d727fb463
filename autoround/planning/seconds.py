"""The time of a run as a range: from shapes, a measured speed of products, and paces of the rest.

The paces are of one core of a Xeon with AMX: rounding, searching scales, error compensation and
steps of SmolLM2-135M, of a small llama and of a small mixture, by the parts of their probes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from autoround.core.dtypes import DTYPES
from autoround.device.protocol import Runtime
from autoround.planning.tail import tail_seconds
from autoround.planning.work import plan_work
from autoround.types import BlockPlan, LayerPlan, Plan

#: Share of the measured matmul speed that a tuning step reaches: worst and best seen.
EFFICIENCY = (0.25, 0.9)
#: Seconds that compiling blocks takes once: where libraries of an earlier run are kept, and where
#: none are.
COMPILING = (10.0, 60.0)
#: Seconds of a weight of the blocks: read, rounded, compared and packed; its scale searched; and in
#: a step what is no product.
HANDLE_SECONDS, SEARCH_SECONDS, STEP_SECONDS = 2.5e-8, 3e-7, 1.2e-8
#: How far these may be off, on other machines and in other shapes; and what comes behind blocks.
PACE, TAIL_PACE = (0.4, 2.5), (0.8, 1.25)
#: How many times faster a device with memory of its own searches and steps than a core.
DEVICE_GAIN = 30.0


def pass_seconds(
    plan: Plan, runtime: Runtime, top_k: int, *, written: float
) -> tuple[float, float]:
    """Bound the time of a pass.

    Args:
        plan: of the pass.
        runtime: of the device, whose products are measured.
        top_k: experts that a token is routed to; 0 for no mixture.
        written: bytes of the pass's files.

    Returns:
        Seconds, at least and at most: 0 and infinity where nothing is known of the device.
    """
    tuning = plan.tuning
    weights = sum(math.prod(x.shape) for block in plan.blocks for x in block.quantized)
    seconds, low, high = HANDLE_SECONDS * weights, 0.0, 0.0
    if tuning.needs_data:
        dtype = DTYPES[plan.compute_dtype]
        speed = next((s.flops for s in runtime.speeds() if s.dtype == dtype), 0.0)
        if speed <= 0:
            return 0.0, float("inf")
        gain = DEVICE_GAIN if runtime.own_memory else 1.0
        seconds += _beside_products(plan, speed, weights) / gain
        work = plan_work(plan, experts_per_token=top_k)
        ideal = 2.0 * (work.blocks + work.fresh + work.end_to_end) / speed
        # Attention is no product with weights; what it takes is only known to be below this.
        most = ideal * (1 + _attention_share(plan.blocks, tuning.seqlen))
        kept, anew = COMPILING if plan.compiled else (0.0, 0.0)
        low, high = ideal / EFFICIENCY[1] + kept, most / EFFICIENCY[0] + anew
    tail = tail_seconds(plan, written)
    low += PACE[0] * seconds / max(1, tuning.threads) + TAIL_PACE[0] * tail
    high += PACE[1] * seconds + TAIL_PACE[1] * tail
    return low, high


def _beside_products(plan: Plan, speed: float, weights: int) -> float:
    """Return the seconds on one core of searching, GPTQ, and what of steps is no product."""
    tuning = plan.tuning
    searched = SEARCH_SECONDS if tuning.init_scale == "search" else 0.0
    stepped = STEP_SECONDS * tuning.iters * tuning.grad_accum_steps
    seconds = (searched + stepped) * weights
    if tuning.uses_gptq:
        seconds += 2.0 * sum(_gptq_work(block.quantized) for block in plan.blocks) / speed
    return seconds


def _gptq_work(layers: Iterable[LayerPlan]) -> float:
    """Return the multiplications of error compensation: factors, and columns against columns.

    Layers of one input width share a Hessian; experts in one tensor are not compensated.
    """
    shapes = [layer.shape for layer in layers if not layer.experts]
    return float(
        sum(rows * columns**2 for rows, columns in shapes)
        + sum(columns**3 for columns in {columns for _, columns in shapes})
    )


def _attention_share(blocks: Iterable[BlockPlan], seqlen: int) -> float:
    """Return the multiplications of causal attention beside those with weights.

    A query meets half of the tokens, in scores and in values; the width is that of the first
    layer's input.
    """
    weights = width = 0
    for block in blocks:
        weights += sum(math.prod(x.shape) // max(1, x.experts) for x in block.layers)
        width += block.layers[0].shape[1] if block.layers else 0
    return seqlen * width / weights if weights else 0.0

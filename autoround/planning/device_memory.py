"""What a run takes of a device that has memory of its own: live bytes at their peak, by phase.

Of weights, roundings, ranges, Hessians and codes it is known how many bytes they are and when they
come and go. Activations are estimated by shapes (:mod:`autoround.planning.activations`). That
steps are recorded, and by kernels of ours, is assumed: plain torch takes temporaries of a layer
more, and where steps are not recorded less is needed. What an allocator rounds up is a share on
top. ``tools/bench/live_bytes.py`` measures the same on a device that is none.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from autoround.core.dtypes import DTYPES
from autoround.model.positions import hidden_size, text_config
from autoround.model.skeleton import Skeleton
from autoround.planning.activations import (
    FLOAT32,
    TOP_K,
    TOP_K_KEYS,
    BlockShape,
    block_shape,
    groups_of,
    weights_of,
)
from autoround.planning.gptq_layers import (
    gptq_layers,
    hessian_bytes,
    layers_by_input,
    widest_stack,
)
from autoround.types import Plan

#: Width of what blocks hand on, where a config does not say.
UNKNOWN_WIDTH = 4096
#: What allocators round up, and libraries take, over the live bytes: a guess.
ROUNDED_UP = 1.05
#: Weights of a head that are tuned at a time, positions of a step of it, and in all.
HEAD_WEIGHTS, HEAD_STEP, HEAD_POSITIONS = 1 << 24, 512, 4096
#: Columns that compensation rounds at a time.
GPTQ_COLUMNS = 64
#: Positions whose logits are there at once in end-to-end tuning.
LOGIT_POSITIONS = 128
#: Least columns of a Hessian that are summed at a time, and how many times they are.
HESSIAN_COLUMNS, HESSIAN_PARTS = 256, 8

#: The phases of a run, in words.
EMBEDDING = "tokens are embedded"
INPUTS = "inputs of layers are observed"
STARTING = "scales and roundings are initialised"
TUNING = "a block is tuned"
PACKING = "a block is dequantized and checked"
HEAD = "the head is tuned"
END_TO_END = "the whole model is tuned"


class DevicePeaks(NamedTuple):
    """Live bytes at their peak, by phase; activation streams are not among them.

    alone: with nothing kept of the block before. beside: with its recording kept for the next.
    """

    alone: Mapping[str, int]
    beside: Mapping[str, int]

    def on(self, total: int) -> Mapping[str, int]:
        """Return the peaks on a device of so many bytes: a recording stays where half is left.

        Args:
            total: memory of the device; 0 where it is not known.
        """
        if total and 2 * max(self.alone.values()) > total:
            return self.alone
        return self.beside


class _Run(NamedTuple):
    """What all blocks share.

    item, stored: bytes of an activation, and of a stored weight. batch, forward: tokens that go
    through a block at a time in a step, and where no gradient is needed. whole: tokens of a batch.
    recorded: whether steps are.
    """

    plan: Plan
    item: int
    stored: int
    batch: int
    forward: int
    whole: int
    recorded: bool


def device_peaks(plan: Plan, skeleton: Skeleton) -> DevicePeaks:
    """Work out the peaks of a pass on a device with memory of its own.

    Args:
        plan: of the pass.
        skeleton: the model; its shapes are read.
    """
    run = _run_of(plan)
    alone: dict[str, int] = {}
    beside: dict[str, int] = {}
    for shape in shapes_of(plan, skeleton):
        recorded = run.recorded and len(plan.blocks) > 1
        for phase, size in _phases(run, shape).items():
            alone[phase] = max(alone.get(phase, 0), size)
            again = _tuning_again(run, shape) if recorded and phase == TUNING else size
            more = again + _recording(run, shape) if recorded else size
            beside[phase] = max(beside.get(phase, 0), size, more)
    for phase, size in _outside(run, skeleton).items():
        alone[phase] = beside[phase] = size
    return DevicePeaks(_round_up(alone), _round_up(beside))


def _round_up(peaks: Mapping[str, int]) -> dict[str, int]:
    return {phase: int(ROUNDED_UP * size) for phase, size in peaks.items()}


def shapes_of(plan: Plan, skeleton: Skeleton) -> Iterator[BlockShape]:
    """Yield the shapes of a plan's blocks.

    Args:
        plan: of the pass.
        skeleton: the model.
    """
    hidden = plan.streams * (hidden_size(skeleton.model) or UNKNOWN_WIDTH)
    for block in plan.blocks:
        headers = {
            name: skeleton.header(name)[0]
            for name in skeleton.names_under(block.name)
            if name in skeleton.keys
        }
        vectors = {name: shape[0] for name, shape in headers.items() if len(shape) == 1}
        yield block_shape(block, hidden=hidden, top_k=experts_per_token(skeleton), vectors=vectors)


def experts_per_token(skeleton: Skeleton) -> int:
    """Return how many experts a token is routed to, as the model's config says.

    Args:
        skeleton: the model.
    """
    config = text_config(skeleton.model)
    counts = (getattr(config, key, None) for key in TOP_K_KEYS)
    return next((count for count in counts if isinstance(count, int) and count > 0), TOP_K)


def _run_of(plan: Plan) -> _Run:
    tuning = plan.tuning
    samples = min(tuning.batch_size, tuning.nsamples)
    whole = samples * tuning.seqlen
    batch = tuning.seqlen if tuning.low_memory else whole
    recorded = tuning.iters > 0 and not tuning.low_memory and tuning.grad_accum_steps == 1
    return _Run(
        plan,
        DTYPES[plan.compute_dtype].itemsize,
        DTYPES[plan.dtype].itemsize,
        batch,
        min(tuning.forward_batch_size, tuning.nsamples) * tuning.seqlen,
        whole,
        recorded,
    )


def _phases(run: _Run, shape: BlockShape) -> dict[str, int]:
    """Return the peaks of a block's phases, with nothing kept of the block before."""
    tuning, item, weights = run.plan.tuning, run.item, shape.weights
    kept = item * shape.kept_weights
    # Tensors as they are stored, and in the compute dtype where that is another.
    uploaded = run.stored * (weights + shape.kept_weights)
    placed = item * weights + (0 if run.stored == item else uploaded)
    if tuning.low_memory:
        placed = item * weights
    targets = FLOAT32 * weights + 8 * shape.groups
    packing = weights + 2 * run.stored * shape.groups // 2
    dense = (FLOAT32 * 2 + 1) * weights + 2 * FLOAT32 * shape.largest
    if not tuning.needs_data:
        return {STARTING: uploaded + 2 * targets + weights, PACKING: packing + dense}
    forward = int(run.forward * (2 * item * shape.hidden + shape.forward(item)))
    hessians = hessian_bytes(run.plan, shape)
    phases = {
        INPUTS: kept + placed + sum(hessians.values()) + forward + _observing(run, shape),
        STARTING: kept + _starting(run, shape, hessians, placed + targets),
        TUNING: kept + _tuning(run, shape, targets),
    }
    quantized = (1 + item) * weights + 3 * FLOAT32 * shape.largest
    going_on = (1 + item) * weights + forward
    checked = 0 if tuning.low_memory else packing + 4 * weights + 3 * FLOAT32 * shape.largest
    phases[PACKING] = kept + max(quantized, going_on, checked)
    return phases


def _observing(run: _Run, shape: BlockShape) -> int:
    """Return what summing products of inputs takes beside the block's own activations."""
    plain = [x.shape[1] for x in shape.plan.quantized if not x.experts]
    widest = max(plain, default=0)
    columns = max(HESSIAN_COLUMNS, widest // HESSIAN_PARTS)
    product = FLOAT32 * widest * columns if run.plan.tuning.uses_gptq else 0
    # Inputs in float32, at a time when the block has less of its own than at its peak.
    widening = max(0, FLOAT32 * widest - 2 * run.item * widest) * run.forward
    routed = 0
    for module in shape.modules:
        last = module.layers[-1]
        if last.experts:
            inner, out = module.inner, module.layers[0].shape[1]
            # Inputs of a token's experts, gate and up, and their product in float32, twice.
            pairs = run.item * (out + 4 * inner) + 2 * FLOAT32 * inner + 5 * last.experts
            routed = max(routed, int(run.forward * (module.rows * pairs + 2 * FLOAT32 * out)))
    return max(product + widening, routed)


def _starting(run: _Run, shape: BlockShape, hessians: Mapping[str, int], placed: int) -> int:
    """Return the peak of searching scales, factoring Hessians and compensating columns."""
    tuning = run.plan.tuning
    low = tuning.low_memory
    if low:
        # Weights come from the host layer by layer, and are dropped.
        placed += run.stored * shape.largest - run.item * shape.weights
    if not tuning.uses_gptq:
        return placed
    largest = max(hessians.values(), default=0)
    summed = sum(hessians.values())
    factors = largest if low else summed
    # The matrix and its factor, then that and its inverse.
    factoring = summed + factors - largest + 2 * largest
    layers = gptq_layers(run.plan, shape)
    # With little memory each layer stands alone.
    sharing = [[layer] for layer in layers] if low else layers_by_input(shape)
    widest = widest_stack(layers, sharing)
    offsets = 0 if low else FLOAT32 * (sum(map(weights_of, layers)) - widest)
    # Weight, scale, lowest level, minimum, position before and after of each.
    columns = summed + factors + offsets + 6 * FLOAT32 * widest
    return placed + max(factoring, columns)


def _tuning(run: _Run, shape: BlockShape, targets: int) -> int:
    """Return the peak of a block's steps and of its scores."""
    tuning, item, weights = run.plan.tuning, run.item, shape.weights
    low = tuning.low_memory
    offsets = 0 if low else FLOAT32 * sum(map(weights_of, gptq_layers(run.plan, shape)))
    # Inputs and targets of a batch; from the host, the next one is on its way.
    batch = 2 * item * shape.hidden * run.whole
    # Weights, the iterate and, but with little memory, the best one: as large as the weights each.
    resident = (2 if low else 3) * targets + offsets + batch
    score = item * weights + int(run.batch * shape.forward(item))
    if not tuning.iters:
        return resident + score
    rounding = FLOAT32 * weights + 8 * shape.groups
    step = max(shape.step(item, run.batch), item * weights + rounding)
    if not run.recorded:
        sums = (FLOAT32 + item) * weights
        part = shape.step(item, run.batch) + FLOAT32 * weights
        last = 2 * item * weights + rounding
        return resident + max(part, item * weights + sums, last, score)
    # A recording is compared with the step itself: gradients twice, and differences of one layer.
    comparing = step + rounding + FLOAT32 * shape.largest
    # Then the next block comes, and the best iterate is chosen.
    following = run.stored * (weights + shape.kept_weights) if len(run.plan.blocks) > 1 else 0
    return resident + max(comparing, step + following + score)


def _recording(run: _Run, shape: BlockShape) -> int:
    """Return what a recording keeps: weights, iterate, and the memory of a step."""
    step = max(
        shape.step(run.item, run.batch),
        (run.item + FLOAT32) * shape.weights + 8 * shape.groups,
    )
    targets = FLOAT32 * shape.weights + 8 * shape.groups
    batch = 2 * run.item * shape.hidden * run.whole
    return 2 * targets + step + batch + run.item * shape.kept_weights


def _tuning_again(run: _Run, shape: BlockShape) -> int:
    """Return the peak of a block that is tuned by the recording of one before."""
    item, weights = run.item, shape.weights
    rounding = FLOAT32 * weights + 8 * shape.groups
    # The iterate is the recording's; weights, offsets and the best one are the block's own.
    resident = 2 * rounding + FLOAT32 * sum(map(weights_of, gptq_layers(run.plan, shape)))
    batch = 2 * item * shape.hidden * run.whole
    step = max(shape.step(item, run.batch), item * weights + rounding) + batch
    score = item * weights + int(run.batch * shape.forward(item)) + batch
    following = run.stored * (weights + shape.kept_weights)
    # Its step is done once without the recording, and their gradients compared.
    comparing = max(step, rounding + FLOAT32 * shape.largest)
    kept = item * shape.kept_weights
    return kept + resident + max(comparing, following + score)


def _outside(run: _Run, skeleton: Skeleton) -> dict[str, int]:
    """Return the peaks outside the blocks."""
    plan, tuning, item = run.plan, run.plan.tuning, run.item
    if not tuning.needs_data:
        return {}
    sizes = {name: math.prod(skeleton.header(name)[0]) for name in skeleton.names_outside_blocks()}
    hidden = plan.streams * (hidden_size(skeleton.model) or UNKNOWN_WIDTH)
    head = max((weights_of(x) for x in plan.kept if x.name == tuning.tuned_head), default=0)
    outer = item * sum(sizes.values())
    largest = item * max(sizes.values(), default=0) if len(sizes) > 1 else 0
    peaks = {
        EMBEDDING: outer - (largest if _has_head(skeleton) else 0) + 4 * item * hidden * run.forward
    }
    if head:
        peaks[HEAD] = _head(run, head, hidden, outer)
    if tuning.end_to_end.steps:
        peaks[END_TO_END] = _end_to_end(run, skeleton, outer, hidden)
    return peaks


def _has_head(skeleton: Skeleton) -> bool:
    """Tell whether the head is a tensor of its own, which embedding does without."""
    return not skeleton.tied


def _head(run: _Run, head: int, hidden: int, outer: int) -> int:
    """Return the peak of tuning the head: by ranges of rows, on some thousands of positions."""
    tuning, item = run.plan.tuning, run.item
    tokens = tuning.nsamples * tuning.seqlen
    positions, step = min(HEAD_POSITIONS, tokens), min(HEAD_STEP, tokens)
    rows = min(head, HEAD_WEIGHTS) // hidden
    some = rows * hidden
    inputs = (2 * item + FLOAT32) * positions * hidden
    hessian = FLOAT32 * hidden * hidden if tuning.uses_gptq else 0
    # Codes of the ranges before, and what all of them are tuned on.
    beside = head + inputs + hessian
    starting = (6 * some + 3 * GPTQ_COLUMNS * rows) * FLOAT32 if tuning.uses_gptq else 0
    # Weight, initial offsets, iterate, best one; the original in the compute dtype.
    copies = 2 + (not tuning.low_memory) + tuning.uses_gptq
    resident = (copies * FLOAT32 + item) * some
    logits = (3 * item + 3 * FLOAT32) * step * rows
    steps = resident + max(item * some + logits, (item + FLOAT32) * some)
    return max(outer + inputs, 2 * head, beside + max(FLOAT32 * some + starting, steps))


def _end_to_end(run: _Run, skeleton: Skeleton, outer: int, hidden: int) -> int:
    """Return the peak of tuning the whole model, graphs of all blocks not counted."""
    plan, item = run.plan, run.item
    settings = plan.tuning.end_to_end
    tokens = settings.batch_size * plan.tuning.seqlen
    layers = [x for block in plan.blocks for x in block.quantized]
    scales = sum(map(groups_of, layers))
    codes = sum(map(weights_of, layers)) + 3 * scales
    codes *= 3 if settings.tune_codes else 1
    averages = 4 * FLOAT32 * scales
    block = 0
    for shape in shapes_of(plan, skeleton):
        part = shape.step(item, tokens) + 3 * FLOAT32 * shape.largest + item * shape.weights
        block = max(block, part)
    inputs = len(plan.blocks) * tokens * hidden * item
    vocabulary = max((skeleton.header(n)[0][0] for n in skeleton.names_outside_blocks()), default=0)
    logits = 5 * FLOAT32 * LOGIT_POSITIONS * vocabulary
    return outer + codes + averages + inputs + max(block, logits)

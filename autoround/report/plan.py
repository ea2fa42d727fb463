"""A plan in words: what is quantized how, what is kept and why, and what it costs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection

from autoround.formats.registry import format_of
from autoround.planning.code_roles import why_partial
from autoround.planning.method import describe_method
from autoround.recipe.gate import NONE
from autoround.report.duration import count_of
from autoround.report.engines import engine_lines
from autoround.types import Estimate, KeptTensor, LayerPlan, Plan, RulePlan


def plan_lines(plan: Plan, estimate: Estimate, *, engines: Collection[str] = ()) -> list[str]:
    """Return the lines that show a plan and its cost.

    Args:
        plan: of all passes over the blocks.
        estimate: its cost; a time that is unknown gets no line.
        engines: serving engines that are asked about; with none, one line a format tells of all.
    """
    formats = sum(len(one_pass.outputs) for one_pass in plan.passes)
    lines = [
        f"model        {plan.model} ({plan.architecture}, {count_of(len(plan.blocks), 'block')})",
        *_partial_lines(plan),
        *([] if plan.revision is None else [f"revision     {plan.revision}"]),
        *_scheme_lines(plan),
        *_average_lines(plan, estimate),
        *_method_lines(plan),
        f"calibration  {plan.calibration}",
        *_format_lines(plan),
        f"device       {plan.device}, computing in {plan.compute_dtype}"
        + ", blocks compiled" * plan.compiled
        + ", deterministic algorithms" * plan.tuning.deterministic,
        f"size         {estimate.source_bytes / 1e6:.1f} MB → {estimate.disk_bytes / 1e6:.1f} MB"
        + (f" in {formats} formats" if formats > 1 else "")
        + f", {estimate.bits_per_weight:.2f} bits per quantized weight on the disk",
        *_memory_lines(estimate),
        *_gate_lines(plan),
    ]
    if not math.isinf(estimate.seconds_high):
        lines.append(
            f"time         {_span(estimate.seconds_low, estimate.seconds_high)}"
            + _probe_words(estimate)
        )
    lines += [f"note         {note}" for note in plan.notes]
    for number, one_pass in enumerate(plan.further, start=2):
        lines.append(f"pass {number} of {len(plan.passes)}, over the same blocks")
        notes = [f"note         {note}" for note in one_pass.notes if note not in plan.notes]
        lines += _scheme_lines(one_pass)
        # A pass for GGUF, for one, has no end-to-end tuning.
        method = _method_lines(one_pass)
        lines += method if method != _method_lines(plan) else []
        lines += [*_format_lines(one_pass), *notes]
    return lines + engine_lines(plan, engines)


def _gate_lines(plan: Plan) -> list[str]:
    """Say what the written result is held to."""
    options = plan.recipe.get("evaluation", {})
    gate, text = options.get("gate", NONE), options.get("text", NONE)
    if gate == NONE:
        return []
    where = "held-out embedded text" if text == NONE else text
    return [f"gate         {gate}, on at most {options['max_tokens']} tokens of {where}"]


def _memory_lines(estimate: Estimate) -> list[str]:
    streams = f"{estimate.stream_bytes / 1e9:.1f} GB of activations"
    device = ""
    if estimate.device_bytes:
        when = f" (by shapes; most while {estimate.device_phase})" * bool(estimate.device_phase)
        device = f", {estimate.device_bytes / 1e9:.1f} GB on the device{when}"
    where = f"; {streams} on the disk" if estimate.streams_on_disk else ""
    where = f"; {streams} there, too" if estimate.streams_on_device else where
    codes = ", codes of all blocks too" if estimate.codes_on_disk else ""
    lines = [f"memory       about {estimate.memory_bytes / 1e9:.1f} GB{device}{where}{codes}"]
    if estimate.journal_bytes:
        lines.append(f"journal      {_size(estimate.journal_bytes)} on the disk until it is done")
    if not estimate.journal:
        lines.append("journal      none: a run that is stopped begins anew")
    if estimate.peak_bytes_on_disk:
        lines.append(
            f"disk         about {_size(estimate.peak_bytes_on_disk)} at most, with "
            f"{_size(estimate.fetched_bytes)} of files from the hub at a time"
        )
    return lines


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 10**9 else f"{count / 1e6:.1f} MB"


def _scheme_lines(plan: Plan) -> list[str]:
    layers = [layer for block in plan.blocks for layer in block.layers]
    schemes = Counter(str(x.scheme) for x in layers if x.scheme is not None)
    return [
        *(f"quantize     {count} layers to {scheme}" for scheme, count in schemes.items()),
        *_expert_lines(layers),
        *_outside_lines(plan),
        *map(_rule_line, plan.rules),
        *kept_lines(plan),
        *_kept_tensor_lines(plan),
        *_float32_lines(plan),
    ]


def _float32_lines(plan: Plan) -> list[str]:
    """Say which tensors stay in float32, and which of them blocks are run with."""
    names = plan.stored_in_float32
    if not names:
        return []
    rest = len(names) - len(plan.computed_in_float32)
    cast = f"; {rest} of them are in {plan.compute_dtype} while blocks run" if rest else ""
    return [
        f"keep float32 {names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''}: wider "
        f"than the rest of the checkpoint{cast}"
    ]


def _partial_lines(plan: Plan) -> list[str]:
    """Say first of all that most of a model would stay as it is."""
    reason = why_partial(plan)
    return [f"partial      {reason}: refused without --allow-partial"] if reason else []


def _kept_tensor_lines(plan: Plan) -> list[str]:
    """Say which large weights of the blocks are no layers, with their share, by reason."""
    by_reason: dict[str, list[KeptTensor]] = {}
    for tensor in plan.kept_tensors:
        by_reason.setdefault(tensor.reason, []).append(tensor)
    layers = sum(math.prod(x.shape) for block in plan.blocks for x in block.layers)
    others = sum(math.prod(tensor.shape) for tensor in plan.kept_tensors)
    return [
        f"keep 16-bit  {some[0].name}{f' and {len(some) - 1} more' if len(some) > 1 else ''}, "
        f"{sum(math.prod(x.shape) for x in some) / (layers + others):.1%} of the blocks' weights: "
        f"{why}"
        for why, some in by_reason.items()
    ]


def _rule_line(rule: RulePlan) -> str:
    """Say what a rule of the recipe did."""
    start = f"rule         layers[{rule.index}] {rule.text}: "
    if not rule.decided:
        return start + f"later rules decide all {rule.matched} layers that it fits"
    schemes = ", ".join(
        scheme if len(rule.schemes) == 1 else f"{count} {scheme}" for scheme, count in rule.schemes
    )
    later = rule.matched - rule.decided
    return (
        f"{start}{rule.decided} layer{'s' * (rule.decided != 1)} of "
        f"{rule.weights / 1e6:.1f} M weights to {schemes}"
        + (f"; later rules decide {later} more" if later else "")
    )


def _average_lines(plan: Plan, estimate: Estimate) -> list[str]:
    """Say what a weight of the blocks takes on average where layers differ."""
    if not plan.rules:
        return []
    return [
        f"average      {estimate.block_bits:.3f} bits per weight of the blocks on the disk, "
        "layers kept in 16 bit among them"
    ]


def _expert_lines(layers: list[LayerPlan]) -> list[str]:
    stacked = [x for x in layers if x.experts and x.scheme is not None]
    if not stacked:
        return []
    matrices = sum(x.experts * x.parts for x in stacked)
    return [f"experts      {len(stacked)} of these hold {matrices} matrices of experts"]


def _outside_lines(plan: Plan) -> list[str]:
    """Name what is quantized outside the blocks; a GGUF type says that by itself."""
    if any(format_of(output).gguf_types for output in plan.outputs):
        return []
    by_scheme: dict[str, list[str]] = {}
    for layer in plan.kept:
        if layer.scheme is not None:
            by_scheme.setdefault(str(layer.scheme), []).append(layer.name)
    return [
        f"quantize     {names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''} "
        f"outside the blocks to {scheme}"
        for scheme, names in by_scheme.items()
    ]


def _format_lines(plan: Plan) -> list[str]:
    return [
        f"format       {output.format}, packing {output.packing}; kept tensors {output.dtype}"
        + (f"; in {output.folder}/" if output.folder else "")
        for output in plan.outputs
    ]


def _method_lines(plan: Plan) -> list[str]:
    """Name the method of a pass, and what each ``auto`` of the recipe came to."""
    tuning = plan.tuning
    threads = f"{tuning.threads} thread{'s' * (tuning.threads != 1)}"
    settled = [threads]
    if tuning.iters:
        rates = sorted({tuning.default.lr, *(layer.lr for _, layer in tuning.layers)})
        settled = [
            f"lr {' and '.join(f'{rate:.3g}' for rate in rates)}",
            f"minmax_lr {tuning.minmax_lr:.3g}" if tuning.minmax_lr else "ranges not tuned",
            f"grad_accum_steps {tuning.grad_accum_steps}",
            f"{tuning.num_validations} validations on {tuning.validation_samples} samples",
            threads,
        ]
    lines = [f"method       {describe_method(plan)}", f"settings     {', '.join(settled)}"]
    if tuning.end_to_end.steps:
        scales = ", ".join(f"{lr:.3g} at {bits} bits" for bits, lr in tuning.end_to_end.lrs)
        lines.append(f"             end to end: lr of the scales {scales}")
    return lines


def kept_lines(plan: Plan) -> list[str]:
    """Say which layers stay in 16 bit, grouped by reason.

    Args:
        plan: whose layers without a scheme are named, the first of each reason by its name.
    """
    by_reason: dict[str, list[str]] = {}
    for layer in plan.layers:
        if layer.scheme is None:
            by_reason.setdefault(layer.reason, []).append(layer.name)
    return [
        f"keep 16-bit  {names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''}: {why}"
        for why, names in by_reason.items()
    ]


def layer_lines(plan: Plan) -> list[str]:
    """Return one line for every layer, in the order they are done.

    Args:
        plan: of one pass over the blocks; layers outside them come last.
    """
    width = max(len(x.name) for x in plan.layers)
    return [
        f"{x.name:<{width}}  {x.shape[0]:>6} x {x.shape[1]:<6}  "
        f"{x.scheme if x.scheme is not None else 'kept: ' + x.reason}"
        for x in plan.layers
    ]


def _probe_words(estimate: Estimate) -> str:
    """Say what a measured time was measured by, and what takes most of it."""
    if not estimate.probed:
        return ""
    most = sorted(estimate.probed, key=lambda phase: -phase[1])[:3]
    parts = ", ".join(f"{name} {_minutes(seconds)}" for name, seconds in most)
    return f", by a probe: {parts}"


def _span(low: float, high: float) -> str:
    """Write a range of time; one that begins below a second has its end alone."""
    if low < 1:
        return f"up to {_minutes(math.ceil(high))}"
    return f"{_minutes(low)} to {_minutes(high)}"


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"

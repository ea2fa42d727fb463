"""A plan in words: what is quantized how, what is kept and why, and what it costs."""

from __future__ import annotations

from collections import Counter

from autoround.formats.registry import format_of
from autoround.planning.hyperparameters import inits_by_gptq
from autoround.types import Estimate, LayerPlan, Plan, RulePlan


def plan_lines(plan: Plan, estimate: Estimate) -> list[str]:
    """Return the lines that show a plan and its cost."""
    tuning = plan.recipe["tuning"]
    formats = sum(len(one.outputs) for one in plan.passes)
    lines = [
        f"model        {plan.model} ({plan.architecture}, {len(plan.blocks)} blocks)",
        *_scheme_lines(plan),
        *_average_lines(plan, estimate),
        f"method       {method(plan)}",
        f"calibration  {plan.calibration}",
        *_format_lines(plan),
        f"device       {plan.device}, computing in {plan.compute_dtype}"
        + ", blocks compiled" * plan.compiled,
        f"size         {estimate.source_bytes / 1e6:.1f} MB → {estimate.disk_bytes / 1e6:.1f} MB"
        + (f" in {formats} formats" if formats > 1 else "")
        + f", {estimate.bits_per_weight:.2f} bits per quantized weight with scales",
        *_memory_lines(estimate),
    ]
    if tuning["iters"] and estimate.seconds_high != float("inf"):
        lines.append(
            f"time         {_minutes(estimate.seconds_low)} to {_minutes(estimate.seconds_high)}"
        )
    lines += [f"note         {note}" for note in plan.notes]
    for number, one in enumerate(plan.further, start=2):
        lines.append(f"pass {number} of {len(plan.passes)}, over the same blocks")
        notes = [f"note         {note}" for note in one.notes if note not in plan.notes]
        lines += [*_scheme_lines(one), *_format_lines(one), *notes]
    return lines


def _memory_lines(estimate: Estimate) -> list[str]:
    streams = f"{estimate.stream_bytes / 1e9:.1f} GB of activations"
    device = f", {estimate.device_bytes / 1e9:.1f} GB on the device" * (estimate.device_bytes > 0)
    where = f"; {streams} on the disk" if estimate.streams_on_disk else ""
    where = f"; {streams} there, too" if estimate.streams_on_device else where
    codes = ", codes of all blocks too" if estimate.codes_on_disk else ""
    lines = [f"memory       about {estimate.memory_bytes / 1e9:.1f} GB{device}{where}{codes}"]
    if estimate.journal_bytes:
        lines.append(f"journal      {_size(estimate.journal_bytes)} on the disk until it is done")
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
    ]


def _rule_line(rule: RulePlan) -> str:
    """Say what a rule of the recipe did."""
    begun = f"rule         layers[{rule.index}] {rule.text}: "
    if not rule.decided:
        return begun + f"later rules decide all {rule.matched} layers that it fits"
    held = ", ".join(
        scheme if len(rule.schemes) == 1 else f"{count} {scheme}" for scheme, count in rule.schemes
    )
    later = rule.matched - rule.decided
    return (
        f"{begun}{rule.decided} layer{'s' * (rule.decided != 1)} of "
        f"{rule.weights / 1e6:.1f} M weights to {held}"
        + (f"; later rules decide {later} more" if later else "")
    )


def _average_lines(plan: Plan, estimate: Estimate) -> list[str]:
    """Say what a weight of the blocks takes on average where layers differ."""
    if not plan.rules:
        return []
    return [
        f"average      {estimate.block_bits:.3f} bits per weight of the blocks, with scales, "
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
    if any(format_of(output).own_types for output in plan.outputs):
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


def method(plan: Plan) -> str:
    """Name what the plan's tuning and distill sections do."""
    tuning = plan.recipe["tuning"]
    searched = tuning["init_scale"] == "search"
    if tuning["iters"] == 0:
        found = "opt-rtn (searched scales, no tuning)" if searched else "rtn (round to nearest)"
    else:
        start = "searched scales" if searched else "min-max scales"
        steps = f"{tuning['iters']} steps of {tuning['batch_size']} samples"
        found = f"SignRound, {steps}, from {start}"
    bits = plan.recipe["scheme"]["bits"]
    if inits_by_gptq(tuning["init_rounding"], iters=tuning["iters"], bits=bits):
        found += ", roundings that make up for each other"
    course = plan.recipe["end_to_end"]
    if not course["steps"]:
        return found
    return (
        f"{found}; then {course['steps']} steps of {course['batch_size']} samples over the whole "
        f"model, for its scales{' and codes' if course.get('codes') else ''}"
    )


def kept_lines(plan: Plan) -> list[str]:
    """Say which layers stay in 16 bit, grouped by reason."""
    by_reason: dict[str, list[str]] = {}
    for layer in plan.layers:
        if layer.scheme is None:
            by_reason.setdefault(layer.reason, []).append(layer.name)
    return [
        f"keep 16-bit  {names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''}: {why}"
        for why, names in by_reason.items()
    ]


def layer_lines(plan: Plan) -> list[str]:
    """Return one line for every layer, in the order they are done."""
    width = max(len(x.name) for x in plan.layers)
    return [
        f"{x.name:<{width}}  {x.shape[0]:>6} x {x.shape[1]:<6}  "
        f"{x.scheme if x.scheme is not None else 'kept: ' + x.reason}"
        for x in plan.layers
    ]


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"

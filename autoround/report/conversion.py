"""What a conversion between formats did, or would do, in words."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from autoround.checkpoints.conversion_plan import ConversionPlan, FormatOutlook

if TYPE_CHECKING:
    from autoround.checkpoints.convert import Conversion

#: Refused layers of a format that have a line each.
SHOWN = 20


def conversion_lines(conversion: Conversion) -> list[str]:
    """Return what a conversion did as lines of text.

    Args:
        conversion: its counts of layers that are equal, and what changed in the others.
    """
    total = conversion.exact + len(conversion.lossy)
    lines = [
        f"{conversion.method} to {', '.join(conversion.formats)}: {conversion.exact} of {total} "
        f"layers equal bit for bit, {conversion.disk_bytes / 1e6:.1f} MB in {conversion.output_dir}"
    ]
    if conversion.shifted:
        lines.append(f"{conversion.shifted} groups moved by a level, codes and zero point together")
    lines += [f"changed: {name}: {loss}" for name, loss in conversion.lossy.items()]
    return [*lines, *(f"note: {note}" for note in conversion.notes)]


def conversion_plan_lines(plan: ConversionPlan) -> list[str]:
    """Return what a conversion would do as lines of text.

    Args:
        plan: of the conversion.
    """
    lines = [f"{plan.model}: quantization: {plan.method}, {plan.disk_bytes / 1e6:.2f} MB"]
    lines += [
        f"  {part.scheme}, packing {part.packing}: {part.layers} layers, "
        f"{part.weights / 1e6:.2f} M weights, {part.disk_bytes / 1e6:.2f} MB"
        for part in plan.parts
    ]
    lines.append(f"  kept as they are: {plan.kept} tensors")
    for outlook in plan.formats:
        lines += _outlook_lines(outlook, plan)
    return [*lines, *(f"note: {note}" for note in plan.notes)]


def _outlook_lines(outlook: FormatOutlook, plan: ConversionPlan) -> list[str]:
    head = f"to {outlook.format}: "
    if outlook.refusals:
        reasons = [f"  {refusal.reason}" for refusal in outlook.refusals]
        more = len(reasons) - SHOWN
        rest = [f"  and {more} more"] if more > 0 else []
        return [f"{head}refused", *reasons[:SHOWN], *rest]
    assert outlook.disk_bytes is not None
    packings = dict.fromkeys(part.packing for part in plan.parts)
    layers = sum(part.layers for part in plan.parts)
    head += f"{layers} layers, packing {', '.join(packings)} -> {outlook.packing}, "
    size = f"{plan.disk_bytes / 1e6:.2f} -> {outlook.disk_bytes / 1e6:.2f} MB"
    return [head + size, *(f"  known once the codes are read: {note}" for note in outlook.unknown)]


def conversion_plan_values(plan: ConversionPlan) -> dict[str, object]:
    """Return what a conversion would do as plain values for JSON; sizes are in bytes."""
    return {**dataclasses.asdict(plan), "refused": plan.refusal is not None}

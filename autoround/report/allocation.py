"""An allocation of bits in words: what it is, what it costs, and what it was chosen from."""

from __future__ import annotations

from autoround.mixed_precision.score_file import Scores
from autoround.mixed_precision.search import ChosenAllocation
from autoround.mixed_precision.uniform import uniform_allocations
from autoround.report.curve import Point, curve_svg


def allocation_lines(
    chosen: ChosenAllocation, scores: Scores, *, layers: bool = False
) -> list[str]:
    """Return the lines that show an allocation and what it was chosen from.

    Args:
        chosen: the allocation.
        scores: the losses it was chosen by, and what they took to measure.
        layers: whether to list every group of layers with the losses of its options.
    """
    key, value = chosen.budget
    counts = ", ".join(f"{count} layers to {name}" for name, count in chosen.counts.items())
    lines = [
        f"budget       {key} {value:g}",
        f"allocation   {counts}",
        f"size         {(chosen.size + chosen.fixed) / 1e6:.2f} MB: {chosen.size / 1e6:.2f} MB in "
        f"{chosen.weights / 1e6:.1f} M weights, {chosen.bits:.3f} bits each with scales and zero "
        f"points, and {chosen.fixed / 1e6:.2f} MB besides",
        f"predicted    KL {chosen.loss:.4g} nats per token, on {scores.tokens} tokens",
        f"scored in    {scores.seconds:.0f} s, {scores.peak_bytes / 1e9:.2f} GB of memory at most",
    ]
    lines += [
        f"alternative  {name} for all: {bits:.3f} bits, predicted KL {loss:.4g}"
        for name, bits, loss in uniform_allocations(chosen)
    ]
    return [*lines, *_layer_lines(chosen)] if layers else lines


def _layer_lines(chosen: ChosenAllocation) -> list[str]:
    """Return a line for every group of layers: what it got, and what each option would lose."""
    width = max(len(group.name) for group in chosen.groups)
    lines = []
    for group, losses, pick in zip(chosen.groups, chosen.losses, chosen.picks, strict=True):
        options = "  ".join(
            f"{option or '16 bit'} {loss:.2e}"
            for option, loss in zip(group.options, losses, strict=True)
        )
        lines.append(f"{group.name:{width}}  {group.options[pick] or '16 bit'}  of: {options}")
    return lines


def allocation_svg(chosen: ChosenAllocation) -> str:
    """Draw size against predicted loss: Pareto-optimal allocations, this one, uniform ones."""
    pareto = [Point("", 8 * c.size / chosen.weights, c.loss) for c in chosen.corners]
    point = Point(f"chosen, {chosen.bits:.2f} bits", chosen.bits, chosen.loss)
    return curve_svg(
        pareto, chosen=[point], others=[Point(*row) for row in uniform_allocations(chosen)]
    )

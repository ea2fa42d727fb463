"""An allocation in words: what it is, what it costs, and what it was chosen from."""

from __future__ import annotations

from autoround.mixed_precision.score_file import Scores
from autoround.mixed_precision.search import ChosenAllocation


def allocation_lines(found: ChosenAllocation, scores: Scores, *, layers: bool = False) -> list[str]:
    """Return the lines that show an allocation and what it was chosen from."""
    key, value = found.budget
    counts = ", ".join(f"{count} layers to {name}" for name, count in found.counts.items())
    lines = [
        f"budget       {key} {value:g}",
        f"allocation   {counts}",
        f"size         {(found.size + found.fixed) / 1e6:.2f} MB: {found.size / 1e6:.2f} MB in "
        f"{found.weights / 1e6:.1f} M weights, {found.bits:.3f} bits each with scales and zero "
        f"points, and {found.fixed / 1e6:.2f} MB besides",
        f"predicted    KL {found.loss:.4g} nats per token, by {scores.tokens} tokens",
        f"scored in    {scores.seconds:.0f} s, {scores.peak_bytes / 1e9:.2f} GB of memory at most",
        *(f"alternative  {line}" for line in uniform_lines(found)),
    ]
    if layers:
        width = max(len(unit.name) for unit in found.units)
        for unit, own, pick in zip(found.units, found.losses, found.picks, strict=True):
            tried = "  ".join(
                f"{option or '16 bit'} {loss:.2e}"
                for option, loss in zip(unit.options, own, strict=True)
            )
            lines.append(f"{unit.name:{width}}  {unit.options[pick] or '16 bit'}  of: {tried}")
    return lines


def uniform_lines(found: ChosenAllocation) -> list[str]:
    """Return what one option for all would be, for those that all layers can take."""
    points = uniform_points(found)
    return [
        f"{name} for all: {bits:.3f} bits, predicted KL {loss:.4g}" for name, bits, loss in points
    ]


def uniform_points(found: ChosenAllocation) -> list[tuple[str, float, float]]:
    """Return name, bits a weight and predicted loss of one option for all units."""
    shared = [o for o in found.units[0].options if all(o in u.options for u in found.units)]
    points = []
    for option in shared:
        picks = [unit.options.index(option) for unit in found.units]
        size = sum(u.sizes[p] for u, p in zip(found.units, picks, strict=True))
        loss = sum(own[p] for own, p in zip(found.losses, picks, strict=True))
        points.append((str(option or "16 bit"), 8 * size / found.weights, loss))
    return points

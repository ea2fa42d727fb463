"""Resolve a bit budget into explicit layer rules before planning."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autoround.errors import OutputError, UsageError
from autoround.events import StageStarted, Warned
from autoround.mixed_precision.search import (
    ChosenAllocation,
    choose_allocation,
    score_layers,
    to_layer_rules,
)
from autoround.mixed_precision.uniform import uniform_allocations
from autoround.recipe.allocate import AllocateOptions
from autoround.recipe.schema import Recipe
from autoround.resume.fingerprint import differences
from autoround.session.session import Session

#: File beside a quantized model that says what its allocation was predicted to cost.
ALLOCATION_FILE = "allocation.json"
#: Points of the curve of size against loss that are kept.
CURVE_POINTS = 64


def resolve_budget(
    recipe: Recipe, session: Session, *, folder: Path | None = None, may_score: bool = True
) -> tuple[Recipe, dict[str, Any]]:
    """Choose the bits of every layer under a recipe's budget.

    Args:
        recipe: with a bit budget.
        session: of the recipe's plan as if it had none.
        folder: for activations that do not fit the memory.
        may_score: whether layers may be scored now; else their scores must be at hand.

    Returns:
        The recipe with a rule for each layer in place of the budget, and what is predicted of it.

    Raises:
        UsageError: nothing is scored yet, and may not be.
        RecipeError: the budget is out of reach.
    """
    path = recipe.allocate.scores
    if not may_score and not (path != "none" and Path(path).exists()):
        raise UsageError(
            "this recipe leaves bits to a budget, which takes a run over the calibration data to "
            "fill: 'autoround allocate' does that and shows what comes of it; with allocate.scores "
            "set to a file, it is done once"
        )
    scores = score_layers(recipe, session, folder=folder)
    chosen = choose_allocation(recipe, session.skeleton, session.plan, scores)
    session.sink(StageStarted("allocate", describe_allocation(chosen)))
    for name in chosen.unreached[:3]:
        session.sink(Warned(f"{name}: received no calibration tokens; assigned the largest option"))
    return to_layer_rules(recipe, chosen, session.plan.outputs[0]), summary(recipe, chosen)


def predicted_kl(folder: Path) -> float | None:
    """Return the KL divergence that a quantized folder's allocation was predicted to cost.

    None where no bit budget made it, or what is kept of that cannot be read.
    """
    try:
        text = (folder / ALLOCATION_FILE).read_text(encoding="utf-8")
        predicted = json.loads(text)["predicted_kl"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return float(predicted) if isinstance(predicted, int | float) and predicted > 0 else None


def describe_allocation(chosen: ChosenAllocation) -> str:
    """Say an allocation in one line."""
    counts = ", ".join(f"{count} × {name}" for name, count in chosen.counts.items())
    return f"{describe_budget(chosen)}; layers: {counts}"


def describe_budget(chosen: ChosenAllocation) -> str:
    """Say what the budget of an allocation was, and what came of it."""
    return (
        f"{chosen.budget[0]} {chosen.budget[1]:g}: {chosen.bits:.3f} bits a weight, "
        f"predicted KL {chosen.loss:.4g}"
    )


def summary(recipe: Recipe, chosen: ChosenAllocation) -> dict[str, Any]:
    """Return what is worth keeping of an allocation, as JSON."""
    return {
        "asked": recipe.allocate.model_dump(mode="json"),
        "predicted_kl": chosen.loss,
        "bits_per_weight": chosen.bits,
        "bytes": chosen.size,
        "weights": chosen.weights,
        "layers": chosen.counts,
        "curve": _curve(chosen),
        "uniform": [each._asdict() for each in uniform_allocations(chosen)],
    }


def _curve(chosen: ChosenAllocation) -> list[list[float]]:
    """Return the best allocations by bits a weight and loss, spread over all sizes."""
    corners = chosen.corners
    last = len(corners) - 1
    count = min(CURVE_POINTS, len(corners))
    places = dict.fromkeys(round(i * last / max(1, count - 1)) for i in range(count))
    return [[8 * corners[i].size / chosen.weights, corners[i].loss] for i in places]


def restore_budget(
    recipe: Recipe, resolved: Mapping[str, Any], allocation: Mapping[str, Any] | None
) -> tuple[Recipe, dict[str, Any]]:
    """Return what an interrupted run resolved a recipe's bit budget to.

    Args:
        recipe: with the budget, as it is asked for now.
        resolved: the recipe as the interrupted run had it, as plain values.
        allocation: what that run kept of its allocation; None where it had none.

    Raises:
        OutputError: its budget, or its other rules for layers, were not those of now.
    """
    again = "repeat the original command, or discard the finished blocks with --restart"
    if allocation is None or not isinstance(allocation.get("asked"), dict):
        raise OutputError(f"the interrupted run had no bit budget (allocate): {again}")
    changed = differences(allocation["asked"], recipe.allocate.model_dump(mode="json"))
    if changed:
        raise OutputError(
            "the interrupted run had another bit budget:\n"
            + "\n".join(f"  allocate.{line}" for line in changed)
            + f"\n{again}"
        )
    before = Recipe.model_validate(resolved)
    if before.layers[: len(recipe.layers)] != recipe.layers:
        raise OutputError(f"the interrupted run had other rules for layers: {again}")
    update = {"layers": before.layers, "allocate": AllocateOptions()}
    return recipe.model_copy(update=update), dict(allocation)

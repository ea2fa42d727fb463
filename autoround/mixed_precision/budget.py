"""A recipe with a budget on its way into a run: it becomes one by hand, and that is what is run."""

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
from autoround.recipe.allocate import AllocateOptions
from autoround.recipe.schema import Recipe
from autoround.resume.fingerprint import differences
from autoround.session.session import Session

#: File beside a quantized model that says what its allocation was predicted to cost.
FILE = "allocation.json"


def resolve_budget(
    job: Session, *, folder: Path | None = None, may_score: bool = True
) -> tuple[Recipe, dict[str, Any]]:
    """Find the bits of a recipe with a budget; returns it by hand, and what was predicted.

    job: of the recipe's plan without its budget. folder: for what does not fit the memory.

    Raises:
        UsageError: nothing is scored yet, and may not be.
        RecipeError: the budget is out of reach.
    """
    path = job.recipe.allocate.scores
    if not may_score and not (path != "none" and Path(path).exists()):
        raise UsageError(
            "this recipe leaves bits to a budget, which takes a run over the calibration data to "
            "fill: 'autoround allocate' does that and shows what comes of it; with allocate.scores "
            "set to a file, it is done once"
        )
    scores = score_layers(job, folder=folder)
    found = choose_allocation(job.recipe, job.skeleton, job.plan, scores)
    job.sink(StageStarted("allocate", describe_allocation(found)))
    for name in found.unreached[:3]:
        job.sink(Warned(f"{name}: no calibration token came to it, so it got the most bits"))
    return to_layer_rules(job.recipe, found, job.plan.outputs[0]), summary(job.recipe, found)


def predicted_kl(folder: Path) -> float | None:
    """Return the divergence that the allocation of a quantized folder was predicted to cost.

    None where no budget of bits made it, or what is kept of that cannot be read.
    """
    try:
        found = json.loads((folder / FILE).read_text(encoding="utf-8"))["predicted_kl"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return float(found) if isinstance(found, int | float) and found > 0 else None


def describe_allocation(found: ChosenAllocation) -> str:
    """Say an allocation in one line."""
    counts = ", ".join(f"{count} × {name}" for name, count in found.counts.items())
    return (
        f"{found.budget[0]} {found.budget[1]:g}: {found.bits:.3f} bits a weight, "
        f"predicted KL {found.loss:.4g}; layers: {counts}"
    )


def summary(recipe: Recipe, found: ChosenAllocation) -> dict[str, Any]:
    """Return what is worth keeping of an allocation, as JSON."""
    return {
        "asked": recipe.allocate.model_dump(mode="json"),
        "predicted_kl": found.loss,
        "bits_per_weight": found.bits,
        "bytes": found.size,
        "weights": found.weights,
        "layers": found.counts,
    }


def restore_budget(recipe: Recipe, about: Mapping[str, Any]) -> tuple[Recipe, dict[str, Any]]:
    """Return what an interrupted run made of a recipe with a budget.

    Raises:
        OutputError: it was of another budget, or of none.
    """
    kept = about.get("allocation")
    asked = recipe.allocate.model_dump(mode="json")
    if kept is None:
        raise OutputError(
            "the interrupted run had no budget of bits (allocate): run the command as it was "
            "begun, or throw its blocks away with --restart"
        )
    found = differences(kept["asked"], asked)
    if found:
        raise OutputError(
            "the interrupted run had another budget of bits:\n"
            + "\n".join(f"  allocate.{line}" for line in found)
            + "\nrun the command as it was begun, or throw its blocks away with --restart"
        )
    then = Recipe.model_validate(about["identity"]["recipe"])
    if then.layers[: len(recipe.layers)] != recipe.layers:
        raise OutputError(
            "the interrupted run had other rules for layers: run the command as it was begun, or "
            "throw its blocks away with --restart"
        )
    update = {"layers": then.layers, "allocate": AllocateOptions()}
    return recipe.model_copy(update=update), dict(kept)

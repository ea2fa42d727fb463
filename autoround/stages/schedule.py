"""The plain numbers of a descent, from a recipe."""

from __future__ import annotations

from autoround.core.tune import Schedule
from autoround.recipe.rates import clip_rate, rounding_rate
from autoround.recipe.schema import Recipe


def schedule_of(recipe: Recipe, block: int) -> Schedule:
    """Return the plain numbers of one block's descent."""
    tuning = recipe.tuning
    return Schedule(
        iters=tuning.iters,
        rate=rounding_rate(recipe),
        clip_rate=clip_rate(recipe) if tuning.clips else 0.0,
        batch_size=tuning.batch_size,
        accumulate=tuning.gradient_accumulate_steps,
        checks=tuning.checks,
        check_samples=tuning.check_samples,
        # A searched range may be too narrow as well as too wide; a min-max one only too wide.
        clip_ceiling=2.0 if tuning.init == "search" else 1.0,
        seed=recipe.seed + block,
        part=1 if tuning.low_memory else 0,
        sparing=tuning.low_memory,
    )


def forward_size(recipe: Recipe) -> int:
    """Return how many samples go through a block at a time where no gradients are asked for."""
    return 1 if recipe.tuning.low_memory else recipe.tuning.batch_size

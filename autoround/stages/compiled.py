"""Whether blocks are compiled for their many steps."""

from __future__ import annotations

import math

from autoround.device.protocol import Runtime
from autoround.errors import RecipeError
from autoround.recipe.schema import Recipe
from autoround.types import Plan


def compiles(plan: Plan, recipe: Recipe, runtime: Runtime) -> bool:
    """Tell whether to compile.

    Nothing here is measured, so that a run that goes on computes as it did before. In float32
    products take most of a step, and fusing the rest gains little; what experts do depends on
    their tokens, and would be compiled anew and anew.

    Raises:
        RecipeError: the recipe wants it, and the device cannot.
    """
    asked = recipe.tuning.compile
    if asked is False:
        return False
    if asked is True:
        if runtime.compiles_from() == float("inf"):
            raise RecipeError(
                f"tuning.compile: {plan.device} compiles nothing here (a CPU needs a C++ compiler "
                "on the path, other devices need Triton): leave it at auto"
            )
        return True
    layers = [layer for block in plan.blocks for layer in block.layers]
    if plan.compute_dtype == "float32" or any(layer.experts for layer in layers):
        return False
    return _operations(plan, recipe) >= runtime.compiles_from()


def _operations(plan: Plan, recipe: Recipe) -> float:
    """Count the operations of products in compiled blocks, roughly: steps and the rounded chain."""
    weights = sum(math.prod(layer.shape) for block in plan.blocks for layer in block.layers)
    tuning, distill = recipe.tuning, recipe.distill
    samples = tuning.iters * tuning.batch_size * tuning.gradient_accumulate_steps
    visits = 4.0 * weights * samples + 8.0 * weights * distill.steps * distill.batch_size
    visits += 2.0 * weights * recipe.calibration.nsamples * tuning.quantized_inputs
    return visits * recipe.calibration.seqlen

"""Every `auto` of a recipe, settled once before a run."""

from __future__ import annotations

import math

from autoround.core.tune import Hyperparameters
from autoround.device.protocol import Runtime
from autoround.errors import RecipeError
from autoround.formats.registry import is_gguf
from autoround.recipe.schema import Recipe
from autoround.types import FULL, QUANTIZED, Plan


def compiles_blocks(plan: Plan, recipe: Recipe, runtime: Runtime) -> bool:
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
    tuning, end_to_end = recipe.tuning, recipe.end_to_end
    samples = tuning.iters * tuning.batch_size * tuning.gradient_accumulate_steps
    visits = 4.0 * weights * samples + 8.0 * weights * end_to_end.steps * end_to_end.batch_size
    visits += 2.0 * weights * recipe.calibration.nsamples * tuning.quantized_inputs
    return visits * recipe.calibration.seqlen


#: Bits up to which a descent from the nearest level finds more than a compensated start gives it.
FEW_BITS = 2


#: Steps times their first rate, in levels, as the rate falls to 0. At few bits most roundings are
#: open, so that steps lead further; what a compensated start has found is lost at such rates.
TRAVEL = 1.0
TRAVEL_FEW_BITS = 2.0
TRAVEL_FROM_GPTQ = 0.2


def uses_gptq(recipe: Recipe) -> bool:
    """Tell whether roundings start where errors make up for each other."""
    tuning = recipe.tuning
    return inits_by_gptq(tuning.init_rounding, iters=tuning.iters, bits=recipe.scheme.bits)


def inits_by_gptq(start: str, *, iters: int, bits: int) -> bool:
    """Tell the same by the values of those keys: ``init_rounding``, ``iters`` and ``bits``."""
    if start == "auto":
        return iters > 0 and bits > FEW_BITS
    return start == "gptq"


def needs_input_statistics(recipe: Recipe) -> bool:
    """Tell whether scales or roundings start by what goes into a layer."""
    return recipe.tuning.init_scale == "search" or uses_gptq(recipe)


def learning_rate(recipe: Recipe) -> float:
    """Return the step size of the roundings; 0 without tuning."""
    tuning = recipe.tuning
    if tuning.iters == 0:
        return 0.0
    if tuning.lr != "auto":
        return tuning.lr
    if uses_gptq(recipe):
        return TRAVEL_FROM_GPTQ / tuning.iters
    return (TRAVEL if recipe.scheme.bits > FEW_BITS else TRAVEL_FEW_BITS) / tuning.iters


def minmax_learning_rate(recipe: Recipe) -> float:
    """Return the step size of the clip factors; 0 without tuning."""
    tuning = recipe.tuning
    if tuning.iters == 0 or tuning.minmax_lr == "auto":
        return learning_rate(recipe)
    return tuning.minmax_lr


def needs_data(recipe: Recipe) -> bool:
    """Tell whether a recipe looks at activations: pure round-to-nearest does not."""
    tuning = recipe.tuning
    tunes = tuning.iters > 0 or recipe.end_to_end.steps > 0
    return needs_input_statistics(recipe) or tunes or bool(recipe.allocate.budgets)


def hyperparameters_for(recipe: Recipe, block: int) -> Hyperparameters:
    """Return the plain numbers of one block's descent."""
    tuning = recipe.tuning
    return Hyperparameters(
        iters=tuning.iters,
        lr=learning_rate(recipe),
        minmax_lr=minmax_learning_rate(recipe) if tuning.tune_minmax else 0.0,
        batch_size=tuning.batch_size,
        grad_accum_steps=tuning.gradient_accumulate_steps,
        num_validations=tuning.num_validations,
        validation_samples=tuning.validation_samples,
        # A searched range may be too narrow as well as too wide; a min-max one only too wide.
        max_minmax_scale=2.0 if tuning.init_scale == "search" else 1.0,
        seed=recipe.seed + block,
        micro_batch=1 if tuning.low_memory else 0,
        best_on_cpu=tuning.low_memory,
    )


def forward_batch_size(recipe: Recipe) -> int:
    """Return how many samples go through a block at a time where no gradients are asked for."""
    return 1 if recipe.tuning.low_memory else recipe.tuning.batch_size


def stream_names(recipe: Recipe) -> tuple[str, ...]:
    """Return the streams that blocks hand on; the other one starts anew from the first."""
    return (FULL, QUANTIZED) if recipe.tuning.quantized_inputs else (FULL,)


def tunes_end_to_end(recipe: Recipe, plan: Plan) -> bool:
    """Tell whether a pass ends with this: GGUF types hold their scales in other ways."""
    return recipe.end_to_end.steps > 0 and not any(map(is_gguf, plan.outputs))

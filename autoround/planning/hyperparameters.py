"""Every `auto` of a recipe, settled once before a run."""

from __future__ import annotations

import math

from autoround.core.tune import Schedule
from autoround.device.protocol import Runtime
from autoround.errors import RecipeError
from autoround.formats.registry import is_gguf
from autoround.recipe.schema import Recipe
from autoround.types import FULL, QUANTIZED, Plan


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


#: Bits up to which a descent from the nearest level finds more than a compensated start gives it.
FEW_BITS = 2


#: Steps times their first rate, in levels, as the rate falls to 0. At few bits most roundings are
#: open, so that steps lead further; what a compensated start has found is lost at such rates.
REACH = 1.0
REACH_FEW_BITS = 2.0
REACH_COMPENSATED = 0.2


def compensates(recipe: Recipe) -> bool:
    """Tell whether roundings start where errors make up for each other."""
    tuning = recipe.tuning
    return starts_compensated(tuning.start, iters=tuning.iters, bits=recipe.scheme.bits)


def starts_compensated(start: str, *, iters: int, bits: int) -> bool:
    """Tell the same by the values of ``tuning.start``, ``tuning.iters`` and ``scheme.bits``."""
    if start == "auto":
        return iters > 0 and bits > FEW_BITS
    return start == "compensated"


def looks_at_inputs(recipe: Recipe) -> bool:
    """Tell whether scales or roundings start by what goes into a layer."""
    return recipe.tuning.init == "search" or compensates(recipe)


def rounding_rate(recipe: Recipe) -> float:
    """Return the step size of the roundings; 0 without tuning."""
    tuning = recipe.tuning
    if tuning.iters == 0:
        return 0.0
    if tuning.lr != "auto":
        return tuning.lr
    if compensates(recipe):
        return REACH_COMPENSATED / tuning.iters
    return (REACH if recipe.scheme.bits > FEW_BITS else REACH_FEW_BITS) / tuning.iters


def clip_rate(recipe: Recipe) -> float:
    """Return the step size of the clip factors; 0 without tuning."""
    tuning = recipe.tuning
    if tuning.iters == 0 or tuning.minmax_lr == "auto":
        return rounding_rate(recipe)
    return tuning.minmax_lr


def needs_data(recipe: Recipe) -> bool:
    """Tell whether a recipe looks at activations: pure round-to-nearest does not."""
    tuning = recipe.tuning
    tunes = tuning.iters > 0 or recipe.distill.steps > 0
    return looks_at_inputs(recipe) or tunes or bool(recipe.allocate.budgets)


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


def stream_names(recipe: Recipe) -> tuple[str, ...]:
    """Return the streams that blocks hand on; the other one starts anew from the first."""
    return (FULL, QUANTIZED) if recipe.tuning.quantized_inputs else (FULL,)


def distills(recipe: Recipe, plan: Plan) -> bool:
    """Tell whether a pass ends with this: GGUF types hold their scales in other ways."""
    return recipe.distill.steps > 0 and not any(map(is_gguf, plan.outputs))

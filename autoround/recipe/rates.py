"""What ``auto`` comes to where keys of a recipe depend on each other."""

from __future__ import annotations

from autoround.recipe.schema import Recipe

#: Bits up to which a descent from the nearest level finds more than a compensated start gives it.
FEW_BITS = 2
#: Steps times their first rate, in levels, as the rate falls to 0. At few bits most roundings are
#: open, so that steps lead further; what a compensated start has found is lost at such rates.
REACH, REACH_FEW_BITS, REACH_COMPENSATED = 1.0, 2.0, 0.2


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

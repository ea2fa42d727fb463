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


def rounding_rate(recipe: Recipe) -> float:
    """Return the step size of the roundings; 0 without tuning."""
    tuning = recipe.tuning
    if tuning.iters == 0:
        return 0.0
    if compensates(recipe):
        reach = REACH_COMPENSATED
    else:
        reach = REACH if recipe.scheme.bits > FEW_BITS else REACH_FEW_BITS
    return reach / tuning.iters if tuning.lr == "auto" else tuning.lr


def clip_rate(recipe: Recipe) -> float:
    """Return the step size of the clip factors; 0 without tuning."""
    tuning = recipe.tuning
    if tuning.iters == 0 or tuning.minmax_lr == "auto":
        return rounding_rate(recipe)
    return tuning.minmax_lr

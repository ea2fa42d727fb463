"""The method of a plan in words."""

from __future__ import annotations

from autoround.types import Plan


def describe_method(plan: Plan) -> str:
    """Name the method of a plan: how values start, how they are tuned, what follows the blocks.

    Args:
        plan: of one pass over the blocks.
    """
    # Not the recipe's values: a pass for GGUF, for one, has no end-to-end tuning.
    tuning, end_to_end = plan.tuning, plan.tuning.end_to_end
    searched, gptq = tuning.init_scale == "search", tuning.uses_gptq
    scales = "searched scales" if searched else "min-max scales"
    if tuning.iters:
        # A step sees all batches whose gradients it sums.
        samples = tuning.batch_size * tuning.grad_accum_steps
        steps = f"{tuning.iters} steps of {samples} samples"
        rounding = " and GPTQ error compensation" if gptq else ""
        if tuning.nearest is not None:
            rounding += " where a block gains far more from it"
        method = f"SignRound, {steps}, initialised with {scales}{rounding}"
    elif gptq:
        method = f"GPTQ error compensation ({scales}, no tuning)"
    else:
        method = f"opt-rtn ({scales}, no tuning)" if searched else "rtn (round to nearest)"
    if not end_to_end.steps:
        return method
    tuned = "scales and codes" if end_to_end.tune_codes else "scales"
    fresh = f", from {end_to_end.nsamples} fresh samples" * bool(end_to_end.nsamples)
    return (
        f"{method}; then {end_to_end.steps} steps of {end_to_end.batch_size} samples end to "
        f"end on the KL divergence, for {tuned}{fresh}"
    )

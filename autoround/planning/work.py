"""Multiplications of a run, counted from shapes."""

from __future__ import annotations

import math
from typing import NamedTuple

from autoround.recipe.gate import NONE
from autoround.types import LayerPlan, Plan


def _met_by_token(layer: LayerPlan, top_k: int) -> int:
    """Return how many weights of a layer a token is multiplied by."""
    weights = math.prod(layer.shape)
    return weights * top_k // layer.experts if 0 < top_k < layer.experts else weights


class PlanWork(NamedTuple):
    """Multiplications of one pass, by phase: of its blocks, end to end, of the gate; 0 for none.

    fresh: of the samples that end-to-end tuning has to itself, on their way through the blocks.
    """

    blocks: float
    end_to_end: float
    gate: float
    fresh: float = 0.0


def plan_work(plan: Plan, *, experts_per_token: int = 0) -> PlanWork:
    """Count the multiplications by weights that a pass takes.

    Args:
        plan: of the pass; without data nothing is multiplied in its blocks.
        experts_per_token: how many experts a token is routed to; 0 counts all of them.
    """
    weights = sum(_met_by_token(x, experts_per_token) for b in plan.blocks for x in b.layers)
    outside = sum(math.prod(x.shape) for x in plan.kept)
    # By the result and by the original, which is loaded in float32.
    options = plan.recipe.get("evaluation", {})
    judged = 0.0 if options.get("gate", NONE) == NONE else 2.0 * options["max_tokens"]
    gate = judged * (weights + outside)
    tuning, seqlen = plan.tuning, plan.tuning.seqlen
    if not tuning.needs_data:
        return PlanWork(0.0, 0.0, gate)
    batch = min(tuning.batch_size, tuning.nsamples) * seqlen
    steps = tuning.iters * tuning.grad_accum_steps
    validation = (1 + tuning.num_validations) * tuning.validation_samples * seqlen
    # A product forward, one for the weights' gradients, one for the inputs'; both streams.
    passes = 3 * steps * batch + validation + 2 * tuning.nsamples * seqlen
    # Over the whole model: a product forward, another when it runs again for the two backward.
    whole_model = 4 * tuning.end_to_end.steps * tuning.end_to_end.batch_size * seqlen
    fresh = weights * tuning.end_to_end.nsamples * seqlen
    return PlanWork(
        float(weights * passes), float((weights + outside) * whole_model), gate, float(fresh)
    )

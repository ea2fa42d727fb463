"""Initial rounding of a block, before any tuning step."""

from __future__ import annotations

from collections.abc import Mapping

from autoround.core.gptq import InverseCholesky, gptq_offsets, inverse_cholesky
from autoround.core.ops import Ops
from autoround.core.rtn import Target
from autoround.model.importance import Importance
from autoround.types import BlockPlan


def with_gptq_offsets(
    block: BlockPlan, targets: Mapping[str, Target], importance: Importance, *, ops: Ops
) -> dict[str, Target]:
    """Initialise every layer's rounding with GPTQ error compensation.

    Stacked experts, and layers that were never run, start at the nearest level.

    Args:
        block: that the layers are of.
        targets: by layer name.
        importance: holds the Hessians of the layers' inputs.
        ops: of the device.
    """
    factors: dict[str, InverseCholesky | None] = {}
    initialised = dict(targets)
    for name, target in targets.items():
        shared = importance.gram(name.removeprefix(block.name + "."))
        if shared is None:
            continue
        # Layers of the same input share a Hessian, which is factored once.
        owner, hessian = shared
        if owner not in factors:
            factors[owner] = inverse_cholesky(hessian)
        factor = factors[owner]
        if factor is not None:
            offsets = gptq_offsets(target, factor, round_block=ops.gptq_block)
            initialised[name] = target._replace(offsets=offsets)
    return initialised

"""Where the rounding of a block starts, before any descent."""

from __future__ import annotations

from collections.abc import Mapping

from autoround.core.gptq import InverseCholesky, gptq_offsets, inverse_cholesky
from autoround.core.ops import Ops
from autoround.core.rtn import Target
from autoround.model.importance import Importance
from autoround.types import BlockPlan


def with_gptq_offsets(
    block: BlockPlan, tasks: Mapping[str, Target], importance: Importance, *, ops: Ops
) -> dict[str, Target]:
    """Give every layer the offsets that make up for its errors.

    Stacked experts, and layers that were never run, start at the nearest level.
    """
    factors: dict[str, InverseCholesky | None] = {}
    found = dict(tasks)
    for name, task in tasks.items():
        held = importance.gram(name.removeprefix(block.name + "."))
        if held is None:
            continue
        owner, gram = held
        if owner not in factors:
            factors[owner] = inverse_cholesky(gram)
        factor = factors[owner]
        if factor is not None:
            offsets = gptq_offsets(task, factor, rounded=ops.gptq_block)
            found[name] = task._replace(offsets=offsets)
    return found

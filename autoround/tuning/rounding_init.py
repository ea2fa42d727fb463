"""Where the rounding of a block starts, before any descent."""

from __future__ import annotations

from collections.abc import Mapping

from autoround.core.gptq import Factor, compensated_offsets, factor_of
from autoround.core.ops import Ops
from autoround.core.rtn import Task
from autoround.model.importance import Importance
from autoround.types import BlockPlan


def with_offsets(
    block: BlockPlan, tasks: Mapping[str, Task], importance: Importance, *, ops: Ops
) -> dict[str, Task]:
    """Give every layer the offsets that make up for its errors.

    Stacked experts, and layers that were never run, start at the nearest level.
    """
    factors: dict[str, Factor | None] = {}
    found = dict(tasks)
    for name, task in tasks.items():
        held = importance.gram(name.removeprefix(block.name + "."))
        if held is None:
            continue
        owner, gram = held
        if owner not in factors:
            factors[owner] = factor_of(gram)
        factor = factors[owner]
        if factor is not None:
            offsets = compensated_offsets(task, factor, rounded=ops.round_panel)
            found[name] = task._replace(offsets=offsets)
    return found

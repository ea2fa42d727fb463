"""Round to nearest: the rounding that needs no data, and the one tuning starts from.

On a min-max grid this is rtn; on a searched grid it is opt-rtn.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor

from autoround.core.grid import Grid
from autoround.core.rounding import Rounding, initial_rounding


class Target(NamedTuple):
    """One tensor to quantize: its groups, their grid and its shape outside the core.

    groups: float32 [rows, groups, width]; shape: as the block stores it, with the
    quantized axis last. offsets: of the shape of the groups, where rounding starts in place
    of the nearest level; None there.
    """

    groups: Tensor
    grid: Grid
    shape: tuple[int, ...]
    offsets: Tensor | None = None


def round_to_nearest(tasks: Mapping[str, Target]) -> dict[str, Rounding]:
    """Return the rounding of every tensor with no clipping, and no offset but its task's."""
    found = {name: initial_rounding(task.groups) for name, task in tasks.items()}
    for name, task in tasks.items():
        if task.offsets is not None:
            found[name] = found[name]._replace(value=task.offsets.clone())
    return found

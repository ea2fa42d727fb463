"""How the rounding of a block is initialised: V = 0, or GPTQ error compensation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

from autoround.core.float32_products import EXACT, float32_products
from autoround.core.gptq import inverse_choleskys, stacked_gptq_offsets
from autoround.core.grids.levels import LevelSet
from autoround.core.rtn import Target
from autoround.model.importance import Importance
from autoround.session.session import Session
from autoround.settings import GPTQ
from autoround.types import BlockPlan

#: Rows of a layer that may stand in one matrix with others: whole numbers of these.
PANEL_ROWS = 64
#: Weights that are compensated at a time, beside whole layers: half a gigabyte, which is needed
#: seven times over.
STACK_ELEMENTS = 1 << 27


def with_gptq_offsets(
    session: Session, block: BlockPlan, targets: Mapping[str, Target], importance: Importance
) -> dict[str, Target]:
    """Give layers that are initialised by GPTQ the rounding offsets V that compensate errors.

    Stacked experts, and layers that saw no token, have no Hessian and stay at the nearest level.

    Args:
        session: the pass; says which layers these are.
        block: whose layers.
        targets: grouped weights with their grids, by layer.
        importance: Hessians of the layers' inputs.
    """
    # Errors are handed on through all columns: products of shorter numbers would add their own,
    # whether the user's program or the speed of the blocks asks for them.
    with float32_products(EXACT, session.runtime.device):
        return _compensate(session, block, targets, importance)


def _compensate(
    session: Session, block: BlockPlan, targets: Mapping[str, Target], importance: Importance
) -> dict[str, Target]:
    # Layers that read the same input share its Hessian, and one factorisation serves them all.
    sharing: dict[str, list[str]] = {}
    for layer in block.quantized:
        if session.tuning.layer(layer.name).init_rounding == GPTQ:
            owner = importance.hessian_owner(layer.path)
            if owner is not None:
                sharing.setdefault(owner, []).append(layer.name)
    factors = inverse_choleskys(
        [importance.hessian(owner) for owner in sharing], queued=session.runtime.own_memory
    )
    initialised = dict(targets)
    for names, factor in zip(sharing.values(), factors, strict=True):
        if factor is None:
            continue
        for stack in _stacks(names, targets):
            offsets = stacked_gptq_offsets(
                [targets[name] for name in stack],
                factor,
                round_block=session.runtime.ops.gptq_block,
            )
            for name, part in zip(stack, offsets, strict=True):
                initialised[name] = targets[name]._replace(offsets=part)
    return initialised


def _stacks(names: Sequence[str], targets: Mapping[str, Target]) -> list[list[str]]:
    """Gather layers of one input that are compensated as one matrix.

    Their levels are the same. Libraries add the products of some rows at the end of a matrix in
    another order; with whole panels of rows, a layer's numbers are those it has alone.
    """
    stacks: list[list[str]] = []
    room: dict[LevelSet, int] = {}
    latest: dict[LevelSet, list[str]] = {}
    for name in names:
        target = targets[name]
        levels, size = target.grid.levels, prod(target.shape)
        whole = target.shape[0] % PANEL_ROWS == 0
        if whole and size <= room.get(levels, 0):
            latest[levels].append(name)
            room[levels] -= size
            continue
        stacks.append([name])
        if whole:
            latest[levels], room[levels] = stacks[-1], STACK_ELEMENTS - size
    return stacks

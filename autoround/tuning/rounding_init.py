"""How the rounding of a block is initialised: V = 0, or GPTQ error compensation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from autoround.core.float32_products import EXACT, float32_products
from autoround.core.gptq import (
    InverseCholesky,
    gather_stacks,
    inverse_choleskys,
    stacked_gptq_offsets,
)
from autoround.core.rtn import Target
from autoround.model.importance import Importance
from autoround.session.session import Session
from autoround.settings import GPTQ
from autoround.types import BlockPlan


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
    initialised = dict(targets)
    for owners in _portions(sharing, together=not session.tuning.low_memory):
        hessians = [importance.hessian(owner) for owner in owners]
        factors = inverse_choleskys(hessians, queued=session.runtime.own_memory)
        del hessians
        for owner, factor in zip(owners, factors, strict=True):
            if factor is not None:
                sharing_targets = {name: targets[name] for name in sharing[owner]}
                initialised |= _with_offsets(session, sharing_targets, factor)
    return initialised


def _portions(names: Iterable[str], *, together: bool) -> list[list[str]]:
    """Return the layers whose Hessians are factored before the first factor is used."""
    # Their verdicts are then waited for once; one by one takes the memory of one factor.
    return [list(names)] if together else [[name] for name in names]


def _with_offsets(
    session: Session, targets: Mapping[str, Target], factor: InverseCholesky
) -> dict[str, Target]:
    """Give targets of one input their initial offsets; with little memory the host keeps them."""
    low_memory = session.tuning.low_memory
    initialised: dict[str, Target] = {}
    for stack in [[name] for name in targets] if low_memory else _stacks(targets):
        offsets = stacked_gptq_offsets(
            [targets[name] for name in stack], factor, round_block=session.runtime.ops.gptq_block
        )
        for name, part in zip(stack, offsets, strict=True):
            # As large as the weight, and read when tuning begins.
            offsets_there = part.to("cpu") if low_memory else part
            initialised[name] = targets[name]._replace(offsets=offsets_there)
    return initialised


def _stacks(targets: Mapping[str, Target]) -> list[list[str]]:
    """Gather layers of one input that are compensated as one matrix."""
    return gather_stacks({name: (t.grid.levels, t.shape) for name, t in targets.items()})

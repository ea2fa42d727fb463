"""How the rounding of a block is initialised: V = 0, or GPTQ error compensation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor

from autoround.core.float32_products import EXACT, float32_products
from autoround.core.gptq import InverseCholesky, gptq_offsets, inverse_choleskys
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
    owners: dict[str, str] = {}
    hessians: dict[str, Tensor] = {}
    for layer in block.quantized:
        if session.tuning.layer(layer.name).init_rounding == GPTQ:
            shared = importance.hessian(layer.path)
            if shared is not None:
                owners[layer.name], hessian = shared
                hessians.setdefault(owners[layer.name], hessian)
    initialised = dict(targets)
    for some in _portions(hessians, together=not session.tuning.low_memory):
        factors = dict(
            zip(some, _factors(session, [hessians[owner] for owner in some]), strict=True)
        )
        for layer in block.quantized:
            factor = factors.get(owners.get(layer.name, ""))
            if factor is not None:
                initialised[layer.name] = _with_offsets(session, targets[layer.name], factor)
    return initialised


def _portions(names: Iterable[str], *, together: bool) -> list[list[str]]:
    """Return the layers whose Hessians are factored before the first factor is used."""
    # Their verdicts are then waited for once; one by one takes the memory of one factor.
    return [list(names)] if together else [[name] for name in names]


def _factors(session: Session, hessians: list[Tensor]) -> list[InverseCholesky | None]:
    return inverse_choleskys(hessians, queued=session.runtime.device.type != "cpu")


def _with_offsets(session: Session, target: Target, factor: InverseCholesky) -> Target:
    """Give a target its initial offsets; with little memory the host keeps them."""
    offsets = gptq_offsets(target, factor, round_block=session.runtime.ops.gptq_block)
    if session.tuning.low_memory:
        # As large as the weight, and read when tuning begins.
        offsets = offsets.to("cpu")
    return target._replace(offsets=offsets)

"""How the rounding of a block is initialised: V = 0, or GPTQ error compensation."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from autoround.core.float32_products import EXACT, float32_products
from autoround.core.gptq import gptq_offsets, inverse_choleskys
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
    queued = session.runtime.device.type != "cpu"
    inverses = inverse_choleskys(list(hessians.values()), queued=queued)
    factors = dict(zip(hessians, inverses, strict=True))
    initialised = dict(targets)
    for layer in block.quantized:
        factor = factors[owners[layer.name]] if layer.name in owners else None
        if factor is not None:
            target = targets[layer.name]
            offsets = gptq_offsets(target, factor, round_block=session.runtime.ops.gptq_block)
            initialised[layer.name] = target._replace(offsets=offsets)
    return initialised

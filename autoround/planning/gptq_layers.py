"""Layers of a block that GPTQ initialises: whose Hessians they share, and which stand together."""

from __future__ import annotations

import math
from collections.abc import Sequence

from autoround.core.gptq import gather_stacks
from autoround.core.grids.schemes import scheme_levels
from autoround.planning.activations import FLOAT32, BlockShape
from autoround.settings import GPTQ
from autoround.types import LayerPlan, Plan


def gptq_layers(plan: Plan, shape: BlockShape) -> list[LayerPlan]:
    """Return the layers whose rounding is initialised by GPTQ.

    Args:
        plan: of the pass.
        shape: the block.
    """
    return [
        x
        for x in shape.plan.quantized
        if not x.experts and plan.tuning.layer(x.name).init_rounding == GPTQ
    ]


def layers_by_input(shape: BlockShape) -> list[list[LayerPlan]]:
    """Return the quantized layers of a block, those that read the same input together.

    Args:
        shape: the block.
    """
    sharing: list[list[LayerPlan]] = []
    for module in shape.modules:
        layers = [x for x in module.layers if x.scheme is not None and not x.experts]
        before = 0
        for number, layer in enumerate(layers):
            width = layer.shape[1]
            # The last layer of a module reads what the others made.
            last = 0 < number == len(layers) - 1
            if last or width != before:
                sharing.append([])
            sharing[-1].append(layer)
            before = width
    return sharing


def hessian_bytes(plan: Plan, shape: BlockShape) -> dict[str, int]:
    """Return the bytes of each Hessian by the first layer that reads its input.

    Args:
        plan: of the pass.
        shape: the block.
    """
    if not plan.tuning.uses_gptq:
        return {}
    firsts = [layers[0] for layers in layers_by_input(shape)]
    return {layer.name: FLOAT32 * layer.shape[1] ** 2 for layer in firsts}


def widest_stack(layers: Sequence[LayerPlan], sharing: Sequence[Sequence[LayerPlan]]) -> int:
    """Return the weights of the largest matrix that is compensated, of layers of one input.

    Args:
        layers: that are initialised by GPTQ.
        sharing: layers of the same input, together.
    """
    chosen, widest = {layer.name for layer in layers}, 0
    for group in sharing:
        known = {
            x.name: (scheme_levels(x.scheme), x.shape)
            for x in group
            if x.name in chosen and x.scheme is not None
        }
        for stack in gather_stacks(known):
            widest = max(widest, sum(math.prod(known[name][1]) for name in stack))
    return widest

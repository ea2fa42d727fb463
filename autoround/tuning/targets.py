"""From a weight to a target of the core, and from its rounding to integers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from torch import Tensor

from autoround.core.grids.grid import min_max_grid, to_groups
from autoround.core.grids.schemes import scheme_levels, scheme_scales
from autoround.core.ops import Ops
from autoround.core.rounding import Rounding
from autoround.core.rtn import Target, largest_magnitude, matrix_from
from autoround.core.search import CHUNK_ELEMENTS, device_chunk
from autoround.errors import AutoRoundError
from autoround.formats.gguf.tensors import nested_tensor
from autoround.formats.registry import lowest_zero
from autoround.session.block_output import QuantizedWeight
from autoround.session.session import Session
from autoround.tuning.experts import search_expert_grids
from autoround.types import PLAIN, LayerPlan, QuantizedTensor


def make_target(
    session: Session,
    layer: LayerPlan,
    weight: Tensor,
    importance: Tensor | None,
    *,
    largest: float | None = None,
) -> Target:
    """Cut a layer's weight into groups and give them their grid.

    Args:
        session: the pass; says how grids are initialised.
        layer: that the weight belongs to.
        weight: [out, in], on any device.
        importance: of its inputs, float32 [in], or [experts, in] of stacked ones; None for equal
            weights.
        largest: greatest magnitude of the weight, where that is known; else the device is asked.

    Raises:
        AutoRoundError: the weight holds what no grid can.
    """
    assert layer.scheme is not None
    weight = weight.to(session.runtime.device)
    # One grid for all outputs: the one that can hold the fewest zero points decides.
    lowest = lowest_zero(session.plan.outputs) if layer.scheme.kind == PLAIN else 0
    levels = scheme_levels(layer.scheme, lowest_zero=lowest)
    scales = scheme_scales(layer.scheme)
    if largest is None:
        largest = largest_magnitude(weight)
    _refuse_values(layer.name, largest, most=scales.largest * levels.reach)
    groups = to_groups(weight, layer.scheme.group_size)
    shape = (weight.shape[0], weight.shape[1])
    if session.tuning.init_scale == "minmax":
        return Target(groups, min_max_grid(groups, levels, scales=scales), shape)
    grid = search_expert_grids(
        groups,
        importance,
        levels,
        scales=scales,
        layer=layer,
        ops=session.runtime.ops,
        chunk=_chunk(session),
    )
    return Target(groups, grid, shape)


def _chunk(session: Session) -> int:
    """Return how many elements to search at a time on the device of a session."""
    runtime = session.runtime
    if not runtime.own_memory:
        return CHUNK_ELEMENTS
    whole = runtime.memory().total
    return device_chunk(whole // 4 if session.tuning.low_memory else whole)


def _refuse_values(name: str, largest: float, *, most: float) -> None:
    """Refuse what no grid holds: NaN, infinity, and values that a float16 scale cannot reach."""
    if not math.isfinite(largest):
        raise AutoRoundError(f"layer {name}: its weight holds NaN or infinity")
    if largest > most:
        raise AutoRoundError(
            f"layer {name}: a weight of {largest:.3g} is beyond {most:.3g}, the most that scales "
            "in float16 reach at these bits; keep the layer in 16 bit: add it to ignore"
        )


def quantize_targets(
    layers: Sequence[LayerPlan],
    targets: Mapping[str, Target],
    roundings: Mapping[str, Rounding],
    *,
    ops: Ops,
) -> dict[str, QuantizedWeight]:
    """Round the weights of a block for good, all at once, to what the formats carry.

    Args:
        layers: of the block.
        targets, roundings: by their names.
        ops: of the device.
    """
    quantized = ops.quantize_all(
        [targets[layer.name].groups for layer in layers],
        [roundings[layer.name] for layer in layers],
        grids=[targets[layer.name].grid for layer in layers],
    )
    return {
        layer.name: _carried(layer, targets[layer.name], roundings[layer.name], parts)
        for layer, parts in zip(layers, quantized, strict=True)
    }


def _carried(
    layer: LayerPlan, target: Target, rounding: Rounding, parts: tuple[Tensor, Tensor, Tensor]
) -> QuantizedWeight:
    """Return a rounded weight as formats carry it, on the device.

    What is packed there goes to the host in as many bits as it has. Super-blocks of scales are
    packed on the host.
    """
    assert layer.scheme is not None
    codes, scale, zero, nested = matrix_from(target, rounding, parts)
    if nested is not None:
        return nested_tensor(layer.scheme.kind, codes, nested)
    return QuantizedTensor(codes, scale, zero, layer.scheme)

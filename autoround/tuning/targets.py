"""From a weight to a task of the core, and from its rounding to integers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from torch import Tensor

from autoround.core.gguf_types import nested_of
from autoround.core.grid import LARGEST_SCALE, from_groups, min_max_grid, nested_parts, to_groups
from autoround.core.ops import Ops
from autoround.core.rounding import Rounding
from autoround.core.rtn import Target
from autoround.errors import AutoRoundError
from autoround.formats.gguf.tensors import nested_tensor
from autoround.formats.registry import lowest_zero
from autoround.session.block_output import QuantizedWeight
from autoround.session.session import Session
from autoround.tuning.experts import search_expert_grids
from autoround.types import LayerPlan, QuantizedTensor


def make_target(
    session: Session, layer: LayerPlan, weight: Tensor, importance: Tensor | None
) -> Target:
    """Cut a layer's weight into groups and give them their grid.

    weight: [out, in], on any device. importance: importance of its inputs, float32 [in], or
    [experts, in] of stacked ones; None for equal weights.
    """
    assert layer.scheme is not None
    weight = weight.to(session.runtime.device)
    bits, sym = layer.scheme.bits, layer.scheme.sym
    _refuse_values(layer.name, weight, most=LARGEST_SCALE * 2 ** (bits - 1))
    groups = to_groups(weight, layer.scheme.group_size)
    shape = (weight.shape[0], weight.shape[1])
    nested = nested_of(layer.scheme)
    lowest = 0
    if nested is None:
        lowest = lowest_zero(session.plan.outputs)
    if session.tuning.init_scale == "minmax":
        grid = min_max_grid(groups, bits=bits, sym=sym, lowest_zero=lowest)
        return Target(groups, grid._replace(nested=nested), shape)
    grid = search_expert_grids(groups, importance, layer=layer, nested=nested, lowest_zero=lowest)
    return Target(groups, grid, shape)


def _refuse_values(name: str, weight: Tensor, *, most: float) -> None:
    """Refuse what no grid holds: NaN, infinity, and values that a float16 scale cannot reach."""
    largest = float(weight.abs().max())  # NaN where there is one
    if not math.isfinite(largest):
        raise AutoRoundError(f"layer {name}: its weight holds NaN or infinity")
    if largest > most:
        raise AutoRoundError(
            f"layer {name}: a weight of {largest:.3g} is beyond {most:.3g}, the most that scales "
            "in float16 reach at these bits; keep the layer in 16 bit: add it to ignore"
        )


def quantize_target(
    layer: LayerPlan, task: Target, rounding: Rounding, *, ops: Ops
) -> QuantizedWeight:
    """Round a weight for good, to what the formats carry."""
    return quantize_targets([layer], {layer.name: task}, {layer.name: rounding}, ops=ops)[
        layer.name
    ]


def quantize_targets(
    layers: Sequence[LayerPlan],
    tasks: Mapping[str, Target],
    roundings: Mapping[str, Rounding],
    *,
    ops: Ops,
) -> dict[str, QuantizedWeight]:
    """Round the weights of a block for good, all at once, to what the formats carry."""
    held = ops.quantize_all(
        [tasks[layer.name].groups for layer in layers],
        [roundings[layer.name] for layer in layers],
        grids=[tasks[layer.name].grid for layer in layers],
    )
    return {
        layer.name: _carried(layer, tasks[layer.name], roundings[layer.name], parts)
        for layer, parts in zip(layers, held, strict=True)
    }


def _carried(
    layer: LayerPlan, task: Target, rounding: Rounding, parts: tuple[Tensor, Tensor, Tensor]
) -> QuantizedWeight:
    assert layer.scheme is not None
    codes, scale, zero = parts
    held = from_groups(codes, task.shape).contiguous().to("cpu")
    if task.grid.nested is not None:
        nested = nested_parts(task.grid, rounding.min_scale.detach(), rounding.max_scale.detach())
        return nested_tensor(layer.scheme.kind, held, nested)
    return QuantizedTensor(
        held,
        scale.squeeze(-1).to("cpu"),
        zero.squeeze(-1).to("cpu"),
        layer.scheme,
    )

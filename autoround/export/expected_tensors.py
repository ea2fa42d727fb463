"""Names, types and shapes of the tensors that safetensors files will hold, before there are any."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from autoround.core.rounding import dense_weight
from autoround.export.safetensors_writer import cast_tensors, file_tensors, name_tensors
from autoround.formats.on_meta import weight_on_meta
from autoround.formats.registry import layout_named
from autoround.formats.stacked import StackedLayout
from autoround.formats.written import split, stack_matrices
from autoround.model.skeleton import Skeleton
from autoround.model.stacked_experts import from_matrix
from autoround.session.loaded_block import in_kept_dtype
from autoround.session.session import Session
from autoround.types import LayerPlan, OutputPlan, Plan, QuantizedTensor


def expected_tensors(session: Session, part: OutputPlan) -> Iterator[tuple[str, Tensor]]:
    """Yield what the writer of a format will be given, in its order.

    Args:
        session: the pass.
        part: the format.

    Yields:
        The name of each tensor in the files, and a meta tensor of its type and shape.
    """
    plan, skeleton = session.plan, session.skeleton
    for block in plan.blocks:
        yield from _name_layers(block.quantized, plan, part, skeleton)
        names = [name for name in skeleton.names_under(block.name) if name not in skeleton.tied]
        stored = {name: _empty(*skeleton.header(name)) for name in names}
        kept = in_kept_dtype(plan, block, stored)
        rest = {name: kept[name] for name in names if name not in block.quantized_tensors}
        yield from _name_unquantized(rest, plan, part, skeleton)
    yield from _name_layers(session.non_block_layers, plan, part, skeleton)
    for name in skeleton.names_outside_blocks():
        yield from _name_unquantized({name: _empty(*skeleton.header(name))}, plan, part, skeleton)
    headers = skeleton.source.headers()
    for name in skeleton.unmapped:
        yield name, _empty(*headers[name])


def _empty(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def _name_unquantized(
    tensors: Mapping[str, Tensor], plan: Plan, part: OutputPlan, skeleton: Skeleton
) -> Iterator[tuple[str, Tensor]]:
    quantized = {layer.tensor for layer in plan.kept if layer.scheme is not None}
    rest = {name: tensor for name, tensor in tensors.items() if name not in quantized}
    yield from _name_rest(rest, plan, part, skeleton)


def _name_rest(
    tensors: Mapping[str, Tensor], plan: Plan, part: OutputPlan, skeleton: Skeleton
) -> Iterator[tuple[str, Tensor]]:
    yield from file_tensors(skeleton, cast_tensors(part, tensors, float32=plan.float32)).items()


def _name_layers(
    layers: Sequence[LayerPlan], plan: Plan, part: OutputPlan, skeleton: Skeleton
) -> Iterator[tuple[str, Tensor]]:
    layout = layout_named(part.packing)
    if layout.dense:
        weights = {x.tensor: from_matrix(x, dense_weight(_empty_weight(x))) for x in layers}
        yield from _name_rest(weights, plan, part, skeleton)
        return
    for layer in layers:
        weight = _empty_weight(layer)
        if isinstance(layout, StackedLayout):
            stacked = layout.lay_out(stack_matrices(layer, weight))
            yield from name_tensors(layer, stacked).items()
            continue
        for name, matrix in split(layer, weight):
            for each, tensor in layout.to_tensors(matrix).items():
                yield f"{name}.{each}", tensor


def _empty_weight(layer: LayerPlan) -> QuantizedTensor:
    assert layer.scheme is not None
    return weight_on_meta(layer.shape, layer.scheme)

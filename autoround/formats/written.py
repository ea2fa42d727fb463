"""Layers as files have them: experts one by one, under the names of published checkpoints."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from autoround.types import LayerPlan, Plan, QuantizedTensor

if TYPE_CHECKING:
    from torch import Tensor

#: Stands for an expert's number in ``LayerPlan.files``.
NUMBER = "{}"
#: What modules for multi-token prediction begin with.
_FURTHER = ("mtp", "nextn")


def written_layers(layers: Iterable[LayerPlan]) -> list[LayerPlan]:
    """Return the layers of a plan as they are in the files, by their names there.

    Args:
        layers: as planned, experts stacked.

    Returns:
        One layer for each matrix in the files.
    """
    return [one for layer in layers for one in _written(layer)]


def _written(layer: LayerPlan) -> list[LayerPlan]:
    if not layer.experts:
        return [replace(layer, name=layer.files[0], files=())] if layer.files else [layer]
    shape = part_shape(layer)
    return [
        LayerPlan(name.replace(NUMBER, str(expert)), shape, layer.scheme, layer.reason)
        for expert in range(layer.experts)
        for name in layer.files
    ]


def part_shape(layer: LayerPlan) -> tuple[int, int]:
    """Return (out, in) of one matrix of a layer as it is written.

    Args:
        layer: single, or stacked experts whose rows are divided among experts and their files.
    """
    rows = layer.shape[0] // max(1, layer.experts) // layer.parts
    return rows, layer.shape[1]


def described(plan: Plan) -> tuple[list[LayerPlan], list[LayerPlan]]:
    """Return the layers that a config speaks of.

    Where a layer's module has another name in transformers' class than in the files, both are
    listed: some programs go by the one, some by the other.

    Args:
        plan: of the pass that writes the output.

    Returns:
        Those of the blocks, and those outside.
    """
    inside = [layer for block in plan.blocks for layer in block.layers]
    return _both(inside), _both(plan.kept)


def block_lists(plan: Plan) -> list[str]:
    """Return the paths of the list of decoder blocks.

    Args:
        plan: with at least one block.

    Returns:
        The path in the files, then the one in the class; one of them where they are the same.
    """
    own = plan.blocks[0].name.rpartition(".")[0]
    number = plan.blocks[0].name.rpartition(".")[2]
    found = []
    # Files may have another prefix than the class; the number of the block is in both.
    for layer in plan.blocks[0].layers:
        before, _, after = layer.file.partition(f".{number}.")
        if after:
            found.append(before)
            break
    return list(dict.fromkeys([*found, own]))


def is_head(name: str) -> bool:
    """Tell whether a layer outside the blocks may be the output head, by its name.

    Args:
        name: in the files or in the class. Layers of other lists of blocks have numbers in their
            names; those that predict further tokens are called so.
    """
    pieces = name.split(".")
    return not any(piece.isdigit() or piece.startswith(_FURTHER) for piece in pieces)


def among_blocks(plan: Plan, name: str) -> bool:
    """Tell whether a layer's name begins as those of the decoder blocks do.

    Args:
        plan: with at least one block.
        name: in the files or in the class.
    """
    return name.startswith(tuple(f"{path}." for path in block_lists(plan)))


def _both(layers: Iterable[LayerPlan]) -> list[LayerPlan]:
    found: dict[str, LayerPlan] = {}
    for layer in layers:
        for one in _written(layer):
            found[one.name] = one
        if not layer.experts:
            found.setdefault(layer.name, replace(layer, files=()))
    return list(found.values())


def matrix_names(layer: LayerPlan) -> list[str]:
    """Return the names of the matrices that a layer is written as, in their order.

    Args:
        layer: single, or stacked experts: all parts of the first come first.
    """
    if not layer.experts:
        return [layer.file]
    return [name.replace(NUMBER, str(e)) for e in range(layer.experts) for name in layer.files]


def stack_matrices(layer: LayerPlan, tensor: QuantizedTensor) -> QuantizedTensor:
    """Give a quantized weight an axis of the matrices that it is written as.

    Args:
        layer: of the plan.
        tensor: codes uint8 [out, in], experts stacked along ``out``; scale and zero [out, groups],
            or [1, 1] with one scale for the whole tensor.

    Returns:
        The weight itself where it is one matrix; else codes [matrices, out of one, in], scale and
        zero [matrices, out of one, groups] or [1, 1, 1].
    """
    if not layer.experts:
        return tensor

    def by_matrix(part: Tensor) -> Tensor:
        # Experts are stacked along the outputs, each with the rows of its matrices.
        if layer.interleaved:
            turns = part.reshape(layer.experts, -1, layer.parts, part.shape[1])
            return turns.transpose(1, 2).reshape(layer.experts * layer.parts, -1, part.shape[1])
        return part.reshape(layer.experts * layer.parts, -1, part.shape[1])

    if tensor.scale.shape[0] == 1:  # one scale for the whole tensor
        scale, zero = tensor.scale.unsqueeze(0), tensor.zero.unsqueeze(0)
    else:
        scale, zero = by_matrix(tensor.scale), by_matrix(tensor.zero)
    return QuantizedTensor(by_matrix(tensor.codes), scale, zero, tensor.scheme)


def unstack_matrices(
    tensor: QuantizedTensor, experts: int, *, interleaved: bool
) -> QuantizedTensor:
    """Undo :func:`stack_matrices`.

    Args:
        tensor: codes [matrices, out of one, in], scale and zero [matrices, out of one, groups].
        experts: whose matrices they are.
        interleaved: whether the rows of an expert's matrices take turns.

    Returns:
        Codes [out, in], scale and zero [out, groups].
    """

    def flat(part: Tensor) -> Tensor:
        matrices, rows, columns = part.shape
        if not interleaved:
            return part.reshape(matrices * rows, columns)
        turns = part.reshape(experts, matrices // experts, rows, columns).transpose(1, 2)
        return turns.reshape(matrices * rows, columns)

    codes, scale, zero = flat(tensor.codes), flat(tensor.scale), flat(tensor.zero)
    return QuantizedTensor(codes, scale, zero, tensor.scheme)


def split(layer: LayerPlan, tensor: QuantizedTensor) -> Iterator[tuple[str, QuantizedTensor]]:
    """Cut a quantized weight into the matrices it is written as.

    Args:
        layer: of the plan.
        tensor: codes uint8 [out, in], experts stacked along ``out``; scale and zero [out, groups],
            or [1, 1] with one scale for the whole tensor.

    Yields:
        The name of each matrix in the files, and the matrix.
    """
    if not layer.experts:
        yield layer.file, tensor
        return
    whole = stack_matrices(layer, tensor)
    shared = whole.scale.shape[0] == 1 and len(whole.codes) != 1
    for number, name in enumerate(matrix_names(layer)):
        scales = 0 if shared else number
        yield (
            name,
            QuantizedTensor(
                whole.codes[number].contiguous(),
                whole.scale[scales].contiguous(),
                whole.zero[scales].contiguous(),
                tensor.scheme,
            ),
        )

"""Packed matrices of one shape unpacked together: the experts of a layer, on a device.

An accelerator takes as many launches for one matrix as for all of them. What is told of a matrix,
and what would be wrong with it, is what reading it by itself would tell.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from autoround.core.rounding import dense_weight
from autoround.errors import FormatError
from autoround.formats.faults import Fault
from autoround.formats.format import PackedLayer
from autoround.formats.registry import layout_named
from autoround.formats.regroup import ordered_weight
from autoround.formats.stacked import StackedLayout
from autoround.types import QuantizedTensor

#: Codes that are unpacked at a time; temporaries of them take up to twelve bytes each.
CHUNK_CODES = 1 << 26


class PackedMatrix(NamedTuple):
    """A matrix as files hold it.

    layer: how it is packed. parts: its tensors by the layout's names, on one device but for those
    that tell a shape, which are on the CPU.
    """

    layer: PackedLayer
    parts: Mapping[str, Tensor]


class DenseMatrix(NamedTuple):
    """A matrix as numbers.

    weight: float32 [out, in]. faults: what may be wrong with it.
    """

    weight: Tensor
    faults: list[Fault]


class _Alike(NamedTuple):
    """Matrices that unpack in one go: their layout, one of them on meta, and their names."""

    layout: StackedLayout
    shape: QuantizedTensor
    names: list[str]


def tells_shape(tensor: Tensor) -> bool:
    """Tell whether a part of a matrix is numbers that the host reads: they say how wide it is.

    Args:
        tensor: the part, on any device.
    """
    return tensor.dtype == torch.int64 and tensor.numel() <= 2


def infinite_scales(scale: Tensor) -> tuple[Tensor, str]:
    """Return whether scales are no numbers; nothing is read.

    Args:
        scale: [..., out, groups].

    Returns:
        A flag for each matrix, bool [...], and what is said of one.
    """
    wrong = ~torch.isfinite(scale).flatten(-2).all(-1)
    return wrong, "its scales hold NaN or infinity"


def missing_groups(index: Tensor, groups: int) -> tuple[Tensor, str]:
    """Return whether inputs are in groups that there are not; nothing is read.

    Args:
        index: int [..., in], the group of each input.
        groups: of a row.

    Returns:
        A flag for each matrix, bool [...], and what is said of one.
    """
    last = groups - 1
    wrong = ((index < 0) | (index > last)).any(-1)
    return wrong, f"g_idx names groups outside 0 … {last}"


def stacks(layer: PackedLayer) -> bool:
    """Tell whether matrices that are packed so can be unpacked together.

    Args:
        layer: how one is packed.
    """
    return isinstance(layout_named(layer.packing), StackedLayout)


def dense_matrices(
    matrices: Mapping[str, PackedMatrix], *, chunk: int = CHUNK_CODES
) -> dict[str, DenseMatrix]:
    """Unpack matrices, those of one shape together; values are not looked at.

    Args:
        matrices: by name, as messages call them; each :func:`stacks`.
        chunk: codes to unpack at a time, at least one matrix.

    Returns:
        The matrices by name.

    Raises:
        FormatError: the first matrix whose tensors do not fit its layout.
    """
    alike: dict[Hashable, _Alike] = {}
    for name, matrix in matrices.items():
        key = matrix.layer, tuple(_facts(part, t) for part, t in matrix.parts.items())
        if key not in alike:
            alike[key] = _read_shape(name, matrix)
        alike[key].names.append(name)
    unpacked: dict[str, DenseMatrix] = {}
    for layout, shape, names in alike.values():
        step = max(1, chunk // max(1, shape.codes.numel()))
        for start in range(0, len(names), step):
            portion = {name: matrices[name] for name in names[start : start + step]}
            unpacked |= _unpack(portion, layout, shape)
    return unpacked


def _facts(part: str, tensor: Tensor) -> Hashable:
    """Return what matrices must share to be unpacked together."""
    values = tuple(tensor.tolist()) if tells_shape(tensor) else ()
    return part, tuple(tensor.shape), tensor.dtype, values


def _read_shape(name: str, matrix: PackedMatrix) -> _Alike:
    """Read a matrix on meta: its shape, once all that can be known without values was checked."""
    layout = layout_named(matrix.layer.packing)
    assert isinstance(layout, StackedLayout)
    empty = {
        part: t if tells_shape(t) else torch.empty(t.shape, dtype=t.dtype, device="meta")
        for part, t in matrix.parts.items()
    }
    shape = layout.take_matrix_apart(empty, matrix.layer.scheme, name=name)
    return _Alike(layout, shape, [])


def _unpack(
    matrices: Mapping[str, PackedMatrix], layout: StackedLayout, shape: QuantizedTensor
) -> dict[str, DenseMatrix]:
    """Unpack matrices of one shape."""
    first = next(iter(matrices.values()))
    parts = {
        part: torch.stack([matrix.parts[part] for matrix in matrices.values()])
        for part, tensor in first.parts.items()
        if not tells_shape(tensor)
    }
    rows, columns = shape.codes.shape
    apart = layout.take_apart(parts, first.layer.scheme, columns)
    # One scale a tensor, which files hold once a channel, is one a channel from here on.
    layer = QuantizedTensor(apart.codes, apart.scale, apart.zero, shape.scheme)
    wrong = [*layout.wrong_values(parts, layer), infinite_scales(layer.scale)]
    index = parts.get("g_idx")
    if index is None or shape.scheme.group_size <= 0:
        codes, scale, zero = (
            part.reshape(-1, part.shape[-1]) for part in (layer.codes, layer.scale, layer.zero)
        )
        flat = QuantizedTensor(codes, scale, zero, shape.scheme)
        weights = dense_weight(flat).reshape(-1, rows, columns)
    else:
        groups = layer.scale.shape[-1]
        wrong.append(missing_groups(index, groups))
        # A device would not outlive an index that there is not.
        weights = ordered_weight(layer, index.clamp(0, groups - 1))
    return {
        name: DenseMatrix(
            weights[number],
            [Fault(flag[number], FormatError(f"layer {name}: {text}")) for flag, text in wrong],
        )
        for number, name in enumerate(matrices)
    }

"""Packed layers of a checkpoint, whichever program wrote it: which they are, and their shapes.

AutoRound's config says which layers are quantized. GPTQ's and AWQ's leave it to rules that
programs read in their own ways; there the files decide: a layer with a ``qweight`` is
quantized, any other is not.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch

from autoround.errors import FormatError
from autoround.formats.format import PackedLayer
from autoround.formats.registry import layout_named, reading_format
from autoround.types import Expected

#: Shape and dtype of a tensor.
Header = tuple[tuple[int, ...], torch.dtype]


def packed_layers(
    config: Mapping[str, Any], shapes: Mapping[str, tuple[int, int]], tensors: Collection[str]
) -> dict[str, PackedLayer]:
    """Return how every quantized layer of a checkpoint is held.

    Args:
        config: the ``quantization_config``.
        shapes: candidate layers and their shapes (out, in).
        tensors: names of all tensors in the files.

    Returns:
        The quantized layers by name.

    Raises:
        FormatError: the config is of no format that can be read, or a value is illegal.
    """
    return reading_format(config).packed_layers(config, shapes, tensors)


def packed_shape(name: str, packed: PackedLayer, headers: Mapping[str, Header]) -> tuple[int, int]:
    """Return (out, in) of a packed layer, by the headers of its tensors.

    Args:
        name: of the layer in the files.
        packed: its scheme and layout.
        headers: of all tensors in the files.

    Raises:
        FormatError: a tensor is missing or does not fit the others.
    """
    scheme, packing = packed
    layout = layout_named(packing)
    reason = layout.illegal(scheme)
    if reason:
        raise FormatError(f"layer {name}: {packing} with {scheme}: {reason}")
    parts = {p: headers[f"{name}.{p}"] for p in layout.parts if f"{name}.{p}" in headers}
    # Unpacking meta tensors checks shapes and dtypes of all parts, and reads nothing.
    empty = {p: torch.empty(s, dtype=d, device="meta") for p, (s, d) in parts.items()}
    rows, columns = layout.from_tensors(empty, scheme, name=name).codes.shape
    order = parts.get("g_idx", parts.get("weight_g_idx"))
    if order is not None and order != ((columns,), torch.int32):
        raise FormatError(
            f"layer {name}: g_idx is {order[1]} {order[0]}, expected torch.int32 ({columns},)"
        )
    return int(rows), int(columns)


def check_layers(
    packed: Mapping[str, PackedLayer], headers: Mapping[str, Header], *, expected: Expected
) -> None:
    """Hold the tensors of every layer against its layout and the model, by headers alone.

    Args:
        packed: the quantized layers.
        headers: of all tensors in the files.
        expected: what the model would have.

    Raises:
        FormatError: with the layer and what is wrong with it.
    """
    shapes, tied = expected.shapes, expected.tied
    for name, layer in packed.items():
        shape = packed_shape(name, layer, headers)
        if name in shapes and shape != shapes[name]:
            raise FormatError(
                f"layer {name}: its codes are {shape[0]} x {shape[1]}, the model's weight is "
                f"{shapes[name][0]} x {shapes[name][1]}"
            )
    for name in shapes:
        weight = f"{name}.weight"
        # A tied weight may be stored under the other name, or without the model's prefix.
        same = {weight, tied.get(weight, weight), *(n for n, x in tied.items() if x == weight)}
        names = same | {n.removeprefix(expected.prefix) for n in same}
        if name not in packed and not any(n in headers for n in names):
            raise FormatError(f"layer {name}: the files hold neither its codes nor its weight")

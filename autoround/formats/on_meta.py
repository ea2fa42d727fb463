"""Shapes and sizes of layouts by tensors without numbers: what formats make of them has both."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from autoround.core.grids.widths import group_count
from autoround.formats.format import Layout
from autoround.storage.dtypes import StoredHeader
from autoround.types import PER_TENSOR, QuantizedTensor, Scheme


def shape_on_meta(
    layout: Layout, parts: Mapping[str, StoredHeader], scheme: Scheme, *, name: str
) -> tuple[int, int]:
    """Return (out, in) of a layer: its tensors, unpacked on meta.

    Args:
        layout: of the tensors.
        parts: headers of those that the files hold, by part.
        scheme: as the config says.
        name: of the layer, for messages.

    Raises:
        FormatError: a tensor is missing, or has another dtype or shape than the layout.
    """
    empty = {
        part: torch.empty(shape, dtype=getattr(torch, dtype), device="meta")
        for part, (shape, dtype) in parts.items()
    }
    rows, columns = layout.from_tensors(empty, scheme, name=name).codes.shape
    return int(rows), int(columns)


def bytes_on_meta(layout: Layout, shape: tuple[int, int], scheme: Scheme) -> int:
    """Return the bytes of a weight: laid out on meta.

    Args:
        layout: that it is laid out by.
        shape: (out, in).
        scheme: of the weight.

    Raises:
        FormatError: the layout cannot hold it.
    """
    tensors = layout.to_tensors(weight_on_meta(shape, scheme))
    return sum(t.numel() * t.element_size() for t in tensors.values())


def weight_on_meta(shape: tuple[int, int], scheme: Scheme) -> QuantizedTensor:
    """Return a quantized weight without numbers, on meta: what formats make of it has its sizes.

    Args:
        shape: (out, in).
        scheme: of the weight.
    """
    first = 1 if scheme.group_size == PER_TENSOR else shape[0]
    scales = (first, group_count(shape, scheme) // first)
    return QuantizedTensor(
        torch.empty(shape, dtype=torch.uint8, device="meta"),
        torch.empty(scales, dtype=torch.float16, device="meta"),
        torch.empty(scales, dtype=torch.uint8, device="meta"),
        scheme,
    )

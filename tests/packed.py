"""Layouts by name, as checkpoints have them."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from autoround.formats.registry import layout_named
from autoround.types import QuantizedTensor, Scheme


def to_tensors(layer: QuantizedTensor, packing: str) -> dict[str, Tensor]:
    """Lay a quantized weight out in a layout."""
    return layout_named(packing).to_tensors(layer)


def from_tensors(
    tensors: Mapping[str, Tensor], scheme: Scheme, *, packing: str, name: str
) -> QuantizedTensor:
    """Read a quantized weight of a layout back."""
    return layout_named(packing).from_tensors(tensors, scheme, name=name)

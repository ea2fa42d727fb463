"""The packing of compressed-tensors' layers; ``layout.py`` beside it says which there are."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from autoround.core.packing import pack_ragged_rows_unchecked, unpack_ragged_rows
from autoround.formats.stacked import expand_shared
from autoround.types import QuantizedTensor, Scheme


def lay_out(layer: QuantizedTensor) -> dict[str, Tensor]:
    """Lay weights out without a look at their values; meta tensors give shapes.

    Args:
        layer: codes [..., out, in], scale and zero [..., out, groups] or ones for the sizes of a
            per-tensor scheme.

    Returns:
        ``weight_packed`` int32 [..., out, in*bits/32], ``weight_scale`` [..., out, groups],
        ``weight_shape`` int64 [..., 2] and, if asymmetric, ``weight_zero_point`` int32
        [..., out*bits/32, groups]; numbers of words are rounded up.
    """
    bits, (*lead, rows, columns) = layer.scheme.bits, layer.codes.shape
    # Made there: the host would wait for a copy.
    sizes = [
        torch.full((1,), size, dtype=torch.int64, device=layer.codes.device)
        for size in (rows, columns)
    ]
    tensors = {
        # The axis before the last is packed: the inputs are turned there, and back.
        "weight_packed": pack_ragged_rows_unchecked(layer.codes.mT, bits).mT.contiguous(),
        "weight_scale": expand_shared(layer.scale, layer).contiguous(),
        "weight_shape": torch.cat(sizes).expand(*lead, 2).contiguous(),
    }
    if not layer.scheme.sym:
        packed = pack_ragged_rows_unchecked(expand_shared(layer.zero, layer), bits)
        tensors["weight_zero_point"] = packed.contiguous()
    return tensors


def take_apart(tensors: Mapping[str, Tensor], scheme: Scheme, columns: int) -> QuantizedTensor:
    """Undo :func:`lay_out` without checks.

    Args:
        tensors: by part, with or without a leading axis.
        scheme: of the weights.
        columns: input width.
    """
    packed, scale = tensors["weight_packed"], tensors["weight_scale"]
    codes = unpack_ragged_rows(packed.mT, scheme.bits, columns).mT
    # Symmetric layers store no zero points: all are the middle level.
    if scheme.sym:
        middle = 2 ** (scheme.bits - 1)
        zero = torch.full(scale.shape, middle, dtype=torch.uint8, device=codes.device)
    else:
        words = tensors["weight_zero_point"]
        zero = unpack_ragged_rows(words, scheme.bits, packed.shape[-2])
    return QuantizedTensor(codes, scale, zero, scheme)

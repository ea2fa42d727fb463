"""The packing of AWQ's tensors; :mod:`autoround.formats.awq.layout` says which there are.

Nibble n of a word, from the low bits, holds output ORDER[n] of its eight.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from autoround.formats.stacked import expand_shared
from autoround.types import QuantizedTensor, Scheme

BITS = 4
#: Output of the eight that each nibble of a word holds.
ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


def pack_columns(codes: Tensor) -> Tensor:
    """Pack 4-bit codes along the last axis; meta tensors give the shape.

    Args:
        codes: integers [..., 8n], values 0 … 15.

    Returns:
        int32 [..., n]; nibble k, from the low bits, is column ORDER[k] of its eight.
    """
    *lead, columns = codes.shape
    count = columns // len(ORDER)
    if codes.device.type == "meta":
        return torch.empty((*lead, count), dtype=torch.int32, device="meta")
    eights = codes.reshape(*lead, count, len(ORDER))
    # No two nibbles have a bit in common, so their sum is their union; int32 wraps at the top.
    if codes.device.type != "cpu":
        # All eight at once, four bytes each while they are added up: launches count there.
        return (eights.to(torch.int32) << _shifts(codes.device)).sum(-1, dtype=torch.int32)
    words = torch.zeros((*lead, count), dtype=torch.int32)
    for nibble, output in enumerate(ORDER):
        words += eights[..., output].to(torch.int32) << (BITS * nibble)
    return words


def _shifts(device: torch.device) -> Tensor:
    """Return how far up in a word each of its eight outputs is: int32 [8]."""
    outputs = torch.arange(len(ORDER), dtype=torch.int32, device=device)
    # The even ones are in the lower half of the word.
    return (outputs // 2 + len(ORDER) // 2 * (outputs % 2)) * BITS


def unpack_columns(words: Tensor) -> Tensor:
    """Undo :func:`pack_columns`.

    Args:
        words: int32 [..., n].

    Returns:
        uint8 [..., 8n].
    """
    *lead, count = words.shape
    shape = (*lead, count, len(ORDER))
    if words.device.type not in ("cpu", "meta"):
        values = (words.unsqueeze(-1) >> _shifts(words.device)) & 15
        return values.to(torch.uint8).reshape(*lead, count * len(ORDER))
    out = torch.empty(shape, dtype=torch.uint8, device=words.device)
    if words.device.type != "meta":
        for nibble, output in enumerate(ORDER):
            out[..., output] = ((words >> (BITS * nibble)) & 15).to(torch.uint8)
    return out.reshape(*lead, count * len(ORDER))


def lay_out(layer: QuantizedTensor) -> dict[str, Tensor]:
    """Lay weights of 4 bits out without a look at their values; meta tensors give shapes.

    Args:
        layer: codes [..., out, in], scale and zero [..., out, groups] or ones for the sizes of a
            per-tensor scheme.

    Returns:
        ``qweight`` int32 [..., in, out/8], ``qzeros`` int32 [..., groups, out/8] and ``scales``
        [..., groups, out].
    """
    return {
        # Transposed: AWQ packs along the outputs, and its rows are inputs.
        "qweight": pack_columns(layer.codes.mT),
        "qzeros": pack_columns(expand_shared(layer.zero, layer).mT),
        "scales": expand_shared(layer.scale, layer).mT.contiguous(),
    }


def take_apart(tensors: Mapping[str, Tensor], scheme: Scheme) -> QuantizedTensor:
    """Undo :func:`lay_out` without checks.

    Args:
        tensors: by part, with or without a leading axis.
        scheme: of the weights.
    """
    codes, zero = (unpack_columns(tensors[part]).mT for part in ("qweight", "qzeros"))
    return QuantizedTensor(codes, tensors["scales"].mT, zero, scheme)

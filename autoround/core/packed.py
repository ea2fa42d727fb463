"""The canonical layout of one packed weight, which any device can read.

``words`` int32 [out, in/32*bits]: codes along the inputs as one little-endian bit stream, rows
padded with zeros to whole blocks of 32; ``scale`` [out, groups] in its own 16-bit float;
``zero`` uint8 [out, groups], or one element where it is the same everywhere; ``group`` int64
[in], where groups do not follow each other.
"""

from __future__ import annotations

import torch
from torch import Tensor

from autoround.core.grids.schemes import scheme_levels
from autoround.core.packing import pack_rows
from autoround.core.word_counts import BLOCK
from autoround.types import QuantizedTensor, Scheme


def pack(layer: QuantizedTensor, order: Tensor | None) -> dict[str, Tensor]:
    """Lay a weight out.

    Args:
        layer: codes uint8 [out, in], scale and zero [out, groups].
        order: the group of each input, int64 [in]; None where groups follow each other.

    Returns:
        ``words``, ``scale``, ``zero`` and, given an order, ``group``, as the module says.
    """
    rows, columns = layer.codes.shape
    codes = torch.nn.functional.pad(layer.codes, (0, -columns % BLOCK))
    zero = layer.zero.expand(rows, -1)
    # Symmetric weights, nearly all there are, need no zero points read.
    if bool((zero == zero[:1, :1]).all()):
        zero = zero[:1, :1]
    state = {
        "words": pack_rows(codes.t(), layer.scheme.bits).t().contiguous(),
        "scale": layer.scale.expand(rows, -1).contiguous(),
        "zero": zero.contiguous(),
    }
    if order is not None:
        state["group"] = order
    return state


def unpack(state: dict[str, Tensor], shape: tuple[int, int], scheme: Scheme) -> QuantizedTensor:
    """Undo :func:`pack` bit for bit.

    Args:
        state: as packed. shape: (out, in). scheme: of the weight.

    Returns:
        Codes uint8 [out, in], scale and zero [out, groups]; an order of groups is no part of it.
    """
    codes = _codes(state["words"], scheme.bits)[:, : shape[1]]
    scale = state["scale"]
    zero = state["zero"].expand(scale.shape)
    return QuantizedTensor(codes.contiguous(), scale, zero.contiguous(), scheme)


def dense_rows(
    state: dict[str, Tensor], rows: slice, *, shape: tuple[int, int], scheme: Scheme
) -> Tensor:
    """Dequantize some rows of the weight.

    Args:
        state: as packed. rows: which of them.
        shape: (out, in). scheme: of the weight.

    Returns:
        float32 [rows, in].
    """
    words, scale = state["words"][rows], state["scale"][rows].float()
    zero = state["zero"] if state["zero"].numel() == 1 else state["zero"][rows]
    zero = zero.float().expand(scale.shape)
    columns, width = shape[1], scheme.group_size if scheme.group_size > 0 else shape[1]
    codes = _codes(words, scheme.bits)[:, :columns]
    levels = scheme_levels(scheme)
    if "group" in state:
        return levels.value(codes.float() - zero[:, state["group"]]) * scale[:, state["group"]]
    if columns % width:
        # The last group is short, so that rows cannot be cut into equal ones.
        spread = torch.arange(columns, device=words.device) // width
        return levels.value(codes.float() - zero[:, spread]) * scale[:, spread]
    groups = codes.float().reshape(len(codes), -1, width)  # [rows, groups, width]
    values = levels.value(groups.sub_(zero[..., None]))
    return values.mul_(scale[..., None]).reshape(len(codes), columns)


def _codes(words: Tensor, bits: int) -> Tensor:
    """Unpack words int32 [rows, n] to codes uint8 [rows, 32n / bits]; 8 take ``bits`` bytes."""
    octets = words.contiguous().view(torch.uint8)
    mask = 2**bits - 1
    if 8 % bits == 0:
        shifts = torch.arange(0, 8, bits, dtype=torch.uint8, device=words.device)
        codes: Tensor = (octets[..., None] >> shifts) & mask
        return codes.flatten(1)
    eights = octets.reshape(len(words), -1, bits)
    out = torch.empty((*eights.shape[:2], 8), dtype=torch.uint8, device=words.device)
    for k in range(8):
        byte, shift = divmod(k * bits, 8)
        value = eights[..., byte] >> shift
        # A code that straddles two bytes has its high bits in the second one.
        if shift + bits > 8:
            value = value | (eights[..., byte + 1] << (8 - shift))
        out[..., k] = value & mask
    return out.flatten(1)

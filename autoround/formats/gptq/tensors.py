"""The packing of GPTQ's tensors; :mod:`autoround.formats.gptq.layout` says which there are."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from autoround.core.packing import pack_rows_unchecked, unpack_rows
from autoround.formats.stacked import expand_shared
from autoround.types import QuantizedTensor, Scheme


def lay_out(layer: QuantizedTensor, version: int, *, g_idx: bool) -> dict[str, Tensor]:
    """Lay weights out without a look at their values; meta tensors give shapes.

    Args:
        layer: codes [..., out, in], scale and zero [..., out, groups] or ones for the sizes of a
            per-tensor scheme.
        version: 1 where zero points are stored minus one, 2 where they are stored as they are.
        g_idx: whether the group of each input is written.

    Returns:
        ``qweight`` int32 [..., in/32*bits, out], ``qzeros`` int32 [..., groups, out/32*bits],
        ``scales`` [..., groups, out] and, where it is written, ``g_idx`` int32 [..., in].
    """
    bits, columns = layer.scheme.bits, layer.codes.shape[-1]
    scale, zero = expand_shared(layer.scale, layer), expand_shared(layer.zero, layer)
    if version == 1:
        zero = zero - 1
    tensors = {
        # The axis before the last is packed: inputs of the codes, outputs of zero points.
        "qweight": pack_rows_unchecked(layer.codes.mT, bits).contiguous(),
        "qzeros": pack_rows_unchecked(zero, bits).mT.contiguous(),
        "scales": scale.mT.contiguous(),
    }
    # Neighbours share a group; converting a desc_act file puts its own index in this place.
    if g_idx:
        width = layer.scheme.group_size if layer.scheme.group_size > 0 else columns
        index = torch.arange(columns, dtype=torch.int32, device=layer.codes.device) // width
        tensors["g_idx"] = index.expand(*layer.codes.shape[:-2], -1).contiguous()
    return tensors


def take_apart(tensors: Mapping[str, Tensor], scheme: Scheme, version: int) -> QuantizedTensor:
    """Undo :func:`lay_out` without checks.

    Args:
        tensors: by part, with or without a leading axis.
        scheme: of the weights.
        version: as for :func:`lay_out`.
    """
    codes = unpack_rows(tensors["qweight"], scheme.bits).mT
    zero = _zeros(tensors["qzeros"].mT, scheme.bits, version)
    return QuantizedTensor(codes, tensors["scales"].mT, zero, scheme)


def _zeros(packed: Tensor, bits: int, version: int) -> Tensor:
    """Unpack zero points: int32 [words, outputs] to uint8 [outputs, groups].

    GPTQModel takes the one of version 1 from whole words where fields do not cross them, so
    that a zero point of 0 borrows from the next field; adding it to whole words undoes that,
    and is the same for all others. Elsewhere each field is taken modulo 2**bits.
    """
    if version == 2:
        return unpack_rows(packed, bits)
    if 32 % bits == 0:
        # A one in each field; int32 wraps at the top, as it did when they were taken away.
        ones = sum(1 << shift for shift in range(0, 32, bits))
        return unpack_rows(packed + torch.tensor(ones, dtype=torch.int64).to(torch.int32), bits)
    return torch.bitwise_and(unpack_rows(packed, bits) + 1, 2**bits - 1)


def off_by_one(layer: QuantizedTensor) -> list[tuple[Tensor, str]]:
    """Return whether all zero points of symmetric weights are next to the middle level.

    Args:
        layer: with at least one zero point, with or without a leading axis; nothing is read.

    Returns:
        A flag for each matrix, bool [] or [matrices], with what is said of one: a sentence.
    """
    middle = 2 ** (layer.scheme.bits - 1)
    return [
        (
            torch.all(layer.zero.flatten(-2) == other, dim=-1),
            f"all its zero points are {other}, and the quantization_config calls it symmetric, "
            f"which is {middle}: its files are of the other version than checkpoint_format "
            "(gptq, gptq_v2) or packing_format says",
        )
        for other in (middle - 1, middle + 1)
    ]

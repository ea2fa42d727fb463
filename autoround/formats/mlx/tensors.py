"""The packing of MLX's tensors; :mod:`autoround.formats.mlx.layout` says which there are."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from autoround.core.packing import pack_rows_unchecked, unpack_rows
from autoround.types import QuantizedTensor, Scheme


def _zero_positions(tensors: Mapping[str, Tensor]) -> Tensor:
    """Return the zero points but for the rounding of the biases: bias = -scale * zero."""
    return -tensors["biases"].float() / tensors["scales"].float()


def lay_out(layer: QuantizedTensor) -> dict[str, Tensor]:
    """Lay weights out without a look at their values; meta tensors give shapes.

    Args:
        layer: codes [..., out, in], scale and zero [..., out, groups].

    Returns:
        ``weight`` uint32 [..., out, in*bits/32], ``scales`` and ``biases`` [..., out, groups].
    """
    packed = pack_rows_unchecked(layer.codes.mT, layer.scheme.bits).mT.contiguous()
    # In float32: the product is rounded once, when it is stored.
    bias = -(layer.scale.float() * layer.zero.float())
    return {
        "weight": packed.view(torch.uint32),
        "scales": layer.scale.contiguous(),
        "biases": bias.to(layer.scale.dtype).contiguous(),
    }


def take_apart(tensors: Mapping[str, Tensor], scheme: Scheme) -> QuantizedTensor:
    """Undo :func:`lay_out` without checks.

    Args:
        tensors: by part, with or without a leading axis.
        scheme: of the weights.
    """
    codes = unpack_rows(tensors["weight"].view(torch.int32).mT, scheme.bits).mT
    zero = _zero_positions(tensors).round().to(torch.uint8)
    return QuantizedTensor(codes, tensors["scales"], zero, scheme)


def uneven_biases(tensors: Mapping[str, Tensor], scheme: Scheme) -> list[tuple[Tensor, str]]:
    """Return whether biases are no multiples of the scales; nothing is read.

    Args:
        tensors: by part, with or without a leading axis.
        scheme: of the weights.

    Returns:
        A flag for each matrix, bool [] or [matrices], with what is said of one: a sentence.
    """
    position = _zero_positions(tensors)
    zero = position.round()
    # Rounding a bias to float16 moves it by less than its size over 2048.
    off = (position - zero).abs() > position.abs() / 1024 + 1e-3
    off = off | (zero < 0) | (zero > 2**scheme.bits - 1) | ~position.isfinite()
    return [
        (
            off.flatten(-2).any(-1),
            "its biases are no whole multiples of its scales; files of MLX's own quantizer "
            "have no integer zero points and cannot be read",
        )
    ]

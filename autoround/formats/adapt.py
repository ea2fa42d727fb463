"""Fitting carried integers to what another layout can hold, exactly where that is possible.

Moving codes and zero point of a group by one level leaves its weights as they are, as
long as no code leaves the grid. So a zero point that a layout cannot hold is no loss
unless the group uses the level at the far end.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from autoround.core.grids.widths import group_width
from autoround.types import QuantizedTensor, Scheme


class Adapted(NamedTuple):
    """A layer as another layout can hold it.

    shifted: groups moved by a level without loss.
    lost: what changes its weights, in words; empty when they are equal bit for bit.
    """

    layer: QuantizedTensor
    shifted: int
    lost: str


def adapt(layer: QuantizedTensor, *, lowest: int, highest: int) -> Adapted:
    """Bring scales to float16 and zero points into ``lowest … highest``.

    Args:
        layer: codes uint8 [out, in]; scale float16 or bfloat16, zero uint8, [out, groups].
        lowest: least zero point that can be held.
        highest: greatest one.

    Returns:
        The layer with float16 scales; its scheme stays symmetric only where all zero points are the
        middle level.
    """
    lost = []
    scale = layer.scale.half()
    # bfloat16 goes beyond what float16 holds: there scales become 0 or infinity.
    off = int((scale.to(layer.scale.dtype) != layer.scale).sum())
    if off:
        lost.append(f"{off} scales in {layer.scale.dtype} are not exact in float16")
    wanted = layer.zero.clamp(lowest, highest)
    moved = wanted != layer.zero
    codes = layer.codes
    if bool(moved.any()):
        codes, cut = _shift(layer, wanted)
        if cut:
            lost.append(
                f"{cut} weights lose their level, because zero points outside "
                f"{lowest} … {highest} cannot be held"
            )
    # compressed-tensors stores no zero points of a symmetric layer: all must be the middle.
    middle = bool((wanted == 2 ** (layer.scheme.bits - 1)).all())
    scheme = Scheme(layer.scheme.bits, layer.scheme.group_size, layer.scheme.sym and middle)
    return Adapted(QuantizedTensor(codes, scale, wanted, scheme), int(moved.sum()), "; ".join(lost))


def _shift(layer: QuantizedTensor, wanted: Tensor) -> tuple[Tensor, int]:
    """Move the codes of each group with its zero point; count those cut off at an end."""
    columns = layer.codes.shape[1]
    width = group_width(columns, layer.scheme.group_size, numel=layer.codes.numel())
    # int16: uint8 has no negative steps, and codes may leave 0 … 255 before they are clamped.
    steps = (wanted.to(torch.int16) - layer.zero.to(torch.int16)).expand(len(layer.codes), -1)
    # The last group of a row may be shorter than the others.
    moved = layer.codes + steps.repeat_interleave(width, dim=1)[:, :columns]
    held = moved.clamp(0, 2**layer.scheme.bits - 1)
    return held.to(torch.uint8), int((held != moved).sum())

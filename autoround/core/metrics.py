"""Figures about a quantized weight, counted honestly."""

from __future__ import annotations

from autoround.core.grids.gguf_types import GGUF_TYPES
from autoround.core.grids.widths import group_count
from autoround.types import PLAIN, Scheme

#: Bits of one stored scale (float16).
SCALE_BITS = 16


def weight_bits(shape: tuple[int, int], scheme: Scheme) -> int:
    """Return the bits a weight takes with its scales and zero points.

    A symmetric grid's zero point is a constant and counts nothing, even where a
    layout stores it. Groups of a nested grid share the float16 of their super-block.

    Args:
        shape: (out, in). scheme: bits, groups and block type.
    """
    if scheme.kind != PLAIN:
        kind = GGUF_TYPES[scheme.kind]
        supers = shape[0] * -(-shape[1] // kind.block)
        return shape[0] * shape[1] * kind.bits + supers * kind.scale_bits
    groups = group_count(shape, scheme)
    zero_bits = 0 if scheme.sym else scheme.bits
    return shape[0] * shape[1] * scheme.bits + groups * (SCALE_BITS + zero_bits)

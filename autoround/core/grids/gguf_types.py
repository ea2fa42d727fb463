"""The block types of GGUF by name: the grid of each, how its scales are held, and its size.

The scales of q4_0, q5_0 and q8_0 are float16, one a group of 32, so that a scheme of theirs is a
plain one; the minimum of q4_1 and q5_1 is a float16 as well. K-quants nest theirs.
"""

from __future__ import annotations

from typing import NamedTuple

from autoround.core.grids.scales import Nested
from autoround.types import PLAIN, Scheme


class GgufType(NamedTuple):
    """One block type.

    bits, group_size, sym: as in a scheme. nested: how its scales are held; None for one float16
    each. sub_bits: bits of one group's scale (and of its minimum), next to the super-block's.
    number: ggml's.
    """

    bits: int
    group_size: int
    sym: bool
    nested: Nested | None
    sub_bits: int
    number: int

    @property
    def block(self) -> int:
        """Weights of one block."""
        return self.group_size * (1 if self.nested is None else self.nested.groups)

    @property
    def scale_bits(self) -> int:
        """Bits of all scales of one block: a float16, and what its groups have beside it."""
        groups = self.block // self.group_size
        return (1 if self.sym else 2) * (groups * self.sub_bits + 16)

    @property
    def bytes(self) -> int:
        """Bytes of one block."""
        return (self.block * self.bits + self.scale_bits) // 8

    @property
    def group(self) -> int:
        """Weights that share a sub-scale; 0 where there is none below the block's scale."""
        return self.group_size if self.sub_bits else 0

    @property
    def sub_range(self) -> tuple[int, int] | None:
        """Lowest and highest sub-scale (and sub-minimum); None where there are none."""
        if self.nested is None or not self.sub_bits:
            return None
        return self.nested.low, self.nested.high


#: Every block type.
GGUF_TYPES = {
    "q4_0": GgufType(4, 32, True, None, 0, 2),
    "q4_1": GgufType(4, 32, False, Nested(1, 1, 1), 0, 3),
    "q5_0": GgufType(5, 32, True, None, 0, 6),
    "q5_1": GgufType(5, 32, False, Nested(1, 1, 1), 0, 7),
    "q8_0": GgufType(8, 32, True, None, 0, 8),
    "q2_k": GgufType(2, 16, False, Nested(16, 0, 15), 4, 10),
    "q3_k": GgufType(3, 16, True, Nested(16, -32, 31), 6, 11),
    "q4_k": GgufType(4, 32, False, Nested(8, 0, 63), 6, 12),
    "q5_k": GgufType(5, 32, False, Nested(8, 0, 63), 6, 13),
    "q6_k": GgufType(6, 16, True, Nested(16, -128, 127), 8, 14),
}


def scheme_of_type(name: str) -> Scheme:
    """Return the scheme of a block type; a plain one where no scales are nested.

    Args:
        name: a key of GGUF_TYPES, as ``q4_k``.
    """
    kind = GGUF_TYPES[name]
    return Scheme(kind.bits, kind.group_size, kind.sym, PLAIN if kind.nested is None else name)


def nested_of(scheme: Scheme) -> Nested | None:
    """Return how a scheme holds its scales.

    Args:
        scheme: a plain one, or one of a block type.

    Returns:
        None for one float16 a group.
    """
    return None if scheme.kind == PLAIN else GGUF_TYPES[scheme.kind].nested

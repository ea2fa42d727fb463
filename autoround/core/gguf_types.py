"""Kinds of grid by name: plain integers, and the block types of GGUF.

GGUF's q4_0, q5_0 and q8_0 are plain symmetric grids with groups of 32 and need no kind
of their own; what is listed here holds its scales in another way. A scale that is not
nested is a float16 a group; the minimum of q4_1 and q5_1 is one as well.
"""

from __future__ import annotations

from typing import NamedTuple

from autoround.core.scales import Nested
from autoround.types import PLAIN, Scheme


class GgufType(NamedTuple):
    """One block type.

    bits, group_size, sym: as in a scheme. nested: how its scales are held.
    sub_bits: bits of one group's scale (and of its minimum), next to the super-block's.
    """

    bits: int
    group_size: int
    sym: bool
    nested: Nested
    sub_bits: int

    @property
    def block(self) -> int:
        """Weights of one super-block."""
        return self.group_size * self.nested.groups


#: Every kind that is not plain.
NESTED_TYPES = {
    "q4_1": GgufType(4, 32, False, Nested(1, 1, 1), 0),
    "q5_1": GgufType(5, 32, False, Nested(1, 1, 1), 0),
    "q2_k": GgufType(2, 16, False, Nested(16, 0, 15), 4),
    "q3_k": GgufType(3, 16, True, Nested(16, -32, 31), 6),
    "q4_k": GgufType(4, 32, False, Nested(8, 0, 63), 6),
    "q5_k": GgufType(5, 32, False, Nested(8, 0, 63), 6),
    "q6_k": GgufType(6, 16, True, Nested(16, -128, 127), 8),
}


def scheme_of_type(name: str) -> Scheme:
    """Return the scheme of a kind."""
    kind = NESTED_TYPES[name]
    return Scheme(kind.bits, kind.group_size, kind.sym, name)


def nested_of(scheme: Scheme) -> Nested | None:
    """Return how a scheme holds its scales; None for one float16 each."""
    return None if scheme.kind == PLAIN else NESTED_TYPES[scheme.kind].nested

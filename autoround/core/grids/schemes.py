"""Which levels and which scales a scheme stands for: the one place that says so."""

from __future__ import annotations

from autoround.core.grids.gguf_types import nested_of
from autoround.core.grids.levels import IntegerLevels, integer_levels
from autoround.core.grids.scales import HALF, Half, Nested
from autoround.types import Scheme


def scheme_levels(scheme: Scheme, *, lowest_zero: int = 0) -> IntegerLevels:
    """Return the levels of a scheme.

    Args:
        scheme: bits, symmetry and block type of a weight.
        lowest_zero: least zero point that every chosen layout can hold; block types of GGUF,
            which have minima in place of zero points, know none.
    """
    return integer_levels(scheme.bits, sym=scheme.sym, lowest_zero=lowest_zero)


def scheme_scales(scheme: Scheme) -> Half | Nested:
    """Return the codec of a scheme's scales.

    Args:
        scheme: whose block type decides.

    Returns:
        Super-block scales for block types of GGUF that have them, else one float16 a group.
    """
    nested = nested_of(scheme)
    return HALF if nested is None else nested

"""How many 32-bit words packed integers take: numbers alone."""

from __future__ import annotations

#: Values of one block, whatever the width.
BLOCK = 32


def packed_rows(rows: int, bits: int) -> int:
    """Return how many 32-bit words hold ``rows`` values.

    Args:
        rows: a multiple of 32. bits: of a value.

    Raises:
        ValueError: rows is not a multiple of 32.
    """
    if rows % BLOCK:
        raise ValueError(f"cannot pack {rows} values: not a multiple of {BLOCK}")
    return rows // BLOCK * bits


def packed_length(values: int, bits: int) -> int:
    """Return how many 32-bit words hold values whose last word may end empty.

    Args:
        values: any number of them. bits: of a value.
    """
    return -(-values * bits // 32)

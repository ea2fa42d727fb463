"""Which rows of a stacked expert are one of the matrices that it is written as."""

from __future__ import annotations


def part_rows(rows: int, part: int, parts: int, *, interleaved: bool) -> slice:
    """Return the rows of one matrix.

    Args:
        rows: of the stacked expert.
        part: number of the matrix, from 0.
        parts: matrices that the expert is written as.
        interleaved: whether their rows take turns.
    """
    if interleaved:
        return slice(part, None, parts)
    each = rows // parts
    return slice(part * each, (part + 1) * each)

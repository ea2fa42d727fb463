"""How many weights share a scale, and how many scales a weight has: numbers alone."""

from __future__ import annotations

from autoround.types import PER_CHANNEL, PER_TENSOR, Scheme


def group_width(in_features: int, group_size: int, *, numel: int) -> int:
    """Return how many weights share one scale.

    A group wider than a row, like PER_CHANNEL, means one group a row.

    Args:
        in_features: length of a row.
        group_size: as in a scheme.
        numel: weights in all.
    """
    if group_size == PER_TENSOR:
        return numel
    if group_size == PER_CHANNEL or group_size >= in_features:
        return in_features
    return group_size


def group_count(shape: tuple[int, int], scheme: Scheme) -> int:
    """Return how many scales a weight has, the last group of a row counted whole.

    Args:
        shape: (out, in). scheme: bits and groups.
    """
    rows, columns = shape
    if scheme.group_size == PER_TENSOR:
        return 1
    width = group_width(columns, scheme.group_size, numel=rows * columns)
    return rows * -(-columns // width)

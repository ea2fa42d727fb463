"""The rest of the NumPy oracle: searching scales by brute force, and packing bit by bit."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoround_backends.reference import (
    SMALLEST_SCALE,
    Array,
    dequantize,
    min_max_grid,
    scale_and_zero,
    to_groups,
)

# Search


def importance_groups(importance: Any, *, group_size: int, shape: tuple[int, ...]) -> Array:
    """Give every weight the importance of its channel, a thousandth of the mean at least.

    Returns [rows, groups, width], zero where the groups are padded.
    """
    channels = np.asarray(importance, dtype=np.float64)
    least = channels.mean() * 1e-3
    return to_groups(np.broadcast_to(np.maximum(channels, least), shape), group_size)


def search_error(groups: Any, importance: Any, *, scale: Any, zero: Any, bits: int) -> Array:
    """Sum ``importance * (dequantized - weight)**2`` over each group, rounding to nearest."""
    weight = np.asarray(groups, dtype=np.float64)
    step, origin = np.asarray(scale, dtype=np.float64), np.asarray(zero, dtype=np.float64)
    codes = np.clip(np.rint(weight / step) + origin, 0, 2**bits - 1)
    difference = dequantize(codes, step, origin) - weight
    return np.asarray((np.asarray(importance) * difference**2).sum(-1, keepdims=True))


def closed_form_scale(group: Any, importance: Any, levels: Any) -> float:
    """Return the scale of least weighted error for given levels (code minus zero)."""
    h, w, c = (np.asarray(part, dtype=np.float64) for part in (importance, group, levels))
    return float((h * w * c).sum() / (h * c * c).sum())


def half_scales(low: float, high: float) -> Array:
    """List every float16 between two positive numbers."""
    first, last = np.array([max(low, SMALLEST_SCALE), high]).astype(np.float16).view(np.uint16)
    patterns = np.arange(int(first), int(last) + 1, dtype=np.uint16)
    return patterns.view(np.float16).astype(np.float64)


def brute_force(group: Any, importance: Any, *, bits: int, sym: bool) -> float:
    """Return the least weighted error of one group [width] over all scales and zero points.

    Every float16 scale from a tenth of the min-max scale to four times as much is tried,
    with both signs if symmetric, else with every integer zero point.
    """
    weight = np.asarray(group, dtype=np.float64).reshape(1, 1, -1)
    one = np.ones((1, 1, 1))
    plain = abs(scale_and_zero(min_max_grid(weight, bits=bits, sym=sym), one, one)[0].item())
    scales = half_scales(0.1 * plain, 4.0 * plain)[:, None]
    zeros = [2 ** (bits - 1)] if sym else range(2**bits)
    signs = (1.0, -1.0) if sym else (1.0,)
    return min(
        float(search_error(weight[0], importance, scale=s * scales, zero=z, bits=bits).min())
        for z in zeros
        for s in signs
    )


# Packing


def pack_rows(codes: Any, bits: int) -> NDArray[np.int32]:
    """Pack each column of [rows, columns] as one long little-endian bit stream."""
    array = np.asarray(codes)
    rows, columns = array.shape
    # Python's integers have no width: a column is one number, cut into words at the end.
    words = np.zeros((rows * bits // 32, columns), dtype=np.uint32)
    for column in range(columns):
        stream = 0
        for row in range(rows):
            stream += int(array[row, column]) << (row * bits)
        for word in range(len(words)):
            words[word, column] = (stream >> (32 * word)) & 0xFFFFFFFF
    return words.view(np.int32)


def unpack_rows(words: Any, bits: int) -> NDArray[np.uint8]:
    """Read each column of [words, columns] as one long little-endian bit stream."""
    array = np.ascontiguousarray(words, dtype=np.int32).view(np.uint32)
    count, columns = array.shape
    codes = np.zeros((count * 32 // bits, columns), dtype=np.uint8)
    for column in range(columns):
        stream = sum(int(array[word, column]) << (32 * word) for word in range(count))
        for row in range(len(codes)):
            codes[row, column] = (stream >> (row * bits)) % 2**bits
    return codes

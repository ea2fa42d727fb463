"""Bit streams by NumPy, one bit after another: the reference for what packs integers in words."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def stream_words(values: NDArray[np.uint8], bits: int) -> NDArray[np.int32]:
    """Write each row's values as bits, low ones first, and cut them into 32-bit words.

    values: [rows, columns]. The words are [rows, columns * bits / 32 rounded up].
    """
    rows, columns = values.shape
    ones = (values[:, :, None] >> np.arange(bits)) & 1  # [rows, columns, bits]
    stream = ones.reshape(rows, columns * bits).astype(np.uint8)
    filled = np.pad(stream, ((0, 0), (0, -stream.shape[1] % 32)))
    octets = np.packbits(filled, axis=1, bitorder="little")
    return np.ascontiguousarray(octets).view("<i4")


def stream_values(words: NDArray[np.int32], bits: int, columns: int) -> NDArray[np.uint8]:
    """Read that many values of each row back; what follows them is not looked at."""
    octets = np.ascontiguousarray(words, dtype="<i4").view(np.uint8)
    stream = np.unpackbits(octets, axis=1, bitorder="little")[:, : columns * bits]
    ones = stream.reshape(len(words), columns, bits)
    weights = (1 << np.arange(bits)).astype(np.uint8)
    values: NDArray[np.uint8] = (ones * weights).sum(axis=2, dtype=np.uint8)
    return values

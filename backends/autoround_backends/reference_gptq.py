"""NumPy float64 oracle of GPTQ, from the textbook form of it."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def damped(hessian: Any, *, damping: float, floor: float) -> Array:
    """Add a share of its own power to each channel; hessian: [in, in]."""
    matrix = np.array(hessian, dtype=np.float64)
    power = np.maximum(matrix.diagonal(), floor * matrix.diagonal().mean())
    np.fill_diagonal(matrix, (1.0 + damping) * power)
    return matrix


def order_of(hessian: Any, *, floor: float) -> NDArray[np.int64]:
    """Return the columns by power, largest first."""
    power = np.array(hessian, dtype=np.float64).diagonal()
    return np.argsort(-np.maximum(power, floor * power.mean()), kind="stable")


def gptq_positions(weight: Any, scale: Any, low: Any, high: Any, matrix: Any, order: Any) -> Array:
    """Round columns one after the other; returns what each weight was when its turn came.

    weight, scale, low, high: [rows, in]. After a column is rounded, all that are left move to
    where the output error is least with it held: the inverse is of what is left, anew each
    time, where the program has one Cholesky factor for all.
    """
    positions = np.array(weight, dtype=np.float64)
    scale, low, high = (np.asarray(x, dtype=np.float64) for x in (scale, low, high))
    hessian = np.asarray(matrix, dtype=np.float64)
    left = list(order)
    while left:
        column = left.pop(0)
        level = np.clip(
            np.round(positions[:, column] / scale[:, column]), low[:, column], high[:, column]
        )
        error = positions[:, column] - level * scale[:, column]
        if left:
            # Least of (d, e) H (d, e)' over d, with the change e = -error of this column fixed.
            inner = hessian[np.ix_(left, left)]
            positions[:, left] += np.outer(error, np.linalg.solve(inner, hessian[left, column]))
    return positions


class BlockResult(NamedTuple):
    """positions, errors: [columns, rows]. apart: [rows], least distance of a weight from a tie."""

    positions: Array
    errors: Array
    apart: Array


def gptq_block(
    weight: Any, scale: Any, low: Any, minimum: Any, upper: Any, *, top: int
) -> BlockResult:
    """Round columns in turn, each taking its error off those after it; all [columns, rows].

    upper: [columns, columns]. Distances are in levels; what lies beyond the grid has none.
    """
    left, scale, low, minimum, upper = (
        np.array(x, dtype=np.float64) for x in (weight, scale, low, minimum, upper)
    )
    positions, errors = np.zeros_like(left), np.zeros_like(left)
    apart = np.full(left.shape[1], np.inf)
    for j, now in enumerate(left):
        positions[j] = (now + minimum[j]) / scale[j]
        level = np.clip(np.round(positions[j]), low[j], low[j] + top)
        errors[j] = (now - (level * scale[j] - minimum[j])) / upper[j, j]
        beyond = (positions[j] < low[j]) | (positions[j] > low[j] + top)
        apart = np.minimum(
            apart, np.where(beyond, np.inf, np.abs(np.abs(positions[j] % 1.0) - 0.5))
        )
        left[j + 1 :] -= np.outer(upper[j, j + 1 :], errors[j])
    return BlockResult(positions, errors, apart)

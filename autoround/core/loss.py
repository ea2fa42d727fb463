"""Distance between a block's output and the output it should have."""

from __future__ import annotations

from torch import Tensor


def block_mse(output: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return the mean squared error over the positions that count.

    Args:
        output, target: [batch, seq, hidden], any float dtype; computed in float32. Models with
            several streams have an axis for them before the last.
        mask: bool [batch, seq], True where a position counts; None when all do. The mean
            is over the elements that count, so padding does not dilute the loss.

    Returns:
        float32 scalar.
    """
    difference = output.float() - target.float()
    if mask is None:
        return difference.square().mean()
    # Masked before squaring: zero times a NaN at a padded position would still be NaN,
    # in the loss and in its gradient.
    real = mask.reshape(*mask.shape, *(1 for _ in range(difference.dim() - mask.dim())))
    squares = difference.masked_fill(~real, 0.0).square().flatten(mask.dim()).mean(dim=-1)
    return squares.sum() / mask.sum().clamp(min=1)


def relative_square_error(output: Tensor, expected: Tensor) -> float:
    """Return the mean squared difference of two tensors, relative to the mean square of one.

    Args:
        output: any shape and float dtype; computed in float64.
        expected: of the same shape, which the difference is relative to.
    """
    power = float(expected.double().square().mean())
    return float((output.double() - expected.double()).square().mean()) / max(power, 1e-30)

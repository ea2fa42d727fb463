"""A NumPy float64 oracle: the operations of the core once more, from their formulas.

For tests. Nothing is shared with the code that is tested, clarity goes before speed,
and there is no torch here. Weights are arrays [rows, groups, width], scales, zero
points, min_scale and max_scale [rows, groups, 1]; everything is computed in float64.

Gradients are not derived by hand but carried along: a :class:`Dual` is a number with
its derivative, each operation states its own rule, and the straight-through estimator
is then no more than two of them: a rounded number keeps its derivative, a clamped one
has that of whatever it is clamped to.

float32 may round the other way where a number lies next to a tie. :func:`certain` and
:func:`certain_groups` mark where that cannot happen, so that a comparison can demand
equality there and needs to allow for one level elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]

#: Bounds of a stored scale's magnitude.
SMALLEST_SCALE = 1e-5
LARGEST_SCALE = 65504.0
#: float32 and float64 round alike unless this close to a tie, in units of a level.
TIE = 1e-3
#: Relative error that a few float32 operations may add up to.
SINGLE = 1e-6


class Grid(NamedTuple):
    """Range of every group, lo <= 0 <= hi, and the kind of its levels.

    nested: groups of a super-block and the lowest and highest integer of their scales.
    """

    lo: Array
    hi: Array
    bits: int
    sym: bool
    nested: tuple[int, int, int] | None = None


class Rounding(NamedTuple):
    """Offset V of every weight, min_scale and max_scale of every group, or gradients of them."""

    offset: Array
    min_scale: Array
    max_scale: Array


@dataclass(frozen=True)
class Dual:
    """A number and its derivative by the one parameter that is being varied."""

    at: Array
    rate: Array

    def __add__(self, other: Dual) -> Dual:
        return Dual(self.at + other.at, self.rate + other.rate)

    def __sub__(self, other: Dual) -> Dual:
        return Dual(self.at - other.at, self.rate - other.rate)

    def __mul__(self, other: Dual) -> Dual:
        return Dual(self.at * other.at, self.rate * other.at + self.at * other.rate)

    def __truediv__(self, other: Dual) -> Dual:
        quotient = self.at / other.at
        return Dual(quotient, (self.rate - quotient * other.rate) / other.at)

    def __neg__(self) -> Dual:
        return Dual(-self.at, -self.rate)

    def round(self) -> Dual:
        """Round half to even, straight through."""
        return Dual(np.rint(self.at), self.rate)

    def clamp(self, low: Dual, high: Dual) -> Dual:
        """Limit to [low, high]; a number on the limit still counts as inside."""
        return where(self.at < low.at, low, where(self.at > high.at, high, self))

    def stored(self) -> Dual:
        """Round to float16 straight through, keeping the sign and a magnitude that exists.

        A magnitude that is raised to the smallest or cut to the largest no longer moves.
        """
        sign = np.where(self.at < 0, -1.0, 1.0)
        # Clamped as a magnitude: a bound that is reached takes the derivative away.
        size = (constant(sign) * self).clamp(constant(SMALLEST_SCALE), constant(LARGEST_SCALE))
        half = size.at.astype(np.float16).astype(np.float64)
        return constant(sign) * Dual(half, size.rate)


def constant(value: Any) -> Dual:
    """Make a number that does not depend on the parameter."""
    array = np.asarray(value, dtype=np.float64)
    return Dual(array, np.zeros_like(array))


def variable(value: Any) -> Dual:
    """Make the parameter itself."""
    array = np.asarray(value, dtype=np.float64)
    return Dual(array, np.ones_like(array))


def where(condition: Flags, yes: Dual, no: Dual) -> Dual:
    """Choose element by element."""
    return Dual(np.where(condition, yes.at, no.at), np.where(condition, yes.rate, no.rate))


# Groups


def to_groups(weight: Any, group_size: int) -> Array:
    """Cut rows of [..., in] into groups: -1 one a row, 0 one for all, else that many."""
    array = np.asarray(weight, dtype=np.float64)
    if group_size == 0:
        return array.reshape(1, 1, array.size)
    width = array.shape[-1] if group_size == -1 else min(group_size, array.shape[-1])
    rows = []
    for row in array.reshape(-1, array.shape[-1]):
        groups = [row[i : i + width] for i in range(0, len(row), width)]
        groups[-1] = np.concatenate([groups[-1], np.zeros(width - len(groups[-1]))])
        rows.append(groups)
    return np.array(rows)


def from_groups(groups: Any, shape: tuple[int, ...]) -> Array:
    """Put groups back together in ``shape``, without the padding of the rows."""
    array = np.asarray(groups, dtype=np.float64)
    rows = array.shape[0]
    columns = int(np.prod(shape)) // rows
    return np.array([array[r].ravel()[:columns] for r in range(rows)]).reshape(shape)


def min_max_grid(groups: Any, *, bits: int, sym: bool) -> Grid:
    """Take the range of every group, with zero in it."""
    array = np.asarray(groups, dtype=np.float64)
    nothing = np.zeros((*array.shape[:-1], 1))
    with_zero = np.concatenate([array, nothing], axis=-1)
    return Grid(with_zero.min(-1, keepdims=True), with_zero.max(-1, keepdims=True), bits, sym)


# Scale and zero point


def _ends(grid: Grid, min_scale: Dual, max_scale: Dual) -> tuple[Dual, Dual]:
    return constant(grid.lo) * min_scale, constant(grid.hi) * max_scale


def _raw_scale(grid: Grid, min_scale: Dual, max_scale: Dual) -> Dual:
    """Compute the scale before it is stored; the further side of a symmetric grid is -Q."""
    low, high = _ends(grid, min_scale, max_scale)
    if grid.sym:
        return where(-low.at > high.at, -low, -high) / constant(2.0 ** (grid.bits - 1))
    return (high - low) / constant(2.0**grid.bits - 1)


def _super(size: float) -> float:
    """Round the scale of a super-block to float16, the smallest of them at least."""
    magnitude = float(np.float16(min(max(abs(size), 2.0**-24), LARGEST_SCALE)))
    return -magnitude if size < 0 else magnitude


def nested_parts(grid: Grid, min_scale: Any, max_scale: Any) -> list[tuple[Any, ...]]:
    """List row, first group, scale, sub-scales, minimum and sub-minima of every super-block."""
    assert grid.nested is not None
    groups, lowest, highest = grid.nested
    raw = _raw_scale(grid, constant(min_scale), constant(max_scale)).at
    low = (np.asarray(grid.lo) * np.asarray(min_scale, dtype=np.float64))[..., 0]
    found: list[tuple[Any, ...]] = []
    for row in range(raw.shape[0]):
        for first in range(0, raw.shape[1], groups):
            own = raw[row, first : first + groups, 0]
            if grid.sym:
                end = own.max() if own.max() >= -own.min() else own.min()
                scale = _super(end / lowest)
                signed = np.array([np.rint(one / scale) or 1.0 for one in own])
                found.append((row, first, scale, np.clip(signed, lowest, highest), 0.0, own * 0))
                continue
            least = -low[row, first : first + groups]
            scale, minimum = _super(own.max() / highest), _super(least.max() / highest)
            subs = np.clip(np.rint(own / scale), 1, highest)
            found.append(
                (row, first, scale, subs, minimum, np.clip(np.rint(least / minimum), 0, highest))
            )
    return found


def _nested_levels(grid: Grid, min_scale: Dual, max_scale: Dual) -> tuple[Dual, Dual, Dual]:
    """Compute scale, zero point and minimum; roundings keep the derivative of what they round."""
    raw = _raw_scale(grid, min_scale, max_scale)
    low, _ = _ends(grid, min_scale, max_scale)
    scale, minimum = np.zeros_like(raw.at), np.zeros_like(raw.at)
    for row, first, step, subs, least, sub_least in nested_parts(grid, min_scale.at, max_scale.at):
        scale[row, first : first + len(subs), 0] = step * subs
        minimum[row, first : first + len(subs), 0] = least * sub_least
    zero = np.full_like(scale, 2.0 ** (grid.bits - 1) if grid.sym else 0.0)
    # The minimum is the lower end's negative, rounded straight through.
    by_minimum = constant(minimum) if grid.sym else Dual(minimum, -low.rate)
    return Dual(scale, raw.rate), constant(zero), by_minimum


def _all_levels(grid: Grid, min_scale: Dual, max_scale: Dual) -> tuple[Dual, Dual, Dual]:
    if grid.nested is not None:
        return _nested_levels(grid, min_scale, max_scale)
    scale, zero = _scale_and_zero(grid, min_scale, max_scale)
    return scale, zero, constant(np.zeros_like(scale.at))


def quant_params(grid: Grid, min_scale: Any, max_scale: Any) -> tuple[Array, Array, Array]:
    """Compute scale, zero point and minimum of every group, whatever holds its scale."""
    found = _all_levels(grid, constant(min_scale), constant(max_scale))
    return found[0].at, found[1].at, found[2].at


def _scale_and_zero(grid: Grid, min_scale: Dual, max_scale: Dual) -> tuple[Dual, Dual]:
    scale = _raw_scale(grid, min_scale, max_scale).stored()
    if grid.sym:
        return scale, constant(np.full_like(scale.at, 2.0 ** (grid.bits - 1)))
    low, _ = _ends(grid, min_scale, max_scale)
    zero = (-low / scale).round()
    return scale, zero.clamp(constant(0.0), constant(2.0**grid.bits - 1))


def scale_and_zero(grid: Grid, min_scale: Any, max_scale: Any) -> tuple[Array, Array]:
    """Compute the float16 scale and the integer zero point of every group."""
    scale, zero = _scale_and_zero(grid, constant(min_scale), constant(max_scale))
    return scale.at, zero.at


# Rounding


def _levels(weight: Dual, offset: Dual, scale: Dual, zero: Dual, *, bits: int) -> Dual:
    top = constant(2.0**bits - 1)
    return (weight / scale + offset).round().clamp(-zero, top - zero)


def _fake_quantize(
    weight: Any, offset: Dual, min_scale: Dual, max_scale: Dual, *, grid: Grid
) -> Dual:
    scale, zero, minimum = _all_levels(grid, min_scale, max_scale)
    levels = _levels(constant(weight) + minimum, offset, scale, zero, bits=grid.bits)
    return scale * levels - minimum


def fake_quantize(weight: Any, rounding: Rounding, *, grid: Grid) -> Array:
    """Round weights to their grid and back."""
    return _fake_quantize(weight, *(constant(part) for part in rounding), grid=grid).at


def gradients(weight: Any, rounding: Rounding, *, grid: Grid, upstream: Any) -> Rounding:
    """Differentiate ``sum(upstream * fake_quantize(...))`` by each part of the rounding."""
    offset, min_scale, max_scale = (constant(part) for part in rounding)
    by_offset = _fake_quantize(weight, variable(offset.at), min_scale, max_scale, grid=grid)
    by_lo = _fake_quantize(weight, offset, variable(min_scale.at), max_scale, grid=grid)
    by_hi = _fake_quantize(weight, offset, min_scale, variable(max_scale.at), grid=grid)
    grad = np.asarray(upstream, dtype=np.float64)
    return Rounding(
        grad * by_offset.rate,
        (grad * by_lo.rate).sum(-1, keepdims=True),
        (grad * by_hi.rate).sum(-1, keepdims=True),
    )


def quantize(
    weight: Any, rounding: Rounding, *, grid: Grid
) -> tuple[NDArray[np.uint8], NDArray[Any], NDArray[np.uint8]]:
    """Round weights to codes counted from level 0, with scale and zero point."""
    offset, min_scale, max_scale = (constant(part) for part in rounding)
    scale, zero, minimum = _all_levels(grid, min_scale, max_scale)
    shifted = constant(weight) + minimum
    codes = _levels(shifted, offset, scale, zero, bits=grid.bits).at + zero.at
    stored = np.float16 if grid.nested is None else np.float32
    return codes.astype(np.uint8), scale.at.astype(stored), zero.at.astype(np.uint8)


def dequantize(codes: Any, scale: Any, zero: Any) -> Array:
    """Turn codes into weights: ``scale * (code - zero)``."""
    steps = np.asarray(codes, dtype=np.float64) - np.asarray(zero, dtype=np.float64)
    return steps * np.asarray(scale, dtype=np.float64)


# Where float32 cannot round another way


def _same(first: Array, second: Array) -> Flags:
    return np.asarray(first == second, dtype=np.bool_)


def certain_groups(grid: Grid, min_scale: Any, max_scale: Any) -> Flags:
    """Mark groups whose scale and zero point float32 must agree on. [rows, groups, 1]."""
    factors = constant(min_scale), constant(max_scale)
    if grid.nested is not None:
        return _certain_supers(grid, min_scale, max_scale)
    low, high = (end.at for end in _ends(grid, *factors))
    raw = _raw_scale(grid, *factors)
    smaller, larger = (Dual(raw.at * (1 + e), raw.at).stored() for e in (-SINGLE, SINGLE))
    # The derivative tells on which side of its bounds a scale lies.
    agreed = _same(smaller.at, larger.at) & _same(smaller.rate, larger.rate)
    if grid.sym:
        # Which side reaches further decides the sign, unless they are exactly even.
        apart = np.abs(low + high)
        decided: Flags = (apart == 0) | (apart > SINGLE * np.maximum(-low, high))
    else:
        position = -low / raw.stored().at
        decided = _same(np.rint(position - TIE), np.rint(position + TIE))
    return agreed & decided


def _certain_supers(grid: Grid, min_scale: Any, max_scale: Any) -> Flags:
    """Mark the groups of super-blocks of which no part is close to a tie."""
    factors = constant(min_scale), constant(max_scale)
    low, high = (end.at[..., 0] for end in _ends(grid, *factors))
    raw = _raw_scale(grid, *factors).at[..., 0]
    agreed = np.ones(np.shape(min_scale), dtype=np.bool_)
    for row, first, scale, subs, minimum, _ in nested_parts(grid, min_scale, max_scale):
        own = np.s_[row, first : first + len(subs)]
        good = _steady(raw[own], scale)
        if grid.sym:
            apart = np.abs(low[own] + high[own])
            good &= bool(np.all((high[own] - low[own] == 0) | (apart > SINGLE * high[own])))
            good &= bool(abs(raw[own].max() + raw[own].min()) > SINGLE * abs(raw[own]).max())
        else:
            good &= _steady(low[own], minimum)
        agreed[own] = good
    return agreed


def _steady(sizes: Array, step: float) -> bool:
    """Tell whether no size in units of the step is close to a tie, nor the step itself."""
    end = float(np.abs(sizes).max())
    position = sizes / step
    units = max(1.0, round(end / abs(step)))
    fixed = len({_super(end / units * (1 + e)) for e in (-2 * SINGLE, 2 * SINGLE)}) == 1
    return fixed and bool((np.rint(position - TIE) == np.rint(position + TIE)).all())


def certain(weight: Any, rounding: Rounding, *, grid: Grid) -> Flags:
    """Mark weights whose level float32 must agree on. [rows, groups, width]."""
    offset, min_scale, max_scale = (constant(part) for part in rounding)
    scale, zero = _scale_and_zero(grid, min_scale, max_scale)
    outcomes = [
        # The derivative tells whether the level was reached by clamping.
        _levels(constant(weight), variable(offset.at + e), scale, zero, bits=grid.bits)
        for e in (-TIE, TIE)
    ]
    agreed = _same(outcomes[0].at, outcomes[1].at) & _same(outcomes[0].rate, outcomes[1].rate)
    return agreed & certain_groups(grid, min_scale.at, max_scale.at)


# Descent and loss


def sign_step(
    params: list[Array], grads: list[Array], *, rate: float, step: int, steps: int
) -> list[Array]:
    """Return the parameters moved by ``rate * (1 - step / steps)`` against their gradients."""
    reach = rate * (steps - step) / steps
    return [
        p + np.where(g > 0, -reach, np.where(g < 0, reach, 0.0))
        for p, g in zip(params, grads, strict=True)
    ]


def masked_mse(output: Any, target: Any, mask: Any | None = None) -> float:
    """Average the squared error over the positions [batch, seq] that count."""
    difference = np.asarray(output, dtype=np.float64) - np.asarray(target, dtype=np.float64)
    if mask is not None:
        difference = difference[np.asarray(mask, dtype=np.bool_)]
    return float(np.mean(difference**2)) if difference.size else 0.0

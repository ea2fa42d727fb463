"""The levels of a grid: what a code stands for, which code is nearest, which range they span.

Codes are level indices 0 … count-1. A code c of a group with scale s and zero point z stands for
the weight ``s * value(c - z)``; integer levels have ``value(n) = n``:

- :class:`AsymmetricLevels`: codes 0 … 2**b - 1, ``scale = (hi - lo) / (2**b - 1)`` and an
  integer ``zero = round(-lo / scale)`` (SignRound, arXiv 2309.05516, eq. 2-3);
- :class:`SymmetricLevels`, full range: levels -Q … Q-1 with Q = 2**(b-1). The side that reaches
  further gets the extra level -Q, so the scale is negative when that side is the positive one.

Rounding, search, error compensation and end-to-end tuning ask a :class:`LevelSet` and nothing
else. Non-uniform levels (a minifloat's) are one more class: ``position_`` and ``value`` map
ratios to level indices and back there, and do nothing here. Methods that end in an underscore
work in place, as torch's do.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from autoround.core.grids.scales import ScaleCodec

#: The two ends of every group's range: float32 [rows, groups, 1] each.
Ends = tuple[Tensor, Tensor]


class LevelSet(Protocol):
    """The levels that every group of a grid has."""

    @property
    def count(self) -> int:
        """How many levels there are."""

    @property
    def middle(self) -> int:
        """The code that stands for zero where that is the same code in all groups."""

    @property
    def reach(self) -> float:
        """How many scales away from zero a weight may lie on either side."""

    @property
    def fixed_zero(self) -> bool:
        """Whether the zero point is :attr:`middle` in all groups."""

    def widen(self, lo: Tensor, hi: Tensor) -> Ends:
        """Widen the ranges of groups to ones that these levels can span.

        Args:
            lo, hi: float32 [rows, groups, 1], lo <= 0 <= hi, in units of the weight.
        """

    def scale_for(self, lo: Tensor, hi: Tensor) -> Tensor:
        """Return the scale that spans every range, before any codec rounds it.

        Args:
            lo, hi: float32 [rows, groups, 1], lo <= 0 <= hi, in units of the weight.

        Returns:
            float32 [rows, groups, 1]; may be negative for symmetric levels.
        """

    def zero_point(self, lo: Tensor, scale: Tensor) -> Tensor:
        """Return the zero point of every group.

        Args:
            lo, scale: float32 [rows, groups, 1], lower end of the range and rounded scale.

        Returns:
            float32 of that shape, integer-valued.
        """

    def range_of(self, scale: Tensor, zero: Tensor) -> Ends:
        """Return the ranges whose scale and zero point are the given ones.

        Args:
            scale, zero: float32 [rows, groups, 1]; zero integer-valued.
        """

    def range_gradients(
        self, ends: Ends, scaled: Ends, *, scale: Tensor, sums: Tensor, scales: ScaleCodec
    ) -> Ends:
        """Chain group sums of the upstream gradient G to min_scale and max_scale (α, β).

        Args:
            ends: lo and hi of the groups. scaled: lo * min_scale and hi * max_scale.
            scale: float32 [rows, groups, 1], rounded.
            sums: [sum G*value(c), sum G*inside*W, sum G*(1-inside)], each [rows, groups, 1];
                W + m for W where a minimum m is subtracted; the third is absent for a fixed zero.
            scales: what rounds the scales.

        Returns:
            Gradients of min_scale and max_scale, float32 [rows, groups, 1] each.
        """

    def nearest(self, weight: Tensor, scale: Tensor, offset: Tensor | None = None) -> Tensor:
        """Return the index, relative to zero, of the level nearest to each weight, not clamped.

        Args:
            weight: float32 [..., width]; scale: [..., 1].
            offset: as weight, in units of a level (V in SignRound), or None for none.

        Returns:
            A new float32 tensor of the weight's shape, integer-valued.
        """

    def position_(self, ratio: Tensor) -> Tensor:
        """Turn weights in units of their scale into level indices, not rounded.

        Args:
            ratio: float32, any shape.
        """

    def clamp_(self, levels: Tensor, zero: Tensor) -> Tensor:
        """Limit indices relative to ``zero`` to the levels there are.

        Args:
            levels: float32 [..., width], integer-valued; zero: [..., 1].
        """

    def value(self, levels: Tensor) -> Tensor:
        """Return what indices relative to zero stand for, in units of the scale.

        Args:
            levels: float32, any shape, integer-valued.

        Returns:
            That shape; it may be the argument itself, and callers may overwrite it.
        """

    def trials(
        self, scale: Tensor, zero: Tensor, lo: Tensor, *, scales: ScaleCodec
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the scales and zero points that a search tries.

        Args:
            scale, zero: float32 [n, 1], of the min-max grid. lo: [n, 1], least weight, at most 0.
            scales: which scales there are.

        Yields:
            A scale and a zero point, float32 [n, 1] each.
        """


def ladder(bits: int) -> list[float]:
    """Return the fractions of the min-max scale that a search tries, 1 among them.

    Few levels need a deep ladder: the best 2-bit scale cuts off far more of a group's
    tails than the best 8-bit one. Rungs above 1 serve narrow groups, where a wider grid
    can land its levels on most of the few weights there are.

    Args:
        bits: of a code.
    """
    lowest, highest, rungs = {
        2: (0.3, 1.2, 43),
        3: (0.4, 1.2, 39),
        4: (0.5, 1.2, 33),
    }.get(bits, (0.75, 1.05, 11))
    return [lowest + (highest - lowest) * k / (rungs - 1) for k in range(rungs)] + [1.0]


@dataclass(frozen=True)
class _Uniform:
    """What integer levels of both kinds share: evenly spaced, so an index is its own value."""

    bits: int
    sym: ClassVar[bool]

    @property
    def count(self) -> int:
        """How many levels there are."""
        return 1 << self.bits

    @property
    def top(self) -> int:
        """The highest code."""
        return (1 << self.bits) - 1

    @property
    def middle(self) -> int:
        """The code in the middle, the zero point of symmetric levels."""
        return 1 << (self.bits - 1)

    @property
    def reach(self) -> float:
        """Half of the levels lie on either side of zero, wherever a group's own range lies."""
        return float(self.middle)

    @property
    def fixed_zero(self) -> bool:
        """Symmetric levels alone have the same zero point everywhere."""
        return self.sym

    def nearest(self, weight: Tensor, scale: Tensor, offset: Tensor | None = None) -> Tensor:
        """Return ``round(weight / scale + offset)``, a half to the even index.

        Args:
            weight: float32 [..., width]; scale: [..., 1]; offset: as weight, or None.
        """
        if offset is None:
            return torch.div(weight, scale).round_()
        return torch.addcdiv(offset, weight, scale).round_()

    def position_(self, ratio: Tensor) -> Tensor:
        """Return the ratio itself."""
        return ratio

    def value(self, levels: Tensor) -> Tensor:
        """Return the indices themselves."""
        return levels


@dataclass(frozen=True)
class SymmetricLevels(_Uniform):
    """Levels -Q … Q-1, Q = 2**(bits-1), the same in all groups."""

    sym: ClassVar[bool] = True

    def widen(self, lo: Tensor, hi: Tensor) -> Ends:
        """Return the ranges as they are: the sign of the scale suits either side."""
        return lo, hi

    def scale_for(self, lo: Tensor, hi: Tensor) -> Tensor:
        """Give the further side the extra level -Q; a negative scale mirrors the levels.

        Args:
            lo, hi: float32 [rows, groups, 1], lo <= 0 <= hi.
        """
        return torch.where(-lo > hi, -lo, -hi) / self.middle

    def zero_point(self, lo: Tensor, scale: Tensor) -> Tensor:
        """Return Q everywhere."""
        return torch.full_like(scale, self.middle)

    def range_of(self, scale: Tensor, zero: Tensor) -> Ends:
        """Return Q scales on the side that has the extra level, and nothing on the other.

        Args:
            scale, zero: float32 [rows, groups, 1]; zero is not read.
        """
        reach = scale.abs() * self.middle
        nothing = torch.zeros_like(reach)
        positive = scale > 0
        return torch.where(positive, -reach, nothing), torch.where(positive, nothing, reach)

    def range_gradients(
        self, ends: Ends, scaled: Ends, *, scale: Tensor, sums: Tensor, scales: ScaleCodec
    ) -> Ends:
        """Give the whole gradient to the side that decides the scale.

        Args:
            ends, scaled, scale, scales: as for :meth:`LevelSet.range_gradients`.
            sums: the first two of those there, [2, rows, groups, 1].
        """
        lower_wins = -scaled[0] > scaled[1]
        # A scale held at its floor does not follow the range.
        free = scales.follows(self.scale_for(*scaled))
        by_scale = (sums[0] - sums[1] / scale) * free / self.middle
        nothing = torch.zeros_like(by_scale)
        return (
            torch.where(lower_wins, -ends[0] * by_scale, nothing),
            torch.where(lower_wins, nothing, -ends[1] * by_scale),
        )

    def clamp_(self, levels: Tensor, zero: Tensor) -> Tensor:
        """Clamp by two numbers, the same bounds for all groups.

        Args:
            levels: float32 [..., width]; zero is not read.
        """
        return levels.clamp_(-self.middle, self.middle - 1)

    def trials(
        self, scale: Tensor, zero: Tensor, lo: Tensor, *, scales: ScaleCodec
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Try both signs: the full range has one more level on one side.

        Args:
            scale, zero, lo, scales: as for :meth:`LevelSet.trials`; lo is not read.
        """
        for _, trial in scales.candidates(scale, ladder(self.bits)):
            yield trial, zero
            yield -trial, zero


@dataclass(frozen=True)
class AsymmetricLevels(_Uniform):
    """Codes 0 … 2**bits - 1 with a zero point a group.

    lowest_zero: least zero point a group may have; some layouts hold no 0.
    """

    lowest_zero: int = 0
    sym: ClassVar[bool] = False

    def widen(self, lo: Tensor, hi: Tensor) -> Ends:
        """Reach below zero by as much as the least zero point needs.

        A one-sided group would lose its far end otherwise, for want of a level.

        Args:
            lo, hi: float32 [rows, groups, 1], lo <= 0 <= hi.
        """
        if self.lowest_zero:
            lo = torch.minimum(lo, -hi * self.lowest_zero / (self.top - self.lowest_zero))
        return lo, hi

    def scale_for(self, lo: Tensor, hi: Tensor) -> Tensor:
        """Spread all levels over the range."""
        return (hi - lo) / self.top

    def zero_point(self, lo: Tensor, scale: Tensor) -> Tensor:
        """Return the code nearest to weight zero."""
        return torch.round(-lo / scale).clamp_(self.lowest_zero, self.top)

    def range_of(self, scale: Tensor, zero: Tensor) -> Ends:
        """Return the weights of the first and the last code.

        Args:
            scale, zero: float32 [rows, groups, 1].
        """
        return -zero * scale, (self.top - zero) * scale

    def range_gradients(
        self, ends: Ends, scaled: Ends, *, scale: Tensor, sums: Tensor, scales: ScaleCodec
    ) -> Ends:
        """Chain through the scale, and for clamped weights through the lower end.

        Args:
            ends, scaled, scale, scales: as for :meth:`LevelSet.range_gradients`.
            sums: all three of those there, [3, rows, groups, 1].
        """
        by_scale = sums[0] - sums[1] / scale
        if not scales.has_minimum:
            # The zero point depends on the scale; a minimum does not.
            by_scale = by_scale - scaled[0] / scale * sums[2]
        by_scale = by_scale * scales.follows(self.scale_for(*scaled)) / self.top
        return ends[0] * (sums[2] - by_scale), ends[1] * by_scale

    def clamp_(self, levels: Tensor, zero: Tensor) -> Tensor:
        """Clamp by two comparisons.

        torch's clamp by tensors is several times slower than both together when it has to
        broadcast.

        Args:
            levels: float32 [..., width]; zero: [..., 1].
        """
        torch.maximum(levels, -zero, out=levels)
        return torch.minimum(levels, self.top - zero, out=levels)

    def trials(
        self, scale: Tensor, zero: Tensor, lo: Tensor, *, scales: ScaleCodec
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Try several zero points for each scale.

        Args:
            scale, zero, lo, scales: as for :meth:`LevelSet.trials`; zero is not read.
        """
        del zero
        for fraction, trial in scales.candidates(scale, ladder(self.bits)):
            for candidate in self._zero_points(lo, trial, fraction):
                yield trial, candidate

    def _zero_points(self, lo: Tensor, trial: Tensor, fraction: float) -> Iterator[Tensor]:
        """Yield zero points worth trying: all at 2 bits, else a window.

        The window is centred where clipping takes the same share off both ends of the range.
        """
        if self.bits == 2:
            for code in range(self.lowest_zero, self.top + 1):
                yield torch.full_like(trial, float(code))
            return
        centre = torch.round(-lo * fraction / trial)
        for distance in (-2, -1, 0, 1, 2):
            yield (centre + distance).clamp(self.lowest_zero, self.top)


#: Both kinds of integer levels, for those who know no others.
IntegerLevels = SymmetricLevels | AsymmetricLevels


def integer_levels(bits: int, *, sym: bool, lowest_zero: int = 0) -> IntegerLevels:
    """Return the integer levels of a scheme.

    Args:
        bits: of a code.
        sym: full-range symmetric, else with a zero point a group.
        lowest_zero: least zero point of an asymmetric group.
    """
    return SymmetricLevels(bits) if sym else AsymmetricLevels(bits, lowest_zero)

"""A grid that is not evenly spaced, and scales that are not float16: for the seam, in tests only.

``Float4`` has the levels of e2m1, ±{0, .5, 1, 1.5, 2, 3, 4, 6}; ``PowersOfTwo`` the scales of
e8m0. Neither knows anything of the code that rounds, searches or tunes with them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from autoround.core.grids.levels import Ends
from autoround.core.grids.scales import ScaleCodec

#: What the indices 0 … 7 stand for.
MAGNITUDES = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])


class Float4:
    """Levels -7 … 7, odd: index -n is minus index n."""

    count, middle, reach, fixed_zero = 15, 7, 6.0, True

    def widen(self, lo: Tensor, hi: Tensor) -> Ends:
        return lo, hi

    def scale_for(self, lo: Tensor, hi: Tensor) -> Tensor:
        return torch.maximum(-lo, hi) / self.reach

    def zero_point(self, lo: Tensor, scale: Tensor) -> Tensor:
        return torch.full_like(scale, self.middle)

    def range_of(self, scale: Tensor, zero: Tensor) -> Ends:
        return -scale * self.reach, scale * self.reach

    def range_gradients(
        self, ends: Ends, scaled: Ends, *, scale: Tensor, sums: Tensor, scales: ScaleCodec
    ) -> Ends:
        lower_wins = -scaled[0] > scaled[1]
        free = scales.follows(self.scale_for(*scaled))
        by_scale = (sums[0] - sums[1] / scale) * free / self.reach
        nothing = torch.zeros_like(by_scale)
        return (
            torch.where(lower_wins, -ends[0] * by_scale, nothing),
            torch.where(lower_wins, nothing, ends[1] * by_scale),
        )

    def nearest(self, weight: Tensor, scale: Tensor, offset: Tensor | None = None) -> Tensor:
        position = self.position_(weight / scale)
        return (position if offset is None else position + offset).round_()

    def position_(self, ratio: Tensor) -> Tensor:
        """Interpolate between the indices of the two neighbours; the last step goes on."""
        size = ratio.abs()
        upper = torch.searchsorted(MAGNITUDES, size).clamp(1, 7)
        low, high = MAGNITUDES[upper - 1], MAGNITUDES[upper]
        position = (upper - 1) + (size - low) / (high - low)
        return ratio.copy_(position.copysign(ratio))

    def clamp_(self, levels: Tensor, zero: Tensor) -> Tensor:
        return levels.clamp_(-7, 7)

    def value(self, levels: Tensor) -> Tensor:
        return MAGNITUDES[levels.abs().long()].copysign(levels)

    def trials(
        self, scale: Tensor, zero: Tensor, lo: Tensor, *, scales: ScaleCodec
    ) -> Iterator[tuple[Tensor, Tensor]]:
        for _, trial in scales.candidates(scale, [0.6 + 0.02 * k for k in range(31)]):
            yield trial, zero


class PowersOfTwo:
    """Positive scales 2**e; the tensor that carries them is float32."""

    has_minimum, largest = False, 2.0**127

    def encode(self, scale: Tensor, lo: Tensor) -> tuple[Tensor, None]:
        return self.round(scale), None

    def round(self, scale: Tensor) -> Tensor:
        return torch.exp2(scale.abs().clamp_min(2.0**-126).log2().round())

    def candidates(
        self, scale: Tensor, fractions: Sequence[float]
    ) -> Iterator[tuple[float, Tensor]]:
        """Yield the neighbours, whatever fractions the levels had in mind."""
        for factor in (0.5, 1.0, 2.0):
            yield factor, self.round(scale) * factor

    def follows(self, scale: Tensor) -> Tensor:
        return torch.ones_like(scale, dtype=torch.bool)

    def stored(self, scale: Tensor) -> Tensor:
        return scale

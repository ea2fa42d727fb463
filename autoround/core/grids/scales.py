"""Scale codecs: which scales a format can hold, and how others are rounded to them.

Scales are rounded inside the forward, because the rounded ones are what files hold: tuning then
sees the value that will be served.

- :class:`Half`: one float16 a group. Below ``SMALLEST_SCALE`` it has too few digits left.
- :class:`Nested` (double quantization, GGUF's k-quants): the scales of a super-block are small
  integers times one float16, ``s = d * sc``. Unsigned ones subtract a minimum of the same make
  instead of having a zero point, ``w = d * sc * q - dmin * mn``.

A codec for another encoding (float8 under a global scale, powers of two) is one more class here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

#: Smallest magnitude of a scale: below it float16 has too few digits left.
SMALLEST_SCALE = 1e-5
#: Largest finite float16.
LARGEST_SCALE = 65504.0
#: Smallest positive float16: the least scale of a super-block.
SMALLEST_SUPER_SCALE = 2.0**-24


class ScaleCodec(Protocol):
    """The scales that a format can hold."""

    @property
    def has_minimum(self) -> bool:
        """Whether groups subtract a minimum instead of having a zero point."""

    @property
    def largest(self) -> float:
        """The largest scale there is."""

    def encode(self, scale: Tensor, lo: Tensor) -> tuple[Tensor, Tensor | None]:
        """Round scales, and minima where there are any, to what the format holds.

        Args:
            scale: float32 [rows, groups, 1], the scale that each group's range asks for.
            lo: float32 [rows, groups, 1], lower end of that range, at most zero.

        Returns:
            Scale and minimum, both float32 [rows, groups, 1]; the minimum is None where groups
            have a zero point.
        """

    def round(self, scale: Tensor) -> Tensor:
        """Round scales, each by itself, keeping their signs.

        Args:
            scale: float32, any shape.

        Returns:
            float32 of that shape.
        """

    def candidates(
        self, scale: Tensor, fractions: Sequence[float]
    ) -> Iterator[tuple[float, Tensor]]:
        """Yield scales that are worth a trial, each with its fraction of ``scale``.

        Args:
            scale: float32, any shape.
            fractions: shares of it that the levels want tried.

        Yields:
            A fraction, and float32 scales of the shape.
        """

    def follows(self, scale: Tensor) -> Tensor:
        """Tell where a rounded scale still moves with the one asked for.

        Args:
            scale: float32, any shape, before it is rounded.

        Returns:
            bool of that shape; elsewhere the gradient of the scale is zero.
        """

    def stored(self, scale: Tensor) -> Tensor:
        """Give rounded scales the dtype that tensors carry them in.

        Args:
            scale: float32, any shape, of :meth:`round` or :meth:`encode`.

        Returns:
            The same numbers, exactly, in a dtype of the codec's.
        """


@dataclass(frozen=True)
class Half:
    """One float16 a group, its magnitude at least SMALLEST_SCALE."""

    @property
    def has_minimum(self) -> bool:
        """Groups have zero points."""
        return False

    @property
    def largest(self) -> float:
        """The largest finite float16."""
        return LARGEST_SCALE

    def encode(self, scale: Tensor, lo: Tensor) -> tuple[Tensor, None]:
        """Round every scale to float16; there is no minimum.

        Args:
            scale: float32 [rows, groups, 1].
            lo: not read.

        Returns:
            Scales float32 [rows, groups, 1], and None.
        """
        del lo
        return self.round(scale), None

    def round(self, scale: Tensor) -> Tensor:
        """Round to what float16 holds, keeping the sign; a zero scale becomes +SMALLEST_SCALE.

        Args:
            scale: float32, any shape, may be negative.

        Returns:
            float32 of that shape.
        """
        # By magnitude, since the floor is one for both signs.
        magnitude = scale.abs().clamp(SMALLEST_SCALE, LARGEST_SCALE).half().float()
        return torch.where(scale < 0, -magnitude, magnitude)

    def candidates(
        self, scale: Tensor, fractions: Sequence[float]
    ) -> Iterator[tuple[float, Tensor]]:
        """Yield every fraction of a scale: float16 is fine enough to hold them all.

        Args:
            scale: float32, any shape.
            fractions: shares of it.

        Yields:
            A fraction, and what scales times it are rounded to.
        """
        for fraction in fractions:
            yield fraction, self.round(scale * fraction)

    def follows(self, scale: Tensor) -> Tensor:
        """Tell where a scale is not held at its floor.

        Args:
            scale: float32, any shape, before it is rounded.

        Returns:
            bool of that shape.
        """
        return scale.abs() >= SMALLEST_SCALE

    def stored(self, scale: Tensor) -> Tensor:
        """Return rounded scales as float16, which holds them exactly.

        Args:
            scale: float32, any shape, of :meth:`round`.
        """
        return scale.half()


#: The codec of every format but GGUF's k-quants.
HALF = Half()


class NestedParts(NamedTuple):
    """Scales as a super-block holds them, integer-valued or representable in float16.

    scale: float32 [rows, supers, 1]; sub_scale: float32 [rows, supers, groups each].
    minimum, sub_minimum: the same for what is subtracted, or None for signed scales.
    """

    scale: Tensor
    sub_scale: Tensor
    minimum: Tensor | None
    sub_minimum: Tensor | None


class Nested(NamedTuple):
    """Super-block scales: small integers times one float16.

    groups: groups in a super-block. low, high: the integers a group's scale may be, low
    below zero when they are signed; the minimum of unsigned ones is one of 0 … high.
    """

    groups: int
    low: int
    high: int

    @property
    def has_minimum(self) -> bool:
        """Whether scales are unsigned: levels then reach below zero by a minimum alone."""
        return self.low >= 0

    @property
    def largest(self) -> float:
        """The largest finite float16, whatever the integers add to it."""
        return LARGEST_SCALE

    def encode(self, scale: Tensor, lo: Tensor) -> tuple[Tensor, Tensor | None]:
        """Round scales and minima to their super-blocks' integers times a float16.

        Args:
            scale, lo: float32 [rows, groups, 1], groups a multiple of a super-block's; lo <= 0.

        Returns:
            Scale and minimum, float32 [rows, groups, 1]; no minimum where scales are signed.
        """
        parts = self.parts(scale, lo)
        rounded = (parts.scale * parts.sub_scale).reshape(scale.shape)
        if parts.minimum is None or parts.sub_minimum is None:
            return rounded, None
        return rounded, (parts.minimum * parts.sub_minimum).reshape(scale.shape)

    def parts(self, scale: Tensor, lo: Tensor) -> NestedParts:
        """Round the scales and minima of every super-block to what its format holds.

        The largest scale of a super-block takes the last integer. No group gets the integer 0:
        a group of which nothing should be left has its codes at zero, which says the same.

        Args:
            scale, lo: float32 [rows, groups, 1], as for :meth:`encode`.

        Returns:
            scale and minimum [rows, supers, 1], their integers [rows, supers, groups of each]; all
            float32.
        """
        # [rows, groups, 1] -> [rows, supers, groups of each]
        scale = scale.reshape(scale.shape[0], -1, self.groups)
        if not self.has_minimum:
            most, least = scale.amax(-1, keepdim=True), scale.amin(-1, keepdim=True)
            # low reaches further than high, so the scale of greatest magnitude takes it.
            step = self.round(torch.where(most >= -least, most, least) / self.low)
            sub = torch.round(scale / step)
            sub = torch.where(sub == 0, 1.0, sub).clamp_(self.low, self.high)
            return NestedParts(step, sub, None, None)
        lo = lo.reshape(scale.shape)
        # Minima have a float16 and integers of their own, since they follow no scale.
        step = self.round(scale.amax(-1, keepdim=True) / self.high)
        sub = torch.round(scale / step).clamp_(1, self.high)
        minimum = self.round((-lo).amax(-1, keepdim=True) / self.high)
        sub_minimum = torch.round(-lo / minimum).clamp_(0, self.high)
        return NestedParts(step, sub, minimum, sub_minimum)

    def round(self, scale: Tensor) -> Tensor:
        """Round a super-block's own scale to float16, away from zero where it would vanish.

        Args:
            scale: float32, any shape, may be negative.

        Returns:
            float32 of that shape, never zero.
        """
        magnitude = scale.abs().clamp(SMALLEST_SUPER_SCALE, LARGEST_SCALE).half().float()
        return torch.where(scale < 0, -magnitude, magnitude)

    def candidates(
        self, scale: Tensor, fractions: Sequence[float]
    ) -> Iterator[tuple[float, Tensor]]:
        """Yield every fraction as it is: which of them exist, the whole super-block decides.

        Args:
            scale: float32, any shape.
            fractions: shares of it.

        Yields:
            A fraction, and scales times it, not rounded.
        """
        for fraction in fractions:
            yield fraction, scale * fraction

    def follows(self, scale: Tensor) -> Tensor:
        """Return True everywhere: the integers are rounded straight through.

        Args:
            scale: float32, any shape.
        """
        return torch.ones_like(scale, dtype=torch.bool)

    def stored(self, scale: Tensor) -> Tensor:
        """Return products of integers and float16 as float32, which holds them exactly.

        Args:
            scale: float32, any shape.
        """
        return scale

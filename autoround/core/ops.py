"""What a backend may replace by something faster, and the plain implementation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from autoround.core import end_to_end, gptq, signsgd
from autoround.core import rounding as rounding_core
from autoround.core.end_to_end import SignVotes
from autoround.core.gptq import ColumnBlock
from autoround.core.grid import Grid
from autoround.core.rounding import Rounding
from autoround.core.signsgd import SignState
from autoround.types import QuantizedTensor


class Ops(Protocol):
    """The operations of the tuning loop.

    Shapes and dtypes are those of the plain ones: :mod:`autoround.core.rounding`,
    :mod:`autoround.core.signsgd`, :mod:`autoround.core.gptq` and
    :mod:`autoround.core.end_to_end`. A backend that has no kernel for some levels or scales of a
    grid passes them on to :class:`TorchOps`.
    """

    def fake_quantize(
        self, weight: Tensor, rounding: Rounding, *, grid: Grid, dtype: torch.dtype
    ) -> Tensor:
        """Round a weight to its grid and back, differentiably."""

    def quantize(
        self, weight: Tensor, rounding: Rounding, *, grid: Grid
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Round a weight to its grid for good."""

    def fake_quantize_all(
        self,
        weights: Sequence[Tensor],
        roundings: Sequence[Rounding],
        *,
        grids: Sequence[Grid],
        dtype: torch.dtype,
    ) -> list[Tensor]:
        """Do as :meth:`fake_quantize` for all tensors of a block at once."""

    def quantize_all(
        self, weights: Sequence[Tensor], roundings: Sequence[Rounding], *, grids: Sequence[Grid]
    ) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Do as :meth:`quantize` for all tensors of a block at once."""

    def sign_step(
        self, params: Sequence[Tensor], grads: Sequence[Tensor], *, state: SignState
    ) -> SignState:
        """Move parameters against the signs of their gradients, in place."""

    def gptq_block(self, block: ColumnBlock) -> tuple[Tensor, Tensor]:
        """Round the columns of a block in turn, each compensating the errors of those before it."""

    def scaled_weight(
        self, layer: QuantizedTensor, factor: Tensor, *, dtype: torch.dtype
    ) -> Tensor:
        """Dequantize a layer with its scales multiplied."""

    def scale_gradient(
        self, layer: QuantizedTensor, grad: Tensor, votes: SignVotes | None = None
    ) -> Tensor:
        """Return the gradient of scale factors; codes may vote and move, in place."""

    def divergence(self, student: Tensor, teacher: Tensor) -> tuple[float, Tensor]:
        """Return the KL divergence of logits and its gradient for the student's."""


class TorchOps:
    """The plain implementation, correct on every device that torch knows.

    What a backend can do faster it replaces in a subclass; what works on all tensors of a block
    at once then goes through that, too.
    """

    def fake_quantize(
        self, weight: Tensor, rounding: Rounding, *, grid: Grid, dtype: torch.dtype
    ) -> Tensor:
        """Round a weight to its grid and back, differentiably."""
        return rounding_core.fake_quantize(weight, rounding, grid=grid, dtype=dtype)

    def quantize(
        self, weight: Tensor, rounding: Rounding, *, grid: Grid
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Round a weight to its grid for good."""
        return rounding_core.quantize(weight, rounding, grid=grid)

    def fake_quantize_all(
        self,
        weights: Sequence[Tensor],
        roundings: Sequence[Rounding],
        *,
        grids: Sequence[Grid],
        dtype: torch.dtype,
    ) -> list[Tensor]:
        """Do as :meth:`fake_quantize` for all tensors of a block, here one after the other."""
        return [
            self.fake_quantize(weight, rounding, grid=grid, dtype=dtype)
            for weight, rounding, grid in zip(weights, roundings, grids, strict=True)
        ]

    def quantize_all(
        self, weights: Sequence[Tensor], roundings: Sequence[Rounding], *, grids: Sequence[Grid]
    ) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Do as :meth:`quantize` for all tensors of a block, here one after the other."""
        return [
            self.quantize(weight, rounding, grid=grid)
            for weight, rounding, grid in zip(weights, roundings, grids, strict=True)
        ]

    def sign_step(
        self, params: Sequence[Tensor], grads: Sequence[Tensor], *, state: SignState
    ) -> SignState:
        """Move parameters against the signs of their gradients, in place."""
        return signsgd.step(params, grads, state=state)

    def gptq_block(self, block: ColumnBlock) -> tuple[Tensor, Tensor]:
        """Round the columns of a block in turn, each compensating the errors of those before it."""
        return gptq.gptq_block(block)

    def scaled_weight(
        self, layer: QuantizedTensor, factor: Tensor, *, dtype: torch.dtype
    ) -> Tensor:
        """Dequantize a layer with its scales multiplied."""
        return end_to_end.scaled_weight(layer, factor, dtype=dtype)

    def scale_gradient(
        self, layer: QuantizedTensor, grad: Tensor, votes: SignVotes | None = None
    ) -> Tensor:
        """Return the gradient of scale factors; codes may vote and move, in place."""
        return end_to_end.scale_gradient(layer, grad, votes)

    def divergence(self, student: Tensor, teacher: Tensor) -> tuple[float, Tensor]:
        """Return the KL divergence of logits and its gradient for the student's."""
        return end_to_end.divergence(student, teacher)

"""What a backend may replace by something faster, and the plain implementation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from autoround.core import end_to_end, gptq, rtn, signsgd
from autoround.core import rounding as rounding_core
from autoround.core.end_to_end import SignVotes
from autoround.core.gptq import ColumnBlock
from autoround.core.grids.grid import Grid
from autoround.core.grids.levels import IntegerLevels
from autoround.core.grids.scales import Half, Nested
from autoround.core.rounding import Rounding
from autoround.core.search import CHUNK_ELEMENTS
from autoround.core.signsgd import SignState
from autoround.types import QuantizedTensor


class Ops(Protocol):
    """The operations of the tuning loop.

    A backend that has no kernel for some levels or scales of a grid, or for a tensor as it is laid
    out, passes them on to :class:`TorchOps`.
    """

    def search_scales(
        self,
        groups: Tensor,
        importance: Tensor | None,
        levels: IntegerLevels,
        *,
        scales: Half | Nested,
        chunk: int = CHUNK_ELEMENTS,
    ) -> Grid:
        """Search the scales and zero points of least weighted squared error.

        Args:
            groups: float32 [rows, groups, width].
            importance: float32 [n, groups, width], each for rows / n rows that follow each other,
                or None for equal weights.
            levels: what codes stand for.
            scales: how scales are held.
            chunk: elements to search at a time where there is no kernel.

        Returns:
            The grid whose unmoved scale and zero point, or minimum, are the ones found.
        """

    def fake_quantize(
        self, weight: Tensor, rounding: Rounding, *, grid: Grid, dtype: torch.dtype
    ) -> Tensor:
        """Round a weight to its grid and back, differentiably (SignRound, eq. 3).

        Args:
            weight: float32 [rows, groups, width].
            rounding: offsets [rows, groups, width], min_scale and max_scale [rows, groups, 1];
                those that require gradients get them.
            grid: ranges and levels of the groups.
            dtype: of the result.

        Returns:
            [rows, groups, width] in ``dtype``.
        """

    def quantize(
        self, weight: Tensor, rounding: Rounding, *, grid: Grid
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Round a weight to its grid for good.

        Args:
            weight, rounding, grid: as for :meth:`fake_quantize`.

        Returns:
            Codes uint8 [rows, groups, width], scale float16 (float32 for a nested grid) and zero
            uint8, both [rows, groups, 1].
        """

    def fake_quantize_all(
        self,
        weights: Sequence[Tensor],
        roundings: Sequence[Rounding],
        *,
        grids: Sequence[Grid],
        dtype: torch.dtype,
    ) -> list[Tensor]:
        """Do as :meth:`fake_quantize` for all tensors of a block at once.

        Args:
            weights: float32 [rows, groups, width] each, of any shapes.
            roundings, grids: one for each weight, in the same order.
            dtype: of the results.

        Returns:
            A tensor for each weight, in its shape and ``dtype``.
        """

    def quantize_all(
        self, weights: Sequence[Tensor], roundings: Sequence[Rounding], *, grids: Sequence[Grid]
    ) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Do as :meth:`quantize` for all tensors of a block at once.

        Args:
            weights, roundings, grids: as for :meth:`fake_quantize_all`.

        Returns:
            Codes, scale and zero of each weight, as :meth:`quantize` returns them.
        """

    def sign_step(
        self, params: Sequence[Tensor], grads: Sequence[Tensor], *, state: SignState
    ) -> SignState:
        """Move parameters against the signs of their gradients, in place (SignRound, eq. 4).

        Args:
            params: float32, of any shapes.
            grads: of the same shapes; they may be overwritten.
            state: which step this is.

        Returns:
            The state of the next step.
        """

    def sign_step_by(self, params: Sequence[Tensor], grads: Sequence[Tensor], lr: Tensor) -> None:
        """Do as :meth:`sign_step` at a learning rate that the device holds.

        Args:
            params, grads: as for :meth:`sign_step`.
            lr: float32 scalar on the device; a recorded step reads it anew at each play. At zero
                every parameter stays as it is.
        """

    def gptq_block(self, block: ColumnBlock) -> tuple[Tensor, Tensor]:
        """Round the columns of a block in turn, each compensating the errors of those before it.

        Args:
            block: columns in rows; its weight may be overwritten.

        Returns:
            Positions of the weights among the level indices, and errors that are left (GPTQ, eq.
            2-3); both float32 [columns, rows].
        """

    def scaled_weight(
        self, layer: QuantizedTensor, factor: Tensor, *, dtype: torch.dtype
    ) -> Tensor:
        """Dequantize a layer with its scales multiplied.

        Args:
            layer: codes uint8 [out, in], scale and zero [out, groups].
            factor: float32 [rows, groups, 1].
            dtype: of the result.

        Returns:
            [out, in] in ``dtype``.
        """

    def scale_gradient(
        self, layer: QuantizedTensor, grad: Tensor, votes: SignVotes | None = None
    ) -> Tensor:
        """Return the gradient of scale factors; codes may vote and move, in place.

        Args:
            layer: whose codes may be changed in place.
            grad: [out, in], of the dequantized weight, any float dtype.
            votes: int8 [out, in] and what a step adds, changed in place; None where codes stay.

        Returns:
            float32 [rows, groups, 1].
        """

    def divergence(self, student: Tensor, teacher: Tensor) -> tuple[float, Tensor]:
        """Return the KL divergence of logits and its gradient for the student's.

        Args:
            student, teacher: [tokens, vocabulary], any float dtype.

        Returns:
            The sum over tokens in nats, and [tokens, vocabulary] in the student's dtype.
        """


class TorchOps:
    """The plain implementation, correct on every device that torch knows.

    What a backend can do faster it replaces in a subclass; what works on all tensors of a block
    at once then goes through that, too.
    """

    def search_scales(
        self,
        groups: Tensor,
        importance: Tensor | None,
        levels: IntegerLevels,
        *,
        scales: Half | Nested,
        chunk: int = CHUNK_ELEMENTS,
    ) -> Grid:
        """Search the scales and zero points of least weighted squared error.

        Args:
            groups, importance, levels, scales: as for :meth:`Ops.search_scales`.
            chunk: elements to search at a time, by which results do not change.

        Returns:
            The grid whose unmoved scale and zero point, or minimum, are the ones found.
        """
        return rtn.search_scales(groups, importance, levels, scales=scales, chunk=chunk)

    def fake_quantize(
        self, weight: Tensor, rounding: Rounding, *, grid: Grid, dtype: torch.dtype
    ) -> Tensor:
        """Round a weight to its grid and back, differentiably.

        Args:
            weight, rounding, grid, dtype: as for :meth:`Ops.fake_quantize`.

        Returns:
            [rows, groups, width] in ``dtype``.
        """
        return rounding_core.fake_quantize(weight, rounding, grid=grid, dtype=dtype)

    def quantize(
        self, weight: Tensor, rounding: Rounding, *, grid: Grid
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Round a weight to its grid for good.

        Args:
            weight, rounding, grid: as for :meth:`Ops.quantize`.

        Returns:
            Codes uint8 [rows, groups, width]; scale and zero [rows, groups, 1].
        """
        return rounding_core.quantize(weight, rounding, grid=grid)

    def fake_quantize_all(
        self,
        weights: Sequence[Tensor],
        roundings: Sequence[Rounding],
        *,
        grids: Sequence[Grid],
        dtype: torch.dtype,
    ) -> list[Tensor]:
        """Do as :meth:`fake_quantize` for all tensors of a block, here one after the other.

        Args:
            weights, roundings, grids, dtype: as for :meth:`Ops.fake_quantize_all`.

        Returns:
            A tensor for each weight, in its shape and ``dtype``.
        """
        return [
            self.fake_quantize(weight, rounding, grid=grid, dtype=dtype)
            for weight, rounding, grid in zip(weights, roundings, grids, strict=True)
        ]

    def quantize_all(
        self, weights: Sequence[Tensor], roundings: Sequence[Rounding], *, grids: Sequence[Grid]
    ) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Do as :meth:`quantize` for all tensors of a block, here one after the other.

        Args:
            weights, roundings, grids: as for :meth:`Ops.quantize_all`.

        Returns:
            Codes, scale and zero of each weight.
        """
        return [
            self.quantize(weight, rounding, grid=grid)
            for weight, rounding, grid in zip(weights, roundings, grids, strict=True)
        ]

    def sign_step(
        self, params: Sequence[Tensor], grads: Sequence[Tensor], *, state: SignState
    ) -> SignState:
        """Move parameters against the signs of their gradients, in place.

        Args:
            params, grads: float32, of the same shapes; gradients are overwritten.
            state: which step this is.

        Returns:
            The state of the next step.
        """
        return signsgd.step(params, grads, state=state)

    def sign_step_by(self, params: Sequence[Tensor], grads: Sequence[Tensor], lr: Tensor) -> None:
        """Do as :meth:`sign_step` at a learning rate that the device holds.

        Args:
            params, grads: float32, of the same shapes; gradients are overwritten.
            lr: float32 scalar on the device.
        """
        signsgd.step_by(params, grads, lr)

    def gptq_block(self, block: ColumnBlock) -> tuple[Tensor, Tensor]:
        """Round the columns of a block in turn, each compensating the errors of those before it.

        Args:
            block: columns in rows; its weight is overwritten.

        Returns:
            Positions and errors, float32 [columns, rows], as of :meth:`Ops.gptq_block`.
        """
        return gptq.gptq_block(block)

    def scaled_weight(
        self, layer: QuantizedTensor, factor: Tensor, *, dtype: torch.dtype
    ) -> Tensor:
        """Dequantize a layer with its scales multiplied.

        Args:
            layer, factor, dtype: as for :meth:`Ops.scaled_weight`.

        Returns:
            [out, in] in ``dtype``.
        """
        return end_to_end.scaled_weight(layer, factor, dtype=dtype)

    def scale_gradient(
        self, layer: QuantizedTensor, grad: Tensor, votes: SignVotes | None = None
    ) -> Tensor:
        """Return the gradient of scale factors; codes may vote and move, in place.

        Args:
            layer, grad, votes: as for :meth:`Ops.scale_gradient`.

        Returns:
            float32 [rows, groups, 1].
        """
        return end_to_end.scale_gradient(layer, grad, votes)

    def divergence(self, student: Tensor, teacher: Tensor) -> tuple[float, Tensor]:
        """Return the KL divergence of logits and its gradient for the student's.

        Args:
            student, teacher: [tokens, vocabulary], any float dtype.

        Returns:
            The sum over tokens in nats, and [tokens, vocabulary] in the student's dtype.
        """
        return end_to_end.divergence(student, teacher)

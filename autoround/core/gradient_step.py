"""Gradients of one tuning step: the loss of its batches, differentiated in the roundings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice

import torch
from torch import Tensor

from autoround.core.batches import BatchLoader, Samples, batches
from autoround.core.loss import block_mse
from autoround.core.ops import Ops
from autoround.core.reconstruction import (
    Hyperparameters,
    Reconstruction,
    rounded_weights,
)
from autoround.core.rounding import Rounding

#: Keeps gradients of small losses clear of underflow in 16-bit forwards; signs ignore it.
LOSS_SCALE = 1000.0


class GradientStep:
    """Gradients of a step, batch after batch.

    Args:
        block: to reconstruct.
        roundings: of its targets, by name; read anew at every step.
        params: those parts of the roundings that gradients are wanted of.
        hyperparameters: batches of a step, their size and the seed of their order.
        ops: of the device. dtype: that the block computes in.
    """

    def __init__(
        self,
        block: Reconstruction,
        roundings: Mapping[str, Rounding],
        params: Sequence[Tensor],
        *,
        hyperparameters: Hyperparameters,
        ops: Ops,
        dtype: torch.dtype,
    ) -> None:
        self._block, self._roundings, self._params = block, roundings, params
        self._hyperparameters, self._ops, self._dtype = hyperparameters, ops, dtype
        samples = block.samples
        drawn = batches(
            samples.inputs.shape[0], hyperparameters.batch_size, seed=hyperparameters.seed
        )
        order = list(islice(drawn, hyperparameters.iters * hyperparameters.grad_accum_steps))
        self._loader = BatchLoader(
            samples.tensors(), order, device=block.device, upload=block.hooks.upload
        )

    @property
    def uploads(self) -> bool:
        """Whether batches are brought from the host's memory while the device computes."""
        return self._loader.uploads

    def move_to(self, roundings: Mapping[str, Rounding], params: Sequence[Tensor]) -> None:
        """Go on with other tensors.

        Args:
            roundings, params: in place of those it was made with.
        """
        self._roundings, self._params = roundings, params

    @property
    def takes_whole_batches(self) -> bool:
        """Whether a step is one batch that goes through the block as a whole."""
        size = self._hyperparameters.micro_batch
        batch = min(self._hyperparameters.batch_size, self._block.samples.inputs.shape[0])
        return self._hyperparameters.grad_accum_steps == 1 and not 0 < size < batch

    def resident(self) -> dict[str, Tensor]:
        """Return samples that are on the device of their own, and the rows of each step.

        Returns:
            ``inputs`` and ``targets`` [n, seq, hidden]; ``mask`` bool [n, seq] where there is one;
            ``rows`` int64 [steps + 1, batch], the first step's once more at the end. Nothing
            where batches come from elsewhere.
        """
        there = self._loader.on_device()
        if there is None:
            return {}
        rows, tensors = there
        return {**tensors, "rows": torch.stack([*rows, rows[0]])}

    def next_tensors(self) -> list[Tensor]:
        """Return the next batch: inputs, targets, and a mask where there is one."""
        batch = self._next_batch()
        return [batch.inputs, batch.targets, *([] if batch.mask is None else [batch.mask])]

    def prefetch(self) -> None:
        """Start the next batch on its way to the device."""
        self._loader.prefetch()

    def next(self) -> tuple[Sequence[Tensor], Tensor]:
        """Differentiate the loss of the next step's batches.

        Returns:
            The sum of the batches' gradients, times LOSS_SCALE, one for each parameter in its
            shape; and the mean loss, a float32 scalar on the device.
        """
        count, size = self._hyperparameters.grad_accum_steps, self._hyperparameters.micro_batch
        first = self._next_batch()
        if count == 1 and not 0 < size < first.inputs.shape[0]:
            return self.of_batch(first)
        weights = self._weights()
        leaves = {name: weight.detach().requires_grad_() for name, weight in weights.items()}
        sums: list[Tensor] = []
        total = torch.zeros((), device=self._block.device)
        for number in range(count):
            batch = first if number == 0 else self._next_batch()
            for part, share in batch.micro_batches(size):
                loss = self._loss(leaves, part) * share
                grads = _differentiate(loss, list(leaves.values()))
                sums = _add_gradients(sums, grads)
                total += loss.detach()
                # As large as the weights: the next part's come beside the sums alone.
                del grads, loss
        # Weights are the same for all parts: they are rounded once, and so are their gradients.
        upstream = [torch.zeros_like(leaf) for leaf in leaves.values()] if not sums else []
        while sums:
            upstream.append(sums.pop(0).to(self._dtype))
        param_grads = torch.autograd.grad(
            list(weights.values()),
            self._params,
            upstream,
            allow_unused=True,
            materialize_grads=True,
        )
        return param_grads, total / count

    def _next_batch(self) -> Samples:
        rows, batch = self._loader.next()
        return Samples(batch["inputs"], batch["targets"], batch.get("mask"), rows)

    def _weights(self) -> dict[str, Tensor]:
        return rounded_weights(
            self._block.targets, self._roundings, ops=self._ops, dtype=self._dtype
        )

    def _loss(self, weights: Mapping[str, Tensor], batch: Samples) -> Tensor:
        output = self._block.forward(weights, batch.inputs, batch.rows)
        return block_mse(output, batch.targets, batch.mask)

    def of_batch(self, batch: Samples) -> tuple[Sequence[Tensor], Tensor]:
        """Differentiate the loss of a batch that goes through the block as a whole.

        Args:
            batch: on the device.

        Returns:
            As of :meth:`next`.
        """
        loss = self._loss(self._weights(), batch)
        return _differentiate(loss, self._params), loss.detach()


def _add_gradients(sums: list[Tensor], grads: Sequence[Tensor]) -> list[Tensor]:
    """Add gradients to their sums, which begin as the first ones."""
    if not sums:
        # float32: sums of many 16-bit gradients would lose the small ones.
        return [grad.float() for grad in grads]
    return [total.add_(grad) for total, grad in zip(sums, grads, strict=True)]


def _differentiate(loss: Tensor, params: Sequence[Tensor]) -> Sequence[Tensor]:
    """Differentiate a loss; a weight that no token of a batch reached has gradient zero."""
    return torch.autograd.grad(loss * LOSS_SCALE, params, allow_unused=True, materialize_grads=True)

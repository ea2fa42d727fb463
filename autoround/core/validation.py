"""Scores of an iterate on samples that stay the same, and the best of those that are scored."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from autoround.core.batches import BatchLoader, Samples, batches
from autoround.core.loss import block_mse
from autoround.core.ops import Ops
from autoround.core.reconstruction import (
    Download,
    Hyperparameters,
    Reconstruction,
    rounded_weights,
)
from autoround.core.rounding import Rounding


class Scores(NamedTuple):
    """Losses on the validation samples: of the start and of the iterate that is kept.

    step: that the kept iterate came from, 0 for the start.
    """

    before: float
    after: float
    step: int


class LateScores:
    """Losses that a device may still be computing: read once, when they are first asked for.

    Args:
        read: returns them, waiting where it has to.
    """

    def __init__(self, read: Callable[[], Scores]) -> None:
        self._read = read

    @staticmethod
    def known(before: float, after: float, step: int) -> LateScores:
        """Return losses that are here."""
        scores = Scores(before, after, step)
        return LateScores(lambda: scores)

    @cached_property
    def values(self) -> Scores:
        """The losses; the host waits for them the first time."""
        return self._read()


class ReadLosses:
    """The losses of something that was tuned, read when they are asked for."""

    __slots__ = ()
    scores: LateScores

    @property
    def loss_before(self) -> float:
        """Loss of the start on the validation samples."""
        return self.scores.values.before

    @property
    def loss_after(self) -> float:
        """Loss of the rounding that is kept, on the same samples."""
        return self.scores.values.after

    @property
    def best_step(self) -> int:
        """The step that the rounding came from; 0 for the start."""
        return self.scores.values.step


@dataclass(frozen=True, slots=True)
class Tuned(ReadLosses):
    """Best rounding found, with its losses."""

    roundings: dict[str, Rounding]
    scores: LateScores


def validation_steps(iters: int, count: int) -> frozenset[int]:
    """Return the steps after which the validation samples are scored, the last one among them.

    All lie in the second half: before it the learning rate is still too high to stop at.

    Args:
        iters: steps in all.
        count: how often to score.

    Returns:
        Step numbers from 1.
    """
    return frozenset(round(iters * (0.5 + 0.5 * (k + 1) / count)) for k in range(count)) - {0}


class Validation:
    """Scores roundings on the validation samples, the same ones at every call.

    Args:
        block: to reconstruct.
        hyperparameters: how many samples, how many at a time, and the seed that draws them.
        ops: of the device. dtype: that the block computes in.
    """

    def __init__(
        self,
        block: Reconstruction,
        hyperparameters: Hyperparameters,
        *,
        ops: Ops,
        dtype: torch.dtype,
    ) -> None:
        self._block, self._hyperparameters = block, hyperparameters
        self._ops, self._dtype = ops, dtype
        self._total_dtype = _sum_dtype(block.device)
        count = block.samples.inputs.shape[0]
        # A seed of its own: the samples must not be those of the first batches.
        seed = hyperparameters.seed + 1
        chosen = next(batches(count, hyperparameters.validation_samples, seed=seed))
        self._count = len(chosen)
        self._order = chosen.split(hyperparameters.batch_size)

    @torch.no_grad()
    def score(self, roundings: Mapping[str, Rounding]) -> Tensor:
        """Score roundings; the host does not wait for the result.

        Args:
            roundings: of the block's targets, by name.

        Returns:
            The mean squared error of the block's output on the samples, a scalar on the device;
            float64 where the device has that.
        """
        block = self._block
        loader = BatchLoader(
            block.samples.tensors(), self._order, device=block.device, upload=block.hooks.upload
        )
        weights = rounded_weights(block.targets, roundings, ops=self._ops, dtype=self._dtype)
        total = torch.zeros((), dtype=self._total_dtype, device=block.device)
        for _ in self._order:
            rows, tensors = loader.next()
            batch = Samples(tensors["inputs"], tensors["targets"], tensors.get("mask"), rows)
            for part, share in batch.micro_batches(self._hyperparameters.micro_batch):
                output = block.forward(weights, part.inputs, part.rows)
                loss = block_mse(output, part.targets, part.mask)
                total += loss.to(self._total_dtype) * share * len(rows)
            loader.prefetch()
        return total / self._count


def validation_loss(
    block: Reconstruction,
    roundings: Mapping[str, Rounding],
    *,
    hyperparameters: Hyperparameters,
    ops: Ops,
    dtype: torch.dtype,
) -> float:
    """Score a rounding on the validation samples, the same ones at every call.

    Args:
        block: to reconstruct. roundings: of its targets, by name.
        hyperparameters: how many samples, how many at a time, and the seed that draws them.
        ops: of the device. dtype: that the block computes in.

    Returns:
        The mean squared error of the block's output on those samples.
    """
    validation = Validation(block, hyperparameters, ops=ops, dtype=dtype)
    return float(validation.score(roundings))


class BestIterate:
    """The iterate of the lowest validation loss, compared where the iterates are.

    On a device of its own nothing needs to be read before the end: the host does not know which
    iterate is kept, and queues steps without waiting for a score.

    Args:
        start: the first iterate, by name. score: its loss, a scalar on the device.
        keep: where to keep the best one.
        late: whether the host does not read scores before the end; iterates are then kept where
            they are.
    """

    def __init__(
        self, start: Mapping[str, Rounding], score: Tensor, *, keep: torch.device, late: bool
    ) -> None:
        self._keep, self._late = keep, late
        self._roundings = copy_roundings(start, keep)
        self._before = score
        self._loss = score.clone() if late else score.cpu()
        self._step = torch.zeros_like(self._loss)

    def offer(self, step: int, iterate: Mapping[str, Rounding], score: Tensor) -> None:
        """Keep an iterate if its loss is lower than that of the best one; NaN is not.

        Args:
            step: that it came from. iterate: by name, not changed. score: its loss.
        """
        if not self._late:
            score = score.cpu()
            if bool(score < self._loss):
                self._roundings = copy_roundings(iterate, self._keep)
                self._loss, self._step = score, torch.full_like(score, step)
            return
        lower = score < self._loss
        for name, rounding in iterate.items():
            for kept, part in zip(self._roundings[name], rounding, strict=True):
                # One tensor at a time: the largest of them is what this needs beside them.
                kept.copy_(torch.where(lower, part.detach(), kept))
        self._loss = torch.where(lower, score, self._loss)
        self._step = torch.where(lower, torch.full_like(self._step, step), self._step)

    def result(self, download: Callable[[Tensor], Download] | None = None) -> Tuned:
        """Return the best iterate with its numbers.

        Args:
            download: starts to copy a tensor to the host behind the work that is queued, so that
                the numbers can be read when more is; None to wait for them here.
        """
        where = self._loss.device
        numbers = torch.stack([self._before.to(where), self._loss, self._step])
        if download is None or where.type == "cpu":
            return Tuned(self._roundings, LateScores.known(*_scores_of(numbers.to("cpu"))))
        on_its_way = download(numbers)
        return Tuned(self._roundings, LateScores(lambda: _scores_of(on_its_way.result())))


def _scores_of(numbers: Tensor) -> Scores:
    before, after, step = numbers.tolist()
    return Scores(before, after, int(step))


def copy_roundings(roundings: Mapping[str, Rounding], device: torch.device) -> dict[str, Rounding]:
    """Copy roundings to a device; those that are there already stay what they are to others."""
    return {
        name: Rounding(*(part.detach().to(device, copy=True) for part in rounding))
        for name, rounding in roundings.items()
    }


def _sum_dtype(device: torch.device) -> torch.dtype:
    """Return the dtype that scores are added up in: some devices have no float64."""
    try:
        torch.ones((), dtype=torch.float64, device=device).mul_(1.0)
    except (RuntimeError, TypeError):
        return torch.float32
    return torch.float64

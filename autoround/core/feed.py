"""Samples of a block, drawn in batches and brought to the device that runs it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple, Protocol

import torch
from torch import Tensor


class Pending(Protocol):
    """Tensors on their way to a device."""

    def result(self) -> dict[str, Tensor]:
        """Return them on the device."""


#: Starts to copy tensors to the device.
Upload = Callable[[Mapping[str, Tensor]], Pending]


class Samples(NamedTuple):
    """Inputs of a block and the outputs it should have.

    inputs, targets: [n, seq, hidden], on any device.
    mask: bool [n, seq], True where a token is real, or None when all are.
    rows: int64 [n], which samples of the whole set these are; None for all of it in order.
    """

    inputs: Tensor
    targets: Tensor
    mask: Tensor | None
    rows: Tensor | None = None

    def take(self, indices: Tensor, *, device: torch.device) -> Samples:
        """Copy some samples to a device."""
        mask = None if self.mask is None else self.mask[indices].to(device)
        inputs, targets = self.inputs[indices].to(device), self.targets[indices].to(device)
        return Samples(inputs, targets, mask, indices)

    def parts(self, size: int) -> Iterator[tuple[Samples, float]]:
        """Yield them a few at a time, each with its share of the tokens that count.

        size: samples at a time; 0 for all.
        """
        count = self.inputs.shape[0]
        if not 0 < size < count:
            yield self, 1.0
            return
        whole = count if self.mask is None else int(self.mask.sum())
        for start in range(0, count, size):
            some = slice(start, start + size)
            mask = None if self.mask is None else self.mask[some]
            rows = None if self.rows is None else self.rows[some]
            part = Samples(self.inputs[some], self.targets[some], mask, rows)
            counted = part.inputs.shape[0] if mask is None else int(mask.sum())
            if counted:
                yield part, counted / whole


def batches(count: int, size: int, *, seed: int) -> Iterator[Tensor]:
    """Yield endless index batches [size]: every epoch a new order, the remainder dropped."""
    generator = torch.Generator().manual_seed(seed)
    size = min(size, count)
    while True:
        order = torch.randperm(count, generator=generator)
        yield from (order[i : i + size] for i in range(0, count - size + 1, size))


class Feed:
    """Batches of a block's samples, the next one on its way while one is computed with.

    upload: how tensors are brought to the device beside its work; None where they are there.
    """

    def __init__(
        self,
        samples: Samples,
        order: Iterator[Tensor],
        *,
        device: torch.device,
        upload: Upload | None = None,
    ) -> None:
        self._samples, self._order, self._device = samples, order, device
        there = samples.inputs.device.type == device.type
        self._upload = None if there else upload
        self._next: tuple[Tensor, Pending] | None = None

    def take(self) -> Samples:
        """Return the next batch on the device."""
        if self._upload is None:
            return self._samples.take(next(self._order), device=self._device)
        self.ahead()
        assert self._next is not None
        rows, pending = self._next
        self._next = None
        held = pending.result()
        return Samples(held["inputs"], held["targets"], held.get("mask"), rows)

    def ahead(self) -> None:
        """Start the next batch on its way, if it has to be brought."""
        if self._upload is None or self._next is not None:
            return
        rows = next(self._order)
        picked = {"inputs": self._samples.inputs[rows], "targets": self._samples.targets[rows]}
        if self._samples.mask is not None:
            picked["mask"] = self._samples.mask[rows]
        self._next = rows, self._upload(picked)

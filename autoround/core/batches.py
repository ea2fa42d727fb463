"""Samples of a block, drawn in batches and brought to the device that runs it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor


class Pending(Protocol):
    """Tensors on their way to a device."""

    def result(self) -> dict[str, Tensor]:
        """Return them on the device; work queued from now on finds them there.

        Returns:
            The tensors by their names, in their shapes and dtypes.
        """


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

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors that have a row for each sample.

        Returns:
            ``inputs`` and ``targets`` [n, seq, hidden]; ``mask`` bool [n, seq] where there is one.
        """
        tensors = {"inputs": self.inputs, "targets": self.targets}
        return tensors if self.mask is None else {**tensors, "mask": self.mask}

    def micro_batches(self, size: int) -> Iterator[tuple[Samples, float]]:
        """Yield them a few at a time, each with its share of the tokens that count.

        Args:
            size: samples at a time; 0 for all.

        Yields:
            Views of up to ``size`` samples, and their share; the shares add up to 1.
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
            # A part that is padding alone has a loss of zero and nothing to add.
            if counted:
                yield part, counted / whole


def batches(count: int, size: int, *, seed: int) -> Iterator[Tensor]:
    """Yield endless index batches: every epoch a new order, the remainder dropped.

    Args:
        count: samples there are.
        size: samples of a batch; more than there are means all.
        seed: of the orders.

    Yields:
        int64 [size] on the CPU, no index twice.
    """
    # A generator of its own on the CPU: every device draws the same.
    generator = torch.Generator().manual_seed(seed)
    size = min(size, count)
    while True:
        order = torch.randperm(count, generator=generator)
        yield from (order[i : i + size] for i in range(0, count - size + 1, size))


class BatchLoader:
    """Batches of samples, the next one on its way while one is computed with.

    Args:
        tensors: [n, ...] each, on any device.
        order: the rows of each batch, int64 [batch] on the CPU.
        device: where batches are needed.
        upload: how tensors are brought to the device beside its work; None to wait for them.
    """

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        order: Sequence[Tensor],
        *,
        device: torch.device,
        upload: Upload | None = None,
    ) -> None:
        self._tensors, self._order, self._device = dict(tensors), list(order), device
        self._at = 0
        resident = next(iter(tensors.values())).device.type == device.type
        self._upload = None if resident else upload
        self._next: tuple[Tensor, Pending] | None = None
        self._indices: list[Tensor] = self._order
        if resident and device.type != "cpu":
            self._place_indices(upload)

    def _place_indices(self, upload: Upload | None) -> None:
        """Bring the rows of all batches to the device at once, and what lies elsewhere."""
        # Indices on the CPU are copied at every use, and the host waits for each copy.
        wanted = {name: t for name, t in self._tensors.items() if t.device.type == "cpu"}
        wanted[""] = torch.cat(self._order) if self._order else torch.empty(0, dtype=torch.int64)
        if upload is None:
            placed = {name: tensor.to(self._device) for name, tensor in wanted.items()}
        else:
            placed = upload(wanted).result()
        self._indices = list(placed.pop("").split([len(rows) for rows in self._order]))
        self._tensors |= placed

    @property
    def uploads(self) -> bool:
        """Whether batches are brought to the device while it computes."""
        return self._upload is not None

    def on_device(self) -> tuple[list[Tensor], dict[str, Tensor]] | None:
        """Return the rows of all batches and the tensors, on a device that has memory of its own.

        Returns:
            None where batches are brought from elsewhere.
        """
        if self._indices is self._order:
            return None
        return self._indices, self._tensors

    def next(self) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the next batch on the device, whether it was on its way or not.

        Returns:
            Its rows, int64 [batch] on the CPU, and by name the tensors [batch, ...] on the device.

        Raises:
            IndexError: there are no more batches.
        """
        if self._upload is None:
            rows, indices = self._order[self._at], self._indices[self._at]
            self._at += 1
            tensors = self._tensors.items()
            return rows, {name: tensor[indices].to(self._device) for name, tensor in tensors}
        self.prefetch()
        if self._next is None:
            raise IndexError(f"all {len(self._order)} batches were taken")
        rows, pending = self._next
        self._next = None
        return rows, pending.result()

    def prefetch(self) -> None:
        """Start the next batch on its way, if there is one and it has to be brought."""
        if self._upload is None or self._next is not None or self._at == len(self._order):
            return
        rows = self._order[self._at]
        self._at += 1
        batch = {name: tensor[rows] for name, tensor in self._tensors.items()}
        self._next = rows, self._upload(batch)

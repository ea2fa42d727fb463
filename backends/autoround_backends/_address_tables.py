"""Tables of addresses that kernels are told their tensors by, on the device."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

#: Tables that are kept: a few for each kind of block.
TABLES = 32


class AddressTables:
    """The tables of the last few calls; copying one more to the device waits for nothing.

    Args:
        device: where they are read.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._tables: OrderedDict[tuple[int, ...], Tensor] = OrderedDict()
        self._keeping: list[list[Tensor]] = []
        self._unfilled: list[tuple[Tensor, tuple[int, ...]]] | None = None
        self._pins = True

    @contextmanager
    def keeping(self) -> Iterator[list[Tensor]]:
        """Collect the tables that are used while the context lasts.

        Whoever records launches has to hold them as long as the recording: it has their addresses,
        and here others take their place.
        """
        kept: list[Tensor] = []
        self._keeping.append(kept)
        try:
            yield kept
        finally:
            self._keeping.pop()

    @contextmanager
    def filling(self) -> Iterator[None]:
        """Fill tables that are made while the context lasts when it ends.

        While launches are recorded nothing can be copied to the device. Where gradients lie is
        known by then, and what a table holds is read when the recording is played.
        """
        unfilled: list[tuple[Tensor, tuple[int, ...]]] = []
        self._unfilled = unfilled
        try:
            yield
        except BaseException:
            # What was not filled must not be found by a later call.
            for _, flat in unfilled:
                self._tables.pop(flat, None)
            raise
        finally:
            self._unfilled = None
        for table, flat in unfilled:
            table.copy_(self._send(flat))

    def get(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """Put numbers on the device; those of the last few calls are there already.

        Args:
            rows: lists of one length, each number below 2 ** 64.

        Returns:
            int64 [rows times their length] on the device.
        """
        # Weights lie where they lay at the last step.
        flat = tuple(number for row in rows for number in row)
        if flat in self._tables:
            self._tables.move_to_end(flat)
        else:
            self._tables[flat] = self._make(flat)
        table = self._tables[flat]
        while len(self._tables) > TABLES:
            self._tables.popitem(last=False)
        for kept in self._keeping:
            kept.append(table)
        return table

    def _make(self, flat: tuple[int, ...]) -> Tensor:
        if self._unfilled is None:
            return self._send(flat)
        table = torch.empty(len(flat), dtype=torch.int64, device=self._device)
        self._unfilled.append((table, flat))
        return table

    def _send(self, flat: tuple[int, ...]) -> Tensor:
        """Copy numbers to the device, from pinned memory where there is such: nothing waits."""
        numbers = torch.tensor([signed(number) for number in flat], dtype=torch.int64)
        if self._device.type == "cpu" or not self._pins:
            return numbers.to(self._device)
        try:
            pinned = numbers.pin_memory()
        except RuntimeError:
            self._pins = False
            return numbers.to(self._device)
        return pinned.to(self._device, non_blocking=True)


def signed(number: int) -> int:
    """Return an address as int64 holds it: some devices have them in the upper half."""
    return number - 2**64 if number >= 2**63 else number

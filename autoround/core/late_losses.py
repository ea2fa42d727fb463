"""Losses of steps, read when the device has got that far: the host does not wait for each."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from torch import Tensor

from autoround.core.reconstruction import DeviceHooks, Download

#: Told of every step: step number from 1, and that step's loss.
OnStep = Callable[[int, float], None]

#: Steps that may be queued behind the one whose loss is waited for. A device that works through
#: several never idles while the host waits; more would only hold memory. Batches that are brought
#: from the host take memory of their own: then it is the one that has been uploaded beside.
QUEUED, QUEUED_WITH_UPLOADS = 8, 1


class LateLosses:
    """Tells of losses in the order of their steps, each when it is there.

    Args:
        on_step: told of every step and its loss; None if nobody asks.
        hooks: how a tensor is brought to the host beside the work; without that each loss is read
            at once.
        uploads: whether batches come from the host's memory.
    """

    def __init__(self, on_step: OnStep | None, hooks: DeviceHooks, *, uploads: bool) -> None:
        self._on_step, self._download = on_step, hooks.download
        self._queued = QUEUED_WITH_UPLOADS if uploads else QUEUED
        self._pending: deque[tuple[int, Download]] = deque()

    def add(self, step: int, loss: Tensor) -> None:
        """Note the loss of a step that is queued; tells of those before it that are there.

        Args:
            step: number from 1.
            loss: float32 scalar on the device; what it is at this point of the queue counts.
        """
        if self._on_step is None:
            return
        if self._download is None:
            self._on_step(step, float(loss))
            return
        self._pending.append((step, self._download(loss)))
        while self._pending and (len(self._pending) > self._queued or self._pending[0][1].ready()):
            self._tell()

    def finish(self) -> None:
        """Tell of all that are left, each as soon as it is there."""
        while self._pending:
            self._tell()

    def _tell(self) -> None:
        assert self._on_step is not None
        step, download = self._pending.popleft()
        self._on_step(step, float(download.result()))

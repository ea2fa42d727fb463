"""core/late_losses.py: losses are told in order, late, and none is left out."""

from __future__ import annotations

import torch
from torch import Tensor

from autoround.core.late_losses import QUEUED, QUEUED_WITH_UPLOADS, LateLosses
from autoround.core.reconstruction import DeviceHooks, Download


class Slow:
    """A copy that is there when the device says so; notes what was waited for."""

    def __init__(self, tensor: Tensor, device: Device) -> None:
        self._copy, self._device, self.number = tensor.clone(), device, device.queued
        device.queued += 1

    def ready(self) -> bool:
        return self.number < self._device.done

    def result(self) -> Tensor:
        if not self.ready():
            self._device.waits.append(self.number)
            self._device.done = self.number + 1
        return self._copy


class Device:
    """Has done as many steps as it is told."""

    def __init__(self) -> None:
        self.queued = self.done = 0
        self.waits: list[int] = []

    def download(self, tensor: Tensor) -> Download:
        return Slow(tensor, self)


def test_losses_are_told_in_order_when_they_are_there() -> None:
    device, told = Device(), []  # type: ignore[var-annotated]
    losses = LateLosses(
        lambda step, loss: told.append((step, loss)),
        DeviceHooks(download=device.download),
        uploads=False,
    )
    loss = torch.zeros(())
    for step in range(1, 7):
        loss.fill_(step)  # a recording puts every loss into the same tensor
        losses.add(step, loss)
        if step == 4:
            assert told == []
            device.done = 3
    assert told == [(1, 1.0), (2, 2.0), (3, 3.0)]
    assert device.waits == []
    losses.finish()
    assert told == [(step, float(step)) for step in range(1, 7)]
    assert device.waits == [3, 4, 5]


def test_no_more_steps_are_queued_than_memory_is_for() -> None:
    for uploads, most in ((False, QUEUED), (True, QUEUED_WITH_UPLOADS)):
        device, told = Device(), []  # type: ignore[var-annotated]
        losses = LateLosses(
            lambda step, loss, told=told: told.append(step),  # type: ignore[misc]
            DeviceHooks(download=device.download),
            uploads=uploads,
        )
        for step in range(1, 21):
            losses.add(step, torch.zeros(()))
            assert len(told) == max(0, step - most), "the oldest is waited for, not the last"


def test_without_a_way_to_the_host_a_loss_is_read_at_once() -> None:
    told: list[tuple[int, float]] = []
    losses = LateLosses(lambda step, loss: told.append((step, loss)), DeviceHooks(), uploads=False)
    losses.add(1, torch.tensor(2.0))
    assert told == [(1, 2.0)]


def test_nothing_is_copied_for_nobody() -> None:
    device = Device()
    losses = LateLosses(None, DeviceHooks(download=device.download), uploads=False)
    losses.add(1, torch.zeros(()))
    losses.finish()
    assert device.queued == 0

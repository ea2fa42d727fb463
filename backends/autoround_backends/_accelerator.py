"""What CUDA and XPU share: torch offers both through modules of the same shape."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Protocol

import torch

from autoround.core.ops import Ops, TorchOps
from autoround.device.protocol import Memory, Speed, measure_matmul, preferred
from autoround.errors import DeviceError


class DeviceModule(Protocol):
    """The part of ``torch.cuda`` and ``torch.xpu`` that is used here."""

    def device_count(self) -> int:
        """Return how many devices there are."""

    def mem_get_info(self, device: torch.device) -> tuple[int, int]:
        """Return free and total bytes."""

    def max_memory_allocated(self, device: torch.device) -> int:
        """Return the peak of allocated bytes."""

    def synchronize(self, device: torch.device) -> None:
        """Wait for queued work."""

    def empty_cache(self) -> None:
        """Release cached blocks."""


class AcceleratorRuntime:
    """One accelerator reached through a torch device module."""

    def __init__(self, name: str, index: int, *, module: DeviceModule) -> None:
        self.name = name
        self.device = torch.device(name, index)
        self.ops: Ops = TorchOps()
        self._module = module

    @cached_property
    def _speeds(self) -> tuple[Speed, ...]:
        dtypes = (torch.float32, torch.bfloat16, torch.float16)
        measured = [
            measure_matmul(self.device, dtype, synchronize=self.synchronize, size=2048)
            for dtype in dtypes
        ]
        ordered = preferred(measured)
        # float16 overflows on the residual streams of many models: only when bfloat16 loses.
        bfloat, half = measured[1], measured[2]
        if ordered[0] is half and bfloat.flops * 1.5 > half.flops:
            return (bfloat, *(s for s in ordered if s is not bfloat))
        return ordered

    def speeds(self) -> tuple[Speed, ...]:
        """Return measured speeds, the one to compute in first."""
        return self._speeds

    def memory(self) -> Memory:
        """Return total and free bytes of the device."""
        free, total = self._module.mem_get_info(self.device)
        return Memory(total, free)

    def peak_bytes(self) -> int:
        """Return the peak of bytes allocated on the device."""
        return self._module.max_memory_allocated(self.device)

    def synchronize(self) -> None:
        """Wait for queued work."""
        self._module.synchronize(self.device)

    def release(self) -> None:
        """Release cached blocks."""
        self._module.empty_cache()


def checked_index(name: str, index: int | None, *, devices: Sequence[str]) -> int:
    """Return a device index that exists.

    Raises:
        DeviceError: the index is beyond the last device.
    """
    chosen = index or 0
    if chosen >= len(devices):
        raise DeviceError(
            f"{name}:{chosen} does not exist; devices of this backend: {', '.join(devices)}"
        )
    return chosen

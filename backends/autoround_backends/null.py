"""A device that computes nothing: shapes and dtypes only, on meta tensors.

Everything that works from shapes can be rehearsed on it, at no cost in time or memory.
"""

from __future__ import annotations

import torch

from autoround.device.protocol import Availability, Speed
from autoround.device.runtime import TorchRuntime
from autoround.errors import DeviceError


class NullRuntime(TorchRuntime):
    """The meta device."""

    def __init__(self) -> None:
        super().__init__("null", torch.device("meta"))

    def speeds(self) -> tuple[Speed, ...]:
        """Return float32 at no speed at all."""
        return (Speed(torch.float32, 0.0),)


class NullBackend:
    """Never chosen by itself; named to rehearse a run."""

    name = "null"
    rank = -1

    def probe(self) -> Availability:
        """Tell that the null device is available."""
        return Availability(True, "computes shapes only", ("null",))

    def open(self, index: int | None) -> NullRuntime:
        """Open the null device.

        Raises:
            DeviceError: an index other than 0.
        """
        if index:
            raise DeviceError(f"there is one null device: use 'null', not 'null:{index}'")
        return NullRuntime()


BACKEND = NullBackend()

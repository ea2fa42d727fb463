"""NVIDIA (and ROCm) GPUs through torch.cuda."""

from __future__ import annotations

import torch

from autoround.device.protocol import Availability
from autoround_backends._accelerator import AcceleratorRuntime, checked_index

#: Compiling took an H100 nine seconds, and then spared it a seventh of a step (at 0.6 PFLOP/s).
COMPILES_FROM = 4e16
#: How a step is recorded: other threads may pin memory and copy meanwhile.
RECORDING = {"capture_error_mode": "thread_local"}


class CudaBackend:
    """GPUs that torch.cuda sees."""

    name = "cuda"
    rank = 20

    def probe(self) -> Availability:
        """Tell which GPUs there are, or why there are none."""
        if torch.version.cuda is None and getattr(torch.version, "hip", None) is None:
            return Availability(False, f"torch {torch.__version__} is built without CUDA")
        if not torch.cuda.is_available():
            return Availability(False, "torch has CUDA, but finds no usable GPU or driver")
        names = tuple(f"cuda:{i}" for i in range(torch.cuda.device_count()))
        return Availability(True, torch.cuda.get_device_name(0), names)

    def open(self, index: int | None) -> AcceleratorRuntime:
        """Open one GPU.

        Raises:
            DeviceError: there is no GPU of that index.
        """
        chosen = checked_index(self.name, index, devices=self.probe().devices)
        return AcceleratorRuntime(
            self.name,
            chosen,
            module=torch.cuda,
            graph="CUDAGraph",
            recording=RECORDING,
            compiles_from=COMPILES_FROM,
        )


BACKEND = CudaBackend()

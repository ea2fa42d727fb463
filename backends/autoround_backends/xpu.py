"""Intel GPUs through torch.xpu.

Intel's extension for PyTorch reached its end of life when its work moved into torch
itself. It is loaded only where it is installed and made for the running torch, for its
device kernels; nothing here needs it.
"""

from __future__ import annotations

import importlib
from importlib.metadata import PackageNotFoundError, version

import torch

from autoround.device.protocol import Availability
from autoround_backends._accelerator import AcceleratorRuntime, checked_index

EXTENSION = "intel-extension-for-pytorch"


def matching_extension() -> str | None:
    """Return the version of an installed extension made for this torch, else None.

    The extension pins the torch minor version it was compiled against; importing it
    beside another one crashes the process.
    """
    try:
        installed = version(EXTENSION)
    except PackageNotFoundError:
        return None
    return installed if installed.split(".")[:2] == torch.__version__.split(".")[:2] else None


class XpuBackend:
    """GPUs that torch.xpu sees."""

    name = "xpu"
    rank = 10

    def probe(self) -> Availability:
        """Tell which Intel GPUs there are, or why there are none."""
        if not torch.xpu._is_compiled():
            return Availability(False, f"torch {torch.__version__} is built without XPU")
        if not torch.xpu.is_available():
            return Availability(False, "torch has XPU, but finds no Intel GPU or driver")
        names = tuple(f"xpu:{i}" for i in range(torch.xpu.device_count()))
        return Availability(True, torch.xpu.get_device_name(0), names)

    def open(self, index: int | None) -> AcceleratorRuntime:
        """Open one Intel GPU.

        Raises:
            DeviceError: there is no GPU of that index.
        """
        chosen = checked_index(self.name, index, devices=self.probe().devices)
        if matching_extension() is not None:
            importlib.import_module("intel_extension_for_pytorch")
        return AcceleratorRuntime(self.name, chosen, module=torch.xpu, graph="XPUGraph")


BACKEND = XpuBackend()

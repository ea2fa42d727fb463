"""The CPU, in whichever dtype multiplies matrices fastest on this very machine."""

from __future__ import annotations

import os
import sys
from functools import cached_property

import torch

from autoround.core.ops import Ops, TorchOps
from autoround.device.protocol import Availability, Memory, Speed, measure_matmul, preferred
from autoround.errors import DeviceError
from autoround_backends import _native
from autoround_backends._cpu_ops import CpuOps


class CpuRuntime:
    """The host processor and its memory."""

    name = "cpu"

    def __init__(self) -> None:
        self.device = torch.device("cpu")

    @cached_property
    def ops(self) -> Ops:
        """The operations in C where a compiler builds them, else in plain torch.

        Both give the same levels bit for bit; without a compiler a run is slower, not other.
        """
        library = _native.load().library
        return TorchOps() if library is None else CpuOps(library)

    @cached_property
    def _speeds(self) -> tuple[Speed, ...]:
        # Support for bfloat16 says nothing of its speed: without AVX-512 BF16 or AMX it
        # is emulated, 8 to 80 times slower than float32.
        dtypes = (torch.float32, torch.bfloat16)
        return preferred(
            [measure_matmul(self.device, dtype, synchronize=self.synchronize) for dtype in dtypes]
        )

    def speeds(self) -> tuple[Speed, ...]:
        """Return measured speeds, the one to compute in first."""
        return self._speeds

    def memory(self) -> Memory:
        """Return the machine's memory; free counts what the system can reclaim."""
        page = os.sysconf("SC_PAGE_SIZE")
        total = page * os.sysconf("SC_PHYS_PAGES")
        free = page * os.sysconf("SC_AVPHYS_PAGES")
        try:
            with open("/proc/meminfo", encoding="ascii") as lines:
                fields = dict(line.split(":", 1) for line in lines)
            free = int(fields["MemAvailable"].split()[0]) * 1024
        except (OSError, KeyError, ValueError):
            pass  # not Linux: the page count above stands
        return Memory(total, free)

    def peak_bytes(self) -> int:
        """Return the largest resident size of this process so far."""
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024

    def synchronize(self) -> None:
        """Do nothing: work on a CPU is done when the call returns."""

    def release(self) -> None:
        """Do nothing: the allocator returns memory by itself."""


class CpuBackend:
    """Always there."""

    name = "cpu"
    rank = 0

    def probe(self) -> Availability:
        """Tell that the CPU is available."""
        return Availability(True, f"{torch.get_num_threads()} threads", ("cpu",))

    def open(self, index: int | None) -> CpuRuntime:
        """Open the CPU.

        Raises:
            DeviceError: an index other than 0.
        """
        if index:
            raise DeviceError(f"there is one CPU device: use 'cpu', not 'cpu:{index}'")
        return CpuRuntime()


BACKEND = CpuBackend()

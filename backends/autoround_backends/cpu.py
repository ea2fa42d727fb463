"""The CPU, in whichever dtype multiplies matrices fastest on this very machine."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

import torch

from autoround.core.ops import Ops, TorchOps
from autoround.device.protocol import Availability, BlockCall, Memory, Note, Speed, sort_speeds
from autoround.device.runtime import TorchRuntime
from autoround.errors import DeviceError
from autoround_backends import _native
from autoround_backends._compile import Compiled, can_compile
from autoround_backends._cpu_ops import CpuOps

#: Fewer threads must multiply faster by this factor to be used: noise must not decide.
WORTHWHILE_FEWER = 1.25
#: What a container may use of the processor, in control groups of version 2.
QUOTA = Path("/sys/fs/cgroup/cpu.max")

#: Operations of products from which compiling blocks pays, here and with a matrix unit.
COMPILES_FROM = 1.5e13


class CpuRuntime(TorchRuntime):
    """The host processor and its memory."""

    def __init__(self) -> None:
        super().__init__("cpu", torch.device("cpu"))

    @cached_property
    def ops(self) -> Ops:
        """The operations in C where a compiler builds them, else in plain torch.

        Both give the same levels bit for bit; without a compiler a run is slower, not other.
        """
        library = _native.load().library
        return TorchOps() if library is None else CpuOps(library)

    @cached_property
    def threads(self) -> int:
        """The number of threads that multiplies fastest, at most what torch was given.

        Threads beyond what a container may use wait for each other, and so do two on one core.
        """
        configured = torch.get_num_threads()
        chosen = min(configured, allowed_threads())
        best = 0.0
        try:
            count = chosen
            while count:
                torch.set_num_threads(count)
                flops = self._measured(torch.float32).flops if chosen > 1 else 1.0
                if best and flops < WORTHWHILE_FEWER * best:
                    break
                best, chosen, count = flops, count, count // 2
        finally:
            torch.set_num_threads(configured)
        return chosen

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Use the number of threads that measured fastest."""
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)

    @cached_property
    def _speeds(self) -> tuple[Speed, ...]:
        # Support for bfloat16 says nothing of its speed: without AVX-512 BF16 or AMX it
        # is emulated, 8 to 80 times slower than float32.
        with self.computing():
            return sort_speeds([self._measured(dtype) for dtype in self.dtypes])

    def notes(self) -> tuple[Note, ...]:
        """Say how many threads are used, and what the operations are made of."""
        native = _native.load()
        about = Note(f"fake-quantize and sign step in C, {native.reason}")
        # A run without the kernels is slower by far: the user is to know.
        if native.library is None:
            about = Note(f"fake-quantize and sign step in plain torch: {native.reason}", True)
        configured = torch.get_num_threads()
        return Note(f"{self.threads} threads, the fastest of {configured} and fewer"), about

    def compiles_from(self) -> float:
        """Return from how many operations compiling is worth its ten seconds."""
        return COMPILES_FROM if can_compile() else float("inf")

    def compile(self, call: BlockCall) -> BlockCall:
        """Return a call that is compiled when it is first made."""
        return Compiled(call)

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


def allowed_threads(quota: Path = QUOTA) -> int:
    """Return how many processors this process may use, one at least.

    Args:
        quota: file with microseconds of work allowed in a period, and the period.
    """
    count = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    try:
        allowed, period = quota.read_text(encoding="ascii").split()
        count = min(count, math.ceil(int(allowed) / int(period)))
    except (OSError, ValueError, ZeroDivisionError):
        pass  # there is no such limit, or "max"
    return max(1, count)


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

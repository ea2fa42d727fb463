"""The CPU: threads and dtype by what the processor is, never by what else runs on it."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property

import torch
from torch import Tensor

from autoround.core.ops import Ops, TorchOps
from autoround.device.process import use_threads
from autoround.device.protocol import (
    Availability,
    BlockCall,
    Memory,
    Note,
    Speed,
    WideProduct,
)
from autoround.device.runtime import TorchRuntime
from autoround.errors import DeviceError
from autoround_backends import _native
from autoround_backends._compile import Compiled, private_folder, why_not_compiled
from autoround_backends._cpu_ops import CpuOps
from autoround_backends._processor import Processor, read_processor

#: Where instructions do not tell, bfloat16 must multiply in this fraction of float32's CPU time.
CLEARLY_LESS = 1 / 1.5
#: Rows and columns of the matrices that are then multiplied, and how often.
TRIED_SIZE, TRIED_TURNS = 384, 15

#: Operations of products from which compiling blocks pays, here and with a matrix unit.
COMPILES_FROM = 1.5e13


class CpuRuntime(TorchRuntime):
    """The host processor and its memory.

    processor: what this process may use of it; None to read that from the system.
    """

    def __init__(self, processor: Processor | None = None) -> None:
        super().__init__("cpu", torch.device("cpu"))
        self._processor = read_processor() if processor is None else processor
        self._found: dict[str, Note] = {}

    @cached_property
    def ops(self) -> Ops:
        """The operations in C where a compiler builds them, else in plain torch.

        Both give the same levels bit for bit; without a compiler a run is slower, not other.
        """
        library = _native.load().library
        return TorchOps() if library is None else CpuOps(library)

    @cached_property
    def threads(self) -> int:
        """The cores this process may use, at most as many as torch has threads.

        Threads beyond what a container may use wait for each other, and so do two on one core.
        """
        return min(torch.get_num_threads(), self._processor.cores)

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Use as many threads as there are cores for this process."""
        with private_folder(), use_threads(self.threads):
            yield

    @cached_property
    def _speeds(self) -> tuple[Speed, ...]:
        # The choice does not go by these: a clock of the processor's time is one for estimates.
        with self.computing():
            exact, short = (self._measured(dtype) for dtype in (torch.float32, torch.bfloat16))
        return (short, exact) if self._multiplies_bfloat16() else (exact, short)

    def _clock(self) -> float:
        """Return seconds of this process on each thread: what runs beside it does not count."""
        return time.process_time() / torch.get_num_threads()

    def _multiplies_bfloat16(self) -> bool:
        """Tell whether to compute in bfloat16: where the processor has instructions for it."""
        answer = self._processor.bfloat16
        if answer is not None and torch.backends.mkldnn.is_available():
            return answer
        with use_threads(1):
            exact, short = cpu_seconds(torch.float32, torch.bfloat16)
        return short < CLEARLY_LESS * exact

    def notes(self) -> tuple[Note, ...]:
        """Say how many threads are used, and what the operations are made of."""
        native = _native.load()
        # A build takes seconds: the user is to know where each run has its own.
        about = Note(f"fake-quantize and sign step in C, {native.reason}", not native.kept)
        # A run without the kernels is slower by far: the user is to know.
        if native.library is None:
            about = Note(f"fake-quantize and sign step in plain torch: {native.reason}", True)
        cores = self._processor.cores
        threads = Note(f"{self.threads} threads, on {cores} cores for this process")
        return threads, about, *self._found.values()

    def compiles_from(self) -> float:
        """Return from how many operations compiling is worth its ten seconds."""
        reason = why_not_compiled()
        if not reason:
            return COMPILES_FROM
        self._found["compile"] = Note(
            f"blocks are called as they are, not compiled, which long runs are faster by: {reason}",
            True,
        )
        return float("inf")

    def compile(self, call: BlockCall) -> BlockCall:
        """Return a call that is compiled when it is first made."""
        compiled = Compiled(call)
        if compiled.unkept:
            again = f"compiled blocks are not kept for the next run: {compiled.unkept}"
            self._found["compile"] = Note(again, True)
        return compiled

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

    def wide_product(self) -> WideProduct:
        """Return a product of 16-bit operands that is exact to five digits."""
        return product_with_residual


def product_with_residual(left: Tensor, right: Tensor) -> Tensor:
    """Multiply matrices of 16-bit numbers on a CPU, nearly as if sums were kept in float32.

    A CPU sums products of bfloat16 in float32, and rounds each sum to bfloat16. The same product
    less the rounded one is small, so that rounding it costs nothing: five digits, by two products
    of which a matrix unit takes each in about a third of the time of one in float32. Sums of
    float16 may be beyond it, so that its operands are made float32 first.

    Args:
        left, right: [a, b] and [b, c] of one dtype.

    Returns:
        float32 [a, c].
    """
    if left.dtype != torch.bfloat16:
        return left.float() @ right.float()
    rounded = torch.matmul(left, right)
    return rounded.float().add_(torch.addmm(rounded, left, right, beta=-1))


def cpu_seconds(*dtypes: torch.dtype) -> tuple[float, ...]:
    """Return the CPU time that one matrix product takes in each dtype, the least of some turns.

    Time of this process alone, in which others that run beside it have no share; turns of the
    dtypes alternate, so that a slower clock meets them alike.

    Args:
        dtypes: to multiply in, by the threads that torch has.
    """
    pairs = [torch.ones((2, TRIED_SIZE, TRIED_SIZE), dtype=dtype) for dtype in dtypes]
    least = [float("inf")] * len(dtypes)
    for turn in range(TRIED_TURNS + 1):
        for index, (left, right) in enumerate(pairs):
            started = time.process_time()
            left @ right
            # In the first turn libraries make their plans.
            spent = time.process_time() - started if turn else float("inf")
            least[index] = min(least[index], spent)
    return tuple(least)


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

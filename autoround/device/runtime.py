"""A runtime to start from: right on every device torch knows, and fast where it is replaced."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property

import torch
from torch import Tensor

from autoround.core.ops import Ops, TorchOps
from autoround.device.protocol import (
    BlockCall,
    Download,
    Memory,
    Note,
    Speed,
    Step,
    Upload,
    WideProduct,
    measure_matmul,
    sort_speeds,
)


class Uploaded:
    """Tensors that are on the device already."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self._tensors = tensors

    def result(self) -> dict[str, Tensor]:
        """Return the tensors.

        Returns:
            The tensors by their names, on the device.
        """
        return self._tensors


class Downloaded:
    """A tensor that is on the host already."""

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor

    def ready(self) -> bool:
        """Return True: nothing is waited for.

        Returns:
            True.
        """
        return True

    def result(self) -> Tensor:
        """Return the tensor.

        Returns:
            The tensor on the CPU.
        """
        return self._tensor


class TorchRuntime:
    """What a device of torch does without help; memory figures are the only thing it lacks.

    Args:
        name: of the backend.
        device: as torch calls it.
    """

    #: Types that are timed; float32 must be among them.
    dtypes: tuple[torch.dtype, ...] = (torch.float32, torch.bfloat16)
    #: Rows and columns of the matrices that are timed.
    timed_size = 768

    def __init__(self, name: str, device: torch.device) -> None:
        self.name = name
        self.device = device
        # Meta tensors take none at all, and a CPU's is the host's.
        self.own_memory = device.type not in ("cpu", "meta")

    @cached_property
    def ops(self) -> Ops:
        """The operations of the tuning loop, in plain torch."""
        return TorchOps()

    @cached_property
    def _speeds(self) -> tuple[Speed, ...]:
        return sort_speeds([self._measured(dtype) for dtype in self.dtypes])

    def _measured(self, dtype: torch.dtype) -> Speed:
        return measure_matmul(
            self.device,
            dtype,
            synchronize=self.synchronize,
            size=self.timed_size,
            clock=self._clock,
        )

    def _clock(self) -> float:
        """Return seconds that only ever grow."""
        return time.perf_counter()

    def speeds(self) -> tuple[Speed, ...]:
        """Return speeds, measured once.

        Returns:
            One for each of ``dtypes``; the first is the one to compute in.
        """
        return self._speeds

    def memory(self) -> Memory:
        """Return zeros: nothing is known."""
        return Memory(0, 0)

    def peak_bytes(self) -> int:
        """Return zero: nothing is known."""
        return 0

    def peak_reserved_bytes(self) -> int:
        """Return the peak of memory in use: nothing is held for later."""
        return self.peak_bytes()

    def out_of_memory(self, error: BaseException) -> bool:
        """Tell whether torch says that this device's own memory is full.

        Args:
            error: that an operation ended with.

        Returns:
            Always False where memory is the host's, whose system does not refuse any.
        """
        return self.own_memory and isinstance(error, torch.OutOfMemoryError)

    def synchronize(self) -> None:
        """Do nothing: work is done when a call returns."""

    def release(self) -> None:
        """Do nothing: nothing is cached."""

    def notes(self) -> tuple[Note, ...]:
        """Return that there is nothing to say."""
        return ()

    def computing(self) -> AbstractContextManager[object]:
        """Change nothing.

        Returns:
            A context manager that does nothing.
        """
        return nullcontext()

    def upload(self, tensors: Mapping[str, Tensor]) -> Upload:
        """Copy tensors to the device, and wait for it.

        Args:
            tensors: by name, on any device.

        Returns:
            What has the copies already.
        """
        return Uploaded({name: tensor.to(self.device) for name, tensor in tensors.items()})

    def download(self, tensor: Tensor) -> Download:
        """Copy a tensor to the host, and wait for it.

        Args:
            tensor: on any device.

        Returns:
            What has the copy already.
        """
        return Downloaded(tensor.detach().to("cpu", copy=True))

    def wide_product(self) -> WideProduct | None:
        """Return None: matrices of 16-bit numbers are made float32 first."""
        return None

    def capture(self, step: Step, examples: Sequence[Tensor]) -> Step:
        """Return the step itself.

        Args:
            step: to record, which is always a right result.
            examples: not read.
        """
        del examples
        return step

    def compiles_from(self) -> float:
        """Tell that nothing is compiled.

        Returns:
            inf: no run is long enough.
        """
        return float("inf")

    def compile(self, call: BlockCall) -> BlockCall:
        """Return the call itself.

        Args:
            call: of a block, which is always a right result.
        """
        return call

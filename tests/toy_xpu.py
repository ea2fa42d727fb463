"""torch.xpu where there is no Intel GPU: its calls, over the toy device, without recordings.

The backend is the package's own. What it asks of torch's module is answered here, and noted; its
tensors are the toy device's, which does not mix them with the host's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from autoround_backends import xpu
from autoround_backends._accelerator import AcceleratorRuntime

from .toy_device import NAME

#: Names of torch.xpu that record work: an older torch has none of them.
RECORDING = ("XPUGraph", "graph", "graph_pool_handle")


class Stream:
    """A queue in which everything is done at once."""

    def wait_stream(self, other: Stream) -> None:
        """Wait for nothing."""


class Event:
    """A mark in a queue."""

    def record(self, stream: Stream) -> None:
        """Put it there."""

    def query(self) -> bool:
        """Tell that the device has got that far."""
        return True

    def synchronize(self) -> None:
        """Wait for nothing."""


class ToyXpu(ModuleType):
    """Stands for torch.xpu. calls: how often each was asked for. current: the device of work."""

    def __init__(self, real: ModuleType) -> None:
        super().__init__("torch.xpu")
        self.real, self.calls, self.current = real, Counter[str](), [torch.device("xpu", 0)]

    def __getattr__(self, name: str) -> Any:
        if name in RECORDING:
            raise AttributeError(name)
        return getattr(self.real, name)

    def _is_compiled(self) -> bool:
        return True

    def is_available(self) -> bool:
        return True

    def device_count(self) -> int:
        return 1

    def get_device_name(self, index: int) -> str:
        return f"a toy, number {index}"

    def mem_get_info(self, device: torch.device) -> tuple[int, int]:
        return 1 << 40, 1 << 40

    def max_memory_allocated(self, device: torch.device) -> int:
        return 1 << 20

    def max_memory_reserved(self, device: torch.device) -> int:
        return 2 << 20

    def synchronize(self, device: torch.device) -> None:
        self.calls["synchronize"] += 1

    def empty_cache(self) -> None:
        self.calls["empty_cache"] += 1

    def Stream(self, device: torch.device) -> Stream:  # noqa: N802 (torch's own name)
        return Stream()

    def Event(self) -> Event:  # noqa: N802 (torch's own name)
        return Event()

    def current_stream(self, device: torch.device) -> Stream:
        return Stream()

    @contextmanager
    def stream(self, stream: Stream) -> Iterator[None]:
        self.calls["stream"] += 1
        yield

    @contextmanager
    def device(self, device: torch.device) -> Iterator[None]:
        self.calls["device"] += 1
        self.current.append(device)
        try:
            yield
        finally:
            self.current.pop()


def open_toy_xpu() -> tuple[AcceleratorRuntime, ToyXpu]:
    """Open the package's backend for Intel GPUs on the toy device, which has to be registered.

    What it changes in torch stays for the process.
    """
    module = ToyXpu(torch.xpu)
    # Not torch's own name for it: torch, told that it is built for such GPUs, looks for more.
    backend: Any = xpu
    backend.torch = SimpleNamespace(xpu=module, __version__=torch.__version__)
    # The toy's tensors know neither: memory is the host's, and in use as long as it is referred to.
    Tensor.pin_memory = lambda self: self  # type: ignore[assignment, method-assign]
    Tensor.record_stream = lambda self, stream: None  # type: ignore[assignment, method-assign]
    runtime = xpu.BACKEND.open(None)
    runtime.device, runtime.timed_size = torch.device(NAME, 0), 32
    return runtime, module

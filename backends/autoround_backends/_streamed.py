"""Copies to a device beside what it computes, and steps recorded once and played again.

torch offers streams, events and graphs of CUDA and of XPU through modules of the same shape.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from autoround.device.protocol import Step

#: Runs before a recording, so that libraries have made their plans and caches.
WARM_UP = 3
#: Relative size of a difference between a step and its recording: sums in another order.
CLOSE = 1e-2


class StreamModule(Protocol):
    """The part of ``torch.cuda`` and ``torch.xpu`` that is used here."""

    def Stream(self, device: torch.device) -> Any:  # noqa: N802 (torch's own name)
        """Return a queue of work."""

    def stream(self, stream: Any) -> AbstractContextManager[object]:
        """Queue work there."""

    def current_stream(self, device: torch.device) -> Any:
        """Return the queue that work goes to."""

    def device(self, device: torch.device) -> AbstractContextManager[object]:
        """Make a device the current one."""

    def Event(self) -> Any:  # noqa: N802 (torch's own name)
        """Return a mark to be put into a queue."""

    def empty_cache(self) -> None:
        """Release cached blocks."""

    @property
    def graph(self) -> Any:
        """Records work in place of doing it: graph(graph, stream=…) is a context manager."""


class SideUpload:
    """Tensors that a stream of its own copies from memory that stays where it is.

    Args:
        tensors: by name.
        device: to copy to. module: of torch, for that kind of device.
        side: the stream.
        pin: whether to pin the host's memory first, without which a copy waits.
    """

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        *,
        device: torch.device,
        module: StreamModule,
        side: Any,
        pin: bool = True,
    ) -> None:
        self._device, self._module, self._side = device, module, side
        #: Why memory could not be pinned; empty where it could.
        self.refusal = ""
        # Held until the copy is done: memory that is given back may be used by another one.
        self._sources = {
            name: self._pin(t) if pin and t.device.type == "cpu" else t
            for name, t in tensors.items()
        }
        # What the device itself is still computing has to be waited for; the host's memory is as
        # it is, and a copy from there goes on beside the step that is being computed.
        if any(tensor.device.type == device.type for tensor in tensors.values()):
            side.wait_stream(module.current_stream(device))
        with module.stream(side):
            self._held = {
                name: tensor.to(device, non_blocking=True) for name, tensor in self._sources.items()
            }

    def _pin(self, tensor: Tensor) -> Tensor:
        """Pin a tensor's memory, or leave it where no more may be pinned: its copy then waits."""
        if self.refusal:
            return tensor
        try:
            return tensor.pin_memory()
        except RuntimeError as error:
            self.refusal = (str(error) or type(error).__name__).splitlines()[0][:200]
            return tensor

    def result(self) -> dict[str, Tensor]:
        """Return the tensors; work queued from now on waits for them, the host does not."""
        current = self._module.current_stream(self._device)
        current.wait_stream(self._side)
        for tensor in self._held.values():
            # Their memory came from the side stream, and is now in use by this one.
            tensor.record_stream(current)
        return self._held


class QueuedDownload:
    """A tensor that is copied to pinned memory behind the work that is queued.

    Args:
        tensor: on the device. device: that it is on. module: of torch, for that kind of device.

    Raises:
        RuntimeError: memory cannot be pinned.
    """

    def __init__(self, tensor: Tensor, *, device: torch.device, module: StreamModule) -> None:
        # A plain copy would be waited for by the host, and with it all work before it.
        self._copy = torch.empty(tensor.shape, dtype=tensor.dtype).pin_memory()
        with module.device(device):
            self._copy.copy_(tensor.detach(), non_blocking=True)
            self._done = module.Event()
            self._done.record(module.current_stream(device))

    def ready(self) -> bool:
        """Tell whether the device has got that far."""
        return bool(self._done.query())

    def result(self) -> Tensor:
        """Return the copy, waiting for the device where it has not got that far."""
        self._done.synchronize()
        return self._copy


class Recording(NamedTuple):
    """How a step is recorded.

    options: further ones of the module's ``graph``. side: the stream to record on; None for a new
    one. around: entered while the step is recorded; what it does at its end precedes every play.
    """

    options: Mapping[str, Any] = MappingProxyType({})
    side: Any = None
    around: Callable[[], AbstractContextManager[object]] = nullcontext


class Recorded:
    """A step played from a recording, for tensors of the shapes it was made with.

    Args:
        step: to record. examples: tensors that it is recorded with.
        device: that it runs on. module: of torch, for that kind of device.
        graph: empty, to record into. how: it is recorded.

    Raises:
        RuntimeError: the step cannot be recorded, or gives other numbers when played.
    """

    def __init__(
        self,
        step: Step,
        examples: Sequence[Tensor],
        *,
        device: torch.device,
        module: StreamModule,
        graph: Any,
        how: Recording | None = None,
    ) -> None:
        self._step, self._graph, self._module, self._device = step, graph, module, device
        self._inputs = [example.detach().clone() for example in examples]
        #: What the recording reads besides its inputs, kept as long as it is.
        self.kept: list[Tensor] = []
        # torch's own stream for recordings is one of the current device: on another one the step
        # would be done and not recorded, and every replay would return its first numbers.
        with module.device(device):
            how = how or Recording()
            side = module.Stream(device=device) if how.side is None else how.side
            wanted = self._warm_up(side)
            with how.around(), module.graph(graph, stream=side, **how.options):
                self._outputs = list(step(self._inputs))
            graph.replay()
            if not _close(self._outputs, wanted):
                raise RuntimeError("a recorded step gives other numbers than the step itself")

    def _warm_up(self, side: Any) -> list[Tensor]:
        """Do the step a few times; returns copies of its last results."""
        module, device = self._module, self._device
        side.wait_stream(module.current_stream(device))
        with module.stream(side):
            shapes = [(tuple(x.shape), x.dtype) for x in self._step(self._inputs)]
            # Copies that lay inside of memory which the step used would keep all of that from
            # being given back before the recording, which needs as much again.
            module.empty_cache()
            wanted = [torch.empty(shape, dtype=kind, device=device) for shape, kind in shapes]
            for _ in range(WARM_UP - 1):
                results = self._step(self._inputs)
            for copy, result in zip(wanted, results, strict=True):
                copy.copy_(result.detach())
            del results
        module.current_stream(device).wait_stream(side)
        return wanted

    def __call__(self, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        """Do the step; tensors of other shapes go through the step itself."""
        if [_looks(tensor) for tensor in inputs] != [_looks(tensor) for tensor in self._inputs]:
            return self._step(inputs)
        for recorded, new in zip(self._inputs, inputs, strict=True):
            recorded.copy_(new, non_blocking=True)
        with self._module.device(self._device):
            self._graph.replay()
        return self._outputs


def _looks(tensor: Tensor) -> tuple[object, ...]:
    return tuple(tensor.shape), tensor.dtype, tensor.device


def _close(outputs: Sequence[Tensor], wanted: Sequence[Tensor]) -> bool:
    """Tell whether all tensors are alike; the host waits for one number."""
    verdicts = []
    for output, exact in zip(outputs, wanted, strict=True):
        # In place: gradients of a layer's experts are gigabytes.
        apart = (output.float() - exact.float()).abs_().sum(dtype=torch.float64)
        size = exact.float().abs().sum(dtype=torch.float64)
        verdicts.append(apart <= CLOSE * size + 1e-30)
    return bool(torch.stack(verdicts).all())

"""Copies to a device beside what it computes, and steps recorded once and played again.

torch offers streams, events and graphs of CUDA and of XPU through modules of the same shape.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

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

    def graph(self, graph: Any) -> AbstractContextManager[object]:
        """Record work in place of doing it."""


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
        # Held until the copy is done: memory that is given back may be used by another one.
        self._pinned = {
            name: t.pin_memory() if pin and t.device.type == "cpu" else t
            for name, t in tensors.items()
        }
        side.wait_stream(module.current_stream(device))
        with module.stream(side):
            self._held = {
                name: tensor.to(device, non_blocking=True) for name, tensor in self._pinned.items()
            }

    def result(self) -> dict[str, Tensor]:
        """Return the tensors; work queued from now on waits for them, the host does not."""
        current = self._module.current_stream(self._device)
        current.wait_stream(self._side)
        for tensor in self._held.values():
            # Their memory came from the side stream, and is now in use by this one.
            tensor.record_stream(current)
        return self._held


class Recorded:
    """A step played from a recording, for tensors of the shapes it was made with.

    Args:
        step: to record. examples: tensors that it is recorded with.
        device: that it runs on. module: of torch, for that kind of device.
        graph: empty, to record into.

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
    ) -> None:
        self._step, self._graph = step, graph
        self._inputs = [example.detach().clone() for example in examples]
        side = module.Stream(device=device)
        side.wait_stream(module.current_stream(device))
        with module.stream(side):
            for _ in range(WARM_UP):
                wanted = [tensor.detach().clone() for tensor in step(self._inputs)]
        module.current_stream(device).wait_stream(side)
        with module.graph(graph):
            self._outputs = list(step(self._inputs))
        graph.replay()
        for output, exact in zip(self._outputs, wanted, strict=True):
            if not _close(output, exact):
                raise RuntimeError("a recorded step gives other numbers than the step itself")

    def __call__(self, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        """Do the step; tensors of other shapes go through the step itself."""
        if [_looks(tensor) for tensor in inputs] != [_looks(tensor) for tensor in self._inputs]:
            return self._step(inputs)
        for recorded, new in zip(self._inputs, inputs, strict=True):
            recorded.copy_(new, non_blocking=True)
        self._graph.replay()
        return self._outputs


def _looks(tensor: Tensor) -> tuple[object, ...]:
    return tuple(tensor.shape), tensor.dtype, tensor.device


def _close(output: Tensor, exact: Tensor) -> bool:
    apart = (output.double() - exact.double()).abs().sum()
    return bool(apart <= CLOSE * exact.double().abs().sum() + 1e-30)

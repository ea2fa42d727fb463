"""A backend in one file: the processor, with a sign step of its own."""

from __future__ import annotations

import os
import resource
from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from autoround.core.ops import Ops, TorchOps
from autoround.core.signsgd import SignState, linear_lr
from autoround.device.protocol import Availability, Memory, Note
from autoround.device.runtime import TorchRuntime
from autoround.errors import DeviceError


class MyOps(TorchOps):
    """Replace what the device does better; the rest is plain torch."""

    @torch.no_grad()
    def sign_step(
        self, params: Sequence[Tensor], grads: Sequence[Tensor], *, state: SignState
    ) -> SignState:
        lr = linear_lr(state.lr, state.step, steps=state.steps)
        for param, grad in zip(params, grads, strict=True):
            param.add_(torch.sign(grad), alpha=-lr)
        return state._replace(step=state.step + 1)


class MyRuntime(TorchRuntime):
    """One opened device. What it says of its memory decides what goes where."""

    dtypes = (torch.float32,)  # the types it is timed in

    @cached_property
    def ops(self) -> Ops:
        return MyOps()

    def memory(self) -> Memory:
        page = os.sysconf("SC_PAGE_SIZE")
        return Memory(page * os.sysconf("SC_PHYS_PAGES"), page * os.sysconf("SC_AVPHYS_PAGES"))

    def peak_bytes(self) -> int:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    def notes(self) -> tuple[Note, ...]:
        return (Note("an example: plain torch, and a sign step of its own"),)


class MyBackend:
    """A kind of device: whether it is here, and how one of them is opened."""

    name = "mine"
    rank = -1  # only where it is named; cpu has 0, and the highest is what auto takes

    def probe(self) -> Availability:
        return Availability(True, "wherever there is a processor", ("mine",))

    def open(self, index: int | None) -> MyRuntime:
        if index:
            raise DeviceError(f"mine:{index} does not exist; there is one: mine")
        return MyRuntime(self.name, torch.device("cpu"))


BACKEND = MyBackend()

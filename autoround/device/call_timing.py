"""The seconds of a call on a device: of its own work, not of asking for it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from autoround.device.registry import open_device
from autoround.errors import DeviceError

#: Turns of a timing, of which the quickest counts.
TURNS = 8
#: Calls of a turn on a device that works beside the host: one takes less time than to ask for it.
CALLS = 20


def seconds_of_call(call: Callable[[Tensor], Tensor], x: Tensor) -> float:
    """Time a call: on an accelerator as part of a recording of several.

    Args:
        call: to time, the same at every call.
        x: what it is given, on the device that it works on.
    """
    device = x.device
    if device.type == "cpu":
        return _best_seconds(lambda: call(x), device)
    return _best_seconds(_recorded_calls(call, x), device) / CALLS


def _recorded_calls(call: Callable[[Tensor], Tensor], x: Tensor) -> Callable[[], object]:
    """Return some calls as one recording.

    Where they cannot be recorded, or nobody knows how, they are made one by one.
    """

    def calls(inputs: Sequence[Tensor]) -> list[Tensor]:
        return [call(inputs[0]) for _ in range(CALLS)][-1:]

    try:
        recorded = open_device(str(x.device)).capture(calls, [x])
    except DeviceError:  # a device of torch without a backend of ours
        recorded = calls
    return lambda: recorded([x])


def _best_seconds(turn: Callable[[], object], device: torch.device) -> float:
    """Return the seconds of the quickest of some turns."""
    synchronize: Callable[[], object] = lambda: None  # noqa: E731
    if device.type != "cpu":
        module = torch.get_device_module(device)
        synchronize = lambda: module.synchronize(device)  # noqa: E731
    best = float("inf")
    with torch.no_grad():
        # Not timed: the first call may compile, or choose among algorithms.
        turn()
        for _ in range(TURNS):
            # Calls only queue work on most devices: the clock is read when there is none left.
            synchronize()
            started = time.perf_counter()
            turn()
            synchronize()
            best = min(best, time.perf_counter() - started)
    return best

"""A clock for the parts of a run: the seconds of each alone, the device's queue waited for."""

from __future__ import annotations

import threading
import time
from collections import defaultdict

import torch
from device_clock import synchronize
from parts import OTHER, Part


class PartClock:
    """Adds up the seconds of parts in the main thread; those inside of another are not its own.

    At each border the device is waited for, so overlaps are lost: the sum is more than a run takes.
    What other threads do is not counted; they work beside.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._inside: list[Part] = []
        self._seconds: dict[str, float] = defaultdict(float)
        self._since = time.perf_counter()

    def enter(self, part: Part) -> None:
        """Begin a part."""
        if threading.current_thread() is threading.main_thread():
            self._turn()
            self._inside.append(part)

    def leave(self, part: Part) -> None:
        """End it."""
        if threading.current_thread() is threading.main_thread():
            self._turn()
            self._inside.pop()

    def _turn(self) -> None:
        synchronize(self._device)
        now = time.perf_counter()
        name = self._inside[-1].name if self._inside else OTHER
        self._seconds[name] += now - self._since
        self._since = now

    def seconds_by_part(self) -> dict[str, float]:
        """Return the seconds so far, and begin anew."""
        self._turn()
        seconds = {name: round(spent, 4) for name, spent in self._seconds.items()}
        self._seconds.clear()
        return seconds

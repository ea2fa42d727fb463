"""Clocks of a device, and rows that are in their file as soon as they are measured."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from machine import code_mark

ROOT = Path(__file__).resolve().parents[2]
#: Bytes that are written to learn how fast a disk is.
DISK_BYTES = 1 << 30


@dataclass(frozen=True)
class Seconds:
    """Medians over some turns: between two events on the device, and of the host's clock.

    Where the second is far above the first, the host is what takes the time: it launches too much.
    """

    device_s: float
    wall_s: float
    turns: int


def synchronize(device: torch.device) -> None:
    """Wait for queued work."""
    if device.type not in ("cpu", "meta"):
        torch.get_device_module(device).synchronize(device)


@contextmanager
def current(device: torch.device) -> Iterator[None]:
    """Make a device the current one, where there are several of a kind."""
    if device.type in ("cpu", "meta"):
        yield
        return
    with torch.get_device_module(device).device(device):
        yield


def measure(
    call: Callable[[], object], device: torch.device, *, turns: int = 5, warm: int = 1
) -> Seconds:
    """Time a call.

    Args:
        call: to time; what it leaves queued is waited for.
        device: that it works on.
        turns: how often; the medians count.
        warm: calls before, which compile and make plans.
    """
    for _ in range(warm):
        call()
    synchronize(device)
    events = device.type not in ("cpu", "meta")
    module: Any = torch.get_device_module(device) if events else None
    walls, spans = [], []
    for _ in range(turns):
        begin = end = None
        started = time.perf_counter()
        if events:
            begin, end = (module.Event(enable_timing=True) for _ in range(2))
            begin.record()
        call()
        if end is not None:
            end.record()
        synchronize(device)
        walls.append(time.perf_counter() - started)
        spans.append(walls[-1] if begin is None else begin.elapsed_time(end) / 1e3)
    return Seconds(median(spans), median(walls), turns)


class Rows:
    """A file of JSON lines that only grows.

    Args:
        place: the file; None prints alone.
        shared: what every row says.
    """

    def __init__(self, place: Path | None, shared: Mapping[str, Any]) -> None:
        self._place, self._shared = place, dict(shared)
        self.failed = 0

    def add(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Print a row, and put it on the disk."""
        whole = {**row, **self._shared, "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
        line = json.dumps(whole)
        print(line, flush=True)
        if self._place is not None:
            with self._place.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
                file.flush()
                os.fsync(file.fileno())
        return whole

    def attempt(self, name: Mapping[str, Any], work: Callable[[], Mapping[str, Any]]) -> None:
        """Add the row of a piece of work; one that fails has a row with its error, and is counted.

        Args:
            name: what tells the row from others.
            work: returns its figures.
        """
        try:
            figures = work()
        except Exception as error:  # a compiler, a driver or a missing package: the rest goes on
            self.failed += 1
            text = (str(error) or type(error).__name__).splitlines()[0][:300]
            self.add({**name, "error": f"{type(error).__name__}: {text}"})
            return
        self.add({**name, **figures})

    def done(self, name: Mapping[str, Any]) -> bool:
        """Tell whether the file has a row of that name, for this device and code, without error."""
        if self._place is None or not self._place.is_file():
            return False
        wanted = {**name, **self._shared}
        rows = (json.loads(line) for line in self._place.read_text("utf-8").splitlines())
        return any("error" not in row and wanted.items() <= row.items() for row in rows)


def facts(device: torch.device) -> dict[str, Any]:
    """Return what rows say of the machine and the code."""
    name = platform.processor() or platform.machine()
    memory = 0
    if device.type not in ("cpu", "meta"):
        module = torch.get_device_module(device)
        name = module.get_device_name(device)
        memory = module.mem_get_info(device)[1]
    return {
        "device": str(device),
        "device_name": name,
        "device_gb": round(memory / 1e9, 1),
        "cores": len(os.sched_getaffinity(0)),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "code": code_mark(ROOT),
    }


def peaks(device: torch.device) -> dict[str, float]:
    """Return the peaks of memory on a device in GB: in use, and taken from it."""
    if device.type in ("cpu", "meta"):
        return {}
    module = torch.get_device_module(device)
    return {
        "peak_gb": round(module.max_memory_allocated(device) / 1e9, 3),
        "peak_reserved_gb": round(module.max_memory_reserved(device) / 1e9, 3),
    }


def disk_speed(folder: Path, size: int = DISK_BYTES) -> dict[str, float]:
    """Return how fast a folder's disk takes bytes for good, and gives them back, in GB a second."""
    place = folder / "disk-speed"
    piece = os.urandom(1 << 20)
    try:
        started = time.perf_counter()
        with place.open("wb") as file:
            for _ in range(max(1, size >> 20)):
                file.write(piece)
            file.flush()
            written = time.perf_counter()
            os.fsync(file.fileno())
        synced = time.perf_counter()
        with place.open("rb") as file:
            while file.read(1 << 24):
                pass
        read = time.perf_counter()
    finally:
        place.unlink(missing_ok=True)
    whole = max(1, size >> 20) << 20
    return {
        "write_gb_s": round(whole / (written - started) / 1e9, 3),
        "write_and_sync_gb_s": round(whole / (synced - started) / 1e9, 3),
        "read_gb_s": round(whole / (read - synced) / 1e9, 3),
    }


def as_figures(seconds: Seconds, others: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return times, and other figures behind them, as figures of a row."""
    return {**asdict(seconds), **(others or {})}

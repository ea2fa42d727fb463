"""Count what a run asks of a device, by its parts: launches, waits, bytes to host and disk.

Operations are counted as torch dispatches them, so that loops over torch calls count singly. Views
and empty tensors launch nothing; every other operation on the device counts as one, which is a
lower bound (a factorisation is many). What our kernels do in one launch counts by KERNELS.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from parts import OTHER, Part
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

#: Operations for which the host waits, whatever the tensors.
WAITS: tuple[str, ...] = (
    *("aten._local_scalar_dense", "aten.nonzero", "aten.masked_select", "aten.is_nonzero"),
    *("aten._linalg_check_errors", "aten.equal", "aten._unique2", "aten.bincount"),
)
#: Operations that make a tensor and launch nothing.
EMPTY: tuple[str, ...] = (
    *("aten.empty", "aten.new_empty", "aten.detach", "aten.lift_fresh", "aten.alias"),
    *("aten._unsafe_view", "aten._reshape_alias", "aten.set_", "aten.record_stream"),
)
#: Bytes that a thread handed to write().
IO = Path("/proc/thread-self/io")


class Launches(NamedTuple):
    """Launches of one of our operations: for each kind of tensors, and for each tensor."""

    kind: int
    tensor: int = 0


#: Our operations that are a kernel where Triton is. The backward is told where the gradients
#: lie by a number filled in for each and stacked.
KERNELS = {
    "fake_quantize": Launches(1),
    "backward": Launches(2, 1),
    "quantize": Launches(1),
    "sign_step": Launches(1),
    "gptq_block": Launches(1),
    # The scales of a layer, those of all its experts: candidates, and for super-blocks the
    # neighbours of their integers.
    "search": Launches(1),
    "fit_minima": Launches(1),
    "correct": Launches(1),
}


@dataclass
class Counts:
    """Counts of one phase. in_graphs: operations that a recording does, beside its one launch."""

    launches: int = 0
    in_graphs: int = 0
    syncs: int = 0
    to_host_bytes: int = 0
    disk_bytes: int = 0

    def add(self, other: Counts, times: int = 1) -> None:
        """Add another one's counts."""
        for field in fields(self):
            both = getattr(self, field.name) + times * getattr(other, field.name)
            setattr(self, field.name, both)


class Mode(TorchDispatchMode):
    """Sees the operations of one thread and of the backward passes that it starts."""

    def __init__(self, counter: Counter) -> None:
        super().__init__()  # type: ignore[no-untyped-call, unused-ignore]
        self.counter = counter
        self.parts: list[Part] = []
        self.counts: dict[str, Counts] = defaultdict(Counts)
        self.silent = 0
        self.recording: list[Any] | None = None
        self.recorded = 0
        self._written = bytes_written()

    @property
    def here(self) -> Counts:
        """Counts of the phase that is being done."""
        return self.counts[self.parts[-1].phase if self.parts else OTHER]

    def turn(self) -> None:
        """Give what was written since the last turn to the phase that ends, or is left for now."""
        now = bytes_written()
        self.here.disk_bytes += now - self._written
        self._written = now

    def launch(self, count: int = 1) -> None:
        """Count launches, or what a recording holds while it is made."""
        if self.recording is not None:
            self.recorded += count
        else:
            self.here.launches += count

    def wait(self, name: str) -> None:
        """Count a wait of the host; a recording cannot hold one."""
        if self.recording is not None:
            raise RuntimeError(f"{name}: not permitted while a step is recorded")
        self.here.syncs += 1

    @contextmanager
    def kernels(self, operation: str, *, kinds: int, tensors: int) -> Iterator[None]:
        """Count one of our operations by KERNELS, and nothing of what torch is asked for it."""
        launches = KERNELS[operation]
        self.launch(kinds * launches.kind + tensors * launches.tensor)
        with self.silence():
            yield

    @contextmanager
    def silence(self) -> Iterator[None]:
        """Count nothing while the context lasts."""
        self.silent += 1
        try:
            yield
        finally:
            self.silent -= 1

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not self.silent:
            self._count(op, args, kwargs)
        result = op(*args, **kwargs)
        if self.recording is not None:
            self.recording.append((op, args, kwargs, result))
        return result

    def _count(self, op: Any, args: Any, kwargs: Any) -> None:
        kind = self.counter.kind
        tensors = list(tensors_of((args, kwargs)))
        target = kwargs.get("device")
        goes_to = None if target is None else torch.device(target).type
        if goes_to != kind and all(t.device.type != kind for t in tensors):
            return
        name = _name_of(op)
        if name.startswith(("aten._to_copy", "aten.copy_")):
            self._count_copy(name, tensors, goes_to or tensors[0].device.type)
        elif name.startswith(WAITS):
            self.wait(name)
            self.launch()
        elif not op.is_view and not name.startswith(EMPTY):
            if name.startswith("aten.index"):
                self._count_indices(name, tensors)
            self.launch()

    def _count_copy(self, name: str, tensors: list[Tensor], goes_to: str) -> None:
        source = tensors[-1]
        if source.device.type == self.counter.kind and goes_to != self.counter.kind:
            self.here.to_host_bytes += source.numel() * source.element_size()
            if not self.counter.beside:
                self.wait(f"{name} to the host")
        elif source.device.type != goes_to and source.dim() and not self.counter.beside:
            # From memory that is not pinned: the host waits until it has been read.
            self.wait(f"{name} from the host")
        self.launch()

    def _count_indices(self, name: str, tensors: list[Tensor]) -> None:
        for index in tensors[1:]:
            if index.dtype == torch.bool:
                self.wait(f"{name} by a mask")
            elif not index.is_floating_point() and index.device.type != self.counter.kind:
                self.wait(f"{name} by indices of the host")


class Counter:
    """Counts by phase, over all threads of a run. kind: type of the device, as torch calls it."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.beside = False
        self._modes: list[Mode] = []
        self._local = threading.local()

    @property
    def mode(self) -> Mode:
        """What counts in this thread."""
        mode: Mode = self._local.modes[-1]
        return mode

    def enter(self, part: Part) -> None:
        """Begin a part; in a thread that is new, begin to count."""
        modes = self._local.__dict__.setdefault("modes", [])
        if not modes:
            self._begin(modes)
        self.mode.turn()
        self.mode.parts.append(part)

    def leave(self, part: Part) -> None:
        """End a part."""
        self.mode.turn()
        self.mode.parts.pop()
        if not self.mode.parts and threading.current_thread() is not threading.main_thread():
            self._end()

    def _begin(self, modes: list[Mode]) -> None:
        mode: Any = Mode(self)
        mode.__enter__()
        modes.append(mode)
        self._modes.append(mode)

    def _end(self) -> None:
        mode: Any = self._local.modes.pop()
        mode.__exit__(None, None, None)

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count in this thread while the context lasts."""
        modes = self._local.__dict__.setdefault("modes", [])
        self._begin(modes)
        try:
            yield
        finally:
            self.mode.turn()
            self._end()

    def by_phase(self) -> dict[str, Counts]:
        """Return the counts of all threads."""
        total: dict[str, Counts] = defaultdict(Counts)
        for mode in self._modes:
            for phase, counts in mode.counts.items():
                total[phase].add(counts)
        return total


@cache
def _name_of(op: Any) -> str:
    return str(op)


def tensors_of(value: Any) -> Iterator[Tensor]:
    """Yield the tensors in arguments or results."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for each in value:
            yield from tensors_of(each)
    elif isinstance(value, dict):
        yield from tensors_of(list(value.values()))


def bytes_written() -> int:
    """Return how many bytes this thread has handed to the system to write."""
    lines = IO.read_text("utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("wchar"))


def as_json(counts: dict[str, Counts]) -> dict[str, dict[str, int]]:
    """Return counts as plain values."""
    return {phase: asdict(each) for phase, each in sorted(counts.items())}

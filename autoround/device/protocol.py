"""What a backend offers: the only way the rest of the program knows a device.

A backend is an object registered under the entry-point group ``autoround.backends``.
It says whether it can run here, and opens a ``Runtime`` on one of its devices.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from autoround.core.ops import Ops

#: Tensors in, tensors out: what ``Runtime.capture`` takes and gives.
Step = Callable[[Sequence["Tensor"]], Sequence["Tensor"]]

#: Runs a module with other tensors, by name, and arguments: what ``Runtime.compile`` takes
#: and gives.
BlockCall = Callable[["nn.Module", dict[str, "Tensor"], tuple[Any, ...], dict[str, Any]], Any]

#: Multiplies [a, b] and [b, c] of one 16-bit dtype, sums in float32 and returns float32:
#: what ``Runtime.wide_product`` gives.
WideProduct = Callable[["Tensor", "Tensor"], "Tensor"]

#: A 16-bit dtype must beat float32 by this factor before its lost digits are worth it.
WORTHWHILE_SPEEDUP = 1.2


@dataclass(frozen=True, slots=True)
class Availability:
    """Whether a backend can run here; ``reason`` says why not, or names what was found."""

    available: bool
    reason: str
    devices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Memory:
    """Memory of a device in bytes."""

    total: int
    free: int


@dataclass(frozen=True, slots=True)
class Speed:
    """Measured matrix-product speed of a dtype, in floating-point operations a second."""

    dtype: torch.dtype
    flops: float


class Note(NamedTuple):
    """Something found out about a device; ``slower`` where runs take longer for it."""

    text: str
    slower: bool = False


class Upload(Protocol):
    """Tensors on their way to a device."""

    def result(self) -> dict[str, Tensor]:
        """Return them on the device; work queued from now on finds them there.

        Returns:
            The tensors by their names, in their shapes and dtypes.
        """


class Download(Protocol):
    """A tensor on its way to the host."""

    def ready(self) -> bool:
        """Tell whether it is there, without waiting.

        Returns:
            True if ``result`` does not wait.
        """

    def result(self) -> Tensor:
        """Return it, waiting where it is not there yet.

        Returns:
            The tensor on the CPU, as it was when its copy was queued.
        """


class Runtime(Protocol):
    """One opened device; ``autoround.device.runtime.TorchRuntime`` is one to start from."""

    name: str
    device: torch.device
    #: Whether the device has memory of its own, apart from the host's.
    own_memory: bool

    @property
    def ops(self) -> Ops:
        """The operations of the tuning loop."""

    def speeds(self) -> tuple[Speed, ...]:
        """Measure how fast matrix products are in each usable dtype.

        Returns:
            One for each dtype; the first is the one to compute in.
        """

    def memory(self) -> Memory:
        """Return total and free memory.

        Returns:
            Bytes of the device, or of the host where the device has none of its own; zeros where
            nothing is known.
        """

    def peak_bytes(self) -> int:
        """Return the most memory in use so far.

        Returns:
            Bytes of the process on a CPU, else of the device; 0 where nothing is known.
        """

    def peak_reserved_bytes(self) -> int:
        """Return the most memory that was kept from other processes so far.

        Returns:
            Bytes in use and those that an allocator holds for later; as ``peak_bytes`` where
            the two are the same.
        """

    def out_of_memory(self, error: BaseException) -> bool:
        """Tell whether an error says that the device's own memory is full.

        Args:
            error: that an operation ended with.

        Returns:
            True where a smaller batch may succeed; never on the host.
        """

    def synchronize(self) -> None:
        """Wait for queued work, before a clock is read."""

    def release(self) -> None:
        """Give cached memory back to the system."""

    def notes(self) -> tuple[Note, ...]:
        """Say what is known of the device and its operations, fallbacks included.

        Returns:
            Sentences for people, in the order to print them.
        """

    def computing(self) -> AbstractContextManager[object]:
        """Set the process up for a run, and put it back as it was afterwards.

        Returns:
            A context manager; what it yields means nothing.
        """

    def upload(self, tensors: Mapping[str, Tensor]) -> Upload:
        """Start to copy tensors to the device beside what it is doing.

        Args:
            tensors: by name, of any dtype, mostly in the host's memory.

        Returns:
            At once, perhaps before the copies are made; its ``result`` has them.
        """

    def download(self, tensor: Tensor) -> Download:
        """Start to copy a tensor to the host, behind the work that is queued.

        Args:
            tensor: on the device; work queued from now on may change it.

        Returns:
            At once; its ``result`` has the tensor as it is at this point of the queue.
        """

    def wide_product(self) -> WideProduct | None:
        """Return how matrices of 16-bit numbers are multiplied without losing digits of the sums.

        Returns:
            None where they have to be made float32 first, or are better so.
        """

    def capture(self, step: Step, examples: Sequence[Tensor]) -> Step:
        """Return a step that does the same for tensors like the examples, in less time.

        What it returns holds until it is called again. The step itself is always a right result.

        Args:
            step: to record; besides its arguments it reads tensors that stay in place.
            examples: tensors of the shapes and dtypes that it will be called with.
        """

    def compiles_from(self) -> float:
        """Tell from which size of a run ``compile`` is worth its time.

        Returns:
            Floating-point operations of the matrix products that a run does in blocks to be
            compiled; inf for never.
        """

    def compile(self, call: BlockCall) -> BlockCall:
        """Return a call that does the same in less time after the first; gradients too.

        The call itself is always a right result.

        Args:
            call: of a block, with its tensors by name and its arguments.
        """


def device_name(runtime: Runtime) -> str:
    """Return what torch calls a device, with its backend where that has another name.

    Args:
        runtime: of the device.
    """
    device = runtime.device
    plain = runtime.name == device.type or device.type == "meta"
    return str(device) if plain else f"{runtime.name} on {device}"


class Backend(Protocol):
    """A kind of device."""

    name: str
    #: Backends of higher rank are tried first by ``--device auto``; below 0, never.
    rank: int

    def probe(self) -> Availability:
        """Tell whether this backend can run here, without side effects.

        Returns:
            The devices by their names, or why there are none.
        """

    def open(self, index: int | None) -> Runtime:
        """Open one device.

        Args:
            index: of the device; None for the first.

        Returns:
            What the rest of the program knows the device by.

        Raises:
            DeviceError: there is no such device.
        """


def sort_speeds(speeds: Sequence[Speed]) -> tuple[Speed, ...]:
    """Order speeds by what to compute in: float32 unless a shorter dtype is worth it.

    Args:
        speeds: of each usable dtype, float32 among them.

    Returns:
        Those that beat float32 by WORTHWHILE_SPEEDUP, the fastest first; float32; the others.
    """
    import torch

    exact = next(s for s in speeds if s.dtype == torch.float32)
    others = sorted((s for s in speeds if s is not exact), key=lambda s: -s.flops)
    # float32 keeps all digits: where another one is hardly faster, those are worth more.
    worth = [s for s in others if s.flops >= WORTHWHILE_SPEEDUP * exact.flops]
    return (*worth, exact, *(s for s in others if s not in worth))


def measure_matmul(
    device: torch.device,
    dtype: torch.dtype,
    *,
    synchronize: Callable[[], None],
    size: int = 768,
    seconds: float = 0.02,
    clock: Callable[[], float] = time.perf_counter,
) -> Speed:
    """Time square matrix products for a few milliseconds.

    A capability flag says that a dtype exists; only a clock says that it is fast.
    The best of several short turns counts, so one hiccup does not decide.

    Args:
        device: to measure. dtype: of the matrices.
        synchronize: waits for the device's queued work.
        size: rows and columns of the matrices.
        seconds: to spend at least, in two turns or more.
        clock: seconds that only ever grow.

    Returns:
        Operations a second, a multiplication and an addition counted as two.
    """
    import torch

    # Ones: their sums are finite in every dtype, which those of any memory's contents are not.
    left = torch.ones((size, size), dtype=dtype, device=device)
    flops, best, spent = 2.0 * size**3, float("inf"), 0.0
    left @ left  # libraries make their plans and caches at the first call
    synchronize()
    turns = 0
    while spent < seconds or turns < 2:
        started = clock()
        left @ left
        synchronize()
        # One that was set back would keep this loop going for as long.
        elapsed = max(0.0, clock() - started)
        best, spent, turns = min(best, elapsed), spent + elapsed, turns + 1
    # A coarse clock may not have moved at all.
    return Speed(dtype, flops / max(best, 1e-9))

"""Kernels that multiply with packed weights: what one offers, and which one a layer gets.

A kernel is an object registered under the entry-point group ``autoround.kernels``. It lays a
quantized weight out as it likes and multiplies with that. The fastest one that can run a layer
is chosen: by a measurement of some milliseconds where several could, once a process for each
kind of layer; a kernel can be named, too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, NamedTuple, Protocol

from autoround.device.protocol import Availability
from autoround.errors import DeviceError, UsageError
from autoround.types import Scheme

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from autoround.types import QuantizedTensor

#: Third parties register a kernel under this entry-point group.
GROUP = "autoround.kernels"
#: What stands for the fastest kernel.
AUTO = "auto"
#: Rows and inputs of the layer that kernels are timed on at most.
TIMED = 1024
#: Turns and rows of a timing: one row, as in decoding.
TURNS = 8


@dataclass(frozen=True, slots=True)
class Demand:
    """What a layer asks of a kernel.

    shape: (out, in). device: the type of a torch device. dtype: of the activations.
    ordered: groups do not follow each other along the inputs.
    """

    shape: tuple[int, int]
    scheme: Scheme
    device: str
    dtype: torch.dtype
    ordered: bool = False


#: Multiplies x [rows, in] to [rows, out], in the dtype of x.
Multiply = Callable[["Tensor"], "Tensor"]
#: A weight laid out for a kernel.
State = dict[str, "Tensor"]


class Kernel(Protocol):
    """One way to multiply with packed weights."""

    def __hash__(self) -> int:
        """Return what makes it a key; every object has it."""

    name: str
    #: Types of torch devices it runs on; none for all of them.
    devices: tuple[str, ...]
    #: Order in which kernels are thought to be fast; below 0 for use by name only.
    rank: int
    #: Whether to be timed against others; else the rank alone decides.
    timed: bool
    #: Whether :meth:`unpack` works; else the checkpoint's tensors are kept beside.
    reversible: bool
    #: What installs it, for advice; empty where nothing has to be.
    install: str

    def probe(self) -> Availability:
        """Tell whether it can run here at all, without side effects."""

    def why_not(self, demand: Demand) -> str:
        """Return why it cannot run a layer, or an empty text."""

    def pack(self, layer: QuantizedTensor, order: Tensor | None) -> State:
        """Lay a weight out; ``order`` is the group of each input, int64 [in], or None."""

    def unpack(self, state: State, demand: Demand) -> QuantizedTensor:
        """Give the integers back.

        Raises:
            DeviceError: the layout cannot be read back.
        """

    def bind(self, state: State, demand: Demand, bias: Tensor | None) -> Multiply:
        """Return the product with a laid-out weight and what it adds to it."""


class Found(NamedTuple):
    """A registered kernel; ``kernel`` is None where it cannot even be imported."""

    name: str
    kernel: Kernel | None
    availability: Availability


class Verdict(NamedTuple):
    """What speaks for or against a kernel for a layer; seconds of one row where timed."""

    name: str
    fits: bool
    reason: str
    seconds: float | None = None


class Choice(NamedTuple):
    """The kernel of a layer and what was held against the others."""

    kernel: Kernel
    verdicts: tuple[Verdict, ...]


@lru_cache(maxsize=1)
def kernels() -> tuple[Found, ...]:
    """Import and probe every registered kernel, highest rank first."""
    found = []
    for entry in sorted(entry_points(group=GROUP), key=lambda e: e.name):
        try:
            kernel: Kernel = entry.load()
            availability: object = kernel.probe()
            if not isinstance(availability, Availability) or not isinstance(kernel.rank, int):
                raise TypeError("it is no kernel: see autoround.device.kernels.Kernel")
            found.append(Found(entry.name, kernel, availability))
        except Exception as error:  # a third party's module may fail in any way
            reason = f"its module {entry.value} fails: {type(error).__name__}: {error}"
            found.append(Found(entry.name, None, Availability(False, reason)))
    return tuple(sorted(found, key=lambda f: -(f.kernel.rank if f.kernel else -99)))


def choose(demand: Demand, backend: str = AUTO) -> Choice:
    """Return the kernel for a layer.

    backend: its name, or ``auto`` for the fastest.

    Raises:
        UsageError: no kernel has that name.
        DeviceError: the named kernel, or none at all, can run the layer.
    """
    check_backend(backend)
    return _choose(demand, backend)


def check_backend(backend: str) -> None:
    """Refuse a name that no kernel has.

    Raises:
        UsageError: with the names there are.
    """
    names = [found.name for found in kernels()]
    if backend != AUTO and backend not in names:
        raise UsageError(f"no kernel is named {backend!r}; legal: {', '.join([AUTO, *names])}")


@lru_cache(maxsize=4096)
def _choose(demand: Demand, backend: str) -> Choice:
    verdicts, fitting = [], []
    for found in kernels():
        reason = _against(found, demand)
        if not reason and backend == AUTO and found.kernel and found.kernel.rank < 0:
            reason = "only by name"
        if not reason and backend not in (AUTO, found.name):
            reason = f"{backend} was asked for"
        verdicts.append(Verdict(found.name, not reason, reason))
        if not reason and found.kernel is not None:
            fitting.append(found.kernel)
    if not fitting:
        about = f"a layer of {demand.shape[1]} inputs and {demand.shape[0]} outputs, "
        about += f"{demand.scheme}, {demand.dtype}, on {demand.device}"
        why = "; ".join(f"{v.name}: {v.reason}" for v in verdicts if backend in (AUTO, v.name))
        raise DeviceError(f"no kernel can run {about}: {why or 'none is registered'}")
    best = fitting[0]
    rivals = [kernel for kernel in fitting if kernel.timed]
    if best.timed and len(rivals) > 1:
        seconds = {kernel.name: _seconds(kernel, _timed(demand)) for kernel in rivals}
        best = min(rivals, key=lambda kernel: seconds[kernel.name])
        verdicts = [v._replace(seconds=seconds.get(v.name)) for v in verdicts]
    return Choice(best, tuple(verdicts))


def _against(found: Found, demand: Demand) -> str:
    """Return what speaks against a kernel, or an empty text."""
    kernel = found.kernel
    if kernel is None:
        return found.availability.reason
    if kernel.devices and demand.device not in kernel.devices:
        return f"for {', '.join(kernel.devices)} only"
    reason = kernel.why_not(demand)
    if reason or found.availability.available:
        return reason
    advice = f": pip install {kernel.install}" if kernel.install else ""
    return found.availability.reason + advice


def faster_if_installed(demand: Demand, chosen: Kernel) -> list[str]:
    """Return what could be installed to run a layer faster, by declared rank."""
    return [
        found.kernel.install
        for found in kernels()
        if found.kernel is not None
        and not found.availability.available
        and found.kernel.install
        and found.kernel.rank > chosen.rank
        and (not found.kernel.devices or demand.device in found.kernel.devices)
        and not found.kernel.why_not(demand)
    ]


def _timed(demand: Demand) -> Demand:
    """Return a layer of the same kind and a size that is quick to time."""
    rows, columns = (min(size, TIMED) for size in demand.shape)
    width = demand.scheme.group_size
    if width > 0:
        columns = max(columns // width, 1) * width
    return Demand((rows, columns), demand.scheme, demand.device, demand.dtype)


@lru_cache(maxsize=512)
def _seconds(kernel: Kernel, demand: Demand) -> float:
    """Time one row; a kernel that fails is infinitely slow."""
    import torch

    from autoround.core.schemes import scheme_levels, scheme_scales
    from autoround.types import QuantizedTensor

    (rows, columns), scheme = demand.shape, demand.scheme
    width = scheme.group_size if scheme.group_size > 0 else columns
    groups = -(-columns // width)
    device = torch.device(demand.device)
    rng = torch.Generator().manual_seed(0)
    levels = scheme_levels(scheme)
    codes = torch.randint(0, levels.count, (rows, columns), generator=rng, dtype=torch.uint8)
    zero = torch.full((rows, groups), levels.middle, dtype=torch.uint8)
    scale = scheme_scales(scheme).stored(torch.full((rows, groups), 2**-10))
    layer = QuantizedTensor(codes.to(device), scale.to(device), zero.to(device), scheme)
    x = torch.ones((1, columns), dtype=demand.dtype, device=device)
    try:
        multiply = kernel.bind(kernel.pack(layer, None), demand, None)
        return _best_turn(lambda: multiply(x), device)
    except Exception:  # a third party's kernel may fail in any way
        return float("inf")


def _best_turn(turn: Callable[[], object], device: torch.device) -> float:
    """Return the seconds of the quickest of some calls."""
    import torch

    synchronize: Callable[[], object] = lambda: None  # noqa: E731
    if device.type != "cpu":
        synchronize = torch.get_device_module(device).synchronize
    best = float("inf")
    with torch.no_grad():
        turn()
        for _ in range(TURNS):
            synchronize()
            started = time.perf_counter()
            turn()
            synchronize()
            best = min(best, time.perf_counter() - started)
    return best


def group_of_input(
    columns: int, group_size: int, *, order: Tensor | None, device: torch.device
) -> Tensor:
    """Return the group of every input, int64 [in]."""
    import torch

    if order is not None:
        return order.to(device)
    width = group_size if group_size > 0 else columns
    return torch.arange(columns, device=device) // width


def only_for(
    demand: Demand, *, bits: Sequence[int] = (), dtypes: Mapping[torch.dtype, object] | None = None
) -> str:
    """Return what of a demand is not in these, or an empty text."""
    if bits and demand.scheme.bits not in bits:
        return f"for {', '.join(map(str, bits))} bits, not {demand.scheme.bits}"
    if dtypes is not None and demand.dtype not in dtypes:
        names = ", ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
        return f"for activations in {names}, not {str(demand.dtype).removeprefix('torch.')}"
    return ""

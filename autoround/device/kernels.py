"""Kernels that multiply with packed weights: what one offers, and which one a layer gets.

A kernel is an object registered under the entry-point group ``autoround.kernels``. It lays a
quantized weight out as it likes and multiplies with that. The fastest one that can run a layer
is chosen: by a measurement of some milliseconds where several could, once a process for each
kind of layer; a kernel can be named, too.
"""

from __future__ import annotations

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
#: Most rows and inputs of the layer that kernels are timed on by a processor.
TIMED_SIZE = 1024


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
        """Tell whether it can run here at all, without side effects.

        Returns:
            With the reason where it cannot; which layers it can run, :meth:`why_not` says.
        """

    def why_not(self, demand: Demand) -> str:
        """Return why it cannot run a layer, or an empty text.

        Args:
            demand: what the layer asks for.
        """

    def pack(self, layer: QuantizedTensor, order: Tensor | None) -> State:
        """Lay a weight out.

        Args:
            layer: codes uint8 [out, in], scale and zero [out, groups].
            order: the group of each input, int64 [in]; None where groups follow each other.

        Returns:
            Tensors by names of the kernel's choice.
        """

    def unpack(self, state: State, demand: Demand) -> QuantizedTensor:
        """Give the integers back.

        Args:
            state: as packed. demand: of its layer.

        Returns:
            Codes uint8 [out, in], scale and zero [out, groups], as they were packed.

        Raises:
            DeviceError: the layout cannot be read back.
        """

    def bind(self, state: State, demand: Demand, bias: Tensor | None) -> Multiply:
        """Return the product with a laid-out weight.

        Args:
            state: as packed. demand: of its layer.
            bias: [out], added to the product, or None.

        Returns:
            A function of x [rows, in] that returns [rows, out].
        """


class RegisteredKernel(NamedTuple):
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
def kernels() -> tuple[RegisteredKernel, ...]:
    """Import and probe every registered kernel, once a process.

    Returns:
        Highest rank first; those that cannot be imported last.
    """
    registered = []
    for entry in sorted(entry_points(group=GROUP), key=lambda e: e.name):
        try:
            kernel: Kernel = entry.load()
            availability: object = kernel.probe()
            if not isinstance(availability, Availability) or not isinstance(kernel.rank, int):
                raise TypeError("it is no kernel: see autoround.device.kernels.Kernel")
            registered.append(RegisteredKernel(entry.name, kernel, availability))
        except Exception as error:  # a third party's module may fail in any way
            reason = f"its module {entry.value} fails: {type(error).__name__}: {error}"
            registered.append(RegisteredKernel(entry.name, None, Availability(False, reason)))
    # What cannot be imported comes last: it is listed, and never chosen.
    return tuple(sorted(registered, key=lambda k: -(k.kernel.rank if k.kernel else -99)))


def choose(demand: Demand, backend: str = AUTO) -> Choice:
    """Return the kernel for a layer.

    Args:
        demand: what the layer asks for.
        backend: name of a kernel, or ``auto`` for the fastest.

    Returns:
        The kernel, and what speaks for or against every one.

    Raises:
        UsageError: no kernel has that name.
        DeviceError: the named kernel, or none at all, can run the layer.
    """
    check_backend(backend)
    return _choose(demand, backend)


@lru_cache(maxsize=4096)
def _choose(demand: Demand, backend: str) -> Choice:
    return choose_among(kernels(), demand, backend=backend)


def check_backend(backend: str, *, registered: Sequence[RegisteredKernel] | None = None) -> None:
    """Refuse a name that no kernel has.

    Args:
        backend: name of a kernel, or ``auto``.
        registered: kernels to look among; None for all there are.

    Raises:
        UsageError: with the names there are.
    """
    names = [entry.name for entry in (kernels() if registered is None else registered)]
    if backend != AUTO and backend not in names:
        raise UsageError(f"no kernel is named {backend!r}; legal: {', '.join([AUTO, *names])}")


def choose_among(
    registered: Sequence[RegisteredKernel],
    demand: Demand,
    *,
    backend: str = AUTO,
    timer: Callable[[Kernel, Demand], float] | None = None,
) -> Choice:
    """Choose a kernel for a layer among some.

    Args:
        registered: the kernels, highest rank first.
        demand: what the layer asks for.
        backend: name of one of them, or ``auto``.
        timer: returns the seconds that a kernel takes for one row; None to measure them.

    Returns:
        The kernel, and a verdict on every registered one, in their order.

    Raises:
        DeviceError: the named kernel, or none at all, can run the layer.
    """
    verdicts, fitting = [], []
    for entry in registered:
        reason = _reason_against(entry, demand)
        if not reason and backend == AUTO and entry.kernel and entry.kernel.rank < 0:
            reason = "only by name"
        if not reason and backend not in (AUTO, entry.name):
            reason = f"{backend} was asked for"
        verdicts.append(Verdict(entry.name, not reason, reason))
        if not reason and entry.kernel is not None:
            fitting.append(entry.kernel)
    if not fitting:
        about = f"a layer of {demand.shape[1]} inputs and {demand.shape[0]} outputs, "
        about += f"{demand.scheme}, {demand.dtype}, on {demand.device}"
        why = "; ".join(f"{v.name}: {v.reason}" for v in verdicts if backend in (AUTO, v.name))
        raise DeviceError(f"no kernel can run {about}: {why or 'none is registered'}")
    best = fitting[0]
    # One that may not be timed and has the highest rank is trusted to be the fastest.
    rivals = [kernel for kernel in fitting if kernel.timed]
    if best.timed and len(rivals) > 1:
        timed = _timed_demand(demand)
        seconds = {kernel.name: (timer or time_kernel)(kernel, timed) for kernel in rivals}
        best = min(rivals, key=lambda kernel: seconds[kernel.name])
        verdicts = [v._replace(seconds=seconds.get(v.name)) for v in verdicts]
    return Choice(best, tuple(verdicts))


def _reason_against(entry: RegisteredKernel, demand: Demand) -> str:
    """Return what speaks against a kernel, or an empty text."""
    kernel = entry.kernel
    if kernel is None:
        return entry.availability.reason
    if kernel.devices and demand.device not in kernel.devices:
        return f"for {', '.join(kernel.devices)} only"
    reason = kernel.why_not(demand)
    if reason or entry.availability.available:
        return reason
    advice = f": pip install {kernel.install}" if kernel.install else ""
    return entry.availability.reason + advice


def faster_if_installed(
    demand: Demand, chosen: Kernel, *, registered: Sequence[RegisteredKernel] | None = None
) -> list[str]:
    """Return what could be installed to run a layer faster, by declared rank.

    Args:
        demand: what the layer asks for.
        chosen: the kernel it has.
        registered: kernels to look among; None for all there are.

    Returns:
        What pip takes, in the order of the kernels.
    """
    return [
        entry.kernel.install
        for entry in (kernels() if registered is None else registered)
        if entry.kernel is not None
        and not entry.availability.available
        and entry.kernel.install
        and entry.kernel.rank > chosen.rank
        and (not entry.kernel.devices or demand.device in entry.kernel.devices)
        and not entry.kernel.why_not(demand)
    ]


def _timed_demand(demand: Demand) -> Demand:
    """Return the layer that kernels are timed on: of the same kind, and of a size quick to time.

    An accelerator takes its own size: small ones take it less time than the host takes to ask.
    """
    rows, columns = demand.shape
    if demand.device == "cpu":
        rows, columns = min(rows, TIMED_SIZE), min(columns, TIMED_SIZE)
    width = demand.scheme.group_size
    if width > 0 and columns != demand.shape[1]:
        # Whole groups: many kernels refuse others.
        columns = max(columns // width, 1) * width
    # Never ordered: what is timed is packed without an order.
    return Demand((rows, columns), demand.scheme, demand.device, demand.dtype)


@lru_cache(maxsize=512)
def time_kernel(kernel: Kernel, demand: Demand) -> float:
    """Return the seconds of one row, as in decoding; a kernel that fails is infinitely slow.

    Args:
        kernel: to time. demand: of a layer, which is made up in its shape and scheme.
    """
    import torch

    from autoround.core.grids.schemes import scheme_levels, scheme_scales
    from autoround.device.call_timing import seconds_of_call
    from autoround.types import QuantizedTensor

    (rows, columns), scheme = demand.shape, demand.scheme
    width = scheme.group_size if scheme.group_size > 0 else columns
    groups = -(-columns // width)
    device = torch.device(demand.device)
    rng = torch.Generator().manual_seed(0)
    levels = scheme_levels(scheme)
    codes = torch.randint(0, levels.count, (rows, columns), generator=rng, dtype=torch.uint8)
    zero = torch.full((rows, groups), levels.middle, dtype=torch.uint8)
    # So small that sums over all inputs stay finite in float16.
    scale = scheme_scales(scheme).stored(torch.full((rows, groups), 2**-10))
    layer = QuantizedTensor(codes.to(device), scale.to(device), zero.to(device), scheme)
    x = torch.ones((1, columns), dtype=demand.dtype, device=device)
    try:
        multiply = kernel.bind(kernel.pack(layer, None), demand, None)
        return seconds_of_call(multiply, x)
    except Exception:  # a third party's kernel may fail in any way
        return float("inf")


def group_of_input(
    columns: int, group_size: int, *, order: Tensor | None, device: torch.device
) -> Tensor:
    """Return the group of every input, int64 [in].

    Args:
        columns: inputs of the layer. group_size: as in a scheme.
        order: the groups where they do not follow each other, int64 [in]; None where they do.
        device: of the result.
    """
    import torch

    if order is not None:
        return order.to(device)
    width = group_size if group_size > 0 else columns
    return torch.arange(columns, device=device) // width


def unsupported(
    demand: Demand, *, bits: Sequence[int] = (), dtypes: Mapping[torch.dtype, object] | None = None
) -> str:
    """Return what of a demand a kernel does not support, or an empty text.

    Args:
        demand: what a layer asks for.
        bits: that the kernel supports; empty for all.
        dtypes: of activations that it supports; None for all.
    """
    if bits and demand.scheme.bits not in bits:
        return f"for {', '.join(map(str, bits))} bits, not {demand.scheme.bits}"
    if dtypes is not None and demand.dtype not in dtypes:
        names = ", ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
        return f"for activations in {names}, not {str(demand.dtype).removeprefix('torch.')}"
    return ""

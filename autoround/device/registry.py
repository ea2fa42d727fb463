"""Backends found through entry points, and devices opened by name."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points

from autoround.device.protocol import Availability, Backend, Runtime
from autoround.errors import AutoRoundError, DeviceError

#: Third parties register a backend under this entry-point group.
GROUP = "autoround.backends"
#: Kinds of devices that users ask for and that nobody has written a backend for.
NOT_BUILT = {
    "mps": "Apple's GPUs are not supported",
    "hpu": "Intel Gaudi accelerators are not supported",
}
#: The device that computes nothing.
NOTHING = "null"
#: What a runtime has to have; the protocol says what it is for.
_PARTS = (
    *("name", "device", "own_memory", "ops", "speeds", "memory", "peak_bytes", "synchronize"),
    *("release", "notes", "computing", "upload", "capture", "compiles_from"),
    *("compile", "peak_reserved_bytes", "out_of_memory"),
)


@dataclass(frozen=True, slots=True)
class RegisteredBackend:
    """One registered backend; ``backend`` is None when it cannot even be imported."""

    name: str
    backend: Backend | None
    availability: Availability


@lru_cache(maxsize=1)
def backends() -> tuple[RegisteredBackend, ...]:
    """Import and probe every registered backend, once a process.

    Returns:
        Highest rank first; those that cannot be imported last, with the reason.
    """
    registered = []
    for entry, twice in _entries():
        try:
            if twice:
                raise ValueError(f"another package has a backend {entry.name!r}, which is used")
            backend: Backend = entry.load()
            availability = _checked_probe(entry.name, backend)
            registered.append(RegisteredBackend(entry.name, backend, availability))
        except Exception as error:  # a third party's module may fail in any way
            reason = f"its module {entry.value} fails: {type(error).__name__}: {error}"
            registered.append(RegisteredBackend(entry.name, None, Availability(False, reason)))
    # What cannot be imported comes last: doctor shows it, and nothing takes it.
    return tuple(sorted(registered, key=lambda f: -(f.backend.rank if f.backend else -99)))


def _entries() -> Iterator[tuple[EntryPoint, bool]]:
    """Yield entry points by name, and whether one before them has the same name."""
    # An installed package may be seen twice, through two folders of the path.
    each = {(entry.name, entry.value): entry for entry in entry_points(group=GROUP)}
    names: set[str] = set()
    for entry in sorted(each.values(), key=lambda entry: entry.name):
        yield entry, entry.name in names
        names.add(entry.name)


def _checked_probe(name: str, backend: Backend) -> Availability:
    """Probe a backend, and make sure it is one: a third party's may be anything."""
    availability: object = backend.probe()
    if not isinstance(availability, Availability) or not isinstance(backend.rank, int):
        raise TypeError("it is no backend: see autoround.device.protocol.Backend")
    if backend.name != name:
        raise ValueError(f"it calls itself {backend.name!r}, and is registered as {name!r}")
    if availability.available and not availability.devices:
        raise ValueError("it is available, and names no device")
    return availability


def auto_backend() -> RegisteredBackend | None:
    """Return the backend that ``auto`` takes: the first that can run and wants to be tried.

    Returns:
        None where no backend of rank 0 or more can run here.
    """
    return next(
        (f for f in backends() if f.backend and f.backend.rank >= 0 and f.availability.available),
        None,
    )


def open_device(device: str = "auto") -> Runtime:
    """Open a device by name.

    Args:
        device: ``auto``, a backend's name, ``name:index``, or a number: that of an accelerator.

    Returns:
        The device's runtime, which has all that the protocol asks for.

    Raises:
        DeviceError: no such device here; the message says why and which there are.
    """
    if re.fullmatch(r"\d{1,4}", device):
        return _open_numbered(int(device))
    match = re.fullmatch(r"([a-z][a-z0-9_]*)(?::(\d+))?", device)
    if not match and "," in device:
        raise DeviceError(
            f"device {device!r} names several, and a run has one; name one; {_choices()}"
        )
    if not match:
        raise DeviceError(f"device {device!r} is not of the form NAME or NAME:INDEX; {_choices()}")
    name, index = match.group(1), match.group(2)
    if name == "auto":
        if index is not None:
            raise DeviceError(f"'auto' takes no index; {_choices()}")
        first = auto_backend()
        if first is None or first.backend is None:
            raise DeviceError(f"no backend can run here; {_choices()}")
        return _open(first.backend, None)
    # Of several with one name, the one that is used comes first: the others are broken entries.
    named = [entry for entry in backends() if entry.name == name]
    for entry in named:
        if entry.backend is not None and entry.availability.available:
            return _open(entry.backend, None if index is None else int(index))
    if named:
        reason = named[0].availability.reason
        raise DeviceError(f"device {device!r} is not available: {reason}; {_choices()}")
    if name in NOT_BUILT:
        raise DeviceError(
            f"device {device!r}: {NOT_BUILT[name]}, unless another package brings a backend named "
            f"{name!r} (docs/backends.md says how); {_choices()}"
        )
    raise DeviceError(f"there is no backend named {name!r}; {_choices()}")


def _open_numbered(index: int) -> Runtime:
    """Open the accelerator of a number: of the first backend whose devices have numbers."""
    for entry in backends():
        name = f"{entry.name}:{index}"
        if entry.backend and entry.availability.available and name in entry.availability.devices:
            return _open(entry.backend, index)
    raise DeviceError(
        f"device {index} is the accelerator of that number, and there is none here; {_choices()}"
    )


def _open(backend: Backend, index: int | None) -> Runtime:
    """Open a device; whatever goes wrong in it is told as the backend's own."""
    try:
        runtime = backend.open(index)
        # A method that is not there would end a run hours later, at its first use.
        missing = [part for part in _PARTS if not hasattr(runtime, part)]
    except AutoRoundError:
        raise
    except Exception as error:  # a third party's module may fail in any way
        raise DeviceError(
            f"backend {backend.name!r} cannot open its device: {type(error).__name__}: {error}; "
            f"{_choices()}"
        ) from error
    if missing:
        raise DeviceError(
            f"backend {backend.name!r}: its runtime has no {', '.join(missing)}; it may derive "
            "from autoround.device.runtime.TorchRuntime"
        )
    return runtime


def _choices() -> str:
    """Return a sentence that lists the devices that exist here."""
    # One that computes nothing is no choice: plans that want it name it.
    able = [f for f in backends() if f.availability.available and f.name != NOTHING]
    names = [device for f in able for device in f.availability.devices]
    if not names:
        return (
            "no backend is registered: reinstall the package, or check that its entry "
            f"points ({GROUP}) are visible to this Python"
        )
    return "devices here: auto, " + ", ".join(names)

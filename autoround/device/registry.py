"""Backends found through entry points, and devices opened by name."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import entry_points

from autoround.device.protocol import Availability, Backend, Runtime
from autoround.errors import DeviceError

#: Third parties register a backend under this entry-point group.
GROUP = "autoround.backends"


@dataclass(frozen=True, slots=True)
class Found:
    """One registered backend; ``backend`` is None when it cannot even be imported."""

    name: str
    backend: Backend | None
    availability: Availability


@lru_cache(maxsize=1)
def backends() -> tuple[Found, ...]:
    """Import and probe every registered backend, highest rank first."""
    found = []
    for entry in sorted(entry_points(group=GROUP), key=lambda e: e.name):
        try:
            backend: Backend = entry.load()
            found.append(Found(entry.name, backend, _probe(backend)))
        except Exception as error:  # a third party's module may fail in any way
            reason = f"its module {entry.value} fails: {type(error).__name__}: {error}"
            found.append(Found(entry.name, None, Availability(False, reason)))
    return tuple(sorted(found, key=lambda f: -(f.backend.rank if f.backend else -1)))


def _probe(backend: Backend) -> Availability:
    """Probe a backend, and make sure it is one: a third party's may be anything."""
    answer: object = backend.probe()
    if not isinstance(answer, Availability) or not isinstance(backend.rank, int):
        raise TypeError("it is no backend: see autoround.device.protocol.Backend")
    return answer


def open_device(device: str = "auto") -> Runtime:
    """Open a device by name: ``auto``, a backend's name, or ``name:index``.

    Raises:
        DeviceError: no such device here; the message says why and which there are.
    """
    match = re.fullmatch(r"([a-z][a-z0-9_]*)(?::(\d+))?", device)
    if not match:
        raise DeviceError(f"device {device!r} is not of the form NAME or NAME:INDEX; {_choices()}")
    name, index = match.group(1), match.group(2)
    if name == "auto":
        if index is not None:
            raise DeviceError(f"'auto' takes no index; {_choices()}")
        for found in backends():
            if found.backend and found.backend.rank >= 0 and found.availability.available:
                return found.backend.open(None)
        raise DeviceError(f"no backend can run here; {_choices()}")
    for found in backends():
        if found.name == name:
            if found.backend is None or not found.availability.available:
                raise DeviceError(
                    f"device {device!r} is not available: {found.availability.reason}; {_choices()}"
                )
            return found.backend.open(None if index is None else int(index))
    raise DeviceError(f"there is no backend named {name!r}; {_choices()}")


def _choices() -> str:
    """Return a sentence that lists the devices that exist here."""
    names = [d for f in backends() if f.availability.available for d in f.availability.devices]
    if not names:
        return (
            "no backend is registered: reinstall the package, or check that its entry "
            f"points ({GROUP}) are visible to this Python"
        )
    return "devices here: auto, " + ", ".join(names)

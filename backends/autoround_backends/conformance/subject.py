"""What is tested by the suite, and what a case of it is."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from autoround.device.protocol import Backend, Runtime
from autoround.device.registry import backends, open_device
from autoround.errors import DeviceError


class Disagreement(AssertionError):  # noqa: N818 (a finding, as AssertionError is)
    """A backend does something else than it has to."""


@dataclass(frozen=True)
class Subject:
    """A backend and one of its devices, opened."""

    backend: Backend
    runtime: Runtime

    @property
    def computes(self) -> bool:
        """Whether there are numbers to compare: meta tensors have none."""
        return self.runtime.device.type != "meta"


class Case(NamedTuple):
    """One thing that has to hold. computes: whether it needs numbers."""

    name: str
    run: Callable[[Subject], None]
    computes: bool = True


def open_subject(device: str) -> Subject:
    """Open a device by its name, NAME or NAME:INDEX.

    Raises:
        DeviceError: there is none of that name, or it cannot run here.
    """
    runtime = open_device(device)
    name = re.split(":", device)[0]
    # open_device told whether it is there; the suite needs the backend as well.
    for registered in backends():
        if registered.backend is not None and registered.name == name:
            return Subject(registered.backend, runtime)
    raise DeviceError(f"name a backend, not {device!r}")


def require(holds: bool, message: str) -> None:
    """Raise unless something holds; unlike an assertion, also where Python optimizes."""
    if not holds:
        raise Disagreement(message)

"""What runs here and what does not: versions, backends, devices, kernels, and a short check."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from autoround._version import __version__
from autoround.device.kernels import kernels
from autoround.device.parity import disagreement
from autoround.device.protocol import Runtime
from autoround.device.registry import auto_backend, backends, open_device
from autoround.errors import AutoRoundError
from autoround.tested import untested_transformers

#: Packages whose versions decide what runs.
PACKAGES = ("torch", "transformers", "triton", "safetensors", "numpy")


@dataclass(frozen=True, slots=True)
class DeviceReport:
    """One device of a backend that can run.

    type: what torch calls its kind; empty where it cannot be opened. gflops: measured speed of
    matrix products by dtype, the one to compute in first. memory_total, memory_free: bytes.
    notes: what the runtime says; slower: those among them that make runs slower. checked: whether
    its operations were compared; meta tensors have no numbers. problem: why it cannot be opened,
    or where it disagrees; empty if nowhere.
    """

    name: str
    type: str
    gflops: dict[str, float]
    memory_total: int
    memory_free: int
    notes: tuple[str, ...]
    slower: tuple[str, ...]
    checked: bool
    problem: str


@dataclass(frozen=True, slots=True)
class BackendReport:
    """One registered backend. broken: it is registered and cannot even be asked."""

    name: str
    available: bool
    broken: bool
    reason: str
    devices: tuple[DeviceReport, ...]


@dataclass(frozen=True, slots=True)
class KernelReport:
    """One kernel for packed layers.

    devices: types of devices it is for; none for all. here: whether one of these is here.
    """

    name: str
    available: bool
    here: bool
    reason: str
    devices: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """All that was found. auto: the device that ``--device auto`` takes; empty where there is none.

    versions: of packages, empty for those that are not installed. untested: which of them is newer
    than tested, in a sentence; empty where none is.
    """

    versions: dict[str, str]
    system: str
    backends: tuple[BackendReport, ...]
    kernels: tuple[KernelReport, ...]
    auto: str
    untested: str = ""

    @property
    def problems(self) -> tuple[str, ...]:
        """What keeps a device that should work from working.

        Returns:
            A line for each such device; before them, where it is so, that no backend can run.
        """
        problems = [
            f"{device.name}: {device.problem}"
            for backend in self.backends
            for device in backend.devices
            if device.problem
        ]
        return tuple(problems if self.auto else ["no backend can run here", *problems])


def examine() -> Report:
    """Look at everything, measure for some milliseconds a device, and compare its operations.

    Returns:
        What there is; a backend, device or kernel that fails is in it with the reason.
    """
    reports = tuple(
        BackendReport(
            entry.name,
            entry.availability.available,
            entry.backend is None,
            entry.availability.reason,
            tuple(map(_report_device, entry.availability.devices))
            if entry.availability.available
            else (),
        )
        for entry in backends()
    )
    types = {device.type for report in reports for device in report.devices}
    taken = auto_backend()
    return Report(
        {"autoround": __version__, "python": platform.python_version()}
        | {name: _version(name) for name in PACKAGES},
        platform.platform(),
        reports,
        tuple(
            KernelReport(
                entry.name,
                entry.availability.available,
                # A kernel that names no devices is for all of them.
                entry.kernel is not None
                and (not entry.kernel.devices or bool(types & set(entry.kernel.devices))),
                entry.availability.reason,
                entry.kernel.devices if entry.kernel is not None else (),
            )
            for entry in kernels()
        ),
        taken.availability.devices[0] if taken is not None else "",
        untested_transformers(),
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _report_device(name: str) -> DeviceReport:
    """Open a device and try it; what goes wrong in that is its report."""
    try:
        return _examine_device(name, open_device(name))
    except AutoRoundError as error:
        return DeviceReport(name, "", {}, 0, 0, (), (), False, str(error))
    except Exception as error:  # a driver may fail in any way
        problem = f"{type(error).__name__}: {error}"
        return DeviceReport(name, "", {}, 0, 0, (), (), False, problem)


def _examine_device(name: str, runtime: Runtime) -> DeviceReport:
    # Before anything is measured: matrices that are timed take memory themselves.
    memory = runtime.memory()
    notes = runtime.notes()
    computes = runtime.device.type != "meta"
    return DeviceReport(
        name,
        runtime.device.type,
        {
            str(speed.dtype).removeprefix("torch."): round(speed.flops / 1e9, 1)
            for speed in runtime.speeds()
        },
        memory.total,
        memory.free,
        tuple(note.text for note in notes),
        tuple(note.text for note in notes if note.slower),
        computes,
        disagreement(runtime.ops, runtime.device) if computes else "",
    )

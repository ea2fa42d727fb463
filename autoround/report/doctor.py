"""What ``autoround doctor`` found, in words."""

from __future__ import annotations

from collections.abc import Iterator

from autoround.device.doctor import BackendReport, DeviceReport, Report
from autoround.device.registry import NOTHING


def doctor_lines(report: Report) -> list[str]:
    """Return the lines that show a report.

    Args:
        report: of versions, devices and kernels.
    """
    installed = [f"{name} {number}" for name, number in report.versions.items() if number]
    missing = [f"no {name}" for name, number in report.versions.items() if not number]
    lines = [", ".join(installed + missing), report.system, "", "devices"]
    for backend in report.backends:
        # What computes nothing is no device to choose; --json has it, too.
        lines += [] if backend.name == NOTHING else _backend_lines(backend)
    taken = f"--device auto takes {report.auto}" if report.auto else "--device auto finds nothing"
    lines += [f"  {taken}", "", "kernels for packed layers ('autoround kernels MODEL' says more)"]
    for kernel in report.kernels:
        state = "can be used" if kernel.available and kernel.here else "cannot be used"
        where = f"for {', '.join(kernel.devices)}" if kernel.devices else "for any device"
        away = "" if kernel.here or not kernel.devices else ", none of which is here"
        lines.append(f"  {kernel.name:12} {state}, {where}{away}: {kernel.reason}")
    return [*lines, "", *_summary(report)]


def _summary(report: Report) -> Iterator[str]:
    slower = [
        f"{device.name}: {note}"
        for backend in report.backends
        for device in backend.devices
        for note in device.slower
    ]
    if report.untested:
        yield f"untested: {report.untested}"
    yield from (f"slower than it could be: {line}" for line in slower)
    yield from (f"problem: {line}" for line in report.problems)
    broken = [backend for backend in report.backends if backend.broken]
    yield from (f"broken: backend {backend.name}: {backend.reason}" for backend in broken)
    if not report.problems:
        yield "every device that is here computes what plain torch computes"


def _backend_lines(backend: BackendReport) -> list[str]:
    state = "" if backend.available else "broken: " if backend.broken else "not here: "
    lines = [f"  {backend.name:8} {state}{backend.reason}"]
    for device in backend.devices:
        lines += [f"    {line}" for line in _device_lines(device)]
    return lines


def _device_lines(device: DeviceReport) -> Iterator[str]:
    speeds = [f"{dtype} {_speed(gflops)}" for dtype, gflops in device.gflops.items() if gflops]
    if speeds:
        first = next(iter(device.gflops))
        yield f"{device.name}: {', '.join(speeds)}; computes in {first}"
    elif device.name != device.type or device.problem:
        yield device.name
    if device.memory_total:
        total, free = device.memory_total / 1e9, device.memory_free / 1e9
        yield f"  {total:.1f} GB of memory, {free:.1f} GB free"
    yield from (f"  {note}" for note in device.notes)
    if device.problem:
        yield f"  PROBLEM: {device.problem}"
    elif device.checked:
        yield "  its operations agree with plain torch on the CPU"


def _speed(gflops: float) -> str:
    return f"{gflops / 1e3:.1f} TFLOP/s" if gflops >= 1e4 else f"{gflops:.0f} GFLOP/s"

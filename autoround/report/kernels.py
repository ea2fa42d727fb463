"""Which kernels there are, which of them run a model's layers, and why."""

from __future__ import annotations

from collections.abc import Iterable

from autoround.device.kernels import RegisteredKernel, Verdict
from autoround.inference.kernels import Share


def installed_lines(kernels: Iterable[RegisteredKernel]) -> list[str]:
    """Return a line for each registered kernel, whether it can be used here or not.

    Args:
        kernels: as the registry lists them; broken ones have no devices.
    """
    lines = []
    for entry in kernels:
        devices = ", ".join(entry.kernel.devices) if entry.kernel else ""
        state = "can be used" if entry.availability.available else "cannot be used"
        lines.append(
            f"{entry.name:12} {devices or 'any device'}: {state} here ({entry.availability.reason})"
        )
    return lines


def share_lines(shares: Iterable[Share], *, device: str) -> list[str]:
    """Return which kernel runs which layers of a model, and what speaks against the others.

    Args:
        shares: layers of one scheme and kernel each.
        device: where they run, as torch names it.
    """
    lines: list[str] = []
    # A dict, so that each package is named once, in the order of the layers that want it.
    packages: dict[str, None] = {}
    for share in shares:
        order = ", reordered inputs" if share.ordered else ""
        lines.append(
            f"{share.scheme}{order}: {share.layers} layers, {share.weights / 1e6:.1f} M weights "
            f"on {device}: {share.kernel}"
        )
        lines += [
            f"    {verdict.name:12} {_describe_verdict(verdict, share.kernel)}"
            for verdict in share.verdicts
        ]
        packages |= dict.fromkeys(share.faster)
    return [*lines, *(f"faster, if installed: pip install {package}" for package in packages)]


def _describe_verdict(verdict: Verdict, chosen: str) -> str:
    """Say why a kernel was chosen or was not; ``chosen`` is the name of the one that was."""
    timed = "" if verdict.seconds is None else f", {verdict.seconds * 1e6:.0f} µs a row when timed"
    if verdict.name == chosen:
        return f"chosen{timed}"
    return f"not: {verdict.reason}" if verdict.reason else f"can, and is slower{timed}"

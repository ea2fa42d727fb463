"""What the commands that run models do once their options are understood; this imports torch."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator

import typer

from autoround.cli._quiet import quiet_libraries
from autoround.device.doctor import examine
from autoround.device.kernels import AUTO, Verdict
from autoround.device.registry import open_device
from autoround.errors import DeviceError
from autoround.evaluate.bench import bench
from autoround.evaluate.bench import lines as rate_lines
from autoround.evaluate.generate import generate
from autoround.inference.kernels import explain, installed
from autoround.inference.load import dtype_for
from autoround.report.doctor import doctor_lines
from autoround.storage.json_text import to_json


def show_generated(
    model: str,
    prompt: str,
    *,
    max_new_tokens: int,
    chat: bool | None,
    backend: str,
    device: str,
) -> None:
    """Let a model continue a text, printing it as it comes."""
    with quiet_libraries():
        generate(
            model,
            prompt,
            max_new_tokens=max_new_tokens,
            chat=chat,
            backend=backend,
            device=device,
            on_text=lambda text: typer.echo(text, nl=False),
        )
    typer.echo()


def bench_lines(
    model: str,
    original: str | None,
    *,
    lengths: tuple[int, int],
    backend: str,
    device: str,
    as_json: bool,
) -> list[str]:
    """Measure a model; return the result as lines of text or one of JSON."""
    with quiet_libraries():
        found = bench(
            model,
            original,
            device=device,
            backend=backend,
            prompt_tokens=lengths[0],
            new_tokens=lengths[1],
        )
    if as_json:
        return [json.dumps([dataclasses.asdict(r) for r in found])]
    return rate_lines(found)


def kernel_lines(model: str | None, *, backend: str = AUTO, device: str = "auto") -> Iterator[str]:
    """Yield what runs where and why."""
    if model is None:
        for found in installed():
            devices = ", ".join(found.kernel.devices) if found.kernel else ""
            state = "can be used" if found.availability.available else "cannot be used"
            reason = found.availability.reason
            yield f"{found.name:12} {devices or 'any device'}: {state} here ({reason})"
        return
    runtime = open_device(device)
    with quiet_libraries():
        shares = explain(
            model, device=runtime.device, dtype=dtype_for(model, runtime), backend=backend
        )
    faster: dict[str, None] = {}
    for share in shares:
        order = ", reordered inputs" if share.ordered else ""
        yield (
            f"{share.scheme}{order}: {share.layers} layers, {share.weights / 1e6:.1f} M weights "
            f"on {runtime.device}: {share.kernel}"
        )
        for verdict in share.verdicts:
            yield f"    {verdict.name:12} {_said(verdict, share.kernel)}"
        faster |= dict.fromkeys(share.faster)
    for package in faster:
        yield f"faster, if installed: pip install {package}"


def _said(verdict: Verdict, chosen: str) -> str:
    took = "" if verdict.seconds is None else f", {verdict.seconds * 1e6:.0f} µs a row when timed"
    if verdict.name == chosen:
        return f"chosen{took}"
    return f"not: {verdict.reason}" if verdict.reason else f"can, and is slower{took}"


def examine_all(*, as_json: bool) -> None:
    """Print what runs here and what does not.

    Raises:
        DeviceError: a device that should work does not.
    """
    report = examine()
    if as_json:
        typer.echo(to_json({**dataclasses.asdict(report), "problems": report.problems}))
    else:
        for line in doctor_lines(report):
            typer.echo(line)
    if report.problems:
        raise DeviceError("; ".join(report.problems))

"""``autoround kernels``: which kernel runs which layers here, and why."""

from __future__ import annotations

from typing import Annotated

import typer

from autoround.cli import _options as options

app = typer.Typer()


@app.command()
def kernels(
    model: Annotated[
        str | None,
        typer.Argument(metavar="[MODEL]", help="Quantized folder; without one, all kernels."),
    ] = None,
    backend: options.Backend = "auto",
    device: options.Device = "auto",
) -> None:
    """Print which kernel runs which layers of a quantized model, and what speaks against others.

    Reads headers only. What could be installed to be faster is said at the end.

    \b
    Examples:
      autoround kernels
      autoround kernels out
      autoround kernels out --device cpu
    """
    from autoround.cli import _run

    for line in _run.kernel_lines(model, backend=backend, device=device):
        typer.echo(line)

"""``autoround kernels``: which kernel runs which layers here, and why."""

from __future__ import annotations

from typing import Annotated

import typer

from autoround.cli import _options as options
from autoround.cli._output import echo
from autoround.cli._quiet import quiet_libraries

app = typer.Typer()


@app.command(short_help="Print which kernel runs which layers, and why.")
def kernels(
    model: Annotated[
        str | None,
        typer.Argument(metavar="[MODEL]", help="Quantized folder; without one, all kernels."),
    ] = None,
    revision: options.Revision = None,
    backend: options.Backend = "auto",
    device: options.Device = "auto",
) -> None:
    """Print which kernel runs which layers of a quantized model, and what speaks against others.

    Reads headers only. What could be installed to be faster is said at the end.

    \b
    Examples:
      autoround kernels
      autoround kernels out --device cpu              # of what quantize -o out wrote
    """
    from autoround.device.registry import open_device
    from autoround.inference.kernels import explain, installed
    from autoround.inference.load import dtype_for
    from autoround.report.kernels import installed_lines, share_lines

    model = options.choose_model(model, None, revision)
    if model is None:
        lines = installed_lines(installed())
    else:
        runtime = open_device(device)
        with quiet_libraries():
            dtype = dtype_for(model, runtime)
            shares = explain(model, device=runtime.device, dtype=dtype, backend=backend)
        lines = share_lines(shares, device=str(runtime.device))
    for line in lines:
        echo(line)

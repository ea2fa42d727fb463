"""``autoround bench``: how fast a model runs here, alone or beside its original."""

from __future__ import annotations

import dataclasses
import json
from typing import Annotated

import typer

from autoround.cli import _options as options
from autoround.cli._output import echo
from autoround.cli._quiet import quiet_libraries

app = typer.Typer()


@app.command(short_help="Measure tokens a second and memory.")
def bench(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="Quantized output folder, or any model.")
    ],
    revision: options.Revision = None,
    original: Annotated[
        str | None,
        typer.Option("--original", help="16-bit model to measure beside, in its fastest dtype."),
    ] = None,
    prompt_tokens: Annotated[
        int, typer.Option("--prompt-tokens", "--prompt_tokens", min=1, help="Tokens read at once.")
    ] = 256,
    new_tokens: Annotated[
        int, typer.Option("--new-tokens", "--new_tokens", min=1, help="Tokens written.")
    ] = 64,
    backend: options.Backend = "auto",
    device: options.Device = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Print tokens a second of prefill and decode (batch 1), and memory.

    \b
    With a model of your own:
      autoround bench out --original path/to/model

    \b
    Examples:
      autoround bench out                            # what quantize -o out wrote
      autoround bench out --backend torch --new-tokens 16
    """
    from autoround.evaluate.bench import bench as measure
    from autoround.report.bench import rate_lines

    model = options.at_revision(model, revision)
    with quiet_libraries():
        measured = measure(
            model,
            original,
            device=device,
            backend=backend,
            prompt_tokens=prompt_tokens,
            new_tokens=new_tokens,
        )
    if as_json:
        echo(json.dumps([dataclasses.asdict(rates) for rates in measured]))
        return
    for line in rate_lines(measured):
        echo(line)

"""``autoround inspect``: what a model folder holds, and how many bits it really takes."""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer()


@app.command()
def inspect(
    model: Annotated[str, typer.Argument(help="Quantized folder (auto_round, GPTQ, AWQ) or any.")],
    layers: Annotated[
        bool, typer.Option("--layers", help="List every quantized layer with its scheme.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Print what is quantized how, what is kept, and the bits each weight takes on disk.

    Reads headers only, so it is quick whatever the size of the model.

    \b
    Examples:
      autoround inspect out
      autoround inspect out --layers
      autoround inspect out --json
    """
    from autoround.cli import _work

    for line in _work.inspection_lines(model, layers=layers, as_json=as_json):
        typer.echo(line)

"""``autoround convert``: another integer format, without tuning again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()


@app.command()
def convert(
    model: Annotated[str, typer.Argument(help="Quantized folder: AutoRound, GPTQ, AWQ, …")],
    to: Annotated[str, typer.Option("--to", help="Format to write; or several, by commas.")],
    output: Annotated[Path, typer.Option("--output-dir", "-o", help="Folder to write to.")],
    lossy: Annotated[
        bool, typer.Option("--allow-lossy", help="Go on where weights cannot be kept exactly.")
    ] = False,
) -> None:
    """Write a quantized model in other integer formats; codes are carried over, bit for bit.

    What cannot be kept exactly is refused, unless --allow-lossy is given.

    \b
    Examples:
      autoround convert some-gptq-model --to auto_round -o out
      autoround convert out --to auto_awq,compressed-tensors -o served
    """
    from autoround.cli import _work

    for line in _work.conversion_lines(model, output, to=to, lossy=lossy):
        typer.echo(line)

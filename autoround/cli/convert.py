"""``autoround convert``: another integer format, without tuning again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autoround.cli import _options as options
from autoround.cli._output import echo
from autoround.cli._quiet import quiet_libraries

app = typer.Typer()


@app.command(short_help="Write a quantized model in another format, bit for bit.")
def convert(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="Quantized folder: AutoRound, GPTQ, AWQ, …")
    ],
    to: Annotated[
        str,
        typer.Option(
            "--to",
            help="Format to write, such as auto_gptq (docs/formats.md); several with commas.",
        ),
    ],
    output: Annotated[Path, typer.Option("--output-dir", "-o", help="Folder to write to.")],
    revision: options.Revision = None,
    lossy: Annotated[
        bool, typer.Option("--allow-lossy", help="Go on where weights cannot be kept exactly.")
    ] = False,
) -> None:
    """Write a quantized model in other integer formats; codes are carried over, bit for bit.

    What cannot be kept exactly is refused, unless --allow-lossy is given.

    \b
    With a model of your own:
      autoround convert some-gptq-model --to auto_round -o out

    \b
    Examples:
      autoround convert out --to auto_gptq -o gptq     # what quantize -o out wrote
      autoround convert out --to auto_awq,compressed-tensors -o served
    """
    from autoround.checkpoints.convert import convert as convert_model
    from autoround.report.conversion import conversion_lines

    # A format that is named twice is written once.
    formats = tuple(dict.fromkeys(name.strip() for name in to.split(",")))
    model = options.at_revision(model, revision)
    with quiet_libraries():
        conversion = convert_model(model, output, formats=formats, allow_lossy=lossy)
    for line in conversion_lines(conversion):
        echo(line)

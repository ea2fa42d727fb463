"""``autoround report``: a run as a page, made of what its output folder holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autoround.cli._output import echo

app = typer.Typer()


@app.command()
def report(
    folder: Annotated[
        Path, typer.Argument(help="Output folder of 'quantize', or a GGUF file in it.")
    ],
) -> None:
    """Write report.html in an output folder: one file that needs no network and no script.

    'quantize' writes it by itself; this command writes it again, as after an update of this
    program. A folder of several formats gets one in each.

    \b
    Examples:
      autoround report out                           # what quantize -o out wrote
      autoround report both                          # a folder of two formats
    """
    from autoround.report.folder import output_folders
    from autoround.report.saved import write_report

    for part in output_folders(folder):
        echo(f"written      {write_report(part)}")

"""``autoround report``: a run as a page, made of what its output folder holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autoround.cli._output import echo

app = typer.Typer()


@app.command(short_help="Write report.html and the model card of a folder again.")
def report(
    folder: Annotated[
        Path,
        typer.Argument(metavar="FOLDER", help="Output folder of 'quantize', or a GGUF file in it."),
    ],
) -> None:
    """Write report.html and the model card (README.md) in an output folder.

    The report is one file that needs no network and no script. A card that somebody else wrote is
    left alone; in ours, so is what stands outside of its marks.

    'quantize' writes it by itself; this command writes it again, as after an update of this
    program. A folder of several formats gets one in each.

    \b
    Examples:
      autoround report out                           # what quantize -o out wrote
      autoround report both                          # a folder of two formats
    """
    from autoround.report.folder import output_folders
    from autoround.report.saved import write_again

    for part in output_folders(folder):
        for path in write_again(part):
            echo(f"written      {path}")

"""``autoround compare``: several runs side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autoround.cli._output import echo

app = typer.Typer()


@app.command(short_help="Put several runs side by side: size, quality, time.")
def compare(
    folders: Annotated[
        list[Path], typer.Argument(metavar="FOLDER", help="Output folders of 'quantize'.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON list.")] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Write a page (.html) with a drawing of size against quality.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Print size, bits, quality, time and memory of several runs side by side.

    Scores are those that 'quantize --eval' or 'eval --save' kept in the folders.

    \b
    Examples:
      autoround compare out both                     # what quantize -o wrote
      autoround compare out both -o compare.html
    """
    from autoround.report.compare import (
        comparison_lines,
        comparison_page,
        comparison_values,
        read_rows,
    )
    from autoround.storage.durable import write_text
    from autoround.storage.json_text import to_json

    rows = read_rows(folders)
    if as_json:
        echo(to_json(comparison_values(rows)))
    else:
        for line in comparison_lines(rows):
            echo(line)
    if output is not None:
        write_text(output, comparison_page(rows))
        echo(f"written      {output}", err=as_json)

"""``autoround inspect``: what a model folder holds, and how many bits it really takes."""

from __future__ import annotations

from pathlib import Path
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
    from autoround.checkpoints.inspect import inspect_folder
    from autoround.checkpoints.inspect_gguf import inspect_gguf
    from autoround.report.inspection import inspection_lines, inspection_values
    from autoround.storage.json_text import to_json

    path = _locate(model)
    inspection = inspect_gguf(path) if path.suffix == ".gguf" else inspect_folder(path)
    if as_json:
        typer.echo(to_json(inspection_values(inspection)))
        return
    for line in inspection_lines(inspection, layers=layers):
        typer.echo(line)


def _locate(model: str) -> Path:
    """Return the GGUF file that is meant, by its own name or its folder's, else the folder."""
    from autoround.model.files.locate import gguf_file, locate_model

    path = Path(model)
    if path.is_file() and path.suffix == ".gguf":
        return path
    folder = locate_model(model)
    file = gguf_file(folder)
    return folder if file is None else folder / file

"""``autoround inspect``: what a model folder holds, and how many bits it really takes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from autoround.cli import _options as options
from autoround.cli._output import echo

if TYPE_CHECKING:
    from autoround.checkpoints.inspect import Inspection

app = typer.Typer()


@app.command(short_help="Print what is quantized how, and its size.")
def inspect(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="Quantized folder, or any model's."),
    ],
    revision: options.Revision = None,
    layers: Annotated[
        bool, typer.Option("--layers", help="List every quantized layer with its scheme.")
    ] = False,
    check: Annotated[
        bool,
        typer.Option(
            "--check/--no-check",
            help="Hold the files against the model's class, so that missing layers are told.",
        ),
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Print what is quantized how, what is kept, and the bits each weight takes on disk.

    Reads headers only, so it is quick whatever the size of the model; with --no-check quicker
    still, as the model's class is not imported.

    \b
    With a model of your own:
      autoround inspect path/to/model --layers

    \b
    Examples:
      autoround inspect out                          # what quantize -o out wrote
      autoround inspect out --json
    """
    from autoround.report.inspection import inspection_lines, inspection_values
    from autoround.storage.json_text import to_json

    inspection = _inspect(options.at_revision(model, revision), check=check)
    if as_json:
        echo(to_json(inspection_values(inspection)))
        return
    for line in inspection_lines(inspection, layers=layers):
        echo(line)


def _inspect(model: str, *, check: bool) -> Inspection:
    """Inspect the GGUF file that is meant, by its own name or its folder's, else the folder."""
    from autoround.checkpoints.inspect import inspect_folder
    from autoround.checkpoints.inspect_gguf import inspect_gguf
    from autoround.model.files.locate import find_model, gguf_file, read_config

    path = Path(model)
    if path.is_file() and path.suffix == ".gguf":
        return inspect_gguf(path)
    model_files = find_model(model)
    file = gguf_file(model_files.folder)
    if file is not None:
        return inspect_gguf(model_files.folder / file)
    read_config(model_files.folder)  # a folder without one is no model, whatever else it lacks
    return inspect_folder(model_files.folder, model_files.headers(), against_class=check)

"""``autoround allocate``: which layer gets how many bits under a budget."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autoround.cli import _options as options
from autoround.cli._output import echo, make_console
from autoround.cli._quiet import quiet_libraries
from autoround.recipe.flags import BUDGET_FLAGS, flags_named

app = typer.Typer()

#: What scoring layers depends on; the rest is for tuning, which this command does not do.
_SCORING_FLAGS = flags_named("nsamples", "seqlen", "dataset", "format")


@app.command(short_help="Find how many bits each layer needs, as a recipe.")
@options.with_flags({"budget": BUDGET_FLAGS, "flags": _SCORING_FLAGS})
def allocate(
    model: options.ModelArgument = None,
    model_option: options.ModelOption = None,
    revision: options.Revision = None,
    recipe: options.RecipeName = None,
    *,
    budget: options.FlagValues,
    export: Annotated[
        Path | None,
        typer.Option("--export", help="Write the allocation as an explicit recipe to this file."),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", help="Draw size against predicted loss (.svg).")
    ] = None,
    device: options.Device = "auto",
    flags: options.FlagValues,
    settings: options.Settings = None,
    work_dir: Annotated[
        Path | None,
        typer.Option("--work-dir", "--work_dir", help="Folder on a fast disk for activations."),
    ] = None,
    layers: Annotated[
        bool, typer.Option("--layers", help="List every layer with its options' losses.")
    ] = False,
) -> None:
    """Find how many bits each layer needs, and write that as a recipe.

    \b
    With a model of your own:
      autoround allocate path/to/model --target-size 3.8GB --options W3,W4,W8,16
      autoround allocate path/to/model --avg-bits 3 --export mixed.yaml
      autoround quantize path/to/model --recipe mixed.yaml

    \b
    Examples:
      autoround allocate --avg-bits 5 --save scores.json --export mixed.yaml
      autoround allocate --max-kl 0.5 --save scores.json      # in seconds: scores are there
    """
    name = options.choose_model(model, model_option, revision)
    resolved = options.resolve_recipe(recipe, name, flags | budget, overrides=settings)
    _check_writable(export, plot)
    from autoround import api
    from autoround.report.allocation import allocation_lines, allocation_svg
    from autoround.report.progress import Progress

    with quiet_libraries():
        # What is printed on stdout is the allocation alone, so that it can be piped.
        sink = Progress(make_console(stderr=True))
        explicit, chosen, scores = api.allocate(
            name, resolved, device=device, work_dir=work_dir, sink=sink
        )
    for line in allocation_lines(chosen, scores, layers=layers):
        echo(line)
    for path, text in ((export, explicit.to_yaml()), (plot, allocation_svg(chosen))):
        if path is not None:
            _write(path, text)


def _check_writable(*paths: Path | None) -> None:
    """Refuse files that cannot be written, before layers are scored."""
    from autoround.errors import OutputError

    for path in paths:
        if path is not None and (path.is_dir() or not path.absolute().parent.is_dir()):
            raise OutputError(f"{path} cannot be written: name a file in a folder that exists")


def _write(path: Path, text: str) -> None:
    from autoround.storage.durable import write_text

    write_text(path, text)
    echo(f"written      {path}")

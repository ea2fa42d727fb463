"""``autoround allocate``: which layer gets how many bits under a budget."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autoround.cli import _options as options

app = typer.Typer()


@app.command()
def allocate(
    model: options.ModelArgument = None,
    model_option: options.ModelOption = None,
    recipe: options.RecipeName = None,
    avg_bits: Annotated[
        float | None,
        typer.Option("--avg-bits", "--avg_bits", help="Budget: bits a weight, scales counted."),
    ] = None,
    target_size: Annotated[
        str | None,
        typer.Option("--target-size", "--target_size", help="Budget: size of it all, as 3.8GB."),
    ] = None,
    max_kl: Annotated[
        float | None,
        typer.Option("--max-kl", "--max_kl", help="Budget: predicted divergence; least size."),
    ] = None,
    choices: Annotated[
        str | None,
        typer.Option("--options", help="What layers may be held in, as W2,W3,W4g64,16."),
    ] = None,
    save: Annotated[
        Path | None,
        typer.Option("--save", help="File of scores: read if it is there, else written."),
    ] = None,
    export: Annotated[
        Path | None,
        typer.Option("--export", help="Write the allocation as a recipe by hand to this file."),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", help="Draw size against predicted loss (.svg).")
    ] = None,
    device: options.Device = "auto",
    nsamples: options.Samples = None,
    seqlen: options.SeqLen = None,
    dataset: options.Dataset = None,
    format: options.Format = None,
    settings: options.Settings = None,
    work_dir: Annotated[
        Path | None,
        typer.Option("--work-dir", "--work_dir", help="Folder on a fast disk for activations."),
    ] = None,
    layers: Annotated[
        bool, typer.Option("--layers", help="List every layer with the losses it chose from.")
    ] = False,
) -> None:
    """Find how many bits each layer needs, and write that as a recipe.

    \b
    Examples:
      autoround allocate path/to/model --avg-bits 3 --save scores.json --export mixed.yaml
      autoround allocate path/to/model --avg-bits 2.5 --save scores.json    # in seconds
      autoround allocate path/to/model --target-size 3.8GB --options W3,W4,W8,16
      autoround quantize path/to/model --recipe mixed.yaml
    """
    given = {"avg_bits": avg_bits, "target_size": target_size, "max_kl": max_kl}
    flags: dict[str, object] = {
        "nsamples": nsamples,
        "seqlen": seqlen,
        "dataset": dataset,
        "format": format,
        **given,
        "options": None if choices is None else [word.strip() for word in choices.split(",")],
        "save": None if save is None else str(save),
    }
    if any(value is not None for value in given.values()):
        # A budget of the command line takes the place of the recipe's.
        flags |= {key: "none" for key, value in given.items() if value is None}
    name = options.one_model(model, model_option)
    resolved = options.resolve_recipe(options.recipe_for(recipe, name), flags, overrides=settings)
    from autoround.cli import _work

    _work.allocate_and_report(
        name, resolved, device=device, written=_work.Written(export, plot, work_dir), layers=layers
    )

"""``autoround plan``: what a run would do and cost, before any hours are spent."""

from __future__ import annotations

from typing import Annotated

import typer

from autoround.cli import _options as options

app = typer.Typer()


@app.command()
def plan(
    model: options.ModelArgument = None,
    model_option: options.ModelOption = None,
    recipe: options.RecipeName = None,
    device: options.Device = "auto",
    bits: options.Bits = None,
    group_size: options.GroupSize = None,
    sym: options.Sym = None,
    iters: options.Iters = None,
    lr: options.Rate = None,
    minmax_lr: options.MinMaxRate = None,
    batch_size: options.BatchSize = None,
    gradient_accumulate_steps: options.Accumulate = None,
    low_memory: options.LowMemory = None,
    nsamples: options.Samples = None,
    seqlen: options.SeqLen = None,
    dataset: options.Dataset = None,
    format: options.Format = None,
    seed: options.Seed = None,
    settings: options.Settings = None,
    max_memory: options.MaxMemory = None,
    layers: Annotated[
        bool, typer.Option("--layers", help="List every layer with its scheme or reason.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON.")] = False,
) -> None:
    """Print what quantize would do and what it would cost, and do nothing.

    \b
    Examples:
      autoround plan path/to/model --recipe light
      autoround plan path/to/model --bits 2 --group-size 64 --layers
      autoround plan path/to/model --format auto_gptq,gguf:q4_k_m
      autoround plan path/to/model --json > plan.json
    """
    flags = {
        "bits": bits,
        "group_size": group_size,
        "sym": sym,
        "iters": iters,
        "lr": lr,
        "minmax_lr": minmax_lr,
        "batch_size": batch_size,
        "gradient_accumulate_steps": gradient_accumulate_steps,
        "low_memory": low_memory,
        "nsamples": nsamples,
        "seqlen": seqlen,
        "dataset": dataset,
        "format": format,
        "seed": seed,
    }
    name = options.one_model(model, model_option)
    resolved = options.resolve_recipe(options.recipe_for(recipe, name), flags, overrides=settings)
    allowed = options.as_bytes(max_memory)
    from autoround.cli import _work

    shown = _work.Shown(layers, as_json)
    _work.show_plan(name, resolved, device=device, max_memory=allowed, shown=shown)

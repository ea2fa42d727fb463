"""``autoround quantize``: the main job."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autoround.cli import _options as options
from autoround.types import Destination

app = typer.Typer()


@app.command()
def quantize(
    context: typer.Context,
    model: options.ModelArgument = None,
    model_option: options.ModelOption = None,
    recipe: options.RecipeName = None,
    output_dir: Annotated[
        Path | None,
        typer.Option(
            "--output-dir",
            "--output_dir",
            "-o",
            help="Folder to write; by default quantized/MODEL-SCHEME.",
            show_default=False,
        ),
    ] = None,
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
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on after the last finished block of an earlier run."),
    ] = False,
    restart: Annotated[
        bool,
        typer.Option("--restart", help="Throw away what an interrupted run left, and begin."),
    ] = False,
    max_memory: options.MaxMemory = None,
    work_dir: Annotated[
        Path | None,
        typer.Option(
            "--work-dir",
            "--work_dir",
            help="Folder on a fast disk for activations; by default beside the output.",
            show_default=False,
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan and its cost, and stop.")
    ] = False,
    evaluate: Annotated[
        bool,
        typer.Option("--eval", help="Score the written result and the original afterwards."),
    ] = False,
    eval_text: Annotated[
        Path | None,
        typer.Option("--eval-text", help="File to score on; by default held-back embedded text."),
    ] = None,
    prompt: Annotated[
        str | None,
        typer.Option("--prompt", help="Let the written result continue this text afterwards."),
    ] = None,
) -> None:
    """Quantize a model and write it.

    \b
    Examples:
      autoround quantize                                   # embedded model and text
      autoround quantize path/to/model --recipe light.yaml
      autoround quantize --model path/to/model --bits 4 --group_size 128 --asym \\
          --iters 200 --dataset calib.jsonl --output_dir out --device cpu
      autoround quantize path/to/model --recipe w2 --set tuning.lr=5e-3 --eval
      autoround quantize path/to/model --max-memory 16GB -o out --resume
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

    if dry_run:
        _work.show_plan(name, resolved, device=device, max_memory=allowed)
        return
    target = output_dir or _work.default_output(name, resolved)
    place = Destination(target, resume, restart, allowed, work_dir)
    after = _work.After(evaluate or eval_text is not None, eval_text, prompt)
    with _work.hinting(place, context.obj):
        _work.quantize_and_report(name, resolved, place=place, device=device, after=after)

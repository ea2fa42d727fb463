"""``autoround quantize``: the main job."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from autoround.cli import _options as options
from autoround.cli._output import echo, make_console
from autoround.cli._quiet import quiet_libraries
from autoround.cli.plan import PlanView, show_plan
from autoround.errors import AutoRoundError, UsageError
from autoround.recipe.flags import RUN_FLAGS
from autoround.types import PER_CHANNEL, PER_TENSOR, Destination

if TYPE_CHECKING:
    from autoround.recipe.schema import Recipe

app = typer.Typer()


@app.command()
@options.with_flags({"flags": RUN_FLAGS})
def quantize(
    context: typer.Context,
    model: options.ModelArgument = None,
    model_option: options.ModelOption = None,
    revision: options.Revision = None,
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
    *,
    flags: options.FlagValues,
    settings: options.Settings = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on after the last finished block of an earlier run."),
    ] = False,
    restart: Annotated[
        bool,
        typer.Option("--restart", help="Discard the finished blocks of an earlier run, and begin."),
    ] = False,
    no_journal: Annotated[
        bool,
        typer.Option(
            "--no-journal",
            "--no_journal",
            help="Keep no finished blocks on the disk: a run that is stopped begins anew.",
        ),
    ] = False,
    max_memory: options.MaxMemory = None,
    stream_hub: options.StreamHub = False,
    engines: options.Engines = None,
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
    With a model of your own:
      autoround quantize path/to/model --recipe light --eval -o out
      autoround quantize --model path/to/model --bits 4 --group_size 128 --asym \\
          --iters 200 --dataset calib.jsonl --output_dir out --device cpu
      autoround quantize Qwen/Qwen3-0.6B --revision main --bits 4 -o out
      autoround quantize owner/larger-than-the-disk --stream-hub -o out
      autoround quantize path/to/model --recipe w2 --set tuning.lr=5e-3 --eval
      autoround quantize path/to/model --max-memory 16GB -o out --resume

    \b
    Examples:
      autoround quantize --recipe rtn -o out         # the embedded model, in seconds
      autoround quantize --scheme W3A16G64 --iters 0 --format auto_round,auto_gptq -o both
    """
    from autoround import api
    from autoround.report.progress import Progress

    name = options.choose_model(model, model_option, revision)
    asked = options.parse_engines(engines)
    resolved = options.resolve_recipe(recipe, name, flags, overrides=settings)
    allowed = options.parse_max_memory(max_memory)
    if stream_hub and (evaluate or eval_text is not None):
        raise UsageError(
            "--stream-hub never has the whole original on the disk, and --eval scores it: leave "
            "one of them out"
        )
    if dry_run:
        show_plan(
            name,
            resolved,
            device=device,
            max_memory=allowed,
            stream_hub=stream_hub,
            journal=not no_journal,
            view=PlanView(asked),
        )
        return
    folder = output_dir or default_output(name, resolved)
    destination = Destination(
        folder, resume, restart, allowed, work_dir, stream_hub, journal=not no_journal
    )
    with _noting_how_to_resume(destination, context.obj), quiet_libraries():
        if eval_text is not None:
            _check_text(eval_text)
        sink = Progress(make_console(), engines=asked)
        api.quantize(name, resolved, output_dir=destination, device=device, sink=sink)
        # Whatever ends the command from here on.
        context.obj.hint = f"{folder} is complete"
        if evaluate or eval_text is not None:
            _evaluate(name, resolved, folder, text=eval_text, device=device)
        if prompt is not None:
            _continue_text(folder, prompt, device=device)


def default_output(model: str | None, recipe: Recipe) -> Path:
    """Return a folder name that says what it holds: ``quantized/MODEL-w4g128``.

    Args:
        model: folder or hub id; None for the embedded model.
        recipe: whose scheme the name ends with.
    """
    name = "smollm2-135m" if model is None else _own_name(model)
    scheme = recipe.scheme.as_scheme()
    group = {PER_CHANNEL: "channel", PER_TENSOR: "tensor"}.get(
        scheme.group_size, f"g{scheme.group_size}"
    )
    grid = "" if scheme.sym else "-asym"
    mixed = "-mixed" if recipe.layers else ""
    return Path("quantized") / f"{name}-w{scheme.bits}{group}{grid}{mixed}"


def _own_name(model: str) -> str:
    """Return a model's name without what is before it, or a revision behind it."""
    from autoround.model.files.hub import parse_hub_name

    path = Path(model)
    hub = None if os.path.exists(os.path.expanduser(model)) else parse_hub_name(model)
    return path.name if hub is None else Path(hub.repo).name


@contextmanager
def _noting_how_to_resume(
    destination: Destination, invocation: options.Invocation
) -> Iterator[None]:
    """Note the command that goes on, where a run ends before it is done."""
    from autoround.resume.journal import blocks_in
    from autoround.resume.policy import OtherRunError

    try:
        yield
    except (KeyboardInterrupt, AutoRoundError) as error:
        finished = blocks_in(destination.folder)
        # Blocks of another run are no use to this one: its command would be refused again.
        if finished and not isinstance(error, OtherRunError):
            noun = "block is" if finished == 1 else "blocks are"
            command = invocation.resume_command()
            invocation.hint = f"{finished} finished {noun} kept; go on with: {command}"
        raise


def _check_text(text: Path) -> None:
    """Refuse a text that cannot be scored on, before any hours are spent on tuning."""
    from autoround.data.holdout import check_text

    check_text(text)


def _evaluate(
    model: str | None, recipe: Recipe, folder: Path, *, text: Path | None, device: str
) -> None:
    """Score what was written and the original on a text, and print that."""
    from autoround.evaluate.compare import compare
    from autoround.model.files.embedded import NAME as EMBEDDED_NAME
    from autoround.model.files.embedded import embedded_model
    from autoround.report.evaluation import evaluation_lines, prediction_lines
    from autoround.report.saved import save_evaluation
    from autoround.report.windows import WindowProgress

    echo("eval: reloading the result and the original")
    progress = WindowProgress(make_console())
    scores = compare(
        folder,
        str(embedded_model() if model is None else Path(model)),
        text=text,
        seqlen=recipe.evaluation.seqlen,
        max_tokens=recipe.evaluation.max_tokens,
        device=device,
        on_window=progress,
    )
    for line in evaluation_lines(scores) + prediction_lines(folder, scores):
        echo(line)
    seqlen = recipe.evaluation.seqlen
    save_evaluation(folder, scores, text=text, original=model or EMBEDDED_NAME, seqlen=seqlen)


def _continue_text(folder: Path, prompt: str, *, device: str) -> None:
    """Let what was written continue a text, and print both."""
    from autoround.evaluate.generate import generate
    from autoround.report.saved import save_generation

    text = generate(folder, prompt, max_new_tokens=32, device=device)
    echo(f"generated from the reloaded result: {prompt}{text}", keep="\n\t")
    save_generation(folder, prompt, text)

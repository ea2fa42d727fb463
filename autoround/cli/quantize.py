"""``autoround quantize``: the main job."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from autoround.cli import _options as options
from autoround.cli._afterwards import (
    Texts,
    Written,
    continue_original,
    continue_written,
    score_written,
)
from autoround.cli._output import echo, tell_start
from autoround.cli._quiet import quiet_libraries
from autoround.cli._watch import EventFile, Quiet, Telling, Verbose, watching
from autoround.cli.plan import PlanView, show_plan
from autoround.errors import AutoRoundError, GateError, UsageError
from autoround.recipe.flags import RUN_FLAGS
from autoround.types import PER_CHANNEL, PER_TENSOR, Destination

if TYPE_CHECKING:
    from autoround.events import Judged
    from autoround.recipe.schema import Recipe
    from autoround.types import EvalResult, RunResult

app = typer.Typer()


@app.command(short_help="Quantize a model and write it.")
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
    prompt: Annotated[
        str | None,
        typer.Option(
            "--prompt",
            help="Let the written result continue this text afterwards; the original, too, where "
            "--eval or --gate loads it.",
        ),
    ] = None,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json", help="Print the outcome as one JSON object, and all else on stderr."
        ),
    ] = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    events: EventFile = None,
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
      autoround quantize path/to/model --gate "ppl<=1.05x,kl<=0.1" --events run.jsonl -o out

    \b
    Examples:
      autoround quantize --recipe rtn -o out         # the embedded model, in seconds
      autoround quantize --scheme W3A16G64 --iters 0 --format auto_round,auto_gptq -o both
    """
    if not quiet:
        tell_start(stderr=as_json or dry_run)
    name = options.choose_model(model, model_option, revision)
    asked = options.parse_engines(engines)
    resolved = options.resolve_recipe(recipe, name, flags, overrides=settings)
    allowed = options.parse_max_memory(max_memory)
    telling = Telling(quiet, verbose, on_stderr=as_json, events=events, engines=asked)
    evaluate = evaluate or flags.get("eval_text") is not None
    if prompt == "":
        raise UsageError("--prompt is empty; give some text to continue, or leave it out")
    if stream_hub and evaluate:
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
            view=PlanView(asked, layers=verbose, as_json=as_json),
        )
        return
    folder = output_dir or default_output(name, resolved)
    destination = Destination(
        folder, resume, restart, allowed, work_dir, stream_hub, journal=not no_journal
    )
    with _noting_how_to_resume(destination, context.obj):
        outcome = _run(name, resolved, destination, device=device, telling=telling)
        # Whatever ends the command from here on.
        context.obj.hint = f"{folder} is complete"
        written = Written(
            name, _format_folders(outcome.result), resolved.evaluation, device, stream_hub
        )
        shown = _show_quality(outcome, written, evaluate, prompt=prompt, telling=telling)
    _tell_end(outcome, *shown, telling=telling)
    if outcome.missed is not None:
        raise outcome.missed


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run ended with: its result, the verdicts on it, and the gate that it missed."""

    result: RunResult
    judged: Sequence[Judged]
    missed: GateError | None = None


def _run(
    model: str | None, recipe: Recipe, destination: Destination, *, device: str, telling: Telling
) -> Outcome:
    """Run a recipe, and tell of it while it lasts."""
    with watching(telling) as watch:
        # Now that something is on the screen: this takes seconds.
        from autoround import api
        from autoround.gated import MissedGateError

        with quiet_libraries():
            try:
                result = api.quantize(
                    model, recipe, output_dir=destination, device=device, sink=watch
                )
            except MissedGateError as error:
                return Outcome(error.result, watch.judged, error)
    return Outcome(result, watch.judged)


def _show_quality(
    outcome: Outcome, written: Written, evaluate: bool, *, prompt: str | None, telling: Telling
) -> tuple[EvalResult | None, Texts | None]:
    """Score what was written, unless its gate did, and let it continue a prompt.

    The original writes, too, where it was in memory as a whole for scores or a gate: anywhere else
    there may be no room for it.
    """
    scores, original = outcome.result.evaluation, None
    if evaluate and scores is None:
        scores, original = score_written(written, prompt, telling=telling)
    elif prompt is not None and outcome.judged and not written.streamed:
        original = continue_original(written, prompt)
    return scores, None if prompt is None else continue_written(written, prompt, original)


def _tell_end(
    outcome: Outcome, scores: EvalResult | None, texts: Texts | None, *, telling: Telling
) -> None:
    """Print the outcome: one JSON object, or what was generated and the commands that come next."""
    from autoround.report.next_steps import next_step_lines
    from autoround.report.result import judged_values, result_values
    from autoround.storage.json_text import to_json

    result = outcome.result
    next_steps = [] if outcome.missed else next_step_lines(result.plan, result.output_dir)
    if telling.on_stderr:
        values = result_values(dataclasses.replace(result, evaluation=scores))
        written = {"generated": None, "generated_by_original": None}
        values |= {"gate": judged_values(outcome.judged)}
        values |= (texts.values() if texts else written) | {"next": next_steps}
        echo(to_json(values))
        return
    for line in texts.lines() if texts else []:
        echo(line, keep="\n\t")
    if not telling.quiet:
        for line in next_steps:
            echo(line)


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
    from autoround.resume.records import UnusableJournalError

    try:
        yield
    except (KeyboardInterrupt, AutoRoundError) as error:
        finished = blocks_in(destination.folder)
        # Of another run, of another version, or damaged: the command would be refused again.
        if finished and not isinstance(error, UnusableJournalError):
            noun = "block is" if finished == 1 else "blocks are"
            command = invocation.resume_command()
            invocation.hint = f"{finished} finished {noun} kept; go on with: {command}"
        raise


def _format_folders(result: RunResult) -> dict[str, Path]:
    """Return the folder of each format that a run has written: the output itself, or one below."""
    return {x.format: result.output_dir / x.folder for x in result.plan.all_outputs}

"""``autoround plan``: what a run would do and cost, before any hours are spent."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from autoround.cli import _options as options
from autoround.cli._output import echo, fit_terminal, tell_start
from autoround.cli._quiet import quiet_libraries
from autoround.recipe.flags import RUN_FLAGS

if TYPE_CHECKING:
    from autoround.events import Event
    from autoround.recipe.schema import Recipe

app = typer.Typer()


@app.command(short_help="Print what quantize would do, and its cost.")
@options.with_flags({"flags": RUN_FLAGS})
def plan(
    model: options.ModelArgument = None,
    model_option: options.ModelOption = None,
    revision: options.Revision = None,
    recipe: options.RecipeName = None,
    device: options.Device = "auto",
    *,
    flags: options.FlagValues,
    settings: options.Settings = None,
    max_memory: options.MaxMemory = None,
    stream_hub: options.StreamHub = False,
    engines: options.Engines = None,
    layers: Annotated[
        bool, typer.Option("--layers", help="List every layer with its scheme or reason.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON.")] = False,
    probe: Annotated[
        bool,
        typer.Option("--probe", help="Tune a block for some steps, for a closer estimate of time."),
    ] = False,
) -> None:
    """Print what quantize would do and what it would cost, and do nothing.

    Its range of time is guessed from products timed here; with --probe it is measured: a block of
    the model is tuned for some steps, and what that takes is scaled to the whole run.

    \b
    With a model of your own:
      autoround plan path/to/model --recipe light --probe
      autoround plan path/to/model --format auto_gptq,gguf:q4_k_m --json > plan.json

    \b
    Examples:
      autoround plan --format auto_gptq --asym --for vllm,sglang
      autoround plan --bits 2 --group-size 64 --layers
    """
    tell_start(stderr=True)
    name = options.choose_model(model, model_option, revision)
    asked = options.parse_engines(engines)
    resolved = options.resolve_recipe(recipe, name, flags, overrides=settings)
    allowed = options.parse_max_memory(max_memory)
    show_plan(
        name,
        resolved,
        device=device,
        max_memory=allowed,
        stream_hub=stream_hub,
        view=PlanView(asked, layers=layers, as_json=as_json, probe=probe),
    )


@dataclass(frozen=True)
class PlanView:
    """What of a plan is printed.

    engines: serving engines that are asked about. layers: whether every layer has a line.
    as_json: whether one JSON object is printed in place of lines.
    probe: whether a block is tuned for the range of time.
    """

    engines: tuple[str, ...] = ()
    layers: bool = False
    as_json: bool = False
    probe: bool = False


def show_plan(
    model: str | None,
    recipe: Recipe,
    *,
    device: str,
    max_memory: int | None,
    stream_hub: bool = False,
    journal: bool = True,
    view: PlanView,
) -> None:
    """Print a plan and its cost.

    Args:
        model: folder or hub id; None for the embedded model.
        recipe: what to do with it.
        device: as ``--device`` names it.
        max_memory: bytes that the run may use; None for most of what is free.
        stream_hub: whether files of weights come from the hub one after another.
        journal: whether finished blocks would be kept while the run lasts.
        view: what of it to print, and how.
    """
    from autoround.preparation import prepare
    from autoround.report.plan import layer_lines, plan_lines
    from autoround.report.progress import PLAN_INDENT
    from autoround.request import make_request, refuse_null
    from autoround.storage.json_text import to_json
    from autoround.time_probe import probe_time

    with quiet_libraries():
        request = make_request(model, recipe, device=device, stream=stream_hub)
        if view.probe:
            refuse_null(request)
        prepared = prepare(
            request, sink=_warn, max_memory=max_memory, may_score=False, journal=journal
        )
        if view.probe:
            prepared = probe_time(prepared)
    plan, estimate = prepared.plan, prepared.estimate
    if view.as_json:
        if view.engines:
            serving = tuple(x for x in plan.serving if x.engine in view.engines)
            plan = dataclasses.replace(plan, serving=serving)
        values = {"plan": dataclasses.asdict(plan), "estimate": dataclasses.asdict(estimate)}
        echo(to_json(values, indent=1), keep="\n")
        return
    lines = plan_lines(plan, estimate, engines=view.engines)
    for line in lines + (layer_lines(plan) if view.layers else []):
        echo(fit_terminal(line, indent=PLAN_INDENT), keep="\t\n")


def _warn(event: Event) -> None:
    """Print what a run would warn of before its first block."""
    from autoround.events import Warned

    if isinstance(event, Warned):
        echo(f"warning: {event.message}", err=True)

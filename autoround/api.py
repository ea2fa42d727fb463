"""The Python interface: one function for a whole run, and the class the field knows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from autoround.auto_round import AutoRound
from autoround.calls import explain_calls
from autoround.errors import UsageError
from autoround.events import Sink, ignore
from autoround.gated import run_gated
from autoround.mixed_precision.budget import describe_budget
from autoround.mixed_precision.score_file import Scores
from autoround.mixed_precision.search import (
    ChosenAllocation,
    choose_allocation,
    has_budget,
    score_layers,
    to_layer_rules,
)
from autoround.preparation import computing, prepare, scoring_session
from autoround.recipe.schema import Recipe
from autoround.request import (
    AnyRecipe,
    Model,
    make_request,
    refuse_null,
    resolve_destination,
    resolve_recipe,
)
from autoround.time_probe import probe_time
from autoround.types import Destination, Estimate, Plan, RunResult

__all__ = ["AutoRound", "Model", "allocate", "plan", "quantize"]


@explain_calls
def quantize(
    model: Model = None,
    recipe: AnyRecipe = "default",
    *,
    output_dir: str | Path | Destination,
    device: str | int = "auto",
    tokenizer: Any = None,
    data: object | None = None,
    sink: Sink = ignore,
) -> RunResult:
    """Quantize a model by a recipe and write the result.

    Args:
        model: a folder, a hub id (``owner/name`` or ``owner/name@revision``), a transformers
            model (it is not changed), or None for the embedded default.
        recipe: a built-in name, a file, or a Recipe.
        output_dir: the folder, or a ``Destination`` that also says whether to resume an
            interrupted run and how many bytes of memory to use.
        device: auto, the name of a device that ``autoround doctor`` lists, or the number of an
            accelerator.
        tokenizer: of transformers; needed for a model in memory when the calibration is text.
        data: calibration texts, or token ids of one sample each, in place of the recipe's dataset.
        sink: is told of every event of the run.

    Returns:
        What was done to each block, the size and place of the result, and where the recipe has a
        gate (``evaluation.gate``), the figures that met it.

    Raises:
        GateError: the result is written, and misses the recipe's gate.
        AutoRoundError: what is wrong, wherever possible before any work is done.
    """
    place = resolve_destination(output_dir)
    loaded = resolve_recipe(recipe)
    request = make_request(
        model, loaded, device=device, tokenizer=tokenizer, data=data, stream=place.stream_hub
    )
    return run_gated(refuse_null(request), place, sink=sink)


@explain_calls
def plan(
    model: Model = None,
    recipe: AnyRecipe = "default",
    *,
    device: str | int = "auto",
    tokenizer: Any = None,
    data: object | None = None,
    max_memory: int | None = None,
    stream_hub: bool = False,
) -> tuple[Plan, Estimate]:
    """Return what ``quantize`` would do and what it would cost, without doing it.

    Args:
        model, recipe, tokenizer, data: as ``quantize`` takes them.
        device: auto, or the name of a device; ``null`` plans for one that computes nothing.
        max_memory: bytes that the run may use; None for most of what is free.
        stream_hub: as ``Destination`` has it.

    Returns:
        The plan, ``serving`` of engines among it; its cost: bytes, and a range of seconds.

    Raises:
        AutoRoundError: whatever would stop the run before its first block.
    """
    loaded = resolve_recipe(recipe)
    request = make_request(
        model, loaded, device=device, tokenizer=tokenizer, data=data, stream=stream_hub
    )
    prepared = prepare(request, sink=ignore, max_memory=max_memory, may_score=False)
    return prepared.plan, prepared.estimate


@explain_calls
def probe(
    model: Model = None,
    recipe: AnyRecipe = "default",
    *,
    device: str | int = "auto",
    tokenizer: Any = None,
    data: object | None = None,
    max_memory: int | None = None,
    stream_hub: bool = False,
) -> tuple[Plan, Estimate]:
    """Return what ``plan`` does, with a range of seconds that was measured.

    A block of the model is tuned for a few steps; nothing is written.

    Args:
        model, recipe, tokenizer, data, max_memory, stream_hub: as ``plan`` takes them.
        device: auto, or the name of a device that computes.

    Returns:
        The plan and its cost; ``probed`` of the latter has the parts of the time.

    Raises:
        AutoRoundError: whatever would stop the run at its first block.
    """
    loaded = resolve_recipe(recipe)
    request = make_request(
        model, loaded, device=device, tokenizer=tokenizer, data=data, stream=stream_hub
    )
    refuse_null(request)
    prepared = prepare(request, sink=ignore, max_memory=max_memory, may_score=False)
    measured = probe_time(prepared).estimate
    return prepared.plan, measured


@explain_calls
def allocate(
    model: Model = None,
    recipe: AnyRecipe = "default",
    *,
    device: str | int = "auto",
    tokenizer: Any = None,
    data: object | None = None,
    work_dir: Path | None = None,
    sink: Sink = ignore,
) -> tuple[Recipe, ChosenAllocation, Scores]:
    """Find the bits of every layer under a recipe's budget, without quantizing anything.

    With ``allocate.scores`` set, scores come from that file, or go to it.

    Args:
        model, device, tokenizer, data, sink: as ``quantize`` takes them.
        recipe: a built-in name, a file, or a Recipe, with one of the budgets of ``allocate``.
        work_dir: for activations that do not fit the memory; by default the system's folder.

    Returns:
        The recipe with a rule for each layer in place of the budget; what that was chosen from
        and is predicted to cost; and the scores of the layers.

    Raises:
        AutoRoundError: the recipe has no budget, or one that cannot be met.
    """
    loaded = resolve_recipe(recipe)
    if not has_budget(loaded):
        raise UsageError(
            "this recipe has no budget: set allocate.avg_bits, allocate.target_size or "
            "allocate.max_kl"
        )
    request = make_request(model, loaded, device=device, tokenizer=tokenizer, data=data)
    with computing(refuse_null(request)):
        session = scoring_session(request, sink=sink)
        scores = score_layers(loaded, session, folder=work_dir)
    chosen = choose_allocation(loaded, session.skeleton, session.plan, scores)
    explicit = to_layer_rules(loaded, chosen, session.plan.outputs[0])
    # The description that it came with is of a recipe with other bits.
    described = f"Bits of {request.model_name} by its layers' scores; {describe_budget(chosen)}."
    return explicit.model_copy(update={"description": described}), chosen, scores

"""From a request to a plan: everything that can be checked before the first block."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoround.device.protocol import Runtime
from autoround.events import Planned, Sink, Warned
from autoround.export.load_check import Loader
from autoround.export.open_writer import check_metadata
from autoround.mixed_precision.budget import resolve_budget, restore_budget
from autoround.mixed_precision.search import has_budget
from autoround.model.files.tokenizer import ModelTokenizer
from autoround.model.skeleton import Skeleton
from autoround.planning.calibration import Calibration, load_calibration, needed_calibration
from autoround.planning.estimate import make_estimate
from autoround.planning.memory import host_budget, memory_warnings, refuse_too_little
from autoround.planning.plan import make_plan
from autoround.planning.process import process_for
from autoround.planning.streaming import add_streaming, refuse_scoring, refuse_second_reading
from autoround.recipe.schema import Recipe
from autoround.resume.policy import ResumeState
from autoround.session.session import Placement, Session
from autoround.types import Estimate, Plan


@dataclass(frozen=True)
class Request:
    """What the user asked for, with every name resolved to a thing.

    model_name: what the user calls the model. data: calibration data given from Python. load: what
    a user loads the result by, for the last check of a run; None not to try. describe: writes into
    each complete folder what describes it to people; None for nothing.
    """

    skeleton: Skeleton
    recipe: Recipe
    runtime: Runtime
    model_name: str
    tokenizer: Any = None
    data: object | None = None
    load: Loader | None = None
    describe: Callable[[Path], object] | None = None


@dataclass(frozen=True)
class Prepared:
    """A request that can be run: planned, its cost known, nothing done yet.

    recipe: as it is run, a bit budget resolved into layer rules. allocation: what is predicted of
    these rules; None where the recipe had no budget.
    """

    request: Request
    recipe: Recipe
    allocation: Mapping[str, Any] | None
    calibration: Calibration
    plan: Plan
    estimate: Estimate


@contextmanager
def computing(request: Request, resume: ResumeState | None = None) -> Iterator[None]:
    """Set the process up for a run as its device and its recipe want it, and put it back.

    Files of weights that were streamed are deleted in the end.

    Args:
        request: what to quantize and how.
        resume: what is left of the interrupted run that this one continues.
    """
    interrupted = None if resume is None else resume.machine_settings
    try:
        with process_for(request.recipe, request.runtime, interrupted):
            yield
    finally:
        if request.skeleton.stream is not None:
            request.skeleton.stream.close()


def prepare(
    request: Request,
    *,
    sink: Sink,
    max_memory: int | None = None,
    resume: ResumeState | None = None,
    may_score: bool = True,
    work_dir: Path | None = None,
    journal: bool = True,
) -> Prepared:
    """Check everything that can be checked before the first block, plan, and tell the cost.

    Args:
        request: what to quantize and how.
        sink: is told the plan, and warnings.
        max_memory: bytes that the run may use; what exceeds them goes to the disk where it can.
        resume: what is left of the interrupted run that this one continues.
        may_score: whether layers may be scored now, where the recipe has a bit budget.
        work_dir: for activations that do not fit the memory while layers are scored.
        journal: whether finished blocks are kept while the run lasts.

    Raises:
        AutoRoundError: whatever would stop the run before its first block.
    """
    recipe, skeleton, runtime = request.recipe, request.skeleton, request.runtime
    calibration = load_calibration(recipe, skeleton, tokenizer=request.tokenizer, data=request.data)
    allocation: Mapping[str, Any] | None = None
    if has_budget(recipe):
        refuse_scoring(skeleton)
        if resume is not None:
            recipe, allocation = restore_budget(recipe, resume.recipe, resume.allocation)
        else:
            scoring = scoring_session(request, sink=sink, calibration=calibration)
            recipe, allocation = resolve_budget(
                recipe, scoring, folder=work_dir, may_score=may_score
            )
        calibration = needed_calibration(recipe, calibration)
    plan = make_plan(
        recipe,
        skeleton,
        runtime=runtime,
        calibration=calibration.description,
        model=request.model_name,
        interrupted=None if resume is None else resume.machine_settings,
        fresh=calibration.fresh_samples,
    )
    refuse_second_reading(plan, skeleton)
    # What cannot be written is better told now than after the blocks.
    check_metadata(plan, skeleton, request.tokenizer)
    if isinstance(request.tokenizer, ModelTokenizer):
        request.tokenizer.rest()
    budget = host_budget(runtime, max_memory)
    estimate = _estimate(request, recipe, plan, budget=budget, journal=journal)
    sink(Planned(plan, estimate))
    refuse_too_little(estimate, max_memory)
    warnings = memory_warnings(estimate, plan, runtime, budget)
    for warning in [*warnings, *_slower(runtime, plan)]:
        sink(Warned(warning))
    return Prepared(request, recipe, allocation, calibration, plan, estimate)


def _slower(runtime: Runtime, plan: Plan) -> list[str]:
    """Say what a device has to do without, where a plan would use it."""
    notes = runtime.notes() if plan.tuning.iters else ()
    return [
        f"{runtime.name} is slower than it could be: {note.text}" for note in notes if note.slower
    ]


def _estimate(
    request: Request, recipe: Recipe, plan: Plan, *, budget: int | None, journal: bool
) -> Estimate:
    """Work out what a plan costs, the files of a streamed model among it."""
    skeleton, runtime = request.skeleton, request.runtime
    estimate = make_estimate(plan, skeleton, runtime=runtime, budget=budget, journal=journal)
    if skeleton.stream is None:
        return estimate
    shard = recipe.output.max_shard_bytes
    return add_streaming(estimate, plan, skeleton, runtime=runtime, max_shard_bytes=shard)


def scoring_session(
    request: Request, *, sink: Sink, calibration: Calibration | None = None
) -> Session:
    """Return the session of a recipe as if it had no bit budget: what layers are scored in.

    Raises:
        AutoRoundError: model, data and recipe do not go together.
    """
    if calibration is None:
        calibration = load_calibration(
            request.recipe, request.skeleton, tokenizer=request.tokenizer, data=request.data
        )
    plan = make_plan(
        request.recipe,
        request.skeleton,
        runtime=request.runtime,
        calibration=calibration.description,
        model=request.model_name,
        fresh=calibration.fresh_samples,
    )
    return Session(plan, request.skeleton, request.runtime, calibration.tokens, sink)


def open_session(prepared: Prepared, *, sink: Sink) -> Session:
    """Return the session of the first pass, with nothing kept on the disk."""
    request = prepared.request
    return Session(
        prepared.plan,
        request.skeleton,
        request.runtime,
        prepared.calibration.tokens,
        sink,
        placement=Placement.of(prepared.estimate, stored=False),
        fresh=prepared.calibration.fresh,
    )

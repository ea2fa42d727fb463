"""One run from recipe to output folder: the place to start reading."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from autoround.core.metrics import weight_bits
from autoround.data.tokens import Tokens
from autoround.device.protocol import Runtime
from autoround.errors import OutputError
from autoround.events import Finished, Planned, Sink, StageStarted, Warned
from autoround.export.gguf_writer import GgufWriter, gguf_fields
from autoround.export.safetensors_writer import OutputWriter, SafetensorsWriter
from autoround.export.shards import ShardWriter
from autoround.export.staging import Staging, check_output, check_room
from autoround.export.verify import ReadBackCheck
from autoround.formats import layouts
from autoround.formats.registry import is_gguf
from autoround.mixed_precision.budget import FILE, resolve_budget, restore_budget
from autoround.mixed_precision.search import has_budget
from autoround.model.skeleton import Skeleton
from autoround.planning.calibration import load_calibration
from autoround.planning.estimate import disk_bytes, make_estimate
from autoround.planning.memory import host_budget, memory_warnings, refuse_too_little
from autoround.planning.plan import make_plan
from autoround.recipe.schema import Recipe
from autoround.resume.policy import (
    attach_journal,
    check_rooms,
    completed_results,
    journal_for,
    plan_record,
    with_measured_dtype,
)
from autoround.session.session import BlockOutput, Session
from autoround.storage.json_text import to_json
from autoround.tuning.block import quantize_blocks
from autoround.types import BlockResult, Destination, Estimate, OutputPlan, Plan, RunResult


@dataclass(frozen=True)
class Request:
    """What the user asked for, with every name resolved to a thing.

    model_name: what the user calls the model. data: calibration data given from Python.
    """

    skeleton: Skeleton
    recipe: Recipe
    runtime: Runtime
    model_name: str
    tokenizer: Any = None
    data: object | None = None


def prepare(
    request: Request,
    *,
    sink: Sink,
    max_memory: int | None = None,
    about: Mapping[str, Any] | None = None,
    scoring: Path | bool = True,
) -> tuple[Session, Estimate]:
    """Check everything that can be checked before the first block, plan, and tell the cost.

    max_memory: bytes that the run may use; what is beyond goes to the disk where it can.
    about: what the journal says of the run that is to go on.
    scoring: whether layers may be judged now, where the recipe has a budget of bits, or a folder
    for what does not fit the memory then.

    Raises:
        AutoRoundError: whatever would stop the run before its first block.
    """
    if has_budget(request.recipe):
        recipe, allocation = _by_hand(request, sink, about, scoring)
        request = replace(request, recipe=recipe)
        job, estimate = prepare(request, sink=sink, max_memory=max_memory, about=about)
        return replace(job, allocation=allocation), estimate
    tokens, plan = _planned(request)
    plan = with_measured_dtype(request.recipe, plan, runtime=request.runtime, about=about)
    for output in (output for one in plan.passes for output in one.outputs if is_gguf(output)):
        # A tokenizer that cannot be written is better told now.
        gguf_fields(
            request.skeleton,
            request.tokenizer,
            model=plan.model,
            file_type=output.packing.removeprefix(layouts.GGUF),
        )
    budget = host_budget(request.runtime, max_memory)
    estimate = make_estimate(
        plan, request.skeleton, recipe=request.recipe, runtime=request.runtime, budget=budget
    )
    sink(Planned(plan, estimate))
    refuse_too_little(estimate, max_memory)
    for warning in memory_warnings(estimate, request.recipe, request.runtime, budget):
        sink(Warned(warning))
    _tell_of_fallbacks(request, sink)
    job = Session(plan, request.recipe, request.skeleton, request.runtime, tokens, sink)
    held = replace(job, resident=estimate.streams_on_device, graphs=estimate.graphs_held)
    return held, estimate


def _planned(request: Request) -> tuple[Tokens | None, Plan]:
    """Read the calibration data, and resolve the recipe against the model."""
    tokens, what = load_calibration(
        request.recipe, request.skeleton, tokenizer=request.tokenizer, data=request.data
    )
    plan = make_plan(
        request.recipe,
        request.skeleton,
        runtime=request.runtime,
        calibration=what,
        model=request.model_name,
    )
    return tokens, plan


def _tell_of_fallbacks(request: Request, sink: Sink) -> None:
    """Warn of what makes a device slower than it could be, where it is tuned on."""
    for note in request.runtime.notes():
        if note.slower and request.recipe.tuning.iters:
            sink(Warned(f"{request.runtime.name} is slower than it could be: {note.text}"))


def _by_hand(
    request: Request, sink: Sink, about: Mapping[str, Any] | None, scoring: Path | bool
) -> tuple[Recipe, dict[str, Any]]:
    """Turn a recipe with a budget into one by hand; a run that goes on has done that before."""
    if about is not None:
        return restore_budget(request.recipe, about)
    job = scoring_job(request, sink=sink)
    folder = scoring if isinstance(scoring, Path) else None
    return resolve_budget(job, folder=folder, may_score=scoring is not False)


def scoring_job(request: Request, *, sink: Sink) -> Session:
    """Return the job of a recipe as if it had no budget: what layers are judged in.

    Raises:
        AutoRoundError: model, data and recipe do not go together.
    """
    tokens, plan = _planned(request)
    return Session(plan, request.recipe, request.skeleton, request.runtime, tokens, sink)


def run(request: Request, output: Path | Destination, *, sink: Sink) -> RunResult:
    """Quantize a model and write it; what is finished is kept beside the output until then.

    Raises:
        AutoRoundError: before any work where that is possible; the output folder then
            does not exist, nor does a part of it.
    """
    place = output if isinstance(output, Destination) else Destination(output)
    if not place.resume:
        check_output(place.folder)
    with request.runtime.computing(), journal_for(place) as (journal, about):
        job, estimate = prepare(
            request,
            sink=sink,
            max_memory=place.max_memory,
            about=about,
            scoring=place.work_dir or True,
        )
        before = completed_results(place.folder, job.plan) if place.resume else None
        if before is not None:
            sink(StageStarted("resume", f"{place.folder} is complete"))
            journal.clear()
            return _result(job, before, place.folder)
        check_output(place.folder)
        size = disk_bytes(job.plan, job.skeleton)
        check_room(place.folder, size)
        jobs = [replace(job, plan=plan) for plan in (job.plan, *job.plan.passes[1:])]
        if check_rooms(place, job, output=size, estimate=estimate):
            jobs = attach_journal(jobs, journal, about, estimate=estimate)
        elif estimate.journal_bytes:
            sink(Warned(_no_journal(estimate)))
        sink(StageStarted("tune", f"{len(job.plan.blocks)} blocks on {job.plan.device}"))
        passes = [(one, quantize_blocks(one)) for one in jobs]
        try:
            result = write_blocks(passes, place.folder, tokenizer=request.tokenizer)
        except OSError as error:
            # Wherever a full disk is met: side files, reports, the last rename.
            raise OutputError(f"{place.folder} cannot be written: {error}") from error
        journal.clear()
        return result


def _no_journal(estimate: Estimate) -> str:
    return (
        f"the disk has no room for the {estimate.journal_bytes / 1e9:.1f} GB that would keep what "
        "is done, so this run cannot be resumed when it is interrupted"
    )


def write_blocks(
    jobs: Sequence[tuple[Session, Iterable[BlockOutput]]], output: Path, *, tokenizer: Any
) -> RunResult:
    """Write blocks as they come, then everything around them, and finish the folder.

    jobs: the passes over the blocks, each with its own formats.
    """
    started = time.perf_counter()
    results: list[BlockResult] = []
    first = jobs[0][0]
    parts = [part for job, _ in jobs for part in job.plan.outputs]
    tuning = 0.0
    with ExitStack() as stack:
        whole = stack.enter_context(Staging(output)) if len(parts) > 1 else None
        root = output if whole is None else whole.staging
        size = 0
        for number, (job, blocks) in enumerate(jobs, start=1):
            if len(jobs) > 1:
                names = ", ".join(part.format for part in job.plan.outputs)
                job.sink(StageStarted("pass", f"{number} of {len(jobs)}: {names}"))
            opened = [open_output(job, part, root, stack, tokenizer) for part in job.plan.outputs]
            begun = time.perf_counter()
            rehearsal = _rehearsal(job)
            each = [_rehearsal(job) if one.rounds_kept else rehearsal for one in opened]
            own = list(_tuned(blocks, opened, each))
            tuning += time.perf_counter() - begun
            results += own
            job.sink(StageStarted("write", str(output)))
            _write_rest(job, opened, own)
            job.sink(StageStarted("verify", f"{rehearsal.what} through the files read back"))
            for part, target, one in zip(job.plan.outputs, opened, each, strict=True):
                one.compare(target.complete(), f"format {part.format}")
            size += sum(target.publish() for target in opened)
        if whole is not None:
            size = whole.publish()
    seconds = time.perf_counter() - started
    first.sink(Finished(str(output), seconds, size))
    return replace(
        _result(first, results, output), seconds=seconds, tuning_seconds=tuning, disk_bytes=size
    )


def _result(job: Session, results: Sequence[BlockResult], output: Path) -> RunResult:
    layers = [x for block in job.plan.blocks for x in block.quantized]
    bits = sum(weight_bits(x.shape, x.scheme) for x in layers if x.scheme is not None)
    return RunResult(
        output_dir=output,
        plan=job.plan,
        blocks=tuple(results),
        seconds=0.0,
        tuning_seconds=0.0,
        peak_bytes=job.runtime.peak_bytes(),
        disk_bytes=sum(p.stat().st_size for p in output.rglob("*") if p.is_file()),
        bits_per_weight=bits / sum(x.shape[0] * x.shape[1] for x in layers),
    )


def _rehearsal(job: Session) -> ReadBackCheck:
    ids = None if job.tokens is None else job.tokens.ids
    return ReadBackCheck(job.skeleton, job.plan, ids=ids)


def _tuned(
    blocks: Iterable[BlockOutput],
    opened: Sequence[OutputWriter],
    rehearsals: Sequence[ReadBackCheck],
) -> Iterator[BlockResult]:
    """Hand finished blocks to all outputs, and run the rehearsals, which some of them share."""
    for block in blocks:
        for target in opened:
            target.add_layers(block.layers)
            target.add_kept(block.kept)
        for rehearsal, target in dict(zip(rehearsals, opened, strict=True)).items():
            kept = target.held(block.kept)
            rehearsal.advance_carried(block.result.index, block.layers, kept)
        yield block.result


def _write_rest(
    job: Session, opened: Sequence[OutputWriter], results: Sequence[BlockResult]
) -> None:
    """Hand over what lies outside the blocks, and the reports."""
    for name in job.skeleton.names_outside_blocks():
        tensors = job.skeleton.read([name])
        for target in opened:
            target.add_kept(tensors)
    for name in job.skeleton.extras:
        tensors = job.skeleton.source.read([name])
        for target in opened:
            target.add_extras(tensors)
    for target in opened:
        _write_reports(target, job, results)


def open_output(
    job: Session, part: OutputPlan, root: Path, stack: ExitStack, tokenizer: Any
) -> OutputWriter:
    """Open the output of one format; it is completed by its ``finish``."""
    folder = root / part.folder
    if is_gguf(part):
        staging = stack.enter_context(Staging(folder))
        _write_side_files(staging, job, tokenizer)
        return GgufWriter(staging, job.plan, part, skeleton=job.skeleton, tokenizer=tokenizer)
    writer = ShardWriter(folder, max_shard_bytes=job.recipe.output.max_shard_bytes)
    writer = stack.enter_context(writer)
    _write_side_files(writer, job, tokenizer)
    return SafetensorsWriter(writer, job.plan, part, job.skeleton)


def _write_side_files(staging: Staging, job: Session, tokenizer: Any) -> None:
    """Write what goes with a model whatever its weights are: tokenizer, generation, licence."""
    if job.skeleton.folder is not None:
        staging.copy_side_files(job.skeleton.folder)
        return
    generation = getattr(job.skeleton.model, "generation_config", None)
    if generation is not None:
        generation.save_pretrained(staging.staging)
    if tokenizer is not None:
        tokenizer.save_pretrained(staging.staging)


def _write_reports(target: OutputWriter, job: Session, results: Sequence[BlockResult]) -> None:
    target.add_text("recipe.yaml", job.recipe.to_yaml())
    target.add_text("plan.json", to_json(plan_record(job.plan), indent=1) + "\n")
    if job.allocation is not None:
        target.add_text(FILE, to_json(job.allocation, indent=1) + "\n")
    lines = [to_json(dataclasses.asdict(result)) for result in results]
    target.add_text("report.jsonl", "".join(line + "\n" for line in lines))

"""One run from recipe to output folder: the place to start reading.

:func:`run` opens the journal, plans (:mod:`autoround.preparation`) and opens a session for each
pass; :func:`write_passes` is the loop over passes, :func:`quantize_pass` the loop over blocks.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TypeAlias

import torch

from autoround.errors import OutputError, UsageError
from autoround.events import BlockDone, Finished, Sink, StageStarted, Warned
from autoround.export.open_writer import OutputTarget, open_writer
from autoround.export.preflight import (
    check_cache_room,
    check_output,
    check_room,
    room_for_journal,
)
from autoround.export.run_file import RunFacts, RunRecorder, write_run_files
from autoround.export.staging import Staging
from autoround.export.writer import OutputWriter, add_outside_blocks
from autoround.mixed_precision.budget import ALLOCATION_FILE
from autoround.model.skeleton import not_streamed
from autoround.planning.code_roles import refuse_partial
from autoround.planning.estimate import quantized_bits
from autoround.preparation import Prepared, Request, computing, prepare
from autoround.resume.commit import choose_tasks, commit_unit, on_device, pack_unit
from autoround.resume.fingerprint import fingerprint, machine_facts
from autoround.resume.journal import Journal
from autoround.resume.policy import (
    ResumeState,
    check_streaming,
    completed_results,
    open_journal,
    open_stores,
    plan_record,
)
from autoround.resume.replay import ReplayedBlocks, replay_block
from autoround.session.block_output import BlockOutput
from autoround.session.checkpoints import CheckpointPolicy
from autoround.session.prefetch import BlockPrefetcher
from autoround.session.session import Placement, Session, choose_checkpoints, make_runner
from autoround.session.task_queue import Behind, TaskQueue
from autoround.settings import QUANTIZED
from autoround.storage.json_text import to_json
from autoround.tuning.block import BlockTuner
from autoround.tuning.end_to_end import tune_end_to_end
from autoround.tuning.first_inputs import open_streams
from autoround.tuning.lm_head import quantize_non_block_layers
from autoround.tuning.step_memory import refuse_full_memory
from autoround.types import BlockPlan, BlockResult, Destination, RunResult

#: Takes the finished units of a pass as they come.
Deliver: TypeAlias = Callable[[BlockOutput], None]


def run(
    request: Request,
    output: Path | Destination,
    *,
    sink: Sink,
    checkpoints: CheckpointPolicy | None = None,
) -> RunResult:
    """Quantize a model and write it; what is finished is kept beside the output until then.

    Args:
        request: what to quantize and how.
        output: the folder, or a destination that also says whether to resume.
        sink: is told of every event.
        checkpoints: when activation streams are saved; None for what suits the device.

    Raises:
        AutoRoundError: before any work where that is possible; the output folder then
            does not exist, nor does a part of it.
    """
    destination = output if isinstance(output, Destination) else Destination(output)
    sink = recorder = RunRecorder(sink, peak_bytes=request.runtime.peak_bytes)
    if destination.stream_hub and request.skeleton.stream is None:
        raise UsageError(not_streamed("this one was opened whole"))
    with open_journal(destination) as (journal, resume), computing(request, resume):
        if not destination.resume:
            check_output(destination.folder)
        prepared = prepare(
            request,
            sink=sink,
            max_memory=destination.max_memory,
            resume=resume,
            work_dir=destination.work_dir,
            journal=destination.journal,
        )
        if destination.resume:
            results = completed_results(destination.folder, prepared.plan)
            if results is not None:
                sink(StageStarted("resume", f"{destination.folder} is complete"))
                _clear(journal, sink)
                return _result(prepared, results, destination.folder)
            check_output(destination.folder)
        refuse_partial(prepared.plan, allowed=prepared.recipe.allow_partial)
        sessions = [
            dataclasses.replace(session, checkpoints=checkpoints or choose_checkpoints(session))
            for session in _open_sessions(prepared, destination, journal, resume, sink)
        ]
        blocks = len(prepared.plan.blocks)
        noun = "block" if blocks == 1 else "blocks"
        sink(StageStarted("tune", f"{blocks} {noun} on {prepared.plan.device}"))
        try:
            result = write_passes(prepared, sessions, destination.folder, recorder=recorder)
        except OSError as error:
            # Wherever a full disk is met: side files, reports, the last rename.
            raise OutputError(f"{destination.folder} cannot be written: {error}") from error
        except RuntimeError as error:
            refuse_full_memory(error, request.runtime)
            raise
        _clear(journal, sink)
        return result


def _clear(journal: Journal, sink: Sink) -> None:
    """Delete the journal of an output that is complete; that it stays is no failure of the run."""
    try:
        journal.clear()
    except OutputError as error:
        sink(Warned(f"the output is complete, and what is left of the run can be deleted: {error}"))


def _open_sessions(
    prepared: Prepared,
    destination: Destination,
    journal: Journal,
    resume: ResumeState | None,
    sink: Sink,
) -> list[Session]:
    """Open a session for each pass, with a store for its blocks where the disk has room."""
    request, estimate = prepared.request, prepared.estimate
    passes = (prepared.plan, *prepared.plan.passes[1:])
    check_room(destination.folder, estimate.disk_bytes)
    stream, hub = request.skeleton.stream, request.skeleton.hub
    check_streaming(resume, streamed=stream is not None)
    if stream is not None and hub is not None:
        check_cache_room(hub.folder, destination.folder, estimate)
    request.skeleton.fetch_weights(sink)
    shard = prepared.recipe.output.max_shard_bytes
    stored = room_for_journal(destination, estimate, max_shard_bytes=shard)
    if destination.restart and not stored:
        journal.clear()
    if stored:
        tokens, fresh = prepared.calibration.tokens, prepared.calibration.fresh
        stores = open_stores(
            journal,
            fingerprint(prepared.plan, request.skeleton, tokens, fresh=fresh),
            resume,
            machine=machine_facts(request.runtime),
            passes=passes,
            allocation=prepared.allocation,
            sink=sink,
        )
    elif estimate.journal_bytes:
        sink(
            Warned(
                f"the disk has no room for the {estimate.journal_bytes / 1e9:.1f} GB that would "
                "keep what is done, so this run cannot be resumed when it is interrupted"
            )
        )
    return [
        Session(
            plan,
            request.skeleton,
            request.runtime,
            prepared.calibration.tokens,
            sink,
            store=stores[number] if stored else None,
            placement=Placement.of(estimate, stored=stored),
            tasks=choose_tasks(request.runtime),
            fresh=prepared.calibration.fresh,
        )
        for number, plan in enumerate(passes)
    ]


def quantize_pass(session: Session, deliver: Deliver) -> None:
    """Quantize the blocks of one pass in their order, then what lies outside them.

    Blocks that the store holds are read from it. Only one block's weights and tuning state are in
    memory at a time.

    Args:
        session: the pass.
        deliver: takes each finished unit; the next one is begun when it returns.
    """
    plan, store = session.plan, session.store
    session.skeleton.fetch_weights(session.sink)
    end_to_end = plan.tuning.end_to_end.steps > 0
    runner = make_runner(session)
    units = len(plan.blocks) + bool(session.non_block_layers)
    unfinished = store is None or store.done < units
    reads_data = session.tokens is not None and (unfinished or end_to_end)
    streams = open_streams(session, runner) if reads_data else None
    tuner = BlockTuner(session, runner, streams, BlockPrefetcher(session))
    finished: list[BlockOutput] = []
    for block in plan.blocks:
        if block.index < session.finished_blocks:
            _replay(tuner, block, None if end_to_end else deliver)
            continue
        output = tuner.tune(block)
        if store is not None or not end_to_end:
            output = pack_unit(session, output)
        if store is not None:
            commit_unit(session, output, streams, names=_streams_after(session, block.index))
        session.sink(BlockDone(output.result, len(plan.blocks)))
        if not end_to_end:
            deliver(output)
        elif store is None:
            # All blocks together are more than a device holds.
            finished.append(output.on(torch.device("cpu")))
        del output  # its numbers, which may be the device's, would lie beside the next block
        session.runtime.release()
    # Records are read from here on, and the files of the streams deleted.
    session.tasks.drain()
    if end_to_end and streams is not None:
        steps = plan.tuning.end_to_end.steps
        session.sink(StageStarted("end_to_end", f"{steps} steps over the whole model"))
        blocks = finished if store is None else ReplayedBlocks(session)
        for output in tune_end_to_end(session, runner, blocks, teacher=streams.teacher):
            deliver(output)
    if session.non_block_layers:
        if store is not None and store.done > len(plan.blocks):
            output = store.read(len(plan.blocks), {}, source=None)
        else:
            output = pack_unit(session, quantize_non_block_layers(session, runner, streams))
            if store is not None:
                commit_unit(session, output, None, names=())
        deliver(output)
    session.tasks.drain()
    if streams is not None and streams.files is not None and not end_to_end:
        streams.files.remove()


def _replay(tuner: BlockTuner, block: BlockPlan, deliver: Deliver | None) -> None:
    """Read a finished block for the writers, and run streams through it that it left none of."""
    session, streams = tuner.session, tuner.streams
    behind = streams is not None and block.index >= streams.blocks
    if deliver is None and not behind:
        return
    output = on_device(session, replay_block(session, block.index))
    if behind:
        assert session.store is not None
        assert streams is not None
        tuner.run_finished(block, output)
        names = _streams_after(session, block.index)
        # The next run that is stopped need not begin so far back.
        if names and block.index + 1 == session.finished_blocks:
            session.store.keep_streams(block.index, streams, names=names)
    if deliver is not None:
        deliver(output)


def _streams_after(session: Session, index: int) -> tuple[str, ...]:
    """Return the activation streams that anything reads after a block."""
    last = index + 1 == len(session.plan.blocks)
    if not last or session.tuning.tuned_head:
        return session.stream_names
    # The logits that end-to-end tuning matches are made of full-precision streams alone.
    left = session.stream_names if session.tuning.end_to_end.steps else ()
    return tuple(name for name in left if name != QUANTIZED)


def write_passes(
    prepared: Prepared,
    sessions: Sequence[Session],
    folder: Path,
    *,
    produce: Callable[[Session, Deliver], None] = quantize_pass,
    recorder: RunRecorder | None = None,
) -> RunResult:
    """Write the blocks of every pass as they come, then all around them; finish the folder.

    Args:
        prepared: what is run.
        sessions: the passes over the blocks, each with its own formats.
        folder: the output.
        produce: delivers the finished units of a pass.
        recorder: of the run, for its report; None for no report.
    """
    started = time.perf_counter()
    results: list[BlockResult] = []
    tuning_seconds, size = 0.0, 0
    formats = sum(len(session.plan.outputs) for session in sessions)
    with ExitStack() as stack:
        whole = stack.enter_context(Staging(folder)) if formats > 1 else None
        root = folder if whole is None else whole.staging
        shard = prepared.recipe.output.max_shard_bytes
        request = prepared.request
        target = OutputTarget(root, stack, request.tokenizer, shard, request.load)
        for number, session in enumerate(sessions, start=1):
            if len(sessions) > 1:
                names = ", ".join(part.format for part in session.plan.outputs)
                session.sink(StageStarted("pass", f"{number} of {len(sessions)}: {names}"))
            writers = [open_writer(session, part, target) for part in session.plan.outputs]
            tasks = session.tasks
            begun, done = time.perf_counter(), len(results)
            deliver = _deliver_to(writers, tasks, results)
            with ExitStack() as ending:
                # It has ended before a folder goes that it writes to.
                if isinstance(tasks, Behind):
                    ending.enter_context(tasks)
                produce(session, deliver)
            tuning_seconds += max(0.0, time.perf_counter() - begun)
            session.sink(StageStarted("write", str(folder)))
            _write_rest(prepared, session, writers, results[done:])
            checked = writers[0].check.description
            session.sink(StageStarted("verify", f"{checked} through the files read back"))
            for writer in writers:
                writer.complete()
            if recorder is not None:
                write_run_files(writers, session, _run_facts(prepared), recorder)
            size += sum(writer.publish() for writer in writers)
        if whole is not None:
            size = whole.publish()
    seconds = max(0.0, time.perf_counter() - started)
    sessions[0].sink(Finished(str(folder), seconds, size))
    return dataclasses.replace(
        _result(prepared, results, folder),
        seconds=seconds,
        tuning_seconds=tuning_seconds,
        disk_bytes=size,
    )


def _deliver_to(
    writers: Sequence[OutputWriter], tasks: TaskQueue, results: list[BlockResult]
) -> Deliver:
    """Return what packs units for some writers, and has the files written behind the tuning."""

    def deliver(output: BlockOutput) -> None:
        packed = [(writer, writer.pack(output)) for writer in writers]

        def write() -> None:
            for writer, tensors in packed:
                writer.write(tensors)

        tasks.put(write)
        results.append(output.result)

    return deliver


def _write_rest(
    prepared: Prepared,
    session: Session,
    writers: Sequence[OutputWriter],
    results: Sequence[BlockResult],
) -> None:
    """Hand over what lies outside the blocks, and the reports."""
    add_outside_blocks(session.skeleton, writers)
    texts = {
        "recipe.yaml": prepared.recipe.to_yaml(),
        "plan.json": to_json(plan_record(session.plan), indent=1) + "\n",
    }
    if prepared.allocation is not None:
        texts[ALLOCATION_FILE] = to_json(dict(prepared.allocation), indent=1) + "\n"
    lines = [to_json(dataclasses.asdict(result)) + "\n" for result in results]
    texts["report.jsonl"] = "".join(lines)
    for writer in writers:
        for name, text in texts.items():
            writer.add_text(name, text)


def _run_facts(prepared: Prepared) -> RunFacts:
    """Return what the file of a run says besides what was measured."""
    request = prepared.request
    return RunFacts(
        prepared.estimate,
        len(prepared.plan.all_outputs),
        in_memory=request.skeleton.folder is None,
        own_data=request.data is not None,
        describe=request.describe,
    )


def _result(prepared: Prepared, results: Sequence[BlockResult], folder: Path) -> RunResult:
    """Put the figures of a run together, but for its times."""
    return RunResult(
        output_dir=folder,
        plan=prepared.plan,
        blocks=tuple(results),
        seconds=0.0,
        tuning_seconds=0.0,
        peak_bytes=prepared.request.runtime.peak_bytes(),
        peak_reserved_bytes=prepared.request.runtime.peak_reserved_bytes(),
        disk_bytes=sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()),
        bits_per_weight=quantized_bits(prepared.plan),
    )

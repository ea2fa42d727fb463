"""Whether a run begins, goes on, or is refused: what an earlier one left decides."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from autoround._version import __version__
from autoround.device.protocol import Runtime
from autoround.errors import OutputError, UsageError
from autoround.events import Sink, StageStarted, Warned
from autoround.planning.hyperparameters import compiles_blocks
from autoround.recipe.schema import Recipe
from autoround.resume.fingerprint import differences, fingerprint, machine_facts
from autoround.resume.journal import Journal, blocks_in, journal_of, result_of
from autoround.session.session import Session
from autoround.storage.durable import existing_parent
from autoround.storage.json_text import to_json
from autoround.types import BlockResult, Destination, Estimate, Plan


class OtherRunError(OutputError):
    """What an interrupted run left is of another plan than the one that is to go on."""


@contextmanager
def journal_for(place: Destination) -> Iterator[tuple[Journal, Mapping[str, Any] | None]]:
    """Open what an earlier run left, if this one is to go on from it.

    Yields the journal, and what it says of its run. A journal without a finished block is
    deleted in the end; one with some stays, for ``resume``.

    Raises:
        UsageError: resume and restart are both asked for.
        OutputError: there is a journal, and neither is.
    """
    done = check_leftover(place)
    journal = Journal(place.folder, work_dir=place.work_dir)
    try:
        yield journal, journal.open() if place.resume and done else None
    finally:
        if not blocks_in(place.folder):
            journal.clear()
        journal.release()


def check_leftover(place: Destination) -> int:
    """Count the finished blocks that an earlier run left.

    Raises:
        UsageError: resume and restart are both asked for.
        OutputError: there are some, and neither is.
    """
    if place.resume and place.restart:
        raise UsageError("resume goes on and restart begins again: ask for one of them")
    done = blocks_in(place.folder)
    if done and not place.resume and not place.restart:
        raise OutputError(
            f"{journal_of(place.folder)} holds {done} finished {'block' if done == 1 else 'blocks'}"
            " of an interrupted run: go on with --resume, or throw them away with --restart"
        )
    return done


def with_measured_dtype(
    recipe: Recipe, plan: Plan, *, runtime: Runtime, about: Mapping[str, Any] | None
) -> Plan:
    """Take over the dtype that an interrupted run measured to be the fastest, and what follows."""
    if about is None or recipe.tuning.compute_dtype != "auto":
        return plan
    dtype = str(about["identity"]["compute dtype"])
    taken = [replace(one, compute_dtype=dtype) for one in plan.passes]
    first, *further = (replace(x, compiled=compiles_blocks(x, recipe, runtime)) for x in taken)
    return replace(first, further=tuple(further))


def attach_journal(
    passes: Sequence[Session],
    journal: Journal,
    about: Mapping[str, Any] | None,
    *,
    estimate: Estimate,
) -> list[Session]:
    """Give the jobs of all passes their parts of the journal.

    Raises:
        OutputError: the journal is of another run; the message says where they differ.
    """
    job = passes[0]
    identity = fingerprint(job)
    if about is None:
        allocation = {} if job.allocation is None else {"allocation": dict(job.allocation)}
        journal.create({"identity": identity, "machine": machine_facts(job), **allocation})
    else:
        # As it comes out of JSON: tuples have become lists.
        _check_same(about, json.loads(json.dumps(identity)), machine_facts(job), journal, job.sink)
    jobs = []
    for number, one in enumerate(passes, start=1):
        part = journal.of_pass(number)
        mapped, packed = estimate.streams_on_disk, estimate.codes_on_disk
        jobs.append(replace(one, journal=part, mapped=mapped, packed=packed))
        if part.done:
            blocks = len(one.plan.blocks)
            which = f" of pass {number}" if len(passes) > 1 else ""
            done = f"{min(part.done, blocks)} of {blocks} blocks{which} are done"
            job.sink(StageStarted("resume", done))
    return jobs


def _check_same(
    about: Mapping[str, Any],
    identity: Mapping[str, Any],
    machine: Mapping[str, Any],
    journal: Journal,
    sink: Sink,
) -> None:
    found = differences(about["identity"], identity)
    if found:
        raise OtherRunError(
            f"{journal.folder} is of another run, so it cannot go on:\n"
            + "\n".join(f"  {line}" for line in found)
            + "\nrun the command as it was begun, or throw its blocks away with --restart"
        )
    others = differences(about["machine"], machine)
    if others:
        sink(Warned(f"the last bits may differ from those of one run: {'; '.join(others)}"))


def check_rooms(place: Destination, job: Session, *, output: int, estimate: Estimate) -> bool:
    """Refuse disks without room for the output; tells whether a journal has room, too.

    Raises:
        OutputError: with both figures.
    """
    folder = existing_parent(place.folder)
    work = folder if place.work_dir is None else existing_parent(place.work_dir / "x")
    shard = min(job.recipe.output.max_shard_bytes, output)
    kept = estimate.journal_bytes
    needed, streams = output + shard, 2 * estimate.stream_bytes
    if not kept or os.stat(work).st_dev == os.stat(folder).st_dev:
        fits = shutil.disk_usage(folder).free >= needed + kept
    else:
        fits = shutil.disk_usage(folder).free >= needed + kept - streams
        fits = fits and shutil.disk_usage(work).free >= streams
    if not fits and kept and estimate.streams_on_disk:
        raise OutputError(
            f"output and journal need {(needed + kept) / 1e9:.2f} GB ({streams / 1e9:.2f} GB of "
            f"them for streams, in {work}), and {folder} has "
            f"{shutil.disk_usage(folder).free / 1e9:.2f} GB free"
        )
    return fits and kept > 0


def plan_record(plan: Plan) -> dict[str, Any]:
    """Return a plan as it is written beside an output."""
    return {"version": __version__, **dataclasses.asdict(plan)}


def completed_results(folder: Path, plan: Plan) -> list[BlockResult] | None:
    """Return the figures of an output that is complete and of this plan; None for any other."""
    results: list[BlockResult] = []
    for one in (plan, *plan.further):
        lines: list[str] = []
        for output in one.outputs:
            own = folder / output.folder
            try:
                found = json.loads((own / "plan.json").read_text(encoding="utf-8"))
                lines = (own / "report.jsonl").read_text(encoding="utf-8").splitlines()
            except (OSError, ValueError):
                return None
            if found != json.loads(to_json(plan_record(one))):
                return None
        results += [result_of(json.loads(line)) for line in lines]
    return results

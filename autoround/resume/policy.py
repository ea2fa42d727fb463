"""Whether a run begins, goes on, or is refused: what an earlier one left decides."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoround._version import __version__
from autoround.errors import OutputError, UsageError
from autoround.events import Sink, StageStarted, Warned
from autoround.export.preflight import check_name
from autoround.resume.fingerprint import (
    differences,
    is_of_streamed_model,
    plan_values,
    without_evaluation,
)
from autoround.resume.journal import (
    LOCK,
    Journal,
    PassJournal,
    blocks_in,
    journal_of,
    read_header,
)
from autoround.resume.records import UnusableJournalError, result_of
from autoround.settings import MachineSettings
from autoround.storage.json_text import to_json
from autoround.storage.lock import take_lock
from autoround.types import BlockResult, Destination, Plan


class OtherRunError(UnusableJournalError):
    """What an interrupted run left belongs to a different run."""


@dataclass(frozen=True, slots=True)
class ResumeState:
    """What the journal of an interrupted run says of it.

    fingerprint: everything its output bytes depend on. machine: what may change last bits only.
    allocation: what a bit budget was resolved to; None where the recipe had none.
    """

    fingerprint: Mapping[str, Any]
    machine: Mapping[str, Any]
    allocation: Mapping[str, Any] | None

    @property
    def machine_settings(self) -> MachineSettings:
        """The dtype that blocks ran in and the threads, settled by the machine or asked for."""
        fingerprint = self.fingerprint
        return MachineSettings(str(fingerprint["compute dtype"]), int(fingerprint["threads"]))

    @property
    def recipe(self) -> Mapping[str, Any]:
        """The recipe as it was run, a bit budget resolved."""
        recipe: Mapping[str, Any] = self.fingerprint["recipe"]
        return recipe


def parse_header(header: Mapping[str, Any]) -> ResumeState:
    """Build the state of an interrupted run from the header of its journal.

    Raises:
        UnusableJournalError: the header is damaged.
    """
    try:
        fingerprint, machine = dict(header["fingerprint"]), dict(header["machine"])
        known = {"compute dtype", "recipe"} <= fingerprint.keys()
        known &= isinstance(fingerprint.get("threads"), int) and fingerprint["threads"] > 0
        allocation = header.get("allocation")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UnusableJournalError(
            f"the journal's header is damaged ({error!r}); begin again with --restart"
        ) from error
    if not known or not isinstance(allocation, Mapping | None):
        raise UnusableJournalError("the journal's header is damaged; begin again with --restart")
    return ResumeState(fingerprint, machine, allocation)


@contextmanager
def open_journal(destination: Destination) -> Iterator[tuple[Journal, ResumeState | None]]:
    """Open what an earlier run left, if this one is to go on from it.

    A journal without a finished block is deleted in the end; one with some stays, for ``resume``.

    Args:
        destination: where the output goes, and whether to resume or restart.

    Yields:
        The journal, and what it says of its run.

    Raises:
        UsageError: resume and restart are both asked for.
        OutputError: there is a journal, and neither is.
    """
    done = check_leftover(destination)
    journal = Journal(destination.folder, work_dir=destination.work_dir)
    try:
        resumes = destination.resume and done
        yield journal, parse_header(journal.open()) if resumes else None
    finally:
        if not blocks_in(destination.folder):
            # What cannot be deleted is in nobody's way, and must not hide why the run ended.
            with suppress(OutputError):
                journal.clear()
        journal.release()


def check_leftover(destination: Destination) -> int:
    """Count the finished blocks that an earlier run left.

    Raises:
        UsageError: resume is asked for beside restart, or without a journal.
        OutputError: there are some, and neither is; another run is at work on them; or no folder
            can have that name.
    """
    if destination.resume and destination.restart:
        raise UsageError("resume goes on and restart begins again: ask for one of them")
    if destination.resume and not destination.journal:
        raise UsageError(
            "--resume goes on from a journal, and --no-journal (journal=False) keeps none: ask for "
            "one of them"
        )
    check_name(destination.folder)
    done = blocks_in(destination.folder)
    if done and not destination.resume and not destination.restart:
        _refuse_running(destination.folder)
        # Whoever is told to go on must be able to.
        read_header(journal_of(destination.folder))
        raise OutputError(
            f"{journal_of(destination.folder)} holds {done} finished "
            f"{'block' if done == 1 else 'blocks'} of an interrupted run: go on with --resume, "
            "or discard them with --restart"
        )
    return done


def check_streaming(resume: ResumeState | None, *, streamed: bool) -> None:
    """Refuse to go on with weights that come another way, before any are fetched.

    Args:
        resume: what is left of an interrupted run, if this one is to go on from it.
        streamed: whether this run streams its model from the hub.

    Raises:
        OtherRunError: one of the two runs does, and the other does not.
    """
    if resume is not None and is_of_streamed_model(resume.fingerprint) != streamed:
        way, remedy = ("without", "leave it out") if streamed else ("with", "add it")
        raise OtherRunError(
            f"the interrupted run was begun {way} --stream-hub: {remedy} to go on, or discard the "
            "finished blocks with --restart"
        )


def open_stores(
    journal: Journal,
    fingerprint: Mapping[str, Any],
    resume: ResumeState | None,
    *,
    machine: Mapping[str, Any],
    passes: Sequence[Plan],
    allocation: Mapping[str, Any] | None,
    sink: Sink,
) -> list[PassJournal]:
    """Begin or continue a journal; returns the part of each pass over the blocks.

    Args:
        journal: of the output.
        fingerprint: of this run.
        machine: what of this machine may change last bits.
        resume: what is left of an interrupted run, if this one is to go on from it.
        passes: the plans, one a pass.
        allocation: what a bit budget was resolved to, to be kept with the blocks.
        sink: is told what is done already.

    Raises:
        OtherRunError: the journal belongs to a different run; the message says where they differ.
    """
    if resume is None:
        kept = {} if allocation is None else {"allocation": dict(allocation)}
        header = {"fingerprint": fingerprint, "machine": machine, **kept}
        journal.create(header)
    else:
        # As it comes out of JSON: tuples have become lists.
        _check_same(resume, json.loads(json.dumps(fingerprint)), machine, journal, sink)
    stores = []
    for number, plan in enumerate(passes, start=1):
        store = journal.of_pass(number)
        stores.append(store)
        if store.done:
            blocks = len(plan.blocks)
            which = f" of pass {number}" if len(passes) > 1 else ""
            done = f"{min(store.done, blocks)} of {blocks} blocks{which} are done"
            sink(StageStarted("resume", done))
    return stores


def _check_same(
    resume: ResumeState,
    fingerprint: Mapping[str, Any],
    machine: Mapping[str, Any],
    journal: Journal,
    sink: Sink,
) -> None:
    changed = differences(resume.fingerprint, fingerprint)
    if changed:
        raise OtherRunError(
            f"{journal.folder} belongs to a different run; cannot resume:\n"
            + "\n".join(f"  {line}" for line in changed)
            + "\nrepeat the original command, or discard the finished blocks with --restart"
        )
    moved = differences(resume.machine, machine)
    if moved:
        sink(Warned(f"the last bits may differ from those of one run: {'; '.join(moved)}"))


def plan_record(plan: Plan) -> dict[str, Any]:
    """Return a plan as it is written beside an output."""
    return {"version": __version__, **plan_values(plan)}


def _same_record(record: Any, expected: dict[str, Any]) -> bool:
    """Tell whether two records are of one plan, whatever its threads and how it was judged."""
    return isinstance(record, dict) and not [
        line
        for line in differences(without_evaluation(record), without_evaluation(expected))
        if not line.partition(":")[0].endswith("tuning.threads")
    ]


def completed_results(folder: Path, plan: Plan) -> list[BlockResult] | None:
    """Return the figures of an output that is complete and of this plan; None for any other."""
    results: list[BlockResult] = []
    for one in (plan, *plan.further):
        lines: list[str] = []
        for output in one.outputs:
            part = folder / output.folder
            try:
                record = json.loads((part / "plan.json").read_text(encoding="utf-8"))
                lines = (part / "report.jsonl").read_text(encoding="utf-8").splitlines()
            except (OSError, ValueError):
                return None
            if not _same_record(record, json.loads(to_json(plan_record(one)))):
                return None
        # A report that was cut off is none of a complete output.
        if len(lines) < len(one.blocks):
            return None
        try:
            results += [result_of(json.loads(line)) for line in lines]
        except (ValueError, KeyError, TypeError, AttributeError):
            return None
    return results


def _refuse_running(output: Path) -> None:
    """Refuse an output whose journal another process works on."""
    folder = journal_of(output)
    os.close(take_lock(folder / LOCK, folder))
